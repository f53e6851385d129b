"""``--batch-size auto``: the largest size that memory holds."""

import json

import numpy as np
import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.teach import teach
from hrkd_cli.training.auto_batch_size import resolve_batch_size
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import LossOutput, Objective
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.tokenized_split import TokenizedSplit

LENGTHS = {"a": (3, 9, 5), "b": (2,)}
OUT_OF_MEMORY = {
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


class RowsAsBatches:
    """Makes batches that are their row numbers; some of the rows of a have no label."""

    def __init__(self, labeled):
        self.context = None
        examples = {domain: [TokenizedExample(np.zeros(n), []) for n in own] for domain, own in LENGTHS.items()}
        self.split = TokenizedSplit(None, examples, {"a": np.zeros(labeled), "b": np.zeros(1)})

    def __call__(self, rows):
        return rows


class Limited(Objective):
    """Runs out of memory above a number of rows."""

    def __init__(self, holds, error=OUT_OF_MEMORY["cpu"], labeled=3):
        self.collator = RowsAsBatches(labeled)
        self.module = torch.nn.Linear(1, 1)
        self.modules = [self.module]
        self.holds, self.error, self.seen = holds, error, []

    def loss(self, rows):
        self.seen.append(rows)
        if sum(map(len, rows.values())) > self.holds:
            raise self.error()
        return LossOutput(self.module(torch.ones(1)).sum())


def find(tmp_path, objective, size="auto", processes=SINGLE_PROCESS, resume=False, **more):
    notes = []
    checkpoint = Checkpointer(tmp_path, SINGLE_PROCESS, {}, resume=resume)
    context = TrainContext(PrecisionPolicy(Precision.FP32, torch.device("cpu")), processes, notes.append)
    objective.collator.context = context
    found = resolve_batch_size(TrainingSettings(batch_size=size), objective, checkpoint, **more)  # fmt: skip
    assert objective.module.weight.grad is None
    return found, notes, checkpoint


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize(("holds", "size"), [(10**9, 32), (63, 16), (16, 8), (2, 1)])
def test_the_largest_power_of_two_that_fits(tmp_path, holds, size, error):
    objective = Limited(holds, error)
    found, notes, _ = find(tmp_path, objective)
    assert found == size
    assert f"--batch-size auto: {size} rows" in notes[-1].text
    assert objective.seen[-1]["a"] == ([1, 2, 0] * 11)[:size]  # the longest first


def test_nothing_fits(tmp_path):
    with pytest.raises(TrainingError, match="not even one row of each domain fits in memory"):
        find(tmp_path, Limited(1))


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        find(tmp_path, Limited(1, lambda: RuntimeError("shapes do not match")))


def test_a_number_is_taken_as_it_is(tmp_path):
    objective = Limited(1)
    assert find(tmp_path, objective, 12)[:2] == (12, [])
    assert objective.seen == []


def test_a_step_smaller_than_the_processes_is_refused(tmp_path):
    find(tmp_path, Limited(1), 2, ProcessGroup(0, 4))
    with pytest.raises(UsageError, match="a step has 2 rows, fewer than processes"):
        find(tmp_path, Limited(1), 1, ProcessGroup(0, 3))


def test_rows_on_top_count(tmp_path):
    objective = Limited(12, labeled=2)
    assert find(tmp_path, objective, unlabeled_fraction=0.75)[0] == 2  # 2 + 6 of a, 2 of b


def test_what_was_found_is_remembered(tmp_path):
    _, _, checkpoint = find(tmp_path, Limited(16))
    checkpoint.save(1)
    objective = Limited(4)
    assert find(tmp_path, objective, resume=True)[:2] == (8, [])
    assert objective.seen == []


def test_processes_agree_on_the_smallest_and_none_waits(tmp_path, monkeypatch):
    """Sums over processes are left out of the trials: a process that ran out of memory would not answer."""
    processes, objective = ProcessGroup(0, 2), Limited(16)
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, size: [size, 4])
    loss = objective.loss
    objective.loss = lambda rows: processes.all_reduce(torch.ones(3)) is not None and loss(rows)
    assert find(tmp_path, objective, processes=processes)[0] == 4
    with pytest.raises((RuntimeError, ValueError)):  # and only there
        processes.all_reduce(torch.ones(3))


def test_auto_trains_and_is_recorded(tmp_path, encoder, dataset, monkeypatch):
    tried, dry_run = [], Objective.dry_run

    def watch(objective, rows):
        tried.append(objective.modules[0].training)
        dry_run(objective, rows)

    monkeypatch.setattr(Objective, "dry_run", watch)
    result = teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, batch_size="auto", max_length=16)
    assert result.steps == 2  # 48 rows a domain in steps of 32
    assert json.loads((tmp_path / "t" / "hrkd.json").read_text())["options"]["batch_size"]["value"] == "auto"
    assert all(tried)  # dropout masks need memory too


@pytest.mark.parametrize(("size", "wanted"), [("lots", "a whole number"), ("3", "a whole number"), (0, "at least 1")])
def test_other_words_are_refused(size, wanted):
    with pytest.raises(UsageError, match=f"is not {wanted}, or auto"):
        TrainingSettings(batch_size=size)
