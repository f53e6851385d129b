"""Meta-KD's instance weights: numbers worked out by hand, and their effect on a run."""

import json
import math

import numpy as np
import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.distillation.distill_collator import DistillCollator
from hrkd_cli.distillation.instance_weights import expertise_weights, instance_weights, prototype_scores
from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Note
from hrkd_cli.method import Outputs
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.tokenized_split import TokenizedSplit
from interrupted import StopError, run, stop_at
from objectives import make_objective

CPU = torch.device("cpu")


def test_prototype_scores_are_mean_cosines_to_the_own_and_the_other_domains():
    # Centroids along x, along y and along both. A row of the first domain along x has cosine 1 to its own centroid and
    # 0.5 / sqrt(1.25) to (0.5, 1), the mean of the others.
    centroids = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows, domains = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 2])
    scores = prototype_scores(rows, domains, centroids).tolist()
    assert scores[0] == pytest.approx((1 + 0.5 / math.sqrt(1.25)) / 2)
    assert scores[1] == pytest.approx((math.sqrt(0.5) + 0.5 / math.sqrt(1.25)) / 2)  # others of the third: (1, 0.5)
    assert prototype_scores(rows[:1], domains[:1], centroids[2:]).item() == pytest.approx(math.sqrt(0.5))


def test_expertise_weights_grow_with_score_and_probability_down_to_a_minimum():
    weights = expertise_weights(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([1.0, 0.0, 0.5])).tolist()
    assert weights == pytest.approx([1 / 2, 2 / (math.e + 1), 1e-3])


class FakeTeacher:
    """A teacher with given last hidden states and logits for each row, and NaN at padding."""

    def __init__(self, states, logits):
        self.states, self.logits = states, logits

    def load(self, refs, batch):
        mask = batch.mask
        states = torch.tensor([self.states[d][row] for d, row in refs])[:, None].repeat(1, mask.shape[1], 1)
        states[~mask] = float("nan")
        logits = torch.tensor([self.logits[d][row] for d, row in refs])
        return lambda: Outputs(torch.stack([torch.zeros_like(states), states]), None, None, logits)


class FakeTokenizer:
    """Stands in for a tokenizer."""

    max_length = 5

    def collate(self, examples, device, *, pad_to=None):
        lengths = torch.tensor([len(one) for one in examples])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return type("Batch", (), {"mask": mask})


STATES = {"a": [[1.0, 0.0], [1.0, 2.0], [2.0, 0.0]], "b": [[0.0, 1.0]]}
LOGITS = {"a": [[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(9)]], "b": [[0.0, math.log(4)]]}


def compute_weights(processes=SINGLE_PROCESS):
    examples = {"a": [TokenizedExample(np.zeros(n), []) for n in (2, 5, 3)], "b": [TokenizedExample(np.zeros(4), [])]}
    labels = {"a": np.array([1, 0]), "b": np.array([0])}  # the third row of a has none
    context = TrainContext(PrecisionPolicy(Precision.FP32, CPU), processes)
    split = TokenizedSplit(FakeTokenizer(), examples, labels)
    return instance_weights(DistillCollator(FakeTeacher(STATES, LOGITS), split, context), 2)


def test_rows_without_a_label_use_the_highest_probability():
    centroids = torch.tensor([[4 / 3, 2 / 3], [0.0, 1.0]])
    weights = compute_weights()
    for domain, row, p in (("a", 0, 1 / 2), ("a", 1, 3 / 4), ("a", 2, 9 / 10), ("b", 0, 1 / 5)):
        embedding = torch.tensor(STATES[domain][row])
        t = torch.cosine_similarity(embedding, centroids, dim=-1).mean().item()
        assert weights[domain][row] == pytest.approx((1 + t) / (math.exp((1 - p) ** 2) + 1), rel=1e-6)


def test_each_process_runs_the_teacher_on_its_part(monkeypatch):
    """The two processes run one after the other; their sums are recorded first, and then replayed."""
    monkeypatch.setattr("hrkd_cli.distillation.online_teacher.INFERENCE_TOKENS", {"cpu": 1})
    whole = compute_weights()
    recorded = [[], []]
    monkeypatch.setattr(
        ProcessGroup, "all_reduce", lambda self, tensor: recorded[self.rank].append(tensor.clone()) or tensor
    )
    for rank in (0, 1):
        compute_weights(ProcessGroup(rank, 2))
    sums = [recorded[0][0] + recorded[1][0]]  # of embeddings; with these, the weights
    monkeypatch.setattr(ProcessGroup, "all_reduce", lambda self, tensor: sums[0] if tensor.dim() == 2 else tensor)
    parts = [compute_weights(ProcessGroup(rank, 2)) for rank in (0, 1)]
    for domain, values in whole.items():
        np.testing.assert_allclose(parts[0][domain] + parts[1][domain], values, rtol=1e-6)
        assert min((parts[0][domain] == 0).sum(), (parts[1][domain] == 0).sum()) < len(values)
    assert sum((part == 0).sum() for part in parts[0].values()) == 2  # two of four rows are the other process's


def test_equal_weights_change_nothing_and_a_weight_of_0_leaves_a_row_out(teacher, dataset):
    objective, _, _ = make_objective(teacher, dataset, graph="uniform")
    objective.student.model.eval()
    rows = {"books": [0, 1, 2], "music": [3, 4, 5]}
    plain = objective.loss(objective.collator(rows))
    ones = objective.collator.row_weights
    objective.collator.row_weights = {
        domain: np.full(len(examples), 0.7) for domain, examples in objective.collator.split.examples.items()
    }
    torch.testing.assert_close(objective.loss(objective.collator(rows)).total, plain.total)
    for weights in objective.collator.row_weights.values():
        weights[[2, 5]] = 0
    with_zeros = objective.loss(objective.collator(rows))
    objective.collator.row_weights = ones
    without = objective.loss(objective.collator({"books": [0, 1], "music": [3, 4]}))
    torch.testing.assert_close(with_zeros.total, without.total)


def test_a_run_reports_the_weights_and_can_be_resumed(tmp_path, teacher, encoder, dataset):
    options = {"instance_weights": "meta-kd", "epochs": 1}
    notes = []
    run("distill", teacher, encoder, dataset, tmp_path / "whole", on_event=notes.append, **options)
    recorded = [n.text for n in notes if isinstance(n, Note) and n.text.startswith("instance weights:")]
    assert len(recorded) == 1
    assert "books 0." in recorded[0]
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
def test_the_weights_do_not_depend_on_cache_graph_or_means(tmp_path, teacher, encoder, dataset, options):
    reports = []
    for more in ({"cache_teacher": "off"}, options):
        notes = []
        run("distill", teacher, encoder, dataset, tmp_path / str(len(reports)), on_event=notes.append, epochs=1,
            instance_weights="meta-kd", precision="fp32", **more)  # fmt: skip
        reports += [n.text for n in notes if isinstance(n, Note) and n.text.startswith("instance weights:")]
    assert len(reports) == 2
    assert reports[0] == reports[1]


def test_a_teacher_with_hidden_states_that_are_not_finite_is_refused(monkeypatch):
    monkeypatch.setitem(STATES, "b", [[float("nan"), 1.0]])
    with pytest.raises(TrainingError, match="--instance-weights: the teacher's hidden states are not finite"):
        compute_weights()
