"""Common part of all methods that `study.py` compares: read the data, train, predict the test rows, time predictions.

A method is a script that calls ``run_method(train, load)``. It needs the packages of its own requirements file, and
pyarrow. It reads a dataset folder of ``hrkd prepare`` and writes its model to a folder that is all that prediction
needs. `study.py` adds the record that this module writes to the results file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Text = str | tuple[str, str]
"""A text, or the two texts of a pair."""
Predict = Callable[[Sequence[Text], str], Sequence[str]]
"""Return the labels of texts of a domain."""

ROUNDS = 10
WARM_UP = 3
PACKAGES = ("torch", "transformers", "onnxruntime", "scikit-learn", "numpy")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a domain and split."""

    texts: list[Text]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Data:
    """A prepared dataset.

    Attributes:
        folder: where it is.
        labels: sorted labels by domain.
        pairs: whether a row has two texts.
    """

    folder: Path
    labels: dict[str, list[str]]
    pairs: bool

    def rows(self, split: str) -> dict[str, Rows]:
        """Return the rows of a split by domain."""
        import pyarrow.parquet as pq

        rows = {}
        for domain in self.labels:
            with pq.ParquetFile(str(self.folder / "data" / domain / f"{split}.parquet")) as file:
                values = file.read().to_pydict()
            pairs = list(zip(values["text"], values["text_pair"], strict=True)) if self.pairs else values["text"]
            rows[domain] = Rows(pairs, values["label"])
        return rows

    def groups(self) -> Iterator[tuple[str, list[str], Rows]]:
        """Yield the train rows that share a classifier: name, domain of each row, rows.

        If all domains have the same labels, one group has all rows; otherwise each domain is a group.
        """
        rows = self.rows("train")
        groups = [("all", list(rows))] if self.same_labels else [(domain, [domain]) for domain in rows]
        for name, domains in groups:
            of_rows = [domain for domain in domains for _ in rows[domain].labels]
            texts = [text for domain in domains for text in rows[domain].texts]
            labels = [label for domain in domains for label in rows[domain].labels]
            yield name, of_rows, Rows(texts, labels)

    @property
    def same_labels(self) -> bool:
        """Whether all domains have the same labels."""
        return len({tuple(labels) for labels in self.labels.values()}) == 1


@dataclass(frozen=True, slots=True)
class Options:
    """What a method is told.

    Attributes:
        encoder: folder of the pretrained encoder.
        seed: seed of everything random.
        method: name of the method, for scripts that have several.
        teacher: folder of the teacher, for methods that have one.
        teacher_seed: the teacher's seed.
    """

    encoder: Path
    seed: int
    method: str
    teacher: Path
    teacher_seed: int


Train = Callable[[Data, Path, Options], Mapping[str, Any] | None]
"""Train on a dataset and write the model to a folder; return facts for the record, which may replace its own."""


def read_data(folder: Path) -> Data:
    """Open a dataset folder written by ``hrkd prepare``."""
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return Data(folder, content["labels"], content["pair"])


def run_method(train: Train, load: Callable[[Path], Predict], *, weights: Sequence[str]) -> None:
    """Run a method's command line: train and predict, or time a model that is stored.

    Args:
        train: trains a model.
        load: opens a stored model.
        weights: glob patterns of the files with the weights, in the model's folder.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--record", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--time", type=Path, metavar="TEXTS", help="time the stored model on these texts, by length")
    parser.add_argument("--data", type=Path, help="prepared dataset to train on")
    parser.add_argument("--encoder", type=Path, help="pretrained encoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", default="")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--teacher-seed", type=int, default=1)
    given = parser.parse_args()
    if given.time:
        record = time_model(load(given.model), json.loads(given.time.read_text(encoding="utf-8")))
    else:
        options = Options(given.encoder, given.seed, given.method, given.teacher, given.teacher_seed)
        record = train_and_predict(train, load, read_data(given.data), given.model, options)
        record["bytes"] = {"weights": byte_size(given.model, weights), "folder": byte_size(given.model, ["**/*"])}
    record |= describe_machine()
    given.record.write_text(json.dumps(record), encoding="utf-8")


def train_and_predict(
    train: Train, load: Callable[[Path], Predict], data: Data, folder: Path, options: Options
) -> dict[str, Any]:
    """Train a model, and predict the test rows with the stored model; ``minutes`` is the CPU time of training."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.process_time()
    facts = train(data, folder, options) or {}
    minutes = (time.process_time() - start) / 60
    return {"minutes": minutes, "right": mark_correct(load(folder), data), **facts}


def mark_correct(predict: Predict, data: Data) -> dict[str, str]:
    """Return which test rows are labeled correctly, by domain: bits in row order, as one hexadecimal number."""
    correct = {}
    for domain, rows in data.rows("test").items():
        labels = predict(rows.texts, domain)
        bits = "".join("1" if str(a) == b else "0" for a, b in zip(labels, rows.labels, strict=True))
        correct[domain] = f"{int(bits, 2):x}"
    return correct


def time_model(predict: Predict, texts: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the milliseconds from text to label by number of tokens: median and 95th percentile.

    Args:
        predict: the model.
        texts: by number of tokens, (domain, text or pair) of each text; they are predicted one at a time.
    """
    milliseconds = {}
    for tokens, entries in texts.items():
        runs = []
        for turn in range(-WARM_UP, ROUNDS):
            for domain, text in entries:
                one = [text if isinstance(text, str) else tuple(text)]
                start = time.perf_counter()
                predict(one, domain)
                if turn >= 0:
                    runs.append(1000 * (time.perf_counter() - start))
        milliseconds[tokens] = [statistics.median(runs), statistics.quantiles(runs, n=20)[-1]]
    return {"ms": milliseconds}


def byte_size(folder: Path, patterns: Sequence[str]) -> int:
    """Return the total size of the files that match any of the patterns."""
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sum(file.stat().st_size for file in files)


def describe_machine() -> dict[str, Any]:
    """Return processor, threads and versions of a record."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count()
    return {"machine": names[0] if names else platform.processor(), "threads": threads, "versions": versions}


def joined(texts: Sequence[Text]) -> list[str]:
    """Return texts, with those of a pair joined by a space."""
    return [text if isinstance(text, str) else " ".join(text) for text in texts]
