"""Each loss against numbers worked out by hand, and against the plain losses of one domain after the other."""

import math

import pytest
import torch
from batches import given, plain_attention, plain_hidden, plain_prediction, plain_prototype, take, weights_of

from hrkd_cli.method import LOSSES, MASKED_LOGIT, DomainLosses, Labels, Need, Outputs, Projections, combine

BY_NAME = {loss.name: loss.compute for loss in LOSSES}
FULL, HALF = weights_of([[2]], 2), weights_of([[1]], 2)
HALF_PADDED = weights_of([[1]], 2, padded=True)


def loss_of(name, *args, **options):
    return BY_NAME[name](given(*args, **options)).squeeze().tolist()


def test_hidden_loss_is_the_mean_square_over_valid_tokens():
    teacher = torch.tensor([[[[1.0, 2.0], [9.0, 9.0]]]], dtype=torch.float64)
    student = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]]]], dtype=torch.float64)
    # Token 1: (1 + 4) / 2 = 2.5. Token 2: (81 + 81) / 2 = 81.
    assert loss_of("hidden", teacher, student, FULL) == pytest.approx((2.5 + 81) / 2)
    assert loss_of("hidden", teacher, student, HALF) == pytest.approx(2.5)
    assert loss_of("hidden", teacher, student, HALF_PADDED) == pytest.approx((2.5 + 81) / 2)


def scores(values):
    """Queries and keys of given scores, (1, 1, heads, T, T)."""
    queries = torch.tensor([[values]], dtype=torch.float64)
    return queries, torch.eye(2, dtype=torch.float64).expand_as(queries)


def test_attention_loss_counts_valid_pairs():
    student = scores([[[1.0, 5.0], [2.0, 7.0]], [[3.0, 5.0], [2.0, 7.0]]])  # two heads
    teacher = scores(torch.zeros(2, 2, 2).tolist())
    # All valid: squares 1 + 25 + 4 + 49 and 9 + 25 + 4 + 49 over 4 pairs x 2 heads.
    assert loss_of("attention", teacher, student, FULL) == pytest.approx((79 + 87) / 8)
    # One valid token: only the pair (0, 0) counts, squares 1 and 9 over 2 heads.
    assert loss_of("attention", teacher, student, HALF) == pytest.approx(5.0)
    # Released: the padded key is zeroed, the padded query is not, and all 8 positions divide.
    assert loss_of("attention", teacher, student, HALF_PADDED) == pytest.approx((1 + 4 + 9 + 4) / 8)


def test_different_numbers_of_heads_are_compared_by_relations():
    """Two student heads against four teacher heads: relations of two teacher heads, scores added, over sqrt(2)."""
    torch.manual_seed(0)
    teacher = tuple(torch.randn(1, 1, 4, 3, 5, dtype=torch.float64) for _ in range(2))
    student = tuple(torch.randn(1, 1, 2, 3, 7, dtype=torch.float64) for _ in range(2))
    found = loss_of("attention", teacher, student, weights_of([[3]], 3))
    theirs = (teacher[0] @ teacher[1].mT)[0, 0]
    wanted = torch.stack([theirs[0] + theirs[1], theirs[2] + theirs[3]]) / 2**0.5
    assert found == pytest.approx((wanted - (student[0] @ student[1].mT)[0, 0]).square().mean().item())


def test_prediction_loss_by_hand():
    one = weights_of([[1]], 1, dtype=torch.float32)
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4, 1/4
    student = torch.tensor([[0.0, 0.0]])  # 1/2, 1/2
    assert loss_of("prediction", teacher, student, one, mean_classes=2) == pytest.approx(math.log(2) / 2)
    # At temperature 2 the teacher's probabilities are sqrt(3) : 1, the student's stay even; there is no factor t^2.
    found = loss_of("prediction", teacher, student, one, mean_classes=2, temperature=2.0)
    assert found == pytest.approx(math.log(2) / 2)
    student = torch.tensor([[math.log(4.0), 0.0]])  # 4/5, 1/5; at t = 2: 2/3, 1/3
    root = math.sqrt(3)
    expected = (root / (root + 1) * math.log(3 / 2) + 1 / (root + 1) * math.log(3)) / 2
    found = loss_of("prediction", teacher, student, one, mean_classes=2, temperature=2.0)
    assert found == pytest.approx(expected)


