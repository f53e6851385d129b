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
from hrkd_cli.layout import PREDICTOR_ARCHIVE
from hrkd_cli.predict.bundle import write_bundle
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
# The same as a program: python hrkd_runtime.pyz ...
RUN = "import runpy; sys.argv[0] = sys.path[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
ABSENT = ("torch", "transformers", "onnx", "typer", "rich", "datasets", "pyarrow", "safetensors")


def alone(folder, code, *words, lines=None):
    """Run code in a process that has only the one file of a folder and its three packages."""
    places = sorted({str(Path(p.__file__).parents[1]) for p in (numpy, onnxruntime, tokenizers)})
    source = ALONE.format(places=places, absent=ABSENT) + code
    command = [sys.executable, "-I", "-S", "-c", source, str(folder / PREDICTOR_ARCHIVE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=lines)


@pytest.fixture(scope="module")
def device(student, tmp_path_factory):
    """A folder as it is copied to a device, with the one file."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(student, folder / "model", ignore=shutil.ignore_patterns("*.safetensors", "hrkd.json"))
    write_bundle(folder / PREDICTOR_ARCHIVE)
    return folder


def test_equal_bytes_whenever_it_is_made(device, tmp_path):
    write_bundle(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == (device / PREDICTOR_ARCHIVE).read_bytes()


def test_it_labels_as_the_package_does(device, student):
    code = (
        "import json, hrkd_runtime, hrkd_cli\n"
        "assert hrkd_cli.__file__.startswith(hrkd_runtime.__file__.removesuffix('hrkd_runtime.py'))\n"
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
    done = alone(device, RUN, device / "model", "--domain", "books", lines="a good book\n\nnot hot\n")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [
        p.to_json() for p in Predictor(student / "onnx").predict(["a good book", "not hot"], domain="books")
    ]
    done = alone(device, RUN, device / "model", "--self-check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model.onnx: 16 cases, 0 other labels")
    done = alone(device, RUN, device / "absent", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{device / 'absent'}: no such file or folder")
    assert alone(device, RUN, device / "model", "a", "--domain", "cars").returncode == 2


def test_a_folder_with_torch_weights_says_what_it_needs(device, student):
    done = alone(device, RUN, student, "a")
    assert done.returncode == 1
    assert "pip install hrkd-cli" in done.stderr


def test_an_export_brings_it_along(device, tmp_path):
    folder = write_model(tmp_path / "student")
    export(folder, runtime=True, latency=False)
    assert (folder / PREDICTOR_ARCHIVE).read_bytes() == (device / PREDICTOR_ARCHIVE).read_bytes()
    export(folder, domain="books", runtime=True, latency=False)
    assert (tmp_path / "student-books" / PREDICTOR_ARCHIVE).is_file()
