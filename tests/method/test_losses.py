"""All losses of a step at once: against the plain losses of one domain after the other, in parts, and in bf16."""

import pytest
import torch

from hrkd_cli.method import (
    LOSSES,
    MASKED_LOGIT,
    DomainLosses,
    Outputs,
    Projections,
    weighted_terms,
)
from plain_losses import (
    COMPUTE,
    loss_inputs,
    mean_weights,
    plain_attention,
    plain_domain,
    plain_hidden,
    plain_prediction,
    plain_prototype,
    take,
)

LENGTHS = ((5, 2, 7), (3, 7), (7,))  # rows of three domains, padded to 7 tokens
LAYERS, HEADS, TOKENS = 2, 3, 7
CLASSES = (2, 3, 2)
MEAN_CLASSES = sum(CLASSES) / len(CLASSES)
RATIOS = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
WEIGHTS = {"hidden": 1.0, "attention": 0.7, "prediction": 1.0, "domain": 0.3}
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
        self.domain_logits = tensors(1, len(LENGTHS))[0].requires_grad_()
        self.projections = Projections(6, 10, LAYERS).double()
        qk = (tensors(LAYERS, HEADS, TOKENS, 4) for _ in range(2))
        logits = (tensors(1, size)[0] for size in (max(CLASSES), len(LENGTHS)))
        self.teacher = Outputs(tensors(LAYERS + 1, TOKENS, 10), *qk, *logits)
        domains = [d for d, rows in enumerate(LENGTHS) for _ in rows]
        self.absent = torch.arange(max(CLASSES)) >= torch.tensor([CLASSES[d] for d in domains])[:, None]

    def inputs(self):
        student = [self.hidden, self.queries, self.keys, self.logits, self.domain_logits]
        return [*student, *self.projections.parameters()]

    def losses(self, weights, rows=ROWS):
        """Losses and prototypes of some rows."""
        rows = list(rows)
        student, teacher = (
            Outputs(o.hidden[:, rows], o.queries[:, rows], o.keys[:, rows], logits[rows], domain_logits[rows])
            for o, logits, domain_logits in (
                (
                    Outputs(self.projections(self.hidden), self.queries, self.keys, None),
                    self.masked(self.logits),
                    self.domain_logits,
                ),
                (self.teacher, self.masked(self.teacher.logits), self.teacher.domain_logits),
            )
        )
        part_weights = take(weights, rows)
        inputs = loss_inputs(teacher, student, part_weights, temperature=2.0, mean_classes=MEAN_CLASSES)
        losses = {loss.name: loss.compute(inputs) for loss in LOSSES if loss.name in WEIGHTS}
        return DomainLosses(losses, self.projections.prototypes(self.hidden[:, rows], part_weights))

    def masked(self, logits):
        return logits.masked_fill(self.absent, MASKED_LOGIT)

    def plain(self, *, padded):
        """The same, domain after domain."""
        projected, first, columns = self.projections(self.hidden), 0, []
        for domain, (classes, lengths) in enumerate(zip(CLASSES, LENGTHS, strict=True)):
            part = slice(first, first + len(lengths))
            first += len(lengths)
            mask = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]
            student_scores, teacher_scores = (
                [q[part] @ k[part].mT for q, k in zip(queries, keys, strict=True)]
                for queries, keys in ((self.queries, self.keys), (self.teacher.queries, self.teacher.keys))
            )
            hidden_pairs = zip(self.teacher.hidden, projected, strict=True)
            logits = (t[part, :classes] for t in (self.teacher.logits, self.logits))
            domain_logits = (t[part] for t in (self.teacher.domain_logits, self.domain_logits))
            columns.append(
                {
                    "hidden": torch.stack(
                        [plain_hidden(t[part], s[part], mask, padded=padded) for t, s in hidden_pairs]
                    ),
                    "attention": torch.stack(
                        [
                            plain_attention(t, s, mask, padded=padded)
                            for t, s in zip(teacher_scores, student_scores, strict=True)
                        ]
                    ),
                    "prediction": plain_prediction(*logits, temperature=2.0, mean_classes=MEAN_CLASSES),
                    "domain": plain_domain(*domain_logits, domain),
                    "prototypes": torch.stack([plain_prototype(s[part], mask, padded=padded) for s in projected]),
                }
            )
        stacked = {n: torch.stack([c[n] for c in columns], dim=1) for n in ("hidden", "attention", "prototypes")}
        prototypes = stacked.pop("prototypes")
        by_domain = {name: torch.stack([c[name] for c in columns]) for name in ("prediction", "domain")}
        return DomainLosses({**stacked, **by_domain}, prototypes)


