"""Findings about prepared rows: probable mistakes, and what limits what a model can learn from them.

Labels and lengths are those of all rows. Other findings about texts come from a sample, which has all rows of a text or
none.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.label_checks import are_numbers, group_equal_labels
from hrkd_cli.data.row_store import MAX_LOCATIONS, RowStore
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.formatting import join_names, plural
from hrkd_cli.layout import SPLITS
from hrkd_cli.predict.name_validation import quote

StratumCounts = Mapping[str, Mapping[str, tuple[int, int, int]]]
"""Train, dev and test rows by domain and label."""

MAX_SAMPLE = 100_000  # rows whose texts are compared
_MAX_LABELS = 1000  # more labels are not compared with each other
_MAX_NUMBERS = 20  # with more numbers than this as labels, they are probably quantities
_MIN_CLASS = 10  # rows of a class; of fewer, --dev 0.1 and --test 0.1 take none
_MAX_MAJORITY = 0.9
_MAX_LEAKS = 0.01  # fraction of dev and test rows that are nearly equal to a train row
# What R, Excel, Python, SAS and Weka write for a missing value; nan, null and <NA> are known to be missing.
_MISSING_NAMES = ("NA", "N/A", "#N/A", "None", ".", "?", "-")
_MERGE_OR_DROP = "--rename-label OLD=NEW merges a label into another one, OLD= drops its rows"

# One insertion, deletion, substitution or swap, but not in a number, and the other label is ten times as frequent.
_MISSPELLED = r"""
WITH labels AS (
  SELECT label, count(*) AS number, arg_min(location, rowid) AS location,
    regexp_replace(label, '\D', '', 'g') AS digits
  FROM rows WHERE drop_reason IS NULL GROUP BY label)
SELECT a.label, a.number, a.location, arg_max(b.label, b.number)
FROM labels AS a JOIN labels AS b ON a.digits = b.digits AND 10 * a.number <= b.number
  AND length(a.label) BETWEEN 4 AND 50 AND damerau_levenshtein(lower(a.label), lower(b.label)) = 1
GROUP BY ALL ORDER BY a.label
"""
_LENGTHS = """
CREATE TEMP VIEW lengths AS
SELECT rowid AS id, location, domain, length(text) + coalesce(length(text_pair), 0) AS characters
FROM rows WHERE drop_reason IS NULL;
CREATE TEMP TABLE quantiles AS
SELECT domain, quantile_disc(characters, [0.25, 0.5, 0.75, 0.95, 1]) AS q FROM lengths GROUP BY domain;
"""
# Lengths are about log-normal. In logarithms, these are three interquartile ranges beyond the quartiles.
_UNUSUAL_LENGTHS = """
WITH margins AS (SELECT domain, q[1] AS low, q[3] AS high, greatest(q[3] / q[1], 1.5) ** 3 AS margin FROM quantiles)
SELECT location, characters FROM lengths JOIN margins USING (domain)
WHERE characters NOT BETWEEN low / margin AND high * margin ORDER BY characters DESC, id
"""
_SAMPLE_ROWS = f"""
CREATE TEMP TABLE sampled_rows AS
SELECT *, id + CASE split WHEN 'train' THEN 0 ELSE 1::BIGINT << 40 END AS number  -- train rows come first
FROM final_rows
WHERE text IS NOT NULL AND drop_reason IS DISTINCT FROM '{DropReason.FEW_SHOT}'
  AND (text_hash & 4294967295)::UBIGINT % ? = 0
"""
_HELD_OUT = "SELECT count(*) FROM sampled_rows WHERE drop_reason IS NULL AND split != 'train'"
_CONFLICTS = """
SELECT count(*), arg_min(location, label), arg_max(location, label)
FROM sampled_rows GROUP BY input_hash, CASE WHEN ? THEN domain END HAVING min(label) != max(label) ORDER BY min(number)
"""
_C1_CONTROLS = r"""
SELECT 1, location FROM sampled_rows
WHERE drop_reason IS NULL AND regexp_matches(concat_ws(' ', text, text_pair), '[\x{80}-\x{9f}]') ORDER BY number
"""
_SHARED = """
SELECT count(*), arg_min(location, domain), arg_max(location, domain)
FROM sampled_rows WHERE drop_reason IS NULL
GROUP BY text_hash HAVING min(domain) != max(domain) ORDER BY min(number)
"""
# A text's sets of three adjacent words, without punctuation; those of candidates only, once there are some.
_SHINGLES = r"""
WITH hashed AS (
  SELECT number, list_transform(
    string_split(regexp_replace(lower(left(concat_ws(' ', text, text_pair), 2000)), '\s*[.,;:!?"()]+', '', 'g'), ' '),
    lambda word: hash(word)) AS words
  FROM sampled_rows WHERE drop_reason IS NULL {condition}),
