"""AdamW, its schedule and gradient clipping, as in the paper's recipe."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hrkd_cli.config import TrainingSettings

MAX_GRADIENT_NORM = 1.0


class Optimiser:
    """Steps the trained modules: AdamW, linear warm-up then linear decay to 0, gradient norm clipped at 1.

    Weight decay spares biases and normalisation weights: everything that is not a matrix.

    Args:
        modules: whose parameters are trained, and clipped together.
        settings: learning rate, weight decay, warm-up.
        steps: optimiser steps in the whole run.
    """

    def __init__(self, modules: list[nn.Module], settings: TrainingSettings, steps: int) -> None:
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=settings.learning_rate)
        warmup = int(steps * settings.warmup)

        def factor(step: int) -> float:
            if step < warmup:
                return step / max(1, warmup)
            return max(0.0, (steps - step) / max(1, steps - warmup))

        self.schedule = LambdaLR(self.adamw, factor)

    @property
    def learning_rate(self) -> float:
        """Rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def step(self) -> None:
        """Clip, update, move the schedule on, clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self.adamw.step()
        self.schedule.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none=True)
