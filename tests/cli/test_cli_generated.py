import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import generated


@pytest.mark.skipif(not (ROOT / "completions").is_dir(), reason="not run from a checkout")
@pytest.mark.parametrize("name", generated.SHELLS)
def test_completion_scripts_are_current(name):
    text = (ROOT / "completions" / name).read_text(encoding="utf-8")
    assert text == generated.generate_files()[f"completions/{name}"], "run make generated"


@pytest.mark.skipif(not (ROOT / "docs/help.md").is_file(), reason="not run from a checkout")
@pytest.mark.skipif(not typer.__version__.startswith("0.29."), reason="other versions of Typer write types otherwise")
def test_the_help_page_is_current():
    text = (ROOT / "docs/help.md").read_text(encoding="utf-8")
    assert text == generated.render_help_page(), "run make generated"


def test_the_help_page_does_not_depend_on_the_terminal(monkeypatch):
    page = generated.render_help_page()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert generated.render_help_page() == page
    assert all(len(line) <= generated.WIDTH + 20 for line in page.splitlines())


def test_completion_scripts_are_written(tmp_path):
    generated.write_files(tmp_path)
    assert {path.name for path in (tmp_path / "completions").iterdir()} == set(generated.SHELLS)
    assert (tmp_path / "docs/help.md").read_text(encoding="utf-8") == generated.render_help_page()


def suggested(shell: str, **variables: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "hrkd_cli"],
        env={**os.environ, "_HRKD_COMPLETE": f"complete_{shell}", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    return ran.stdout.split("\n")[:-1]


def test_bash_protocol():
    assert suggested("bash", COMP_WORDS="hrkd distill --hier", COMP_CWORD="2") == ["--hierarchy"]
    assert suggested("bash", COMP_WORDS="hrkd distill --graph ", COMP_CWORD="3") == [
        "learned",
        "frozen",
        "uniform",
        "none",
    ]
    assert suggested("bash", COMP_WORDS="hrkd pre", COMP_CWORD="1") == ["prepare", "predict"]


def test_zsh_protocol():
    lines = suggested("zsh", _TYPER_COMPLETE_ARGS="hrkd distill --hier")
    assert len(lines) == 1
    assert '"--hierarchy":' in lines[0]


def test_fish_protocol():
    variables = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "hrkd distill --graph "}
    assert suggested("fish", **variables) == ["learned", "frozen", "uniform", "none"]


def test_powershell_protocol_keeps_a_suggestion_on_its_line():
    variables = {"_TYPER_COMPLETE_ARGS": "hrkd distill --hier", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "--hier"}
    lines = suggested("powershell", **variables)
    assert len(lines) == 1
    assert lines[0].startswith("--hierarchy:::Mix each domain")


def test_suggestions_ignore_broken_settings():
    assert suggested("bash", COMP_WORDS="hrkd distill --hier", COMP_CWORD="2", HRKD_NONSENSE="1") == ["--hierarchy"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself_completes(tmp_path):
    program = tmp_path / "hrkd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hrkd_cli "$@"\n')
    program.chmod(0o755)
    generated.write_files(tmp_path)
    script = f"""
        source {tmp_path / "completions/hrkd.bash"}
        complete -p hrkd
        COMP_WORDS=(hrkd distill --tea) COMP_CWORD=2
        _hrkd_completion hrkd
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()
    assert "-F _hrkd_completion hrkd" in lines[0]
    assert lines[1:] == ["--teacher", "--teacher-checkpoints", "--teacher-epochs", "--teacher-learning-rate"]


@pytest.mark.parametrize(("shell", "check", "name"), [("zsh", "-n", "_hrkd"), ("fish", "--no-execute", "hrkd.fish")])
def test_other_shells_can_read_their_script(tmp_path, shell, check, name):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell}")
    generated.write_files(tmp_path)
    done = subprocess.run([program, check, str(tmp_path / "completions" / name)], check=False)
    assert done.returncode == 0
