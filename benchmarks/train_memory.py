"""Measure the memory of a training run: ``python benchmarks/train_memory.py --run RUN -- distill --out RUN ...``.

Runs ``hrkd`` with the arguments after ``--`` and samples the anonymous memory of the process and its descendants (their
own, without mapped files such as the teacher cache). Prints the peak whenever the number of steps has doubled; steps
are read from ``metrics.jsonl`` in the folder that the run writes. A run that keeps growing shows in the last lines.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from prepare_speed import describe_machine, process_tree

SAMPLE_SECONDS = 0.5


def anonymous_memory(pid: int) -> int:
    """Return the anonymous memory of a process in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def last_step(run: Path) -> int:
    """Return the last training step in the metrics of a run, finished or not; 0 before the first one."""
    for metrics in (run / "metrics.jsonl", run.with_name(f"{run.name}.partial") / "metrics.jsonl"):
        if metrics.is_file():
            *_, last = metrics.read_text().rpartition("\n")[0].splitlines() or ["{}"]
            return int(json.loads(last).get("step", 0))
    return 0


def watch(process: subprocess.Popen[bytes], run: Path) -> None:
    """Print the peak up to a step, each time that the number of steps has doubled, and at the end."""
    peak = step = reported = 0
    while process.poll() is None:
        peak = max(peak, sum(map(anonymous_memory, process_tree(process.pid))))
        step = max(step, last_step(run))
        if step >= max(1, 2 * reported):
            print(f"up to step {step:>6,}: {peak / 1e9:.2f} GB", flush=True)
            reported = step
        time.sleep(SAMPLE_SECONDS)
    print(f"up to step {step:>6,}: {peak / 1e9:.2f} GB, the end")


def main() -> None:
    """Run the training and print its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that the run writes")
    parser.add_argument("arguments", nargs="+", help="arguments of hrkd, after --")
    args = parser.parse_args()
    print(describe_machine(), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "hrkd_cli", *args.arguments], stdout=subprocess.DEVNULL)
    watch(process, args.run)
    if process.returncode:
        sys.exit(f"hrkd {' '.join(args.arguments)}: exit status {process.returncode}")


if __name__ == "__main__":
    main()
