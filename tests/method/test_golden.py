"""The loss, ratios and gradients of the released code, case by case (see golden/README.md)."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hrkd_cli.method import (
    LOSSES,
    DomainGraph,
    LossInputs,
    MeanWeights,
    Outputs,
    Projections,
    weighted_terms,
)

FOLDER = Path(os.environ.get("HRKD_GOLDEN") or Path(__file__).resolve().parents[1] / "golden")
CASES = sorted(FOLDER.glob("*.safetensors"))


class Case:
    """One golden file, in the wanted precision."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        with safe_open(str(path), "pt") as file:
            self.meta = file.metadata()
            self.tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
        self.dtype = dtype
        self.domains = range(len(json.loads(self.meta["domains"])))
        self.layers = int(self.meta["student_layers"])
        self.interval = int(self.meta["teacher_interval"])
        self.inputs = {
            name: tensor.requires_grad_()
            for name, tensor in self.tensors.items()
            if ".student." in name and not name.startswith("expected")
        }

    def all_rows(self, name: str) -> torch.Tensor:
        return torch.cat([self.tensors[f"{d}.{name}"] for d in self.domains])

    def outputs(self, side: str, *, every: int) -> Outputs:
        """Outputs for the rows of all domains; the scores are queries, with the identity as keys."""
        layers = range(1, self.layers + 1)
        hidden = [self.all_rows(f"{side}.hidden_states.{every * n}") for n in (0, *layers)]
        scores = torch.stack([self.all_rows(f"{side}.attention_scores.{every * n - 1}") for n in layers])
        keys = torch.eye(scores.shape[-1], dtype=self.dtype).expand_as(scores)
        return Outputs(torch.stack(hidden), scores, keys, self.all_rows(f"{side}.logits"))

    def weights(self) -> MeanWeights:
        """Means over padding too, as released."""
        mask = self.all_rows("padding_mask") == 0
        rows, tokens = mask.shape
        per_domain = rows // len(self.domains)
        per_row = torch.ones(rows, dtype=self.dtype) / per_domain
        one_hot = torch.eye(len(self.domains), dtype=self.dtype).repeat_interleave(per_domain, dim=1)
        per_token = per_row[:, None].expand(rows, tokens) / tokens
        return MeanWeights(one_hot, per_row, per_token, per_row / tokens**2, None, mask)

    def graph(self) -> DomainGraph | None:
        if self.meta["use_graph"] != "True":
            return None
        width, heads = int(self.meta["hidden"]), int(self.meta["graph_heads"])
        hierarchy = self.meta["hierarchical"] == "True"
        slope = float(self.meta["leaky_relu_slope"])
        graph = DomainGraph(width, self.layers, len(self.domains), hierarchy=hierarchy, heads=heads, slope=slope)
        state = {}
        for layer in range(self.layers + 1):
            names = [f"graph.all_gnn.{layer}.attentions.{g}" for g in range(heads)]
            state[f"hidden.{layer}.weight"] = torch.stack([self.tensors[f"{n}.W"] for n in names])
            state[f"hidden.{layer}.attention"] = torch.stack([self.tensors[f"{n}.a"].view(2, width) for n in names])
            state[f"output.{layer}.weight"] = self.tensors[f"graph.all_gnn.{layer}.out_att.W"][None]
            state[f"output.{layer}.attention"] = self.tensors[f"graph.all_gnn.{layer}.out_att.a"].view(1, 2, 1)
        if hierarchy:
            state["reference"] = self.tensors["graph.w_attn_1"][1:]
            state["compare"] = self.tensors["graph.w_attn_2"][1:]
        graph.to(self.dtype).load_state_dict(state)
        return graph.eval()

    def prototypes(self, student: Outputs, weights: MeanWeights) -> torch.Tensor:
        width = student.hidden.shape[-1]
        # Hidden states in the files are projected already.
        identity = Projections(width, width, self.layers).to(self.dtype).requires_grad_(False)
        identity.weight.copy_(torch.eye(width))
        return identity.prototypes(student.hidden, weights)

    def run(self):
        teacher, student = self.outputs("teacher", every=self.interval), self.outputs("student", every=1)
        weights = self.weights()
        inputs = LossInputs(
            teacher,
            student,
            weights,
            None,
            temperature=float(self.meta["temperature"]),
            mean_classes=student.logits.shape[1],
            class_weights=None,
        )
        graph = self.graph()
        ratios = graph(self.prototypes(student, weights)) if graph else None
        loss_weights = {
            "hidden": float(self.meta["hidden_weight"]),
            "prediction": float(self.meta["prediction_weight"]),
        }
        loss_weights["attention"] = loss_weights["hidden"]
        losses = {loss.name: loss.compute(inputs) for loss in LOSSES if loss.name in loss_weights}
        return sum(weighted_terms(losses, ratios.domain if ratios else None, loss_weights).values()), ratios


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-300))


def test_there_are_golden_files():
    assert len(CASES) >= 6, f"no golden files in {FOLDER}"


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_float64_loss_ratios_and_gradients_equal_the_released_codes(path):
    case = Case(path, torch.float64)
    loss, ratios = case.run()
    actual = {"expected.loss": loss.detach().reshape(1)}
    if ratios is not None:
        actual["expected.domain_ratios"] = ratios.domain.detach()
        actual |= {f"expected.layer_ratios.{n}": r.detach() for n, r in enumerate(ratios.layer, 1)}
    gradients = torch.autograd.grad(loss, list(case.inputs.values()))
    actual |= {f"expected.grad.{name}": g for name, g in zip(case.inputs, gradients, strict=True)}

    expected = {name: t for name, t in case.tensors.items() if name.startswith("expected")}
    assert set(actual) == set(expected)
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    assert max(errors.values()) <= 1e-8, {name: e for name, e in errors.items() if e > 1e-8}


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_float32_loss_and_ratios_are_close_to_the_released_codes(path):
    case = Case(path, torch.float32)
    loss, ratios = case.run()
    assert relative_error(loss.detach().reshape(1), case.tensors["expected.loss"]) <= 1e-4
    if ratios is not None:
        assert relative_error(ratios.domain.detach(), case.tensors["expected.domain_ratios"]) <= 1e-4
        for n, layer in enumerate(ratios.layer, 1):
            assert relative_error(layer.detach(), case.tensors[f"expected.layer_ratios.{n}"]) <= 1e-4
