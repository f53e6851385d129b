"""The messages that docs/troubleshooting.md explains are those of the code."""

import ast
import re
from pathlib import Path

import pytest

import hrkd_cli
from markdown_pages import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
HEADINGS = re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE) if PAGE.is_file() else []
MESSAGES = [message for heading in HEADINGS for message in re.findall(r"`([^`]+)`", heading)]


def literals():
    """Return the text of every string in the code, with ... for the values in it."""
    for path in Path(hrkd_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.fixture(scope="module")
def code():
    return "\n".join(text.replace("\n", " ") for text in literals())


def pattern(message):
    return ".*".join(re.escape(part.strip()) for part in message.split("..."))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_exists_in_the_code(code, message):
    assert re.search(pattern(message), code)


def test_a_message_that_no_longer_exists_is_found(code):
    assert not re.search(pattern("no ... column was found (columns: ...)"), code)


def test_every_entry_is_a_message():
    assert MESSAGES
    assert [heading for heading in HEADINGS if re.sub(r"`[^`]+`(, )?", "", heading)] == []
