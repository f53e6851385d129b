import random
from collections import Counter, namedtuple

import pyarrow as pa
import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.row_store import PAIR_HASH, TEXT_HASH, normalize_text, open_row_store
from hrkd_cli.data.splits import assign_splits, subsample_train

Example = namedtuple("Example", "text text_pair label domain split line")
Splits = namedtuple("Splits", "rows dropped")


def example(text, label="x", domain="d", split=None, pair=None, line=0):
    return Example(text, pair, label, domain, split, line)


def fill(store, rows):
    values = [["file", row.line, row.text, row.text_pair, row.label, row.domain, row.split] for row in rows]
    columns = [list(column) for column in zip(*values, strict=True)]
    names = ("file", "line", "text", "text_pair", "label", "domain", "split")
    texts = [pa.array(column, pa.int64() if n == 1 else pa.string()) for n, column in enumerate(columns)]
    store.connection.register("given", pa.table(dict(zip(names, texts, strict=True))))
    input_hash = PAIR_HASH if any(row.text_pair for row in rows) else TEXT_HASH
    store.connection.execute(f"INSERT INTO rows SELECT *, {TEXT_HASH}, {input_hash}, NULL FROM given")


def run(rows, dev=0.1, test=0.1, dedupe=True, seed=0, few=None):
    """Split rows in a store: return rows by domain and split in their order, and (reason, row) of dropped ones."""
    with open_row_store("rows") as store:
        fill(store, rows)
        assign_splits(store.connection, dev=dev, test=test, dedupe=dedupe, seed=seed)
        if few is not None:
            subsample_train(store.connection, few, seed)
        found, dropped = {}, []
        for number, split, reason in store.connection.execute(
            "SELECT id, split, drop_reason FROM final_rows ORDER BY id"
        ).fetchall():
            row = rows[number]
            if reason is None:
                found.setdefault(row.domain, {}).setdefault(split, []).append(row)
            else:
                dropped.append((reason, row))
        return Splits(found, dropped)


def few_shot(rows, fraction, seed):
    return run(rows, dev=0, test=0, dedupe=False, seed=seed, few=fraction).rows["d"]["train"]


def sizes(parts):
    return {split: len(rows) for split, rows in parts.items()}


def reasons(splits):
    return Counter(reason for reason, _ in splits.dropped)


def splits_of_texts(splits):
    """Splits in which each normalized first text occurs."""
    found = {}
    for parts in splits.rows.values():
        for split, rows in parts.items():
            for row in rows:
                found.setdefault(normalize_text(row.text), set()).add(split)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_rows_are_split_80_10_10(seed):
    splits = run([example(f"t{i}") for i in range(100)], seed=seed)
    assert sizes(splits.rows["d"]) == {"train": 80, "dev": 10, "test": 10}


def test_each_domain_and_label_is_split_in_proportion():
    rows = [example(f"{d}{label}{i}", label, d) for d in "ab" for label, n in (("x", 40), ("y", 200)) for i in range(n)]
    splits = run(rows)
    for domain in "ab":
        for split, x, y in (("train", 32, 160), ("dev", 4, 20), ("test", 4, 20)):
            assert Counter(row.label for row in splits.rows[domain][split]) == {"x": x, "y": y}


def test_tiny_strata_do_not_all_lack_the_same_split():
    # One of five in each domain, and of those every other one is test.
    rows = [example(f"{d:02}/{i}", domain=f"{d:02}") for d in range(20) for i in range(5)]
    for number, (_, parts) in enumerate(sorted(run(rows).rows.items())):
        assert sizes(parts) == {"train": 4, ("test", "dev")[number % 2]: 1}


@pytest.mark.parametrize(
    ("rows", "dev", "test", "expected"),
    [(2, 0.1, 0.1, (2, 0, 0)), (3, 0.1, 0.1, (2, 0, 1)), (7, 0.1, 0.1, (6, 0, 1)), (8, 0.1, 0.1, (6, 1, 1)),
     (10, 0.29, 0, (7, 3, 0)), (9, 0.25, 0.5, (2, 2, 5)), (100, 0.07, 0.14, (79, 7, 14))],
)  # fmt: skip
def test_the_number_of_rows_held_out_is_rounded(rows, dev, test, expected):
    parts = run([example(f"t{i}") for i in range(rows)], dev=dev, test=test).rows["d"]
    assert tuple(len(parts.get(split, ())) for split in ("train", "dev", "test")) == expected


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_one_size_give_their_fraction_to_within_one_group(seed):
    choose = random.Random(seed)
    sizes_of = {f"t{i}": choose.choice([1, 1, 2, 3, 5]) for i in range(400)}
    stratum = {text: (choose.choice("xyz"), choose.choice("ab")) for text in sizes_of}
    rows = [example(text, *stratum[text], pair=str(n)) for text, size in sizes_of.items() for n in range(size)]
    held = {text for text, found in splits_of_texts(run(rows, seed=seed)).items() if found != {"train"}}
    cells = Counter((stratum[text], size) for text, size in sizes_of.items())
    taken = Counter((stratum[text], sizes_of[text]) for text in held)
    assert all(abs(taken[cell] - 0.2 * count) < 1 for cell, count in cells.items())
    for domain in "ab":
        count = sum(stratum[text][1] == domain for text in sizes_of)
        assert abs(sum(stratum[text][1] == domain for text in held) - 0.2 * count) < 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.1, 0.45])
