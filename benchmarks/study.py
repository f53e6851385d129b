"""Which part of the method is worth what: methods x seeds x data, and the tables of docs/results.md.

    python benchmarks/study.py run --plan first --amazon AMAZON --mnli MNLI --unlabelled TEXTS \
        --teacher-model MINILM_L6 --student MINILM_L3 --out STUDY --seeds 1,2,3,4,5
    python benchmarks/study.py table STUDY --into docs/results.md

A column is a dataset of some size, with one teacher; a row is a method (`study_plan.py` has both). Each finished run is
a file, STUDY/COLUMN/METHOD-SEED.json, which says for each test row whether it was right; the tables are made from these
files alone. Runs that are there are skipped; given again, the command goes on at an interrupted run's last checkpoint.
Several of these processes may share the work: give each its own columns with --only.

Differences are paired by seed. Their 95 % intervals resample seeds and test rows, 10,000 times. The teacher and the
linear model (`--against teacher`, `floor`) are one model each: their own variation is not in the interval.
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

from study_plan import COLUMNS, EACH, PLANS, STUDENT, TEXTS, PlanError, choose

SOURCES = ("amazon", "mnli", "reviews12")
FLOOR_STRENGTHS = (1.0, 10.0, 100.0)

Right = dict[str, str]
"""For each domain one character per test row: 1 where the label is right, 0 where it is not."""


def main() -> None:
    """Run or tabulate."""
    options = arguments()
    try:
        if options.command == "run":
            run(options)
        else:
            tabulate(options)
    except PlanError as error:
        sys.exit(str(error))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("run", help="make the runs that are missing")
    make.add_argument("--plan", choices=PLANS, default="first")
    for source in SOURCES:
        make.add_argument(f"--{source}", metavar="SOURCE", help="as hrkd prepare reads it")
    make.add_argument("--unlabelled", metavar="DIR", help="texts without labels")
    make.add_argument("--teacher-model", required=True, help="encoder that the teachers are taught from")
    make.add_argument("--large-teacher", help="another encoder, for the columns that use it")
    make.add_argument("--student", required=True, help="as in hrkd distill")
    make.add_argument("--out", required=True, type=Path, metavar="STUDY", help="folder for the runs")
    make.add_argument("--seeds", default="1,2,3,4,5")
    make.add_argument("--device", default="auto")
    make.add_argument("--only", action="append", default=[], metavar="COLUMN[/METHOD]", help="may be repeated; with *")
    make.add_argument("--keep", action="store_true", help="keep the students' weights, in STUDY/COLUMN/work")
    show = commands.add_parser("table", help="print the tables of the runs that are there")
    show.add_argument("study", type=Path, metavar="STUDY")
    show.add_argument(
        "--against", default="frozen", metavar="METHOD", help="method to compare with; also: teacher, floor"
    )
    show.add_argument("--into", type=Path, metavar="FILE", help="write between <!-- study:PLAN --> and <!-- /study -->")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Make what is missing: a column's teacher first, then all methods of a seed before the next seed.

    Raises:
        PlanError: data is not given, or a stored result was made in another way.
    """
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for column, methods in choose(options.plan, options.only).items():
        folder = options.out / column
        facts = None
        for seed in seeds:
            for method in methods:
                file = folder / f"{method}-{seed}.json"
                wanted = {"options": COLUMNS[column].distilling(method), "student": Path(options.student).name}
                if is_stored(file, wanted):
                    continue
                facts = facts or make_column(column, folder, options)
                found = make_run(column, method, seed, facts, options)
                report(f"{column}/{method} seed {seed}", found)


def is_stored(file: Path, wanted: Mapping[str, Any]) -> bool:
    """Return whether a result is there.

    Raises:
        PlanError: it is, and was made in another way.
    """
    if not file.exists():
        return False
    stored, wanted = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(wanted))
    if other := [name for name, value in wanted.items() if stored[name] != value]:
        raise PlanError(f"{file}: made with another {', '.join(other)}; remove it or choose another --out")
    return True


