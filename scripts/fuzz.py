"""Damage valid inputs at random, run the command line on them, and report what should not happen.

    python scripts/fuzz.py --minutes 60 --seed 1
    python scripts/fuzz.py --seed 1 --only 4711     # one round again, with its traceback

Each round copies valid inputs (the tests' own), changes one or two of them (bytes of a file, values of a JSON or TOML
file, cells of a table, an option), and runs one command in a forked process. A find is

- a traceback, an internal error, a signal, or an exit code other than 0 to 3;
- a hang (``--timeout``);
- an error that is not one line, or without any message;
- after an error: a file that was not there, was changed or is gone;
- a success that contradicts what is known: a self-check that passes on changed files, predictions that are not
  probabilities, a dataset that cannot be opened, a page that is none.

Equal finds are reported once. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from hrkd_cli.cli.main import main as run_hrkd
from valid_inputs import ValidInputs

SHORT = "--epochs 1 --batch-size 8 --max-length 8"
# Commands that succeed on the valid inputs, each with the weight of its choice.
COMMANDS = {
    "prepare raw": 6,
    "prepare raw/books.csv --domain label": 3,
    "predict student/onnx good": 4,
    "predict student/onnx --input raw/books.csv --domain books": 5,
    "predict student good": 2,
    "predict --self-check student": 4,
    "eval student --data dataset": 3,
    "eval student/onnx --data raw --split all": 2,
    "export student --out out": 2,
    "export student --domain books --out out": 1,
    "export student --int8 --max-drop 100 --data dataset --no-latency --out out": 1,
    "report run": 4,
    "report student run": 1,
    "distill --config c.toml --teacher nowhere/at/all": 4,
    f"teach --model encoder --data dataset --out out {SHORT}": 1,
    f"distill --teacher student --data dataset --out out --student 1x32 --allow-weak-teacher {SHORT}": 1,
}
CONFIG = """epochs = 3
batch-size = 8
warmup = 0.1
[distill]
graph = "none"
hierarchy = false
[prepare]
domains = ["a", "b"]
"""
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "x",
    "0", "null", "../..", "/", "\0", "\u202e", "\ud800", "é" * 300, "a" * 100_000, [], [[]], {}, {"a": None}, [None],
    [{}], ["x"] * 3,
]  # fmt: skip
ODD_WORDS = [
    "", " ", "0", "-1", "1", "1.5", "nan", "inf", "1e999", "9" * 30, "auto", "x", "a,b", ",", "no/such/folder", ".",
    "-", "--", "é", "\udcff", "x" * 5000, "raw", "dataset", "student", "run", "encoder", "raw/books.csv",
    "student/onnx/model.onnx",
]  # fmt: skip
ODD_BYTES = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n\n", b'"', b"'", b",", b"\t", b"{", b"[", b"}", b"\\",
    b"\x1a",    b"9" * 400, b"[" * 3000, b"1e999", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80" * 50, b"a" * 140_000,
    b'"' + b"x\n" * 500,
]  # fmt: skip
USAGE = re.compile(r"hrkd( \w+)?: ")


@dataclass
class Round:
    """One command on damaged inputs."""

    words: list[str]
    changes: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat, insert or replace a part of a file."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice([1, 1, 4, 64, 5000]))
    part = rng.choice([*ODD_BYTES, bytes(rng.randrange(256) for _ in range(8)), b"", content[start:end] * 2])
    return rng.choice(
        [content[:start] + part + content[end:], content[:start] + part + content[start:], content[:start]]
    )


def damage_json(rng: random.Random, value: Any) -> Any:
    """Replace, remove or rename one value at a random depth."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(ODD_VALUES)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy = value.copy()
    action = rng.random()
    if action < 0.15:
        del copy[key]
    elif action < 0.2 and isinstance(copy, dict):
        copy[str(rng.choice(ODD_VALUES))[:50]] = copy.pop(key)
    else:
        copy[key] = damage_json(rng, value[key])
    return copy


