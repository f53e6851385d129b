"""Install a wheel of hrkd-runtime alone and label texts with it: ``python scripts/check_runtime.py WHEEL``.

``make package`` runs this. It also prints what the installation takes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from hrkd_cli import Predictor, export

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests/support"))
from tiny_folder import write_model  # noqa: E402


def check_wheel(wheel: Path, folder: Path) -> None:
    """Install ``wheel`` in ``folder`` and compare its predictions with those of hrkd-cli."""
    environment, model = folder / "environment", write_model(folder / "model")
    export(model, latency=False)
    venv.create(environment, with_pip=True)
    before = size_of(environment)
    pip = [environment / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", CHECKOUT / "constraints.txt"]
    subprocess.run([*pip, wheel.resolve()], check=True)
    program = environment / "bin/hrkd-runtime"
    subprocess.run([program, model, "--self-check"], check=True)
    start = time.perf_counter()
    command = [program, model / "onnx", "a good book", "--domain", "books"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    (expected,) = Predictor(model / "onnx").predict(["a good book"], domain="books")
    if f'"label": "{expected.label}"' not in answer.stdout:
        sys.exit(f"{wheel.name}: answers {answer.stdout} instead of {expected.to_json()}")
    megabytes = (size_of(environment) - before) / 1e6
    print(f"{wheel.name}: {megabytes:.0f} MB with what it needs, {seconds:.1f} s from start to the first label")


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        check_wheel(Path(sys.argv[1]), Path(scratch))
