"""Student initialization: the student's shape, and its first weights, pruned from the teacher's.

Student layer l starts from teacher layer m(l), the layer that it will learn from. If the student is narrower, the
dimensions with the largest sums of squares of the teacher's weights are kept, in their old order; ties go to the lower
index:

- hidden: the dimensions with the largest total over every matrix that reads or writes the hidden axis (one choice for
  the whole model, so that residual connections still add matching dimensions);
- inside each attention head: for queries and keys the dimensions with the largest ``|q|^2 |k|^2``, for values and the
  output projection those with the largest ``|v|^2 |o|^2``;
- feed-forward: the neurons with the largest ``|in|^2 |out|^2``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from hrkd_cli.choices import Init
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.loading import (
    is_classifier,
    load_classifier,
    new_classifier,
    output_layer,
    set_heads,
)
from hrkd_cli.models.mean_pooling import (
    POOLED,
    encoder_layers,
    has_pooling_layer,
    set_pooling_layer,
    with_pooling_layer,
)
from hrkd_cli.models.model_source import SIZES, Shape, parse_shape, resolve_model
from hrkd_cli.predict.heads import DomainHeads

DEFAULT_WIDTH = 312  # of TinyBERT's general 4-layer model, the paper's student
MEDIUM_WIDTH = 384  # of MiniLM
FEED_FORWARD_NAMES = ("intermediate_size", "hidden_dim")

# Architectures whose weights have the names below.
NARROWED = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")

LAYER = re.compile(r"(\.layers?\.)(\d+)(\.)")
# Weights of BERT, RoBERTa, ELECTRA and DistilBERT in pairs that share an axis inside a layer, each with the number of
# that axis. Axes are (out, in).
QUERY = (re.compile(r"\.(query|q_lin)\.(weight|bias)$"), 0)
KEY = (re.compile(r"\.(key|k_lin)\.(weight|bias)$"), 0)
VALUE = (re.compile(r"\.(value|v_lin)\.(weight|bias)$"), 0)
ATTENTION_OUT = (re.compile(r"\.attention\.(output\.dense|out_lin)\.weight$"), 1)
FFN_IN = (re.compile(r"\.(intermediate\.dense|ffn\.lin1)\.(weight|bias)$"), 0)
FFN_OUT = (re.compile(r"\.(?<!attention\.)(output\.dense|ffn\.lin2)\.weight$"), 1)
PAIRS = ((QUERY, KEY), (VALUE, ATTENTION_OUT), (FFN_IN, FFN_OUT))


def layer_map(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Return m(l) for l = 1..L: the teacher layer (1-based) that student layer l learns from.

    ``m(l) = l N / L``, rounded half up.
    """
    return tuple(
        (2 * n * teacher_layers + student_layers) // (2 * student_layers) for n in range(1, student_layers + 1)
    )


