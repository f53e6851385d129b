"""Options of ``teach`` and ``distill``: name, type, default, help text and bounds of each.

``TrainingSettings`` is what a ``teach`` run records, ``DistillSettings`` what a ``distill`` run records. The
``Arguments`` classes add inputs and outputs; their fields are the keyword arguments of the public functions. Defaults
follow the paper where it gives a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from hrkd_cli import layout
from hrkd_cli.choices import (
    RECIPES,
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
    TeacherCheckpoints,
    Tracker,
    Truncate,
)
from hrkd_cli.errors import UsageError
from hrkd_cli.options import Range, Settings, option, option_name, options_of

AUTO_BATCH = "auto"
DEFAULT_SEED = 42
PROTOTYPE_GRAPHS = (Graph.LEARNED, Graph.FROZEN)  # those that compute the ratios from prototypes

AT_LEAST_1, AT_LEAST_0 = Range(1), Range(0)
ABOVE_0 = Range(0, exclude_low=True)
FRACTION, OPEN_FRACTION = Range(0, 1), Range(0, 1, exclude_low=True, exclude_high=True)

METHOD_PANEL, TEXT_PANEL, TRAINING_PANEL = "Method", "Unlabeled text", "Training options"
EXTENSION_PANEL = "New domains for a finished student"

_training = partial(option, panel=TRAINING_PANEL)
_count = partial(_training, metavar="N", bounds=AT_LEAST_1)
_rate = partial(_training, metavar="RATE", bounds=ABOVE_0)
_method = partial(option, panel=METHOD_PANEL)
_weight = partial(_method, metavar="X", bounds=AT_LEAST_0)
_fraction = partial(_method, metavar="FRACTION", bounds=OPEN_FRACTION)
_text = partial(option, panel=TEXT_PANEL)
_extension = partial(option, panel=EXTENSION_PANEL)
shared_option = partial(option, panel=None)
output_option = partial(option, help="Folder to write; must not exist unless --force is given.", metavar="DIR")
seed_option = partial(shared_option, DEFAULT_SEED, "Random seed.", metavar="N", bounds=Range(0, 2**63 - 1))
force_option = partial(shared_option, False, "Replace an existing output of this command.")
_force = partial(
    shared_option, False, "Replace an existing output of this command, and of the stages that it runs first."
)
_resume = partial(_training, False, "Resume an interrupted run, or start a new one if there is none.")
_data = partial(
    option,
    str(layout.DATASET_OUT),
    "Prepared dataset folder, or a raw source (file, folder, hub id, or sample), which is prepared first.",
    metavar="DIR_OR_RAW",
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """Options that a ``teach`` run records, and that teach and distill share."""

    epochs: int | None = _count(
        None, "Passes over the data.", default_text="3, or as many as 300 steps need; ends when dev stalls"
    )
    batch_size: int | str = _count(
        8, "Rows per domain per step, over all processes; auto: as many as fit in memory, up to 32.", keyword=AUTO_BATCH
    )
    accumulate: int = _count(1, "Batches per optimizer step; their losses are averaged.")
    learning_rate: float | None = _rate(
        None, "Peak learning rate of AdamW.", default_text="5e-5 for BERT-base, higher for smaller models"
    )
    weight_decay: float = _weight(0.01, "AdamW weight decay; not applied to biases and norms.", panel=TRAINING_PANEL)
    warmup: float = _training(0.1, "Fraction of the steps for linear warm-up.", metavar="FRACTION", bounds=FRACTION)
    max_length: int | None = _training(
        None,
        "Tokens per text; longer texts are truncated.",
        metavar="TOKENS",
        bounds=Range(4),
        default_text="enough for 95% of the texts, from 128 to 256",
    )
    truncate: Truncate = _training(
        Truncate.HEAD, "Tokens of longer texts to keep: the first, the last, or half from each end."
    )
    precision: Precision = _training(Precision.AUTO, "Training arithmetic; auto: bf16 where supported, else fp32.")
    eval_every: int | None = _count(
        None, "Steps between dev evaluations.", metavar="STEPS", default_text="twice an epoch, about 20 times at most"
    )
    metric: Metric = _training(Metric.ACCURACY, "Dev score that selects the best step.")
    class_weights: ClassWeights = _training(
        ClassWeights.NONE, "Class weights in the loss; balanced: higher for rare classes."
    )
    domain_weight: float = _weight(
        0.1,
        "Weight of the loss that trains the model to tell the domains apart, for texts of unknown domain; 0: off.",
        panel=TRAINING_PANEL,
    )
    probe: bool = _training(
        True,
        "Start a teacher from logistic regression on the frozen encoder, which also chooses between the first token "
        "and the mean of all tokens.",
    )
    cosine_loss: bool | None = _training(
        None, "Train a teacher on similarities, and fit its heads.", default_text="with --probe and up to 1,000 rows"
    )
    patience: int | None = _count(
        None, "Stop after N dev evaluations without improvement.", default_text="10; with --epochs, never"
    )
    checkpoint_every: int | None = _count(
        None,
        "Steps between checkpoints; Ctrl-C and SIGTERM also write one.",
        metavar="STEPS",
        default_text="every two minutes",
        affects_result=False,
    )
    processes: int | None = _count(
        None,
        "Processes that share each step: one per GPU, or a few on a CPU.",
        default_text="those of torchrun, or one",
        affects_result=False,
    )
    threads: int | None = _count(
        None,
        "CPU threads of each process; 1 is often faster if other programs use the CPU.",
        default_text="one per core, or one if a trial on a busy CPU shows that it is faster",
        affects_result=False,
    )
    log_to: Tracker | None = _training(
        None,
        "Also log metrics, options and final scores to this experiment tracker, which must be installed.",
        default_text="metrics.jsonl only",
        affects_result=False,
    )
    seed: int = seed_option()
    device: Device = shared_option(
        Device.AUTO, "Device to run on; auto prefers CUDA, then MPS, then CPU.", affects_result=False
    )


@dataclass(frozen=True, kw_only=True)
class TeachArguments(TrainingSettings):
    """Arguments of ``teach``."""

    model: str = option("", "Encoder to fine-tune: a folder or a hub id. Required.", metavar="ID_OR_DIR")
    data: str = _data()
    out: Path = output_option(layout.TEACHER_OUT)
    resume: bool = _resume()
    force: bool = _force()

    def check(self) -> None:
        """Check that there is an encoder."""
        if not self.model:
            raise UsageError(
                "--model is required: the encoder to start from, such as --model google-bert/bert-base-uncased"
            )


# Options that change nothing with --extend.
NOT_EXTENDING = ("student", "new_domains", "probe", "cosine_loss", "teacher_epochs", "teacher_learning_rate")
# Values that options may have where they have no effect.
OFF = {"hidden_weight": 0.0, "attention_weight": 0.0, "prediction_weight": 0.0, "cache_teacher": CacheTeacher.OFF}


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainingSettings):
    """Options that a ``distill`` run records.

    The 10 epochs are the paper's. The learning rate is higher: the paper's 5e-5 leaves a small student
    undertrained (docs/ablations.md).
    """

    student: str | None = option(
        None,
        "tiny, small, medium, base, large, or LAYERSxWIDTH like 4x312; or a pretrained student, a folder or a hub id.",
        metavar="SIZE_OR_ID_OR_DIR",
        default_text="small (4x312, or half the layers); medium for pairs; large with up to 1,000 train rows",
    )
    init: Init | None = option(None, "Initial weights of a student that is not pretrained.", default_text="teacher")
    recipe: Recipe = _method(
        Recipe.OURS,
        "Defaults for options that are not set; paper: those of the authors' released code.",
        affects_result=False,
    )
    method: Method = _method(
        Method.HRKD,
        "hrkd: domains weighted by a graph; tinybert: no graph; logits: predictions only; labels: no teacher.",
    )
    graph: Graph | None = _method(
        None,
        "Domain ratios. learned: trained on held-back rows; frozen: random, as in the released code; uniform: 1/D; "
        "none: 1.",
        default_text="uniform; none without --method hrkd",
    )
    hierarchy: bool | None = _method(
        None,
        "Mix each domain's prototypes over layers before the graph.",
        default_text="yes with --graph learned or frozen",
    )
    graph_every: int = _count(10, "Steps between updates of a learned graph.", panel=METHOD_PANEL)
    graph_learning_rate: float = _rate(3e-3, "Learning rate of a learned graph.", panel=METHOD_PANEL)
    held_back: float = _fraction(0.1, "Fraction of train rows that train a learned graph; the encoder never sees them.")
    domains: str | None = _method(None, "Train the student for these domains only.", metavar="A,B", default_text="all")
    teacher_checkpoints: TeacherCheckpoints = _method(
        TeacherCheckpoints.DOMAIN, "Teacher of each domain: the best step for that domain, or the best step on average."
    )
    hidden_weight: float = _weight(1.0, "Weight of the losses of layers: hidden states and attention.")
    attention_weight: float = _weight(1.0, "Weight of the attention loss among them.")
    prediction_weight: float = _weight(1.0, "Weight of the prediction loss.")
    label_weight: float = _weight(0.0, "Weight of the cross-entropy against the labels.")
    wide: bool = _method(
        True, "Add linear weights on tokens and token pairs to the student if they improve its dev predictions."
    )
    instance_weights: InstanceWeights = _method(
        InstanceWeights.NONE,
        "Weight rows by how typical they are across domains and how sure the teacher is of the label.",
    )
    temperature: float = _method(1.0, "Softmax temperature of teacher and student.", metavar="T", bounds=ABOVE_0)
    means: Means = _method(
        Means.MASKED, "Average over valid tokens only, or over padding too, as the released code does."
    )
    allow_weak_teacher: bool = _method(
        False, "Continue if the teacher does not beat the majority class in some domain.", affects_result=False
    )
    unlabelled: str | None = _text(
        None, "Unlabeled texts of the same domains, to train the student on as well.", metavar="DIR"
    )
    augment: int | None = _text(
        None,
        "Mixed texts per train row: parts of train texts, for which the teacher's predictions are the target.",
        metavar="N",
        bounds=AT_LEAST_0,
        default_text="3 to 10 with up to 1,000 train rows, else 0; 0 with --unlabelled or --graph learned",
    )
    new_domains: str | None = _text(
        None,
        "Domains that have only --unlabelled texts. The student learns them from the teacher's other heads.",
        metavar="A,B",
        default_text="none",
    )
    unlabelled_share: float = _fraction(
        0.5, "Unlabeled fraction of each domain's rows per step, on top of --batch-size.", panel=TEXT_PANEL
    )
    extend: str | None = _extension(
        None,
        "A finished student, to which the new domains of --data are added. They are learned from their labels, without "
        "--teacher.",
        metavar="ID_OR_DIR",
    )
    retention_weight: float = _weight(
        1.0, "Weight of the loss that keeps the student's answers for its old domains.", panel=EXTENSION_PANEL
    )
    max_drop: float = _extension(
        2.0,
        "Points of accuracy that an old domain may lose on texts of its own. If one loses more: exit code 3 and no "
        "student.",
        metavar="POINTS",
        bounds=AT_LEAST_0,
        affects_result=False,
    )
    epochs: int | None = _count(
        None, "Passes over the data.", default_text="10, or as many as 600 steps need; ends when dev stalls"
    )
    teacher_epochs: int | None = _count(
        None, "Passes over the data if the teacher is trained first.", default_text="see teach"
    )
    teacher_learning_rate: float | None = _rate(
        None, "Peak learning rate if the teacher is trained first.", default_text="see teach"
    )
    cache_teacher: CacheTeacher = _training(
        CacheTeacher.AUTO, "Compute the teacher's outputs once and cache them on disk; auto does so on a CPU."
    )

    @classmethod
    def recipe_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe's values for options that are not given, except those that the given options rule out."""
        recipe = RECIPES.get(options.get("recipe", ""), {})
        if options.get("extend") is not None:
            of_student = (*NOT_EXTENDING, "max_length", "truncate")
            recipe = {name: value for name, value in recipe.items() if name not in of_student}
            recipe["method"] = Method.LABELS
        defaults = {name: value for name, value in recipe.items() if name not in options}
        if {**defaults, **options}.get("method", Method.HRKD) != Method.HRKD or options.get("hidden_weight", 1.0) == 0:
            defaults.pop("graph", None)
        return defaults

    @property
    def compares_layers(self) -> bool:
        """Whether hidden states, and attention scores if they have a weight, are compared."""
        return self.hidden_weight > 0 and self.method in (Method.HRKD, Method.TINYBERT)

    @property
    def compares_predictions(self) -> bool:
        """Whether the predictions of student and teacher are compared."""
        return self.prediction_weight > 0 and self.method is not Method.LABELS

    @property
    def uses_teacher(self) -> bool:
        """Whether any loss compares student and teacher."""
        return self.compares_layers or self.compares_predictions

    @property
    def can_augment(self) -> bool:
        """Whether the student can learn from texts mixed from train texts; a learned graph may not see all of those."""
        return self.uses_teacher and self.extend is None and self.unlabelled is None and self.graph is not Graph.LEARNED

    def resolve(self) -> Self:
        """Return settings with the defaults that depend on other options: graph, hierarchy, init, loss weights."""
        graph = self.graph or (Graph.UNIFORM if self.method is Method.HRKD else Graph.NONE)
        hierarchy = graph in PROTOTYPE_GRAPHS if self.hierarchy is None else self.hierarchy
        weights: dict[str, Any] = {}
        if self.method is Method.LABELS:
            weights = {"hidden_weight": 0.0, "prediction_weight": 0.0, "label_weight": self.label_weight or 1.0}
        return replace(self, graph=graph, hierarchy=hierarchy, init=self.init or Init.TEACHER, **weights)

    def check(self) -> None:
        """Check that options do not contradict each other, that there is a loss, and that no option has no effect."""
        has_graph, graph = self.method is Method.HRKD, self.graph or Graph.UNIFORM
        uses_prototypes = graph in PROTOTYPE_GRAPHS
        if problem := _describe_unused_option(self):
            raise UsageError(problem)
        if self.extend is not None and (self.method is not Method.LABELS or self.init is Init.RANDOM):
            problem = "--extend: it trains the student's weights by --method labels; remove --method and --init"
        elif self.means is Means.RELEASED and self.cache_teacher is CacheTeacher.ON:
            problem = (
                "--cache-teacher on: --means released (--recipe paper) uses padding, which is not cached; remove one"
            )
        elif not (self.uses_teacher or self.label_weight or self.method is Method.LABELS):
            hidden = "" if self.method is Method.LOGITS else "--hidden-weight 0 "
            problem = f"{hidden}--prediction-weight 0: no loss is left; set at least one loss weight above 0"
        elif self.unlabelled is not None and not self.uses_teacher and self.extend is None:
            problem = (
                "--unlabelled: texts without labels need a loss that compares with the teacher; remove it, or choose "
                "--method hrkd or logits"
            )
        elif self.augment and not self.can_augment:
            problem = "--augment: it excludes --unlabelled, --extend, --graph learned and learning from labels only"
        elif self.new_domains is not None and self.unlabelled is None:
            problem = "--new-domains: it requires texts of these domains; add --unlabelled"
        elif self.new_domains is not None and not self.compares_predictions:
            problem = "--new-domains: only the prediction loss trains their heads; remove --prediction-weight 0"
        elif not has_graph and self.graph not in (None, Graph.NONE):
            problem = f"--graph: --method {self.method} has no domain graph; remove it"
        elif not has_graph and self.hierarchy:
            problem = f"--hierarchy: --method {self.method} has no domain graph; remove it"
        elif has_graph and self.hidden_weight == 0 and (uses_prototypes or self.hierarchy):
            problem = "--hidden-weight 0: the graph weights hidden-state losses only; remove --graph and --hierarchy"
        elif has_graph and self.hierarchy and not uses_prototypes:
            problem = f"--hierarchy: --graph {graph} does not use prototypes; use --graph learned or frozen"
        if problem:
            raise UsageError(problem)


