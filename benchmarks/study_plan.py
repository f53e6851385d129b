"""What `study.py` compares: methods (rows), columns (data and sizes) and plans (sets of columns)."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# What an option's value is given by on the command line; results are stored with the mark, not with a machine's path.
STUDENT, UNLABELLED = "@student", "@unlabelled"
EACH = "@each"  # as the value of `domains`: a student for each domain, one after the other

METHODS: dict[str, dict[str, Any]] = {
    "labels": {"method": "labels"},
    "logits": {"method": "logits"},
    "uniform": {"graph": "uniform"},
    "frozen": {"graph": "frozen"},
    "learned": {"graph": "learned"},
    "no-hierarchy": {"graph": "frozen", "hierarchy": False},
    "one-domain": {"method": "tinybert", "domains": EACH},
    "meta-kd": {"graph": "uniform", "instance_weights": "meta-kd"},
    "paper": {"recipe": "paper"},
    "label-loss": {"label_weight": 1.0},
    "logits+labels": {"method": "logits", "label_weight": 1.0},
    "texts": {"graph": "uniform", "unlabelled": UNLABELLED},
    "logits+texts": {"method": "logits", "unlabelled": UNLABELLED},
    "all": {"graph": "uniform", "unlabelled": UNLABELLED, "label_weight": 1.0},
    "then-answers": {"graph": "uniform", "compare_until": 0.5},
    "then-answers+labels": {"graph": "uniform", "compare_until": 0.5, "label_weight": 1.0},
    "then-answers+texts": {"graph": "uniform", "compare_until": 0.5, "unlabelled": UNLABELLED},
    "learned-then-answers": {"graph": "learned", "compare_until": 0.5},
    "frozen-then-answers": {"graph": "frozen", "compare_until": 0.5},
    "slower": {"graph": "uniform", "learning_rate": 1e-4},
    "logits-slower": {"method": "logits", "learning_rate": 1e-4},
    "logits-slower+texts": {"method": "logits", "learning_rate": 1e-4, "unlabelled": UNLABELLED},
    "relative": {"graph": "uniform", "loss_scale": "relative"},
    "relative-learned": {"graph": "learned", "loss_scale": "relative"},
    "relative-balanced": {"graph": "uniform", "loss_scale": "relative", "hidden_weight": 0.1},
    "from-teacher+logits": {"student": "3x384", "method": "logits"},
    "from-teacher+uniform": {"student": "3x384", "graph": "uniform"},
    "from-teacher+frozen": {"student": "3x384", "graph": "frozen"},
    "from-teacher+learned": {"student": "3x384", "graph": "learned"},
    "from-teacher+relative": {"student": "3x384", "graph": "uniform", "loss_scale": "relative"},
    "from-teacher+relative-balanced": {
        "student": "3x384",
        "graph": "uniform",
        "loss_scale": "relative",
        "hidden_weight": 0.1,
    },
    "from-teacher+texts": {"student": "3x384", "graph": "uniform", "unlabelled": UNLABELLED},
    "strong-answers": {"graph": "uniform", "prediction_weight": 20.0, "attention_weight": 0.1},
    "strong-answers+texts": {
        "graph": "uniform",
        "unlabelled": UNLABELLED,
        "prediction_weight": 20.0,
        "attention_weight": 0.1,
    },
}
"""Options of ``DistillSettings`` by row; they go before those of the column."""

SAYS = {
    "labels": "labels only, no teacher",
    "logits": "logits only",
    "uniform": "hidden states too, uniform ratios",
    "frozen": "HRKD, frozen graph",
    "learned": "HRKD, learned graph",
    "no-hierarchy": "HRKD, frozen graph, without hierarchy",
    "one-domain": "TinyBERT, a student for each domain",
    "meta-kd": "uniform ratios, Meta-KD's instance weights",
    "paper": "the released recipe",
    "label-loss": "uniform ratios, label loss mixed in",
    "logits+labels": "logits and labels",
    "texts": "uniform ratios, unlabelled texts",
    "logits+texts": "logits only, unlabelled texts",
    "all": "uniform ratios, unlabelled texts, label loss",
    "then-answers": "uniform ratios, answers alone from half way on",
    "then-answers+labels": "the same with label loss",
    "then-answers+texts": "the same with unlabelled texts",
    "learned-then-answers": "learned graph, answers alone from half way on",
    "frozen-then-answers": "frozen graph, answers alone from half way on",
    "slower": "uniform ratios, 1e-4",
    "logits-slower": "logits only, 1e-4",
    "logits-slower+texts": "logits only, 1e-4, unlabelled texts",
    "relative": "uniform ratios, relative losses",
    "relative-learned": "learned graph, relative losses",
    "relative-balanced": "uniform ratios, relative losses x 0.1",
    "from-teacher+logits": "logits only, student cut from the teacher",
    "from-teacher+uniform": "uniform ratios, student cut from the teacher",
    "from-teacher+frozen": "frozen graph, student cut from the teacher",
    "from-teacher+learned": "learned graph, student cut from the teacher",
    "from-teacher+relative": "uniform ratios, relative losses, student cut from the teacher",
    "from-teacher+relative-balanced": "uniform ratios, relative losses x 0.1, student cut from the teacher",
    "from-teacher+texts": "uniform ratios, unlabelled texts, student cut from the teacher",
    "strong-answers": "uniform ratios, answers x 20, attention x 0.1",
    "strong-answers+texts": "the same with unlabelled texts",
}
"""What a table calls the rows; the name itself where there is nothing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A dataset, its size, and what all methods have in common on it.

    Attributes:
        says: what a table calls it.
        source: name of the option with the data (``amazon`` for ``--amazon``); ``sample`` is built in.
        few_shot: share of the train split that is kept; None for all.
        max_length: tokens.
        truncate: how longer texts are cut; None leaves the option out.
        teacher_epochs: epochs of the teacher.
        teacher_rate: its learning rate.
        epochs: epochs of the student.
        options: more options of all students.
        methods: names in METHODS.
        large: whether ``--large-teacher`` is taught, not ``--teacher-model``.
        shuffled: domains whose train labels are dealt out anew: what they teach is noise. Not scored.
    """

    says: str
    source: str
    few_shot: float | None = None
    max_length: int = 128
    truncate: str | None = None
    teacher_epochs: int
    teacher_rate: float = 5e-5
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = ("labels", "logits", "uniform", "frozen", "learned")
    large: bool = False
    shuffled: Sequence[str] = ()

    def shared(self) -> dict[str, Any]:
        """Return the options that teacher and students have in common."""
        cut = {} if self.truncate is None else {"truncate": self.truncate}
        return {"max_length": self.max_length, **cut}

    def teaching(self) -> dict[str, Any]:
        """Return the teacher's options. Its seed is one for all: only the students are drawn anew."""
        return {**self.shared(), "epochs": self.teacher_epochs, "learning_rate": self.teacher_rate, "seed": 1}

    def distilling(self, method: str) -> dict[str, Any]:
        """Return a student's options but for its seed, with marks for what the command line gives."""
        return {**self.shared(), "epochs": self.epochs, "student": STUDENT, **self.options, **METHODS[method]}

    def to_json(self) -> dict[str, Any]:
        """Return what a stored teacher and its data depend on."""
        others = ("says", "epochs", "options", "methods")
        found = {name: value for name, value in asdict(self).items() if name not in others}
        if not self.shuffled:
            del found["shuffled"]  # columns were stored before there was such a thing
        return found


