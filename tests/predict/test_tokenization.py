import itertools
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from hrkd_cli.choices import Truncate
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.models.loading import new_classifier
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.predict.model_spec import build_spec
from hrkd_cli.predict.tokenization import TextTokenizer, find_pad_id, read_tokenizer
from tiny import tiny_config, tiny_tokenizer
from tiny_folder import write_tokenizer

LONG = "the a this it was thing box part one for"  # ids 5 to 14 of the tiny tokenizer; 2 and 3 are [CLS] and [SEP]
SHORT = "good fine great"
WORDS = LONG.split()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def truncated(tokenizer, max_length, truncate, *examples):
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pairs = [b for _, b in examples] if isinstance(examples[0], tuple) else None
    firsts = [a for a, _ in examples] if pairs else examples
    encoded = TextTokenizer(own, max_length=max_length, pad_id=0, truncate=truncate).encode(firsts, pairs)
    return [(e.ids, e.type_ids) for e in encoded]


@pytest.mark.parametrize(
    ("truncate", "even", "odd"),
    [
        ("head", [5, 6, 7, 8], [5, 6, 7, 8, 9]),
        ("tail", [11, 12, 13, 14], [10, 11, 12, 13, 14]),
        ("head-tail", [5, 6, 13, 14], [5, 6, 7, 13, 14]),
    ],
)
def test_a_text_longer_than_max_length_is_truncated(tokenizer, truncate, even, odd):
    assert truncated(tokenizer, 6, truncate, LONG) == [([2, *even, 3], [0] * 6)]
    assert truncated(tokenizer, 7, truncate, LONG) == [([2, *odd, 3], [0] * 7)]


@pytest.mark.parametrize(
    ("truncate", "first", "second"),
    [
        # Eleven tokens, of which three are special: the short text keeps its three, the long one gets five.
        ("head", [5, 6, 7], [5, 6, 7, 8, 9]),
        ("tail", [5, 6, 7], [10, 11, 12, 13, 14]),
        ("head-tail", [5, 6, 7], [5, 6, 7, 13, 14]),
    ],
)
def test_the_longer_text_of_a_pair_is_truncated(tokenizer, truncate, first, second):
    short = "the a this"
    assert truncated(tokenizer, 11, truncate, (short, LONG)) == [([2, *first, 3, *second, 3], [0] * 5 + [1] * 6)]
    assert truncated(tokenizer, 11, truncate, (LONG, short)) == [([2, *second, 3, *first, 3], [0] * 7 + [1] * 4)]


@pytest.mark.parametrize(
    ("truncate", "first", "second"),
    [
        ("head", [5, 6], [5, 6, 7]),
        ("tail", [13, 14], [12, 13, 14]),
        ("head-tail", [5, 14], [5, 6, 14]),
    ],
)
def test_two_long_texts_are_truncated_alike(tokenizer, truncate, first, second):
    assert truncated(tokenizer, 8, truncate, (LONG, LONG)) == [([2, *first, 3, *second, 3], [0] * 4 + [1] * 4)]


@pytest.mark.parametrize("truncate", Truncate)
def test_shorter_texts_are_not_truncated(tokenizer, truncate):
    whole = tokenizer.backend_tokenizer
    for example in (LONG, "", "good"):
        assert truncated(tokenizer, 12, truncate, example)[0][0] == whole.encode(example).ids
    assert truncated(tokenizer, 16, truncate, (LONG, SHORT))[0][0] == whole.encode(LONG, SHORT).ids


@pytest.mark.parametrize("truncate", Truncate)
def test_a_special_token_in_a_text_is_truncated_like_text(tokenizer, truncate):
    expected = {"head": [3, 5, 6, 7], "tail": [12, 13, 14, 3], "head-tail": [3, 5, 14, 3]}[truncate]
    assert truncated(tokenizer, 6, truncate, f"[SEP] {LONG} [SEP]") == [([2, *expected, 3], [0] * 6)]


def test_head_tail_keeps_as_many_tokens_of_each_text_as_the_library(tokenizer):
    library = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pairs = [(" ".join(WORDS[:a]), " ".join(WORDS[:b])) for a, b in itertools.product(range(10), repeat=2)]
    for max_length in (4, 7, 8):
        library.enable_truncation(max_length, strategy="longest_first")
        types = [encoding.type_ids for encoding in library.encode_batch(pairs)]
        assert [own for _, own in truncated(tokenizer, max_length, "head-tail", *pairs)] == types


