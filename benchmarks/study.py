"""Compare the default student with simpler methods over data sets and seeds, and write the tables of docs/results.md.

    python benchmarks/study.py run DATA --encoder MINILM_L6 --out STUDY --seeds 1,2,3
    python benchmarks/study.py run DATA --encoder MINILM_L6 --out STUDY --timing
    python benchmarks/study.py table STUDY/results.jsonl --into docs/results.md --picture docs/study.svg

DATA is a folder with the sources that `study_methods.py` names. It also defines the columns (data sets of some size)
and the methods; --columns and --methods select some of them. Each method runs in its own process, and each peer
(`peers/`) in its own environment, which is made on first use.

Every result is a line at the end of STUDY/results.jsonl. Results that are there are skipped, and an interrupted student
continues from its last checkpoint. With --timing, the stored models of the first seed are timed with one thread
instead; run it on an idle machine. Tables are made from the results files alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study_methods import COLUMNS, DEFAULT_METHODS, LENGTHS, METHODS, Method, StudyError, select
from study_table import Results, draw_picture, make_tables, mean_accuracy, read_results, replace_tables

TIMED_TEXTS = 8
FEW_ROWS = 500  # train rows up to which a method for few rows is run


def main() -> None:
    """Run the command."""
    options = parse_arguments()
    try:
        if options.command == "run":
            run(options)
        else:
            tabulate(options)
    except StudyError as error:
        sys.exit(str(error))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("run", help="make the missing results")
    make.add_argument("data", type=Path, metavar="DATA", help="folder with the sources of the columns")
    make.add_argument("--encoder", type=Path, required=True, help="pretrained encoder of teacher, students and peers")
    make.add_argument("--out", type=Path, required=True, metavar="STUDY", help="folder for results and models")
    make.add_argument("--columns", metavar="A,B", help=f"default: all ({', '.join(COLUMNS)})")
    make.add_argument(
        "--methods", metavar="A,B", help=f"of {', '.join(METHODS)}; default: {', '.join(DEFAULT_METHODS)}"
    )
    make.add_argument("--seeds", default="1", metavar="1,2", help="default: 1")
    make.add_argument("--teacher-seed", type=int, help="one teacher for all seeds; default: a teacher per seed")
    make.add_argument("--environments", type=Path, metavar="DIR", help="default: STUDY/environments")
    make.add_argument("--timing", action="store_true", help="time stored models of the first seed instead")
    show = commands.add_parser("table", help="print the tables of the results")
    show.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="results files")
    show.add_argument("--against", default="student", metavar="METHOD", help="method to compare with")
    show.add_argument("--into", type=Path, metavar="FILE", help="write between <!-- study --> and <!-- /study -->")
    show.add_argument("--picture", type=Path, metavar="SVG", help="draw accuracy by size and by latency")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Make the missing results: all columns and methods of one seed before the next seed.

    Raises:
        StudyError: an option, the data or a stored result does not fit, or a method failed.
    """
    columns = select(options.columns, COLUMNS, tuple(COLUMNS), "--columns")
    methods = select(options.methods, METHODS, DEFAULT_METHODS, "--methods")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    for column in columns:
        make_column(column, options)
    for position, seed in enumerate(int(seed) for seed in options.seeds.split(",")):
        for column in columns:
            for name in methods:
                results = read_results([file])
                train_rows = results.columns[column]["rows"]["train"]
                again = position > 0 and (METHODS[name].deterministic or options.timing)
                if again or (METHODS[name].few_rows_only and train_rows > FEW_ROWS):
                    continue
                record = results.runs.get((column, name, seed), {})
                if "right" in record and record["encoder"] != options.encoder.name:
                    raise StudyError(f"{file}: {column}/{name} has another --encoder; choose another --out")
                if ("ms" if options.timing else "right") not in record:
                    run_method(column, name, seed, options)
                    print_result(read_results([file]), column, name, seed)


def make_column(name: str, options: argparse.Namespace) -> None:
    """Prepare the data of a column, choose texts to time, and write the column's facts to the results file, once.

    Raises:
        StudyError: the data is missing, or differs from that of the stored results.
    """
    from hrkd_cli import prepare
    from hrkd_cli.data.dataset_folder import is_prepared, open_dataset
    from hrkd_cli.errors import HrkdError

    column, folder, results = COLUMNS[name], options.out / name, options.out / "results.jsonl"
    try:
        if not is_prepared(folder / "dataset"):
            prepare(options.data / column.source, out=folder / "dataset", few_shot=column.few_shot)
        dataset = open_dataset(folder / "dataset")
    except HrkdError as error:
        raise StudyError(f"column {name}: {error}") from error
    stored = read_results([results]).columns.get(name)
    if stored is not None and stored["data"] != dataset.fingerprint:
        raise StudyError(f"{results}: column {name} has other data; choose another --out")
    if stored is not None and (folder / "texts.json").exists():
        return
    texts = choose_texts(dataset, options.encoder)
    timed = {length: texts[length] for length in LENGTHS}
    (folder / "texts.json").write_text(json.dumps(timed), encoding="utf-8")
    facts = {
        "column": name,
        "data": dataset.fingerprint,
        "rows": {
            split: sum(len(dataset.split(d, split)) for d in dataset.domains) for split in ("train", "dev", "test")
        },
        "tokens": texts["median"],
        "test_rows": {domain: len(dataset.split(domain, "test")) for domain in dataset.domains},
    }
    if stored is None:
        append(results, facts)


