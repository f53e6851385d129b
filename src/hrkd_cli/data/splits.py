"""Which split each row goes to: texts of one split out of the others, duplicates out, what is missing cut from train.

A *group* is all rows with the same first text, of whatever domain: a group never lies on two sides of a cut, so that no
model is tested on a text that it was trained on. A *stratum* is a domain and a label.

The cut is a systematic sample: groups are put in order of stratum and size, equal ones by a hash of seed and text, and
one is taken wherever the share, added up along that order, passes another whole number. So the groups of one size in a
stratum, and all groups of a domain, give their share to within one group, whatever the order of the rows.
"""

from __future__ import annotations

from typing import Any

from hrkd_cli.data.sources.values import Reason

_LEAKS = f"""
INSERT INTO left_out
SELECT id, CASE WHEN in_test THEN '{Reason.IN_TEST}' ELSE '{Reason.IN_DEV}' END
FROM placed JOIN (
  SELECT key, bool_or(split = 'test') AS in_test FROM placed WHERE reason IS NULL AND split != 'train' GROUP BY key)
USING (key)
WHERE reason IS NULL AND CASE WHEN in_test THEN split != 'test' ELSE split = 'train' END
"""

_REPEATS = f"""
INSERT INTO left_out
SELECT id, CASE WHEN label = first_label THEN '{Reason.DUPLICATE}' ELSE '{Reason.CONFLICT}' END
FROM (
  SELECT id, label, first_value(label) OVER same AS first_label, row_number() OVER same AS number
  FROM placed SEMI JOIN (SELECT whole FROM rows WHERE reason IS NULL GROUP BY whole HAVING count(*) > 1) USING (whole)
  WHERE reason IS NULL WINDOW same AS (PARTITION BY whole, domain ORDER BY id))
WHERE number > 1
"""

# Given splits stay, so a domain that has one is not cut for it, nor is a text that such a domain shares.
_CUT = """
CREATE MACRO taken(number, share) AS floor(number * share + 0.5);
INSERT INTO cut
WITH counts AS (
  SELECT domain, label, count(*) FILTER (split = 'train') AS train, count(*) FILTER (split = 'dev') AS dev,
    count(*) FILTER (split = 'test') AS test
  FROM placed WHERE reason IS NULL GROUP BY domain, label),
strata AS (
  SELECT domain, label, row_number() OVER (ORDER BY domain, label) AS stratum, sum(train) OVER own AS rows,
    CASE WHEN sum(dev) OVER own > 0 THEN 0 ELSE $dev::DOUBLE END AS dev,
    CASE WHEN sum(test) OVER own > 0 THEN 0 ELSE $test::DOUBLE END AS test
  FROM counts WINDOW own AS (PARTITION BY domain)),
groups AS (
  SELECT key, count(*) AS size, min(stratum) AS stratum, min(rows) AS rows, min(dev) AS dev, min(test) AS test,
    min(dev) + min(test) AS share
  FROM placed JOIN strata USING (domain, label) WHERE reason IS NULL AND split = 'train' GROUP BY key),
numbered AS (  -- without groups that are larger than all that should be held out
  SELECT key, share, test / share AS test_share,
    row_number() OVER (ORDER BY dev, test, stratum, size, md5_number($seed || '/' || key_text(key))) AS number
  FROM groups WHERE share > 0 AND size <= greatest(1, share * rows)),
held_out AS (
  SELECT key, test_share, taken(number, share) AS number
  FROM numbered WHERE taken(number, share) > taken(number - 1, share))
SELECT key, CASE WHEN taken(number, test_share) > taken(number - 1, test_share) THEN 'test' ELSE 'dev' END
FROM held_out;
"""

_KEEP_ONE_IN_TRAIN = """
DELETE FROM cut WHERE key IN (
  SELECT min(cut.key) FROM placed LEFT JOIN cut USING (key) WHERE reason IS NULL
  GROUP BY domain, label HAVING NOT bool_or(placed.split = 'train'))
"""

# By hash: the rows of a smaller share are among those of a larger one.
_FEW = f"""
INSERT INTO left_out
SELECT id, '{Reason.NOT_OF_THE_FEW}'
FROM (
  SELECT id, count(*) OVER (PARTITION BY domain, label) AS count,
    row_number() OVER (
      PARTITION BY domain, label ORDER BY md5_number($seed || '/few-shot/' || key_text(whole)), id) AS number
  FROM placed WHERE reason IS NULL AND split = 'train')
WHERE number > greatest(1, floor(count * $fraction::DOUBLE + 0.5))
"""


def split_rows(con: Any, *, dev: float, test: float, dedupe: bool, seed: int) -> None:
    """Give every usable row a split, or the reason why it has none; see the view ``placed``.

    Splits that the source gives are kept, domain by domain; a domain that has no dev (or test) split gets one cut from
    its train rows. Rows without a split of their own are train rows.

    Args:
        con: connection to a row store.
        dev: share of a domain's train rows that becomes dev.
        test: the same for test.
        dedupe: drop rows that repeat another of their domain.
        seed: of the cuts.
    """
    con.execute(_LEAKS)
    if dedupe:
        con.execute(_REPEATS)
    if dev or test:
        con.execute(_CUT, {"dev": dev, "test": test, "seed": str(seed)})
        con.execute(_KEEP_ONE_IN_TRAIN)


def keep_few(con: Any, fraction: float, seed: int) -> int:
    """Keep a fraction of the train rows of each (domain, label), at least one row of each.

    Args:
        con: connection to a row store whose rows have splits.
        fraction: above 0, at most 1.
        seed: of the choice.

    Returns:
        The number of rows that are left out.
    """
    removed: int = con.execute(_FEW, {"fraction": fraction, "seed": str(seed)}).fetchone()[0]
    return removed
