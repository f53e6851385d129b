"""Which split each row goes to: duplicates out, texts of one split out of the others, what is missing cut from train.

A *group* is all rows with the same first text, of whatever domain: a group never lies on two sides of a cut, so that no
model is tested on a text that it was trained on. A *stratum* is a domain and a label. Where a group goes depends on the
seed and on its text, not on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hrkd_cli.data.sources.values import Reason
from hrkd_cli.layout import SPLITS

# A sum of shares is not exact; what differs by less is a tie.
_TIE = 1e-9
_BLOCK = 1 << 16

_START = f"""
CREATE TABLE strata AS
  SELECT (row_number() OVER (ORDER BY domain, label) - 1)::INTEGER AS stratum, domain, label,
    (dense_rank() OVER (ORDER BY domain) - 1)::INTEGER AS domain_number
  FROM (SELECT DISTINCT domain, label FROM rows WHERE reason IS NULL);
CREATE TABLE placed AS
  WITH usable AS (
    SELECT rows.rowid AS id, key, whole, stratum, domain_number, coalesce(split, 'train') AS split
    FROM rows JOIN strata USING (domain, label) WHERE reason IS NULL),
  held AS (SELECT key, bool_or(split = 'test') AS in_test FROM usable WHERE split != 'train' GROUP BY key)
  SELECT usable.*, CASE
    WHEN in_test AND split != 'test' THEN '{Reason.IN_TEST}'
    WHEN NOT in_test AND split = 'train' THEN '{Reason.IN_DEV}' END AS reason
  FROM usable LEFT JOIN held USING (key);
CREATE OR REPLACE VIEW dropped AS
  SELECT rowid AS id, file, line, domain, reason FROM rows WHERE reason IS NOT NULL
  UNION ALL SELECT id, file, line, domain, placed.reason FROM placed JOIN rows ON rows.rowid = placed.id
  WHERE placed.reason IS NOT NULL;
"""

_REPEATS = f"""
UPDATE placed
SET reason = CASE WHEN placed.stratum = first.stratum THEN '{Reason.DUPLICATE}' ELSE '{Reason.CONFLICT}' END
FROM (
  SELECT whole, domain_number, min(id) AS id, arg_min(stratum, id) AS stratum
  FROM placed WHERE reason IS NULL GROUP BY whole, domain_number HAVING count(*) > 1) AS first
WHERE placed.whole = first.whole AND placed.domain_number = first.domain_number AND placed.id > first.id
  AND placed.reason IS NULL
"""

_GROUPS = """
CREATE TABLE cut (key UHUGEINT, split VARCHAR);
CREATE TABLE groups AS
  SELECT key, count(*) AS size, min(stratum) AS stratum, md5_number($seed || '/' || key_text(key)) AS position
  FROM placed WHERE reason IS NULL AND split = 'train' GROUP BY key;
"""

_LARGE_GROUPS = """
SELECT key, list(stratum ORDER BY stratum) AS strata, list(count ORDER BY stratum) AS counts
FROM (
  SELECT key, placed.stratum, count(*) AS count, any_value(size) AS size, any_value(position) AS position
  FROM placed JOIN groups USING (key)
  WHERE size > 1 AND reason IS NULL AND split = 'train' GROUP BY key, placed.stratum)
GROUP BY key ORDER BY any_value(size) DESC, any_value(position)
"""

_SINGLES = """
INSERT INTO cut
SELECT key, CASE WHEN number <= dev THEN 'dev' ELSE 'test' END
FROM (
  SELECT key, stratum, row_number() OVER (PARTITION BY stratum ORDER BY position) AS number FROM groups WHERE size = 1)
JOIN quotas USING (stratum) WHERE number <= dev + test
"""

_CUT = """
UPDATE placed SET split = cut.split FROM cut
WHERE placed.key = cut.key AND reason IS NULL AND placed.split = 'train'
"""

# By hash: the rows of a smaller share are among those of a larger one.
_FEW = f"""
UPDATE placed SET reason = '{Reason.NOT_OF_THE_FEW}'
FROM (
  SELECT id, count(*) OVER (PARTITION BY stratum) AS count,
    row_number() OVER (
      PARTITION BY stratum ORDER BY md5_number($seed || '/few-shot/' || key_text(whole)), id) AS number
  FROM placed WHERE reason IS NULL AND split = 'train') AS ranked
