"""The losses of a whole step at once equal those of one domain after the other, and the released code's."""

import pytest
import torch
from test_golden import CASES, Case, distance

from hrkd_cli.method import (
    ABSENT,
    Labels,
    Projections,
    Shares,
    Signals,
    StudentSignals,
    TeacherSignals,
    batch_terms,
    combine,
    domain_terms,
    label_terms,
)

LENGTHS = ((5, 2, 7), (3, 7), (7,))  # rows of three domains, padded to 7 tokens
LAYERS, HEADS, TOKENS = 2, 3, 7
CLASSES = (2, 3, 2)


def shares_of(lengths, *, padded=False, dtype=torch.float64):
    """Shares of a whole batch, written out row by row."""
    rows = [(d, n) for d, domain in enumerate(lengths) for n in domain]
    domains = torch.zeros(len(lengths), len(rows), dtype=dtype)
    tokens = torch.zeros(len(rows), TOKENS, dtype=dtype)
    per_row, pairs = torch.zeros(len(rows), dtype=dtype), torch.zeros(len(rows), dtype=dtype)
    keys = torch.zeros(len(rows), TOKENS, dtype=torch.bool)
    for r, (d, n) in enumerate(rows):
        domains[d, r] = 1
        count = len(lengths[d])
        per_row[r] = 1 / count
        keys[r, :n] = True
        tokens[r, : TOKENS if padded else n] = 1 / (count * TOKENS if padded else sum(lengths[d]))
        pairs[r] = 1 / (count * TOKENS**2 if padded else sum(m * m for m in lengths[d]))
    return Shares(domains, per_row, tokens, pairs, None if padded else keys, keys)


class Batch:
    """Random signals of all rows, and the same cut by domain."""

    def __init__(self, *, student_width, teacher_width, heads_width=(2, 4), dtype=torch.float64):
        torch.manual_seed(1)
        rows = sum(len(domain) for domain in LENGTHS)

        def tensors(count, *shape, grad=False):
            return torch.randn(count, rows, *shape, dtype=dtype).requires_grad_(grad)

        own, theirs = heads_width
        self.student_hidden = tensors(LAYERS + 1, TOKENS, student_width, grad=True)
        self.teacher_hidden = tensors(LAYERS + 1, TOKENS, teacher_width)
        self.student_qk = tensors(2 * LAYERS, HEADS, TOKENS, own, grad=True)
        self.teacher_qk = tensors(2 * LAYERS, HEADS, TOKENS, theirs)
        self.projections = Projections(student_width, teacher_width, LAYERS).to(dtype)
        self.student_logits, self.teacher_logits = torch.randn(2, rows, max(CLASSES), dtype=dtype)
        self.student_logits.requires_grad_()
        first = 0
        self.slices = []
        for domain in LENGTHS:
            self.slices.append(slice(first, first + len(domain)))
            first += len(domain)

    def inputs(self):
        return [self.student_hidden, self.student_qk, self.student_logits, *self.projections.parameters()]

    def batched(self, *, padded):
        shares = shares_of(LENGTHS, padded=padded)
        absent = torch.zeros_like(self.teacher_logits, dtype=torch.bool)
        for part, classes in zip(self.slices, CLASSES, strict=True):
            absent[part, classes:] = True
        query, key = self.teacher_qk[:LAYERS], self.teacher_qk[LAYERS:]
        teacher = TeacherSignals(
            self.teacher_hidden, query, key, self.teacher_logits.masked_fill(absent, ABSENT)
        )  # fmt: skip
        logits = self.student_logits.masked_fill(absent, ABSENT)
        student = StudentSignals(
            self.student_hidden, self.projections(self.student_hidden), self.student_qk[:LAYERS],
            self.student_qk[LAYERS:], logits,
        )  # fmt: skip
        return batch_terms(
            teacher, student, shares, self.projections, temperature=2.0, mean_classes=sum(CLASSES) / len(CLASSES)
        )

    def one_by_one(self, *, padded):
        projected = self.projections(self.student_hidden)
        terms = []
        for part, classes, lengths in zip(self.slices, CLASSES, LENGTHS, strict=True):
            mask = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]
            sides = []
            for hidden, qk, logits in (
                (self.teacher_hidden, self.teacher_qk, self.teacher_logits),
                (projected, self.student_qk, self.student_logits),
            ):
                scores = [q[part] @ k[part].mT for q, k in zip(qk[:LAYERS], qk[LAYERS:], strict=True)]
                sides.append(Signals([h[part] for h in hidden], scores, logits[part, :classes]))
            mean = sum(CLASSES) / len(CLASSES)
            terms.append(domain_terms(*sides, mask, temperature=2.0, mean_classes=mean, padded=padded))
        return terms


