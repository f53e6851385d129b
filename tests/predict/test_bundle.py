import ast
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import onnxruntime
import pytest
import tokenizers

from hrkd_cli import Predictor, export
from hrkd_cli.errors import UsageError
from hrkd_cli.predict import bundle as module
from hrkd_cli.predict.bundle import RUNTIME_FILE, bundle
from tiny_folder import make_texts, write_model

TEXTS = make_texts(12)

# A process with the three packages, what they need, and nothing else of this environment: no hrkd_cli either.
ALONE = """
import sys
places = {places!r}
class Three:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("no " + name, name=name)
sys.meta_path.insert(0, Three())
sys.path += places
sys.path.insert(0, sys.argv.pop(1))
"""
ABSENT = ("hrkd_cli", "torch", "transformers", "onnx", "typer", "rich", "datasets", "pyarrow", "safetensors")


def alone(folder, code, *words, lines=None):
    """Run code in a process that has only the one file and its three packages."""
    places = sorted({str(Path(p.__file__).parents[1]) for p in (numpy, onnxruntime, tokenizers)})
    source = ALONE.format(places=places, absent=ABSENT) + code
    command = [sys.executable, "-I", "-S", "-c", source, str(folder), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=lines)


@pytest.fixture(scope="module")
def device(student, tmp_path_factory):
    """A folder as it is copied to a device, with the one file."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(student, folder / "model", ignore=shutil.ignore_patterns("*.safetensors", "hrkd.json"))
    (folder / RUNTIME_FILE).write_text(bundle(), encoding="utf-8")
    return folder


def test_the_one_file_imports_nothing_but_three_packages():
    imported = set()
    for node in ast.walk(ast.parse(bundle())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "tokenizers"}


def test_it_labels_as_the_package_does(device, student):
    code = (
        "import json, hrkd_runtime\n"
        "model = hrkd_runtime.Predictor(sys.argv[1], threads=1)\n"
        "print(json.dumps([p.to_json() for p in model.predict(json.loads(sys.argv[2]), domain='dvd')]))"
    )
    done = alone(device, code, device / "model/onnx", json.dumps(TEXTS))
    assert done.stderr == ""
    own = Predictor(student / "onnx", threads=1).predict(TEXTS, domain="dvd")
    assert json.loads(done.stdout) == [p.to_json() for p in own]


@pytest.mark.parametrize("truncate", ["tail", "head-tail"])
def test_it_cuts_as_the_configuration_says(device, truncate):
    folder = device / truncate
    shutil.copytree(device / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    config["hrkd"]["truncate"] = truncate
    (folder / "config.json").write_text(json.dumps(config))
    long = [" ".join(TEXTS)]
    code = "import hrkd_runtime\nprint(hrkd_runtime.Predictor(sys.argv[1], threads=1).logits([sys.argv[2]]).tolist())"
    found = json.loads(alone(device, code, folder, *long).stdout)
    assert found == Predictor(folder, threads=1).logits(long).tolist()
    assert found != Predictor(device / "model", threads=1).logits(long).tolist()


def test_it_is_a_program(device, student):
    run = "import hrkd_runtime; sys.exit(hrkd_runtime.run_device())"
    done = alone(device, run, device / "model", "--domain", "books", lines="a good book\n\nnot hot\n")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [
        p.to_json() for p in Predictor(student / "onnx").predict(["a good book", "not hot"], domain="books")
    ]
    done = alone(device, run, device / "model", "--self-check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model.onnx: 16 cases, 0 other labels")
    done = alone(device, run, device / "absent", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{device / 'absent'}: no such file or folder")
    assert alone(device, run, device / "model", "a", "--domain", "cars").returncode == 2


def test_a_folder_with_torch_weights_says_what_it_needs(device, student):
    run = "import hrkd_runtime; sys.exit(hrkd_runtime.run_device())"
    done = alone(device, run, student, "a")
    assert done.returncode == 1
    assert "pip install hrkd-cli" in done.stderr


def test_an_export_brings_it_along(tmp_path):
    folder = write_model(tmp_path / "student")
    export(folder, runtime=True, latency=False)
    assert (folder / RUNTIME_FILE).read_text(encoding="utf-8") == bundle()
    export(folder, domain="books", runtime=True, latency=False)
    assert (tmp_path / "student-books" / RUNTIME_FILE).read_text(encoding="utf-8") == bundle()


def test_two_modules_with_one_name(monkeypatch):
    monkeypatch.setattr(module, "MODULES", ("errors.py", "errors.py"))
    with pytest.raises(ValueError, match=r"HrkdError is defined in errors\.py and in errors\.py"):
        bundle()


def test_a_stream_is_answered_text_by_text(student):
    asked = []

    def endless():
        for text in itertools.cycle(TEXTS):
            asked.append(text)
            yield text

    predictor = Predictor(student / "onnx")
    found = list(itertools.islice(predictor.stream(endless(), domain="dvd"), 5))
    assert found == predictor.predict(TEXTS[:5], domain="dvd")
    assert asked == TEXTS[:5]
    in_twos = list(predictor.stream(iter(TEXTS[:5]), domain="dvd", batch_size=2))
    assert [p.text for p in in_twos] == TEXTS[:5]
    assert [p.label for p in in_twos] == [p.label for p in found]


def test_a_stream_of_pairs(paired):
    predictor = Predictor(paired / "onnx")
    pairs = [("a good book", "not hot"), ("old", "new film")]
    found = list(predictor.stream(pairs, domain="dvd"))
    assert found == predictor.predict([a for a, _ in pairs], [b for _, b in pairs], domain="dvd")


def test_batches(student):
    predictor = Predictor(student / "onnx")
    alone_, together = predictor.predict(TEXTS, domain="dvd"), predictor.predict(TEXTS, domain="dvd", batch_size=5)
    assert [p.label for p in alone_] == [p.label for p in together]
    for one, other in zip(alone_, together, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    with pytest.raises(UsageError, match="batch_size: 0"):
        predictor.predict(TEXTS, batch_size=0)
