"""``--batch-size auto``: the largest size that memory holds."""

import numpy as np
import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.models.encoding import Encoded
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import TeachSettings
from hrkd_cli.teaching.teach import teach_on
from hrkd_cli.training import fit
from hrkd_cli.training.fit import batch_size_of
from hrkd_cli.training.loop import LossOutput
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

CPU = torch.device("cpu")


class Memory:
    """A task that takes so many bytes a row, on a machine with so many."""

    def __init__(self, monkeypatch, *, fixed, row, there, fails_at=10**9, row_before=0):
        self.module = torch.nn.Linear(1, 1)
        self.fixed, self.row, self.fails_at = fixed, row, fails_at
        self.used, self.seen, self.row_before = 0, [], row_before
        monkeypatch.setattr(fit, "_resident", lambda: self.used)
        monkeypatch.setattr(fit, "_there", lambda _: there)

    def collate(self, rows):
        return rows

    def rehearse(self, rows):
        self.used = max(self.used, self.fixed + sum(map(len, rows.values())) * self.row_before)

    def loss(self, rows):
        count = sum(len(chosen) for chosen in rows.values())
        self.seen.append(count)
        if count >= self.fails_at:
            raise MemoryError
        self.used = max(self.used, self.fixed + count * self.row)
        return LossOutput(self.module(torch.ones(1)).sum())

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def fit(self, size="auto", decided=None, processes=SINGLE_PROCESS):
        encoded = {"a": Encoded([np.zeros(n) for n in (3, 9, 5)], None), "b": Encoded([np.zeros(2)], None)}
        notes = []
        found = batch_size_of(
            TeachSettings(batch_size=size),
            self,
            [self.module],
            encoded,
            arithmetic=Arithmetic(Precision.FP32, CPU),
            processes=processes,
            on_event=notes.append,
            decided=decided,
        )
        assert self.module.weight.grad is None
        return found, notes


def test_the_largest_power_of_two_that_fits(monkeypatch):
    # 2 domains: a batch size of 8 takes 100 + 16 * 10 = 260 of 300 * 0.9 = 270; 16 would take 420.
    found, notes = Memory(monkeypatch, fixed=100, row=10, there=300).fit()
    assert found == 8
    assert isinstance(notes[0], Note)
    assert "--batch-size auto: 8 rows" in notes[0].text


def test_it_never_grows_past_the_papers_batch(monkeypatch):
    assert Memory(monkeypatch, fixed=1, row=1, there=10**9).fit()[0] == 32


def test_running_out_of_memory_ends_the_search(monkeypatch):
    assert Memory(monkeypatch, fixed=1, row=1, there=10**9, fails_at=8).fit()[0] == 2
    with pytest.raises(TrainingError, match="not even one row of each domain"):
        Memory(monkeypatch, fixed=1, row=1, there=10**9, fails_at=1).fit()


def test_a_number_is_taken_as_it_is(monkeypatch):
    memory = Memory(monkeypatch, fixed=1, row=1, there=10)
    assert memory.fit(12)[0] == 12
    assert memory.seen == []


def test_what_comes_before_a_step_needs_its_memory_too(monkeypatch):
    # The same machine, and a graph whose training takes more: 8 rows take 260 of 270, 16 would take 420.
    assert Memory(monkeypatch, fixed=100, row=10, row_before=20, there=300).fit()[0] == 4


def test_growth_that_cannot_be_seen_is_guessed(monkeypatch):
    # Something else had taken 200 of 300 before: that 200 are still the most says nothing of twice the rows.
    memory = Memory(monkeypatch, fixed=1, row=1, there=300)
    memory.used = 200
    assert memory.fit()[0] == 1


def test_no_process_waits_for_one_that_runs_out_of_memory(monkeypatch):
    """Sums over processes are left out of the trials: nobody is there to answer."""
    processes = ProcessGroup(0, 2)
    monkeypatch.setattr(ProcessGroup, "any", lambda self, flag: flag)
    memory = Memory(monkeypatch, fixed=100, row=10, there=300)
    loss, asked = memory.loss, []
    memory.loss = lambda rows: asked.append(processes.all_reduce(torch.ones(3))) or loss(rows)
    assert memory.fit(processes=processes)[0] == 8
    assert len(asked) == 4
    with pytest.raises((RuntimeError, ValueError)):  # and only there
        processes.all_reduce(torch.ones(3))


def test_what_was_decided_before_is_not_measured_again(monkeypatch):
    memory = Memory(monkeypatch, fixed=1, row=1, there=10**9)
    assert memory.fit(decided=2) == (2, [])
    assert memory.fit(12, decided=12)[0] == 12
    assert memory.seen == []


def test_auto_trains_and_is_recorded(tmp_path, encoder, dataset):
    import json

    settings = TeachSettings(epochs=1, batch_size="auto", max_length=16)
    result = teach_on(encoder, dataset, settings, out=tmp_path / "t", name="x")
    assert result.steps == 2  # 48 rows a domain in steps of 32
    assert json.loads((tmp_path / "t" / "hrkd.json").read_text())["options"]["batch_size"]["value"] == "auto"


@pytest.mark.parametrize(("size", "wanted"), [("lots", "a whole number"), ("3", "a whole number"), (0, "at least 1")])
def test_other_words_are_refused(size, wanted):
    with pytest.raises(UsageError, match=f"is not {wanted}, or auto"):
        TeachSettings(batch_size=size)
