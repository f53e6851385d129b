"""Any source to rows: the one way in, for preparing and for evaluating."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources.columns import find_columns
from hrkd_cli.data.sources.discover import Found, discover
from hrkd_cli.data.sources.hub import could_be_id, load_hub
from hrkd_cli.data.sources.pieces import open_table, survey_here
from hrkd_cli.data.sources.records import Columns, Dropped, Example, Reason, SourceFile, Survey, Table
from hrkd_cli.data.sources.rows import Rules, Usable, make_rules, usable_rows
from hrkd_cli.data.sources.tally import Tally, check_usable, check_wanted, short
from hrkd_cli.data.sources.textfile import plain_read_errors
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, Progress

_Opened = tuple[str, SourceFile | None, str | None, Table]
"""Name of a part, the file that it is (None on the hub), its split, its table."""
_MNLI_COLUMNS = Columns(text="sentence1", text_pair="sentence2", label="gold_label", domain="genre")


@dataclass(frozen=True, slots=True)
class SourceStamp:
    """Identity of a file that was read: ``path`` is relative to the source."""

    path: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, str | int]:
        """Return it as plain values."""
        return {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(slots=True)
class RawData:
    """All that a source holds.

    Attributes:
        source: the source, as the user named it.
        examples: rows that can be used, in the order of the files.
        dropped: rows that cannot.
        pair: whether the rows have two texts.
        stamps: identities of what was read, by path.
    """

    source: str
    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    pair: bool = False
    stamps: list[SourceStamp] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source with columns of its own: a file, or a split of a hub dataset.

    Attributes:
        where: its name, for messages.
        table: its columns and rows.
        rules: what the values of its rows mean.
        pair: whether a row has two texts; the same in all parts of a source.
    """

    where: str
    table: Table
    rules: Rules
    pair: bool


def read_source(
    source: str | Path,
    *,
    format: SourceFormat | str,
    columns: Columns,
    domains: Sequence[str] | None,
    on_event: OnEvent,
) -> RawData:
    """Read every usable row of a source and note those that are not.

    Args:
        source: a file, a folder or a hub id.
        format: what to read, or ``auto``.
        columns: columns that the user named.
        domains: keep only these; None keeps all.
        on_event: told what is read and what is skipped.

    Raises:
        DataError: the source is not there, holds no data, or a file cannot be parsed.
        UsageError: the format is unknown.
    """
    found = find_source(source, parse_format(format))
    raw = RawData(str(source))
    if found is not None:
        raw.stamps = [stamp(file) for file in found.files]
    for number, part in enumerate(open_parts(raw.source, found, columns, on_event=on_event), start=1):
        _read_part(part, raw)
        raw.pair = part.pair
        if found is not None:
            on_event(Progress("reading", number, len(found.files)))
    if found is None:
        raw.stamps = [_hub_stamp(raw)]
    if domains is not None:
        have = {example.domain for example in raw.examples} | {row.domain for row in raw.dropped if row.domain}
        check_wanted(raw.source, domains, have)
        raw.examples = [example for example in raw.examples if example.domain in domains]
        raw.dropped = [row for row in raw.dropped if row.domain is None or row.domain in domains]
    unused = Tally()
    for row in raw.dropped:
        unused.add(row.reason, row.domain, row.file, row.line)
    check_usable(raw.source, {e.domain for e in raw.examples}, {e.label for e in raw.examples}, unused)
    return raw


def open_parts(
    source: str, found: Found | None, columns: Columns, *, on_event: OnEvent, survey: Survey = survey_here
) -> Iterator[Part]:
    """Yield the parts of a source, in order, each opened when it is asked for.

    Args:
        source: the source, as the user named it.
        found: what ``find_source`` found.
        columns: columns that the user named.
        on_event: told what is skipped.
        survey: looks over the whole of a file, where its format needs that.

    Raises:
        DataError: a part cannot be opened, its columns are not found, or it has a second text and another has none.
    """
    paired: dict[bool, str] = {}
    opened = _open_hub(source, on_event) if found is None else _open_files(source, found, survey, on_event)
    for where, file, split, table in opened:
        named = columns
        if file is not None and file.format is SourceFormat.MNLI:
            named = Columns(**{**_MNLI_COLUMNS.named(), **columns.named()})
        domain = file.domain if file is not None else None
        places = find_columns(
            table.columns,
            named,
            where=where,
            defaults=table.defaults,
            file_domain=domain is not None,
            needs_label=table.label is None,
        )
        pair = places.text_pair is not None
        paired.setdefault(pair, where)
        if len(paired) > 1:
            raise DataError(
                f"{paired[True]} has a second text and {paired[False]} has none; all domains must agree "
                "(--text-pair names the column)"
            )
        rules = make_rules(table, places, named, domain=domain, split=split)
        yield Part(where, table, rules, pair)


