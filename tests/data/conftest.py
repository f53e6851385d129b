import json
from collections import namedtuple

import pytest

from hrkd_cli import prepare
from hrkd_cli.choices import SourceFormat
from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.ingest import compute_checksums, ingest
from hrkd_cli.data.row_store import open_row_store
from hrkd_cli.data.sources.discover import find_source_files

Example = namedtuple("Example", "text text_pair label domain split line")
Dropped = namedtuple("Dropped", "reason location line")
Raw = namedtuple("Raw", "examples dropped has_pairs checksums")


@pytest.fixture
def read():
    """Read a source into a row store; return its rows and the texts of the notes."""

    def run(source, format="auto", **options):
        events = []
        files = find_source_files(source, SourceFormat(format), on_event=events.append)
        with open_row_store(str(source)) as store:
            ingest(store, files, PrepareSettings(source=str(source), **options), events.append)
            rows = store.connection.execute(
                "SELECT text, text_pair, label, domain, split, line FROM rows WHERE drop_reason IS NULL ORDER BY rowid"
            )
            examples = [Example(*row) for row in rows.fetchall()]
            dropped = []
            for reason, (_, locations) in store.count_dropped().items():
                for location in locations:
                    dropped.append(Dropped(reason, location, int(location.rpartition(":")[2])))
            raw = Raw(
                examples,
                sorted(dropped, key=lambda row: row.location),
                store.has_pairs,
                compute_checksums(files, store),
            )
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
    """A folder with two domains of 40 different texts each, half of them with each label."""
    for domain in ("books", "dvd"):
        rows = [{"text": f"{domain} number {i}", "label": ("bad", "good")[i % 2]} for i in range(40)]
        jsonl(tmp_path / "reviews" / f"{domain}.jsonl", rows)
    return tmp_path / "reviews"


@pytest.fixture
def prepared(reviews, tmp_path):
    prepare(reviews, out=tmp_path / "prepared")
    return tmp_path / "prepared"