def test_each_label_stays_in_train(seed, share):
    rows = [example(f"t{i}") for i in range(20)] + [example(f"{name}{n}", name) for name in "yz" for n in (0, 1)]
    rows += [example("of two", label, "e") for label in "xy"] + [example("of two domains", "x", d) for d in "de"]
    splits = run([*rows, example("single", "rare")], dev=share, test=share, dedupe=False, seed=seed)
    assert {row.label for row in splits.rows["d"]["train"]} == {"x", "y", "z", "rare"}
    assert {row.label for row in splits.rows["e"]["train"]} == {"x", "y"}


def test_the_seed_changes_the_rows_but_not_their_number():
    rows = [example(f"t{i}") for i in range(50)]
    one, again, other = run(rows, seed=1), run(rows, seed=1), run(rows, seed=2)
    assert one == again
    assert sizes(one.rows["d"]) == sizes(other.rows["d"])
    assert one.rows["d"]["test"] != other.rows["d"]["test"]


def test_rows_stay_in_their_order():
    rows = [example(f"t{i}", line=i) for i in range(50)]
    for part in run(rows).rows["d"].values():
        assert [row.line for row in part] == sorted(row.line for row in part)


def test_equal_first_texts_stay_in_one_split_across_domains():
    rows = [
        example(f"Premise {i % 60}", domain=d, pair=f"{d} hypothesis {i}", label="xyz"[i % 3])
        for i in range(180)
        for d in "ab"
    ]
    splits = run(rows, dedupe=False)
    assert all(len(found) == 1 for found in splits_of_texts(splits).values())
    assert dict(sum((Counter(sizes(parts)) for parts in splits.rows.values()), Counter())) == {
        "train": 288,
        "dev": 36,
        "test": 36,
    }


def test_duplicates_have_equal_pairs_within_a_domain():
    rows = [
        example("A  b", pair="p"),
        example("a B", pair="P"),
        example("a b", pair="p", label="y"),
        example("a b", pair="other"),
        example("a b", pair="p", domain="e"),
    ]
    splits = run(rows, dev=0, test=0)
    assert reasons(splits) == {DropReason.DUPLICATE: 1, DropReason.CONFLICTING_DUPLICATE: 1}
    assert [row.text_pair for row in splits.rows["d"]["train"]] == ["p", "other"]
    assert splits.rows["d"]["train"][0].text == "A  b"
    assert sizes(splits.rows["e"]) == {"train": 1}
    assert not run(rows, dev=0, test=0, dedupe=False).dropped


@pytest.mark.parametrize("dedupe", [True, False])
def test_texts_of_the_sources_test_and_dev_are_dropped_from_other_splits_across_domains(dedupe):
    rows = [
        example("In Test", split="test"),
        example("in test", split="train"),
        example("in test", split="dev", domain="e"),
        example("in dev", split="dev"),
        example("In dev", split=None, domain="e"),
        example("kept", split="train"),
        example("kept too", split="train", domain="e"),
    ]
    splits = run(rows, dev=0, test=0, dedupe=dedupe)
    assert reasons(splits) == {DropReason.IN_TEST: 2, DropReason.IN_DEV: 1}
    assert sizes(splits.rows["d"]) == {"train": 1, "dev": 1, "test": 1}
    assert sizes(splits.rows["e"]) == {"train": 1}


def test_a_missing_dev_is_cut_from_train_and_the_sources_test_is_kept():
    rows = [example(f"t{i}", split="train") for i in range(100)] + [example(f"x{i}", split="test") for i in range(30)]
    assert sizes(run(rows).rows["d"]) == {"train": 90, "dev": 10, "test": 30}


def test_a_missing_test_is_cut_from_train_and_the_sources_dev_is_kept():
    rows = [example(f"t{i}") for i in range(100)] + [example(f"x{i}", split="dev") for i in range(30)]
    assert sizes(run(rows, test=0.2).rows["d"]) == {"train": 80, "dev": 30, "test": 20}


