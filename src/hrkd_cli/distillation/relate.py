"""Training of the domain graph by a meta-gradient: which domain's losses help on rows that were held back?

Method section 7, exactly. With theta the student, M its label loss on held-back rows, G the optimizer's preconditioner
and v = G grad M, a step along the losses of domain d at layer l changes M in proportion to

    - < v , grad_theta (hid[l,d] + w_att att[l,d]) >

and all (L+1) x D of these products are the central differences of the losses themselves along v: two more forward
passes of the step's own batch, in float32, with the same dropout masks in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrkd_cli.method import BatchTerms, RelationGraph
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

REACH = 1e-3  # length of the difference's half step, as a part of the weights' own length
BETAS = (0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Slopes:
    """What a small step of the student along v does.

    Attributes:
        losses: (L+1, D), derivatives of ``hid + w_att att`` along v.
        prototypes: (L+1, D, H), at the student's own weights.
    """

    losses: Tensor
    prototypes: Tensor


class GraphTrainer:
    """Trains a graph beside a student.

    Args:
        graph: what is trained.
        student: the model whose steps the graph's ratios shape.
        attention_weight: w_att.
        learning_rate: of the graph's Adam.
        seed: of the dropout masks in the extra passes.
        processes: the processes that share a step; each has the same graph.
    """

    def __init__(
        self,
        graph: RelationGraph,
        student: nn.Module,
        *,
        attention_weight: float,
        learning_rate: float,
        seed: int,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.graph = graph
        self.weights = [p for p in student.parameters() if p.requires_grad]
        self.attention_weight = attention_weight
        self.seed = seed
        self.processes = processes
        self.adam = torch.optim.Adam(graph.parameters(), lr=learning_rate, betas=BETAS)

    def update(
        self,
        number: int,
        held_back: Callable[[], Tensor],
        terms: Callable[[], BatchTerms],
        optimizer: Optimizer | None,
    ) -> None:
        """Move the graph so that the student's next steps help more on held-back rows.

        Args:
            number: of the step.
            held_back: gives M, this process's part of it.
            terms: gives the losses of the step's batch, of all processes together; run with autograd off.
            optimizer: the student's; until its first step there is no preconditioner and nothing happens. None runs
                everything in order to see what it takes, with the bare gradient, and leaves the graph as it was.
        """
        gradients = torch.autograd.grad(held_back(), self.weights, allow_unused=True)
        whole = [torch.zeros_like(w) if g is None else g for w, g in zip(self.weights, gradients, strict=True)]
        if self.processes.size > 1:
            flat = self.processes.all_reduce(torch.cat([g.reshape(-1) for g in whole]))
            parts = torch.split(flat, [w.numel() for w in self.weights])
            whole = [part.view_as(w) for part, w in zip(parts, self.weights, strict=True)]
        direction: list[Tensor] | None
        if optimizer is None:
            direction = [g / (g.abs().sqrt() + 1) for g in whole]  # as many numbers in between
        else:
            direction = optimizer.preconditioned(self.weights, whole)
        if direction is None:
            return
        slopes = self.slopes(number, direction, terms)
        if optimizer is None:
            return
        ratios = self.graph(slopes.prototypes).domain
        loss = -(ratios * slopes.losses).sum()
        self.adam.zero_grad(set_to_none=True)
        # The graph's forward pass ran in float32; its gradients need no scaling.
        loss.backward()
        self.adam.step()

    @torch.no_grad()
    def slopes(self, number: int, direction: Sequence[Tensor], terms: Callable[[], BatchTerms]) -> Slopes:
        """Return the derivatives of every domain's losses along ``direction``; the student is left as it was."""
        own = [w.clone() for w in self.weights]
        length = torch.stack([w.norm() for w in own]).norm()
        reach = REACH * length / torch.stack([d.norm() for d in direction]).norm().clamp_min(1e-30)
        found = []
        try:
            for sign in (1, -1):
                for weight, before, step in zip(self.weights, own, direction, strict=True):
                    weight.copy_(before + sign * reach * step)
                devices = [self.weights[0].device] if self.weights[0].is_cuda else []
                with torch.random.fork_rng(devices):
                    torch.manual_seed(self.seed + number)
                    found.append(terms())
        finally:
            for weight, before in zip(self.weights, own, strict=True):
                weight.copy_(before)
        ahead, behind = ((t.hidden + self.attention_weight * t.attention).float() for t in found)
        prototypes = (found[0].prototypes + found[1].prototypes).float() / 2
        return Slopes((ahead - behind) / (2 * reach), prototypes)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the graph and its Adam's moments."""
        tensors = {f"graph.{name}": tensor for name, tensor in self.graph.state_dict().items()}
        for index, parameter in enumerate(self.graph.parameters()):
            for name, value in self.adam.state.get(parameter, {}).items():
                tensors[f"adam.{index}.{name}"] = value
        return tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""
        weights = {name.removeprefix("graph."): t for name, t in state.items() if name.startswith("graph.")}
        self.graph.load_state_dict(weights)
        for index, parameter in enumerate(self.graph.parameters()):
            own = {name.split(".")[-1]: t for name, t in state.items() if name.startswith(f"adam.{index}.")}
            # A step count stays on the CPU, as Adam has it.
            moments = {name: t.clone().to("cpu" if name == "step" else parameter.device) for name, t in own.items()}
            self.adam.state.pop(parameter, None)
            if moments:
                self.adam.state[parameter] = moments