# Sizes: a student trains about 37 Amazon or 80 MNLI examples/s on two CPU cores. Dev is as large in few-shot, where it
# would cost more than the training if it were scored twice an epoch.
COLUMNS: dict[str, Column] = {
    "amazon": Column(says="Amazon, all rows", source="amazon", teacher_epochs=2, epochs=3),
    "amazon-5": Column(
        says="Amazon, 5 % of train",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"eval_every": 40},  # 8 steps an epoch
    ),
    "mnli-5": Column(
        says="MNLI, 5 % of train",
        source="mnli",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=15,
        options={"eval_every": 45, "allow_weak_teacher": True},  # 16 steps an epoch
    ),
    "amazon-5-texts": Column(
        says="Amazon, 5 % of train and unlabelled texts",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,  # an epoch is that of the labelled rows: the texts are seen about once
        options={"eval_every": 40, "unlabelled": UNLABELLED},
        methods=("logits", "uniform", "frozen", "learned"),
    ),
    "amazon-20": Column(
        says="Amazon, 20 % of train",
        source="amazon",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=10,
        options={"eval_every": 50},  # 32 steps an epoch
    ),
    "mnli": Column(
        says="MNLI, all rows", source="mnli", teacher_epochs=3, epochs=3, options={"allow_weak_teacher": True}
    ),
    "reviews12-20": Column(
        says="12 kinds of reviews, 20 % of train",
        source="reviews12",
        few_shot=0.2,
        teacher_epochs=5,
        epochs=5,
        options={"eval_every": 30},  # 32 steps an epoch
    ),
    "long": Column(
        says="Amazon, 256 tokens, 12-layer teacher",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "learned", "texts", "logits+texts", "all", "strong-answers+texts"),
    ),
    "long-cut": Column(
        says="Amazon, 256 tokens, 12-layer teacher, student cut from it",
        source="amazon",
        max_length=256,
        teacher_epochs=3,
        epochs=8,
        large=True,
        options={"student": "3x384"},
        methods=("logits+texts", "texts", "then-answers+texts"),
    ),
    "long-ends": Column(
        says="Amazon, 256 tokens from both ends, 12-layer teacher",
        source="amazon",
        max_length=256,
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-answers+texts"),
    ),
    "ends": Column(
        says="Amazon, 128 tokens from both ends, 12-layer teacher",
        source="amazon",
        truncate="head-tail",
        teacher_epochs=3,
        epochs=8,
        large=True,
        methods=("logits", "uniform", "texts", "strong-answers+texts"),
    ),
    "amazon-texts": Column(
        says="Amazon, all rows and unlabelled texts, ten epochs, student cut from the teacher",
        source="amazon",
        teacher_epochs=2,
        epochs=10,
        options={"student": "3x384", "unlabelled": UNLABELLED},
        methods=("uniform", "logits"),
    ),
    "amazon-5-noise": Column(
        says="Amazon, 5 % of train, labels of books and dvd shuffled, student cut from the teacher",
        source="amazon",
        few_shot=0.05,
        teacher_epochs=10,
        epochs=30,
        options={"student": "3x384", "eval_every": 40, "allow_weak_teacher": True},
        methods=("uniform", "frozen", "learned"),
        shuffled=("books", "dvd"),
    ),
    "sample": Column(
        says="the built-in sample",
        source="sample",
        max_length=32,
        teacher_epochs=2,
        epochs=2,
        options={"allow_weak_teacher": True},
        methods=("logits", "uniform", "frozen"),
    ),
}