WHERE placed.id = ranked.id AND number > greatest(1, floor(count * $fraction::DOUBLE + 0.5))
"""


def split_rows(con: Any, *, dev: float, test: float, dedupe: bool, seed: int) -> None:
    """Give every usable row a split, or the reason why it has none: table ``placed`` (id, stratum, split, reason).

    Splits that the source gives are kept, domain by domain; a domain that has no dev (or test) split gets one cut from
    its train rows. Rows without a split of their own are train rows.

    Args:
        con: connection to a row store.
        dev: share of a domain's rows (of its train rows, where a split is given) that becomes dev.
        test: the same for test.
        dedupe: drop rows that repeat another of their domain.
        seed: of the cuts.
    """
    con.execute(_START)
    if dedupe:
        con.execute(_REPEATS)
    given = "SELECT DISTINCT domain_number, split FROM placed WHERE reason IS NULL AND split != 'train'"
    has = set(con.execute(given).fetchall())
    shares = [
        {"dev": 0 if (domain, "dev") in has else dev, "test": 0 if (domain, "test") in has else test}
        for (domain,) in con.execute("SELECT domain_number FROM strata ORDER BY stratum").fetchall()
    ]
    if any(sum(each.values()) for each in shares):
        _cut(con, shares, seed)


def keep_few(con: Any, fraction: float, seed: int) -> None:
    """Keep a fraction of the train rows of each (domain, label), at least one row of each.

    Args:
        con: connection to a row store whose rows have splits.
        fraction: above 0, at most 1.
        seed: of the choice.
    """
    con.execute(_FEW, {"fraction": fraction, "seed": str(seed)})


class SplitAssigner:
    """Gives groups to the splits that lack most, so that each stratum gets its shares."""

    def __init__(self, shares: Iterable[Mapping[str, float]]) -> None:
        """Start with nothing given out; ``shares`` of dev and test by stratum, of which 0 cannot be cut."""
        self._shares = [{"train": 1 - sum(each.values()), **each} for each in shares]
        # Rows that each split lacks of those given out, by stratum and over all.
        self._lacks = [dict.fromkeys(SPLITS, 0.0) for _ in self._shares]
        self._total = dict.fromkeys(SPLITS, 0.0)

    def place(self, group: Iterable[tuple[int, int]]) -> str:
        """Choose the split of a group: that which lacks most in its strata, and between equals over all.

        Args:
            group: strata and their numbers of rows.
        """
        counts = list(group)
        for stratum, count in counts:
            self._expect(stratum, count)
        # A text that several domains share can only go where all of them lack rows.
        splits = [split for split in SPLITS if all(self._is_open(stratum, split) for stratum, _ in counts)]
        lacks = {split: sum(self._lacks[stratum][split] * count for stratum, count in counts) for split in splits}
        best = self._most(lacks, _TIE * sum(count for _, count in counts))
        for stratum, count in counts:
            self._give(stratum, best, count)
        return best

    def quotas(self, stratum: int, singles: int) -> tuple[int, int]:
        """Return how many of a stratum's groups of one row go to dev and to test."""
        self._expect(stratum, singles)
        given = {split: min(singles, int(max(0.0, lack + _TIE))) for split, lack in self._lacks[stratum].items()}
        while (over := sum(given.values()) - singles) > 0:
            largest = max(given, key=given.__getitem__)
            given[largest] -= min(over, given[largest])
        for split, count in given.items():
            self._give(stratum, split, count)
        for _ in range(singles - sum(given.values())):
            lacks = {split: lack for split, lack in self._lacks[stratum].items() if self._is_open(stratum, split)}
            best = self._most(lacks, _TIE)
            given[best] += 1
            self._give(stratum, best, 1)
        return given["dev"], given["test"]

    def _is_open(self, stratum: int, split: str) -> bool:
        return split == "train" or self._shares[stratum][split] > 0

    def _expect(self, stratum: int, count: int) -> None:
        for split, share in self._shares[stratum].items():
            self._lacks[stratum][split] += share * count
            self._total[split] += share * count

    def _give(self, stratum: int, split: str, count: int) -> None:
        self._lacks[stratum][split] -= count
        self._total[split] -= count

    def _most(self, lacks: dict[str, float], tie: float) -> str:
        least = max(lacks.values()) - tie
        return max((split for split in lacks if lacks[split] > least), key=self._total.__getitem__)


def _cut(con: Any, shares: list[dict[str, float]], seed: int) -> None:
    """Cut from train what a domain lacks."""
    import pyarrow as pa

    con.execute(_GROUPS, {"seed": str(seed)})
    assigner = SplitAssigner(shares)
    # Larger groups first: the single rows that follow even out what they have put out of balance.
    groups = con.cursor().execute(_LARGE_GROUPS)
    while block := groups.fetchmany(_BLOCK):
        splits = [assigner.place(zip(strata, counts, strict=True)) for _, strata, counts in block]
        con.register("block", pa.table({"key": [str(key) for key, _, _ in block], "split": splits}))
        con.execute("INSERT INTO cut SELECT key::UHUGEINT, split FROM block WHERE split != 'train'")
    singles = con.execute("SELECT stratum, count(*) FROM groups WHERE size = 1 GROUP BY stratum ORDER BY stratum")
    quotas = [(stratum, *assigner.quotas(stratum, count)) for stratum, count in singles.fetchall()]
    columns = zip(*quotas, strict=True) if quotas else ((), (), ())
    arrays = [pa.array(column, pa.int64()) for column in columns]
    con.register("quotas", pa.table(arrays, names=["stratum", "dev", "test"]))
    con.execute(_SINGLES)
    con.execute(_CUT)
