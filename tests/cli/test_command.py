"""Commands generated from the settings: options, help pages, and the arguments of the engine."""

from pathlib import Path

import pytest

from hrkd_cli.cli.main import COMMANDS, command_tree
from hrkd_cli.options import options_of


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_the_shared_options(hrkd, name):
    page = hrkd(name, "--help").out
    for option in ("--json", "-q, --quiet", "-v, --verbose", "--config", "-h, --help"):
        assert option in page.partition("Shared options:")[2], option


def test_every_option_has_a_help_text():
    for name, found in command_tree().commands.items():
        for parameter in found.params:
            assert parameter.help, f"{name}: {parameter.name}"


# Words of the command line, and the arguments of the function that differ from their defaults.
GIVEN = {
    "prepare raw --out o --format csv --dev 0.2 --test 0 --few-shot 0.5 --domains books,dvd --no-dedupe --text t "
    "--text-pair p --label l --domain d --split s --seed 7 --force --encoding cp1252 "
    "--rename-label a,b=b --rename-label c=": {
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
        "rename_label": ["a,b=b", "c="],
        "dedupe": False,
        "seed": 7,
        "force": True,
        "encoding": "cp1252",
    },
    "teach --model m --data d --out o --epochs 2 --batch-size 4 --accumulate 2 --learning-rate 1e-4 --eval-every 9 "
    "--weight-decay 0 --warmup 0.2 --max-length 64 --metric macro-f1 --patience 3 --precision bf16 "
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
        "out": Path("hrkd-out/student"),  # the default depends on --extend
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
def test_a_command_passes_exactly_its_options(hrkd, engines, words):
    command = words.split()[0]
    assert hrkd(*words.split()).code == 0
    options = engines[command].options
    for name in ("on_event", "sources"):
        options.pop(name, None)
    defaults = {name: known.default for name, known in options_of(COMMANDS[command].settings).items()}
    defaults.pop("dry_run", None)  # the command acts on it
    assert options.keys() == defaults.keys()
    assert {name: value for name, value in options.items() if value != defaults[name]} == GIVEN[words]
