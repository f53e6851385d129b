"""Meta-KD's instance weights: hand-computed numbers, and what they do to the means of the losses."""

import json
import math

import numpy as np
import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.distillation.collate import DistillCollator
from hrkd_cli.distillation.instance_weights import expertise_weights, instance_weights, prototype_scores
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.method import Outputs
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.tokenized_split import TokenizedSplit
from interrupted import StopError, run, stop_at
from tasks import make_task

CPU = torch.device("cpu")


def test_prototype_scores_by_hand():
    # Domains point along x, along y and along both; a row along x of the first: cos 1 to its own, and to the mean of
    # the others (0.5, 1) cos = 0.5 / sqrt(1.25).
    centroids = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows, own = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 2])
    found = prototype_scores(rows, own, centroids).tolist()
    assert found[0] == pytest.approx((1 + 0.5 / math.sqrt(1.25)) / 2)
    assert found[1] == pytest.approx((math.sqrt(0.5) + 0.5 / math.sqrt(1.25)) / 2)  # others of the third: (1, 0.5)
    assert prototype_scores(rows[:1], own[:1], centroids[2:]).item() == pytest.approx(math.sqrt(0.5))


def test_expertise_by_hand():
    found = expertise_weights(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([1.0, 0.0, 0.5])).tolist()
    assert found == pytest.approx([1 / 2, 2 / (math.e + 1), 1e-3])


class Told:
    """A teacher whose last hidden state is told for each row, and anything at padding."""

    def __init__(self, states, logits):
        self.states, self.logits = states, logits

    def load(self, refs, batch):
        mask = batch.mask
        states = torch.tensor([self.states[d][row] for d, row in refs])[:, None].repeat(1, mask.shape[1], 1)
        states[~mask] = float("nan")
        logits = torch.tensor([self.logits[d][row] for d, row in refs])
        return lambda: Outputs(torch.stack([torch.zeros_like(states), states]), None, None, logits)


class Pads:
    """Stands in for a tokenizer."""

    def collate(self, examples, device, *, pad_to=None):
        lengths = torch.tensor([len(one) for one in examples])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return type("Batch", (), {"mask": mask})


STATES = {"a": [[1.0, 0.0], [1.0, 2.0], [2.0, 0.0]], "b": [[0.0, 1.0]]}
LOGITS = {"a": [[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(9)]], "b": [[0.0, math.log(4)]]}


def weigh(processes=SINGLE_PROCESS):
    examples = {"a": [TokenizedExample(np.zeros(n), []) for n in (2, 5, 3)], "b": [TokenizedExample(np.zeros(4), [])]}
    labels = {"a": np.array([1, 0]), "b": np.array([0])}  # the third row of a has none
    context = TrainContext(PrecisionPolicy(Precision.FP32, CPU), processes)
    return instance_weights(DistillCollator(Told(STATES, LOGITS), TokenizedSplit(Pads(), examples, labels), context), 2)


def test_weights_of_rows_with_and_without_a_label():
    centroids = torch.tensor([[4 / 3, 2 / 3], [0.0, 1.0]])
    found = weigh()
    for domain, row, p in (("a", 0, 1 / 2), ("a", 1, 3 / 4), ("a", 2, 9 / 10), ("b", 0, 1 / 5)):
        own = torch.tensor(STATES[domain][row])
        t = torch.cosine_similarity(own, centroids, dim=-1).mean().item()  # two domains: their own and the other
        assert found[domain][row] == pytest.approx((1 + t) / (math.exp((1 - p) ** 2) + 1), rel=1e-6)


def test_each_process_asks_about_its_part(monkeypatch):
    """Sums over two processes that run one after the other: what is summed is what the other one had."""
    monkeypatch.setattr("hrkd_cli.distillation.online_teacher.INFERENCE_TOKENS", {"cpu": 1})
    whole = weigh()
    told = [[], []]
    monkeypatch.setattr(
        ProcessGroup, "all_reduce", lambda self, tensor: told[self.rank].append(tensor.clone()) or tensor
    )
    for rank in (0, 1):
        weigh(ProcessGroup(rank, 2))
    sums = [told[0][0] + told[1][0]]  # of embeddings; with these, the weights
    monkeypatch.setattr(ProcessGroup, "all_reduce", lambda self, tensor: sums[0] if tensor.dim() == 2 else tensor)
    parts = [weigh(ProcessGroup(rank, 2)) for rank in (0, 1)]
    for domain, values in whole.items():
        np.testing.assert_allclose(parts[0][domain] + parts[1][domain], values, rtol=1e-6)
        assert min((parts[0][domain] == 0).sum(), (parts[1][domain] == 0).sum()) < len(values)
    assert sum((part == 0).sum() for part in parts[0].values()) == 2  # two of four rows are the other's


