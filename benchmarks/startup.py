"""Time ``hrkd --help`` against the import of Typer, its lower bound: ``python benchmarks/startup.py``.

Runs alternate between the commands, so that other load affects all of them; the medians are compared.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

MAX_RATIO = 3.0
COMMANDS = {
    "python -c 'import typer'": ["-c", "import typer"],
    "hrkd --help": ["-m", "hrkd_cli", "--help"],
    "hrkd distill --help": ["-m", "hrkd_cli", "distill", "--help"],
    "hrkd --version": ["-m", "hrkd_cli", "--version"],
}


def time_run(arguments: list[str]) -> float:
    """Return the seconds of one run of this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HRKD_")}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    """Print the median of each command and its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each command (default 15)")
    runs = parser.parse_args().runs
    for arguments in COMMANDS.values():  # one untimed run, to write byte code and fill the file cache
        time_run(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            times[name].append(time_run(arguments))
    base = statistics.median(next(iter(times.values())))
    for name, command_times in times.items():
        median = statistics.median(command_times)
        print(f"{name:28} {1000 * median:6.0f} ms   {median / base:4.2f}x")
    ratio = statistics.median(times["hrkd --help"]) / base
    print(f"hrkd --help is {'within' if ratio <= MAX_RATIO else 'ABOVE'} its budget of {MAX_RATIO:g}x")
    sys.exit(0 if ratio <= MAX_RATIO else 1)


if __name__ == "__main__":
    main()
