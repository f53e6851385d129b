"""``hrkd teach``: a dataset and an encoder in, a teacher for all domains out."""

from __future__ import annotations

from typing import Annotated

import typer

from hrkd_cli import layout
from hrkd_cli.cli import launch, options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.cli.settings import chosen, sources
from hrkd_cli.config import ClassWeights, Device, Metric, Precision, Sampling, TeachSettings, Truncate
from hrkd_cli.errors import UsageError

EXAMPLES = """\b
Examples:
  hrkd teach --model google-bert/bert-base-uncased
  hrkd teach --model ./encoder --data ./reviews --epochs 2"""

_DEFAULT = TeachSettings()


def teach(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID_OR_DIR", help="Encoder to start from: a folder or a hub id. Required."),
    ] = None,
    data: options.TrainData = str(layout.DATASET_OUT),
    out: options.Out = layout.TEACHER_OUT,
    epochs: options.Epochs = _DEFAULT.epochs,
    batch_size: options.BatchSize = str(_DEFAULT.batch_size),
    accumulate: options.Accumulate = _DEFAULT.accumulate,
    learning_rate: options.LearningRate = _DEFAULT.learning_rate,
    weight_decay: options.WeightDecay = _DEFAULT.weight_decay,
    warmup: options.Warmup = _DEFAULT.warmup,
    max_length: options.MaxLength = _DEFAULT.max_length,
    truncate: options.Truncate = Truncate.HEAD,
    sampling: options.Sampling = Sampling.COVER,
    precision: options.Precision = Precision.AUTO,
    eval_every: options.EvalEvery = None,
    metric: options.Metric = Metric.ACCURACY,
    class_weights: options.ClassWeights = ClassWeights.NONE,
    patience: options.Patience = None,
    checkpoint_every: options.CheckpointEvery = None,
    resume: options.Resume = False,
    processes: options.Processes = None,
    seed: options.Seed = _DEFAULT.seed,
    device: options.Device = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.Force = False,
) -> None:
    """Fine-tune one encoder with a head for every domain.

    The best step on average is kept, and the best step of each domain beside it.
    """
    if not model:
        raise UsageError("--model is needed: the encoder to start from, like --model google-bert/bert-base-uncased")
    settings = chosen(ctx, TeachSettings)
    if launch.is_wanted(processes):
        raise typer.Exit(launch.run_together(processes or 1))
    with session(ctx) as run:
        from hrkd_cli.teaching.teach import teach as engine

        result = engine(
            model,
            data=data,
            out=out,
            force=force,
            resume=resume,
            on_event=run.on_event,
            sources=sources(ctx),
            **settings,
        )
    run.console.result(result.to_json(), tables.trained(result.to_json()))
    run.console.hint(f"teacher: {result.out}", "hrkd distill" + tables.option("--teacher", out, layout.TEACHER_OUT))
