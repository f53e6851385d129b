"""Splitting: remove texts that leak from dev or test and duplicates, then cut missing splits from train.

A *group* is all rows with the same first text, in any domain. A group is never divided between splits, so that no
model is tested on a text it was trained on. A *stratum* is a domain and a label.

Splits are cut by systematic sampling: groups are sorted by stratum and size, equal ones by a hash of seed and text, and
a group is held out each time the running total of the fraction passes a whole number. So the groups of one size in a
stratum, and all groups of a domain, give their fraction to within one group, regardless of the order of the rows.
"""

from __future__ import annotations

from typing import Any

from hrkd_cli.data.drop_reasons import DropReason

# A text of test is dropped from train and dev, a text of dev from train.
_DROP_LEAKS = f"""
INSERT INTO dropped_rows
WITH held_out_texts AS (
  SELECT text_hash, bool_or(split = 'test') AS in_test
  FROM final_rows WHERE drop_reason IS NULL AND split != 'train' GROUP BY text_hash)
SELECT id, CASE WHEN in_test THEN '{DropReason.IN_TEST}' ELSE '{DropReason.IN_DEV}' END
FROM final_rows JOIN held_out_texts USING (text_hash)
WHERE drop_reason IS NULL AND CASE WHEN in_test THEN split != 'test' ELSE split = 'train' END
"""

_DROP_DUPLICATES = f"""
INSERT INTO dropped_rows
WITH repeated_inputs AS (
  SELECT input_hash FROM rows WHERE drop_reason IS NULL GROUP BY input_hash HAVING count(*) > 1),
repeats AS (
  SELECT id, label, first_value(label) OVER same_input AS first_label, row_number() OVER same_input AS occurrence
  FROM final_rows SEMI JOIN repeated_inputs USING (input_hash)
  WHERE drop_reason IS NULL
  WINDOW same_input AS (PARTITION BY input_hash, domain ORDER BY id))
SELECT id, CASE WHEN label = first_label THEN '{DropReason.DUPLICATE}' ELSE '{DropReason.CONFLICTING_DUPLICATE}' END
FROM repeats WHERE occurrence > 1
"""

# Splits of the source are kept: nothing is cut from a domain that has the split, and no text shared with such a domain.
_CUT_SPLITS = """
CREATE MACRO rounded(number, fraction) AS floor(number * fraction + 0.5);
INSERT INTO assigned_splits
WITH counts AS (
  SELECT domain, label, count(*) FILTER (split = 'train') AS train, count(*) FILTER (split = 'dev') AS dev,
    count(*) FILTER (split = 'test') AS test
  FROM final_rows WHERE drop_reason IS NULL GROUP BY domain, label),
strata AS (
  SELECT domain, label, row_number() OVER (ORDER BY domain, label) AS stratum,
    sum(train) OVER same_domain AS train_rows,
    CASE WHEN sum(dev) OVER same_domain > 0 THEN 0 ELSE $dev::DOUBLE END AS dev,
    CASE WHEN sum(test) OVER same_domain > 0 THEN 0 ELSE $test::DOUBLE END AS test
  FROM counts WINDOW same_domain AS (PARTITION BY domain)),
groups AS (
  SELECT text_hash, count(*) AS size, min(stratum) AS stratum, min(train_rows) AS train_rows, min(dev) AS dev,
    min(test) AS test, min(dev) + min(test) AS held_out
  FROM final_rows JOIN strata USING (domain, label)
  WHERE drop_reason IS NULL AND split = 'train' GROUP BY text_hash),
numbered AS (  -- without groups larger than all rows to hold out
  SELECT text_hash, held_out, test / held_out AS test_fraction,
    row_number() OVER (
      ORDER BY dev, test, stratum, size, md5_number($seed || '/' || hash_to_text(text_hash))) AS number
  FROM groups WHERE held_out > 0 AND size <= greatest(1, held_out * train_rows)),
sampled AS (
  SELECT text_hash, test_fraction, rounded(number, held_out) AS number
  FROM numbered WHERE rounded(number, held_out) > rounded(number - 1, held_out))
SELECT text_hash,
  CASE WHEN rounded(number, test_fraction) > rounded(number - 1, test_fraction) THEN 'test' ELSE 'dev' END
FROM sampled;
"""

_KEEP_ONE_IN_TRAIN = """
DELETE FROM assigned_splits WHERE text_hash IN (
  SELECT min(assigned_splits.text_hash) FROM final_rows LEFT JOIN assigned_splits USING (text_hash)
  WHERE drop_reason IS NULL
  GROUP BY domain, label HAVING NOT bool_or(final_rows.split = 'train'))
"""

# By hash: a smaller sample is a subset of a larger one.
_SUBSAMPLE_TRAIN = f"""
INSERT INTO dropped_rows
WITH numbered AS (
  SELECT id, count(*) OVER (PARTITION BY domain, label) AS stratum_rows,
    row_number() OVER (
      PARTITION BY domain, label
      ORDER BY md5_number($seed || '/few-shot/' || hash_to_text(input_hash)), id) AS number
  FROM final_rows WHERE drop_reason IS NULL AND split = 'train')
SELECT id, '{DropReason.FEW_SHOT}'
FROM numbered WHERE number > greatest(1, floor(stratum_rows * $fraction::DOUBLE + 0.5))
"""


def assign_splits(connection: Any, *, dev: float, test: float, dedupe: bool, seed: int) -> None:
    """Give each usable row of a row store a split or a drop reason, in the view ``final_rows``.

    Splits of the source are kept, domain by domain; a domain without a dev (or test) split gets one cut from its train
    rows, ``dev`` (or ``test``) as a fraction of them. Rows without a split are train rows. ``dedupe`` drops rows that
    repeat another row of their domain.
    """
    connection.execute(_DROP_LEAKS)
    if dedupe:
        connection.execute(_DROP_DUPLICATES)
    if dev or test:
        connection.execute(_CUT_SPLITS, {"dev": dev, "test": test, "seed": str(seed)})
        connection.execute(_KEEP_ONE_IN_TRAIN)


def subsample_train(connection: Any, fraction: float, seed: int) -> int:
    """Keep a fraction of the train rows of each domain and label, at least one, and return the number dropped."""
    dropped: int = connection.execute(_SUBSAMPLE_TRAIN, {"fraction": fraction, "seed": str(seed)}).fetchone()[0]
    return dropped
