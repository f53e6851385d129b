"""Ablation study: compare methods over seeds and datasets, and write the tables of docs/results.md.

    python benchmarks/study.py run --plan first --amazon AMAZON --mnli MNLI --unlabelled TEXTS \
        --teacher-model MINILM_L6 --student MINILM_L3 --out STUDY --seeds 1,2,3,4,5
    python benchmarks/study.py table STUDY --into docs/results.md

A column is a dataset of some size with one teacher; a table row is a method (`study_plan.py` defines both). Each
finished run is stored in STUDY/COLUMN/METHOD-SEED.json, with one character per test row: 1 if it was labeled correctly.
The tables are made from these files alone. Stored runs are skipped, and an interrupted run continues from its last
checkpoint. To run columns in parallel, start several processes with different --only.

Differences are paired by seed; their 95% intervals are from 10,000 bootstrap samples of seeds and test rows. The
teacher and the linear model (`--against teacher`, `floor`) are single models, so the intervals do not include their
variation.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study_plan import COLUMNS, PER_DOMAIN, PLANS, STUDENT, TEXTS, PlanError, select_methods
from study_table import make_tables, mean_accuracy, replace_tables

SOURCES = ("amazon", "mnli", "reviews12")
REGULARIZATION_STRENGTHS = (1.0, 10.0, 100.0)  # C of the linear model

CorrectRows = dict[str, str]
"""By domain, one character per test row: 1 if the predicted label is correct, else 0."""


def main() -> None:
    """Run the command."""
    options = parse_arguments()
    try:
        if options.command == "run":
            run(options)
        else:
            tabulate(options)
    except PlanError as error:
        sys.exit(str(error))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("run", help="make the missing runs")
    make.add_argument("--plan", choices=PLANS, default="first")
    for source in SOURCES:
        make.add_argument(f"--{source}", metavar="SOURCE", help="as in hrkd prepare")
    make.add_argument("--unlabelled", metavar="DIR", help="unlabeled texts")
    make.add_argument("--teacher-model", required=True, help="encoder from which teachers are fine-tuned")
    make.add_argument("--large-teacher", help="larger encoder, for the columns that use it")
    make.add_argument("--student", required=True, help="as in hrkd distill")
    make.add_argument("--out", required=True, type=Path, metavar="STUDY", help="folder for the runs")
    make.add_argument("--seeds", default="1,2,3,4,5")
    make.add_argument("--device", default="auto")
    make.add_argument(
        "--only", action="append", default=[], metavar="COLUMN[/METHOD]", help="may be repeated; * matches any"
    )
    make.add_argument("--keep", action="store_true", help="keep the students' weights, in STUDY/COLUMN/work")
    show = commands.add_parser("table", help="print the tables of the stored runs")
    show.add_argument("study", type=Path, metavar="STUDY")
    show.add_argument(
        "--against", default="frozen", metavar="METHOD", help="method to compare with; also: teacher, floor"
    )
    show.add_argument("--into", type=Path, metavar="FILE", help="write between <!-- study:PLAN --> and <!-- /study -->")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Make the missing runs: the column's teacher, then all methods of one seed before the next seed.

    Raises:
        PlanError: data is missing, or a stored result was made with other options.
    """
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for column, methods in select_methods(options.plan, options.only).items():
        folder = options.out / column
        column_record = None
        for seed in seeds:
            for method in methods:
                file = folder / f"{method}-{seed}.json"
                made_with = {"options": COLUMNS[column].distill_options(method), "student": Path(options.student).name}
                if is_stored(file, made_with):
                    continue
                column_record = column_record or make_column(column, folder, options)
                record = make_run(column, method, seed, column_record["fingerprints"], options)
                print_result(f"{column}/{method} seed {seed}", record)


def is_stored(file: Path, made_with: Mapping[str, Any]) -> bool:
    """Return whether a result is stored.

    Raises:
        PlanError: it was made with other options.
    """
    if not file.exists():
        return False
    stored, expected = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(made_with))
    if different := [name for name, value in expected.items() if stored[name] != value]:
        raise PlanError(f"{file}: made with another {', '.join(different)}; remove it or choose another --out")
    return True


