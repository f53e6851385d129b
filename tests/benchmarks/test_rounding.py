"""The simulation of int8 gives what onnxruntime gives for the exported file, and lets gradients through."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hrkd_cli.choices import Target
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.models.loading import load_classifier
from hrkd_cli.onnx_export.plain import write_fp32
from hrkd_cli.onnx_export.quantize import write_smaller
from hrkd_cli.onnx_export.recipes import Precision, Recipe
from hrkd_cli.onnx_export.targets import weights_for
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import DomainHeads
from tiny import ARCHITECTURES, DOMAINS, make_texts, tiny_tokenizer, write_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rounding import Rounding

HEADS = DomainHeads.build(dict.fromkeys(DOMAINS, ("bad", "good")))
TEXTS = make_texts(40, 3)[0]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def student(request, tmp_path_factory):
    """A student whose weights are so large that rounding can be seen in its logits, and its fp32 graph."""
    folder = tmp_path_factory.mktemp("rounding") / request.param
    model = load_classifier(write_encoder(folder / "encoder", request.param), HEADS, role="student")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.dim() == 2 else parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer(types=request.param in ("bert", "electra")).save_pretrained(folder)
    backend = TorchBackend(folder, device="cpu")
    write_fp32(backend, folder / "model.onnx")
    return folder, backend


@pytest.mark.parametrize("per_channel", [True, False])
def test_logits_are_those_of_the_int8_file(student, per_channel):
    folder, backend = student
    weights = weights_for(Target.AVX2)  # 7 bits: right on whatever CPU runs this
    recipe = Recipe(precision=Precision.INT8, per_channel=per_channel)
    write_smaller(folder / "model.onnx", folder / "int8.onnx", recipe, weights=weights)
    wanted = OnnxBackend(folder, folder / "int8.onnx").logits(TEXTS)
    exact = backend.logits(TEXTS)
    with Rounding(backend.model, per_channel=per_channel, largest=weights.largest).on():
        alone, batched = backend.logits(TEXTS), backend.logits(TEXTS, batch_size=len(TEXTS), pad_to=24)
    assert np.abs(wanted - exact).max() > 1e-2
    for found in (alone, batched):
        errors = np.abs(found - wanted).max(axis=1)
        # The last digit of a sum decides where a value halfway between two steps goes: that may happen in some texts.
        assert np.quantile(errors, 0.8) < 2e-6
        assert np.abs(found - wanted).mean() < 0.1 * np.abs(exact - wanted).mean()
    np.testing.assert_array_equal(backend.logits(TEXTS), exact)  # off again


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=20)
    return BertForSequenceClassification(config).eval()


def batch(rows):
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[0, 3:] = 0
    return {"input_ids": torch.arange(rows * 5).reshape(rows, 5) % 20, "attention_mask": mask}


def test_gradients_are_those_of_the_rounded_numbers():
    torch.manual_seed(0)
    states, linear = torch.randn(3, 4, 8, requires_grad=True), nn.Linear(8, 6)
    upstream = torch.randn(3, 4, 6)
    model = nn.Module()
    model.part = linear
    model.config = BertConfig(num_hidden_layers=1)
    rounding = Rounding(model)
    rounding.mask = torch.ones(3, 4, dtype=torch.bool)
    found = rounding.linear(states, linear.weight, linear.bias)
    found.backward(upstream)

    low, high = states.detach().amin(dim=(1, 2), keepdim=True), states.detach().amax(dim=(1, 2), keepdim=True)
    step = (high - low) / 255
    near = ((states.detach() / step).round() * step).requires_grad_()
    scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
    weight = ((linear.weight.detach() / scale).round() * scale).requires_grad_()
    bias = linear.bias.detach().clone().requires_grad_()
    wanted = F.linear(near, weight, bias)
    wanted.backward(upstream)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(states.grad, near.grad)
    torch.testing.assert_close(linear.weight.grad, weight.grad)
    torch.testing.assert_close(linear.bias.grad, bias.grad)


def test_every_parameter_learns_through_the_rounding(bert):
    with Rounding(bert).on():
        bert(**batch(3)).logits.square().sum().backward()
    rounded = {name: p.grad.clone() for name, p in bert.named_parameters()}
    bert.zero_grad()
    bert(**batch(3)).logits.square().sum().backward()
    for name, parameter in bert.named_parameters():
        if parameter.grad.norm() > 1e-6:  # a key's bias moves nothing
            cosine = F.cosine_similarity(rounded[name].flatten(), parameter.grad.flatten(), dim=0)
            assert cosine > 0.9, name


def test_padding_and_other_rows_change_nothing(bert):
    inputs = batch(4)
    with Rounding(bert).on(), torch.no_grad():
        together = bert(**inputs).logits
        alone = bert(input_ids=inputs["input_ids"][:1, :3], attention_mask=inputs["attention_mask"][:1, :3]).logits
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-6)


def test_rounding_is_in_float32_inside_bf16(bert):
    seen = {}
    layer = bert.bert.encoder.layer[0].intermediate.dense
    layer.register_forward_hook(lambda _m, _i, output: seen.update(output=output))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), Rounding(bert).on():
        bert(**batch(2))
    assert seen["output"].dtype == torch.bfloat16
    torch.manual_seed(2)
    states = torch.randn(2, 5, 16)
    rounding = Rounding(bert)
    rounding.mask = torch.ones(2, 5, dtype=torch.bool)
    exact = rounding.linear(states, layer.weight, layer.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(rounding.linear(states, layer.weight, layer.bias), exact.bfloat16(), rtol=0, atol=0)


def test_a_failed_pass_leaves_nothing_on(bert):
    with pytest.raises(IndexError), Rounding(bert).on():
        bert(input_ids=torch.tensor([[99]]), attention_mask=torch.ones(1, 1, dtype=torch.long))
    assert not bert._forward_pre_hooks
    with torch.no_grad():
        exact = bert(**batch(2)).logits
        with Rounding(bert).on():
            assert not torch.equal(bert(**batch(2)).logits, exact)
        assert torch.equal(bert(**batch(2)).logits, exact)
