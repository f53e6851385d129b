"""``hrkd distill``: a teacher and a dataset in, a student out."""

from __future__ import annotations

from typing import Annotated

import typer

from hrkd_cli import config as choices
from hrkd_cli import layout
from hrkd_cli.cli import launch, options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.cli.settings import chosen, sources

EXAMPLES = """\b
Examples:
  hrkd distill
  hrkd distill --student 4x312 --epochs 5
  hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews"""

_DEFAULT = choices.DistillSettings()
_METHOD = "Method"
_TEXTS = "More text"


_Teacher = Annotated[
    str,
    typer.Option(
        "--teacher",
        metavar="ID_OR_DIR",
        help="A teacher, a fine-tuned classifier with the data's labels, or a plain encoder, to be taught first.",
    ),
]
_Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="ID_OR_DIR_OR_LxW",
        help="A folder, a hub id, or LAYERSxWIDTH like 4x312.",
        show_default="4x312 from a 12-layer teacher, else half its layers",
    ),
]
_Init = Annotated[
    choices.Init | None,
    typer.Option("--init", help="Where a LAYERSxWIDTH student's weights come from.", show_default="teacher"),
]
_Method = Annotated[
    choices.Method,
    typer.Option(
        "--method",
        help="hrkd: domains related by a graph; tinybert: all domains jointly, no graph; logits: answers only.",
        rich_help_panel=_METHOD,
    ),
]
_Graph = Annotated[
    choices.Graph | None,
    typer.Option(
        "--graph",
        help="Domain ratios. frozen: a random graph, as released; uniform: all alike; none: every ratio 1.",
        show_default="frozen with --method hrkd",
        rich_help_panel=_METHOD,
    ),
]
_Hierarchy = Annotated[
    bool | None,
    typer.Option(
        "--hierarchy/--no-hierarchy",
        help="Mix each domain's prototypes over layers before the graph.",
        show_default="yes where there is a graph",
        rich_help_panel=_METHOD,
    ),
]
_TeacherCheckpoints = Annotated[
    choices.TeacherCheckpoints,
    typer.Option(
        "--teacher-checkpoints",
        help="Teacher of a domain: the step that was best for it, or best on average.",
        rich_help_panel=_METHOD,
    ),
]
_HiddenWeight = Annotated[
    float,
    typer.Option("--hidden-weight", metavar="X", help="Weight of the hidden-state loss.", rich_help_panel=_METHOD),
]
_AttentionWeight = Annotated[
    float,
    typer.Option("--attention-weight", metavar="X", help="Weight of the attention loss.", rich_help_panel=_METHOD),
]
_PredictionWeight = Annotated[
    float,
    typer.Option("--prediction-weight", metavar="X", help="Weight of the prediction loss.", rich_help_panel=_METHOD),
]
_Temperature = Annotated[
    float,
    typer.Option("--temperature", metavar="T", help="Divides both sides' logits.", rich_help_panel=_METHOD),
]
_CacheTeacher = Annotated[
    choices.CacheTeacher,
    typer.Option(
        "--cache-teacher",
        help="Compute the teacher's outputs once and keep them on disk; auto measures whether that pays.",
        rich_help_panel=options.TRAINING,
    ),
]
_CacheLimit = Annotated[
    float,
    typer.Option(
        "--cache-limit",
        metavar="GB",
        help="Disk that kept teacher outputs may take; the oldest make way.",
        rich_help_panel=options.TRAINING,
    ),
]
_Means = Annotated[
    choices.Means,
    typer.Option(
        "--means",
        help="Means over valid tokens only, or over padding too, as the released code has it.",
        rich_help_panel=_METHOD,
    ),
]
_AllowWeakTeacher = Annotated[
    bool,
    typer.Option(
        "--allow-weak-teacher",
        help="Go on when the teacher is not clearly above the majority class in some domain.",
        rich_help_panel=_METHOD,
    ),
]
_Unlabelled = Annotated[
    str | None,
    typer.Option(
        "--unlabelled",
        metavar="DIR",
        help="Texts without labels, a file a domain, that the student learns from too.",
        rich_help_panel=_TEXTS,
    ),
]
_UnlabelledShare = Annotated[
    float,
    typer.Option(
        "--unlabelled-share",
        metavar="X",
        help="Share (0 to 1) of a step's rows of a domain that are such texts, on top of --batch-size.",
        rich_help_panel=_TEXTS,
    ),
]
_General = Annotated[
    str | None,
    typer.Option(
        "--general",
        metavar="TEXTS",
        help="File or folder of any texts, from which the student learns its teacher's hidden states first.",
        rich_help_panel=_TEXTS,
    ),
]
_GeneralEpochs = Annotated[
    int,
    typer.Option("--general-epochs", metavar="N", help="Passes over those texts.", rich_help_panel=_TEXTS),
]
_TeacherEpochs = Annotated[
    int,
    typer.Option(
        "--teacher-epochs",
        metavar="N",
        help="Passes over the data where the teacher has to be taught first.",
        rich_help_panel=options.TRAINING,
    ),
]