RATIOS = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("heads_width", [(1, 1), (8, 9)], ids=["by-grams", "by-scores"])
def test_equal_to_one_domain_after_the_other(padded, heads_width):
    batch = Batch(student_width=6, teacher_width=10, heads_width=heads_width)
    found, expected = batch.batched(padded=padded), batch.one_by_one(padded=padded)
    prototypes = torch.stack([t.prototypes for t in expected], dim=1)
    torch.testing.assert_close(found.prototypes, prototypes, rtol=1e-12, atol=1e-12)
    # The prototypes have gradients too: they steer the graph.
    losses = [combine(t, RATIOS, attention_weight=0.7).total + p.square().sum() for t, p in (
        (found, found.prototypes), (expected, prototypes)
    )]  # fmt: skip
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, batch.inputs(), retain_graph=True) for loss in losses]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_parts_of_the_rows_add_up():
    batch = Batch(student_width=6, teacher_width=10)
    whole, shares = batch.batched(padded=False), shares_of(LENGTHS)
    sums = None
    for rows in ([0, 3, 5], [1, 2, 4]):
        part = Shares(
            shares.domains[:, rows], shares.rows[rows], shares.tokens[rows], shares.pairs[rows],
            shares.counted[rows], shares.keys[rows],
        )  # fmt: skip
        take = [t[:, rows] for t in (batch.teacher_hidden, batch.teacher_qk)]
        own = [t[:, rows] for t in (batch.student_hidden, batch.student_qk)]
        absent = torch.tensor([False, False, True]) & ~torch.tensor([r in (3, 4) for r in rows])[:, None]
        logits = [t[rows].masked_fill(absent, ABSENT) for t in (batch.teacher_logits, batch.student_logits)]
        terms = batch_terms(
            TeacherSignals(take[0], take[1][:LAYERS], take[1][LAYERS:], logits[0]),
            StudentSignals(own[0], batch.projections(own[0]), own[1][:LAYERS], own[1][LAYERS:], logits[1]),
            part,
            batch.projections,
            temperature=2.0,
            mean_classes=sum(CLASSES) / len(CLASSES),
        )
        found = [terms.hidden, terms.attention, terms.prediction, terms.prototypes]
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    for part, expected in zip(sums, (whole.hidden, whole.attention, whole.prediction, whole.prototypes), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_what_stands_in_padding_reaches_neither_loss_nor_gradient():
    batch = Batch(student_width=6, teacher_width=10)
    keys = shares_of(LENGTHS).keys
    for tensor in (batch.student_hidden, batch.teacher_hidden):
        tensor.data[:, ~keys] = float("nan")
    for tensor in (batch.student_qk, batch.teacher_qk):
        tensor.data.transpose(2, 3)[:, ~keys] = float("nan")
    terms = batch.batched(padded=False)
    for value in (terms.hidden, terms.attention):
        assert torch.isfinite(value).all()
    for gradient in torch.autograd.grad(terms.attention.sum() + terms.hidden.sum(), [batch.student_qk]):
        assert torch.isfinite(gradient).all()


def test_logits_only_needs_nothing_else():
    batch = Batch(student_width=6, teacher_width=10)
    teacher = TeacherSignals(None, None, None, batch.teacher_logits)
    student = StudentSignals(None, None, None, None, batch.student_logits)
    terms = batch_terms(teacher, student, shares_of(LENGTHS), None, mean_classes=3)
    assert terms.hidden.shape == (0, 3)
    assert terms.prediction.shape == (3,)
    loss = combine(terms, torch.full((0, 3), 1 / 3), prediction_weight=3)
    torch.testing.assert_close(loss.total, terms.prediction.sum())


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden_batched(path):
    """The released code's numbers once more: its scores stand in as queries, against keys of the identity."""
    case = Case(path, torch.float64)

    def side(name, every):
        signals = [case.signals(d, name, every=every) for d in case.domains]
        masks = [case.tensors[f"{d}.padding_mask"] == 0 for d in case.domains]
        hidden = torch.stack([torch.cat(rows) for rows in zip(*(s.hidden for s in signals), strict=True)])
        scores = torch.stack([torch.cat(rows) for rows in zip(*(s.scores for s in signals), strict=True)])
        keys = torch.eye(scores.shape[-1], dtype=scores.dtype).expand_as(scores)
        return hidden, scores, keys, torch.cat([s.logits for s in signals]), torch.cat(masks)

    hidden, scores, keys, logits, mask = side("teacher", case.interval)
    own_hidden, own_scores, own_keys, own_logits, _ = side("student", 1)
    rows, tokens = mask.shape
    per_domain = rows // len(case.domains)
    one = torch.ones(rows, dtype=torch.float64) / per_domain
    shares = Shares(
        torch.eye(len(case.domains), dtype=torch.float64).repeat_interleave(per_domain, dim=1),
        one, one[:, None].expand(rows, tokens) / tokens, one / tokens**2, None, mask,
    )  # fmt: skip
    terms = batch_terms(
        TeacherSignals(hidden, scores, keys, logits),
        StudentSignals(own_hidden, own_hidden, own_scores, own_keys, own_logits),
        shares,
        None,
        temperature=float(case.meta["temperature"]),
        mean_classes=logits.shape[1],
    )
    graph = case.graph()
    ratios = graph(terms.prototypes).domain if graph else None
    weights = {"hidden_weight": float(case.meta["hidden_weight"])}
    loss = combine(terms, ratios, prediction_weight=float(case.meta["prediction_weight"]), **weights).total
    assert distance(loss.detach().reshape(1), case.tensors["expected.loss"]) <= 1e-8
    if ratios is not None:
        assert distance(ratios.detach(), case.tensors["expected.domain_ratios"]) <= 1e-8
    gradients = torch.autograd.grad(loss, list(case.inputs.values()))
    for name, gradient in zip(case.inputs, gradients, strict=True):
        assert distance(gradient, case.tensors[f"expected.grad.{name}"]) <= 1e-8, name


def test_short_differences_are_those_of_the_same_numbers_in_float32():
    """bf16 losses and gradients against float32 on equal values: off by the rounding of one difference.

    What a teacher shows at padding may be anything, also not a number: kept outputs leave it as memory was.
    """
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, 4, 7, 6).bfloat16() for _ in range(4)]
    states = [torch.randn(3, 3, 7, 8).bfloat16() for _ in range(2)]
    valid = torch.arange(7) < torch.tensor([[7], [4], [5]])
    states[0].masked_fill_(~valid[:, :, None], float("nan"))
    for kept in tensors[:2]:
        kept.masked_fill_(~valid[:, None, :, None], float("nan"))
    shares = Shares(
        torch.eye(3), torch.ones(3), valid / valid.sum(dim=1, keepdim=True), valid.sum(dim=1) ** -2.0, valid, valid
    )
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        theirs, mine = [t.to(dtype) for t in tensors[:2]], [t.to(dtype).requires_grad_() for t in tensors[2:]]
        state = states[1].to(dtype).requires_grad_()
        teacher = TeacherSignals(states[0].to(dtype), *theirs, torch.zeros(3, 2))
        student = StudentSignals(state, state, *mine, torch.zeros(3, 2))
        terms = batch_terms(teacher, student, shares, None, mean_classes=2)
        gradients = torch.autograd.grad((terms.hidden + 2 * terms.attention).sum(), (state, *mine))
        found.append((terms.hidden, terms.attention, *(g.float() for g in gradients)))
    for short, whole in zip(*found, strict=True):
        torch.testing.assert_close(short, whole, rtol=2e-2, atol=2e-2 * whole.abs().max().item())


