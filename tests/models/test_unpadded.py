"""Rows side by side show what they show padded, in every architecture that takes part; the others are left alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hrkd_cli.errors import ModelError
from hrkd_cli.models.capture import Capture
from hrkd_cli.models.encoding import Batch
from hrkd_cli.models.loading import new_classifier
from hrkd_cli.models.sizes import Sizes
from hrkd_cli.models.unpadded import Layout, SideBySide, Unpadded
from tiny import ARCHITECTURES, tiny_config

LENGTHS = np.array([2, 3, 5, 5, 9, 7])  # the second group needs no padding, the others do
SIZES = [2, 2, 2]
# ModernBERT has masks of its own. DistilBERT and ELECTRA depend on the version of transformers: an earlier DistilBERT
# cannot be told positions, an earlier ELECTRA makes a mask where it is given none.
TAKE_PART = {"bert": True, "roberta": True, "modernbert": False}


def make_model(architecture, layers=2):
    torch.manual_seed(0)
    model = new_classifier(tiny_config(architecture, layers=layers))
    with torch.no_grad():
        for p in model.parameters():  # large enough that another mask or position would show
            if p.dim() == 2:
                p.mul_(5)
    return model.eval()


def both_ways(model, beside, named=()):
    """The same rows padded and side by side; some tokens are the padding token, named by the text."""
    pad = model.config.pad_token_id or 0
    layout = Layout.of(LENGTHS, SIZES)
    ids = np.random.RandomState(0).randint(5, 60, layout.tokens)
    ids[list(named)] = pad
    valid = torch.arange(9) < torch.from_numpy(LENGTHS)[:, None]
    padded = torch.full(valid.shape, pad)
    padded[valid] = torch.from_numpy(ids)
    inputs = {"input_ids": padded, "attention_mask": valid.long()}
    return Batch(inputs, valid), Batch(beside.inputs(ids, None, layout), torch.ones(1, len(ids)).bool(), layout)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_shown_is_what_padded_rows_show(architecture):
    model = make_model(architecture)
    beside = SideBySide.find(model)
    assert (beside is not None) == TAKE_PART.get(architecture, beside is not None)
    if beside is None:
        return
    assert beside.first == (model.config.pad_token_id + 1 if architecture == "roberta" else 0)
    padded, batch = both_ways(model, beside)
    capture = Capture(model, (1, 2), attention=True)
    results = []
    for given in (padded, batch):
        model.zero_grad()
        seen = capture(given)
        if given.layout is None:
            hidden = [h[padded.mask] for h in seen.hidden]
            scores = [(q @ k.mT)[:, :, :9, :9] for q, k in zip(seen.queries, seen.keys, strict=True)]
            cells = padded.mask[:, None, :, None] & padded.mask[:, None, None, :]
            scores = [s[cells.expand_as(s)] for s in scores]
        else:
            hidden = [h[0] for h in seen.hidden]
            scores = []
            for layer in (0, 1):
                parts = []
                own_layer = slice(3 * layer, 3 * layer + 3)
                both = zip(batch.layout.groups, seen.queries[own_layer], seen.keys[own_layer], strict=True)
                for group, q, k in both:
                    own = torch.arange(group.length) < torch.from_numpy(LENGTHS[group.rows])[:, None]
                    cells = own[:, None, :, None] & own[:, None, None, :]
                    found = q @ k.mT
                    assert found.shape == (group.count, 4, group.length, group.length)
                    parts.append(found[cells.expand_as(found)])
                scores.append(torch.cat(parts))
        sum(t.square().sum() for t in (seen.logits, *hidden, *scores)).backward()
        results.append([seen.logits, *hidden, *scores, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * one.abs().max().item())


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_texts_may_name_the_padding_token(architecture):
    model = make_model(architecture)
    padded, batch = both_ways(model, SideBySide.find(model), named=(3, 12, 30))
    capture = Capture(model, (), attention=False)
    torch.testing.assert_close(capture(batch).logits, capture(padded).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", [12, 40, 66, 200])
def test_any_number_of_positions(positions):
    for architecture in ("bert", "roberta"):
        torch.manual_seed(0)
        config = tiny_config(architecture)
        config.max_position_embeddings = positions
        assert SideBySide.find(new_classifier(config)) is not None
    config.max_position_embeddings = 5000
    assert SideBySide.find(new_classifier(config)) is None


def test_a_model_that_attends_another_number_of_times_is_refused():
    model = make_model("bert")
    _, batch = both_ways(model, SideBySide.find(model))
    capture = Capture(model, (1,), attention=True)
    capture.sizes = Sizes(1, 32, 4)
    with pytest.raises(ModelError, match="--method logits"):
        capture(batch)


def test_a_model_is_left_as_it_was():
    model = make_model("bert").train()
    state = torch.get_rng_state()
    SideBySide.find(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_models_that_see_more_than_rows_are_padded():
    model = make_model("bert")
    model.config._attn_implementation = "eager"
    assert SideBySide.find(model) is None
    model = make_model("bert")
    model.config.sliding_window = 512
    assert SideBySide.find(model) is None
    model = make_model("bert")
    forward = model.bert.embeddings.forward
    # Positions by place in the batch, whatever it is told.
    model.bert.embeddings.forward = lambda **given: forward(**{**given, "position_ids": None})
    assert SideBySide.find(model) is None


def test_attention_with_a_mask_of_its_own_is_refused():
    states = torch.randn(1, 2, 31, 4)
    with Unpadded(Layout.of(LENGTHS, SIZES)):
        with pytest.raises(ValueError, match="mask of its own"):
            F.scaled_dot_product_attention(states, states, states, attn_mask=torch.zeros(31, 31))
        with pytest.raises(ValueError, match="mask of its own"):
            F.scaled_dot_product_attention(states, states, states, is_causal=True)


def test_only_the_first_token_of_the_whole_batch_is_every_rows():
    layout = Layout.of(np.array([2, 3]), [2])
    states, other = torch.arange(10.0).view(1, 5, 2), torch.arange(8.0).view(1, 4, 2)
    with Unpadded(layout):
        assert states[:, 0].tolist() == states[:, 0, :].tolist() == [[0, 1], [4, 5]]
        assert states[0].shape == (5, 2)
        assert states[:, 1].tolist() == [[2, 3]]
        assert states[:, 0, 1].tolist() == [1]
        assert other[:, 0].tolist() == [[0, 1]]


def test_gradients_that_padding_would_have_are_left_out():
    """Attention's gradients against a loop over rows, by autograd."""
    torch.manual_seed(0)
    layout = Layout.of(LENGTHS, SIZES)
    given = [torch.randn(1, 2, layout.tokens, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weight = torch.randn(1, 2, layout.tokens, 4, dtype=torch.float64)
    with Unpadded(layout):
        found = F.scaled_dot_product_attention(*given)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    rows = [slice(int(a), int(b)) for a, b in pairwise(starts)]
    wanted = torch.cat([F.scaled_dot_product_attention(*(t[:, :, row] for t in given)) for row in rows], dim=2)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((out * weight).sum(), given) for out in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
