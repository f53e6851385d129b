"""What the program imports: the reason it starts fast, and runs on devices without the training libraries."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "pyarrow",
    "scipy",
    "sklearn",
    "numpy",
    "onnx",
    "onnxruntime",
    "optimum",
    "tokenizers",
    "rich",
    "matplotlib",
    "jinja2",
}

SCRIPT = """
import sys, types
from hrkd_cli.cli.main import main

class Predictor:
    def __init__(self, path, **options):
        self.spec, self.domains = types.SimpleNamespace(pair=False), ()
    def stream(self, texts, **options):
        return [types.SimpleNamespace(to_json=lambda: {"text": text}) for text in texts]

stand_in = types.ModuleType("hrkd_cli.predict.predictor")
stand_in.Predictor = Predictor
sys.modules["hrkd_cli.predict.predictor"] = stand_in
code = main(sys.argv[1:])
sys.stderr.write(",".join(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""


def imported(*words, stdin=""):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        input=stdin,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        check=True,
    )
    return ran.stdout, set(ran.stderr.split(","))


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["distill", "--help"], ["predict", "--help"]])
def test_help_imports_nothing_heavy(words):
    _out, modules = imported(*words)
    assert not modules & {*HEAVY, "pydantic"}


def test_predict_imports_no_training_libraries(tmp_path):
    out, modules = imported("predict", "folder", "a text", "another")
    assert len([json.loads(line) for line in out.splitlines()]) == 2
    assert not modules & HEAVY
    (tmp_path / "new.csv").write_text("text,label\ngood,1\n")
    _out, modules = imported("predict", "folder", "--input", str(tmp_path / "new.csv"))
    assert not modules & (HEAVY - {"numpy"})
    _out, modules = imported("predict", "folder", stdin="a text\n")
    assert not modules & HEAVY


def test_report_needs_no_training_libraries(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"step": 1, "epoch": 0.5, "losses": {"total": 1.0}, "learning_rate": 1e-4, "gradient_norm": 2.0}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    out, modules = imported("report", str(tmp_path / "run"), "--json")
    assert json.loads(out)["steps"] == 1
    assert not modules & {"torch", "transformers", "datasets", "onnxruntime", "rich"}