def parse_format(name: SourceFormat | str) -> SourceFormat:
    """Return the format of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return SourceFormat(name)
    except ValueError:
        raise UsageError(f"--format: {name!r} is not one of {', '.join(SourceFormat)}") from None


def find_source(source: str | Path, wanted: SourceFormat) -> Found | None:
    """Return the files of a source; None when it is a hub id.

    ``sample`` is the built-in sample, unless there is a file or folder of that name.

    Raises:
        DataError: it is neither, or holds no data.
    """
    path = Path(source)
    if wanted is SourceFormat.HUB:
        return None
    try:
        exists = bool(str(source)) and path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        return discover(path, wanted)
    if str(source) == sample.NAME:
        return discover(sample.FOLDER, wanted)
    if wanted is SourceFormat.AUTO and could_be_id(str(source)):
        return None
    raise DataError(f"{str(source)!r}: no such file or folder; check the path (a hub dataset is named owner/name)")


def stamp(file: SourceFile) -> SourceStamp:
    """Return the identity of a file.

    Raises:
        DataError: it cannot be read.
    """
    with plain_read_errors(file.path), file.path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return SourceStamp(file.name, handle.tell(), digest)


class HubStamp:
    """The identity of rows that have no file of their own here: of what was read of them."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._size = 0
        self._dropped = bytearray()

    def add(self, row: Usable) -> None:
        """Take in a row that can be used."""
        line, *values = row
        content = json.dumps([*values, line], ensure_ascii=False).encode() + b"\n"
        self._digest.update(content)
        self._size += len(content)

    def drop(self, reason: Reason, file: str, line: int) -> None:
        """Take in a row that cannot."""
        self._dropped += f"{file}:{line} {reason}\n".encode()

    def stamp(self) -> SourceStamp:
        """Return the identity of all rows; those that cannot be used come last."""
        self._digest.update(self._dropped)
        return SourceStamp(self._source, self._size, self._digest.hexdigest())


def _open_files(source: str, found: Found, survey: Survey, on_event: OnEvent) -> Iterator[_Opened]:
    if found.skipped:
        on_event(Note(f"{source}: not read: {short(found.skipped)}", warning=True))
    for file in found.files:
        yield str(file.path), file, file.split, open_table(file.path, file.format, survey)


def _open_hub(source: str, on_event: OnEvent) -> Iterator[_Opened]:
    on_event(Note(f"loading {source} from the hub"))
    used, others = load_hub(source)
    if others:
        on_event(Note(f"{source}: splits not read: {short(others)}", warning=True))
    for where, split, table in used:
        yield where, None, split, table


def _read_part(part: Part, raw: RawData) -> None:
    def drop(reason: Reason, domain: str | None, line: int) -> None:
        raw.dropped.append(Dropped(reason, domain, part.where, line))

    before = len(raw.examples) + len(raw.dropped)
    for line, text, pair, label, domain, split in usable_rows(part.table.rows(part.rules.wanted), part.rules, drop):
        raw.examples.append(Example(text, pair, label, domain, split, part.where, line))
    if len(raw.examples) + len(raw.dropped) == before:
        raise DataError(f"{part.where}: no rows in it")


def _hub_stamp(raw: RawData) -> SourceStamp:
    identity = HubStamp(raw.source)
    for row in raw.examples:
        identity.add((row.line, row.text, row.text_pair, row.label, row.domain, row.split))
    for dropped in raw.dropped:
        identity.drop(dropped.reason, dropped.file, dropped.line)
    return identity.stamp()
