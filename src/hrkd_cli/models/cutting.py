"""A smaller model out of a larger one of the same architecture: some of its layers, some of its dimensions.

The rule. Student layer l starts from teacher layer m(l), the layer that it will learn from. Where the student is
narrower, dimensions are kept by weight, all ranks by sums of squares over the teacher's weights, ties to the lower
index, the kept ones in their old order:

- hidden: the dimensions with the largest total over every matrix that reads or writes the hidden axis (one choice for
  the whole model, so that residual connections still add like to like);
- inside each attention head: for queries and keys the dimensions with the largest ``|q|^2 |k|^2``, for values and the
  output projection those with the largest ``|v|^2 |o|^2``;
- feed-forward: the neurons with the largest ``|in|^2 |out|^2``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hrkd_cli.errors import ModelError
from hrkd_cli.models.loading import output_layer
from hrkd_cli.models.sizes import sizes_of

LAYER = re.compile(r"(\.layers?\.)(\d+)(\.)")

# Architectures whose weights the names below describe.
NARROWED = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")

# Names of weights in BERT, RoBERTa, ELECTRA and DistilBERT by what their axes (out, in) are.
QUERY = re.compile(r"\.(query|q_lin)\.(weight|bias)$")
KEY = re.compile(r"\.(key|k_lin)\.(weight|bias)$")
VALUE = re.compile(r"\.(value|v_lin)\.(weight|bias)$")
ATTENTION_OUT = re.compile(r"\.attention\.(output\.dense|out_lin)\.weight$")
FFN_IN = re.compile(r"\.(intermediate\.dense|ffn\.lin1)\.(weight|bias)$")
FFN_OUT = re.compile(r"\.(?<!attention\.)(output\.dense|ffn\.lin2)\.weight$")


def cut_weights(teacher: Any, student: Any, layers: Sequence[int], outputs: Sequence[int | None]) -> dict[str, Tensor]:
    """Return first weights for ``student``.

    Args:
        teacher: classifier to cut from.
        student: classifier of the same architecture with fewer layers and perhaps less width; only its shapes matter,
            and its own (random) weights where the teacher has none of that name (a new head).
        layers: m(l) for l = 1..L, 1-based.
        outputs: for each output of the student, the teacher's output of the same meaning; None where it has none, and
            the student's row stays random.

    Raises:
        ModelError: the architecture cannot be narrowed; the message names the options that work.
    """
    source = {name: tensor.detach().cpu() for name, tensor in teacher.state_dict().items()}
    target = student.state_dict()
    kept = _Kept(teacher, student, source, layers)
    head, _ = output_layer(student)
    weights = {}
    for name, own in target.items():
        origin = _origin(name, layers)
        if origin not in source:
            # The first layer of some architectures lacks a norm that later ones have, or the other way round.
            weights[name] = own
            continue
        tensor = source[origin]
        if name.rpartition(".")[0] == head:
            # By meaning, not by number: the teacher's outputs may be more, fewer or in another order.
            known = [(row, origin_row) for row, origin_row in enumerate(outputs) if origin_row is not None]
            tensor = kept.narrow(origin, tensor, torch.Size((len(tensor), *own.shape[1:])))
            weights[name] = own.clone()
            for row, origin_row in known:
                weights[name][row] = tensor[origin_row]
            continue
        weights[name] = (tensor if tensor.shape == own.shape else kept.narrow(origin, tensor, own.shape)).clone()
    return weights


def take_head(teacher: Any, student: Any, outputs: Sequence[int | None]) -> bool:
    """Start the head of a pretrained student (all that is not its encoder, and the pooler) from its teacher's.

    Args:
        teacher: the teacher's classifier.
        student: a classifier of the same width and kind of head, changed in place; others keep their random head.
        outputs: see cut_weights.

    Returns:
        Whether the head was taken over.
    """
    head, _ = output_layer(student)
    body = {f"{student.base_model_prefix}.{name}" for name in student.base_model.state_dict() if "pooler" not in name}
    source, target = teacher.state_dict(), student.state_dict()
    names = [name for name in target if name not in body]
    inner = [name for name in names if name.rpartition(".")[0] != head]
    last = [name for name in names if name not in inner]
    fits = all(name in source and source[name].shape == target[name].shape for name in inner)
    if not fits or any(name not in source or source[name].shape[1:] != target[name].shape[1:] for name in last):
        return False
    taken = {name: source[name].clone() for name in inner}
    for name in last:
        taken[name] = target[name].clone()
        for row, origin in enumerate(outputs):
            if origin is not None:
                taken[name][row] = source[name][origin]
    student.load_state_dict(taken, strict=False)
    return True


def _origin(name: str, layers: Sequence[int]) -> str:
    """Return the teacher's name of a student's weight."""
    return LAYER.sub(lambda m: f"{m[1]}{layers[int(m[2])] - 1}{m[3]}", name, count=1)


class _Kept:
    """The dimensions that stay, and the narrowing of one weight."""

    def __init__(self, teacher: Any, student: Any, source: dict[str, Tensor], layers: Sequence[int]) -> None:
        self.type = teacher.config.model_type
        self.source = source
        sizes = sizes_of(teacher.config)
        self.width, self.heads = sizes.width, sizes.heads
        self.narrower = sizes_of(student.config).width
        self.hidden = self._hidden() if self.narrower < self.width else torch.arange(self.width)
        self.ffn: dict[str, Tensor] = {}

    def narrow(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Keep the chosen dimensions of one teacher weight.

        Raises:
            ModelError: nothing is known of this weight's axes.
        """
        prefix = LAYER.search(name)
        stem = name[: prefix.end()] if prefix else ""
        if prefix and (QUERY.search(name) or KEY.search(name)):
            tensor = tensor[self._head(stem, QUERY, KEY, transpose_second=False)]
        elif prefix and VALUE.search(name):
            tensor = tensor[self._head(stem, VALUE, ATTENTION_OUT, transpose_second=True)]
        elif ATTENTION_OUT.search(name):
            tensor = tensor[:, self._head(stem, VALUE, ATTENTION_OUT, transpose_second=True)][self.hidden]
        elif prefix and FFN_IN.search(name):
            tensor = tensor[self._neurons(stem, shape[0])]
        elif prefix and FFN_OUT.search(name):
            tensor = tensor[:, self._neurons(stem, shape[1])][self.hidden]
        # What is left to narrow are axes of hidden width: in both directions of a dense layer, of a norm, a table.
        for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
            if have != want and have == self.width and want == self.narrower:
                tensor = tensor.index_select(axis, self.hidden)
        if tensor.shape != shape:
            raise ModelError(
                f"a {self.type} teacher cannot be narrowed ({name} is {tuple(tensor.shape)}); use a LAYERSxWIDTH "
                f"student of the teacher's width {self.width}, --init random, or a pretrained --student"
            )
        return tensor

    def _hidden(self) -> Tensor:
        total = torch.zeros(self.width, dtype=torch.float64)
        for tensor in self.source.values():
            if tensor.dim() == 2:
                squares = tensor.double().square()
                if tensor.shape[1] == self.width:
                    total += squares.sum(dim=0)
                if tensor.shape[0] == self.width:
                    total += squares.sum(dim=1)
        return _largest(total, self.narrower)

    def _weight(self, stem: str, pattern: re.Pattern[str]) -> Tensor:
        names = [n for n in self.source if n.startswith(stem) and n.endswith(".weight") and pattern.search(n)]
        if not names:
            raise ModelError(
                f"a {self.type} teacher cannot be narrowed; use its own width {self.width} or --init random"
            )
        return self.source[names[0]].double()

    def _head(self, stem: str, first: re.Pattern[str], second: re.Pattern[str], *, transpose_second: bool) -> Tensor:
        """Indices on an (A x d) axis: the same number of dimensions from every head."""
        one = self._weight(stem, first).square().sum(dim=1)
        other = self._weight(stem, second).square().sum(dim=0 if transpose_second else 1)
        scores = (one * other).view(self.heads, -1)  # (A, d)
        size = scores.shape[1]
        keep = self.narrower // self.heads
        return torch.cat([_largest(row, keep) + head * size for head, row in enumerate(scores)])

    def _neurons(self, stem: str, keep: int) -> Tensor:
        if stem not in self.ffn:
            into = self._weight(stem, FFN_IN).square().sum(dim=1)
            out = self._weight(stem, FFN_OUT).square().sum(dim=0)
            self.ffn[stem] = _largest(into * out, min(keep, len(into)))
        return self.ffn[stem]


def _largest(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the ``keep`` largest scores, ascending; ties go to the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices[:keep]
    return order.sort().values