def check_dimensions(config: Any) -> None:
    """Raise ModelError if layers, width or attention heads do not have transformers' usual names, or for a decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{config.model_type} models cannot be distilled: they have a decoder; use an encoder such as BERT"
        )
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        if not hasattr(config, name):
            raise ModelError(f"{config.model_type} models cannot be distilled: the config has no {name}")


def student_shape(spec: str | None, teacher: Any) -> Shape | None:
    """Return the shape that ``--student`` gives, for a teacher config; None if it names a model.

    A size (None: small) is a number of layers and the largest width: ``tiny`` is 2x128; ``small`` is 4x312 for a
    12-layer teacher, else half the teacher's layers, and ``medium`` is as deep and 384 wide; ``base`` is half its
    layers at its width, and ``large`` two thirds of them, rounded up. The width is rounded down to a multiple of the
    teacher's attention heads and is at most the teacher's. It is the teacher's if its architecture cannot be narrowed.
    """
    layers, width, heads = encoder_layers(teacher), teacher.hidden_size, teacher.num_attention_heads
    half = max(1, layers // 2)
    small, large = 4 if layers == 12 else half, math.ceil(layers * 2 / 3)
    sizes = (min(2, layers), 128), (small, DEFAULT_WIDTH), (small, MEDIUM_WIDTH), (half, width), (large, width)
    size = dict(zip(SIZES, sizes, strict=True)).get(spec or "small")
    if size is None:
        return parse_shape(str(spec))
    return Shape(size[0], min(width, size[1] // heads * heads) if teacher.model_type in NARROWED else width)


def student_config(teacher: Any, shape: Shape, heads: DomainHeads, *, init: Init) -> Any:
    """Return a config of the teacher's architecture in the student's shape.

    The feed-forward width is the teacher's own at the teacher's width, 1200 at 312 (as TinyBERT's), else 4 x width, and
    never more than the teacher's. The number of attention heads is the teacher's.

    Raises:
        UsageError: the shape does not fit the teacher; the message names shapes that do.
    """
    layers, width, attention_heads = encoder_layers(teacher), teacher.hidden_size, teacher.num_attention_heads
    if not 1 <= shape.layers <= layers:
        raise UsageError(f"--student {shape}: the teacher has {layers} layers; give 1 to {layers}")
    if shape.width < attention_heads or shape.width % attention_heads:
        below = max(shape.width // attention_heads, 1) * attention_heads
        raise UsageError(
            f"--student {shape}: the width must be a multiple of the teacher's {attention_heads} attention heads, for "
            f"example {below} or {below + attention_heads}"
        )
    if init is Init.TEACHER and shape.width < width and teacher.model_type not in NARROWED:
        raise UsageError(
            f"--student {shape}: {teacher.model_type} teachers cannot be narrowed; use {shape.layers}x{width}, --init "
            "random, or a pretrained --student"
        )
    if init is Init.TEACHER and shape.width > width:
        raise UsageError(f"--student {shape}: wider than the teacher ({width}); use {layers}x{width} or --init random")
    config = type(teacher).from_dict(teacher.to_dict())
    config.num_hidden_layers = shape.layers + has_pooling_layer(teacher)
    if shape.width != width:
        if getattr(config, "embedding_size", None) == width:
            config.embedding_size = shape.width
        config.hidden_size = shape.width
        name = next(n for n in FEED_FORWARD_NAMES if hasattr(config, n))
        wanted = 1200 if shape.width == DEFAULT_WIDTH else 4 * shape.width
        setattr(config, name, min(wanted, getattr(config, name)))
    for name in ("layer_types", "attention_window"):  # of ModernBERT and Longformer
        if isinstance(values := getattr(config, name, None), list):
            setattr(config, name, [values[m - 1] for m in layer_map(layers, shape.layers)])
    set_heads(config, heads)
    return config


def build_student(
    spec: str | None,
    teacher: Any,
    heads: DomainHeads,
    *,
    teacher_heads: DomainHeads,
    init: Init,
    seed: int,
) -> tuple[Any, str]:
    """Build the student, a sequence classifier; return it with a sentence about it, empty for a finished classifier.

    ``spec`` is that of ``student_shape``, a folder or a hub id; ``init`` chooses the weights of a student that is
    given by its shape. ``heads`` and ``teacher_heads`` have the same domains and labels.

    Raises:
        UsageError: an unusable shape.
        ModelError: a folder or hub id that cannot be opened.
    """
    torch.manual_seed(seed)
    shape = student_shape(spec, teacher.config)
    if shape is None:
        path = resolve_model(str(spec), "student")
        student = load_classifier(path, heads, role="student")
        if is_classifier(read_json(path / ModelFiles.config)):
            return student, ""
        if has_pooling_layer(teacher.config) and student.config.model_type in POOLED:
            student = with_pooling_layer(student)
        copied = copy_head(teacher, student, _same_outputs(teacher_heads, heads))
        whose = "its teacher's" if copied else "a random"
        return student, f"student {spec}: its own layers, and {whose} head"
    student = new_classifier(student_config(teacher.config, shape, heads, init=init))
    text = f"student {shape}: random weights"
    if init is Init.TEACHER:
        layers = layer_map(encoder_layers(teacher.config), shape.layers)
        # A pooling layer is cut from the teacher's too, and then gets its fixed weights.
        sources = (*layers, teacher.config.num_hidden_layers)[: student.config.num_hidden_layers]
        student.load_state_dict(prune_weights(teacher, student, sources, _same_outputs(teacher_heads, heads)))
        width = "" if shape.width == teacher.config.hidden_size else f", narrowed to {shape.width}"
        word = "layer" if len(layers) == 1 else "layers"
        text = f"student {shape}: starts from the teacher's {word} {', '.join(map(str, layers))}{width}"
    if has_pooling_layer(student.config):
        set_pooling_layer(student)
    return student, text


def prune_weights(teacher: Any, student: Any, layers: Sequence[int], outputs: Mapping[int, int]) -> dict[str, Tensor]:
    """Return initial weights for ``student``, pruned from the teacher's.

    Args:
        teacher: classifier to prune.
        student: classifier of the same architecture and no larger; keeps its own (random) weights where the teacher
            has none of that name (a new head).
        layers: m(l) for l = 1..L, 1-based.
        outputs: teacher output for each student output of the same domain and label; other student outputs stay
            random.

    Raises:
        ModelError: the architecture cannot be narrowed; the message names the options that work.
    """
    pruning = _Pruning(teacher, student.config.hidden_size)
    head, _ = output_layer(student)
    weights = {}
    for name, own in student.state_dict().items():
        origin = LAYER.sub(lambda m: f"{m[1]}{layers[int(m[2])] - 1}{m[3]}", name, count=1)
        if origin not in pruning.source:
            # The first layer of some architectures lacks a norm that later ones have, or the other way around.
            weights[name] = own
        elif name.rpartition(".")[0] == head:
            rows = len(pruning.source[origin])
            weights[name] = _rows_by_output(own, pruning.narrow(origin, (rows, *own.shape[1:])), outputs)
        else:
            weights[name] = pruning.narrow(origin, tuple(own.shape)).clone()
    return weights


def copy_head(teacher: Any, student: Any, outputs: Mapping[int, int]) -> bool:
    """Copy the teacher's head (everything outside the encoder, and the pooler) into a pretrained student, in place.

    Return False, and change nothing, if the two heads have different weights. See prune_weights for ``outputs``.
    """
    head, _ = output_layer(student)
    body = {f"{student.base_model_prefix}.{name}" for name in student.base_model.state_dict() if "pooler" not in name}
    source, copied = teacher.state_dict(), {}
    for name, own in student.state_dict().items():
        if name in body:
            continue
        is_last = name.rpartition(".")[0] == head
        origin = source.get(name)
        if origin is None or origin.shape[is_last:] != own.shape[is_last:]:
            return False
        copied[name] = _rows_by_output(own, origin, outputs) if is_last else origin.clone()
    student.load_state_dict(copied, strict=False)
    return True


def _rows_by_output(own: Tensor, origin: Tensor, outputs: Mapping[int, int]) -> Tensor:
    """Return ``own`` with the teacher's rows, from ``origin``, for all outputs in ``outputs``."""
    found = own.clone()
    found[list(outputs)] = origin[list(outputs.values())]
    return found


def _same_outputs(teacher: DomainHeads, student: DomainHeads) -> dict[int, int]:
    """Return the teacher's output for each student output with the same domain and label, if there is one."""
    found: dict[int, int] = {}
    for domain, columns in student.columns.items():
        known = dict(zip(teacher.labels.get(domain, ()), teacher.columns.get(domain, ()), strict=True))
        own = zip(columns, student.labels[domain], strict=True)
        found |= {column: known[label] for column, label in own if label in known}
    return found


class _Pruning:
    """The teacher's weights, and the dimensions that a student of ``width`` keeps."""

    def __init__(self, teacher: Any, width: int) -> None:
        self.config, self.narrower = teacher.config, width
        self.source = {name: tensor.detach().cpu() for name, tensor in teacher.state_dict().items()}
        self.width: int = self.config.hidden_size
        self.hidden = self._hidden() if width < self.width else torch.arange(width)

    def narrow(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a teacher weight, reduced to the kept dimensions.

        Raises:
            ModelError: the axes of this weight are unknown.
        """
        tensor: Tensor = self.source[name]
        layer = LAYER.search(name)
        for pair in PAIRS if layer and tensor.shape != shape else ():
            for pattern, axis in pair:
                if layer and pattern.search(name):
                    tensor = tensor.index_select(axis, self._inner(name[: layer.end()], pair, shape[axis]))
        # The remaining axes to narrow have the hidden width: of dense layers, norms and embeddings.
        for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
            if have != want and have == self.width and want == self.narrower:
                tensor = tensor.index_select(axis, self.hidden)
        if tensor.shape != shape:
            raise ModelError(
                f"this {self.config.model_type} teacher cannot be narrowed ({name} is {tuple(tensor.shape)}); use a "
                f"LAYERSxWIDTH student of the teacher's width {self.width}, --init random, or a pretrained --student"
            )
        return tensor

    def _hidden(self) -> Tensor:
        total = torch.zeros(self.width, dtype=torch.float64)
        for name, tensor in self.source.items():
            # Other axes may happen to be as long: those inside a layer, and the rows of a table.
            others = {axis for pattern, axis in chain(*PAIRS) if LAYER.search(name) and pattern.search(name)}
            others |= {0} if name.endswith("embeddings.weight") else set()
            for axis in {0, 1} - others if tensor.dim() == 2 else ():
                if tensor.shape[axis] == self.width:
                    total += tensor.double().square().sum(dim=1 - axis)
        return _largest(total, self.narrower)

    def _inner(self, layer: str, pair: Sequence[tuple[re.Pattern[str], int]], keep: int) -> Tensor:
        """Return the dimensions to keep on an axis inside a layer: as many of each attention head, or neurons."""
        scores = torch.ones((), dtype=torch.float64)
        for pattern, axis in pair:
            names = (n for n in self.source if n.startswith(layer) and n.endswith(".weight") and pattern.search(n))
            scores = scores * self.source[next(names)].double().square().sum(dim=1 - axis)
        groups = 1 if FFN_IN in pair else self.config.num_attention_heads
        size = len(scores) // groups
        rows = scores.view(groups, size)
        return torch.cat([_largest(row, keep // groups) + number * size for number, row in enumerate(rows)])


def _largest(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the ``keep`` largest scores, ascending; ties go to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:keep].sort()[0]
