import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import onnxruntime
import pytest
import tokenizers

from hrkd_cli import Predictor, __version__, export
from hrkd_cli.data.sources.formats import FORMATS, PLAIN_TEXT
from hrkd_cli.layout import PREDICTOR_ARCHIVE
from hrkd_cli.predict.__main__ import main
from hrkd_cli.predict.bundle import runtime_sources, write_bundle
from tiny_folder import make_texts, write_model

TEXTS = make_texts(12)
TABLE_SUFFIXES = [
    suffix for each in FORMATS if each is not PLAIN_TEXT for suffix in (*each.suffixes, *each.standalone_suffixes)
]

# A process with onnxruntime, tokenizers and numpy, and nothing else of this environment.
ISOLATED = """
import sys
paths = {paths!r}
class BlockOthers:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("no " + name, name=name)
sys.meta_path.insert(0, BlockOthers())
sys.path += paths
sys.path.insert(0, sys.argv.pop(1))
"""
# Equivalent to: python hrkd_runtime.pyz ...
RUN = "import runpy; sys.argv[0] = sys.path[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
ABSENT = ("hrkd_cli", "torch", "transformers", "onnx", "typer", "rich", "datasets", "pyarrow", "safetensors")


def run_isolated(folder, code, *args, stdin=None):
    """Run code in a process with only the bundle of a folder and the three packages."""
    paths = sorted({str(Path(p.__file__).parents[1]) for p in (numpy, onnxruntime, tokenizers)})
    source = ISOLATED.format(paths=paths, absent=ABSENT) + code
    command = [sys.executable, "-I", "-S", "-c", source, str(folder / PREDICTOR_ARCHIVE), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)