def read_valid(content: bytes) -> Any:
    """Return a JSON document; None if it was damaged before."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def damage_lines(rng: random.Random, text: str) -> str:
    """Repeat, remove, swap or extend lines."""
    lines = text.split("\n")
    n = rng.randrange(len(lines))
    odd = str(rng.choice(ODD_VALUES))
    lines[n] = rng.choice(
        [lines[n] + odd, odd + lines[n], "", lines[n] + "," + odd, lines[n].replace(",", odd, 1), lines[n][::-1]]
    )
    return "\n".join(rng.choice([lines, lines[:n], lines[n:], lines * 2, sorted(lines)]))


def damage_file(rng: random.Random, file: Path) -> str:
    """Change one file in place; return what was done."""
    kind = rng.random()
    if kind < 0.06:
        file.unlink()
        return "removed"
    if kind < 0.08:
        file.unlink()
        file.mkdir()
        return "is a folder"
    content = file.read_bytes()
    if file.suffix == ".json" and kind < 0.8 and (document := read_valid(content)) is not None:
        damaged = json.dumps(damage_json(rng, document)).encode()
    elif file.suffix in (".csv", ".toml", ".jsonl") and kind < 0.7:
        damaged = damage_lines(rng, content.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    else:
        damaged = damage_bytes(rng, content)
    file.write_bytes(damaged)
    return "unchanged" if damaged == content else f"{len(content)} to {len(damaged)} bytes"


def prepare_round(rng: random.Random, inputs: ValidInputs, folder: Path) -> Round:
    """Copy the inputs of a random command and damage some of them."""
    command = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
    plan = Round(command.split())
    for word in plan.words:
        inputs.copy(word.split("/")[0], folder)
    (folder / "c.toml").write_text(CONFIG)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {word.split("/")[0] for word in plan.words}
    files = [file for file in files if file.relative_to(folder).parts[0] in named]
    for _ in range(rng.choice([1, 1, 2])):
        if files and rng.random() < 0.75:
            # Small files and text, which people edit, more often than weights.
            file = rng.choices(
                files, [1 / (1 + each.stat().st_size / 2000) if each.is_file() else 0.01 for each in files]
            )[0]
            if file.is_file():
                plan.changes.append(f"{file.relative_to(folder)}: {damage_file(rng, file)}")
                plan.changed.add(str(file.relative_to(folder)))
        else:
            add_option(rng, plan)
    return plan


def add_option(rng: random.Random, plan: Round) -> None:
    """Replace a word, or add an option of the command with an odd value."""
    from hrkd_cli.cli.command import COMMANDS as SPECS

    options = [
        option for option in SPECS[plan.words[0]].named_options.values() if option.name not in ("json", "config")
    ]
    option = rng.choice(options)
    flag = [option.flag] if option.kind is bool else [option.flag, rng.choice(ODD_WORDS)]
    if option.name in ("processes", "device"):  # these start other programs
        return
    if rng.random() < 0.3 and len(plan.words) > 1:
        n = rng.randrange(1, len(plan.words))
        flag, plan.words[n] = [f"word {n}"], rng.choice(ODD_WORDS)
    else:
        plan.words += flag
    plan.changes.append(" ".join(flag)[:80])


def snapshot(folder: Path) -> dict[str, str]:
    """Return a checksum of every file, and the folders."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def run(words: list[str], folder: Path, output: Path, *, timeout: float, debug: bool = False) -> tuple[str, str, str]:
    """Run a command in a forked process; return its end (exit code, signal or hang), stdout and stderr."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            os.chdir(folder)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if debug:
                os.environ["HRKD_DEBUG"] = "1"
            code = run_hrkd(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as end:
            code = 98 if not isinstance(end.code, int) else end.code
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hang of more than {timeout:g} s", "", ""
        time.sleep(0.01)
    out, err = ((output / name).read_text("utf-8", errors="replace") for name in ("out", "err"))
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else str(os.WEXITSTATUS(status)), out, err


def judge(plan: Round, end: str, out: str, err: str, before: dict[str, str], folder: Path) -> str | None:
    """Return what should not have happened; None if all is well."""
    if end not in ("0", "1", "2", "3"):
        return f"ended with {end}"
    if "Traceback (most recent call last)" in err or "internal error" in err:
        return "internal error"
    after = snapshot(folder)
    if end != "0":
        error = re.sub(r"^warning: .*\n", "", err, flags=re.MULTILINE)
        if not USAGE.match(error) or error.count("\n") != 1:
            return "an error that is not one line" if error.strip() else "an error without a message"
        left = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        if "hrkd-out/dataset/dataset.json" in left:  # the stage prepare is finished; its output is kept
            left = {path for path in left if not f"{path}/".startswith("hrkd-out/dataset/") and path != "hrkd-out"}
        return f"an error left {', '.join(sorted(left)[:5])}" if left else None
    if left := [path for path in after if ".partial" in path and path not in before]:
        return f"a success left {left[0]}"
    return judge_success(plan, out, folder)


def judge_success(plan: Round, out: str, folder: Path) -> str | None:
    """Return what a success contradicts; None if nothing."""
    words = plan.words
    if "--help" in words:
        return None
    if "--self-check" in words:
        checked = {
            "student/onnx/model.onnx",
            "student/config.json",
            "student/tokenizer.json",
            "student/tokenizer_config.json",
        }
        if changed := checked & {path for path in plan.changed if "unchanged" not in " ".join(plan.changes)}:
            return f"the self-check passed, but {min(changed)} was changed"
    elif words[0] == "predict" and "--json" not in words:
        for line in out.rstrip("\n").split("\n"):  # splitlines() also splits at characters that JSON may contain
            record = json.loads(line)
            if record["label"] is None:
                continue
            scores = record["scores"].values()
            if not all(0 <= score <= 1 for score in scores) or abs(sum(scores) - 1) > 1e-3:
                return "a prediction that is not a probability"
    elif words[0] == "prepare":
        from hrkd_cli.data.dataset_folder import open_dataset

        given = [words[n + 1] for n, word in enumerate(words[:-1]) if word == "--out"]
        try:
            open_dataset(folder / (given[-1] if given else "hrkd-out/dataset"))
        except Exception as error:
            return f"a dataset that cannot be opened: {error}"
    elif words[0] == "report":
        pages = [page for page in folder.rglob("*.html") if page.stat().st_size]
        if "--out" not in words and not any("</html>" in page.read_text("utf-8") for page in pages):
            return "no page"
    return None


def signature(problem: str, err: str) -> str:
    """Return what makes finds equal: the innermost line of the package in a traceback, else the problem."""
    frames = re.findall(r'File "[^"]*/hrkd_cli/([^"]+)", line (\d+)', err)
    last = err.strip().splitlines()[-1] if err.strip() else ""
    where = ":".join(frames[-1]) if frames else re.sub(r"\W?\d[\w.]*|'[^']*'", "", last)[:80]
    return f"{re.sub(r'[0-9]+', '', problem)[:60]} | {where}"


def load_modules() -> None:
    """Import what the forked processes need, so that they start at once; run no model, because threads do not fork."""
    import duckdb  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import onnxruntime  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers  # noqa: F401

    import hrkd_cli

    for name in ("prepare", "teach", "distill", "evaluate", "export", "report", "Predictor"):
        getattr(hrkd_cli, name)


def fork(function: Callable[[], None]) -> None:
    """Run a function in a forked process and wait for it."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the valid inputs could not be made")


