"""Any source to examples: the one way in, for preparing and for evaluating."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.config import SourceFormat
from hrkd_cli.data.names import check_domains, check_label
from hrkd_cli.data.sources.amazon import read_amazon
from hrkd_cli.data.sources.columns import Places, find_columns
from hrkd_cli.data.sources.delimited import read_csv, read_tsv, read_tsv_unquoted
from hrkd_cli.data.sources.discover import Found, discover
from hrkd_cli.data.sources.hub import could_be_id, load_hub
from hrkd_cli.data.sources.jsonl import read_jsonl
from hrkd_cli.data.sources.parquet import read_parquet
from hrkd_cli.data.sources.records import Columns, Dropped, Example, Reason, SourceFile, Table
from hrkd_cli.data.sources.values import UnusableError, as_name, as_split, as_text
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, Progress

READERS = {
    SourceFormat.AMAZON: read_amazon,
    SourceFormat.MNLI: read_tsv_unquoted,
    SourceFormat.CSV: read_csv,
    SourceFormat.TSV: read_tsv,
    SourceFormat.JSONL: read_jsonl,
    SourceFormat.PARQUET: read_parquet,
}
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
class _Part:
    """A table to read and what is known about it from outside."""

    where: str
    domain: str | None
    split: str | None
    table: Table
    named: Columns


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
    wanted = parse_format(format)
    found = find_source(source, wanted)
    raw = RawData(str(source))
    if found is None:
        parts = _hub_parts(raw, columns, on_event)
    else:
        if found.skipped:
            on_event(Note(f"{source}: not read: {_short(found.skipped)}", warning=True))
        raw.stamps = [stamp(file) for file in found.files]
        parts = _file_parts(found, columns, on_event)
    _read_parts(parts, raw)
    if found is None:
        raw.stamps = [_hub_stamp(raw)]
    if domains is not None:
        _keep_domains(raw, domains)
    _check(raw)
    return raw


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
    try:
        with file.path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            return SourceStamp(file.name, handle.tell(), digest)
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from None


def _file_parts(found: Found, columns: Columns, on_event: OnEvent) -> Iterator[_Part]:
    for number, file in enumerate(found.files, start=1):
        table = READERS[file.format](file.path)
        named = columns
        if file.format is SourceFormat.MNLI:
            named = Columns(**{**_MNLI_COLUMNS.named(), **columns.named()})
        yield _Part(str(file.path), file.domain, file.split, table, named)
        on_event(Progress("reading", number, len(found.files)))


def _hub_parts(raw: RawData, columns: Columns, on_event: OnEvent) -> Iterator[_Part]:
    on_event(Note(f"loading {raw.source} from the hub"))
    used, others = load_hub(raw.source)
    if others:
        on_event(Note(f"{raw.source}: splits not read: {_short(others)}", warning=True))
    for where, split, table in used:
        yield _Part(where, None, split, table, columns)


def _read_parts(parts: Iterator[_Part], raw: RawData) -> None:
    paired: dict[bool, str] = {}
    for part in parts:
        named_label = part.named.label is not None
        places = find_columns(
            part.table.columns,
            part.named,
            where=part.where,
            defaults=part.table.defaults,
            file_domain=part.domain is not None,
            needs_label=part.table.label is None,
        )
        paired.setdefault(places.text_pair is not None, part.where)
        if len(paired) > 1:
            raise DataError(
                f"{paired[True]} has a second text and {paired[False]} has none; all domains must agree "
                "(--text-pair names the column)"
            )
        before = len(raw.examples), len(raw.dropped)
        _read_rows(part, places, part.table.label if not named_label else None, raw)
        if (len(raw.examples), len(raw.dropped)) == before:
            raise DataError(f"{part.where}: no rows in it")
    raw.pair = True in paired


def _read_rows(part: _Part, places: Places, file_label: str | None, raw: RawData) -> None:
    roles = {
        role: place
        for role in ("text", "text_pair", "label", "domain", "split")
        if (place := getattr(places, role)) is not None and not (role == "label" and file_label is not None)
    }
    unlabelled = _unlabelled(part.table, places.label)
    for line, values in part.table.rows(list(roles.values())):
        domain = part.domain
        try:
            if values is None:
                raise UnusableError(Reason.FIELDS)
            row = dict(zip(roles, values, strict=True))
            if "domain" in row:
                domain = None
                domain = as_name(row["domain"], Reason.NO_DOMAIN)
            assert domain is not None  # find_columns refuses a table without a domain from anywhere
            split = part.split
            # A column that only happens to be called "split" does not overrule the file's name; a named one does.
            if "split" in row and (split is None or part.named.split is not None):
                split = as_split(row["split"])
            example = Example(
                text=as_text(row["text"], Reason.NO_TEXT),
                text_pair=as_text(row["text_pair"], Reason.NO_PAIR) if "text_pair" in row else None,
                label=file_label if file_label is not None else as_name(row["label"], Reason.NO_LABEL),
                domain=domain,
                split=split,
                file=part.where,
                line=line,
            )
            if example.label in unlabelled:
                raise UnusableError(Reason.NO_LABEL)
            raw.examples.append(example)
        except UnusableError as problem:
            raw.dropped.append(Dropped(problem.reason, domain, part.where, line))


def _unlabelled(table: Table, label: int | None) -> frozenset[str]:
    """In SNLI's and MNLI's files a gold label of "-" means that the annotators did not agree."""
    is_gold = label is not None and table.columns[label].strip().casefold() == "gold_label"
    return frozenset({"-"}) if is_gold else frozenset()


def _keep_domains(raw: RawData, domains: Sequence[str]) -> None:
    have = sorted({example.domain for example in raw.examples} | {row.domain for row in raw.dropped if row.domain})
    for name in domains:
        if name not in have:
            raise DataError(f"{raw.source}: no domain {name!r} (--domains); there are {_short(have, 50)}")
    raw.examples = [example for example in raw.examples if example.domain in domains]
    raw.dropped = [row for row in raw.dropped if row.domain is None or row.domain in domains]


def _check(raw: RawData) -> None:
    usable = {example.domain for example in raw.examples}
    if not usable:
        raise DataError(f"{raw.source}: no row can be used: {_why(raw.dropped)}")
    for domain in sorted({row.domain for row in raw.dropped if row.domain is not None} - usable):
        rows = [row for row in raw.dropped if row.domain == domain]
        raise DataError(f"{raw.source}: no row of domain {domain!r} can be used: {_why(rows)}")
    check_domains(usable, raw.source)
    for label in {example.label for example in raw.examples}:
        check_label(label, raw.source)


def _why(rows: Sequence[Dropped]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    reasons = ", ".join(f"{count} x {reason}" for reason, count in counts.items())
    return f"{reasons} (first: {rows[0].place})" if rows else "there are none"


def _hub_stamp(raw: RawData) -> SourceStamp:
    """Return an identity of rows that have no file of their own here: of what was read of them."""
    digest, size = hashlib.sha256(), 0
    for example in raw.examples:
        row = [example.text, example.text_pair, example.label, example.domain, example.split, example.line]
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        digest.update(line)
        size += len(line)
    for dropped in raw.dropped:
        digest.update(f"{dropped.file}:{dropped.line} {dropped.reason}\n".encode())
    return SourceStamp(raw.source, size, digest.hexdigest())


def _short(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