@pytest.fixture(scope="module")
def device(student, tmp_path_factory):
    """A folder as copied to a device, with the bundle."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copytree(student, folder / "model", ignore=shutil.ignore_patterns("*.safetensors", "hrkd.json"))
    write_bundle(folder / PREDICTOR_ARCHIVE)
    return folder


def test_the_bundle_is_reproducible(device, tmp_path):
    write_bundle(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == (device / PREDICTOR_ARCHIVE).read_bytes()


def test_the_bundle_predicts_as_the_package_does(device, student):
    code = (
        "import json, hrkd_runtime\n"
        "model = hrkd_runtime.Predictor(sys.argv[1], threads=1)\n"
        "print(json.dumps([p.to_json() for p in model.predict(json.loads(sys.argv[2]), domain='dvd')]))"
    )
    process = run_isolated(device, code, device / "model/onnx", json.dumps(TEXTS))
    assert process.stderr == ""
    own = Predictor(student / "onnx", threads=1).predict(TEXTS, domain="dvd")
    assert json.loads(process.stdout) == [p.to_json() for p in own]


def test_the_bundle_finds_domains_without_training_libraries(device, finding, finding_different_labels):
    for folder in (finding, finding_different_labels):
        process = run_isolated(device, RUN, folder / "onnx", *TEXTS)
        found = [json.loads(line) for line in process.stdout.splitlines()]
        assert found == [prediction.to_json() for prediction in Predictor(folder / "onnx").predict(TEXTS)]
        assert all("domain_probability" in record for record in found)
    process = run_isolated(device, RUN, finding / "onnx", "a", "--domain", "book")
    assert process.returncode == 2
    assert process.stderr.endswith("books, dvd, auto; did you mean books?\n")


@pytest.mark.parametrize("truncate", ["tail", "head-tail"])
def test_the_bundle_truncates_as_configured(device, truncate):
    folder = device / truncate
    shutil.copytree(device / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    config["hrkd"]["truncate"] = truncate
    (folder / "config.json").write_text(json.dumps(config))
    long = [" ".join(TEXTS)]
    code = "import hrkd_runtime\nprint(hrkd_runtime.Predictor(sys.argv[1], threads=1).logits([sys.argv[2]]).tolist())"
    result = json.loads(run_isolated(device, code, folder, *long).stdout)
    assert result == Predictor(folder, threads=1).logits(long).tolist()
    assert result != Predictor(device / "model", threads=1).logits(long).tolist()


@pytest.mark.parametrize("code", ["import hrkd_runtime", "import hrkd_cli.onnx_export.quantizers"])
def test_onnxruntime_leaves_nothing_in_the_home_folder(device, tmp_path, monkeypatch, code):
    """Some releases write an id and a database of usage data there, which they upload."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    if "runtime" in code:
        assert run_isolated(device, code).stderr == ""
    else:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_the_bundle_runs_as_a_program(device, student):
    process = run_isolated(device, RUN, device / "model", "--domain", "books", stdin="a good book\n\nnot hot\n")
    own = Predictor(student / "onnx").predict(["a good book", "", "not hot"], domain="books")
    result = [json.loads(line) for line in process.stdout.splitlines()]
    assert result == [{"line": n, **prediction.to_json()} for n, prediction in enumerate(own, start=1)]
    assert process.stderr == "warning: stdin:2: empty line, no label\n"
    process = run_isolated(device, RUN, device / "model", "--self-check")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("model.onnx: 16 cases, 0 of 16 labels differ")
    changed = shutil.copytree(device / "model", device / "changed")
    with (changed / "onnx/model.onnx").open("ab") as file:
        file.write(b"\0")
    process = run_isolated(device, RUN, changed, "--self-check")
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (1, "", 1)
    assert process.stderr.startswith("self-check FAILED: not the file that was exported (sha256): ")
    process = run_isolated(device, RUN, device / "absent", "a")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith(f"{device / 'absent'}: no such file or folder")
    assert run_isolated(device, RUN, device / "model", "a", "--domain", "cars").returncode == 2


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["a good book", "not hot", "--domain", "dvd"], None),
        (["texts.txt", "--domain", "books"], None),
        ([], "\ufeffa good book\r\n\nnot hot"),
        (["a good book", "not hot", "--min-confidence", "0.8"], None),
        (["a good book", "not hot", "--min-confidence", "0.8", "--fallback", "FOLDER"], None),
        (["a good book", "--target-accuracy", "95", "--min-confidence", "0.8"], None),
        ([" "], None),
        (["gone.txt"], None),
        (["a", "--input", "texts.txt"], None),
        (["texts.txt", "--batch-size", "2"], None),
        (["a", "--output", "texts.txt"], None),
        (["a", "--output", "no/a.csv"], None),
        (["--threads", "1", "a good book", "--domain", "dvd", "not hot"], None),
        (["a", "--threads", "9999"], None),
        (["a", "--threads", "0"], None),
        (["a", "--batch-size", "0"], None),
        (["a", "--domain", "cars"], None),
        (["--self-check", "a"], None),
        (["--self-check", "--domain", "rock", "--output", "zz.jsonl", "--min-confidence", "7"], None),
        (["--self-check", "--input", "gone.txt", "--force"], None),
        ([], ""),
    ],
)
def test_the_bundle_answers_as_hrkd_predict_does(device, student, tmp_path, words, stdin):
    (tmp_path / "texts.txt").write_text("a good book\nvery old\n")
    words = [str(student / "onnx") if word == "FOLDER" else word for word in words]
    process = run_isolated(device, RUN, device / "model", *words, stdin=stdin)
    command = [sys.executable, "-m", "hrkd_cli", "predict", str(student / "onnx"), *words]
    full = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)
    message = full.stderr.removeprefix("hrkd predict: ").removesuffix(" (see hrkd predict --help)\n")
    assert (process.returncode, process.stdout) == (full.returncode, full.stdout)
    assert process.stderr.removesuffix("\n") == message.removesuffix("\n")


def test_the_bundle_writes_files_as_hrkd_predict_does(device, student, tmp_path):
    (tmp_path / "texts.txt").write_text("a good book\n\nvery old\n")
    for name in ("a.csv", "a.jsonl"):
        words = ["texts.txt", "--output", name]
        process = run_isolated(device, RUN, device / "model", *words)
        assert (process.returncode, process.stdout, process.stderr) == (
            0,
            "",
            "warning: texts.txt:2: empty line, no label\n",
        )
        content = (tmp_path / name).read_text()
        assert run_isolated(device, RUN, device / "model", *words).returncode == 1
        command = [sys.executable, "-m", "hrkd_cli", "predict", str(student / "onnx"), *words, "--force"]
        subprocess.run(command, capture_output=True, check=True)
        assert content == (tmp_path / name).read_text()
    process = run_isolated(device, RUN, device / "model", "a", "--output", "a.parquet")
    line = f"a Parquet file needs pyarrow: {sys.executable} -m pip install pyarrow\n"
    assert (process.returncode, process.stderr) == (1, line)


def test_the_bundle_refuses_tables_instead_of_labeling_their_lines(device, tmp_path):
    (tmp_path / "new.csv").write_text("text,domain\ngood,books\n")
    for words in (["new.csv"], ["--input", "new.csv"]):
        process = run_isolated(device, RUN, device / "model", *words)
        assert (process.returncode, process.stdout) == (2, "")
        assert process.stderr == (
            "new.csv: hrkd-runtime reads files with one text per line; convert it, or install hrkd-cli\n"
        )


