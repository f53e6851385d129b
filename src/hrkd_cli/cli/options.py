"""Options that more than one command has, as types; each command's signature gives the default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrkd_cli import config
from hrkd_cli.cli.settings import read_settings

SHARED = "Shared options"
TRAINING = "Training options"
COLUMNS = "Columns of raw data"

NO_EFFECT = "No effect here:"

# ---- shared by all commands

Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", rich_help_panel=SHARED)]
SeedUnused = Annotated[
    int, typer.Option("--seed", help=f"{NO_EFFECT} nothing is random.", rich_help_panel=SHARED, show_default=False)
]
Device = Annotated[
    config.Device,
    typer.Option(
        "--device", help="Where tensors live; auto takes CUDA, then MPS, then the CPU.", rich_help_panel=SHARED
    ),
]
DeviceUnused = Annotated[
    config.Device,
    typer.Option("--device", help=f"{NO_EFFECT} it runs on the CPU.", rich_help_panel=SHARED, show_default=False),
]
TorchDevice = Annotated[
    config.Device,
    typer.Option(
        "--device", help="Where a model folder's tensors live; ONNX files run on the CPU.", rich_help_panel=SHARED
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.", rich_help_panel=SHARED)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Results, warnings and errors only.", rich_help_panel=SHARED)
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Every step, and what the libraries have to say.", rich_help_panel=SHARED),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file of options: top-level keys for every command, a table ([distill]) for one. "
        "Flag > environment HRKD_* > file > default.",
        rich_help_panel=SHARED,
        is_eager=True,
        callback=read_settings,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing output of this command.", rich_help_panel=SHARED)
]
ForceUnused = Annotated[bool, typer.Option("--force", help=f"{NO_EFFECT} no file is written.", rich_help_panel=SHARED)]

# ---- inputs and outputs

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not exist, or --force.")]
TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR_OR_RAW",
        help="Prepared dataset folder, or a raw source (file, folder, hub id, or sample), which is prepared first.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.", show_default="the runtime's choice")
]

# ---- training, the same in teach and distill

Epochs = Annotated[int, typer.Option("--epochs", metavar="N", help="Passes over the data.", rich_help_panel=TRAINING)]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Rows of each domain in a step, over all processes; auto: as many as memory holds, up to 32.",
        rich_help_panel=TRAINING,
    ),
]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate",
        metavar="N",
        help="Batches that make one optimiser step; their losses are averaged.",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float, typer.Option("--learning-rate", metavar="RATE", help="Peak rate of AdamW.", rich_help_panel=TRAINING)
]
WeightDecay = Annotated[
    float,
    typer.Option(
        "--weight-decay", metavar="X", help="Of AdamW; biases and normalisation are spared.", rich_help_panel=TRAINING
    ),
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup",
        metavar="SHARE",
        help="Share of the steps (0 to 1) over which the rate rises.",
        rich_help_panel=TRAINING,
    ),
]
MaxLength = Annotated[
    int, typer.Option("--max-length", metavar="TOKENS", help="Longer texts are cut.", rich_help_panel=TRAINING)
]
Truncate = Annotated[
    config.Truncate,
    typer.Option(
        "--truncate",
        help="What is kept of longer texts: the first tokens, the last, or half from each end.",
        rich_help_panel=TRAINING,
    ),
]
Sampling = Annotated[
    config.Sampling,
    typer.Option(
        "--sampling",
        help="Rows of a step. cover: every row once an epoch; balanced: domains alike; temperature: in between.",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    config.Precision,
    typer.Option(
        "--precision",
        help="Arithmetic of forward and backward passes; auto takes bf16 where the hardware has it, else fp32.",
        rich_help_panel=TRAINING,
    ),
]
EvalEvery = Annotated[
    int | None,
    typer.Option(
        "--eval-every",
        metavar="STEPS",
        help="Steps between two dev scores.",
        show_default="twice an epoch",
        rich_help_panel=TRAINING,
    ),
]
Metric = Annotated[
    config.Metric,
    typer.Option("--metric", help="Dev score that decides which step is best.", rich_help_panel=TRAINING),
]
ClassWeights = Annotated[
    config.ClassWeights,
    typer.Option(
        "--class-weights",
        help="Weight of a class in the loss; balanced: rare ones count more.",
        rich_help_panel=TRAINING,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        metavar="N",
        help="Stop after N dev scores without a better average.",
        show_default="never",
        rich_help_panel=TRAINING,
    ),
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        metavar="STEPS",
        help="Steps between two checkpoints; Ctrl-C and SIGTERM write one too.",
        show_default="every two minutes",
        rich_help_panel=TRAINING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a run that was cut off; starts anew where there is none.",
        rich_help_panel=TRAINING,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        help="Processes that share every step: one a GPU, or a few on a CPU.",
        show_default="those of torchrun, or one",
        rich_help_panel=TRAINING,
    ),
]
