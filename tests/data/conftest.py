import json
from collections import namedtuple

import pytest

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.ingest import ingest, open_store, stamps
from hrkd_cli.data.sources.discover import find_source

# For hub_server, which lies beside the folders of tests.

Example = namedtuple("Example", "text text_pair label domain split file line")
Dropped = namedtuple("Dropped", "reason domain place line")
Raw = namedtuple("Raw", "examples dropped pair stamps")


@pytest.fixture
def read():
    """Read a source; gives what was read, and the notes."""

    def run(source, format="auto", domains=None, encoding=None, **columns):
        events = []
        files = find_source(source, SourceFormat(format), on_event=events.append)
        with open_store(str(source)) as store:
            ingest(store, files, columns, domains=domains, encoding=encoding, on_event=events.append)
            rows = store.con.execute(
                "SELECT text, text_pair, label, domain, split, file, line FROM rows WHERE reason IS NULL ORDER BY rowid"
            )
            examples = [Example(*row) for row in rows.fetchall()]
            dropped = []
            for reason, (_, places) in store.dropped().items():
                for place in places:
                    dropped.append(Dropped(reason, None, place, int(place.rpartition(":")[2])))
            raw = Raw(examples, sorted(dropped, key=lambda row: row.place), store.pair, stamps(files, store))
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
