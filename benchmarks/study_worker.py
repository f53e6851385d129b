"""A process of `study.py run` that prepares, teaches, distils and scores: jobs in, answers out, a line of JSON each."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from study_plan import COLUMNS, EACH, STUDENT, UNLABELLED

FLOOR_STRENGTHS = (1.0, 10.0, 100.0)

Right = dict[str, str]
"""For each domain, a character a test row: 1 where the label is right, 0 where it is not."""


def main() -> None:
    """Work until there are no more jobs, or nobody who gives them."""
    # Libraries write to stdout; it is kept for the answers, and all else goes to the log that stderr is.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        _answer(answers, _work(json.loads(line)))


def _answer(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _work(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job; whatever fails in it is told, and no other job's affair."""
    print(f"== {job['name']}", flush=True)
    try:
        return (make_column if job["method"] is None else make_run)(job)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split()) or type(error).__name__
        return {"error": text if type(error).__module__ == "hrkd_cli.errors" else f"{type(error).__name__}: {text}"}
    finally:
        _forget()


def make_column(job: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare a column's data, teach its teacher and score it; what is there already is used."""
    from hrkd_cli import prepare, teach
    from hrkd_cli.data.manifest import is_prepared
    from hrkd_cli.data.opening import open_dataset
    from hrkd_cli.models.folder import model_fingerprint

    column, folder = COLUMNS[job["column"]], Path(job["folder"])
    data, teacher, record = folder / "dataset", folder / "teacher", folder / "column.json"
    if not is_prepared(data):
        first = folder / "unshuffled" if column.shuffled else data
        prepare(job["source"], out=first, few_shot=column.few_shot, force=bool(column.shuffled), on_event=_log)
        if column.shuffled:
            shuffle_labels(open_dataset(first), column.shuffled, folder / "shuffled")
            prepare(folder / "shuffled", out=data, on_event=_log)
    options = column.teaching() | {"device": job["device"]}
    taught = teach(job["teacher_model"], data=data, out=teacher, resume=True, on_event=_log, **options)
    dataset = open_dataset(data)
    prints = {"data": dataset.fingerprint, "teacher": model_fingerprint(teacher)}
    if record.exists():
        stored = json.loads(record.read_text(encoding="utf-8"))
        if stored["fingerprints"] != prints:
            differs = " and ".join(name for name, value in prints.items() if stored["fingerprints"][name] != value)
            text = f"{folder}: its {differs} came out other than what its runs were made with; bring the folders that"
            raise RuntimeError(f"{text} those were made with, or take another --out")
        return dict(stored)
    found = {
        "column": column.to_json(),
        "teacher_model": job["teacher_name"],
        "fingerprints": prints,
        "rows": {
            split: sum(len(dataset.split(d, split)) for d in dataset.domains) for split in ("train", "dev", "test")
        },
        "dev": taught.dev["average"]["accuracy"],
        "seconds": taught.seconds,
        "examples_per_second": taught.examples_per_second,
        "right": score(teacher, dataset, job["device"]),
        "floor": linear_floor(dataset),
        **_machine(job),
    }
    write_whole(record, found)
    return found


def make_run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Distil one student, score it, store what came of it and drop the weights."""
    from hrkd_cli import distill
    from hrkd_cli.data.opening import open_dataset

    begun = time.perf_counter()
    folder, out = Path(job["folder"]), Path(job["out"])
    stored = json.loads((folder / "column.json").read_text(encoding="utf-8"))
    given = {STUDENT: job["student"], UNLABELLED: job["unlabelled"]}
    options = {
        name: given.get(value, value) if isinstance(value, str) else value for name, value in job["options"].items()
    }
    options |= {"seed": job["seed"], "device": job["device"]}
    # Side by side in one folder, the runs of a column read the same kept teacher outputs.
    dataset = open_dataset(folder / "dataset")
    alone = {domain: out / domain for domain in dataset.domains} if options.get("domains") == EACH else {None: out}
    results = [
        distill(
            folder / "teacher",
            data=folder / "dataset",
            out=place,
            resume=True,
            on_event=_log,
            **(options if domain is None else {**options, "domains": domain}),
        )
        for domain, place in alone.items()
    ]
    found = {
        "method": job["method"],
        "seed": job["seed"],
        "options": job["options"],
        "student": job["student_name"],
        "fingerprints": stored["fingerprints"],
        "steps": sum(result.steps for result in results),
        "best_step": results[0].best_step if len(results) == 1 else None,
        "seconds": sum(result.seconds for result in results),
        "examples_per_second": statistics.mean(result.examples_per_second for result in results),
        "dev": statistics.mean(result.dev["average"]["accuracy"] for result in results),
        "right": score(out, dataset, job["device"]),
        "ratios": late_ratios(out / "metrics.jsonl") if len(results) == 1 else None,
        "wall_seconds": time.perf_counter() - begun,
        **_machine(job),
    }
    write_whole(Path(job["result"]), found)
    if not job["keep"]:
        shutil.rmtree(out)
    return found


def shuffle_labels(dataset: Any, domains: Sequence[str], raw: Path) -> None:
    """Write a dataset as ``hrkd prepare`` reads it, the train labels of some domains dealt out anew among its rows."""
    if dataset.pair:
        raise ValueError("labels are shuffled in columns of single texts only")
    raw.mkdir(parents=True, exist_ok=True)
    for domain in dataset.domains:
        for split in ("train", "dev", "test"):
            rows = dataset.split(domain, split)
            labels = list(rows.labels)
            if split == "train" and domain in domains:
                random.Random(f"shuffled/{domain}").shuffle(labels)
            lines = [json.dumps({"text": t, "label": n}) for t, n in zip(rows.texts, labels, strict=True)]
            (raw / f"{domain}.{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def late_ratios(metrics: Path) -> list[float] | None:
    """Return the domain ratios of the last fifth of training, means over its records and the layers; None without."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    found = [record["ratios"] for record in records if "ratios" in record]
    late = [row for ratios in found[-max(1, len(found) // 5) :] for row in ratios]
    return [statistics.mean(column) for column in zip(*late, strict=True)] if late else None


def score(folder: Path, dataset: Any, device: str) -> Right:
    """Return which test rows a model gets right, as `hrkd eval` reads them.

    A folder with a model a domain (in a folder of the domain's name) is scored with each on its own domain.
    """
    from hrkd_cli.evaluation.scoring import fit_heads, predict_labels
    from hrkd_cli.predict.backend import open_backend

    if all((folder / domain / "config.json").is_file() for domain in dataset.domains):
        parts = [(folder / domain, dataset.only(domain)) for domain in dataset.domains]
    else:
        parts = [(folder, dataset)]
    right: Right = {}
    for path, rows in parts:
        backend = open_backend(path, device=device)
        heads = fit_heads(backend, rows, "test", str(path), "the test rows")
        for domain, positions in predict_labels(backend, heads, rows, "test").items():
            names = [heads.labels[domain][position] for position in positions]
            right[domain] = compare(names, rows.split(domain, "test").labels)
    return right


def linear_floor(dataset: Any) -> Right | None:
    """Return the same of a linear model on words and word pairs of whole texts; None without scikit-learn.

    One logistic regression for all domains; how strongly it is held back is chosen on dev.
    """
    if find_spec("sklearn") is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def texts(domain: str, split: str) -> list[str]:
        rows = dataset.split(domain, split)
        return rows.texts if rows.pairs is None else [f"{a} {b}" for a, b in zip(rows.texts, rows.pairs, strict=True)]

    def outcome(model: Any, split: str) -> Right:
        there = [domain for domain in dataset.domains if len(dataset.split(domain, split))]
        said = {domain: model.predict(words.transform(texts(domain, split))) for domain in there}
        return {domain: compare(names, dataset.split(domain, split).labels) for domain, names in said.items()}

    def dev_accuracy(model: Any) -> float:
        right = outcome(model, "dev")
        return sum(row.count("1") / len(row) for row in right.values()) / len(right)

    words = TfidfVectorizer(ngram_range=(1, 2))
    features = words.fit_transform([text for domain in dataset.domains for text in texts(domain, "train")])
    labels = [label for domain in dataset.domains for label in dataset.split(domain, "train").labels]
    tries = [LogisticRegression(C=c, max_iter=1000).fit(features, labels) for c in FLOOR_STRENGTHS]
    return outcome(max(tries, key=dev_accuracy), "test")


def compare(said: Sequence[str], truth: Sequence[str]) -> str:
    """Return a character a row: 1 where both are equal."""
    return "".join("1" if a == b else "0" for a, b in zip(said, truth, strict=True))


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is there in full or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _machine(job: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from hrkd_cli.evaluation.machine import machine_name
    from hrkd_cli.models.backend import pick_device
    from hrkd_cli.training.result import versions

    device = pick_device(job["device"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine_name()
    return {"device": name, "threads": torch.get_num_threads(), "jobs": job["jobs"], "versions": versions()}


def _log(event: Any) -> None:
    from hrkd_cli.events import Note, StageStarted

    if isinstance(event, (Note, StageStarted)):
        print(event, flush=True)


def _forget() -> None:
    """Give a GPU's memory back before the next job."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
