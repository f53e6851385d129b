"""Training of the learned graph: its derivatives, updates, checkpoints, and a domain whose teacher is wrong."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hrkd_cli.distillation.graph_trainer import GraphTrainer, hold_back
from hrkd_cli.method import DomainLosses, LearnedGraph, weighted_layer_losses, weighted_terms
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


def update_graph(objective, step, batch, optimizer):
    """Update the graph as a training step does, after its backward pass; leave the student as it is."""
    torch.manual_seed(step)
    objective.loss(batch).total.backward()
    norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
    random_state = torch.get_rng_state()
    objective.before_update(step, batch, optimizer, norm)
    assert torch.equal(torch.get_rng_state(), random_state)
    optimizer.adamw.zero_grad()


def in_float64(objective):
    """Make an objective's modules and batches float64, except for its graph."""
    for module in objective.modules:
        module.double()
    collate = objective.collator.batch

    def convert(values):
        tensors = {f.name: getattr(values, f.name) for f in dataclasses.fields(values)}
        floats = {k: t.double() for k, t in tensors.items() if torch.is_tensor(t) and t.is_floating_point()}
        return dataclasses.replace(values, **floats)

    def batch(*args, **options):
        made = collate(*args, **options)
        run = made.teacher
        teacher = run and (lambda: convert(run()))
        return dataclasses.replace(made, labels=convert(made.labels), weights=convert(made.weights), teacher=teacher)

    objective.collator.batch = batch


def backpropagate(objective, batch, ratios):
    """Backpropagate the total loss with the given ratios."""
    losses = objective.domain_losses(batch).losses
    sum(weighted_terms(losses, ratios, objective.loss_weights).values()).backward()


def effects_of_ratios(objective, optimizer, batch, step):
    """Return how the held-back loss after a real step depends on each ratio in it, (L+1, D): finite differences.

    The step is short, so that the held-back loss is linear in it.
    """
    optimizer.peak_rate, rate = 1e-6, optimizer.peak_rate
    layers, domains = len(objective.graph.score), objective.num_domains
    weights = [p.detach().clone() for p in optimizer.parameters]
    moments, count = copy.deepcopy(optimizer.adamw.state_dict()), optimizer.step_count
    effects = torch.zeros(layers, domains, dtype=torch.float64)
    for layer, domain in np.ndindex(layers, domains):
        for sign in (1, -1):
            ratios = torch.full((layers, domains), 1 / domains, dtype=torch.float64)
            ratios[layer, domain] += sign * 1e-5
            backpropagate(objective, batch, ratios)
            optimizer.step()
            effects[layer, domain] += sign * objective._held_back_loss(step).item() / 2e-5
            with torch.no_grad():
                for p, before in zip(optimizer.parameters, weights, strict=True):
                    p.copy_(before)
            optimizer.adamw.load_state_dict(copy.deepcopy(moments))
            optimizer.step_count = count
    optimizer.peak_rate = rate
    return effects


def test_the_derivatives_are_those_of_the_held_back_loss_after_a_real_step(teacher, dataset, monkeypatch):
    """AdamW's first step depends only on signs, so there is no update before it. All steps are clipped."""
    objective, _, student = make_objective(teacher, dataset, graph="learned", graph_every=1, held_back=0.2, warmup=0)
    in_float64(objective)
    optimizer = Optimizer(objective.modules, objective.settings, 1000, objective.collator.context, learning_rate=1e-3)
    trainer = objective.graph_trainer
    compute, computed = trainer.directional_derivatives, []

    def record(*args):
        computed.append(compute(*args))
        return computed[-1]

    monkeypatch.setattr(trainer, "directional_derivatives", record)
    monkeypatch.setattr(student, "train", lambda mode=True: student)  # dropout stays off
    student.eval()
    held_back = {row for rows in objective.held_back.values() for row in rows}
    rows = [row for row in range(48) if row not in held_back]
    ratios = torch.full((len(objective.graph.score), 2), 0.5, dtype=torch.float64)
    norms = []
    for step in range(21):
        batch = objective.collator({"books": rows[step % 8 :][:4], "music": rows[step % 5 :][:4]})
        if step in (0, 1, 20):
            backpropagate(objective, batch, ratios)
            norms.append(torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0))
            objective.before_update(step, batch, optimizer, norms[-1])
            optimizer.adamw.zero_grad()
            if step:
                effects = effects_of_ratios(objective, optimizer, batch, step)
                (derivatives, _), computed[:] = computed[0], []
                cosine = torch.cosine_similarity(-derivatives.double().flatten(), effects.flatten(), dim=0)
                assert cosine > 0.99
            assert not computed
        backpropagate(objective, batch, ratios)
        optimizer.step()
    assert min(norms) > 1


def test_an_update_moves_the_graph_and_nothing_else(trained):
    objective, student, optimizer, batch = trained
    graph = {name: t.clone() for name, t in objective.graph.state_dict().items()}
    others = [*student.state_dict().items(), *objective.projections.state_dict().items()]
    others = {name: t.clone() for name, t in others}
    update_graph(objective, 1, batch, optimizer)
    assert not torch.equal(objective.graph.score, graph["score"])
    now = dict([*student.state_dict().items(), *objective.projections.state_dict().items()])
    assert all(torch.equal(now[name], before) for name, before in others.items())
    assert all(p.grad is None for p in student.parameters())
    assert student.training
    # Score weights start at zero, so the layers before them change from the second update on.
    update_graph(objective, 2, batch, optimizer)
    assert not torch.equal(objective.graph.encode.weight, graph["encode.weight"])


def test_checkpoint_parts_restore_the_graph_and_its_optimizer(trained):
    objective, _, optimizer, batch = trained
    update_graph(objective, 1, batch, optimizer)
    state = {name: copy.deepcopy(part.state_dict()) for name, part in objective.parts.items()}
    update_graph(objective, 2, batch, optimizer)
    ahead = objective.graph.score.clone()
    for name, part in objective.parts.items():
        part.load_state_dict(state[name])
    assert not torch.equal(objective.graph.score, ahead)
    update_graph(objective, 2, batch, optimizer)
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
    trainer = GraphTrainer(graph, list(student.parameters()), {"hidden": 1.0}, learning_rate=1e-2, seed=seed)
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
        ratios = graph(prototypes).domain.detach()
        (terms().losses["hidden"] * ratios).sum().backward()
        held_back_loss = (student(held).squeeze(-1) - held @ truth).square().mean()
        optimizer.step(partial(trainer.update, number, held_back_loss, terms, optimizer))
    last = graph(prototypes).domain[0].tolist()
    assert last[2] < 0.01