@pytest.mark.parametrize("padded", [False, True])
def test_losses_of_all_domains_at_once_equal_those_of_one_domain_after_the_other(padded):
    step = Step()
    actual, expected = step.losses(mean_weights(LENGTHS, TOKENS, padded=padded)), step.plain(padded=padded)
    assert actual.losses.keys() == expected.losses.keys()
    for name, loss in expected.losses.items():
        torch.testing.assert_close(actual.losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual.prototypes, expected.prototypes, rtol=1e-12, atol=1e-12)
    gradients = []
    for side in (actual, expected):
        # The prototypes have gradients too, through the ratios.
        total = sum(weighted_terms(side.losses, RATIOS, WEIGHTS).values()) + side.prototypes.square().sum()
        gradients.append(torch.autograd.grad(total, step.inputs(), retain_graph=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_losses_of_parts_of_a_step_add_up():
    step, weights = Step(), mean_weights(LENGTHS, TOKENS)
    whole, parts = step.losses(weights), step.losses(weights, [0, 3, 5]) + step.losses(weights, [1, 2, 4])
    for name, loss in whole.losses.items():
        torch.testing.assert_close(parts.losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.prototypes, whole.prototypes, rtol=1e-12, atol=1e-12)


def test_padding_affects_neither_loss_nor_gradient():
    """A teacher may have NaN at padding; a student's queries and keys are finite there."""
    step, weights = Step(), mean_weights(LENGTHS, TOKENS)
    expected = step.losses(weights)
    step.teacher.hidden[:, ~weights.key_mask] = float("nan")
    for tensor in (step.teacher.queries, step.teacher.keys):
        tensor.transpose(2, 3)[:, ~weights.key_mask] = float("nan")
    for tensor in (step.queries, step.keys):
        tensor.data.transpose(2, 3)[:, ~weights.key_mask] = 1e4
    actual = step.losses(weights)
    for name, loss in expected.losses.items():
        torch.testing.assert_close(actual.losses[name], loss)
    total = actual.losses["attention"].sum() + actual.losses["hidden"].sum()
    for gradient in torch.autograd.grad(total, [step.queries, step.keys]):
        assert torch.isfinite(gradient).all()
        assert not gradient.transpose(2, 3)[:, ~weights.key_mask].any()
    assert not torch.autograd.grad(actual.losses["hidden"].sum(), step.hidden)[0][:, ~weights.key_mask].any()


def test_bf16_losses_are_those_of_the_same_numbers_in_float32():
    """Losses and gradients differ by the rounding of one difference."""
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, 4, 7, 6).bfloat16() for _ in range(4)]
    states = [torch.randn(3, 3, 7, 8).bfloat16() for _ in range(2)]
    weights = mean_weights([[7], [4], [5]], 7, dtype=torch.float32)
    states[0].masked_fill_(~weights.key_mask[:, :, None], float("nan"))
    for tensor in tensors[:2]:
        tensor.masked_fill_(~weights.key_mask[:, None, :, None], float("nan"))
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        teacher = Outputs(*(t.to(dtype) for t in (states[0], *tensors[:2])), None)
        student = [t.to(dtype).requires_grad_() for t in (states[1], *tensors[2:])]
        inputs = loss_inputs(teacher, Outputs(*student, None), weights)
        losses = [COMPUTE[name](inputs) for name in ("hidden", "attention")]
        gradients = torch.autograd.grad(losses[0].sum() + 2 * losses[1].sum(), student)
        results.append((*losses, *(g.float() for g in gradients)))
    for bf16, fp32 in zip(*results, strict=True):
        torch.testing.assert_close(bf16, fp32, rtol=2e-2, atol=2e-2 * fp32.abs().max().item())
