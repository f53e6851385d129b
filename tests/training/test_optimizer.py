"""AdamW's parameter groups, gradient clipping, and derivatives of an update."""

import copy

import pytest
import torch
from torch import nn

from hrkd_cli.method import Projections
from hrkd_cli.models.loading import load_classifier
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.optimizer import Optimizer


def test_weight_decay_does_not_apply_to_biases_and_norms(encoder):
    model = load_classifier(encoder, DomainHeads.build({"books": ("bad", "good")}))
    modules = [model, Projections(3, 4, 2)]
    decayed, spared = Optimizer(
        modules, TrainingSettings(), 10, TrainContext.start(TrainingSettings()), learning_rate=1e-3
    ).adamw.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in spared["params"])
    assert not any("LayerNorm" in names[id(p)] for p in decayed["params"])


def make_optimizer(*sizes, learning_rate=1e-2):
    modules = [nn.ParameterList([nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in sizes])]
    settings = TrainingSettings(warmup=0, weight_decay=0)
    return Optimizer(modules, settings, 10, TrainContext.start(settings), learning_rate=learning_rate)


def set_gradients(optimizer, gradients):
    for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
        parameter.grad = gradient.clone()


def test_gradients_are_clipped_to_norm_1_over_all_parameters():
    optimizer = make_optimizer(1, 1)
    set_gradients(optimizer, [torch.tensor([3.0]).double(), torch.tensor([4.0]).double()])
    seen = []
    norm = optimizer.step(lambda norm: seen.extend([norm.item(), *(p.grad.item() for p in optimizer.parameters)]))
    assert norm.item() == 5.0
    assert seen == pytest.approx([5.0, 0.6, 0.8])
    assert [optimizer.adamw.state[p]["exp_avg"].item() for p in optimizer.parameters] == pytest.approx([0.06, 0.08])


def test_smaller_gradients_are_not_clipped():
    optimizer = make_optimizer(1)
    set_gradients(optimizer, [torch.tensor([0.5]).double()])
    optimizer.step()
    assert optimizer.adamw.state[optimizer.parameters[0]]["exp_avg"].item() == pytest.approx(0.05)


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_backpropagation_through_an_update_equals_differences_of_real_updates(scale):
    """Clipped (scale 2) and not; the last parameter had no gradient before, so that only its sign counts."""
    torch.manual_seed(0)
    optimizer = make_optimizer(3, 2)
    for _ in range(4):
        set_gradients(optimizer, [torch.randn(3).double(), torch.tensor([0.5, 0.0]).double()])
        optimizer.step()
    gradients = [scale * torch.randn(3).double(), scale * torch.tensor([0.4, -0.3]).double()]
    of_loss = [torch.randn(3).double(), torch.randn(2).double()]  # a linear loss of the updated parameters
    start, moments = [p.detach().clone() for p in optimizer.parameters], copy.deepcopy(optimizer.adamw.state_dict())

    def loss_after(changed):
        with torch.no_grad():
            for parameter, value in zip(optimizer.parameters, start, strict=True):
                parameter.copy_(value)
        optimizer.adamw.load_state_dict(copy.deepcopy(moments))
        optimizer.step_count = 4
        set_gradients(optimizer, changed)
        optimizer.step(lambda norm: found.append(optimizer.backpropagate_update(of_loss, norm)))
        return sum((g * p.detach()).sum() for g, p in zip(of_loss, optimizer.parameters, strict=True)).item()

    found = []
    loss_after(gradients)
    result = torch.cat(found[0])
    differences = []
    for n in range(5):
        change = [torch.zeros(3).double(), torch.zeros(2).double()]
        change[n // 3][n % 3] = 1e-5
        up, down = (loss_after([g + s * c for g, c in zip(gradients, change, strict=True)]) for s in (1, -1))
        differences.append((up - down) / 2e-5)
    norm = torch.cat(gradients).norm().item()
    factor = -optimizer.peak_rate * (1 - 4 / 10) / max(1, norm)
    assert (norm > 1) == (scale == 2)
    torch.testing.assert_close(result * factor, torch.tensor(differences).double(), rtol=1e-4, atol=1e-7)
    if scale < 1:
        assert abs(result[4]) < 1e-6  # a first gradient


def test_there_is_no_derivative_of_the_first_update():
    optimizer = make_optimizer(2)
    set_gradients(optimizer, [torch.tensor([0.5, 0.1]).double()])
    seen = []
    optimizer.step(lambda norm: seen.append(optimizer.backpropagate_update([torch.ones(2)], norm)))
    assert seen == [None]


def test_parameters_without_a_gradient_in_this_step_have_no_derivative():
    """Not even if they never had one, so that AdamW would divide by its eps alone."""
    optimizer, seen = make_optimizer(3), []
    for gradient in ([0.5, 0.1, 0.0], [0.5, 0.0, 0.0]):
        set_gradients(optimizer, [torch.tensor(gradient).double()])
        optimizer.step(lambda norm: seen.append(optimizer.backpropagate_update([torch.ones(3).double()], norm)))
    (derivatives,) = seen[1]
    assert derivatives[0] != 0
    assert derivatives[1:].tolist() == [0, 0]
