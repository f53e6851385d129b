"""Every bad input gives one line on stderr and an exit code, and leaves nothing behind: the table is bad_inputs.py."""

import json

import pytest

from bad_inputs import CASES
from hrkd_cli.cli.command import COMMANDS
from valid_inputs import ValidInputs, run_program, working_folder


@pytest.fixture(scope="session")
def valid_inputs(tmp_path_factory):
    return ValidInputs(tmp_path_factory.mktemp("valid"))


def apply(changes, folder):
    """Change the files of a folder as a case says; return its environment variables."""
    environment = {}
    for path, value in changes.items():
        file = folder / path
        if path.startswith("HRKD_"):
            environment[path] = value
        elif path.endswith("/"):
            file.mkdir(parents=True)
        elif isinstance(value, dict):
            content = json.loads(file.read_text())
            for name, new in value.items():
                *parents, last = name.split(".")
                place = content
                for parent in parents:
                    place = place[parent]
                place[last] = new
            file.write_text(json.dumps(content))
        elif value is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value if isinstance(value, bytes) else value.encode())
    return environment


def list_files(folder):
    return {path: path.is_file() and path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("line", "changes", "code", "error"), CASES, ids=range(len(CASES)))
def test_a_bad_input_is_one_line_and_leaves_nothing_behind(valid_inputs, tmp_path, line, changes, code, error):
    words = line.split()
    for name in (*words, *changes):
        valid_inputs.copy(name.split("/")[0], tmp_path)
    environment = apply(changes, tmp_path)
    before = list_files(tmp_path)
    quiet = ["-q"] if words[0] in COMMANDS else []
    with working_folder(tmp_path, environment):
        found = run_program(words[0], *quiet, *words[1:])
    assert found == (code, "", f"{error}\n")
    assert list_files(tmp_path) == before