def test_means_become_weighted_ones():
    rows = {"a": [0, 2], "b": [1]}
    refs = [("a", 0), ("a", 2), ("b", 1)]
    lengths = {"a": (2, 9, 3), "b": (9, 4)}
    examples = {domain: [TokenizedExample(np.zeros(n), []) for n in own] for domain, own in lengths.items()}
    weights = {"a": np.array([0.5, 9.0, 1.5]), "b": np.array([9.0, 0.3])}
    context = TrainContext(PrecisionPolicy(Precision.FP32, CPU))
    collator = DistillCollator(None, TokenizedSplit(Pads(), examples, {}), context)
    collator.instance_weights = weights
    found = collator.mean_weights(rows, refs)
    tokens, pairs = 0.5 * 2 + 1.5 * 3, 0.5 * 4 + 1.5 * 9
    torch.testing.assert_close(found.per_row, torch.tensor([0.25, 0.75, 1.0]))
    first, second = [0.5 / tokens] * 2, [1.5 / tokens] * 3
    expected = [[*first, 0.0, 0.0], [*second, 0.0], [0.25] * 4]
    torch.testing.assert_close(found.per_token, torch.tensor(expected))
    torch.testing.assert_close(found.per_pair, torch.tensor([0.5 / pairs, 1.5 / pairs, 1 / 16]))
    assert found.domain_one_hot.tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(found.domain_one_hot @ found.per_token.sum(dim=1), torch.ones(2))


def test_equal_weights_change_nothing_and_others_do(teacher, dataset):
    task, _, _ = make_task(teacher, dataset, graph="uniform")
    task.student.model.eval()
    rows = {"books": [0, 1, 2], "music": [3, 4, 5]}
    plain = task.loss(task.collator(rows))
    task.collator.instance_weights = {
        domain: np.full(len(own), 0.7) for domain, own in task.collator.split.examples.items()
    }
    torch.testing.assert_close(task.loss(task.collator(rows)).total, plain.total)
    # A weight of 0 leaves a row out.
    for own in task.collator.instance_weights.values():
        own[[2, 5]] = 0
    without = task.loss(task.collator(rows))
    task.collator.instance_weights = None
    torch.testing.assert_close(without.total, task.loss(task.collator({"books": [0, 1], "music": [3, 4]})).total)


def test_a_run_says_and_records_them_and_can_be_cut_off(tmp_path, teacher, encoder, dataset):
    options = {"instance_weights": "meta-kd", "epochs": 1}
    notes = []
    run("distill", teacher, encoder, dataset, tmp_path / "whole", on_event=notes.append, **options)
    told = [n.text for n in notes if isinstance(n, Note) and n.text.startswith("instance weights:")]
    assert len(told) == 1
    assert "books 0." in told[0]
    record = json.loads((tmp_path / "whole" / "hrkd.json").read_text())
    assert record["options"]["instance_weights"]["value"] == "meta-kd"
    with pytest.raises(StopError):
        run("distill", teacher, encoder, dataset, tmp_path / "cut", on_event=stop_at(2), **options)
    run("distill", teacher, encoder, dataset, tmp_path / "cut", resume=True, **options)
    run("distill", teacher, encoder, dataset, tmp_path / "plain", epochs=1)
    whole, cut, plain = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "cut", "plain"))
    assert whole == cut
    assert whole != plain


@pytest.mark.parametrize(
    "options",
    [
        {"cache_teacher": "on"},
        {"graph": "learned", "graph_every": 2},
        {"graph": "frozen", "means": "released"},
    ],
)
def test_they_are_the_same_however_the_teacher_is_asked(tmp_path, teacher, encoder, dataset, options):
    found = []
    for more in ({"cache_teacher": "off"}, options):
        notes = []
        run("distill", teacher, encoder, dataset, tmp_path / str(len(found)), on_event=notes.append, epochs=1,
            instance_weights="meta-kd", precision="fp32", **more)  # fmt: skip
        found += [n.text for n in notes if isinstance(n, Note) and n.text.startswith("instance weights:")]
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_teacher_with_hidden_states_that_are_not_finite_is_refused(monkeypatch):
    monkeypatch.setitem(STATES, "b", [[float("nan"), 1.0]])
    with pytest.raises(TrainingError, match="--instance-weights: the teacher's hidden states are not finite"):
        weigh()


@pytest.mark.parametrize("options", [{"method": "logits"}, {"method": "labels"}, {"hidden_weight": 0.0}])
def test_they_need_hidden_states(options):
    with pytest.raises(UsageError, match="--instance-weights: it requires a hidden-state loss"):
        DistillSettings(instance_weights="meta-kd", **options)
