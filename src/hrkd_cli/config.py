"""Choices and settings of every stage. Nothing heavy is imported here: the command line reads this module to start.

A settings object is frozen, holds defaults in one place (the paper's recipe where the paper has one) and checks itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from hrkd_cli.choices import (
    CacheTeacher,
    ClassWeights,
    Device,
    Graph,
    Init,
    InstanceWeights,
    Means,
    Method,
    Metric,
    Precision,
    Recipe,
    Sampling,
    SourceFormat,
    Split,
    Target,
    TeacherCheckpoints,
    Truncate,
)
from hrkd_cli.errors import UsageError

AUTO_BATCH = "auto"
DEFAULT_SEED = 42

__all__ = [
    "AUTO_BATCH",
    "DEFAULT_SEED",
    "INDIFFERENT",
    "RECIPES",
    "RELATING",
    "CacheTeacher",
    "ClassWeights",
    "Device",
    "DistillSettings",
    "Graph",
    "Init",
    "InstanceWeights",
    "Means",
    "Method",
    "Metric",
    "Precision",
    "Recipe",
    "Sampling",
    "SourceFormat",
    "Split",
    "Target",
    "TeachSettings",
    "TeacherCheckpoints",
    "TrainingSettings",
    "Truncate",
    "option_name",
    "recipe_options",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Options that teach and distill share. Defaults: the paper's recipe.

    Attributes:
        epochs: passes over the data.
        batch_size: rows of each domain in a step, shared out over the processes; ``"auto"`` for the largest power of
            two up to 32 (the paper's batch over its 4 GPUs) that memory holds.
        accumulate: forward and backward passes that make one optimiser step.
        learning_rate: peak rate of AdamW.
        weight_decay: not applied to biases and normalisation weights.
        warmup: fraction of the steps over which the rate rises; it then falls linearly to 0.
        max_length: tokens an example is cut to.
        truncate: see Truncate.
        sampling: see Sampling.
        precision: see Precision.
        eval_every: steps between two dev scores; None for twice an epoch.
        metric: see Metric.
        class_weights: see ClassWeights.
        patience: stop after this many dev scores without a better average; None never stops.
        checkpoint_every: steps between two checkpoints; None for every two minutes.
        processes: processes that share a step; None for those that this one was started with (``torchrun``), or one.
        seed: of everything random.
        device: see Device.
    """

    epochs: int = 3
    batch_size: int | str = 8
    accumulate: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_length: int = 128
    truncate: Truncate = Truncate.HEAD
    sampling: Sampling = Sampling.COVER
    precision: Precision = Precision.AUTO
    eval_every: int | None = None
    metric: Metric = Metric.ACCURACY
    class_weights: ClassWeights = ClassWeights.NONE
    patience: int | None = None
    checkpoint_every: int | None = None
    processes: int | None = None
    seed: int = DEFAULT_SEED
    device: Device = Device.AUTO

    def __post_init__(self) -> None:
        """Refuse values that no run could use.

        Raises:
            UsageError: an option is out of range.
        """
        _coerce_enums(self)
        if isinstance(self.batch_size, str) and self.batch_size.isdecimal():
            object.__setattr__(self, "batch_size", int(self.batch_size))
        for name in ("epochs", "accumulate", "eval_every", "patience", "checkpoint_every", "processes"):
            _check(self, name, lambda v: v is None or v >= 1, "at least 1")
        if self.batch_size != AUTO_BATCH:
            _check(self, "batch_size", lambda v: v >= 1, f"at least 1, or {AUTO_BATCH}")
        _check(self, "learning_rate", lambda v: v > 0, "above 0")
        _check(self, "weight_decay", lambda v: v >= 0, "at least 0")
        _check(self, "warmup", lambda v: 0 <= v <= 1, "between 0 and 1")
        _check(self, "max_length", lambda v: v >= 4, "at least 4")
        _check(self, "seed", lambda v: 0 <= v < 2**63, "between 0 and 2**63 - 1")

    def to_json(self) -> dict[str, Any]:
        """Return the resolved options as plain values."""
        return {name: str(v) if isinstance(v, StrEnum) else v for name, v in asdict(self).items()}

    def decisive(self) -> dict[str, Any]:
        """Return the options that a run's result depends on, beyond the last digits of a weight."""
        return {name: value for name, value in self.to_json().items() if name not in INDIFFERENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachSettings(TrainingSettings):
    """Options of ``hrkd teach``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings(TrainingSettings):
    """Options of ``hrkd distill``; its 10 epochs are the paper's.

    The learning rate is not: at the paper's 5e-5 a small student is far from done when the epochs are over
    (docs/results.md).

    Attributes:
        student: folder, hub id or LAYERSxWIDTH; None for the default shape (see ``hrkd_cli.models.student``).
        init: where a LAYERSxWIDTH student's weights come from; None for the teacher.
        method: see Method.
        recipe: see Recipe; it matters to ``DistillSettings.of`` alone.
        graph: see Graph; None for the method's own: none for tinybert, uniform for the others.
        graph_every: steps between two updates of a learned graph.
        graph_learning_rate: of a learned graph's Adam.
        held_back: share of each domain's train rows that a learned graph is judged on, and the student never sees.
        hierarchy: whether the compare-aggregate step mixes prototypes over layers before the graph (the paper's
            section 3.3); None for yes where there is a graph.
        teacher_checkpoints: see TeacherCheckpoints.
        teacher_epochs: epochs of the teacher where it has to be taught first.
        teacher_learning_rate: peak rate of the teacher's AdamW then.
        hidden_weight: w_hidden of section 5.
        attention_weight: w_att of section 5.
        prediction_weight: w_pred of section 5.
        instance_weights: see InstanceWeights.
        domains: names of those that the student is for, with commas between; None for all.
        label_weight: w_label, of the cross-entropy against the labels that is mixed in.
        temperature: t of the prediction loss.
        cache_teacher: see CacheTeacher.
        cache_limit: GB that kept teacher outputs may take on disk, those of other runs in the same folder included.
        means: see Means.
        allow_weak_teacher: go on when the teacher is not clearly above the majority class in some domain.
        unlabelled: folder (or file) of texts without labels, by domain, that the student learns from too.
        unlabelled_share: share of a step's rows of a domain that are such texts, on top of the labelled batch.
        general: file or folder of texts of any kind, from which the student learns its teacher's hidden states first.
        general_epochs: passes over those texts.
    """

    epochs: int = 10
    learning_rate: float = 4e-4
    student: str | None = None
    init: Init | None = None
    recipe: Recipe = Recipe.OURS
    method: Method = Method.HRKD
    graph: Graph | None = None
    graph_every: int = 10
    graph_learning_rate: float = 3e-3
    held_back: float = 0.1
    hierarchy: bool | None = None
    teacher_checkpoints: TeacherCheckpoints = TeacherCheckpoints.DOMAIN
    teacher_epochs: int = 3
    teacher_learning_rate: float = 5e-5
    hidden_weight: float = 1.0
    attention_weight: float = 1.0
    prediction_weight: float = 1.0
    label_weight: float = 0.0
    instance_weights: InstanceWeights = InstanceWeights.NONE
    domains: str | None = None
    temperature: float = 1.0
    cache_teacher: CacheTeacher = CacheTeacher.AUTO
    cache_limit: float = 50.0
    means: Means = Means.MASKED
    allow_weak_teacher: bool = False
    unlabelled: str | None = None
    unlabelled_share: float = 0.5
    general: str | None = None
    general_epochs: int = 1

    def __post_init__(self) -> None:
        """Refuse values that no run could use.

        Raises:
            UsageError: an option is out of range.
        """
        # Not super(): a slotted dataclass is a new class, which zero-argument super() does not know.
        TrainingSettings.__post_init__(self)
        _check(self, "teacher_epochs", lambda v: v >= 1, "at least 1")
        _check(self, "teacher_learning_rate", lambda v: v > 0, "above 0")
        _check(self, "temperature", lambda v: v > 0, "above 0")
        _check(self, "cache_limit", lambda v: v > 0, "above 0")
        _check(self, "unlabelled_share", lambda v: 0 < v < 1, "between 0 and 1, both excluded")
        _check(self, "general_epochs", lambda v: v >= 1, "at least 1")
        for name in ("unlabelled", "general"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        if self.general is not None and not self.compares:
            cause = "--hidden-weight 0" if self.method in (Method.HRKD, Method.TINYBERT) else f"--method {self.method}"
            raise UsageError(f"--general: {cause} compares no hidden states, all that it learns from; leave one out")
        if self.means is Means.RELEASED and self.cache_teacher is CacheTeacher.ON:
            raise UsageError("--cache-teacher on: --means released looks at padding, which is not kept; leave one out")
        _check(self, "graph_every", lambda v: v >= 1, "at least 1")
        _check(self, "graph_learning_rate", lambda v: v > 0, "above 0")
        _check(self, "held_back", lambda v: 0 < v < 1, "between 0 and 1, both excluded")
        for name in ("hidden_weight", "attention_weight", "prediction_weight", "label_weight"):
            _check(self, name, lambda v: v >= 0, "at least 0")
        if self.method is not Method.LABELS and not any((self.compares, self.prediction_weight, self.label_weight)):
            zero = "" if self.method is Method.LOGITS else "--hidden-weight 0 "
            raise UsageError(f"{zero}--prediction-weight 0: there is nothing left to learn from")
        self._check_use()
        if self.method is not Method.HRKD:
            for name in ("graph", "hierarchy"):
                if getattr(self, name) is not None:
                    raise UsageError(f"{option_name(name)}: --method {self.method} has no domain graph; leave it out")
        elif self.hidden_weight == 0 and (self.graph in RELATING or self.hierarchy):
            raise UsageError(
                "--hidden-weight 0: the graph weights hidden-state losses only; leave out --graph, --hierarchy"
            )
        elif self.hierarchy and self.graph not in RELATING:
            graph = self.graph or Graph.UNIFORM
            raise UsageError(f"--hierarchy: --graph {graph} looks at no prototypes; give --graph learned or frozen")

    def _check_use(self) -> None:
        """Refuse options that would do nothing beside the others."""
        answers = self.method is not Method.LABELS and self.prediction_weight > 0
        if self.unlabelled is not None and not (self.compares or answers):
            raise UsageError("--unlabelled: texts without labels teach nothing where only labels are learnt from")
        idle: dict[str, str] = {}
        if self.graph is not Graph.LEARNED:
            needs = "--graph learned"
            idle |= dict.fromkeys(("graph_every", "graph_learning_rate", "held_back"), needs)
        if not self.compares:
            idle["instance_weights"] = "hidden states that are compared"
        defaults = {field.name: field.default for field in fields(self)}
        for name, needs in idle.items():
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{option_name(name)}: it needs {needs}; leave it out")

    @classmethod
    def of(cls, **options: Any) -> DistillSettings:
        """Make settings from the options that were given, and the recipe among them for those that were not.

        Raises:
            UsageError: an option is out of range.
        """
        recipe = cls(recipe=options.get("recipe", Recipe.OURS)).recipe
        return cls(**recipe_options(recipe, options), **options)

    @property
    def compares(self) -> bool:
        """Whether hidden states (and attention scores, where they have a weight) are compared."""
        return self.hidden_weight > 0 and self.method in (Method.HRKD, Method.TINYBERT)

    def resolved(self) -> DistillSettings:
        """Fill in what follows from other options: graph, hierarchy, init, the weights of --method labels."""
        graph = self.graph or (Graph.NONE if self.method is Method.TINYBERT else Graph.UNIFORM)
        hierarchy = graph in RELATING if self.hierarchy is None else self.hierarchy
        # Not dataclasses.replace: it would check the filled-in values as if the user had given them.
        new = object.__new__(DistillSettings)
        for field in fields(self):
            object.__setattr__(new, field.name, getattr(self, field.name))
        filled: dict[str, Any] = {"graph": graph, "hierarchy": hierarchy, "init": self.init or Init.TEACHER}
        if self.method is Method.LABELS:
            filled |= {"hidden_weight": 0.0, "prediction_weight": 0.0, "label_weight": self.label_weight or 1.0}
        for name, value in filled.items():
            object.__setattr__(new, name, value)
        return new


# What a recipe sets where an option was not given; what is the default anyway is named too, for whoever reads this.
RECIPES: dict[Recipe, dict[str, Any]] = {
    Recipe.OURS: {},
    Recipe.PAPER: {
        "graph": Graph.FROZEN,
        "learning_rate": 5e-5,
        "epochs": 10,
        "teacher_learning_rate": 5e-5,
        "teacher_epochs": 3,
        "max_length": 128,
        "truncate": "head",
        "means": Means.RELEASED,
        "label_weight": 0.0,
    },
}


def recipe_options(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe sets beside the options that were given, as far as these leave it a meaning."""
    left = {name: value for name, value in RECIPES[recipe].items() if name not in given}
    if given.get("method", Method.HRKD) != Method.HRKD or given.get("hidden_weight", 1.0) == 0:
        left.pop("graph", None)
    if given.get("cache_teacher") == CacheTeacher.ON:
        left.pop("means", None)
    return left


# Graphs that look at prototypes.
RELATING = (Graph.LEARNED, Graph.FROZEN)
# Options that change how a run is made, not what comes out.
INDIFFERENT = ("device", "checkpoint_every", "processes", "cache_limit", "recipe")
# The enum of each setting whose default does not show it.
_OPTIONAL_ENUMS: dict[str, type[StrEnum]] = {"init": Init, "graph": Graph}


def option_name(field: str) -> str:
    """Return the command-line spelling of a setting, for error messages."""
    return "--" + field.replace("_", "-")


def _coerce_enums(settings: Any) -> None:
    """Turn the Python API's plain strings into enums, so that ``sampling="cover"`` works."""
    for field in fields(settings):
        kind = _OPTIONAL_ENUMS.get(field.name, type(field.default))
        value = getattr(settings, field.name)
        if issubclass(kind, StrEnum) and value is not None and not isinstance(value, kind):
            try:
                object.__setattr__(settings, field.name, kind(value))
            except ValueError:
                choices = ", ".join(kind)
                raise UsageError(f"{option_name(field.name)}: {value!r} is not one of {choices}") from None


def _check(settings: Any, name: str, test: Any, wanted: str) -> None:
    value = getattr(settings, name)
    try:
        good = test(value) and (value is None or math.isfinite(value))
    except TypeError:
        good = False
    if not good:
        raise UsageError(f"{option_name(name)}: {value} is not {wanted}")
