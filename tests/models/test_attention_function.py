"""Our attention function, and dropout and embeddings on a CPU: the mathematics of torch's own, with other masks."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSequenceClassification

from hrkd_cli.models import attention_function
from hrkd_cli.models.attention_function import FastCpuOps, _Attention, attention_forward, use_training_kernels
from hrkd_cli.models.loading import new_classifier
from tiny import ARCHITECTURES, tiny_config


def run(query, key, value, mask=None, *, dropout=0.0, **options):
    """Our attention as transformers calls it."""
    return attention_forward(Encoder(), query, key, value, mask, dropout=dropout, **options)[0].transpose(1, 2)


class Encoder(nn.Module):
    is_causal = False


def attend_plainly(query, key, value, mask, keep, factor):
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    return (scores.softmax(dim=-1) * keep * factor) @ value


@pytest.mark.parametrize("probability", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_attention_and_its_gradients(kind, probability):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    if kind == "none":
        mask = None
    elif kind == "added":
        mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64).masked_fill(~mask, -1e9)
    keep, factor = (
        FastCpuOps().dropout_mask(torch.Size((2, 3, 5, 5)), probability, torch.float64) if probability else (None, 1.0)
    )
    found = _Attention.apply(query, key, value, mask, 0.5, keep, factor)
    wanted = attend_plainly(query, key, value, mask, 1.0 if keep is None else keep, factor)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    own = torch.autograd.grad((found * weights).sum(), (query, key, value))
    others = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    for mine, theirs in zip(own, others, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_a_row_without_any_key_stays_finite_in_bf16(probability):
    """Sliding windows leave padding with no key at all, and float32's lowest number is -inf in bf16."""
    query, key, value = (torch.randn(1, 2, 5, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.zeros(1, 1, 5, 5)
    mask[:, :, 3] = torch.finfo(torch.float32).min
    before = mask.clone()
    with FastCpuOps(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(query, key, value, mask, dropout=probability)
    found.sum().backward()
    for tensor in (found, query.grad, key.grad, value.grad):
        assert torch.isfinite(tensor).all()
    assert torch.equal(mask, before)
    if not probability:
        torch.testing.assert_close(found[:, :, 3], value.mean(dim=2), atol=2e-2, rtol=2e-2)


def test_masks_keep_the_right_fraction_and_follow_torchs_seed():
    torch.manual_seed(3)
    keep, factor = FastCpuOps().dropout_mask(torch.Size((1000, 1001)), 0.1, torch.float32)
    assert keep.mean().item() == pytest.approx(0.9, abs=1e-3)
    assert factor * keep.mean().item() == pytest.approx(1, abs=1e-3)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(3)
    assert torch.equal(FastCpuOps().dropout_mask(torch.Size((1000, 1001)), 0.1, torch.float32)[0], keep)
    assert not torch.equal(FastCpuOps().dropout_mask(torch.Size((1000, 1001)), 0.1, torch.float32)[0], keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_do_not_depend_on_threads(dtype, monkeypatch):
    shape = torch.Size((3, 7, 11))
    found = []
    for worth in (1, 10**9):
        monkeypatch.setattr(attention_function, "_MIN_PARALLEL_SIZE", worth)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        torch.manual_seed(5)
        masks = FastCpuOps()
        found.append([masks.dropout_mask(shape, 0.5, dtype)[0] for _ in range(3)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert set(one.unique().tolist()) == {0.0, 1.0}
        halves = one.flatten().tensor_split(2)
        assert not torch.equal(halves[0][:100], halves[1][:100])  # each stream has numbers of its own


def test_dropout_and_its_gradient():
    values = torch.randn(64, 33, dtype=torch.float64, requires_grad=True)
    model = nn.Sequential(nn.Dropout(0.25))
    model.set_attn_implementation = lambda name: None
    use_training_kernels(model)
    with FastCpuOps() as fast:
        found = model(values)
        assert fast.streams
        assert torch.equal(model.eval()(values), values)
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] / 0.75)
    assert 0.65 < kept.double().mean().item() < 0.85
    found.sum().backward()
    torch.testing.assert_close(values.grad, kept.double() / 0.75)


def test_attention_is_torchs_own_but_in_training():
    query, key, value = (torch.randn(1, 2, 6, 4) for _ in range(3))
    wanted = scaled_dot_product_attention(query, key, value)
    assert torch.equal(run(query, key, value), wanted)
    with FastCpuOps() as fast:
        assert torch.equal(run(query, key, value), wanted)
        causal = run(query, key, value, is_causal=True, dropout=0.5)
        assert not fast.streams  # nothing was drawn
        found = run(query, key, value, dropout=0.5)
        assert fast.streams
    assert found.shape == wanted.shape == causal.shape
    assert not torch.equal(found, wanted)


def test_attention_without_dropout_is_ours_where_a_gradient_comes(monkeypatch):
    runs = []
    own = FastCpuOps.attention
    monkeypatch.setattr(FastCpuOps, "attention", lambda self, *given: runs.append(1) or own(self, *given))
    query, key, value = (torch.randn(1, 2, 600, 4, requires_grad=True) for _ in range(3))
    short = [t[:, :, :6] for t in (query, key, value)]
    with FastCpuOps() as fast:
        found = run(*short)
        assert len(runs) == 1
        with torch.no_grad():
            run(*short)
        run(*(t.detach() for t in short))
        run(query, key, value)  # its scores would not be worth their memory
        assert len(runs) == 1
        assert not fast.streams
    torch.testing.assert_close(found, scaled_dot_product_attention(*short))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_train_and_are_saved_as_without_it(tmp_path, architecture):
    """Losses and gradients in training mode, without dropout; nothing of it is in the saved folder."""
    torch.manual_seed(0)
    config = tiny_config(architecture)
    for name in [n for n in vars(config) if "dropout" in n]:
        setattr(config, name, 0.0)
    model = new_classifier(config)
    ids = torch.randint(5, 60, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    found = []
    for ours in (False, True):
        if ours:
            use_training_kernels(model)
        model.train().zero_grad()
        with FastCpuOps():
            logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for torchs, own in zip(*found, strict=True):
        torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == attention_function.NAME
    model.save_pretrained(tmp_path / "saved")
    assert attention_function.NAME not in (tmp_path / "saved" / "config.json").read_text()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").config._attn_implementation == "sdpa"