def main() -> int:
    """Run rounds until the time is over, and report finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this round only")
    parser.add_argument("--timeout", type=float, default=120, help="seconds after which a command hangs")
    options = parser.parse_args()
    load_modules()
    finds: dict[str, int] = {}
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="hrkd-fuzz-") as place:
        inputs, folder, output = ValidInputs(Path(place) / "valid"), Path(place) / "work", Path(place) / "output"
        output.mkdir()
        names = {word.split("/")[0] for command in COMMANDS for word in command.split()}
        fork(lambda: [inputs.copy(name, Path(place) / "first") for name in sorted(names)] and None)
        end_time = time.monotonic() + 60 * options.minutes
        number = options.only if options.only is not None else 0
        while time.monotonic() < end_time:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            plan = prepare_round(random.Random(f"{options.seed}/{number}"), inputs, folder)
            before = snapshot(folder)
            end, out, err = run([*plan.words, "-q"], folder, output, timeout=options.timeout)
            ends[f"{plan.words[0]} {end}"] += 1
            if problem := judge(plan, end, out, err, before, folder):
                if problem == "internal error":
                    err = run([*plan.words, "-q"], folder, output, timeout=options.timeout, debug=True)[2]
                key = signature(problem, err)
                finds[key] = finds.get(key, 0) + 1
                if finds[key] == 1:
                    print(f"\n{number}: {problem}\n  hrkd {ascii(' '.join(plan.words))[:300]}\n  {plan.changes}")
                    print("  " + "\n  ".join(ascii(line)[:250] for line in err.strip().splitlines()[-6:]), flush=True)
            number += 1
            if options.only is not None:
                print(f"ended with {end}\n{out[:2000]}\n{err[:8000]}")
                break
    print(f"\n{sum(ends.values())} rounds: {dict(sorted(ends.items()))}")
    for key, count in sorted(finds.items()):
        print(f"{count:5}  {key}")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
