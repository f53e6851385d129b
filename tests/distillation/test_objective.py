"""The distillation loss of a step: weights, graphs, what is trained, and padding."""

import dataclasses

import pytest
import torch

from hrkd_cli.choices import Graph, Means
from hrkd_cli.method import MeanWeights
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from objectives import make_objective
from short_runs import first_step, run_distill


def test_losses_without_a_graph_are_not_divided_by_the_number_of_domains(tmp_path, teacher, dataset):
    """The first step has the same weights and rows, so its losses can be compared; D = 2."""
    losses = {}
    for graph in (Graph.UNIFORM, Graph.NONE):
        _, events = run_distill(teacher, dataset, tmp_path / graph, graph=graph)
        losses[graph] = first_step(events).losses
    for kind in ("hidden", "attention", "prediction"):
        assert losses[Graph.NONE][kind] == pytest.approx(2 * losses[Graph.UNIFORM][kind], rel=1e-5)


def test_losses_are_multiplied_by_their_weights(tmp_path, teacher, dataset):
    base = first_step(run_distill(teacher, dataset, tmp_path / "a", graph="uniform")[1]).losses
    weights = {"hidden_weight": 2.0, "attention_weight": 3.0, "prediction_weight": 5.0}
    weighted = first_step(run_distill(teacher, dataset, tmp_path / "b", graph="uniform", **weights)[1]).losses
    assert weighted["hidden"] == pytest.approx(2 * base["hidden"], rel=1e-5)
    assert weighted["attention"] == pytest.approx(6 * base["attention"], rel=1e-5)
    assert weighted["prediction"] == pytest.approx(5 * base["prediction"], rel=1e-5)


def test_neither_a_frozen_graph_nor_the_teacher_gets_gradients(teacher, dataset):
    objective, teacher_model, student = make_objective(teacher, dataset, graph="frozen")
    student.train()
    objective.loss(objective.collator({"books": [0, 1], "music": [2, 3]})).total.backward()
    assert not any(m.training for m in teacher_model.modules())
    assert all(p.grad is None for p in teacher_model.parameters())
    assert all(p.grad is None for p in objective.graph.parameters())
    assert objective.graph.training
    assert all(p.grad is not None for p in objective.projections.parameters())


def test_projections_start_near_the_identity_unless_means_are_as_released(teacher, dataset):
    for means, near in ((Means.MASKED, True), (Means.RELEASED, False)):
        objective, _, _ = make_objective(teacher, dataset, means=means)
        diagonals = objective.projections.weight.diagonal(dim1=1, dim2=2)
        assert (diagonals.mean().item() > 0.9) == near


def pad_weights(weights, length, *, padded):
    """Return the mean weights of the same rows padded to ``length``, in float64."""
    domains, rows, keys = weights.domain_one_hot.double(), weights.per_row.double(), weights.key_mask
    if padded:
        count = domains.T @ domains.sum(dim=1)
        tokens = (1 / (count * length))[:, None].expand(-1, length)
        pairs = 1 / (count * length**2)
    else:
        tokens = torch.nn.functional.pad(weights.per_token.double(), (0, length - weights.per_token.shape[1]))
        keys, pairs = tokens > 0, weights.per_pair.double()
    if keys.shape[1] < length:
        keys = torch.nn.functional.pad(keys, (0, length - keys.shape[1]))
    return MeanWeights(domains, rows, tokens, pairs, None if padded else keys, keys)


@pytest.mark.parametrize(("means", "changes"), [(Means.MASKED, False), (Means.RELEASED, True)])
def test_more_padding_changes_released_means_only(teacher, dataset, monkeypatch, means, changes):
    objective, teacher_model, student = make_objective(teacher, dataset, means=means, graph="frozen")
    for module in (teacher_model, student, objective.projections, objective.graph):
        module.double().eval()
    rows = {"books": [0, 1, 2], "music": [3, 4, 5]}
    collate = ModelTokenizer.collate
    results = []
    for length in (16, 40):
        monkeypatch.setattr(ModelTokenizer, "collate", lambda *args, length=length, **_: collate(*args, pad_to=length))
        with torch.no_grad():
            (batch,) = objective.collator(rows)
            weights = pad_weights(batch.weights, length, padded=means is Means.RELEASED)
            loss = objective.loss([dataclasses.replace(batch, weights=weights)])
        results.append(torch.stack([loss.total, *loss.by_kind.values(), *loss.ratios.flatten()]))
    difference = (results[0] - results[1]).abs().max().item()
    assert (difference > 1e-3) if changes else (difference <= 1e-6)
