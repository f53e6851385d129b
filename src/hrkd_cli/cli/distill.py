"""``hrkd distill``: a teacher and a dataset in, a student out."""

from __future__ import annotations

import typer

from hrkd_cli import config as choices
from hrkd_cli import layout
from hrkd_cli.cli import distill_options as own
from hrkd_cli.cli import launch, options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.cli.settings import chosen, sources

EXAMPLES = """\b
Examples:
  hrkd distill
  hrkd distill --student 4x312 --epochs 5
  hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews"""

_DEFAULT = choices.DistillSettings()


def distill(
    ctx: typer.Context,
    teacher: own.Teacher = str(layout.TEACHER_OUT),
    data: options.TrainData = str(layout.DATASET_OUT),
    out: options.Out = layout.STUDENT_OUT,
    student: own.Student = None,
    init: own.Init = None,
    recipe: own.Recipe = choices.Recipe.OURS,
    method: own.Method = choices.Method.HRKD,
    graph: own.Graph = None,
    hierarchy: own.Hierarchy = None,
    graph_every: own.GraphEvery = _DEFAULT.graph_every,
    graph_learning_rate: own.GraphLearningRate = _DEFAULT.graph_learning_rate,
    held_back: own.HeldBack = _DEFAULT.held_back,
    domains: own.Domains = None,
    teacher_checkpoints: own.TeacherCheckpoints = choices.TeacherCheckpoints.DOMAIN,
    hidden_weight: own.HiddenWeight = _DEFAULT.hidden_weight,
    attention_weight: own.AttentionWeight = _DEFAULT.attention_weight,
    prediction_weight: own.PredictionWeight = _DEFAULT.prediction_weight,
    label_weight: own.LabelWeight = _DEFAULT.label_weight,
    instance_weights: own.InstanceWeights = _DEFAULT.instance_weights,
    temperature: own.Temperature = _DEFAULT.temperature,
    means: own.Means = choices.Means.MASKED,
    allow_weak_teacher: own.AllowWeakTeacher = False,
    unlabelled: own.Unlabelled = None,
    unlabelled_share: own.UnlabelledShare = _DEFAULT.unlabelled_share,
    general: own.General = None,
    general_epochs: own.GeneralEpochs = _DEFAULT.general_epochs,
    cache_teacher: own.CacheTeacher = choices.CacheTeacher.AUTO,
    cache_limit: own.CacheLimit = _DEFAULT.cache_limit,
    teacher_epochs: own.TeacherEpochs = _DEFAULT.teacher_epochs,
    teacher_learning_rate: own.TeacherLearningRate = _DEFAULT.teacher_learning_rate,
    epochs: options.Epochs = _DEFAULT.epochs,
    batch_size: options.BatchSize = str(_DEFAULT.batch_size),
    accumulate: options.Accumulate = _DEFAULT.accumulate,
    learning_rate: options.LearningRate = _DEFAULT.learning_rate,
    weight_decay: options.WeightDecay = _DEFAULT.weight_decay,
    warmup: options.Warmup = _DEFAULT.warmup,
    max_length: options.MaxLength = _DEFAULT.max_length,
    truncate: options.Truncate = choices.Truncate.HEAD,
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
        from hrkd_cli.distillation.distill import distill as engine

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
