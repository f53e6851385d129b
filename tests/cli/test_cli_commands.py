import json
from importlib import metadata
from pathlib import Path

import pytest

from cli_fakes import COMPARED, EXPORTED, PREPARED, TRAINED
from hrkd_cli import errors
from hrkd_cli.cli.main import COMMANDS
from hrkd_cli.options import options_of

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
def test_without_json_people_get_tables(hrkd, engines, command):
    ran = hrkd(command, *RUNS[command][0])
    assert ran.code == 0
    assert "----" in ran.out
    assert "{" not in ran.out


@pytest.mark.parametrize("command", ["prepare", "teach", "distill", "export"])
def test_quiet_leaves_the_result_only(hrkd, engines, command):
    ran = hrkd(command, *RUNS[command][0], "--quiet")
    assert ran.out
    assert ran.err == ""


def test_a_failed_gate_gives_its_figures_as_json(hrkd, engines):
    failed = {"files": [], "gate": {"max_drop": 0.5, "drop": 3.0, "passed": False}}
    engines["export"].error = errors.GateError("int8 loses 3.0 points, 0.5 allowed", result=failed)
    ran = hrkd("export", "--int8", "--json")
    assert ran.code == 3
    assert json.loads(ran.out) == failed
    assert ran.err == "hrkd export: int8 loses 3.0 points, 0.5 allowed\n"
    ran = hrkd("export", "--int8")
    assert (ran.code, ran.out) == (3, "")


# Words of the command line, and the arguments of the function that differ from their defaults.
GIVEN = {
    "prepare raw --out o --format csv --dev 0.2 --test 0 --few-shot 0.5 --domains books,dvd --no-dedupe --text t "
    "--text-pair p --label l --domain d --split s --seed 7 --force --encoding cp1252": {
        "source": "raw",
        "out": Path("o"),
        "format": "csv",
        "text": "t",
        "text_pair": "p",
        "label": "l",
        "domain": "d",
        "split": "s",
        "dev": 0.2,
        "test": 0.0,
        "few_shot": 0.5,
        "domains": ["books", "dvd"],
        "dedupe": False,
        "seed": 7,
        "force": True,
        "encoding": "cp1252",
    },
    "teach --model m --data d --out o --epochs 2 --batch-size 4 --accumulate 2 --learning-rate 1e-4 --eval-every 9 "
    "--weight-decay 0 --warmup 0.2 --max-length 64 --sampling balanced --metric macro-f1 --patience 3 --precision bf16 "
    "--checkpoint-every 50 --processes 1 --truncate tail --class-weights balanced --seed 1 --device cpu --force": {
        "model": "m",
        "data": "d",
        "out": Path("o"),
        "force": True,
        "epochs": 2,
        "batch_size": 4,
        "accumulate": 2,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "warmup": 0.2,
        "max_length": 64,
        "truncate": "tail",
        "sampling": "balanced",
        "precision": "bf16",
        "eval_every": 9,
        "metric": "macro-f1",
        "class_weights": "balanced",
        "patience": 3,
        "checkpoint_every": 50,
        "processes": 1,
        "seed": 1,
        "device": "cpu",
    },
    "distill --teacher t --student 4x312 --init random --method hrkd --graph uniform --no-hierarchy --temperature 2 "
    "--teacher-checkpoints average --teacher-epochs 2 --hidden-weight 0.5 --attention-weight 0 --means released "
    "--prediction-weight 3 --allow-weak-teacher": {
        "teacher": "t",
        "student": "4x312",
        "init": "random",
        "graph": "uniform",
        "hierarchy": False,
        "teacher_checkpoints": "average",
        "teacher_epochs": 2,
        "hidden_weight": 0.5,
        "attention_weight": 0.0,
        "prediction_weight": 3.0,
        "temperature": 2.0,
        "means": "released",
        "allow_weak_teacher": True,
    },
    "eval a b --data d --split all --by-label --latency --threads 2 --device cpu --floor": {
        "models": ["a", "b"],
        "data": "d",
        "split": "all",
        "by_label": True,
        "latency": True,
        "threads": 2,
        "device": "cpu",
        "floor": True,
    },
    "eval": {},
    "export s --int8 --int8-static --fp16 --int4 --target wasm --no-latency --max-drop 1 --data d --out o --force": {
        "student": Path("s"),
        "int8": True,
        "int8_static": True,
        "fp16": True,
        "int4": True,
        "target": "wasm",
        "latency": False,
        "max_drop": 1.0,
        "data": "d",
        "out": Path("o"),
        "force": True,
    },
    "export --domain books --trim-vocabulary --vocabulary-size 90 --runtime": {
        "domain": "books",
        "trim_vocabulary": True,
        "vocabulary_size": 90,
        "runtime": True,
    },
}


@pytest.mark.parametrize("words", GIVEN)
def test_a_command_hands_over_exactly_its_options(hrkd, engines, words):
    command = words.split()[0]
    assert hrkd(*words.split()).code == 0
    options = engines[command].options
    for name in ("on_event", "sources"):
        options.pop(name, None)
    defaults = {name: known.default for name, known in options_of(COMMANDS[command].settings).items()}
    assert options.keys() == defaults.keys()
    assert {name: value for name, value in options.items() if value != defaults[name]} == GIVEN[words]


def test_export_shows_its_tables_and_the_gate(hrkd, engines):
    ran = hrkd("export", "--int8")
    assert "MatMul  26" in ran.out
    assert "Gate passed: dev accuracy fell by 0.10 points; allowed drop: 0.5." in ran.out


def test_prepare_shows_counts_drops_and_the_next_step(hrkd, engines):
    ran = hrkd("prepare", "raw", "--out", "o")
    assert "books   1,600  200   200  neg 1,000, pos 1,000" in ran.out
    assert "not used: 5 rows, empty text (a.csv:7, a.csv:9, ...)" in ran.err
    assert "next: hrkd teach --model MODEL --data o" in ran.err


def test_distill_s_defaults_follow_on_from_teach(hrkd, engines):
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


def test_info_lists_versions_and_machine(hrkd, monkeypatch):
    from hrkd_cli.cli import machine_info

    monkeypatch.setattr(machine_info, "_devices", lambda: [{"device": "cpu", "name": "a cpu"}])
    found = json.loads(hrkd("info", "--json").out)
    assert found["devices"] == [{"device": "cpu", "name": "a cpu"}]
    assert set(found["packages"]) >= {"torch", "transformers", "datasets", "onnx", "onnxruntime", "optimum"}
    assert found["cpu"]["cores"] >= 1
    ran = hrkd("info")
    assert "hrkd-cli" in ran.out
    assert "a cpu" in ran.out


def test_info_without_packages_or_proc(tmp_path, monkeypatch):
    from hrkd_cli import machine
    from hrkd_cli.cli import machine_info

    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(metadata, "requires", lambda _name: ["no-such-package-here>=1", "pytest; extra == 'dev'"])
    assert machine_info._packages() == {"no-such-package-here": None}
    assert machine.instruction_sets() == []
    assert machine.cpu_name()
