"""Options of teach and distill, each defined once: name, type, default, help text and bounds.

``TeachSettings`` and ``DistillSettings`` are what a run records; the ``Arguments`` classes add its inputs and outputs,
and are the keyword arguments of the public functions. Defaults are the paper's recipe where the paper has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from hrkd_cli import layout
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
    TeacherCheckpoints,
    Truncate,
)
from hrkd_cli.errors import UsageError
from hrkd_cli.options import Range, Settings, option, option_name, options_of

AUTO_BATCH = "auto"
DEFAULT_SEED = 42
# Graphs that look at prototypes.
PROTOTYPE_GRAPHS = (Graph.LEARNED, Graph.FROZEN)

AT_LEAST_1, AT_LEAST_0 = Range(1), Range(0)
ABOVE_0 = Range(0, above=True)
SHARE, INNER_SHARE = Range(0, 1), Range(0, 1, above=True, below=True)

METHOD, TEXTS, TRAINING = "Method", "More text", "Training options"

_training = partial(option, panel=TRAINING)
_count = partial(_training, metavar="N", within=AT_LEAST_1)
_rate = partial(_training, metavar="RATE", within=ABOVE_0)
_method = partial(option, panel=METHOD)
_weight = partial(_method, metavar="X", within=AT_LEAST_0)
_share = partial(_method, metavar="SHARE", within=INNER_SHARE)
_text = partial(option, panel=TEXTS)
shared = partial(option, panel=None)
output = partial(option, help="Folder to write; it must not exist, or --force.", metavar="DIR")
seed_option = partial(shared, DEFAULT_SEED, "Random seed.", metavar="N", within=Range(0, 2**63 - 1))
force_option = partial(shared, False, "Replace an existing output of this command.")
_resume = partial(_training, False, "Resume an interrupted run, or start a new one if there is none.")
_data = partial(
    option,
    str(layout.DATASET_OUT),
    "Prepared dataset folder, or a raw source (file, folder, hub id, or sample), which is prepared first.",
    metavar="DIR_OR_RAW",
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """Options that teach and distill share."""

    epochs: int = _count(3, "Passes over the data.")
    batch_size: int | str = _count(
        8, "Rows per domain and step, over all processes; auto: as many as fit in memory, up to 32.", word=AUTO_BATCH
    )
    accumulate: int = _count(1, "Batches per optimizer step; their losses are averaged.")
    learning_rate: float = _rate(5e-5, "Peak learning rate of AdamW.")
    weight_decay: float = _weight(0.01, "AdamW weight decay; not applied to biases and norms.", panel=TRAINING)
    warmup: float = _training(0.1, "Fraction of the steps for linear warm-up.", metavar="SHARE", within=SHARE)
    max_length: int = _training(128, "Tokens per text; longer texts are truncated.", metavar="TOKENS", within=Range(4))
    truncate: Truncate = _training(
        Truncate.HEAD, "Tokens to keep of longer texts: the first, the last, or half from each end."
    )
    sampling: Sampling = _training(
        Sampling.COVER,
        "Rows of a step. cover: every row once per epoch; balanced: as many of each domain; temperature: in "
        "proportion to the square root of domain size.",
    )
    precision: Precision = _training(Precision.AUTO, "Training arithmetic; auto: bf16 where supported, else fp32.")
    eval_every: int | None = _count(None, "Steps between two dev scores.", metavar="STEPS", shown="twice an epoch")
    metric: Metric = _training(Metric.ACCURACY, "Dev score that decides which step is best.")
    class_weights: ClassWeights = _training(
        ClassWeights.NONE, "Class weights in the loss; balanced: rare classes count more."
    )
    patience: int | None = _count(None, "Stop after N dev scores without improvement.", shown="never")
    checkpoint_every: int | None = _count(
        None,
        "Steps between two checkpoints; Ctrl-C and SIGTERM write one too.",
        metavar="STEPS",
        shown="every two minutes",
        affects_result=False,
    )
    processes: int | None = _count(
        None,
        "Processes that share every step: one per GPU, or a few on a CPU.",
        shown="those of torchrun, or one",
        affects_result=False,
    )
    seed: int = seed_option()
    device: Device = shared(
        Device.AUTO, "Device to run on; auto prefers CUDA, then MPS, then CPU.", affects_result=False
    )


@dataclass(frozen=True, kw_only=True)
class TeachSettings(TrainingSettings):
    """What ``teach`` records of its options."""


@dataclass(frozen=True, kw_only=True)
class TeachArguments(TeachSettings):
    """Arguments of ``teach``."""

    model: str = option("", "Encoder to start from: a folder or a hub id. Required.", metavar="ID_OR_DIR")
    data: str = _data()
    out: Path = output(layout.TEACHER_OUT)
    resume: bool = _resume()
    force: bool = force_option()

    def check(self) -> None:
        """Refuse a call without an encoder."""
        if not self.model:
            raise UsageError("--model is needed: the encoder to start from, like --model google-bert/bert-base-uncased")


# What a recipe sets where an option was not given. Defaults are named too, so that they can change without it.
RECIPES: dict[str, dict[str, Any]] = {
    Recipe.PAPER: {
        "graph": Graph.FROZEN,
        "learning_rate": 5e-5,
        "epochs": 10,
        "teacher_learning_rate": 5e-5,
        "teacher_epochs": 3,
        "max_length": 128,
        "truncate": Truncate.HEAD,
        "means": Means.RELEASED,
        "label_weight": 0.0,
    }
}


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainingSettings):
    """What ``distill`` records of its options.

    The 10 epochs are the paper's. The learning rate is not: at the paper's 5e-5 a small student is far from done when
    the epochs are over (docs/results.md).
    """

    student: str | None = option(
        None,
        "A folder, a hub id, or LAYERSxWIDTH like 4x312.",
        metavar="ID_OR_DIR_OR_LxW",
        shown="4x312 from a 12-layer teacher, else half its layers",
    )
    init: Init | None = option(None, "Where a LAYERSxWIDTH student's weights come from.", shown="teacher")
    recipe: Recipe = _method(
        Recipe.OURS, "Defaults for options not given; paper: those of the paper's released code.", affects_result=False
    )
    method: Method = _method(
        Method.HRKD,
        "hrkd: domains related by a graph; tinybert: no graph; logits: predictions only; labels: no teacher.",
    )
    graph: Graph | None = _method(
        None,
        "Domain ratios. learned: on held-back rows; frozen: random, as released; uniform: 1/D each; none: 1.",
        shown="uniform; none without --method hrkd",
    )
    hierarchy: bool | None = _method(
        None, "Mix each domain's prototypes over layers before the graph.", shown="yes with --graph learned or frozen"
    )
    graph_every: int = _count(10, "Steps between two updates of a learned graph.", panel=METHOD)
    graph_learning_rate: float = _rate(3e-3, "Learning rate of a learned graph.", panel=METHOD)
    held_back: float = _share(0.1, "Train rows that evaluate a learned graph; the student never sees them.")
    domains: str | None = _method(None, "Train the student for these domains only.", metavar="A,B", shown="all")
    teacher_checkpoints: TeacherCheckpoints = _method(
        TeacherCheckpoints.DOMAIN, "Teacher of a domain: the step that was best for it, or best on average."
    )
    hidden_weight: float = _weight(1.0, "Weight of the hidden-state loss.")
    attention_weight: float = _weight(1.0, "Weight of the attention loss.")
    prediction_weight: float = _weight(1.0, "Weight of the prediction loss.")
    label_weight: float = _weight(0.0, "Weight of the cross-entropy against the labels.")
    instance_weights: InstanceWeights = _method(
        InstanceWeights.NONE,
        "Weight rows by how typical they are across domains and how sure the teacher is of the label.",
    )
    temperature: float = _method(1.0, "Divides the logits of teacher and student.", metavar="T", within=ABOVE_0)
    means: Means = _method(
        Means.MASKED, "Average over valid tokens only, or over padding too, as the released code does."
    )
    allow_weak_teacher: bool = _method(
        False, "Continue if the teacher does not beat the majority class in some domain."
    )
    unlabelled: str | None = _text(
        None, "Unlabeled texts of the domains, which the student also learns from.", metavar="DIR"
    )
    unlabelled_share: float = _share(
        0.5, "Unlabeled share of each domain's rows per step, on top of --batch-size.", panel=TEXTS
    )
    epochs: int = _count(10, "Passes over the data.")
    learning_rate: float = _rate(4e-4, "Peak learning rate of AdamW.")
    teacher_epochs: int = _count(3, "Passes over the data if the teacher is trained first.")
    teacher_learning_rate: float = _rate(5e-5, "Peak learning rate if the teacher is trained first.")
    cache_teacher: CacheTeacher = _training(
        CacheTeacher.AUTO, "Compute the teacher's outputs once and cache them on disk; auto does so on a CPU."
    )

    @classmethod
    def recipe_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the recipe sets beside the options that were given, as far as these leave it a meaning."""
        left = {name: value for name, value in RECIPES.get(given.get("recipe", ""), {}).items() if name not in given}
        if given.get("method", Method.HRKD) != Method.HRKD or given.get("hidden_weight", 1.0) == 0:
            left.pop("graph", None)
        if given.get("cache_teacher") == CacheTeacher.ON:
            left.pop("means", None)
        return left

    @property
    def compares_layers(self) -> bool:
        """Whether hidden states (and attention scores, where they have a weight) are compared."""
        return self.hidden_weight > 0 and self.method in (Method.HRKD, Method.TINYBERT)

    @property
    def compares_predictions(self) -> bool:
        """Whether the student learns its teacher's answers."""
        return self.prediction_weight > 0 and self.method is not Method.LABELS

    def resolve(self) -> Self:
        """Fill in what follows from other options: graph, hierarchy, init, the weights of --method labels."""
        graph = self.graph or (Graph.UNIFORM if self.method is Method.HRKD else Graph.NONE)
        hierarchy = graph in PROTOTYPE_GRAPHS if self.hierarchy is None else self.hierarchy
        weights: dict[str, Any] = {}
        if self.method is Method.LABELS:
            weights = {"hidden_weight": 0.0, "prediction_weight": 0.0, "label_weight": self.label_weight or 1.0}
        return replace(self, graph=graph, hierarchy=hierarchy, init=self.init or Init.TEACHER, **weights)

    def check(self) -> None:
        """Refuse options that contradict each other, leave nothing to learn, or would do nothing."""
        has_graph, graph = self.method is Method.HRKD, self.graph or Graph.UNIFORM
        relates = graph in PROTOTYPE_GRAPHS
        zero = "" if self.method is Method.LOGITS else "--hidden-weight 0 "
        learns = self.compares_layers or self.compares_predictions or self.label_weight or self.method is Method.LABELS
        learned = ("graph_every", "graph_learning_rate", "held_back")
        idle = [name for name in learned if getattr(self, name) != options_of(type(self))[name].default]
        wrong = None
        if self.means is Means.RELEASED and self.cache_teacher is CacheTeacher.ON:
            wrong = "--cache-teacher on: --means released looks at padding, which is not kept; leave one out"
        elif not learns:
            wrong = f"{zero}--prediction-weight 0: there is nothing left to learn from"
        elif self.unlabelled is not None and not (self.compares_layers or self.compares_predictions):
            wrong = "--unlabelled: texts without labels teach nothing where only labels are learnt from"
        elif not has_graph and self.graph not in (None, Graph.NONE):
            wrong = f"--graph: --method {self.method} has no domain graph; leave it out"
        elif not has_graph and self.hierarchy:
            wrong = f"--hierarchy: --method {self.method} has no domain graph; leave it out"
        elif has_graph and self.hidden_weight == 0 and (relates or self.hierarchy):
            wrong = "--hidden-weight 0: the graph weights hidden-state losses only; leave out --graph, --hierarchy"
        elif has_graph and self.hierarchy and not relates:
            wrong = f"--hierarchy: --graph {graph} looks at no prototypes; give --graph learned or frozen"
        elif idle and self.graph is not Graph.LEARNED:
            wrong = f"{option_name(idle[0])}: it needs --graph learned; leave it out"
        elif self.instance_weights is not InstanceWeights.NONE and not self.compares_layers:
            wrong = "--instance-weights: it needs hidden states that are compared; leave it out"
        if wrong:
            raise UsageError(wrong)


@dataclass(frozen=True, kw_only=True)
class DistillArguments(DistillSettings):
    """Arguments of ``distill``."""

    teacher: str = option(
        str(layout.TEACHER_OUT),
        "A teacher, a fine-tuned classifier with the data's labels, or a plain encoder, to be taught first.",
        metavar="ID_OR_DIR",
    )
    data: str = _data()
    out: Path = output(layout.STUDENT_OUT)
    resume: bool = _resume()
    force: bool = force_option()
