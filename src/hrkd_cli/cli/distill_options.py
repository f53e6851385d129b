"""Options of ``hrkd distill`` alone."""

from __future__ import annotations

from typing import Annotated

import typer

from hrkd_cli import config as choices
from hrkd_cli.cli import options

METHOD = "Method"
TEXTS = "More text"


Teacher = Annotated[
    str,
    typer.Option(
        "--teacher",
        metavar="ID_OR_DIR",
        help="A teacher, a fine-tuned classifier with the data's labels, or a plain encoder, to be taught first.",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="ID_OR_DIR_OR_LxW",
        help="A folder, a hub id, or LAYERSxWIDTH like 4x312.",
        show_default="4x312 from a 12-layer teacher, else half its layers",
    ),
]
Init = Annotated[
    choices.Init | None,
    typer.Option("--init", help="Where a LAYERSxWIDTH student's weights come from.", show_default="teacher"),
]
Recipe = Annotated[
    choices.Recipe,
    typer.Option(
        "--recipe",
        help="Where options that are not given come from; paper: as the paper's released code runs.",
        rich_help_panel=METHOD,
    ),
]
Method = Annotated[
    choices.Method,
    typer.Option(
        "--method",
        help="hrkd: domains related by a graph; tinybert: jointly, no graph; logits: answers only; labels: no teacher.",
        rich_help_panel=METHOD,
    ),
]
Graph = Annotated[
    choices.Graph | None,
    typer.Option(
        "--graph",
        help="Domain ratios. learned: on held-back rows; frozen: random, as released; uniform: all alike; none: all 1.",
        show_default="uniform; none with --method tinybert",
        rich_help_panel=METHOD,
    ),
]
Hierarchy = Annotated[
    bool | None,
    typer.Option(
        "--hierarchy/--no-hierarchy",
        help="Mix each domain's prototypes over layers before the graph.",
        show_default="yes with --graph learned or frozen",
        rich_help_panel=METHOD,
    ),
]
TeacherCheckpoints = Annotated[
    choices.TeacherCheckpoints,
    typer.Option(
        "--teacher-checkpoints",
        help="Teacher of a domain: the step that was best for it, or best on average.",
        rich_help_panel=METHOD,
    ),
]
HiddenWeight = Annotated[
    float,
    typer.Option("--hidden-weight", metavar="X", help="Weight of the hidden-state loss.", rich_help_panel=METHOD),
]
AttentionWeight = Annotated[
    float,
    typer.Option("--attention-weight", metavar="X", help="Weight of the attention loss.", rich_help_panel=METHOD),
]
PredictionWeight = Annotated[
    float,
    typer.Option("--prediction-weight", metavar="X", help="Weight of the prediction loss.", rich_help_panel=METHOD),
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", metavar="T", help="Divides both sides' logits.", rich_help_panel=METHOD),
]
CacheTeacher = Annotated[
    choices.CacheTeacher,
    typer.Option(
        "--cache-teacher",
        help="Compute the teacher's outputs once and keep them on disk; auto measures whether that pays.",
        rich_help_panel=options.TRAINING,
    ),
]
CacheLimit = Annotated[
    float,
    typer.Option(
        "--cache-limit",
        metavar="GB",
        help="Disk that kept teacher outputs may take; the oldest make way.",
        rich_help_panel=options.TRAINING,
    ),
]
Means = Annotated[
    choices.Means,
    typer.Option(
        "--means",
        help="Means over valid tokens only, or over padding too, as the released code has it.",
        rich_help_panel=METHOD,
    ),
]
AllowWeakTeacher = Annotated[
    bool,
    typer.Option(
        "--allow-weak-teacher",
        help="Go on when the teacher is not clearly above the majority class in some domain.",
        rich_help_panel=METHOD,
    ),
]
Unlabelled = Annotated[
    str | None,
    typer.Option(
        "--unlabelled",
        metavar="DIR",
        help="Texts without labels, a file a domain, that the student learns from too.",
        rich_help_panel=TEXTS,
    ),
]
UnlabelledShare = Annotated[
    float,
    typer.Option(
        "--unlabelled-share",
        metavar="X",
        help="Share (0 to 1) of a step's rows of a domain that are such texts, on top of --batch-size.",
        rich_help_panel=TEXTS,
    ),
]
TeacherEpochs = Annotated[
    int,
    typer.Option(
        "--teacher-epochs",
        metavar="N",
        help="Passes over the data where the teacher has to be taught first.",
        rich_help_panel=options.TRAINING,
    ),
]

TeacherLearningRate = Annotated[
    float,
    typer.Option(
        "--teacher-learning-rate",
        metavar="RATE",
        help="Peak rate of AdamW where the teacher has to be taught first.",
        rich_help_panel=options.TRAINING,
    ),
]

LabelWeight = Annotated[
    float,
    typer.Option(
        "--label-weight",
        metavar="X",
        help="Weight of the cross-entropy against the labels, mixed into the loss.",
        rich_help_panel=METHOD,
    ),
]
InstanceWeights = Annotated[
    choices.InstanceWeights,
    typer.Option(
        "--instance-weights",
        help="Weigh rows by what they share with all domains and how well the teacher knows them.",
        rich_help_panel=METHOD,
    ),
]
GraphEvery = Annotated[
    int,
    typer.Option(
        "--graph-every", metavar="N", help="Steps between two updates of a learned graph.", rich_help_panel=METHOD
    ),
]
GraphLearningRate = Annotated[
    float,
    typer.Option(
        "--graph-learning-rate", metavar="RATE", help="Rate at which a learned graph moves.", rich_help_panel=METHOD
    ),
]
HeldBack = Annotated[
    float,
    typer.Option(
        "--held-back",
        metavar="X",
        help="Share of the train rows that a learned graph is judged on; the student never sees them.",
        rich_help_panel=METHOD,
    ),
]
Domains = Annotated[
    str | None,
    typer.Option(
        "--domains",
        metavar="A,B",
        help="Make a student for these domains only.",
        show_default="all",
        rich_help_panel=METHOD,
    ),
]
General = Annotated[
    str | None,
    typer.Option(
        "--general",
        metavar="TEXTS",
        help="File or folder of any texts, from which the student learns its teacher's hidden states first.",
        rich_help_panel=TEXTS,
    ),
]
GeneralEpochs = Annotated[
    int,
    typer.Option("--general-epochs", metavar="N", help="Passes over those texts.", rich_help_panel=TEXTS),
]
