import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrkd_cli.cli.completion import VARIABLE
from hrkd_cli.cli.main import main


@pytest.fixture
def suggest(capsys, monkeypatch):
    """Return what a shell's completion script gets for a line."""

    def run(shell: str, line: str, *bash_words: str) -> str:
        variables = {VARIABLE: f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        variables |= {"COMP_WORDS": "\n".join(bash_words), "COMP_CWORD": str(len(bash_words) - 1)}
        variables |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_WORD_TO_COMPLETE": line.rpartition(" ")[2]}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main([])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--target", "=", "av"], "avx2\navx512-vnni\n"),
        (["--target", "="], "auto\navx2\navx512-vnni\narm64\nwasm\n"),
        (["--target", "av"], "avx2\navx512-vnni\n"),
        (["--domain", "=", "a=b", "--target", "=", "av"], "avx2\navx512-vnni\n"),
        (["--targ"], "--target\n"),
    ],
)
def test_bash_splits_an_option_from_its_value(suggest, words, expected):
    assert suggest("bash", "", "hrkd", "export", *words) == expected


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("zsh", '_arguments \'*: :(("--target=avx2"\n"--target=avx512-vnni"))\'\n'),
        ("fish", "--target=avx2\n--target=avx512-vnni\n"),
        ("powershell", "--target=avx2::: \n--target=avx512-vnni::: \n"),
    ],
)
def test_other_shells_replace_the_option_with_its_value(suggest, shell, expected):
    assert suggest(shell, "hrkd export --target=av") == expected
    assert suggest(shell, "hrkd export --target av") == expected.replace("--target=", "")
    assert "--target=" not in suggest(shell, "hrkd export --domain=")


def typed(shell: str, keys: str, until: str, home: Path) -> str:
    """Type keys in an interactive shell until a text appears, and return what it shows."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(shell, [shell, "-i"], {"HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}", "TERM": "dumb"})
    shown, deadline, is_typed = "", time.monotonic() + 60, False
    while until not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace").replace("\a", "")
        elif not is_typed:  # the prompt is there
            is_typed = bool(os.write(terminal, keys.encode()))
    os.close(terminal)
    os.waitpid(child, 0)
    return shown


@pytest.mark.parametrize(("shell", "startup"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", None)])
def test_a_shell_completes_after_install_completion(tmp_path, monkeypatch, shell, startup):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    program = tmp_path / "hrkd"
    python = f'PYTHONPATH="{os.pathsep.join(sys.path)}" exec "{sys.executable}"'
    program.write_text(f'#!/bin/sh\n{python} -m hrkd_cli "$@"\n')
    program.chmod(0o755)
    if startup:
        (tmp_path / startup).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    # Typer finds the shell among the parents of the process; "; true" keeps the shell there.
    subprocess.run([shell, "-c", "hrkd --install-completion; true"], check=True, capture_output=True)
    if startup:
        assert "--target=avx" in typed(shell, "hrkd export --target=av\t", "--target=avx", tmp_path)
    else:
        ran = subprocess.run(
            [shell, "-c", 'complete -C "hrkd export --target=av"'], check=True, capture_output=True, text=True
        )
        assert ran.stdout == "--target=avx2\n--target=avx512-vnni\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_without_compinit_gets_a_hint(hrkd, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("zsh", "/bin/zsh"))
    script = tmp_path / ".zfunc/_hrkd"
    assert hrkd("--install-completion").out == (
        f"zsh completion installed in {script}; it takes effect in a new terminal\n"
    )
    ran = subprocess.run(["zsh", "-f", script], capture_output=True, text=True, check=False)
    assert ran.stderr == "hrkd: completion needs compinit; run this line before: autoload -Uz compinit; compinit\n"


def test_an_unknown_shell_is_an_error(hrkd, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    ran = hrkd("--install-completion")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(
        "hrkd: --install-completion: tcsh is not supported; run it in bash, zsh, fish or PowerShell"
    )
