"""Students: which shape, and where their first weights come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrkd_cli.choices import Init
from hrkd_cli.errors import UsageError
from hrkd_cli.models.capture import layer_map
from hrkd_cli.models.cutting import NARROWED, cut_weights, take_head
from hrkd_cli.models.loading import is_classifier, load_classifier, new_classifier, read_config, resolve, set_heads
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.predict.heads import DomainHeads

DEFAULT_WIDTH = 312  # of TinyBERT's general 4-layer model, the paper's student
SHAPE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)
FEED_FORWARD_NAMES = ("intermediate_size", "hidden_dim")


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers and width of a student."""

    layers: int
    width: int

    def __str__(self) -> str:
        """Return the command line's spelling, LAYERSxWIDTH."""
        return f"{self.layers}x{self.width}"


def parse_shape(text: str) -> Shape | None:
    """Read LAYERSxWIDTH; None when ``text`` is something else (a folder or a hub id)."""
    match = SHAPE.fullmatch(text.strip())
    return Shape(int(match[1]), int(match[2])) if match else None


def default_shape(teacher: Any) -> Shape:
    """Return the default student of a teacher config.

    4x312 from a 12-layer teacher, else half the teacher's layers, at the teacher's width or 312 when that is wider.
    Where 312 is no multiple of the teacher's attention heads, the next one below it; where its architecture cannot be
    narrowed, the teacher's width.
    """
    sizes = sizes_of(teacher)
    width = sizes.width
    if teacher.model_type in NARROWED:
        width = min(width, DEFAULT_WIDTH // sizes.heads * sizes.heads)
    return Shape(4 if sizes.layers == 12 else max(1, sizes.layers // 2), width)


def student_config(teacher: Any, shape: Shape, heads: DomainHeads, *, init: Init) -> Any:
    """Return a config of the teacher's architecture in the student's shape, with one output a (domain, label) pair.

    The feed-forward width is the teacher's own at the teacher's width, 1200 at 312 (as TinyBERT's), else 4 x width, and
    never more than the teacher's. The number of attention heads is the teacher's.

    Raises:
        UsageError: the shape does not fit the teacher; the message names shapes that do.
    """
    sizes = sizes_of(teacher)
    layers, width, attention_heads = sizes.layers, sizes.width, sizes.heads
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
            f"--student {shape}: a {teacher.model_type} teacher cannot be narrowed; use {shape.layers}x{width}, --init "
            "random, or a pretrained --student"
        )
    if init is Init.TEACHER and shape.width > width:
        raise UsageError(f"--student {shape}: wider than the teacher ({width}); use {layers}x{width} or --init random")
    config = type(teacher).from_dict(teacher.to_dict())
    config.num_hidden_layers = shape.layers
    if shape.width != width:
        if getattr(config, "embedding_size", None) == width:
            config.embedding_size = shape.width
        config.hidden_size = shape.width
        name = next(n for n in FEED_FORWARD_NAMES if hasattr(config, n))
        wanted = 1200 if shape.width == DEFAULT_WIDTH else 4 * shape.width
        setattr(config, name, min(wanted, getattr(config, name)))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[m - 1] for m in layer_map(layers, shape.layers)]
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
    note: Callable[[str], None],
) -> Any:
    """Make the student.

    Args:
        spec: LAYERSxWIDTH, folder, hub id, or None for the default shape.
        teacher: the teacher's classifier (its weights are the start of a cut student).
        heads: outputs of the student.
        teacher_heads: outputs of the teacher, for the same domains and labels.
        init: where a LAYERSxWIDTH student starts.
        seed: of everything drawn at random (new heads, random students).
        note: told in a sentence what was made.

    Returns:
        The classifier.

    Raises:
        UsageError: an unusable shape.
        ModelError: a folder or hub id that cannot be opened.
    """
    torch.manual_seed(seed)
    shape = default_shape(teacher.config) if spec is None else parse_shape(spec)
    if shape is None:
        path = resolve(str(spec), "student")
        student = load_classifier(path, heads, role="student")
        if not is_classifier(read_config(path, "student")):
            taken = take_head(teacher, student, _same_outputs(teacher_heads, heads))
            whose = "its teacher's" if taken else "a random"
            note(f"student {spec}: its own layers, and {whose} head")
        return student
    config = student_config(teacher.config, shape, heads, init=init)
    student = new_classifier(config)
    if init is Init.RANDOM:
        note(f"student {shape}: random weights")
        return student
    sizes = sizes_of(teacher.config)
    layers = layer_map(sizes.layers, shape.layers)
    student.load_state_dict(cut_weights(teacher, student, layers, _same_outputs(teacher_heads, heads)))
    width = "" if shape.width == sizes.width else f", narrowed to {shape.width}"
    note(f"student {shape}: starts from the teacher's layers {', '.join(map(str, layers))}{width}")
    return student


def _same_outputs(teacher: DomainHeads, student: DomainHeads) -> list[int | None]:
    """Return the teacher's output for each of the student's, by domain and label."""
    found: list[int | None] = [None] * student.size
    for domain, columns in student.columns.items():
        known = dict(zip(teacher.labels.get(domain, ()), teacher.columns.get(domain, ()), strict=True))
        for column, label in zip(columns, student.labels[domain], strict=True):
            found[column] = known.get(label)
    return found


def student_spec_is_path(spec: str | None) -> bool:
    """Tell whether ``--student`` names a model rather than a shape."""
    return spec is not None and parse_shape(spec) is None and bool(Path(spec).name)