def make_column(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Prepare a column's data, teach its teacher and score it; use what is there already.

    Raises:
        PlanError: the data or the encoder is not given, or the stored column is another one.
    """
    from hrkd_cli import prepare, teach
    from hrkd_cli.data.dataset_folder import is_prepared, open_dataset
    from hrkd_cli.models.model_folder import model_fingerprint

    column, data, teacher, record = COLUMNS[name], folder / "dataset", folder / "teacher", folder / "column.json"
    source = getattr(options, column.source, column.source)
    encoder = options.large_teacher if column.large else options.teacher_model
    if source is None or encoder is None:
        raise PlanError(f"column {name} needs --{column.source if source is None else 'large-teacher'}")
    made_with = {"column": column.to_json(), "teacher_model": Path(encoder).name}
    known = is_stored(record, made_with)
    if not is_prepared(data):
        raw = folder / "unshuffled" if column.shuffled else data
        prepare(source, out=raw, few_shot=column.few_shot, force=bool(column.shuffled))
        if column.shuffled:
            shuffle_labels(open_dataset(raw), column.shuffled, folder / "shuffled")
            prepare(folder / "shuffled", out=data)
    taught = teach(encoder, data=data, out=teacher, resume=True, device=options.device, **column.teaching())
    dataset = open_dataset(data)
    prints = {"data": dataset.fingerprint, "teacher": model_fingerprint(teacher)}
    if known:
        stored = json.loads(record.read_text(encoding="utf-8"))
        if stored["fingerprints"] != prints:
            raise PlanError(f"{folder}: data or teacher differ from those of the stored runs; choose another --out")
        return dict(stored)
    rows = {split: sum(len(dataset.split(d, split)) for d in dataset.domains) for split in ("train", "dev", "test")}
    found = {
        **made_with,
        "fingerprints": prints,
        "rows": rows,
        "dev": taught.dev["average"]["accuracy"],
        "seconds": taught.seconds,
        "examples_per_second": taught.examples_per_second,
        "right": score(teacher, dataset, options.device),
        "floor": linear_floor(dataset),
        **machine(options.device),
    }
    write_whole(record, found)
    report(f"{name} teacher", found)
    return found


def make_run(
    column: str, method: str, seed: int, facts: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Distil one student, score it, store the result and drop the weights.

    Raises:
        PlanError: texts without labels are needed and not given.
    """
    from hrkd_cli import distill
    from hrkd_cli.data.dataset_folder import open_dataset

    folder, chosen = options.out / column, COLUMNS[column].distilling(method)
    given = {STUDENT: options.student, TEXTS: options.unlabelled}
    if TEXTS in chosen.values() and options.unlabelled is None:
        raise PlanError(f"column {column}: {method} needs --unlabelled")
    own = {name: given.get(value, value) if isinstance(value, str) else value for name, value in chosen.items()}
    dataset, out = open_dataset(folder / "dataset"), folder / "work" / f"{method}-{seed}"
    alone = own.get("domains") == EACH
    parts = {domain: out / domain for domain in dataset.domains} if alone else {None: out}
    common = {"data": folder / "dataset", "resume": True, "seed": seed, "device": options.device}
    results = [
        distill(folder / "teacher", out=part, **common, **(own if domain is None else own | {"domains": domain}))
        for domain, part in parts.items()
    ]
    found = {
        "method": method,
        "seed": seed,
        "options": chosen,
        "student": Path(options.student).name,
        "fingerprints": facts["fingerprints"],
        "steps": sum(result.steps for result in results),
        "seconds": sum(result.seconds for result in results),
        "examples_per_second": statistics.mean(result.examples_per_second for result in results),
        "dev": statistics.mean(result.dev["average"]["accuracy"] for result in results),
        "right": score(out, dataset, options.device),
        "ratios": None if alone else late_ratios(out / "metrics.jsonl"),
        **machine(options.device),
    }
    write_whole(folder / f"{method}-{seed}.json", found)
    if not options.keep:
        shutil.rmtree(out)
    return found


def shuffle_labels(dataset: Any, domains: Sequence[str], raw: Path) -> None:
    """Write a dataset of single texts as ``hrkd prepare`` reads it, with shuffled train labels in some domains."""
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
    """Return the domain ratios in the last fifth of training, means over records and layers; None without a graph."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    found = [record["ratios"] for record in records if "ratios" in record]
    late = [row for ratios in found[-max(1, len(found) // 5) :] for row in ratios]
    return [statistics.mean(column) for column in zip(*late, strict=True)] if late else None


def score(folder: Path, dataset: Any, device: str) -> Right:
    """Return which test rows a model gets right; ``folder`` may hold one model per domain, each in its own folder."""
    from hrkd_cli.evaluation.scoring import match_heads, predict_labels, select_split
    from hrkd_cli.predict.backend import open_backend

    parts = [(folder / domain, dataset.select_domains(domain)) for domain in dataset.domains]
    if not all((path / "config.json").is_file() for path, _ in parts):
        parts = [(folder, dataset)]
    right: Right = {}
    for path, part in parts:
        backend = open_backend(path, device=device)
        rows = select_split(part, "test", "the test rows")
        heads = match_heads(backend, part, rows, str(path), "the test rows")
        labels = predict_labels(backend, heads, rows)
        right |= {domain: compare(labels[domain], own.labels) for domain, own in rows.items()}
    return right


def linear_floor(dataset: Any) -> Right:
    """Return the same of one logistic regression on TF-IDF of words and word pairs; its strength is chosen on dev."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(domain: str, split: str) -> list[str]:
        rows = dataset.split(domain, split)
        return rows.texts if rows.pairs is None else [f"{a} {b}" for a, b in zip(rows.texts, rows.pairs, strict=True)]

    def outcome(model: Any, split: str) -> Right:
        there = [domain for domain in dataset.domains if len(dataset.split(domain, split))]
        return {d: compare(model.predict(texts(d, split)), dataset.split(d, split).labels) for d in there}

    train = [text for domain in dataset.domains for text in texts(domain, "train")]
    labels = [label for domain in dataset.domains for label in dataset.split(domain, "train").labels]
    tries = [
        make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=c, max_iter=1000)).fit(train, labels)
        for c in FLOOR_STRENGTHS
    ]
    return outcome(max(tries, key=lambda model: mean_share(outcome(model, "dev"))), "test")


