"""How fast ``hrkd prepare`` is and how much memory it takes: ``python benchmarks/prepare_speed.py --rows 1000000``.

Makes a CSV of reviews, prepares it in a process of its own, and prints rows a second and the peak memory of that
process and all below it. Memory is sampled: RSS counts pages that processes share once for each of them, PSS once.
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

DOMAINS = ("books", "dvd", "electronics", "games", "garden", "kitchen", "music", "toys")
LABELS = ("negative", "positive")
NOUNS = "story plot battery screen handle lid sound cover player price colour box manual seller song level knife hose"
WORDS = f"the a this and but very quite it is was not of for in my we they never always again {NOUNS} after two weeks"
SAMPLE_SECONDS = 0.2


def write_reviews(path: Path, rows: int, seed: int = 0) -> None:
    """Write reviews of about 100 to 200 bytes; one in five has quotation marks, commas or line breaks, 2 % repeat."""
    choose = random.Random(seed)
    words = WORDS.split()
    last = "nothing"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["id", "text", "label", "domain"])
        for number in range(rows):
            text = f"{' '.join(choose.choices(words, k=choose.randint(18, 36)))} {number}"
            kind = choose.random()
            if kind < 0.10:
                text = f'They said "{text}", and it is.'
            elif kind < 0.15:
                text = text.replace(" but ", ",\n", 1) + ", fine"
            elif kind < 0.20:
                text += ", très bien \u2014 \U0001f600"
            elif kind > 0.98:
                text = last.upper()
            last = text
            out.writerow([number, text, LABELS[number % 2], choose.choice(DOMAINS)])


def tree(root: int) -> list[int]:
    """Return a process and all below it."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def memory(pid: int) -> tuple[int, int]:
    """Return (RSS, PSS) of a process in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError, KeyError):
        lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        values = {fields[0]: int(fields[1]) * 1024 for fields in lines if len(fields) > 1 and fields[1].isdigit()}
        return values["Rss:"], values["Pss:"]
    return 0, 0


def run(command: list[str]) -> tuple[float, float, int, int, int]:
    """Run a command; return seconds, CPU seconds, and peaks in bytes: RSS of all, PSS of all, RSS of the largest."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = (0, 0, 0)
    while process.poll() is None:
        seen = [memory(pid) for pid in tree(process.pid)]
        now = sum(rss for rss, _ in seen), sum(pss for _, pss in seen), max(rss for rss, _ in seen)
        peaks = tuple(map(max, peaks, now))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime, *peaks


def machine() -> str:
    """Name processor, cores and memory."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{name}, {cores} cores, {gigabytes:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    """Make the file, prepare it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the CSV (default 10 million)")
    parser.add_argument("--folder", type=Path, help="where to work; it needs four times the CSV (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="leave the CSV, and use one that is there")
    parser.add_argument("options", nargs="*", help="options of hrkd prepare, after --")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="prepare-speed-"))
    folder.mkdir(parents=True, exist_ok=True)
    source, out = folder / f"reviews-{given.rows}.csv", folder / "dataset"
    try:
        if not source.exists():
            write_reviews(source, given.rows)
        size = source.stat().st_size
        print(f"{machine()}\n{given.rows:,} rows, {size / 1e6:,.0f} MB of CSV, {size / given.rows:.0f} bytes a row")
        command = [sys.executable, "-m", "hrkd_cli", "prepare", str(source), "--out", str(out), "--force"]
        seconds, used, rss, pss, largest = run([*command, *given.options])
        print(
            f"{seconds:.1f} s, {given.rows / seconds:,.0f} rows/s; {used:.1f} s of CPU\n"
            f"peak memory of all processes: {rss / 1e6:,.0f} MB (sum of RSS), {pss / 1e6:,.0f} MB (sum of PSS)\n"
            f"peak memory of the largest process: {largest / 1e6:,.0f} MB (RSS)"
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)
        if not given.keep:
            source.unlink(missing_ok=True)
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