@pytest.mark.parametrize("truncate", Truncate)
@pytest.mark.parametrize("pair", [False, True])
def test_prediction_and_training_tokenize_alike(tokenizer, tmp_path, truncate, pair):
    tokenizer.save_pretrained(tmp_path)
    texts = [" ".join(WORDS[:n]) for n in range(11)]
    pairs = [LONG, SHORT] * 5 + [""] if pair else None
    here = ModelTokenizer(new_classifier(tiny_config("bert")), tokenizer, 8, truncate).encode_rows(
        TextRows(texts, pairs, ["x"] * 11)
    )
    there = TextTokenizer(read_tokenizer(tmp_path), max_length=8, pad_id=0, truncate=truncate).encode(texts, pairs)
    assert [e.ids for e in there] == [e.ids.tolist() for e in here]
    assert [e.type_ids for e in there] == [e.type_ids.tolist() for e in here]
    assert max(map(len, here)) == 8
    # Truncation does not change the tokenizer, which is saved later.
    assert tokenizer.backend_tokenizer.truncation is None


def test_truncation_is_read_from_the_configuration(student):
    config = json.loads((student / "config.json").read_text())
    assert "truncate" not in config["hrkd"]
    assert build_spec(config, {}).truncate == "head"
    for truncate in Truncate:
        assert build_spec({**config, "hrkd": {**config["hrkd"], "truncate": truncate}}, {}).truncate == truncate


@pytest.mark.parametrize("value", ["middle", None, 3, ["head"]])
def test_an_unknown_truncation_in_the_configuration_is_an_error(student, value):
    config = json.loads((student / "config.json").read_text())
    with pytest.raises(ModelError, match=r"hrkd\.truncate.*not one of head, tail, head-tail"):
        build_spec({**config, "hrkd": {**config["hrkd"], "truncate": value}}, {})


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


def make_tokenizer(folder, max_length=8):
    return TextTokenizer(read_tokenizer(folder), max_length=max_length, pad_id=0)


def test_ids_equal_those_of_transformers(folder):
    from transformers import AutoTokenizer

    texts = ["a good book", "zzz", "", "very " * 30]
    theirs = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=8)["input_ids"]
    assert [e.ids for e in make_tokenizer(folder).encode(texts)] == theirs


def test_a_long_second_text_leaves_the_first_intact(folder):
    [pair] = make_tokenizer(folder).encode(["good"], ["bad " * 20])
    # [CLS] good [SEP] and four of the twenty words, [SEP].
    assert len(pair) == 8
    assert pair.type_ids == [0, 0, 0, 1, 1, 1, 1, 1]


def test_settings_saved_in_the_tokenizer_are_overridden(folder):
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_padding(length=50)
    saved.enable_truncation(3)
    saved.save(str(folder / "tokenizer.json"))
    assert len(make_tokenizer(folder).encode(["good book"])[0]) == 4


def test_pad_pads_to_the_longest_or_to_a_length(folder):
    own = make_tokenizer(folder)
    own.pad_id = 7
    batch = own.encode(["good", "a good book"])
    arrays = own.pad(batch)
    assert arrays["input_ids"].shape == (2, 5)
    assert arrays["input_ids"][0].tolist()[3:] == [7, 7]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert own.pad(batch, 8)["input_ids"].shape == (2, 8)
    assert all(array.dtype == np.int64 for array in arrays.values())


def test_pad_id_comes_from_the_tokenizer_then_the_model_then_a_common_name(folder):
    tokenizer = read_tokenizer(folder)
    assert find_pad_id(tokenizer, {"pad_token": {"content": "[SEP]"}}, {"pad_token_id": 9}) == 3
    assert find_pad_id(tokenizer, {"pad_token": "[CLS]"}, {"pad_token_id": 9}) == 2
    assert find_pad_id(tokenizer, {}, {"pad_token_id": 9}) == 9
    assert find_pad_id(tokenizer, {}, {}) == 0


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        ("abc", None, "one string"),
        (["a", None], None, r"texts\[1\]: NoneType"),
        (["a", "b"], ["c"], r"not as many second texts \(1\) as texts \(2\)"),
        (["a", "a\ud800b"], None, r"^texts\[1\]: not UTF-8 \('\\ud800' at position 1\); convert it$"),
        (["a"], ["caf\udce9"], r"^pairs\[0\]: not UTF-8 \('\\udce9' at position 3\); convert it$"),
    ],
)
def test_anything_but_a_list_of_texts_is_an_error(folder, texts, pairs, message):
    with pytest.raises(UsageError, match=message):
        make_tokenizer(folder).encode(texts, pairs)


def test_a_missing_or_damaged_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        make_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read as a tokenizer"):
        make_tokenizer(tmp_path)
