"""The commands and programs in the documentation: every one is valid, and those of README and tutorial are run."""

import ast
import dataclasses
import inspect
import json
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

import hrkd_cli
import tiny_folder
from hrkd_cli.cli.command import COMMANDS
from hrkd_cli.cli.main import main
from hrkd_cli.options import option_name
from markdown_pages import ROOT, code_blocks, inline_code, pages
from tiny import tiny_tokenizer, write_raw

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="not run from a checkout")

USER_PAGES = [page for page in pages() if page == "README.md" or page.startswith("docs/")]
FUNCTIONS = {"evaluate": "eval"} | {name: name for name in ("prepare", "teach", "distill", "export", "report")}


def commands(page):
    """Return the lines with a command in a page's code blocks, without continuation marks."""
    for block in code_blocks(page):
        if block.language not in ("python", "toml", "json", "js", "dockerfile"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if match := re.match(r"\s*(?:\$ )?(?:[^#]*\| )?((?:HRKD_\w+=\S+ )*hrkd .*)", line):
                    yield match[1]


def programs(page):
    return [block.text for block in code_blocks(page) if block.language == "python"]


def json_lines(page):
    """Return the lines with a whole JSON object in a page's indented blocks."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    {") and line.endswith("}") and "..." not in line]


COMMAND_LINES = [(page, line) for page in USER_PAGES for line in commands(page)]
PROGRAMS = [(page, text) for page in USER_PAGES for text in programs(page)]


@pytest.fixture
def parsed(monkeypatch):
    """Replace what every command does: it only keeps its options, which are checked as ever."""
    kept = []
    for name, spec in list(COMMANDS.items()):
        recording = dataclasses.replace(spec, function=lambda _console, options: kept.append(options))
        monkeypatch.setitem(COMMANDS, name, recording)
    return kept


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_in_the_documentation_is_valid(parsed, monkeypatch, capsys, page, line):
    words = shlex.split(line, comments=True)
    while words[0].startswith("HRKD_"):
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    words = words[1 : words.index("<") if "<" in words else None]
    assert main(words) == 0, capsys.readouterr().err
    assert parsed or words[0].startswith("-")


@pytest.mark.parametrize("page", USER_PAGES)
def test_commands_and_options_in_the_text_exist(page):
    options = {option_name(name) for spec in COMMANDS.values() for name in spec.options}
    options |= {f"--no-{name[2:]}" for name in options} | {"--help", "--version", "--install-completion"}
    wrong = []
    for text in inline_code(page):
        words = text.split()
        if words[0] == "hrkd" and len(words) > 1 and words[1][-1] != ":":  # not an error
            wrong += [text] if words[1] not in COMMANDS and words[1] != "COMMAND" and words[1][0] != "-" else []
            wrong += [text for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    assert wrong == []


def test_a_wrong_command_is_found(parsed):
    assert main(["distill", "--student-size", "tiny"]) == 2
    assert main(["export", "--target", "avx3"]) == 2
    assert parsed == []


@pytest.mark.parametrize(("page", "text"), PROGRAMS)
def test_a_program_in_the_documentation_uses_what_exists(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hrkd_cli":
            module = __import__(node.module, fromlist=["_"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "hrkd_cli" in text:
            check_call(node.func.id, {keyword.arg: keyword.value for keyword in node.keywords})


def check_call(function, keywords):
    """Check the keyword arguments of a call, and the values of those that are literals."""
    if function == "Predictor":
        assert keywords.keys() <= inspect.signature(hrkd_cli.Predictor).parameters.keys()
    if function in FUNCTIONS:
        options = COMMANDS[FUNCTIONS[function]].options
        assert keywords.keys() - {"on_event"} <= options.keys()
        for name, value in keywords.items():
            if isinstance(value, ast.Constant | ast.List):
                options[name].validate(ast.literal_eval(value))


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory, teacher):
    """Write the encoder of a tiny teacher, which learns within a few steps."""
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    AutoModel.from_pretrained(teacher).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def stand_ins(tmp_path, tiny_encoder, monkeypatch):
    """Put a tiny encoder and a small sample where the documentation's commands find them first."""
    shutil.copytree(tiny_encoder, tmp_path / "sentence-transformers/all-MiniLM-L6-v2")
    write_raw(tmp_path / "sample", rows=60, domains=("camera", "phone"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HRKD_THREADS", "1")  # more threads wait for each other on a busy machine


def run_shell(line, capsys):
    """Run a line of the documentation; return its stdout."""
    if line.startswith("hrkd "):
        assert main(shlex.split(line, comments=True)[1:]) == 0, capsys.readouterr().err
        return capsys.readouterr().out
    return subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout


def test_the_tutorial_runs(stand_ins, capsys, monkeypatch):
    blocks = code_blocks("docs/tutorial.md")
    outputs = []
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text, "tutorial.md", "exec"), {})
            assert Path("reviews.csv").read_text(encoding="utf-8").startswith(blocks[2].text)
            write_table(Path("reviews.csv"))  # which a tiny model can learn
        for line in block.text.splitlines() if not block.language else ():
            if not line.startswith(("pip ", "python3 -m venv", "source ")):  # installation
                outputs.append(run_shell(line, capsys))
    answers = [json.loads(line) for output in outputs for line in output.splitlines() if line.startswith("{")]
    shown = [json.loads(line) for block in blocks for line in block.text.splitlines() if line.startswith("{")]
    assert [answer.keys() for answer in answers] == [answer.keys() for answer in shown]
    assert [answer["text"] for answer in answers] == [answer["text"] for answer in shown]


def test_the_tutorial_shows_what_prepare_says_about_its_table(tmp_path, capsys):
    (program,) = programs("docs/tutorial.md")
    exec(compile(program, "tutorial.md", "exec"), {})
    assert main(["prepare", "reviews.csv"]) == 0
    captured = capsys.readouterr()
    assert captured.out.rstrip() + "\n\n" + captured.err in [block.text for block in code_blocks("docs/tutorial.md")]


def write_table(file):
    """Write texts of two domains with the columns of the tutorial's table."""
    rows = []
    for path in sorted(Path("sample").glob("*.csv")):
        rows += [f"{line},{path.stem}" for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    file.write_text("text,label,domain\n" + "\n".join(rows) + "\n", encoding="utf-8")


def test_the_program_of_the_readme_runs(stand_ins, capsys):
    (program,) = programs("README.md")
    exec(compile(program, "README.md", "exec"), {})
    accuracy, label = capsys.readouterr().out.split()
    assert 0 <= float(accuracy) <= 1
    assert label in ("bad", "good")


def test_the_notebook_runs(stand_ins):
    names = {}
    for cell in json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]:
        program = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
        if cell["cell_type"] == "code" and not program.startswith("%pip"):
            exec(compile(program, "quickstart.ipynb", "exec"), names)
    assert [model.precision for model in names["result"].models] == ["fp32", "fp32", "int8"]
    assert names["exported"].gate.passed


def test_the_programs_of_the_page_on_python_run_in_order(tmp_path, capsys):
    write_labeled_texts(tmp_path / "reviews")
    config = tiny_folder.CONFIGS["bert"](vocab_size=80, max_position_embeddings=160, pad_token_id=0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    tiny_folder.write_tokenizer(tmp_path / "encoder")  # one that can be trimmed
    names = {}
    for program in programs("docs/python.md"):
        exec(compile(program, "python.md", "exec"), names)
    assert "('books', 'dvd')" in capsys.readouterr().out


def write_labeled_texts(folder):
    """Write texts of two domains that a tiny model learns to tell apart within an epoch."""
    folder.mkdir()
    fillers = [word for word in tiny_folder.WORDS if word not in ("good", "bad")]
    for domain in ("books", "dvd"):
        rows = [
            f"{' '.join(random.Random(n).choices(fillers, k=6))} {word} {word},{label}"
            for n in range(80)
            for word, label in (("good", "positive"), ("bad", "negative"))
        ]
        (folder / f"{domain}.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def test_the_server_on_the_deployment_page_answers_as_predict_does_in_the_readme():
    shown = [json.loads(line) for page in ("README.md", "docs/deployment.md") for line in json_lines(page)]
    predicted, served = (record for record in shown if record.get("domain") == "camera" or "predictions" in record)
    assert served == {"predictions": [predicted]}


def test_the_commands_of_the_compatibility_script_are_valid(parsed, capsys):
    script = runpy.run_path(str(ROOT / "scripts/compatibility.py"))
    Path("options.toml").write_text(script["OPTIONS"])
    for words in (*map(str.split, script["STEPS"].strip().splitlines()), script["PREDICT"]):
        assert main(words) == 0, capsys.readouterr().err
    assert len(parsed) == len(script["STEPS"].strip().splitlines())  # all but --version, and the prediction
