"""Training of the learned domain graph by a meta-gradient on held-back rows.

Let theta be the trained weights, M the student's label loss on held-back rows, J the Jacobian of the optimizer's update
with respect to the step's gradients (without the learning rate), and v = J^T grad M. More weight on the losses of
domain d at layer l changes M after the step in proportion to

    - < v , grad_theta (hid[l,d] + w_att att[l,d]) >

All (L+1) x D of these products are central differences of the losses along v: two more forward passes on the step's
batch, in float32, with the same dropout masks in both ("Learned graph" in docs/method.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hrkd_cli.method import DomainLosses, LearnedGraph, weighted_layer_losses
from hrkd_cli.training.optimizer import AdamMoments, Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

RELATIVE_STEP = 1e-3  # half the distance of the two points of a difference, relative to the norm of the weights
BETAS = (0.9, 0.99)


class GraphTrainer:
    """Trains a domain graph along with a student.

    Args:
        graph: the graph, with the same weights in every process.
        weights: the trained weights that the weighted losses depend on.
        loss_weights: weights of the losses by name.
        learning_rate: learning rate of the graph's Adam.
        seed: seed of the dropout masks in the extra passes.
    """

    def __init__(
        self,
        graph: LearnedGraph,
        weights: Sequence[nn.Parameter],
        loss_weights: Mapping[str, float],
        *,
        learning_rate: float,
        seed: int,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.graph = graph
        self.loss_weights = loss_weights
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.seed = seed
        self.processes = processes
        self.adam = torch.optim.Adam(graph.parameters(), lr=learning_rate, betas=BETAS)
        self.parts: dict[str, Any] = {"graph": graph, "graph_adam": AdamMoments(self.adam)}  # for checkpoints

    def update(
        self,
        step: int,
        held_back_loss: Tensor,
        compute_losses: Callable[[], DomainLosses],
        optimizer: Optimizer,
        norm: Tensor,
    ) -> None:
        """Update the graph so that steps like the present one reduce the held-back loss more.

        Args:
            step: number of the step.
            held_back_loss: this process's part of M.
            compute_losses: computes the losses of the step's batch over all processes; it runs without autograd.
            optimizer: the student's optimizer, about to update the weights.
            norm: of the step's gradients, before clipping.
        """
        trained = optimizer.parameters
        gradient = torch.autograd.grad(held_back_loss, trained, allow_unused=True, materialize_grads=True)
        if self.processes.size > 1:
            vector_to_parameters(self.processes.all_reduce(parameters_to_vector(gradient)), gradient)
        derivatives_of_step = optimizer.backpropagate_update(gradient, norm)
        if derivatives_of_step is None:
            return
        by_weight = dict(zip(trained, derivatives_of_step, strict=True))
        direction = [by_weight[weight] for weight in self.weights]
        derivatives, prototypes = self.directional_derivatives(step, direction, compute_losses)
        self.adam.zero_grad()
        # The graph runs in float32, so its gradients need no loss scaling.
        (-(self.graph(prototypes).domain * derivatives).sum()).backward()
        self.adam.step()

    @torch.no_grad()
    def directional_derivatives(
        self, step: int, direction: Sequence[Tensor], compute_losses: Callable[[], DomainLosses]
    ) -> tuple[Tensor, Tensor]:
        """Differentiate the losses with respect to a move of the student's weights; the weights are then restored.

        Returns:
            (L+1, D), the derivatives of the weighted layer losses along ``direction``; (L+1, D, H), the prototypes.
        """
        original = [w.clone() for w in self.weights]
        weight_norm = torch.stack([w.norm() for w in original]).norm()
        direction_norm = torch.stack([d.norm() for d in direction]).norm().clamp_min(1e-30)
        step_size = RELATIVE_STEP * weight_norm / direction_norm
        losses, prototypes = [], []
        try:
            for sign in (1, -1):
                for weight, start, change in zip(self.weights, original, direction, strict=True):
                    weight.copy_(start + sign * step_size * change)
                devices = [self.weights[0].device] if self.weights[0].is_cuda else []
                with torch.random.fork_rng(devices):
                    torch.manual_seed(self.seed + step)
                    moved = compute_losses()
                assert moved.prototypes is not None
                losses.append(weighted_layer_losses(moved.losses, self.loss_weights).float())
                prototypes.append(moved.prototypes)
        finally:
            for weight, start in zip(self.weights, original, strict=True):
                weight.copy_(start)
        return (losses[0] - losses[1]) / (2 * step_size), (prototypes[0] + prototypes[1]).float() / 2


def hold_back(labels: np.ndarray, fraction: float, seed: str) -> list[int]:
    """Choose rows to hold back: a stratified sample that leaves at least one row of every label."""
    if not len(labels):
        return []
    rng = random.Random(seed)
    names, sizes = np.unique(labels, return_counts=True)
    wanted = max(1, round(fraction * len(labels)))
    exact = sizes * (wanted / len(labels))
    counts = np.minimum(np.floor(exact).astype(int), sizes - 1)
    # The remainder goes to the labels with the largest rounding error, as long as they keep a row.
    for index in np.argsort(np.floor(exact) - exact, kind="stable"):
        counts[index] += int(counts.sum() < wanted and counts[index] < sizes[index] - 1)
    held_back = []
    for name, count in zip(names, counts.tolist(), strict=True):
        held_back += rng.sample(np.flatnonzero(labels == name).tolist(), count)
    return sorted(held_back)