@pytest.mark.parametrize("suffix", [".csv.gz", ".txt.ZST", ".xlsx", *TABLE_SUFFIXES])
def test_no_table_is_read_as_lines(device, tmp_path, monkeypatch, capsys, suffix):
    monkeypatch.chdir(tmp_path)
    line = "hrkd-runtime reads files with one text per line; convert it, or install hrkd-cli\n"
    for name in (f"new{suffix}", f"NEW{suffix.upper()}"):
        Path(name).write_text("text,domain\ngood,books\n")
        for words in ([name], ["--input", name]):
            assert main([str(device / "model"), *words]) == 2
            assert capsys.readouterr() == ("", f"{name}: {line}")


def test_an_argument_that_is_not_utf_8_is_one_line(device, capsys):
    assert main([str(device / "model"), "good", os.fsdecode(b"caf\xe9 good")]) == 2
    assert capsys.readouterr() == ("", "texts[1]: not UTF-8 ('\\udce9' at position 3); convert it\n")


@pytest.mark.parametrize("option", ["--concurrency", "--max-body", "--batch-size", "--threads"])
def test_the_server_of_the_bundle_refuses_numbers_below_1(capsys, option):
    assert main(["serve", "absent", option, "0"]) == 2
    assert capsys.readouterr() == ("", f"{option}: 0 is not at least 1\n")


def test_the_bundle_ends_quietly_when_its_reader_does(device):
    closed_pipe = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
    process = run_isolated(device, closed_pipe + RUN, device / "model", "a")
    assert (process.returncode, process.stderr) == (1, "")


def test_a_terminated_bundle_leaves_no_partial_file(device, tmp_path):
    command = [sys.executable, device / PREDICTOR_ARCHIVE, device / "model", "--output", tmp_path / "o.jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            until = time.monotonic() + 60
            while not (partial := list(tmp_path.iterdir())) and time.monotonic() < until:
                time.sleep(0.05)
            assert partial == [tmp_path / f".o.jsonl.{process.pid}"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143
        finally:
            process.kill()
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--batch-size=2", "--target-accuracy=95", "--fallback=FOLDER"])
def test_the_self_check_of_the_bundle_refuses_options_that_it_does_not_use(capsys, option):
    assert main(["absent", "--self-check", "--threads", "1", option]) == 2
    message = f"--self-check uses the stored texts; remove {option.partition('=')[0]}\n"
    assert capsys.readouterr() == ("", message)


def test_the_bundle_shows_its_version(device):
    assert run_isolated(device, RUN, "--version").stdout == f"hrkd-runtime {__version__}\n"


def test_no_module_of_the_bundle_imports_hrkd_cli():
    sources = runtime_sources()
    assert "hrkd_runtime/predict/predictor.py" in sources
    assert {name.split("/")[0] for name in sources} == {"hrkd_runtime"}  # no file of hrkd-cli is replaced
    assert [name for name, text in sources.items() if re.search(r"\bhrkd_cli\b", text)] == []


def test_a_model_that_needs_hrkd_cli_is_told_from_a_mistyped_name(device, student, tmp_path):
    shutil.copytree(student, tmp_path / "model", ignore=shutil.ignore_patterns("onnx"))
    needs = "hrkd-cli (no module hrkd_runtime.models); pip install hrkd-cli"
    for model, problem in (
        (tmp_path / "model", f"torch weights need {needs}, or export the model"),
        (student, f"torch weights need {needs}, or name its ONNX files, {student / 'onnx'}"),
        ("studnet", f"no such folder; models on the hub need {needs}"),
    ):
        process = run_isolated(device, RUN, model, "a")
        assert (process.returncode, process.stderr) == (1, f"{model}: {problem}\n")


def test_the_help_of_the_bundle_names_its_server(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "hrkd-runtime serve MODEL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.endswith("the following arguments are required: model\n")


def test_export_writes_the_bundle(device, tmp_path):
    folder = write_model(tmp_path / "student")
    export(folder, runtime=True, latency=False)
    assert (folder / PREDICTOR_ARCHIVE).read_bytes() == (device / PREDICTOR_ARCHIVE).read_bytes()
    export(folder, domain="books", runtime=True, latency=False)
    assert (tmp_path / "student-books" / PREDICTOR_ARCHIVE).is_file()
