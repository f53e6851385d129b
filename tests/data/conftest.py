import json

import pytest

from hrkd_cli.data.sources import amazon, delimited, textfile
from hrkd_cli.data.sources.read import read_source
from hrkd_cli.data.sources.records import Columns

# For hub_server, which lies beside the folders of tests.


@pytest.fixture
def read():
    """Read a source; gives what was read, with the notes in ``notes``."""

    def run(source, format="auto", domains=None, **columns):
        events = []
        raw = read_source(source, format=format, columns=Columns(**columns), domains=domains, on_event=events.append)
        return raw, [event.text for event in events if hasattr(event, "text")]

    return run


@pytest.fixture
def jsonl():
    """Write rows as JSON lines."""

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def reviews(tmp_path, jsonl):
    """A folder with two domains of 40 different texts each, half of either label."""
    for domain in ("books", "dvd"):
        rows = [{"text": f"{domain} number {i}", "label": ("bad", "good")[i % 2]} for i in range(40)]
        jsonl(tmp_path / "reviews" / f"{domain}.jsonl", rows)
    return tmp_path / "reviews"


@pytest.fixture
def blocks(monkeypatch):
    """Set how many bytes of a file are read at a time."""

    def set_size(size):
        for module in (amazon, delimited, textfile):
            monkeypatch.setattr(module, "BLOCK", size)

    return set_size
