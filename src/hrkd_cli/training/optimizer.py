"""AdamW with a linear schedule and gradient clipping, as in the paper's recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.context import TrainContext

MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """AdamW with linear warmup, linear decay to 0, and the gradient norm clipped at 1.

    Weight decay applies to matrices only, not to biases and normalization weights. Gradients are summed over processes.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        settings: TrainingSettings,
        steps: int,
        context: TrainContext,
        *,
        learning_rate: float,
    ) -> None:
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.scaler = context.precision.scaler
        self.processes = context.processes
        self.peak_rate, self.steps, self.warmup = learning_rate, steps, int(steps * settings.warmup)
        self.step_count = 0
        decay = [p for p in self.parameters if p.dim() >= 2 and not getattr(p, "no_decay", False)]
        no_decay = [p for p in self.parameters if p.dim() < 2 or getattr(p, "no_decay", False)]
        groups = [
            {"params": decay, "weight_decay": settings.weight_decay},
            {"params": no_decay, "weight_decay": 0.0},
        ]
        # One kernel for all parameters takes a fifth of the time of a loop over them on a CPU.
        fused = all(p.dtype == torch.float32 for p in self.parameters)
        self.adamw = torch.optim.AdamW(groups, lr=learning_rate, fused=fused)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        if self.step_count < self.warmup:
            return self.peak_rate * (self.step_count / self.warmup)
        return self.peak_rate * max(0.0, (self.steps - self.step_count) / max(1, self.steps - self.warmup))

    def step(self, before_update: Callable[[Tensor], None] | None = None) -> Tensor:
        """Clip gradients, update parameters, advance the schedule, clear gradients; return the norm before clipping.

        ``before_update`` is called with this norm, when the gradients are final and the parameters still the old ones.
        """
        self.processes.all_reduce_grads(self.parameters)
        if self.scaler is not None:
            self.scaler.unscale_(self.adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        if before_update is not None:
            before_update(norm)
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate
        if self.scaler is None:
            self.adamw.step()
        else:
            self.scaler.step(self.adamw)  # skips the update if a gradient overflowed
            self.scaler.update()
        self.step_count += 1
        self.adamw.zero_grad()
        return norm

    def backpropagate_update(self, gradients: Sequence[Tensor], norm: Tensor) -> list[Tensor] | None:
        """Backpropagate through the coming update, before it is made: from its parameters to this step's gradients.

        Differentiates clipping and both of AdamW's moments. Where this step's gradient is 0, so is the result, because
        no loss of this step depends on the parameter.

        Args:
            gradients: of a loss after the update, with respect to each of ``parameters``.
            norm: of this step's gradients, before clipping.

        Returns:
            The loss's derivative by each of this step's gradients, up to a negative factor. None in AdamW's first
            step, which depends only on the gradients' signs, and if fp16 gradients overflowed.
        """
        group = self.adamw.param_groups[0]
        (beta1, beta2), eps = group["betas"], group["eps"]
        state = next(iter(self.adamw.state.values()), None)
        # A first step that was skipped because gradients overflowed leaves a state with step 0.
        steps = 0.0 if state is None else float(state["step"])
        if steps == 0 or (self.scaler is not None and not norm.isfinite()):
            return None
        mean_rate, square_rate = ((1 - beta) / (1 - beta ** (steps + 1)) for beta in (beta1, beta2))
        derivatives = []
        along = torch.zeros_like(norm)  # product of the derivatives and the clipped gradients
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            state, own = self.adamw.state.get(parameter), parameter.grad
            if not state or own is None:
                derivatives.append(torch.zeros_like(gradient))
                continue
            mean = mean_rate * (beta1 / (1 - beta1) * state["exp_avg"] + own)
            square = square_rate * (beta2 / (1 - beta2) * state["exp_avg_sq"] + own.square())
            root = square.sqrt()
            slope = mean_rate - square_rate * mean * own / square  # 0 for a first gradient: only its sign counts
            used = (own != 0) & (root > eps)
            derivatives.append(torch.where(used, gradient * slope / (root + eps), 0.0))
            along += (derivatives[-1] * own).sum()
        along.masked_fill_(norm <= MAX_GRADIENT_NORM, 0.0)
        # Clipped gradients keep their norm, so their length does not count.
        return [d if p.grad is None else d - along * p.grad for d, p in zip(derivatives, self.parameters, strict=True)]


class AdamMoments:
    """Moments and step counts of an Adam optimizer as a flat dict: ``N.NAME`` is NAME of parameter N."""

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        self.adam = adam

    def state_dict(self) -> dict[str, Tensor]:
        """Return moments and step counts by flat name."""
        states = self.adam.state_dict()["state"].items()
        return {f"{index}.{name}": tensor for index, state in states for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict()`` returned."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            index, _, name = key.partition(".")
            states.setdefault(int(index), {})[name] = tensor
        self.adam.load_state_dict({**self.adam.state_dict(), "state": states})