PLANS: dict[str, tuple[str, ...]] = {
    "first": ("amazon", "amazon-5", "mnli-5", "amazon-5-texts"),
    "later": ("amazon-20", "mnli", "reviews12-20"),
    "best": ("amazon-texts",),
    "noise": ("amazon-5-noise",),
    "recipe": ("amazon", "amazon-5", "long", "long-cut", "long-ends", "ends"),
    "sample": ("sample",),  # a minute or two, to see that it works
}


class PlanError(Exception):
    """Something that cannot be run, one line each."""


def choose(plan: str, only: Sequence[str]) -> dict[str, list[str]]:
    """Return the methods of each column of a plan.

    Args:
        plan: a name in PLANS.
        only: patterns (``amazon-5``, ``amazon-5/frozen``, ``*/learned``); none for all. A column and a method that are
            named in full go together even where the column does not have the method by itself.

    Raises:
        PlanError: a pattern fits nothing.
    """
    rows = [(column, method) for column in PLANS[plan] for method in COLUMNS[column].methods]
    named = [tuple(pattern.split("/", 1)) for pattern in only if "/" in pattern]
    rows += [(c, m) for c, m in named if c in PLANS[plan] and m in METHODS and (c, m) not in rows]
    patterns = [pattern if "/" in pattern else f"{pattern}/*" for pattern in only]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(f"{column}/{method}", pattern) for column, method in rows):
            raise PlanError(f"--only {pattern}: nothing in plan {plan}; its columns: {', '.join(PLANS[plan])}")
    chosen: dict[str, list[str]] = {}
    for column, method in rows:
        if not patterns or any(fnmatch.fnmatchcase(f"{column}/{method}", pattern) for pattern in patterns):
            chosen.setdefault(column, []).append(method)
    return chosen


def problems(chosen: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """Return what the installed hrkd_cli does not know, by (column, method); nothing is run."""
    from hrkd_cli.config import DistillSettings, TeachSettings

    found = {}
    for column, methods in chosen.items():
        plan = COLUMNS[column]
        teacher = _refusal(TeachSettings, plan.teaching())
        for method in methods:
            refusal = teacher or _refusal(DistillSettings, {**plan.distilling(method), "seed": 1})
            if refusal:
                found[column, method] = refusal
    return found


def _refusal(settings: Any, options: Mapping[str, Any]) -> str | None:
    """Say why options are no settings; None when they are."""
    from hrkd_cli.errors import UsageError

    names = {each.name for each in fields(settings)}
    unknown = sorted(set(options) - names)
    if unknown:
        import hrkd_cli

        # Some options of a stage are no settings but arguments of its function.
        stage = hrkd_cli.distill if "student" in names else hrkd_cli.teach
        unknown = sorted(set(unknown) - set(inspect.signature(stage).parameters))
        if unknown:
            return f"this hrkd_cli has no option {', '.join(unknown)}"
    try:
        settings(**{name: value for name, value in options.items() if name in names})
    except UsageError as error:
        return str(error)
    return None
