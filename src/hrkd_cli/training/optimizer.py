"""AdamW, its schedule and gradient clipping, as in the paper's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.context import TrainContext

MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """AdamW for all parameters of some modules, linear warmup then linear decay to 0, gradient norm clipped at 1.

    Weight decay spares biases and normalization weights: everything that is not a matrix. Gradients of the processes
    add up.
    """

    def __init__(
        self, modules: Sequence[nn.Module], settings: TrainingSettings, steps: int, context: TrainContext
    ) -> None:
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.scaler = context.precision.scaler
        self.processes = context.processes
        self.peak_rate, self.steps, self.warmup = settings.learning_rate, steps, int(steps * settings.warmup)
        self.done = 0
        decayed = [p for p in self.parameters if p.dim() >= 2 and not getattr(p, "no_decay", False)]
        spared = [p for p in self.parameters if p.dim() < 2 or getattr(p, "no_decay", False)]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        # One kernel over all parameters: on a CPU a fifth of the time of the loop over them.
        fused = all(p.dtype == torch.float32 for p in self.parameters)
        self.adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)

    @property
    def learning_rate(self) -> float:
        """Rate of the next step."""
        if self.done < self.warmup:
            return self.peak_rate * (self.done / self.warmup)
        return self.peak_rate * max(0.0, (self.steps - self.done) / max(1, self.steps - self.warmup))

    def step(self) -> Tensor:
        """Clip, update, advance the schedule, drop the gradients; return the gradients' norm before clipping."""
        self.processes.all_reduce_grads(self.parameters)
        if self.scaler is not None:
            self.scaler.unscale_(self.adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate
        if self.scaler is None:
            self.adamw.step()
        else:
            self.scaler.step(self.adamw)  # skipped where a gradient overflowed
            self.scaler.update()
        self.done += 1
        self.adamw.zero_grad()
        return norm

    def preconditioned(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor] | None:
        """Divide gradients by what AdamW would now divide them by; None before its first step.

        What AdamW has not stepped yet, for want of a gradient, has a direction of 0.
        """
        group = self.adamw.param_groups[0]
        stepped = next((self.adamw.state[p] for p in parameters if self.adamw.state.get(p)), None)
        # A step that was skipped for overflowed gradients leaves a state behind too, of step 0.
        steps = 0.0 if stepped is None else float(stepped["step"])
        if steps == 0:
            return None
        correction = 1 - group["betas"][1] ** steps
        found = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.adamw.state.get(parameter)
            scale = None if not state else (state["exp_avg_sq"] / correction).sqrt() + group["eps"]
            found.append(torch.zeros_like(gradient) if scale is None else gradient / scale)
        return found


class AdamMoments:
    """Moments and step counts of an Adam optimizer, flat for a checkpoint: ``N.NAME`` is that of parameter N."""

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        self.adam = adam

    def state_dict(self) -> dict[str, Tensor]:
        """Return them."""
        states = self.adam.state_dict()["state"].items()
        return {f"{number}.{name}": tensor for number, own in states for name, tensor in own.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict()`` returned."""
        found: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            number, _, name = key.partition(".")
            found.setdefault(int(number), {})[name] = tensor
        self.adam.load_state_dict({**self.adam.state_dict(), "state": found})