def test_only_missing_splits_are_cut_and_texts_shared_with_other_domains_stay_in_train():
    shared = [f"shared {i}" for i in range(100)]
    rows = [example(text, domain=d) for text in shared for d in ("has", "lacks")]
    rows += [example(f"own {i}", domain="lacks") for i in range(100)]
    rows += [example("a", domain="has", split="dev"), example("b", domain="has", split="test")]
    splits = run(rows)
    assert sizes(splits.rows["has"]) == {"train": 100, "dev": 1, "test": 1}
    assert sizes(splits.rows["lacks"]) == {"train": 180, "dev": 10, "test": 10}
    assert all(row.text.startswith("own") for row in splits.rows["lacks"]["test"])


def test_a_source_with_only_a_test_split_gets_no_other():
    assert sizes(run([example("a", split="test"), example("b", "y", split="test")]).rows["d"]) == {"test": 2}


def test_few_shot_is_stratified_nested_and_never_empty():
    rows = [example(f"{label}{i}", label) for label, n in (("x", 100), ("y", 40), ("z", 3)) for i in range(n)]
    kept = {fraction: few_shot(rows, fraction, seed=3) for fraction in (0.05, 0.1, 0.5, 1.0)}
    assert Counter(row.label for row in kept[0.05]) == {"x": 5, "y": 2, "z": 1}
    assert Counter(row.label for row in kept[0.1]) == {"x": 10, "y": 4, "z": 1}
    assert set(kept[0.05]) < set(kept[0.1]) < set(kept[0.5]) < set(kept[1.0])
    assert kept[1.0] == rows
    assert few_shot(rows, 0.1, seed=3) == kept[0.1] != few_shot(rows, 0.1, seed=4)


def placement(splits):
    return {
        row: (domain, split) for domain, parts in splits.rows.items() for split, rows in parts.items() for row in rows
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_split_of_a_text_does_not_depend_on_the_order_of_the_rows(seed):
    rows = [example(f"t{i}", "xyz"[i % 3], "ab"[i % 2], line=i) for i in range(200)]
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert placement(run(rows, test=0.2, seed=seed)) == placement(run(shuffled, test=0.2, seed=seed))
    few = (placement(run(order, dev=0, test=0, seed=seed, few=0.2)) for order in (rows, shuffled))
    assert next(few) == next(few)


def test_a_text_with_more_rows_than_are_held_out_stays_in_train():
    # 10^5 rows: quadratic work would take too long.
    rows = [example("same premise" if i % 2 else f"t{i}", "xy"[i % 3 % 2], pair=str(i)) for i in range(100_000)]
    splits = run(rows)
    assert sum(sizes(splits.rows["d"]).values()) == 100_000
    assert splits_of_texts(splits)["same premise"] == {"train"}
    # The place of this group, 53rd and last, is one that would be held out.
    rows = [example("same premise" if i < 48 else f"t{i}", pair=str(i)) for i in range(100)]
    splits = run(rows)
    assert splits_of_texts(splits)["same premise"] == {"train"}
    assert sizes(splits.rows["d"]) == {"train": 90, "dev": 5, "test": 5}


def messy(seed):
    """Rows with repeats, pairs, splits of their own in some domains, and texts that several domains share."""
    choose = random.Random(seed)
    domains = choose.choice(["a", "ab", "abcde"])
    has_pairs, has_splits = choose.random() < 0.4, choose.random() < 0.5
    rows = []
    for line in range(choose.choice([1, 7, 60, 700])):
        domain = choose.choice(domains)
        split = choose.choice([None, "train", "dev", "test"]) if has_splits and domain in "ac" else None
        text = choose.choice(["Text {}", "text  {}", "TEXT {}\u00a0"]).format(
            choose.randrange(choose.choice([20, 2000]))
        )
        pair = f"pair {choose.randrange(3)}" if has_pairs else None
        rows.append(example(text, choose.choice("xyz"), domain, split, pair, line))
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_no_text_is_in_two_splits_and_no_row_is_lost(seed):
    rows, choose = messy(seed), random.Random(-seed)
    dedupe = choose.random() < 0.7
    splits = run(rows, dev=choose.choice([0, 0.1, 0.25]), test=choose.choice([0, 0.1, 0.3]), dedupe=dedupe, seed=seed)
    assert all(len(found) == 1 for found in splits_of_texts(splits).values())
    kept = sum(len(part) for parts in splits.rows.values() for part in parts.values())
    assert kept + len(splits.dropped) == len(rows)
    if dedupe:
        for parts in splits.rows.values():
            keys = [
                (normalize_text(r.text), normalize_text(r.text_pair or "")) for part in parts.values() for r in part
            ]
            assert len(keys) == len(set(keys))
    for parts in splits.rows.values():
        for split, part in parts.items():
            assert all(row.split in (None, "train", split) for row in part)