def make_column(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Prepare a column's data, and fine-tune and score its teacher, unless stored; return the column's record.

    Raises:
        PlanError: the data or the encoder is missing, or the stored column differs.
    """
    from hrkd_cli import prepare, teach
    from hrkd_cli.data.dataset_folder import is_prepared, open_dataset
    from hrkd_cli.models.model_folder import model_fingerprint

    column, data, teacher, file = COLUMNS[name], folder / "dataset", folder / "teacher", folder / "column.json"
    source = getattr(options, column.source, column.source)
    encoder = options.large_teacher if column.large else options.teacher_model
    if source is None or encoder is None:
        raise PlanError(f"column {name} needs --{column.source if source is None else 'large-teacher'}")
    made_with = {"column": column.to_json(), "teacher_model": Path(encoder).name}
    stored = is_stored(file, made_with)
    if not is_prepared(data):
        raw = folder / "unshuffled" if column.shuffled else data
        prepare(source, out=raw, few_shot=column.few_shot, force=bool(column.shuffled))
        if column.shuffled:
            shuffle_labels(open_dataset(raw), column.shuffled, folder / "shuffled")
            prepare(folder / "shuffled", out=data)
    taught = teach(encoder, data=data, out=teacher, resume=True, device=options.device, **column.teach_options())
    dataset = open_dataset(data)
    fingerprints = {"data": dataset.fingerprint, "teacher": model_fingerprint(teacher)}
    if stored:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["fingerprints"] != fingerprints:
            raise PlanError(f"{folder}: data or teacher differ from those of the stored runs; choose another --out")
        return dict(record)
    rows = {split: sum(len(dataset.split(d, split)) for d in dataset.domains) for split in ("train", "dev", "test")}
    record = {
        **made_with,
        "fingerprints": fingerprints,
        "rows": rows,
        "dev": taught.dev["average"]["accuracy"],
        "seconds": taught.seconds,
        "examples_per_second": taught.examples_per_second,
        "right": score_model(teacher, dataset, options.device),
        "floor": score_linear_model(dataset),
        **describe_machine(options.device),
    }
    write_json(file, record)
    print_result(f"{name} teacher", record)
    return record


def make_run(
    column: str, method: str, seed: int, fingerprints: Mapping[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Distill and score one student, store the result and delete the weights; return the result.

    Raises:
        PlanError: unlabeled texts are missing.
    """
    from hrkd_cli import distill
    from hrkd_cli.data.dataset_folder import open_dataset

    folder, run_options = options.out / column, COLUMNS[column].distill_options(method)
    if TEXTS in run_options.values() and options.unlabelled is None:
        raise PlanError(f"column {column}: {method} needs --unlabelled")
    values = {STUDENT: options.student, TEXTS: options.unlabelled}
    settings = {name: values[value] if value in (STUDENT, TEXTS) else value for name, value in run_options.items()}
    settings |= {"data": folder / "dataset", "resume": True, "seed": seed, "device": options.device}
    dataset, out = open_dataset(folder / "dataset"), folder / "work" / f"{method}-{seed}"
    per_domain = settings.get("domains") == PER_DOMAIN
    if per_domain:
        students = [settings | {"domains": domain, "out": out / domain} for domain in dataset.domains]
    else:
        students = [settings | {"out": out}]
    results = [distill(folder / "teacher", **student) for student in students]
    record = {
        "method": method,
        "seed": seed,
        "options": run_options,
        "student": Path(options.student).name,
        "fingerprints": fingerprints,
        "steps": sum(result.steps for result in results),
        "seconds": sum(result.seconds for result in results),
        "examples_per_second": statistics.mean(result.examples_per_second for result in results),
        "dev": statistics.mean(result.dev["average"]["accuracy"] for result in results),
        "right": score_model(out, dataset, options.device),
        "ratios": None if per_domain else final_ratios(out / "metrics.jsonl"),
        **describe_machine(options.device),
    }
    write_json(folder / f"{method}-{seed}.json", record)
    if not options.keep:
        shutil.rmtree(out)
    return record


def shuffle_labels(dataset: Any, domains: Sequence[str], raw: Path) -> None:
    """Write a dataset of single texts as raw data, with shuffled train labels in some domains."""
    raw.mkdir(parents=True, exist_ok=True)
    for domain in dataset.domains:
        for split in ("train", "dev", "test"):
            rows = dataset.split(domain, split)
            labels = list(rows.labels)
            if split == "train" and domain in domains:
                random.Random(f"shuffled/{domain}").shuffle(labels)
            lines = [json.dumps({"text": t, "label": n}) for t, n in zip(rows.texts, labels, strict=True)]
            (raw / f"{domain}.{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def final_ratios(metrics: Path) -> list[float] | None:
    """Return the domain ratios in the last fifth of training, averaged over steps and layers; None without a graph."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    by_step = [line["ratios"] for line in lines if "ratios" in line]
    layers = [layer for ratios in by_step[-max(1, len(by_step) // 5) :] for layer in ratios]
    return [statistics.mean(domain) for domain in zip(*layers, strict=True)] if layers else None


def score_model(folder: Path, dataset: Any, device: str) -> CorrectRows:
    """Return which test rows a model labels correctly; ``folder`` may have one model per domain in subfolders."""
    from hrkd_cli.evaluation.scoring import match_heads, predict_labels, select_split
    from hrkd_cli.predict.backend import open_backend

    parts = [(folder / domain, dataset.select_domains(domain)) for domain in dataset.domains]
    if not all((path / "config.json").is_file() for path, _ in parts):
        parts = [(folder, dataset)]
    correct: CorrectRows = {}
    for path, part in parts:
        backend = open_backend(path, device=device)
        rows = select_split(part, "test", "the test rows")
        heads = match_heads(backend, part, rows, str(path), "the test rows")
        labels = predict_labels(backend, heads, rows)
        correct |= {domain: mark_correct(labels[domain], own.labels) for domain, own in rows.items()}
    return correct


def score_linear_model(dataset: Any) -> CorrectRows:
    """Return which test rows a logistic regression on TF-IDF of words and word pairs labels correctly.

    Its regularization is chosen on dev.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(domain: str, split: str) -> list[str]:
        rows = dataset.split(domain, split)
        return rows.texts if rows.pairs is None else [f"{a} {b}" for a, b in zip(rows.texts, rows.pairs, strict=True)]

    def score(model: Any, split: str) -> CorrectRows:
        domains = [domain for domain in dataset.domains if len(dataset.split(domain, split))]
        return {d: mark_correct(model.predict(texts(d, split)), dataset.split(d, split).labels) for d in domains}

    train = [text for domain in dataset.domains for text in texts(domain, "train")]
    labels = [label for domain in dataset.domains for label in dataset.split(domain, "train").labels]
    models = [
        make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=c, max_iter=1000)).fit(train, labels)
        for c in REGULARIZATION_STRENGTHS
    ]
    return score(max(models, key=lambda model: mean_accuracy(score(model, "dev"))), "test")


