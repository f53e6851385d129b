"""Measure the speed and memory of ``hrkd prepare``: ``python benchmarks/prepare_speed.py --rows 1000000``.

Writes a CSV of reviews, prepares it in a separate process, and prints rows per second and the peak memory of that
process and its descendants. Memory is sampled. RSS counts shared pages once per process, PSS once in total.
"""

import argparse
import contextlib
import csv
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

DOMAINS = ("books", "dvd", "electronics", "games", "garden", "kitchen", "music", "toys")
LABELS = ("negative", "positive")
NOUNS = "story plot battery screen handle lid sound cover player price colour box manual seller song level knife hose"
WORDS = f"the a this and but very quite it is was not of for in my we they never always again {NOUNS} after two weeks"
SAMPLE_SECONDS = 0.2


def write_reviews(path: Path, rows: int, seed: int = 0) -> None:
    """Write reviews of 100 to 200 bytes; one in five has quotation marks, commas or line breaks, 2% are duplicates."""
    rng = random.Random(seed)
    words = WORDS.split()
    last = "nothing"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["id", "text", "label", "domain"])
        for number in range(rows):
            text = f"{' '.join(rng.choices(words, k=rng.randint(18, 36)))} {number}"
            kind = rng.random()
            if kind < 0.10:
                text = f'They said "{text}", and it is.'
            elif kind < 0.15:
                text = text.replace(" but ", ",\n", 1) + ", fine"
            elif kind < 0.20:
                text += ", très bien \u2014 \U0001f600"
            elif kind > 0.98:
                text = last.upper()
            last = text
            out.writerow([number, text, LABELS[number % 2], rng.choice(DOMAINS)])


def process_tree(root: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    pids = [root]
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def memory_of(pid: int) -> tuple[int, int]:
    """Return (RSS, PSS) of a process in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError, KeyError):
        lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        values = {fields[0]: int(fields[1]) * 1024 for fields in lines if len(fields) > 1 and fields[1].isdigit()}
        return values["Rss:"], values["Pss:"]
    return 0, 0


class Usage(NamedTuple):
    """Time and peak memory (bytes) of a command and its descendants."""

    seconds: float
    cpu_seconds: float
    rss: int
    pss: int
    largest_rss: int


def measure(command: list[str]) -> Usage:
    """Run a command and return its time and memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = (0, 0, 0)
    while process.poll() is None:
        memory = [memory_of(pid) for pid in process_tree(process.pid)]
        sample = sum(rss for rss, _ in memory), sum(pss for _, pss in memory), max(rss for rss, _ in memory)
        peaks = max(peaks[0], sample[0]), max(peaks[1], sample[1]), max(peaks[2], sample[2])
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return Usage(seconds, cpu.ru_utime + cpu.ru_stime, *peaks)


def describe_machine() -> str:
    """Return the processor, cores and memory."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{name}, {cores} cores, {gigabytes:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    """Write the CSV, prepare it, print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the CSV (default 10 million)")
    parser.add_argument(
        "--folder", type=Path, help="work folder, with room for four times the CSV (default: temporary)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the CSV, and reuse an existing one")
    parser.add_argument("options", nargs="*", help="options of hrkd prepare, after --")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="prepare-speed-"))
    folder.mkdir(parents=True, exist_ok=True)
    source, out = folder / f"reviews-{args.rows}.csv", folder / "dataset"
    try:
        if not source.exists():
            write_reviews(source, args.rows)
        size = source.stat().st_size
        print(describe_machine())
        print(f"{args.rows:,} rows, {size / 1e6:,.0f} MB of CSV, {size / args.rows:.0f} bytes per row")
        command = [sys.executable, "-m", "hrkd_cli", "prepare", str(source), "--out", str(out), "--force"]
        usage = measure([*command, *args.options])
        rss, pss, largest = (f"{size / 1e6:,.0f} MB" for size in (usage.rss, usage.pss, usage.largest_rss))
        print(
            f"{usage.seconds:.1f} s, {args.rows / usage.seconds:,.0f} rows/s; {usage.cpu_seconds:.1f} s of CPU\n"
            f"peak memory of all processes: {rss} (sum of RSS), {pss} (sum of PSS)\n"
            f"peak memory of the largest process: {largest} (RSS)"
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)
        if not args.keep:
            source.unlink(missing_ok=True)
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