def test_different_numbers_of_heads_are_compared_by_relations():
    """Two student heads against four teacher heads: relations of two teacher heads, scores added, over sqrt(2)."""
    torch.manual_seed(0)
    teacher_query, teacher_key = (torch.randn(1, 1, 4, 3, 5) for _ in range(2))
    query, key = (torch.randn(1, 1, 2, 3, 7) for _ in range(2))
    ones = torch.ones(1, 3)
    shares = Shares(torch.ones(1, 1), torch.ones(1), ones / 3, torch.tensor([1 / 9]), None, None)
    states = torch.zeros(2, 1, 3, 4)
    teacher = TeacherSignals(states, teacher_query, teacher_key, torch.zeros(1, 2))
    student = StudentSignals(states, states, query, key, torch.zeros(1, 2))
    found = batch_terms(teacher, student, shares, None, mean_classes=2).attention[1, 0]
    scores = (teacher_query @ teacher_key.mT)[0, 0]
    wanted = torch.stack([scores[0] + scores[1], scores[2] + scores[3]]) / 2**0.5
    assert found.item() == pytest.approx((wanted - (query @ key.mT)[0, 0]).square().mean().item(), rel=1e-5)


def test_the_label_loss_is_the_mean_of_the_labelled_rows():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, -1.0]])
    labels = Labels(torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.5, 0.0]))
    domains = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    cross = -logits.log_softmax(dim=1)
    found = label_terms(logits, labels, domains, None)
    torch.testing.assert_close(found, torch.stack([(cross[0, 0] + cross[1, 1]) / 2, torch.tensor(0.0)]))
    weights = torch.tensor([[4.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    found = label_terms(logits, labels, domains, weights)
    torch.testing.assert_close(found[0], (4 * cross[0, 0] + 2 * cross[1, 1]) / 2)