def mark_correct(predicted: Sequence[str], labels: Sequence[str]) -> str:
    """Return one character per row: 1 if the predicted label is correct, else 0."""
    return "".join("1" if a == b else "0" for a, b in zip(predicted, labels, strict=True))


def describe_machine(device: str) -> dict[str, Any]:
    """Return the device, threads and library versions of a result."""
    import torch

    from hrkd_cli.machine import machine_name, package_versions
    from hrkd_cli.models.device import pick_device

    picked = pick_device(device)
    name = torch.cuda.get_device_name(picked) if picked.type == "cuda" else machine_name()
    return {"device": name, "threads": torch.get_num_threads(), "versions": package_versions()}


def print_result(name: str, record: Mapping[str, Any]) -> None:
    """Print a finished result."""
    test, now = mean_accuracy(record["right"]), time.strftime("%H:%M:%S")
    print(f"{now} {name}: test {test:.1f}, dev {100 * record['dev']:.1f}, {record['seconds']:.0f} s", flush=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def tabulate(options: argparse.Namespace) -> None:
    """Print the tables, or write them into a file.

    Raises:
        PlanError: nothing is stored, or the file has no markers for the tables.
    """
    tables = make_tables(options.study, options.against)
    if options.into is None:
        print("\n\n".join(tables.values()))
        return
    text, replaced = replace_tables(options.into.read_text(encoding="utf-8"), tables)
    if not replaced:
        markers = " or ".join(f"<!-- study:{plan} -->" for plan in tables)
        raise PlanError(f"{options.into}: no {markers} with <!-- /study --> after it")
    options.into.write_text(text, encoding="utf-8")
    print(f"{options.into}: {', '.join(replaced)} written")


if __name__ == "__main__":
    main()
