"""Install the wheels with the oldest and newest allowed dependencies and use them: ``python scripts/compatibility.py``.

``oldest`` and ``newest`` are uv's resolutions ``lowest-direct`` and ``highest`` of the requirements in
``pyproject.toml``; ``pipx`` and ``uv`` install hrkd-cli as the README says. Each combination trains, exports and
predicts with a tiny encoder, and removes its environments. ``UV_TORCH_BACKEND=cpu`` and ``--constraint`` choose torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
PYTHONS = ("3.11", "3.12", "3.13")
COMBINATIONS = (*(f"{python}-{age}" for python in PYTHONS for age in RESOLUTIONS), "pipx", "uv")
SHOWN = ("torch", "transformers", "onnxruntime", "numpy")
MAKE_INPUTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import write_encoder, write_raw
write_encoder(Path("encoder"))
write_raw(Path("data"))
"""
OPTIONS = """
max-length = 16
batch-size = 8
learning-rate = 3e-3
epochs = 4
[distill]
teacher-epochs = 8
teacher-learning-rate = 3e-3
allow-weak-teacher = true
"""
STEPS = """
--version
prepare sample --out sample
distill --teacher encoder --data data --student 2x32 --config options.toml
export --int8 --max-drop 100
eval --floor
report
predict --self-check hrkd-out/student
"""
PREDICT = ("predict", "hrkd-out/student/onnx", "a lovely thing", "--domain", "books")


