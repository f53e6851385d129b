"""How long ``hrkd --help`` takes, beside the least that a Typer program can take: ``python benchmarks/startup.py``.

The runs take turns, so that a busy machine slows both alike; the medians are compared.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

BUDGET = 3.0
COMMANDS = {
    "python -c 'import typer'": ["-c", "import typer"],
    "hrkd --help": ["-m", "hrkd_cli", "--help"],
    "hrkd distill --help": ["-m", "hrkd_cli", "distill", "--help"],
    "hrkd --version": ["-m", "hrkd_cli", "--version"],
}


def seconds(arguments: list[str]) -> float:
    """Time one run of this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HRKD_")}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    """Print the median of each command and its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each command (default 15)")
    runs = parser.parse_args().runs
    for arguments in COMMANDS.values():  # once unmeasured: byte code is written, files are cached
        seconds(arguments)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    base = statistics.median(next(iter(taken.values())))
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:28} {1000 * median:6.0f} ms   {median / base:4.2f}x")
    ratio = statistics.median(taken["hrkd --help"]) / base
    print(f"hrkd --help is {'within' if ratio <= BUDGET else 'ABOVE'} its budget of {BUDGET:g}x")
    sys.exit(0 if ratio <= BUDGET else 1)


if __name__ == "__main__":
    main()
