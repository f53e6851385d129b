"""How long the one-file runtime takes to import, beside ``import onnxruntime``: ``python benchmarks/runtime.py``.

Run it with a Python that has onnxruntime, tokenizers and numpy (``--python``), for example that of an environment with
nothing else. The runs take turns, so that a busy machine slows all alike; the medians are compared.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hrkd_cli.predict.bundle import RUNTIME_FILE, write_bundle

BUDGET = 1.5
COMMANDS = {
    "python": "pass",
    "import onnxruntime": "import onnxruntime",
    "import onnxruntime, tokenizers, numpy": "import onnxruntime, tokenizers, numpy",
    "import hrkd_runtime": "import sys; sys.path.insert(0, 'hrkd_runtime.pyz'); import hrkd_runtime",
}


def seconds(python: str, code: str, folder: str) -> float:
    """Time one run, without anything of the environment's start-up but its packages."""
    start = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, cwd=folder, env={"PATH": "/usr/bin:/bin"})
    return time.perf_counter() - start


def main() -> None:
    """Print the median of each, and whether the runtime's is within its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the Python that imports (default: this one)")
    parser.add_argument("--runs", type=int, default=21, help="runs of each (default 21)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / RUNTIME_FILE)
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for turn in range(given.runs + 1):
            for name, code in COMMANDS.items():
                found = seconds(given.python, code, folder)
                if turn:  # the first writes byte code and fills the disk cache
                    taken[name].append(found)
    base = statistics.median(taken["import onnxruntime"])
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:40} {1000 * median:6.0f} ms   {median / base:4.2f}x")
    ratio = statistics.median(taken["import hrkd_runtime"]) / base
    print(f"hrkd_runtime is {'within' if ratio <= BUDGET else 'ABOVE'} its budget of {BUDGET:g}x")
    sys.exit(0 if ratio <= BUDGET else 1)


if __name__ == "__main__":
    main()
