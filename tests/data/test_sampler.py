import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from hrkd_cli.data.sampler import DomainBatchSampler, ShuffledStream


def test_each_pass_is_another_permutation():
    stream = ShuffledStream("books", range(20), seed=1)
    first, second = stream.take(20), stream.take(20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_the_order_depends_on_seed_and_domain():
    assert ShuffledStream("books", range(20), seed=1).take(45) == ShuffledStream("books", range(20), seed=1).take(45)
    assert ShuffledStream("books", range(20), seed=1).take(20) != ShuffledStream("books", range(20), seed=2).take(20)
    assert ShuffledStream("books", range(20), seed=1).take(20) != ShuffledStream("dvd", range(20), seed=1).take(20)


def test_the_order_does_not_depend_on_the_hash_seed():
    code = "from hrkd_cli.data.sampler import ShuffledStream; print(ShuffledStream('books', range(9), 3).take(20))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] == runs[1]


def test_each_epoch_has_every_row_of_every_domain():
    sampler = DomainBatchSampler({"big": 10, "small": 3}, batch_size=4, seed=0)
    assert sampler.batches_per_epoch == 3
    for _ in range(3):
        batches = list(islice(sampler, sampler.batches_per_epoch))
        for domain, rows in (("big", 10), ("small", 3)):
            assert all(len(batch[domain]) == 4 for batch in batches)
            assert {row for batch in batches for row in batch[domain]} == set(range(rows))


@pytest.mark.parametrize("by_length", [False, True])
def test_skipping_batches_gives_the_same_batches_as_drawing_them(by_length):
    rows = {"a": 50, "b": 13, "c": 5}
    lengths = {name: [(7 * n) % 11 for n in range(count)] for name, count in rows.items()} if by_length else None
    sampler, other = (
        DomainBatchSampler(rows, batch_size=3, seed=5, lengths=lengths) for _ in range(2)
    )  # fmt: skip
    list(islice(sampler, 24))
    other.skip(24)
    assert list(islice(other, 40)) == list(islice(sampler, 40))


def test_grouping_by_length_keeps_the_rows_of_an_epoch_and_saves_padding():
    rows = {"a": 200, "b": 90}
    lengths = {name: [(37 * n) % 101 for n in range(count)] for name, count in rows.items()}
    ungrouped = DomainBatchSampler(rows, batch_size=4, seed=5)
    grouped = DomainBatchSampler(rows, batch_size=4, seed=5, lengths=lengths)

    def padding(batch):
        own = [lengths[domain][row] for domain in batch for row in batch[domain]]
        return max(own) * len(own) - sum(own)

    for _ in range(2):
        epochs = [list(islice(s, s.batches_per_epoch)) for s in (ungrouped, grouped)]
        for name in rows:
            before, after = (sorted(row for batch in epoch for row in batch[name]) for epoch in epochs)
            assert before == after
        waste = [sum(map(padding, epoch)) for epoch in epochs]
        assert waste[1] < waste[0] / 3  # padding, over all domains of a batch
    shortest = [min(lengths[n][r] for n in batch for r in batch[n]) for batch in epochs[1]]
    assert shortest != sorted(shortest)  # the batches themselves are shuffled


@pytest.mark.parametrize("rows", [8, 12, 40])
def test_grouping_by_length_puts_no_row_twice_into_a_batch_of_a_small_domain(rows):
    lengths = {"large": [n % 50 for n in range(2000)], "small": [n % 9 for n in range(rows)]}
    sizes = {name: len(own) for name, own in lengths.items()}
    batches = islice(DomainBatchSampler(sizes, batch_size=4, seed=1, lengths=lengths), 500)
    repeated = [batch for batch in batches if len(set(batch["small"])) < 4]
    assert len(repeated) <= 500 / rows  # only where one pass ends and the next begins


@pytest.mark.parametrize("lengths", [False, True])
def test_unlabeled_rows_are_added_to_the_unchanged_labeled_ones(lengths):
    rows, unlabeled = {"a": 40, "b": 24, "c": 10}, {"a": 30, "b": 5}
    sizes = {d: [1 + i * 7 % 13 for i in range(n + unlabeled.get(d, 0))] for d, n in rows.items()} if lengths else None
    options = {"batch_size": 4, "seed": 3}
    mixed = DomainBatchSampler(rows, **options, lengths=sizes, unlabeled=unlabeled, unlabeled_fraction=0.5)
    plain = DomainBatchSampler(rows, **options, lengths=sizes)
    assert mixed.batches_per_epoch == plain.batches_per_epoch == 10
    drawn = [next(mixed) for _ in range(30)]
    for batch, alone in zip(drawn, (next(plain) for _ in drawn), strict=True):
        # The labeled rows are those of a run without unlabeled ones, and come first.
        assert {d: chosen[:4] for d, chosen in batch.items()} == alone
        assert {d: len(chosen) for d, chosen in batch.items()} == {"a": 8, "b": 8, "c": 4}
        assert all(row >= rows[d] for d, chosen in batch.items() for row in chosen[4:])
    for domain, count in unlabeled.items():
        seen = Counter(row for batch in drawn for row in batch[domain][4:])
        assert set(seen) == set(range(rows[domain], rows[domain] + count))
        assert sum(seen.values()) == 120
        # Whole passes, one after the other (a window of batches may be regrouped before its end).
        assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.75])