class Checker:
    """Installs and uses the wheels in a scratch folder."""

    def __init__(self, scratch: Path, constraint: Path | None, log: Path) -> None:
        self.scratch, self.log = scratch, log
        self.constraint = ("--constraint", str(constraint.resolve())) if constraint else ()
        tools = scratch / "tools/bin"
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("HRKD_", "PYTHONPATH"))}
        self.variables = inherited | {"PATH": f"{os.environ['PATH']}{os.pathsep}{tools}", "HF_HUB_OFFLINE": "1"}
        if missing := [name for name in ("uv", "pipx") if not shutil.which(name)]:
            venv.create(tools.parent, with_pip=True)
            self.run(tools / "python", "-m", "pip", "install", "--quiet", *missing)
        self.wheels = {}
        for name, folder in (("hrkd-cli", CHECKOUT), ("hrkd-runtime", CHECKOUT / "runtime")):
            self.run("uv", "build", "--wheel", "--out-dir", scratch / "dist", folder)
            (self.wheels[name],) = (scratch / "dist").glob(f"{name.replace('-', '_')}-*.whl")

    def run(self, *command: object, cwd: Path | None = None, **variables: object) -> str:
        """Run a program and return its stdout."""
        words = [str(word) for word in command]
        environment = self.variables | {name: str(value) for name, value in variables.items()}
        try:
            ran = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=3600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(str(error)) from None
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n{ran.stdout}{ran.stderr}\n")
        if ran.returncode:
            lines = (ran.stderr or ran.stdout).strip().splitlines() or ["no output"]
            raise RuntimeError(f"{Path(words[0]).name} {words[1]}: exit code {ran.returncode}: {lines[-1]}")
        return ran.stdout

    def check(self, combination: str) -> str:
        """Install and use one combination; return the versions of the main dependencies."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            place = Path(folder)
            if combination in ("pipx", "uv"):
                python, program = getattr(self, f"install_with_{combination}")(place)
            else:
                version, age = combination.split("-")
                python, program = self.install("hrkd-cli", CHECKOUT, version, age, place)
            self.run(python, "-c", MAKE_INPUTS, CHECKOUT / "tests/support", cwd=place)
            (place / "options.toml").write_text(OPTIONS)
            for step in STEPS.strip().splitlines():
                self.run(program, *step.split(), cwd=place)
            record = json.loads(self.run(program, *PREDICT, cwd=place))
            if combination not in ("pipx", "uv"):
                self.request(program, place)
                _, runtime = self.install("hrkd-runtime", CHECKOUT / "runtime", version, age, place)
                self.run(runtime, "hrkd-out/student", "--self-check", cwd=place)
                if (other := json.loads(self.run(runtime, *PREDICT[1:], cwd=place)))["label"] != record["label"]:
                    raise RuntimeError(f"hrkd-runtime answers {other}, hrkd predict {record}")
            versions = json.loads(self.run(program, "info", "--json"))["packages"]
            return ", ".join(f"{name} {versions[name]}" for name in SHOWN)

    def request(self, program: Path, place: Path) -> None:
        """Label a text over HTTP."""
        command = [program, "serve", PREDICT[1], "--port", "0", "--json"]
        with subprocess.Popen(command, cwd=place, env=self.variables, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = next((line.split('"')[3] for line in server.stdout or () if '"url"' in line), None)
                body = json.dumps({"text": PREDICT[2], "domain": "books"}).encode()
                if url is None or b'"label"' not in urllib.request.urlopen(f"{url}/predict", body, timeout=60).read():
                    raise RuntimeError("hrkd serve gives no answer")
            finally:
                server.terminate()

    def install(self, name: str, project: Path, version: str, age: str, place: Path) -> tuple[Path, Path]:
        """Install a wheel and resolved requirements in a new environment; return its Python and its program."""
        environment = place / name
        self.run("uv", "venv", "--python", version, environment)
        pip = ("uv", "pip", "install", "--python", environment / "bin/python")
        requirements = ("--no-build", "--requirements", project / "pyproject.toml", "--extra", "serve")
        self.run(*pip, "--resolution", RESOLUTIONS[age], *self.constraint, *requirements)
        self.run(*pip, "--no-deps", self.wheels[name])
        self.run("uv", "pip", "check", "--python", environment / "bin/python")
        return environment / "bin/python", environment / "bin" / name.removesuffix("-cli")

    def install_with_pipx(self, place: Path) -> tuple[Path, Path]:
        """Install hrkd-cli as a pipx application."""
        folders = {f"PIPX_{name}": place / name.lower() for name in ("HOME", "BIN_DIR", "MAN_DIR")}
        options = ("--pip-args", " ".join(self.constraint)) if self.constraint else ()
        self.run("pipx", "install", "--python", sys.executable, *options, self.wheels["hrkd-cli"], **folders)
        return place / "home/venvs/hrkd-cli/bin/python", place / "bin_dir/hrkd"

    def install_with_uv(self, place: Path) -> tuple[Path, Path]:
        """Install hrkd-cli as a uv tool."""
        folders = {"UV_TOOL_DIR": place / "tools", "UV_TOOL_BIN_DIR": place / "bin"}
        self.run(
            "uv", "tool", "install", "--python", sys.executable, *self.constraint, self.wheels["hrkd-cli"], **folders
        )
        return place / "tools/hrkd-cli/bin/python", place / "bin/hrkd"


def main() -> None:
    """Check the given combinations; print one line for each, then a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("combinations", nargs="*", metavar="COMBINATION", help=f"of {', '.join(COMBINATIONS)}")
    parser.add_argument("--constraint", type=Path, metavar="FILE", help="constraints, such as torch==2.13.0")
    parser.add_argument("--log", type=Path, default=Path("compatibility.log"), help="output of all programs")
    arguments = parser.parse_args()
    names = arguments.combinations or COMBINATIONS
    if unknown := set(names) - set(COMBINATIONS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(COMBINATIONS)}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        checker = Checker(Path(scratch), arguments.constraint, arguments.log.absolute())
        for name in names:
            start = time.monotonic()
            try:
                result, versions = "passed", checker.check(name)
            except RuntimeError as error:
                result, versions = "FAILED", str(error)
            print(f"{name}: {result} in {time.monotonic() - start:.0f} s: {versions}", flush=True)
            rows.append((name, result, versions))
    print("\n| combination | result | versions |\n| --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    sys.exit(any(result == "FAILED" for _, result, _ in rows))


if __name__ == "__main__":
    main()