shingled AS (
  SELECT * REPLACE (list_transform(list_zip(words, words[2:], words[3:], true), lambda three: hash(three)) AS words)
  FROM hashed WHERE len(words) >= 5)
"""
_MINIMA = [f"list_min(list_transform(words, lambda three: xor(three, hash({seed}))))" for seed in range(6)]
_BANDS = ", ".join(f"hash({first}, {second})" for first, second in zip(_MINIMA[::2], _MINIMA[1::2], strict=True))
# MinHash: texts that share a band, two of six minima. Each is compared with the first of them; train rows come first.
_CANDIDATES = f"""
CREATE TEMP TABLE candidates AS
{_SHINGLES.format(condition="")},
bands AS (SELECT number, unnest([{_BANDS}]) AS band FROM shingled),
firsts AS (SELECT band, min(number) AS first FROM bands GROUP BY band HAVING count(*) > 1)
SELECT DISTINCT number, first FROM bands JOIN firsts USING (band) WHERE number != first
"""
_IS_CANDIDATE = "AND number IN (SELECT unnest([number, first]) FROM candidates)"
_NEAR_DUPLICATES = f"""
{_SHINGLES.format(condition=_IS_CANDIDATE)},
pairs AS (
  SELECT a.number, min(first) AS first FROM candidates JOIN shingled AS a USING (number)
  JOIN shingled AS b ON b.number = first
  WHERE len(list_intersect(a.words, b.words)) >= 0.8 * len(list_distinct(list_concat(a.words, b.words)))
  GROUP BY a.number)