def compare(predicted: Sequence[str], truth: Sequence[str]) -> str:
    """Return one character per row: 1 where both are equal."""
    return "".join("1" if a == b else "0" for a, b in zip(predicted, truth, strict=True))


def mean_share(right: Right) -> float:
    """Return the share of right rows, averaged over domains."""
    return statistics.mean(row.count("1") / len(row) for row in right.values())


def machine(device: str) -> dict[str, Any]:
    """Say where a result was made."""
    import torch

    from hrkd_cli.machine import machine_name, package_versions
    from hrkd_cli.models.device import pick_device

    found = pick_device(device)
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else machine_name()
    return {"device": name, "threads": torch.get_num_threads(), "versions": package_versions()}


def report(name: str, found: Mapping[str, Any]) -> None:
    """Print one finished result."""
    test, now = 100 * mean_share(found["right"]), time.strftime("%H:%M:%S")
    print(f"{now} {name}: test {test:.1f}, dev {100 * found['dev']:.1f}, {found['seconds']:.0f} s", flush=True)


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is there in full or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def tabulate(options: argparse.Namespace) -> None:
    """Print the tables, or write them into a file.

    Raises:
        PlanError: nothing is stored, or the file has no place for the tables.
    """
    from study_table import put_into, tables

    found = tables(options.study, options.against)
    if options.into is None:
        print("\n\n".join(found.values()))
        return
    text, done = put_into(options.into.read_text(encoding="utf-8"), found)
    if not done:
        marks = " or ".join(f"<!-- study:{plan} -->" for plan in found)
        raise PlanError(f"{options.into}: no {marks} with <!-- /study --> after it")
    options.into.write_text(text, encoding="utf-8")
    print(f"{options.into}: {', '.join(done)} written")


if __name__ == "__main__":
    main()
