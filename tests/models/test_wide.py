"""The wide branch: its logits by hand, and what an encoder with a branch reads."""

import json

import numpy as np
import pytest
import torch

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.models.wide import WideBranch, hash_pairs
from tiny_folder import MAX_LENGTH, make_texts, with_wide_branch, write_model

V, B, OUTPUTS = 10, 8, 3


@pytest.fixture
def branch():
    return WideBranch(torch.randn(V + B, OUTPUTS, generator=torch.Generator().manual_seed(0)), V)


def test_pairs_are_hashed_alike_in_numpy_and_torch():
    assert hash_pairs(4, 5, 8) == (4 * 1_000_003 + 5) % 8 == 1
    first, second = np.array([4, 30_000]), np.array([5, 29_999])
    expected = [1, (30_000 * 1_000_003 + 29_999) % 8]
    assert hash_pairs(first, second, 8).tolist() == expected
    assert hash_pairs(torch.from_numpy(first), torch.from_numpy(second), 8).tolist() == expected


def test_the_logits_are_the_sum_over_tokens_and_pairs_divided_by_the_root_of_the_length(branch):
    weight = branch.embedding.weight
    logits = branch(torch.tensor([[1, 4, 5, 2], [1, 7, 2, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
    # With 8 buckets, a pair's row is V + (3 a + b) % 8, because 1,000,003 % 8 is 3.
    first = weight[[1, 4, 5, 2]].sum(0) + weight[[V + 7, V + 1, V + 1]].sum(0)
    second = weight[[1, 7, 2]].sum(0) + weight[[V + 2, V + 7]].sum(0)
    torch.testing.assert_close(logits, torch.stack([first / 2, second / 3**0.5]))


def test_a_part_of_the_vocabulary_and_the_outputs_gives_the_same_logits(branch):
    ids, mask = torch.tensor([[1, 4, 5, 2]]), torch.ones(1, 4, dtype=torch.long)
    kept = [1, 2, 4, 5]  # in their new order: 1 -> 0, 2 -> 1, 4 -> 2, 5 -> 3
    part = branch.select(kept, [2, 0])
    assert part.embedding.weight.shape == (4 + B, 2)
    expected = branch(ids, mask)[:, [2, 0]]
    torch.testing.assert_close(part(torch.tensor([[0, 2, 3, 1]]), mask), expected)
    # Trimmed once more: only outputs, then only tokens.
    torch.testing.assert_close(branch.select(range(V), [2, 0])(ids, mask), expected)
    again = part.select([0, 1, 2, 3], [1])
    torch.testing.assert_close(again(torch.tensor([[0, 2, 3, 1]]), mask), expected[:, 1:])


def test_a_saved_branch_is_read_back(branch, tmp_path):
    part = branch.select([1, 2, 4, 5], [0, 1, 2])
    part.save(tmp_path)
    loaded = WideBranch.load(tmp_path, 4)
    torch.testing.assert_close(loaded.embedding.weight, part.embedding.weight)
    assert loaded.hash_ids.tolist() == [1, 2, 4, 5]
    (tmp_path / "model_wide.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"model_wide\.safetensors: cannot be read .*copy the whole folder again"):
        WideBranch.load(tmp_path, 4)


def test_a_student_whose_branch_was_not_copied_cannot_be_opened(tmp_path):
    wide = with_wide_branch(write_model(tmp_path / "plain"), tmp_path / "wide")
    (wide / "model_wide.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model_wide\.safetensors: cannot be read .*No such file"):
        Predictor(wide)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_the_encoder_reads_a_truncated_text_and_the_branch_all_of_it(tmp_path, architecture):
    plain = write_model(tmp_path / "plain", architecture=architecture)
    wide = with_wide_branch(plain, tmp_path / "wide")
    texts = [" ".join(make_texts(6, seed)) for seed in range(4)] + make_texts(6)
    model = TorchBackend(wide)
    encoded = model.tokenizer.encode(texts)
    assert max(map(len, encoded)) > MAX_LENGTH
    for text, one in zip(texts, encoded, strict=True):
        ids = torch.tensor([one.ids])
        expected = Predictor(plain).logits([text]) + model.wide(ids, torch.ones_like(ids)).numpy()
        np.testing.assert_allclose(model.logits([text]), expected, atol=1e-5)
    np.testing.assert_allclose(model.logits(texts, batch_size=8), model.logits(texts, batch_size=1), atol=1e-5)
    assert model.parameters == Predictor(plain)._backend.parameters + model.wide.embedding.weight.numel()
    assert json.loads((wide / "config.json").read_text())["hrkd"]["encoder_length"] == MAX_LENGTH
