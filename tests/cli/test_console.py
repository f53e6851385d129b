"""Output of a command: tables and JSON."""

import io

from cli_fakes import to_text
from hrkd_cli.cli.console import Console
from hrkd_cli.cli.tables import Table


def test_tables_in_a_file_are_aligned_ascii_text():
    table = Table(
        "T",
        ("name", "n\nrows", "word"),
        [("a", "1,000", "x"), ("section of one cell",), ("bb", "2", "yy")],
        left_aligned=(0, 2),
    )
    assert to_text(table).splitlines() == [
        "T",
        "                         n",
        "name                  rows  word",
        "-------------------  -----  ----",
        "a                    1,000  x",
        "section of one cell",
        "bb                       2  yy",
    ]


def test_names_in_tables_are_not_markup_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console()
    console.out = Terminal()
    console.write_table(Table("T [red]", ("name", "n"), [("[bold]x", "1"), ("section",)]))
    text = console.out.getvalue()
    assert "[bold]x" in text
    assert "T [red]" in text
    assert "\x1b[3" not in text  # no color


def test_json_is_escaped_only_for_streams_that_are_not_utf8():
    def lines(encoding: str) -> bytes:
        console = Console()
        console.out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console.write_json({"text": "größe"}, indent=None)
        return console.out.buffer.getvalue()

    assert lines("utf-8") == '{"text": "größe"}\n'.encode()
    assert lines("ascii") == b'{"text": "gr\\u00f6\\u00dfe"}\n'