def test_the_unlabeled_fraction_holds_over_many_batches(fraction):
    rows, unlabeled = {"a": 90, "b": 9}, {"a": 11, "b": 200}
    sampler = DomainBatchSampler(rows, batch_size=3, seed=1, unlabeled=unlabeled, unlabeled_fraction=fraction)
    labeled = extra = 0
    for _ in range(500):
        batch = next(sampler)
        labeled += sum(row < rows[d] for d, chosen in batch.items() for row in chosen)
        extra += sum(row >= rows[d] for d, chosen in batch.items() for row in chosen)
        # Never off by more than half a row per domain.
        assert abs(extra - labeled * fraction / (1 - fraction)) <= 1.0001
    assert extra / (labeled + extra) == pytest.approx(fraction, abs=0.001)


def test_skipping_batches_with_unlabeled_rows_gives_the_same_batches():
    lengths = {"a": list(range(50)), "b": list(range(17))}
    options = {"batch_size": 3, "seed": 4, "lengths": lengths, "unlabeled_fraction": 0.4}
    one, other = (DomainBatchSampler({"a": 20, "b": 17}, unlabeled={"a": 30}, **options) for _ in range(2))
    batches = [next(one) for _ in range(40)]
    other.skip(23)
    assert [next(other) for _ in range(17)] == batches[23:]


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_domain_without_labeled_rows_has_unlabeled_ones_in_every_batch(fraction):
    rows, unlabeled = {"a": 8, "b": 0, "c": 6}, {"a": 5, "b": 40}
    options = {"batch_size": 4, "seed": 3, "unlabeled_fraction": fraction}
    lengths = {d: [1 + i * 7 % 13 for i in range(n + unlabeled.get(d, 0))] for d, n in rows.items()}
    one, other = (DomainBatchSampler(rows, **options, lengths=lengths, unlabeled=unlabeled) for _ in range(2))
    labeled = DomainBatchSampler({"a": 8, "c": 6}, batch_size=4, seed=3)
    assert one.batches_per_epoch == labeled.batches_per_epoch  # epochs are counted in labeled rows
    batches = list(islice(one, 10))
    assert [list(batch) for batch in batches] == [["a", "b", "c"]] * 10
    assert all(len(batch["b"]) == 4 for batch in batches)
    assert sorted(row for batch in batches for row in batch["b"]) == list(range(40))  # a pass goes on in later epochs
    other.skip(3)
    assert list(islice(other, 7)) == batches[3:]
