import numpy as np
import pytest

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.encoder import TextEncoder, find_pad_id
from tiny_folder import write_tokenizer


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


def encoder(folder, max_length=8):
    return TextEncoder.from_folder(folder, max_length=max_length, config={})


def test_ids_are_those_of_transformers(folder):
    from transformers import AutoTokenizer

    texts = ["a good book", "zzz", "", "very " * 30]
    theirs = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=8)["input_ids"]
    assert [e.ids for e in encoder(folder).encode(texts)] == theirs


def test_pairs_are_cut_at_the_longer_text(folder):
    [pair] = encoder(folder).encode(["good"], ["bad " * 20])
    # [CLS] good [SEP] and four of the twenty words, [SEP].
    assert len(pair) == 8
    assert pair.types == [0, 0, 0, 1, 1, 1, 1, 1]


def test_settings_saved_in_the_tokenizer_are_overridden(folder):
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_padding(length=50)
    saved.enable_truncation(3)
    saved.save(str(folder / "tokenizer.json"))
    assert len(encoder(folder).encode(["good book"])[0]) == 4


def test_collate_pads_to_the_longest_or_to_a_length(folder):
    own = encoder(folder)
    own.pad_id = 7
    batch = own.encode(["good", "a good book"])
    arrays = own.collate(batch)
    assert arrays["input_ids"].shape == (2, 5)
    assert arrays["input_ids"][0].tolist()[3:] == [7, 7]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert own.collate(batch, 8)["input_ids"].shape == (2, 8)
    assert all(array.dtype == np.int64 for array in arrays.values())


def test_pad_id_from_the_tokenizer_then_the_model_then_a_usual_name(folder):
    tokenizer = encoder(folder)._tokenizer
    assert find_pad_id(tokenizer, {"pad_token": {"content": "[SEP]"}}, {"pad_token_id": 9}) == 3
    assert find_pad_id(tokenizer, {"pad_token": "[CLS]"}, {"pad_token_id": 9}) == 2
    assert find_pad_id(tokenizer, {}, {"pad_token_id": 9}) == 9
    assert find_pad_id(tokenizer, {}, {}) == 0


@pytest.mark.parametrize(
    ("texts", "pairs", "said"),
    [("abc", None, "one string"), (["a", None], None, r"texts\[1\]: NoneType"), (["a", "b"], ["c"], "2 texts but 1")],
)
def test_what_is_not_a_list_of_texts_is_refused(folder, texts, pairs, said):
    with pytest.raises(UsageError, match=said):
        encoder(folder).encode(texts, pairs)


def test_missing_and_broken_tokenizers(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read as a tokenizer"):
        encoder(tmp_path)
