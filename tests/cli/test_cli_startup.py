"""What the program imports: the reason it starts fast, and runs on devices without the training libraries."""

import json
import os
import subprocess
import sys

import pytest

import hrkd_cli

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "pyarrow",
    "scipy",
    "sklearn",
    "numpy",
    "pandas",
    "onnx",
    "onnxruntime",
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
    def predict(self, texts, pairs=None, **options):
        return []
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


@pytest.fixture
def run_all(tmp_path):
    """Run command lines in one new process; return what they wrote to stderr, and the modules imported in the end."""

    def run(*lines):
        program = "import sys\nfrom hrkd_cli.cli.main import main\nfor line in sys.argv[1:]:\n    main(line.split())\n"
        program += "sys.stdout.write(','.join({name.partition('.')[0] for name in sys.modules}))"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "HRKD_"))}
        command = [sys.executable, "-c", program, *lines]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=tmp_path)
        return ran.stderr.splitlines(), set(ran.stdout.split(","))

    return run


def test_a_mistyped_folder_is_reported_before_any_library_is_imported(run_all, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    errors, modules = run_all(
        "predict ./no text",
        "serve ./no",
        "push ./no acme/reviews",
        "report no",
        "report run run/../run",
        "report run --out run/metrics.jsonl",
    )
    assert [line.partition(";")[0] for line in errors] == [
        "hrkd predict: no: no such file or folder",
        "hrkd serve: no: no such file or folder",
        "hrkd push: no: no such folder",
        "hrkd report: no: no such folder",
        "hrkd report: RUN: the same folder is given twice",
        "hrkd report: run/metrics.jsonl is a file of the run run and will not be replaced",
    ]
    assert not modules & {*HEAVY, "huggingface_hub"}


def test_a_mistyped_name_is_reported_before_torch_is_imported(run_all, tmp_path):
    for name in ("encoder", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").touch()
    no_hub = "and the hub cannot be reached; give a local folder"
    no_dataset = (
        "no such file or folder here, and the hub (https://huggingface.co) cannot be reached; check path and network"
    )
    no_file = "no such file or folder; check the path (a hub dataset is named owner/name)"
    no_student = "no such folder; name a student's folder, or run hrkd distill first"
    errors, modules = run_all(
        "teach --model no",
        "teach --model ./no",
        "teach --model encoder",
        "teach --model encoder --data no.csv",
        "teach --model encoder --data no",
        "teach --model encoder --out encoder",
        "distill",
        "distill --teacher no",
        "distill --teacher teacher --data no.csv",
        "distill --teacher teacher --student ./no --data no.csv",
        "distill --teacher teacher --data encoder --unlabelled no.csv",
        "distill --config no",
        "distill --epochs ten",
        "export no --int8",
        "export encoder --int8 --data no.csv",
        "eval no --data no.csv",
        "eval ./no",
        "predict no text",
        "predict ./no text",
    )
    assert errors == [
        f"hrkd teach: model no: no such folder here, {no_hub}",
        "hrkd teach: model ./no: no such folder",
        "hrkd teach: there is no hrkd-out/dataset yet; run hrkd prepare first, or name the data with --data",
        f"hrkd teach: 'no.csv': {no_file}",
        f"hrkd teach: no: {no_dataset}",
        "hrkd teach: encoder is not a teacher folder written by hrkd and will not be replaced; choose another --out",
        "hrkd distill: --teacher: there is no hrkd-out/teacher yet; run hrkd teach first, or give a plain encoder",
        f"hrkd distill: teacher no: no such folder here, {no_hub}",
        f"hrkd distill: 'no.csv': {no_file}",
        "hrkd distill: student ./no: no such folder",
        f"hrkd distill: 'no.csv': {no_file}",
        "hrkd distill: --config: no: cannot be read (No such file or directory) (see hrkd distill --help)",
        "hrkd distill: --epochs: 'ten' is not a whole number (see hrkd distill --help)",
        f"hrkd export: no: {no_student}",
        f"hrkd export: 'no.csv': {no_file}",
        f"hrkd eval: model no: no such folder here, {no_hub}",
        "hrkd eval: no: no such file or folder; name a model folder, an onnx folder or one .onnx file",
        f"hrkd predict: model no: no such folder here, {no_hub}",
        "hrkd predict: no: no such file or folder; name a model folder, an onnx folder or one .onnx file",
    ]
    assert modules & {"torch", "transformers", "datasets", "scipy", "sklearn"} == set()


def test_report_needs_no_training_libraries(tmp_path):
    (tmp_path / "run").mkdir()
    line = {"step": 1, "epoch": 0.5, "losses": {"total": 1.0}, "learning_rate": 1e-4, "gradient_norm": 2.0}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    out, modules = imported("report", str(tmp_path / "run"), "--json")
    assert json.loads(out)["steps"] == 1
    assert not modules & {"torch", "transformers", "datasets", "onnxruntime", "rich"}


def test_a_library_that_fails_while_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "failing_stage.py").write_text("import json\njson.removed_function()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(hrkd_cli._MODULES, "distill", "failing_stage")
    with pytest.raises(ImportError, match=r"failing_stage cannot be imported: .*'removed_function'"):
        from hrkd_cli import distill  # noqa: F401