SELECT 1, a.location, b.location, a.split != 'train' AND b.split = 'train'
FROM pairs JOIN sampled_rows AS a USING (number) JOIN sampled_rows AS b ON b.number = first
WHERE a.text_hash != b.text_hash ORDER BY a.number
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A probable mistake in the data, or a limit of what can be learned from it.

    Attributes:
        kind: a fixed name of what was found.
        message: what exactly, what it means and what to do.
        count: number of rows it is about.
        rows: locations (``file:line``, or two of them joined by "and") of the first of them.
        warning: it needs attention.
    """

    kind: str
    message: str
    count: int
    rows: tuple[str, ...] = ()
    warning: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.rows[0]})" if self.rows else "")


def find_label_problems(store: RowStore, counts: StratumCounts) -> Iterator[Finding]:
    """Yield findings about the names of labels, and about classes with few or most of the rows."""
    totals: Counter[str] = Counter()
    for labels in counts.values():
        totals.update({label: sum(rows) for label, rows in labels.items()})
    for names in group_equal_labels(totals):
        usual = max(names, key=lambda name: totals[name])
        others = [name for name in names if name != usual]
        quoted = join_names([quote(name[:80]) for name in names])
        message = f"{quoted} are different classes; to make them equal: {_rename(others, usual)}"
        yield Finding("labels that look equal", message, sum(totals[name] for name in others))
    for label in sorted(totals.keys() & set(_MISSING_NAMES)):
        message = f"{label!r} ({plural(totals[label], 'row')}) is a class; if it means no label: {_rename([label], '')}"
        yield Finding("label looks missing", message, totals[label])
    misspelled = store.fetch(_MISSPELLED) if len(totals) <= _MAX_LABELS else []
    for label, count, location, usual in misspelled:
        meaning = f"{label!r} ({plural(count, 'row')}) looks like {usual!r} but is a class of its own"
        message = f"{meaning}; if it is a typing error: {_rename([label], usual)}"
        yield Finding("label misspelled", message, count, (location,))
    if len(totals) > _MAX_NUMBERS and are_numbers(totals):
        message = (
            f"{len(totals)} labels, all of them numbers, are classes without an order, and hrkd does not predict "
            "quantities; if they are quantities, replace them by a few ranges"
        )
        yield Finding("numbers as labels", message, sum(totals.values()))
    names = [label for label, *_ in misspelled]
    strata = {(d, name): sum(n) for d, labels in counts.items() for name, n in labels.items() if name not in names}
    tiny = {stratum: rows for stratum, rows in strata.items() if rows < _MIN_CLASS}
    own = {(d, name): n for (d, name), n in strata.items() if n == totals[name] and (d, name) not in tiny}
    if own and len(counts) > 1 and 2 * len(own) < len(totals):  # else each domain has labels of its own
        message = f"{_list_classes(own)}, although the domains share other labels; no other domain helps to learn it"
        yield Finding("label of one domain", f"{message}; {_MERGE_OR_DROP}", sum(own.values()))
    if tiny:
        message = f"{_list_classes(tiny)}, too few to learn and to split; add rows, or {_MERGE_OR_DROP}"
        yield Finding(f"classes with fewer than {_MIN_CLASS} rows", message, sum(tiny.values()))
    yield from _find_unbalanced_classes(counts, strata)


def _find_unbalanced_classes(counts: StratumCounts, strata: Mapping[tuple[str, str], int]) -> Iterator[Finding]:
    """Yield findings about domains and classes without rows in a split, and domains with nearly only one class."""
    for index, split in enumerate(SPLITS):
        empty = [domain for domain, labels in counts.items() if not any(rows[index] for rows in labels.values())]
        empty += [
            f"{domain}/{label}"
            for (domain, label), rows in strata.items()
            if domain not in empty and rows >= _MIN_CLASS and not counts[domain][label][index]
        ]
        if empty:
            yield Finding(f"no {split} rows", join_names(empty), 0)
    sizes = {domain: sum(map(sum, labels.values())) for domain, labels in counts.items()}
    majorities = {stratum: rows for stratum, rows in strata.items() if rows >= _MAX_MAJORITY * sizes[stratum[0]]}
    if majorities:
        names = join_names([f"{d}/{name} ({100 * n // sizes[d]}%)" for (d, name), n in majorities.items()])
        message = (
            f"{names}, so always answering it is that accurate; compare macro-F1, and train with --metric macro-f1"
        )
        yield Finding("nearly all rows in one class", message, sum(majorities.values()))


def measure_lengths(store: RowStore) -> tuple[dict[str, dict[str, int]], list[Finding]]:
    """Return median, 95th percentile and maximum of the characters of a row by domain, and unusual lengths."""
    store.connection.execute(_LENGTHS)
    quantiles = store.fetch("SELECT domain, q[2], q[4], q[5] FROM quantiles ORDER BY domain")
    lengths = {domain: {"median": median, "p95": p95, "max": longest} for domain, median, p95, longest in quantiles}
    if not (unusual := store.fetch(_UNUSUAL_LENGTHS)):
        return lengths, []
    message = (
        f"{plural(len(unusual), 'text')} with {unusual[-1][1]:,} to {unusual[0][1]:,} characters; look for rows that "
        "were joined or cut off"
    )
    rows = tuple(location for location, _ in unusual[:MAX_LOCATIONS])
    return lengths, [Finding("unusual lengths", message, len(unusual), rows, warning=False)]


def find_text_problems(store: RowStore, counts: StratumCounts, on_event: OnEvent) -> Iterator[Finding]:
    """Yield findings about equal and similar texts in a sample of the rows."""
    total = store.fetch("SELECT count(*) FROM rows WHERE drop_reason IS NULL")[0][0]
    sampled = store.fetch(_SAMPLE_ROWS, [-(-total // MAX_SAMPLE)])[0][0]
    if total > MAX_SAMPLE:
        on_event(Note(f"texts are compared in a sample of {sampled:,} of {total:,} rows"))
    has_different_labels = len({tuple(labels) for labels in counts.values()}) > 1
    conflicts = store.fetch(_CONFLICTS, [has_different_labels])
    meaning = "with several labels, of which at most one is right; correct them"
    yield from _about_texts("label conflicts", conflicts, "text", meaning)
    store.connection.execute(_CANDIDATES)
    near = store.fetch(_NEAR_DUPLICATES)
    leaks = [pair for pair in near if pair[-1]]
    share = len(leaks) / max(1, store.fetch(_HELD_OUT)[0][0])
    meaning = f"({100 * share:.1f}%) nearly equal to a train row, so that scores are too high; remove one of each two"
    yield from _about_texts(
        "near-duplicates across splits", leaks, "dev or test row", meaning, warning=share >= _MAX_LEAKS
    )
    others = [pair for pair in near if not pair[-1]]
    yield from _about_texts("near-duplicates", others, "row", "nearly equal to an earlier row", warning=False)
    meaning = "with characters that no language has (U+0080 to U+009F); decode the file again, with its own encoding"
    yield from _about_texts("control characters", store.fetch(_C1_CONTROLS), "text", meaning)
    meaning = "whose domain a model cannot find out"
    yield from _about_texts("texts in several domains", store.fetch(_SHARED), "text", meaning, warning=False)


def _about_texts(
    kind: str, texts: Sequence[tuple[Any, ...]], what: str, meaning: str, *, warning: bool = True
) -> Iterator[Finding]:
    """Yield a finding about texts, each given as number of rows and one or two locations, if there are any."""
    if texts:
        rows = tuple(" and ".join(text[1:3]) for text in texts[:MAX_LOCATIONS])
        yield Finding(kind, f"{plural(len(texts), what)} {meaning}", sum(text[0] for text in texts), rows, warning)


def _list_classes(strata: Mapping[tuple[str, str], int]) -> str:
    return join_names([f"{domain}/{label} ({plural(rows, 'row')})" for (domain, label), rows in strata.items()])


def _rename(names: list[str], new: str) -> str:
    return " ".join(f"--rename-label {shlex.quote(f'{old}={new}')}" for old in names)
