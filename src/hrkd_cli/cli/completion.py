"""Shell completion: Typer's, and also of a value that is joined to its option (``--target=a``)."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator

from hrkd_cli.errors import UsageError

VARIABLE = "_HRKD_COMPLETE"
"""The shell's completion script sets this variable to ``complete_bash``, ``complete_zsh`` and so on."""


_ZSH_REGISTRATION = """
if [[ $funcstack[1] = _%(prog_name)s ]]; then  # compinit found this file, and the first TAB calls it
  %(complete_func)s "$@"
elif (( $+functions[compdef] )); then
  compdef %(complete_func)s %(prog_name)s
else
  print -u2 "%(prog_name)s: completion needs compinit; run this line before: autoload -Uz compinit; compinit"
fi
"""


def improve_zsh_script() -> None:
    """Let Typer's script for zsh also complete at the first TAB, and say that it needs compinit."""
    with contextlib.suppress(ImportError, AttributeError, KeyError):  # other versions of Typer keep their script
        scripts = importlib.import_module("typer._completion_shared")._completion_scripts
        scripts["zsh"] = scripts["zsh"].replace("\ncompdef %(complete_func)s %(prog_name)s\n", _ZSH_REGISTRATION)


def install() -> str:
    """Install completion for the shell that runs this process, and return what was done."""
    import shellingham
    from typer import completion as typer_completion

    try:
        shell = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        shell = "an unknown shell"
    if shell not in ("bash", "zsh", "fish", "powershell", "pwsh"):
        raise UsageError(f"--install-completion: {shell} is not supported; run it in bash, zsh, fish or PowerShell")
    improve_zsh_script()
    _, path = typer_completion.install(shell=shell)  # type: ignore[attr-defined]
    return f"{shell} completion installed in {path}; it takes effect in a new terminal"


@contextlib.contextmanager
def completion() -> Iterator[None]:
    """Prepare Typer for completion, and adapt the suggestions of the block to what the shell compares them with."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    # Rich wraps help texts to the terminal, but a completion must stay on one line.
    os.environ["COLUMNS"] = "1000"
    _drop_equals_signs()
    option, equals, _ = os.environ.get("_TYPER_COMPLETE_ARGS", "").rpartition(" ")[2].partition("=")
    stdout, suggestions = sys.stdout, io.StringIO()
    try:
        with contextlib.redirect_stdout(suggestions):
            yield
    finally:  # Typer exits
        text = suggestions.getvalue()
        if equals and option.startswith("--") and not text.startswith("_files"):
            # zsh, fish and PowerShell replace the whole word. zsh gets: _arguments '*: :(("avx2"\n"arm64"))'
            text = re.sub(r"^(_arguments .*\(\()?(\"?)(?=\w)", rf"\1\2{option}=", text, flags=re.MULTILINE)
        stdout.write(text)


def _drop_equals_signs() -> None:
    """Remove the words "=" from bash's words, one per line: bash splits ``--target=a`` into three words."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    current = int(os.environ.get("COMP_CWORD", 0))
    kept = [word for number, word in enumerate(words) if word != "=" or number == current]
    os.environ["COMP_WORDS"] = "\n".join(kept)
    os.environ["COMP_CWORD"] = str(current - words[:current].count("="))
