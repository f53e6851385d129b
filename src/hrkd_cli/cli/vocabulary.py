"""What ``hrkd export`` shows of a trimmed vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrkd_cli.cli.tables import Table
from hrkd_cli.cli.units import thousands


def trimmed(result: Mapping[str, Any]) -> list[Table]:
    """Tokens kept and dropped, and what that does to text; no table where nothing was trimmed.

    Args:
        result: the JSON result of export.
    """
    found = result.get("vocabulary")
    if not found:
        return []
    kept, train, dev = found["kept"], found["train"], found["dev"]
    rows: list[tuple[str, ...]] = [
        ("tokens before", thousands(found["before"])),
        ("tokens after", thousands(found["after"])),
        ("  used by the train split", thousands(kept["used"])),
        ("  special", thousands(kept["special"])),
        ("  to keep every character readable", thousands(kept["for_characters"])),
        ("  that merges pass through", thousands(kept["for_merges"])),
        ("dropped though used", thousands(found["dropped_used"])),
        ("train tokens that became others", _of(train["changed"], train["tokens"])),
        ("dev tokens that became others", _of(dev["changed"], dev["tokens"])),
        ("unknown tokens in dev, before", thousands(dev["unknown"])),
        ("unknown tokens in dev, after", thousands(dev["unknown_after"])),
        ("characters no longer readable", _of(found["characters_lost"], found["characters"])),
        ("dev accuracy lost, points", f"{found['accuracy_drop']:.2f}"),
    ]
    tables = [Table("Vocabulary", ("", ""), rows)]
    if most := found["dropped_most_used"]:
        named = [(token, thousands(count)) for token, count in most.items()]
        tables.append(Table("Dropped, most used first", ("token", "in train"), named))
    return tables


def _of(part: int, whole: int) -> str:
    share = f" ({100 * part / whole:.2f} %)" if whole else ""
    return f"{thousands(part)} of {thousands(whole)}{share}"
