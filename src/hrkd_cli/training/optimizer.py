"""AdamW, its schedule and gradient clipping, as in the paper's recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

MAX_GRADIENT_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimizer:
    """Steps the trained modules: AdamW, linear warm-up then linear decay to 0, gradient norm clipped at 1.

    Weight decay spares biases and normalisation weights: everything that is not a matrix.

    Args:
        modules: whose parameters are trained, and clipped together.
        settings: learning rate, weight decay, warm-up.
        steps: optimizer steps in the whole run.
        arithmetic: scales fp16 gradients.
        processes: the processes whose gradients add up.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        settings: TrainingSettings,
        steps: int,
        *,
        arithmetic: Arithmetic | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.arithmetic = arithmetic
        self.processes = processes
        matrices = {id(p) for p in self.parameters if p.dim() >= 2 and not getattr(p, "no_decay", False)}
        groups = [
            {"params": [p for p in self.parameters if id(p) in matrices], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if id(p) not in matrices], "weight_decay": 0.0},
        ]
        # One kernel over all parameters: on a CPU a fifth of the time of the loop over them.
        fused = all(p.dtype == torch.float32 for p in self.parameters)
        self.adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
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

    def step(self) -> Tensor:
        """Clip, update, move the schedule on, clear the gradients; return the gradients' norm before clipping."""
        scaler = None if self.arithmetic is None else self.arithmetic.scaler
        self.processes.all_reduce_grads(self.parameters)
        if scaler is not None:
            scaler.unscale_(self.adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        if scaler is None:
            self.adamw.step()
        else:
            scaler.step(self.adamw)  # left out where a gradient overflowed
            scaler.update()
        self.schedule.step()
        self.clear()
        return norm

    def preconditioned(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor] | None:
        """Divide gradients by what AdamW would now divide them by; None before its first step.

        What AdamW has not stepped yet, for want of a gradient, has a direction of 0.

        Args:
            parameters: some of those that are trained.
            gradients: one each.
        """
        group = self.adamw.param_groups[0]
        stepped = next((self.adamw.state[p] for p in parameters if self.adamw.state.get(p)), None)
        # A step that was left out for overflowed gradients leaves a state behind too, of step 0.
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

    def clear(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's moments and step counts, by parameter number."""
        state = self.adamw.state
        return {
            f"{number}.{name}": state[parameter][name]
            for number, parameter in enumerate(self.parameters)
            if parameter in state
            for name in MOMENTS
        }

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Go on after ``steps`` steps from what ``tensors()`` returned then."""
        for number, parameter in enumerate(self.parameters):
            if f"{number}.step" in tensors:
                own = {name: tensors[f"{number}.{name}"] for name in MOMENTS}
                # A step count lives on the CPU unless a fused CUDA kernel reads it: AdamW's own rule.
                self.adamw.state[parameter] = {
                    name: t.to(parameter.device if name != "step" or parameter.is_cuda else "cpu").clone()
                    for name, t in own.items()
                }
        self.schedule.last_epoch = steps
        schedule = zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        rates = [base * factor(steps) for base, factor in schedule]
        for group, rate in zip(self.adamw.param_groups, rates, strict=True):
            group["lr"] = rate
        self.schedule._last_lr = rates