def _describe_unused_option(settings: DistillSettings) -> str | None:
    """Return a message on the first option that was changed but has no effect together with the others."""
    extends, learned_graph = settings.extend is not None, settings.graph is Graph.LEARNED
    layers, predictions = settings.compares_layers, settings.compares_predictions
    conditions = [
        (extends, "requires --extend", ("retention_weight", "max_drop")),
        (not extends, "excludes --extend", NOT_EXTENDING),
        (learned_graph, "requires --graph learned", ("graph_every", "graph_learning_rate", "held_back")),
        (layers, "requires a hidden-state loss", ("hidden_weight", "attention_weight", "instance_weights")),
        (predictions, "requires a prediction loss", ("prediction_weight",)),
        (settings.uses_teacher, "requires a loss that uses the teacher", ("cache_teacher", "teacher_checkpoints")),
        (predictions or extends, "requires a prediction loss", ("temperature",)),
    ]
    unused = [(name, reason) for is_met, reason, names in conditions if not is_met for name in names]
    for name, reason in unused:
        value = getattr(settings, name)
        if value not in (options_of(type(settings))[name].default, OFF.get(name)):
            return f"{option_name(name, value)}: it {reason}; remove it"
    return None


@dataclass(frozen=True, kw_only=True)
class DistillArguments(DistillSettings):
    """Arguments of ``distill``."""

    teacher: str = option(
        str(layout.TEACHER_OUT),
        "A teacher, another classifier with the data's labels, or a plain encoder, which is fine-tuned first.",
        metavar="ID_OR_DIR",
    )
    data: str = _data()
    out: Path | None = output_option(None, default_text="hrkd-out/student; hrkd-out/student-extended with --extend")
    dry_run: bool = option(False, "Show steps, time, memory and sizes of the run, and write nothing.")
    resume: bool = _resume()
    force: bool = _force()
