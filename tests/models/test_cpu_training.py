"""Dropout and attention on a CPU in training: the mathematics of torch's own, with masks of their own."""

import pytest
import torch
import torch.nn.functional as F

from hrkd_cli.models.cpu_training import CpuTraining, Masks, _Attention


def attend_plainly(query, key, value, mask, keep, factor):
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    return (scores.softmax(dim=-1) * keep * factor) @ value


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_attention_and_its_gradients(kind, share):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    if kind == "none":
        mask = None
    elif kind == "added":
        mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64).masked_fill(~mask, -1e9)
    keep, factor = Masks().draw(torch.Size((2, 3, 5, 5)), share, torch.float64) if share else (None, 1.0)
    found = _Attention.apply(query, key, value, mask, 0.5, keep, factor)
    wanted = attend_plainly(query, key, value, mask, 1.0 if keep is None else keep, factor)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    own = torch.autograd.grad((found * weights).sum(), (query, key, value))
    others = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    for mine, theirs in zip(own, others, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_row_without_any_key_stays_finite_in_bf16(share):
    """Sliding windows leave padding with no key at all, and float32's lowest number is -inf in bf16."""
    query, key, value = (torch.randn(1, 2, 5, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.zeros(1, 1, 5, 5)
    mask[:, :, 3] = torch.finfo(torch.float32).min
    before = mask.clone()
    with CpuTraining(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share)
    found.sum().backward()
    for tensor in (found, query.grad, key.grad, value.grad):
        assert torch.isfinite(tensor).all()
    assert torch.equal(mask, before)
    if not share:
        torch.testing.assert_close(found[:, :, 3], value.mean(dim=2), atol=2e-2, rtol=2e-2)


def test_masks_keep_the_share_they_should_and_follow_torchs_seed():
    torch.manual_seed(3)
    keep, factor = Masks().draw(torch.Size((1000, 1001)), 0.1, torch.float32)
    assert keep.mean().item() == pytest.approx(0.9, abs=1e-3)
    assert factor * keep.mean().item() == pytest.approx(1, abs=1e-3)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(3)
    assert torch.equal(Masks().draw(torch.Size((1000, 1001)), 0.1, torch.float32)[0], keep)
    assert not torch.equal(Masks().draw(torch.Size((1000, 1001)), 0.1, torch.float32)[0], keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_do_not_depend_on_threads(dtype, monkeypatch):
    shape = torch.Size((3, 7, 11))
    found = []
    for worth in (1, 10**9):
        monkeypatch.setattr("hrkd_cli.models.cpu_training._WORTH_THREADS", worth)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        torch.manual_seed(5)
        masks = Masks()
        found.append([masks.draw(shape, 0.5, dtype)[0] for _ in range(3)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert set(one.unique().tolist()) == {0.0, 1.0}
        halves = one.flatten().tensor_split(2)
        assert not torch.equal(halves[0][:100], halves[1][:100])  # each stream has numbers of its own


def test_dropout_and_its_gradient():
    values = torch.randn(64, 33, dtype=torch.float64, requires_grad=True)
    with CpuTraining():
        found = F.dropout(values, 0.25, True)
        untouched = F.dropout(values, 0.25, False)
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] / 0.75)
    assert 0.65 < kept.double().mean().item() < 0.85
    found.sum().backward()
    torch.testing.assert_close(values.grad, kept.double() / 0.75)
    assert untouched is values or torch.equal(untouched, values)


def test_models_run_through_it_in_training_only():
    query, key, value = (torch.randn(1, 2, 6, 4) for _ in range(3))
    wanted = F.scaled_dot_product_attention(query, key, value)
    with CpuTraining() as mode:
        assert torch.equal(F.scaled_dot_product_attention(query, key, value), wanted)
        assert not mode.masks._streams  # nothing was drawn
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=0.5)
        assert mode.masks._streams
        causal = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=0.5)
    assert found.shape == wanted.shape == causal.shape
    assert not torch.equal(found, wanted)


def test_attention_without_dropout_is_ours_where_a_gradient_comes(monkeypatch):
    runs = []
    attend = CpuTraining._attend
    monkeypatch.setattr(CpuTraining, "_attend", lambda self, given: runs.append(1) or attend(self, given))
    query, key, value = (torch.randn(1, 2, 600, 4, requires_grad=True) for _ in range(3))
    short = [t[:, :, :6] for t in (query, key, value)]
    with CpuTraining() as mode:
        found = F.scaled_dot_product_attention(*short)
        assert len(runs) == 1
        with torch.no_grad():
            F.scaled_dot_product_attention(*short)
        F.scaled_dot_product_attention(*(t.detach() for t in short))
        F.scaled_dot_product_attention(query, key, value)  # its scores would not be worth their memory
        assert len(runs) == 1
        assert not mode.masks._streams
    torch.testing.assert_close(found, F.scaled_dot_product_attention(*short))


@pytest.mark.parametrize("padding", [None, 2, -1])
def test_look_ups_share_one_gradient(padding):
    """Two look-ups of one table, and one of another, twice over: torch's own gradients, each time."""
    torch.manual_seed(0)
    tables = [torch.randn(7, 3, requires_grad=True) for _ in range(2)]
    ids = torch.randint(0, 7, (2, 5)), torch.tensor([2, 6, 6])
    factors = [torch.randn(*i.shape, 3) for i in (*ids, ids[0])]

    def total():
        seen = F.embedding(ids[0], tables[0], padding), F.embedding(ids[1], tables[0], padding)
        return sum((s * f).sum() for s, f in zip((*seen, F.embedding(ids[0], tables[1])), factors, strict=True))

    wanted = torch.autograd.grad(total(), tables)
    for _ in range(2):
        with CpuTraining() as mode:
            found = total()
        assert len(mode.tables) == 2
        torch.testing.assert_close(found, total())
        for own, other in zip(torch.autograd.grad(found, tables, retain_graph=True), wanted, strict=True):
            torch.testing.assert_close(own, other)
        for own, other in zip(torch.autograd.grad(found, tables), wanted, strict=True):
            torch.testing.assert_close(own, other)
