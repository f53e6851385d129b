"""Rows that are not used, counted: by reason with the first places, by domain with the first one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hrkd_cli.data.names import check_domains, check_label
from hrkd_cli.data.sources.records import Reason
from hrkd_cli.errors import DataError

MAX_LISTED = 1000
"""Rows that are listed, of each reason; the counts are always whole."""


class Tally:
    """What is known of the rows that are not used.

    Attributes:
        counts: number of rows by reason, in the order in which the reasons were first met.
        places: ``file:line`` of the first MAX_LISTED of them, by reason.
    """

    def __init__(self) -> None:
        self.counts: dict[Reason, int] = {}
        self.places: dict[Reason, list[str]] = {}
        self._domains: dict[str | None, dict[Reason, int]] = {}
        self._first: dict[str | None, str] = {}

    def add(self, reason: Reason, domain: str | None, file: str, line: int) -> None:
        """Count a row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        places = self.places.setdefault(reason, [])
        if len(places) < MAX_LISTED:
            places.append(f"{file}:{line}")
        of_domain = self._domains.setdefault(domain, {})
        of_domain[reason] = of_domain.get(reason, 0) + 1
        self._first.setdefault(domain, f"{file}:{line}")

    def add_many(self, reason: Reason, count: int, places: Sequence[str]) -> None:
        """Count rows that are not used for a new reason, though they could be.

        Args:
            reason: the reason.
            count: how many they are.
            places: ``file:line`` of the first MAX_LISTED of them.
        """
        self.counts[reason] = count
        self.places[reason] = list(places)

    def domains(self) -> set[str]:
        """Return the domains of which rows are not used."""
        return {domain for domain in self._domains if domain is not None}

    def why(self, domain: str) -> str:
        """Return the reasons of one domain, with the first place."""
        return _why(self._domains[domain], self._first[domain])

    def why_all(self) -> str:
        """Return all reasons, with the first place."""
        return _why(self.counts, next(iter(self._first.values()), ""))


def check_wanted(source: str, wanted: Iterable[str], have: Iterable[str]) -> None:
    """Refuse a domain that the source does not have.

    Raises:
        DataError: it has none of that name.
    """
    names = sorted(have)
    for name in wanted:
        if name not in names:
            raise DataError(f"{source}: no domain {name!r} (--domains); there are {short(names, 50)}")


def check_usable(source: str, domains: Iterable[str], labels: Iterable[str], unused: Tally) -> None:
    """Refuse a source without usable rows, a domain without any, and names that could not be written.

    Args:
        source: the source, as the user named it.
        domains: the domains of usable rows.
        labels: their labels.
        unused: the rows that cannot be used.

    Raises:
        DataError: it is refused.
    """
    usable = set(domains)
    if not usable:
        raise DataError(f"{source}: no row can be used: {unused.why_all()}")
    for domain in sorted(unused.domains() - usable):
        raise DataError(f"{source}: no row of domain {domain!r} can be used: {unused.why(domain)}")
    check_domains(usable, source)
    for label in sorted(set(labels)):
        check_label(label, source)


def short(names: Sequence[str], limit: int = 5) -> str:
    """Return the first of the names in a line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _why(counts: dict[Reason, int], first: str) -> str:
    reasons = ", ".join(f"{count} x {reason}" for reason, count in counts.items())
    return f"{reasons} (first: {first})" if counts else "there are none"