_TeacherLearningRate = Annotated[
    float,
    typer.Option(
        "--teacher-learning-rate",
        metavar="RATE",
        help="Peak rate of AdamW where the teacher has to be taught first.",
        rich_help_panel=options.TRAINING,
    ),
]


def distill(
    ctx: typer.Context,
    teacher: _Teacher = str(layout.TEACHER_OUT),
    data: options.TrainData = str(layout.DATASET_OUT),
    out: options.Out = layout.STUDENT_OUT,
    student: _Student = None,
    init: _Init = None,
    method: _Method = choices.Method.HRKD,
    graph: _Graph = None,
    hierarchy: _Hierarchy = None,
    teacher_checkpoints: _TeacherCheckpoints = choices.TeacherCheckpoints.DOMAIN,
    hidden_weight: _HiddenWeight = _DEFAULT.hidden_weight,
    attention_weight: _AttentionWeight = _DEFAULT.attention_weight,
    prediction_weight: _PredictionWeight = _DEFAULT.prediction_weight,
    temperature: _Temperature = _DEFAULT.temperature,
    means: _Means = choices.Means.MASKED,
    allow_weak_teacher: _AllowWeakTeacher = False,
    unlabelled: _Unlabelled = None,
    unlabelled_share: _UnlabelledShare = _DEFAULT.unlabelled_share,
    general: _General = None,
    general_epochs: _GeneralEpochs = _DEFAULT.general_epochs,
    cache_teacher: _CacheTeacher = choices.CacheTeacher.AUTO,
    cache_limit: _CacheLimit = _DEFAULT.cache_limit,
    teacher_epochs: _TeacherEpochs = _DEFAULT.teacher_epochs,
    teacher_learning_rate: _TeacherLearningRate = _DEFAULT.teacher_learning_rate,
    epochs: options.Epochs = _DEFAULT.epochs,
    batch_size: options.BatchSize = str(_DEFAULT.batch_size),
    accumulate: options.Accumulate = _DEFAULT.accumulate,
    learning_rate: options.LearningRate = _DEFAULT.learning_rate,
    weight_decay: options.WeightDecay = _DEFAULT.weight_decay,
    warmup: options.Warmup = _DEFAULT.warmup,
    max_length: options.MaxLength = _DEFAULT.max_length,
    sampling: options.Sampling = choices.Sampling.COVER,
    precision: options.Precision = choices.Precision.AUTO,
    eval_every: options.EvalEvery = None,
    metric: options.Metric = choices.Metric.ACCURACY,
    class_weights: options.ClassWeights = choices.ClassWeights.NONE,
    patience: options.Patience = None,
    checkpoint_every: options.CheckpointEvery = None,
    resume: options.Resume = False,
    processes: options.Processes = None,
    seed: options.Seed = _DEFAULT.seed,
    device: options.Device = choices.Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.Force = False,
) -> None:
    """Distil a teacher into a small student for all domains.

    With a plain encoder as --teacher or raw --data the stages before are run first, and reused while nothing changes.
    """
    settings = chosen(ctx, choices.DistillSettings)
    if launch.is_wanted(processes):
        raise typer.Exit(launch.run_together(processes or 1))
    with session(ctx) as run:
        from hrkd_cli.train.distill import distill as engine

        result = engine(
            teacher,
            data=data,
            out=out,
            force=force,
            resume=resume,
            on_event=run.on_event,
            sources=sources(ctx),
            **settings,
        )
    run.console.result(result.to_json(), tables.trained(result.to_json()))
    folder = "" if out == layout.STUDENT_OUT else f" {out}"
    run.console.hint(f"student: {result.out}", f"hrkd export{folder} --int8")
