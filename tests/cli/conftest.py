import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cli_fakes import COMPARED, EXPORTED, PREPARED, TRAINED, Engine, FakePredictor, Ran, result
from hrkd_cli.cli import preflight
from hrkd_cli.cli.main import main
from hrkd_cli.events import Note


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Each test has an empty folder, none of the caller's settings, and leaves the process as it was."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("HRKD_"):
            monkeypatch.delenv(name)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def hrkd(capsys):
    """Run the program in this process."""

    def run(*words: str) -> Ran:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def engines(monkeypatch):
    """Put a stand-in behind every command that trains, prepares, scores or exports."""
    found = {
        "prepare": Engine(
            result(PREPARED, out=Path("hrkd-out/dataset")),
            events=[Note("not used: 5 rows, empty text (a.csv:7, a.csv:9, ...)")],
        ),
        "teach": Engine(result(TRAINED, out=Path("hrkd-out/teacher"))),
        "distill": Engine(result(TRAINED, out=Path("hrkd-out/student"))),
        "eval": Engine(result(COMPARED)),
        "export": Engine(result(EXPORTED)),
    }
    for check in ("check_teach", "check_distill", "check_export"):  # of files, which the tests do not make
        monkeypatch.setattr(preflight, check, lambda _options: None)
    homes = {
        "prepare": ("hrkd_cli.data.prepare", "prepare"),
        "teach": ("hrkd_cli.teaching.teach", "teach"),
        "distill": ("hrkd_cli.distillation.distill", "distill"),
        "eval": ("hrkd_cli.evaluation.evaluate", "evaluate"),
        "export": ("hrkd_cli.onnx_export.export", "export"),
    }
    for command, (module, name) in homes.items():
        stand_in = ModuleType(module)
        setattr(stand_in, name, found[command])
        monkeypatch.setitem(sys.modules, module, stand_in)
    return found


@pytest.fixture
def predictor(monkeypatch):
    kind = type("Predictor", (FakePredictor,), {"made": [], "asked": [], "batches": [], "pair": False})
    stand_in = ModuleType("hrkd_cli.predict.predictor")
    stand_in.Predictor = kind
    monkeypatch.setitem(sys.modules, "hrkd_cli.predict.predictor", stand_in)
    return kind