def choose_texts(dataset: Any, encoder: Path) -> dict[Any, Any]:
    """Return texts to time, (domain, text or pair) by number of tokens, and the median length of test texts.

    A text is as many test texts of a domain as needed, cut to the number of tokens of the encoder. A pair has two
    halves of that length.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = tokenizer.num_special_tokens_to_add(dataset.has_pairs)

    def cut(text: str, tokens: int) -> str:
        return text[: tokenizer.encode(text, add_special_tokens=False).offsets[:tokens][-1][1]]

    chosen: dict[Any, Any] = {length: [] for length in LENGTHS}
    lengths = []
    for number in range(TIMED_TEXTS):
        domain = dataset.domains[number % len(dataset.domains)]
        rows = dataset.split(domain, "test")
        start = number * len(rows) // TIMED_TEXTS
        order = [*range(start, len(rows)), *range(start)]
        for length in LENGTHS:
            parts = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
            budget = (length - special) // len(parts)
            texts = [cut(" ".join(part[row] for row in order[:budget]), budget) for part in parts]
            chosen[length].append((domain, texts[0] if rows.pairs is None else texts))
    for domain in dataset.domains:
        rows = dataset.split(domain, "test")
        inputs = rows.texts if rows.pairs is None else list(zip(rows.texts, rows.pairs, strict=True))
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch(inputs)]
    return {**chosen, "median": statistics.median(lengths)}


def run_method(column: str, name: str, seed: int, options: argparse.Namespace) -> None:
    """Run a method in its environment, and append its record to the results file.

    Raises:
        StudyError: it failed, or there is no model to time.
    """
    folder, method = options.out / column, METHODS[name]
    model, record = folder / f"{name}-{seed}", folder / f".{name}-{seed}.json"
    command = [str(find_python(method, options)), str(method.script), "--model", str(model), "--record", str(record)]
    environment = dict(os.environ)
    if options.timing:
        if not model.is_dir():
            raise StudyError(f"{model}: no model to time; run without --timing first")
        command += ["--time", str(folder / "texts.json")]
        environment["OMP_NUM_THREADS"] = "1"
    else:
        teacher_seed = seed if options.teacher_seed is None else options.teacher_seed
        command += ["--data", str(folder / "dataset"), "--encoder", str(options.encoder), "--seed", str(seed)]
        command += ["--method", name, "--teacher", str(folder / f"teacher-{teacher_seed}-weights")]
        command += ["--teacher-seed", str(teacher_seed)]
    if subprocess.run(command, check=False, env=environment).returncode:
        raise StudyError(f"{column}/{name} failed: {' '.join(command)}")
    facts = json.loads(record.read_text(encoding="utf-8"))
    if options.timing:
        facts = {"ms": facts["ms"], "timed_on": facts["machine"]}
    else:
        facts = {"encoder": options.encoder.name, "deterministic": method.deterministic, **facts}
    append(options.out / "results.jsonl", {"column": column, "method": name, "seed": seed, **facts})
    record.unlink()


def find_python(method: Method, options: argparse.Namespace) -> Path:
    """Return the Python of a method's environment, which is made unless it exists with the same requirements.

    Raises:
        StudyError: the requirements cannot be installed.
    """
    if method.requirements is None:
        return Path(sys.executable)
    folder: Path = (options.environments or options.out / "environments") / method.requirements.stem
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    wanted = method.requirements.read_text(encoding="utf-8")
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True, clear=True)
        for packages in (["--upgrade", "pip>=25"], ["--requirement", str(method.requirements)]):
            if subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=False).returncode:
                raise StudyError(f"{method.requirements}: cannot be installed in {folder}")
        installed.write_text(wanted, encoding="utf-8")
    return python


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Append a line to the results file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def print_result(results: Results, column: str, name: str, seed: int) -> None:
    """Print a finished result."""
    record = results.runs[column, name, seed]
    parts = [f"{time.strftime('%H:%M:%S')} {column}/{name} seed {seed}: test {mean_accuracy(record['right']):.1f}"]
    parts.append(f"{record['bytes']['weights'] / 1e6:.1f} MB, {record['minutes']:.1f} min")
    if "ms" in record:
        parts.append(", ".join(f"{tokens} tokens {times[0]:.2f} ms" for tokens, times in record["ms"].items()))
    print(", ".join(parts), flush=True)


def tabulate(options: argparse.Namespace) -> None:
    """Print the tables, or write them into a file, and draw the picture.

    Raises:
        StudyError: there are no results, or the file has no markers for the tables.
    """
    results = read_results(options.results)
    tables = make_tables(results, options.against)
    if options.picture:
        draw_picture(results, options.picture)
    if options.into is None:
        print(tables)
        return
    options.into.write_text(replace_tables(options.into.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(f"{options.into}: tables written")


if __name__ == "__main__":
    main()