def test_class_weights_scale_the_classes_terms():
    logits, weights = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]])
    one = weights_of([[1]], 1, dtype=torch.float32)
    found = loss_of("prediction", logits, logits, one, mean_classes=2, class_weights=weights)
    assert found == pytest.approx(math.log(2))


def test_the_label_loss_is_the_mean_of_the_labelled_rows():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, -1.0]])
    labels = Labels(torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.5, 0.0]))
    weights = weights_of([[1, 1], [1]], 1, dtype=torch.float32)
    cross = -logits.log_softmax(dim=1)
    found = loss_of("label", logits, logits, weights, labels=labels)
    assert found == pytest.approx([(cross[0, 0] + cross[1, 1]).item() / 2, 0.0])
    classes = torch.tensor([[4.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    found = loss_of("label", logits, logits, weights, labels=labels, class_weights=classes)
    assert found[0] == pytest.approx((4 * cross[0, 0] + 2 * cross[1, 1]).item() / 2)


LENGTHS = ((5, 2, 7), (3, 7), (7,))  # rows of three domains, padded to 7 tokens
LAYERS, HEADS, TOKENS = 2, 3, 7
CLASSES = (2, 3, 2)
MEAN_CLASSES = sum(CLASSES) / len(CLASSES)
RATIOS = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
WEIGHTS = {"hidden": 1.0, "attention": 0.7, "prediction": 1.0}
ROWS = range(sum(map(len, LENGTHS)))


class Step:
    """Random outputs of all rows."""

    def __init__(self):
        torch.manual_seed(1)

        def tensors(count, *shape):
            return torch.randn(count, len(ROWS), *shape, dtype=torch.float64)

        self.hidden = tensors(LAYERS + 1, TOKENS, 6).requires_grad_()
        self.queries, self.keys = (tensors(LAYERS, HEADS, TOKENS, 2).requires_grad_() for _ in range(2))
        self.logits = tensors(1, max(CLASSES))[0].requires_grad_()
        self.projections = Projections(6, 10, LAYERS).double()
        qk = (tensors(LAYERS, HEADS, TOKENS, 4) for _ in range(2))
        self.teacher = Outputs(tensors(LAYERS + 1, TOKENS, 10), *qk, tensors(1, max(CLASSES))[0])
        domains = [d for d, rows in enumerate(LENGTHS) for _ in rows]
        self.absent = torch.arange(max(CLASSES)) >= torch.tensor([CLASSES[d] for d in domains])[:, None]

    def inputs(self):
        return [self.hidden, self.queries, self.keys, self.logits, *self.projections.parameters()]

    def losses(self, weights, rows=ROWS):
        """Losses and prototypes of some rows."""
        rows = list(rows)
        student, teacher = (
            Outputs(o.hidden[:, rows], o.queries[:, rows], o.keys[:, rows], logits[rows])
            for o, logits in (
                (Outputs(self.projections(self.hidden), self.queries, self.keys, None), self.masked(self.logits)),
                (self.teacher, self.masked(self.teacher.logits)),
            )
        )
        own = take(weights, rows)
        both = given(teacher, student, own, temperature=2.0, mean_classes=MEAN_CLASSES)
        losses = {loss.name: loss.compute(both) for loss in LOSSES if Need.LABELS not in loss.needs}
        return DomainLosses(losses, self.projections.prototypes(self.hidden[:, rows], own))

    def masked(self, logits):
        return logits.masked_fill(self.absent, MASKED_LOGIT)

    def plain(self, *, padded):
        """The same, domain after domain."""
        projected, first, columns = self.projections(self.hidden), 0, []
        for classes, lengths in zip(CLASSES, LENGTHS, strict=True):
            part = slice(first, first + len(lengths))
            first += len(lengths)
            mask = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]
            own, theirs = (
                [q[part] @ k[part].mT for q, k in zip(queries, keys, strict=True)]
                for queries, keys in ((self.queries, self.keys), (self.teacher.queries, self.teacher.keys))
            )
            both = zip(self.teacher.hidden, projected, strict=True)
            logits = (t[part, :classes] for t in (self.teacher.logits, self.logits))
            columns.append(
                {
                    "hidden": torch.stack([plain_hidden(t[part], s[part], mask, padded=padded) for t, s in both]),
                    "attention": torch.stack(
                        [plain_attention(t, s, mask, padded=padded) for t, s in zip(theirs, own, strict=True)]
                    ),
                    "prediction": plain_prediction(*logits, temperature=2.0, mean_classes=MEAN_CLASSES),
                    "prototypes": torch.stack([plain_prototype(s[part], mask, padded=padded) for s in projected]),
                }
            )
        found = {n: torch.stack([c[n] for c in columns], dim=1) for n in ("hidden", "attention", "prototypes")}
        prototypes = found.pop("prototypes")
        return DomainLosses({**found, "prediction": torch.stack([c["prediction"] for c in columns])}, prototypes)


@pytest.mark.parametrize("padded", [False, True])
def test_all_domains_at_once_equal_one_after_the_other(padded):
    step = Step()
    found, expected = step.losses(weights_of(LENGTHS, TOKENS, padded=padded)), step.plain(padded=padded)
    assert found.losses.keys() == expected.losses.keys()
    for name, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.prototypes, expected.prototypes, rtol=1e-12, atol=1e-12)
    gradients = []
    for side in (found, expected):
        # The prototypes have gradients too: they steer the graph.
        total = sum(combine(side.losses, RATIOS, WEIGHTS).values()) + side.prototypes.square().sum()
        gradients.append(torch.autograd.grad(total, step.inputs(), retain_graph=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_parts_of_the_rows_add_up():
    step, weights = Step(), weights_of(LENGTHS, TOKENS)
    whole, parts = step.losses(weights), step.losses(weights, [0, 3, 5]) + step.losses(weights, [1, 2, 4])
    for name, loss in whole.losses.items():
        torch.testing.assert_close(parts.losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.prototypes, whole.prototypes, rtol=1e-12, atol=1e-12)


def test_padding_reaches_neither_loss_nor_gradient():
    """Anything may stand at a teacher's padding; a student's queries and keys are numbers there."""
    step, weights = Step(), weights_of(LENGTHS, TOKENS)
    expected = step.losses(weights)
    step.teacher.hidden[:, ~weights.keys] = float("nan")
    for tensor in (step.teacher.queries, step.teacher.keys):
        tensor.transpose(2, 3)[:, ~weights.keys] = float("nan")
    for tensor in (step.queries, step.keys):
        tensor.data.transpose(2, 3)[:, ~weights.keys] = 1e4
    found = step.losses(weights)
    for name, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[name], loss)
    total = found.losses["attention"].sum() + found.losses["hidden"].sum()
    for gradient in torch.autograd.grad(total, [step.queries, step.keys]):
        assert torch.isfinite(gradient).all()
        assert not gradient.transpose(2, 3)[:, ~weights.keys].any()
    assert not torch.autograd.grad(found.losses["hidden"].sum(), step.hidden)[0][:, ~weights.keys].any()


def test_bf16_losses_are_those_of_the_same_numbers_in_float32():
    """Losses and gradients are off by the rounding of one difference."""
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, 4, 7, 6).bfloat16() for _ in range(4)]
    states = [torch.randn(3, 3, 7, 8).bfloat16() for _ in range(2)]
    weights = weights_of([[7], [4], [5]], 7, dtype=torch.float32)
    states[0].masked_fill_(~weights.keys[:, :, None], float("nan"))
    for theirs in tensors[:2]:
        theirs.masked_fill_(~weights.keys[:, None, :, None], float("nan"))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        teacher = Outputs(*(t.to(dtype) for t in (states[0], *tensors[:2])), None)
        own = [t.to(dtype).requires_grad_() for t in (states[1], *tensors[2:])]
        both = given(teacher, Outputs(*own, None), weights)
        losses = [BY_NAME[name](both) for name in ("hidden", "attention")]
        gradients = torch.autograd.grad(losses[0].sum() + 2 * losses[1].sum(), own)
        found.append((*losses, *(g.float() for g in gradients)))
    for short, whole in zip(*found, strict=True):
        torch.testing.assert_close(short, whole, rtol=2e-2, atol=2e-2 * whole.abs().max().item())
