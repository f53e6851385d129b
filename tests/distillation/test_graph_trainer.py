"""Training of the learned graph: its derivatives, updates, checkpoints, and a domain whose teacher is wrong."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hrkd_cli.distillation.graph_trainer import GraphTrainer, hold_back
from hrkd_cli.method import DomainLosses, LearnedGraph, weighted_layer_losses
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.collator import Collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.optimizer import Optimizer
from objectives import make_objective
from short_runs import run_distill


@pytest.fixture
def trained(teacher, dataset):
    """An objective with a learned graph, its student, its optimizer after one step, and a batch."""
    options = {"graph": "learned", "graph_every": 1, "held_back": 0.2, "warmup": 0}
    objective, _, student = make_objective(teacher, dataset, **options)
    optimizer = Optimizer(
        [student, objective.projections], objective.settings, 100, objective.collator.context, learning_rate=1e-3
    )
    student.train()
    batch = objective.collator({"books": [0, 1, 2], "music": [3, 4, 5]})
    objective.loss(batch).total.backward()
    optimizer.step()
    return objective, student, optimizer, batch


def test_directional_derivatives_equal_products_with_explicit_gradients(trained):
    """(L+1) x D central differences against one backward pass each, dropout off."""
    objective, student, _, batch = trained
    student.eval()
    weights = objective.graph_trainer.weights
    torch.manual_seed(1)
    direction = [torch.randn_like(w) for w in weights]
    derivatives = objective.graph_trainer.directional_derivatives(1, direction, lambda: objective.domain_losses(batch))[
        0
    ]
    losses = weighted_layer_losses(objective.domain_losses(batch).losses, objective.loss_weights)
    for layer, domain in np.ndindex(*losses.shape):
        gradients = torch.autograd.grad(losses[layer, domain], weights, retain_graph=True, allow_unused=True)
        product = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
        assert derivatives[layer, domain].item() == pytest.approx(product.item(), rel=5e-3, abs=1e-3)


def test_the_preconditioner_is_that_of_the_next_optimizer_step(trained):
    _, student, optimizer, _ = trained
    weight = student.get_input_embeddings().weight
    state = optimizer.adamw.state[weight]
    gradient = torch.full_like(weight, 2.0)
    (preconditioned,) = optimizer.precondition([weight], [gradient])
    expected = gradient / ((state["exp_avg_sq"] / (1 - 0.999)).sqrt() + 1e-8)
    torch.testing.assert_close(preconditioned, expected)


def test_an_update_moves_the_graph_and_nothing_else(trained):
    objective, student, optimizer, batch = trained
    graph = {name: t.clone() for name, t in objective.graph.state_dict().items()}
    others = [*student.state_dict().items(), *objective.projections.state_dict().items()]
    others = {name: t.clone() for name, t in others}
    random_state = torch.get_rng_state()
    objective.on_step_start(1, batch, optimizer)
    assert not torch.equal(objective.graph.score, graph["score"])
    now = dict([*student.state_dict().items(), *objective.projections.state_dict().items()])
    assert all(torch.equal(now[name], before) for name, before in others.items())
    assert all(p.grad is None for p in student.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert student.training
    # Score weights start at zero, so the layers before them change from the second update on.
    objective.on_step_start(2, batch, optimizer)
    assert not torch.equal(objective.graph.encode.weight, graph["encode.weight"])


def test_checkpoint_parts_restore_the_graph_and_its_optimizer(trained):
    objective, _, optimizer, batch = trained
    objective.on_step_start(1, batch, optimizer)
    state = {name: copy.deepcopy(part.state_dict()) for name, part in objective.parts.items()}
    objective.on_step_start(2, batch, optimizer)
    ahead = objective.graph.score.clone()
    for name, part in objective.parts.items():
        part.load_state_dict(state[name])
    assert not torch.equal(objective.graph.score, ahead)
    objective.on_step_start(2, batch, optimizer)
    assert torch.equal(objective.graph.score, ahead)


def test_held_back_rows_are_stratified_and_leave_a_row_of_every_label():
    labels = np.array([0] * 30 + [1] * 10)
    held = hold_back(labels, 0.2, "seed")
    assert len(held) == 8
    assert sum(labels[row] == 1 for row in held) == 2
    assert held == hold_back(labels, 0.2, "seed") != hold_back(labels, 0.2, "other")
    assert len(hold_back(np.repeat(np.arange(100), 4), 0.1, "x")) == 40  # not none of each label
    assert len(hold_back(np.array([0, 0, 0]), 0.01, "x")) == 1  # one row at least
    assert hold_back(np.array([0, 1]), 0.9, "x") == []  # but never the last of a label


def test_no_step_trains_on_held_back_rows(tmp_path, teacher, dataset, monkeypatch):
    drawn = {domain: set() for domain in dataset.domains}
    collate = Collator.__call__

    def watch(self, rows):
        for domain, chosen in rows.items():
            drawn[domain] |= set(chosen)
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", watch)
    run_distill(teacher, dataset, tmp_path / "s", graph="learned", held_back=0.25, epochs=2)
    for domain in dataset.domains:
        rows = dataset.split(domain, "train")
        labels = np.array([dataset.labels[domain].index(name) for name in rows.labels])
        held = set(hold_back(labels, 0.25, f"42/held back/{domain}"))
        assert drawn[domain] == set(range(len(rows))) - held
        assert len(held) == round(len(rows) / 4)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_domain_with_a_random_teacher_loses_its_weight(seed):
    """A linear student of three domains. The last one has a teacher with random outputs; held-back rows are right."""
    torch.manual_seed(seed)
    truth, domains = torch.randn(8), 3
    student = nn.Linear(8, 1)
    rows = torch.randn(domains, 64, 8)
    answers = rows @ truth
    answers[2] = torch.randn(64) * answers[:2].std()
    held = torch.randn(64, 8)
    prototypes = torch.randn(1, domains, 16)
    graph = LearnedGraph(16, 0, domains, hierarchy=False)
    trainer = GraphTrainer(graph, student, {"hidden": 1.0}, learning_rate=1e-2, seed=seed)
    optimizer = Optimizer(
        [student],
        DistillSettings(warmup=0),
        200,
        TrainContext.start(DistillSettings(device="cpu")),
        learning_rate=2e-2,
    )

    def terms():
        losses = (student(rows).squeeze(-1) - answers).square().mean(dim=1)[None]  # (1, D)
        return DomainLosses({"hidden": losses}, prototypes)

    for number in range(150):
        trainer.update(number, (student(held).squeeze(-1) - held @ truth).square().mean(), terms, optimizer)
        ratios = graph(prototypes).domain.detach()
        (terms().losses["hidden"] * ratios).sum().backward()
        optimizer.step()
    last = graph(prototypes).domain[0].tolist()
    assert last[2] < 0.01
