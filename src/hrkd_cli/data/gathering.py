"""The first pass: a source's rows go to disk piece by piece, and what the cut needs to know of them is gathered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from hrkd_cli.data.crew import Crew, Job
from hrkd_cli.data.index import Index
from hrkd_cli.data.sources.discover import Found
from hrkd_cli.data.sources.read import HubStamp, Part, SourceStamp, open_parts, stamp
from hrkd_cli.data.sources.records import Columns, Piece, Reason
from hrkd_cli.data.sources.rows import Usable, usable_rows
from hrkd_cli.data.sources.tally import Tally, check_usable, check_wanted
from hrkd_cli.data.spool import Spooled, spool_rows
from hrkd_cli.errors import DataError
from hrkd_cli.events import OnEvent, Progress

_MB = 1_000_000


@dataclass(slots=True)
class Gathered:
    """What is known of a source when it was read.

    Attributes:
        source: the source, as the user named it.
        index: its usable rows.
        unused: the others.
        stamps: identities of what was read, by path.
    """

    source: str
    index: Index = field(default_factory=Index)
    unused: Tally = field(default_factory=Tally)
    stamps: list[SourceStamp] = field(default_factory=list)


def gather(
    source: str,
    found: Found | None,
    columns: Columns,
    *,
    wanted: Sequence[str] | None,
    crew: Crew,
    folder: Path,
    on_event: OnEvent,
) -> Gathered:
    """Read a source.

    Args:
        source: the source, as the user named it.
        found: its files; None for a hub id.
        columns: columns that the user named.
        wanted: the domains to keep; None keeps all.
        crew: who reads.
        folder: an empty folder for the rows.
        on_event: told what is read and what is skipped.

    Raises:
        DataError: a file cannot be parsed, or nothing of the source, or of a domain, can be used.
    """
    return _Gathering(Gathered(source), columns, wanted, folder, on_event).run(found, crew)


class _Gathering:
    """One pass over a source."""

    def __init__(
        self, result: Gathered, columns: Columns, wanted: Sequence[str] | None, folder: Path, on_event: OnEvent
    ) -> None:
        self._result = result
        self._columns = columns
        self._wanted = None if wanted is None else list(wanted)
        self._folder = folder
        self._on_event = on_event
        self._numbers = count()
        self._seen: set[str] = set()
        self._rows: dict[str, int] = {}
        # Parts all of whose pieces were handed out.
        self._ended: deque[str] = deque()
        self._failure: DataError | None = None

    def run(self, found: Found | None, crew: Crew) -> Gathered:
        """Read all of it."""
        result = self._result
        if found is None:
            self._read_hub()
        else:
            result.stamps = [stamp(file) for file in found.files]
            self._read_files(found, crew)
        self._check_ended()
        if self._failure is not None:
            raise self._failure
        if self._wanted is not None:
            check_wanted(result.source, self._wanted, self._seen.union(result.index.domains, result.unused.domains()))
        check_usable(result.source, result.index.domains, result.index.labels, result.unused)
        return result

    def _read_files(self, found: Found, crew: Crew) -> None:
        def survey(pieces: Iterable[Piece]) -> Iterator[list[Any]]:
            return (answer for _, answer in crew.map("survey", ({"piece": asdict(piece)} for piece in pieces)))

        parts = open_parts(self._result.source, found, self._columns, on_event=self._on_event, survey=survey)
        whole, done = sum(entry.bytes for entry in self._result.stamps), 0
        for job, answer in crew.map("spool", self._jobs(parts)):
            dropped = answer.pop("dropped")
            self._take(Spooled(**answer), job["stem"], job["piece"]["path"], dropped)
            done += job["piece"]["bytes"]
            rows = {"rows": f"{self._result.index.rows:,}"}
            self._on_event(Progress("reading MB", -(-done // _MB), -(-whole // _MB), rows))

    def _jobs(self, parts: Iterable[Part]) -> Iterator[Job]:
        try:
            for part in parts:
                self._result.index.pair = part.pair
                assert part.table.pieces is not None
                for piece in part.table.pieces():
                    yield {
                        "piece": asdict(piece),
                        "columns": part.table.columns,
                        "rules": asdict(part.rules),
                        "pair": part.pair,
                        "wanted": self._wanted,
                        "stem": self._stem(),
                    }
                self._ended.append(part.where)
        except DataError as error:
            # Not yet: the pieces before it may hold an error that comes first.
            self._failure = error

    def _read_hub(self) -> None:
        """Read what has no files of its own here, all in this process."""
        identity = HubStamp(self._result.source)
        for part in open_parts(self._result.source, None, self._columns, on_event=self._on_event):
            dropped: list[tuple[Reason, str | None, int]] = []

            def rows(part: Part = part, dropped: list[tuple[Reason, str | None, int]] = dropped) -> Iterator[Usable]:
                def drop(reason: Reason, domain: str | None, line: int) -> None:
                    identity.drop(reason, part.where, line)
                    dropped.append((reason, domain, line))

                for row in usable_rows(part.table.rows(part.rules.wanted), part.rules, drop):
                    identity.add(row)
                    yield row

            self._result.index.pair = part.pair
            stem = self._stem()
            self._take(spool_rows(rows(), Path(stem), pair=part.pair, wanted=self._wanted), stem, part.where, dropped)
            self._ended.append(part.where)
            self._on_event(Progress("reading rows", self._result.index.rows))
        self._result.stamps = [identity.stamp()]

    def _stem(self) -> str:
        return str(self._folder / f"{next(self._numbers):06}")

    def _take(self, spooled: Spooled, stem: str, where: str, dropped: Iterable[tuple[str, str | None, int]]) -> None:
        """Take in a piece; they come in the order of the source."""
        self._check_ended(before=where)
        unused = list(dropped)
        self._rows[where] = self._rows.get(where, 0) + spooled.rows + spooled.others_rows + len(unused)
        for reason, domain, line in unused:
            if domain is None or self._wanted is None or domain in self._wanted:
                self._result.unused.add(Reason(reason), domain, where, line)
            else:
                self._seen.add(domain)
        self._seen.update(spooled.others)
        self._result.index.add(spooled, stem, where)

    def _check_ended(self, before: str | None = None) -> None:
        while self._ended and self._ended[0] != before:
            where = self._ended.popleft()
            if not self._rows.get(where):
                raise DataError(f"{where}: no rows in it")
