"""Fakes of the functions behind the commands, and of their results."""

import io
import itertools
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.tables import Table
from hrkd_cli.errors import UsageError


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Engine:
    """Fake function behind a command; records its calls."""

    result: Any
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    prints: str = ""

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        if self.prints:
            sys.stdout.write(self.prints)
        for event in self.events:
            kwargs["on_event"](event)
        if self.error is not None:
            raise self.error
        return self.result

    @property
    def options(self) -> dict[str, Any]:
        return self.calls[-1][1]


DOMAIN = {"n": 200, "accuracy": 0.865, "macro_f1": 0.86, "interval": [0.81, 0.906]}
AVERAGE = {"accuracy": 0.865, "macro_f1": 0.86, "interval": [0.84, 0.89]}

PREPARED = {"domains": {"books": {"train": 1600, "dev": 200, "test": 200, "labels": {"neg": 1000, "pos": 1000}}}}
PREPARED["dropped"] = {"empty text": 5}
PREPARED["characters"] = {"books": {"median": 400, "p95": 1900, "max": 7000}}
TRAINED = {
    "out": "hrkd-out/student",
    "steps": 1200,
    "seconds": 754.0,
    "examples_per_second": 21.3,
    "best": {"step": 900, "dev": {"domains": {"books": DOMAIN, "dvd": DOMAIN}, "average": AVERAGE}},
}
EXPORTED = {
    "files": [
        {"path": "hrkd-out/student/onnx/model.onnx", "precision": "fp32", "bytes": 57_421_249},
        {"path": "hrkd-out/student/onnx/model_quantized.onnx", "precision": "int8", "bytes": 14_486_363},
    ],
    "quantized_ops": {"MatMul": 26, "Gather": 2},
    "bytes_by_part": {"embeddings": 9_522_864, "encoder": 4_900_000},
    "gate": {"max_drop": 0.5, "drop": 0.1, "passed": True},
}


def model_entry(name: str, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    return {
        "model": name,
        "file": "model.safetensors",
        "kind": "torch",
        "precision": precision,
        "parameters": 14_350_248,
        "bytes": 57_411_808,
        "domains": {"books": DOMAIN, "dvd": DOMAIN},
        "average": AVERAGE,
        "agreement": 1.0,
        **more,
    }


COMPARED = {
    "split": "test",
    "models": [
        model_entry("hrkd-out/teacher"),
        model_entry(
            "hrkd-out/student/onnx",
            "int8",
            kind="onnx",
            difference={"accuracy": -0.0125, "interval": [-0.031, 0.006]},
            padded={"accuracy": 0.86, "disagreement": 0.0025},
            latency_ms={"p50": 7.35, "p95": 8.01, "batch": 1, "tokens": 128, "threads": 1},
        ),
    ],
}


def result(data: dict[str, Any], **attributes: Any) -> Any:
    return SimpleNamespace(to_json=lambda: data, **attributes)


class FakePredictor:
    """Labels a text by its length; records its arguments."""

    made: list[tuple[Any, ...]]
    asked: list[Any]
    batches: list[tuple[int | None, int | None]]
    pair: bool | None = False
    domains_of_models = ("books", "dvd")

    def __init__(self, path, *, threads=None, device="auto", min_confidence=None, target_accuracy=None, fallback=None):
        type(self).made.append((path, threads, device))
        self.spec = SimpleNamespace(pair=type(self).pair)
        self.domains = self.domains_of_models

    def predict(self, texts, pairs=None, *, domain="auto"):
        if domain == "unknowable":
            raise UsageError("no answer for it")

    def stream(self, texts, *, domain="auto", batch_size=1, read_ahead=None):
        type(self).batches.append((batch_size, read_ahead))
        for text, name in zip(texts, itertools.repeat(domain) if isinstance(domain, str) else domain, strict=False):
            type(self).asked.append(text)
            first = text if isinstance(text, str) else text[0]
            yield result({"text": first, "domain": name, "label": str(len(first)), "scores": {"a": 0.25, "b": 0.75}})


def to_text(table: Table) -> str:
    """Return a table as the console writes it to a file."""
    console = Console()
    console.out = io.StringIO()
    console.write_table(table)
    return console.out.getvalue().rstrip("\n")
