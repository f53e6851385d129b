"""Training of the domain graph by a meta-gradient: which domain's losses help on rows that were held back?

Method section 7, exactly. With theta the student, M its label loss on held-back rows, G the optimizer's preconditioner
and v = G grad M, a step along the losses of domain d at layer l changes M in proportion to

    - < v , grad_theta (hid[l,d] + w_att att[l,d]) >

and all (L+1) x D of these products are the central differences of the losses themselves along v: two more forward
passes of the step's own batch, in float32, with the same dropout masks in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hrkd_cli.method import DomainLosses, LearnedGraph, weighted_layer_losses
from hrkd_cli.training.optimizer import AdamMoments, Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

REACH = 1e-3  # length of the difference's half step, as a part of the weights' own length
BETAS = (0.9, 0.99)


class GraphTrainer:
    """Trains a graph beside a student.

    Args:
        graph: what is trained, alike in every process.
        student: the model whose steps the graph's ratios shape.
        loss_weights: of the losses by name.
        learning_rate: of the graph's Adam.
        seed: of the dropout masks in the extra passes.
        processes: the processes that share a step.
    """

    def __init__(
        self,
        graph: LearnedGraph,
        student: nn.Module,
        loss_weights: Mapping[str, float],
        *,
        learning_rate: float,
        seed: int,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.graph = graph
        self.loss_weights = loss_weights
        self.weights = [p for p in student.parameters() if p.requires_grad]
        self.seed = seed
        self.processes = processes
        self.adam = torch.optim.Adam(graph.parameters(), lr=learning_rate, betas=BETAS)
        self.parts: dict[str, Any] = {"graph": graph, "graph_adam": AdamMoments(self.adam)}  # for a checkpoint

    def update(self, number: int, held_back: Tensor, losses: Callable[[], DomainLosses], optimizer: Optimizer) -> None:
        """Move the graph so that the student's next steps help more on held-back rows.

        Args:
            number: of the step.
            held_back: M, this process's part of it.
            losses: gives the losses of the step's batch, of all processes together; run with autograd off.
            optimizer: the student's; until its first step there is no preconditioner and nothing happens.
        """
        whole = torch.autograd.grad(held_back, self.weights, allow_unused=True, materialize_grads=True)
        if self.processes.size > 1:
            vector_to_parameters(self.processes.all_reduce(parameters_to_vector(whole)), whole)
        direction = optimizer.preconditioned(self.weights, whole)
        if direction is None:
            return
        slopes, prototypes = self.slopes(number, direction, losses)
        self.adam.zero_grad()
        # The graph's forward pass ran in float32; its gradients need no scaling.
        (-(self.graph(prototypes).domain * slopes).sum()).backward()
        self.adam.step()

    @torch.no_grad()
    def slopes(
        self, number: int, direction: Sequence[Tensor], losses: Callable[[], DomainLosses]
    ) -> tuple[Tensor, Tensor]:
        """Return what a small step of the student along ``direction`` does; the student is left as it was.

        Returns:
            (L+1, D), derivatives of the weighted sums of the losses of layers; (L+1, D, H), prototypes at the student's
            own weights.
        """
        own = [w.clone() for w in self.weights]
        length = torch.stack([w.norm() for w in own]).norm()
        reach = REACH * length / torch.stack([d.norm() for d in direction]).norm().clamp_min(1e-30)
        found, prototypes = [], []
        try:
            for sign in (1, -1):
                for weight, before, step in zip(self.weights, own, direction, strict=True):
                    weight.copy_(before + sign * reach * step)
                devices = [self.weights[0].device] if self.weights[0].is_cuda else []
                with torch.random.fork_rng(devices):
                    torch.manual_seed(self.seed + number)
                    moved = losses()
                assert moved.prototypes is not None
                found.append(weighted_layer_losses(moved.losses, self.loss_weights).float())
                prototypes.append(moved.prototypes)
        finally:
            for weight, before in zip(self.weights, own, strict=True):
                weight.copy_(before)
        return (found[0] - found[1]) / (2 * reach), (prototypes[0] + prototypes[1]).float() / 2
