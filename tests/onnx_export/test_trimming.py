import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.onnx_export.trimming import Vocabulary, _compare, select_tokens, trim_tokenizer
from vocabularies import CORPUS, DEV, SPECIAL, TOKENIZERS, TRAIN, small_data, wrap_tokenizer


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request):
    return wrap_tokenizer(TOKENIZERS[request.param](), roberta_processor=request.param == "BPE").backend_tokenizer


def settings(tokenizer, **more):
    return {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1, "model_type": "bert", **more}


def tokens(tokenizer, texts):
    return [encoding.tokens for encoding in tokenizer.encode_batch(texts)]


def test_train_texts_are_tokenized_as_before(tokenizer):
    smaller, _, report = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    assert tokens(smaller, TRAIN) == tokens(tokenizer, TRAIN)
    assert report.train.changed == 0
    assert report.after == smaller.get_vocab_size() < report.before
    kept = report.kept
    assert sum(kept.values()) == report.after


def test_every_token_keeps_its_embedding_row(tokenizer):
    smaller, rows, _ = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    new = smaller.get_vocab()
    assert sorted(new.values()) == list(range(len(new)))
    assert {token: rows[index] for token, index in new.items()} == {t: tokenizer.token_to_id(t) for t in new}
    assert set(SPECIAL) <= set(new)
    assert new["<pad>"] == tokenizer.token_to_id("<pad>") == 1


def test_special_tokens_around_a_text_have_their_new_ids(tokenizer):
    smaller, _, _ = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    new = smaller
    first, *_, last = new.encode(TRAIN[0]).ids
    assert (first, last) == (new.token_to_id("<s>"), new.token_to_id("</s>"))
    assert new.decode(new.encode(TRAIN[0]).ids).split() == tokenizer.decode(tokenizer.encode(TRAIN[0]).ids).split()


def test_every_character_stays_readable(tokenizer):
    smaller, _, _ = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    characters = sorted({c for text in CORPUS for c in text if c != " "})
    words = [*characters, *(f"w{c}w" for c in characters), *" ".join(CORPUS).split()]
    for word in words:
        before, after = tokenizer.encode(word), smaller.encode(word)
        unknown, now = tokenizer.token_to_id("<unk>"), smaller.token_to_id("<unk>")
        assert unknown in before.ids or now not in after.ids, word


def test_changed_dev_tokens_are_counted(tokenizer):
    smaller, _, report = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    changed = total = 0
    for text in DEV:
        old, new = (t.encode(text, add_special_tokens=False) for t in (tokenizer, smaller))
        total += len(old.ids)
        changed += len(set(zip(old.offsets, old.tokens, strict=True)) - set(zip(new.offsets, new.tokens, strict=True)))
    assert report.dev.tokens == 2 * total  # both domains have the same texts
    assert report.dev.changed == 2 * changed > 0
    assert (report.dev.unknown, report.dev.unknown_after) == (0, 0)


def test_a_size_limit_keeps_the_most_used_tokens(tokenizer):
    _, _, unlimited = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    size = unlimited.after - 4
    smaller, _, limited = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), size)
    assert limited.after == smaller.get_vocab_size() <= size
    assert limited.dropped_used > 0
    assert limited.train.changed > 0
    counts = {token: count for token, count in limited.dropped_most_used.items() if token in tokenizer.get_vocab()}
    assert counts == limited.dropped_most_used
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert not set(counts) & set(smaller.get_vocab())


def test_a_size_below_the_required_tokens_is_refused(tokenizer):
    with pytest.raises(UsageError, match=r"--vocabulary-size 6: \d+ tokens must be kept"):
        trim_tokenizer(tokenizer, settings(tokenizer), small_data(), 6)


def test_added_tokens_after_the_vocabulary_stay_after_it(tokenizer):
    tokenizer.add_tokens(["Qqqq"])
    smaller, _, report = trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)
    assert smaller.token_to_id("Qqqq") == report.after - 1
    assert smaller.encode("Qqqq walker").tokens == tokenizer.encode("Qqqq walker").tokens


def test_the_domains_tokens_take_precedence():
    vocabulary = Vocabulary(TOKENIZERS["WordPiece"]())
    alphabet = vocabulary.character_tokens
    rare, common = sorted(set(vocabulary.ids) - alphabet)[:2]
    size = len(alphabet) + 1
    kept, dropped = select_tokens(vocabulary, {rare: 1, common: 9}, set(), size, domain_counts={rare: 1})
    assert rare in kept
    assert dropped == [common]


def test_all_tokens_with_a_character_that_has_no_token_are_kept():
    vocab = {"[UNK]": 0, "a": 1, "##a": 2, "aé": 3, "##aé": 4, "éa": 5, "aa": 6, "##aa": 7}
    alphabet = Vocabulary(Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))).character_tokens
    assert alphabet >= {"a", "##a", "aé", "##aé", "éa"}
    assert not alphabet & {"aa", "##aa"}


def test_a_character_at_the_end_of_a_word_is_a_separate_token():
    vocab = {t: n for n, t in enumerate(["a", "b", "a</w>", "b</w>", "ab</w>", "ac</w>", "ab"])}
    vocabulary = Vocabulary(Tokenizer(models.BPE(vocab, [("a", "b</w>"), ("a", "b")], end_of_word_suffix="</w>")))
    assert vocabulary.character_tokens == {"a", "b", "a</w>", "b</w>", "ac</w>"}
    assert vocabulary.intermediate_tokens("ab</w>") == {"a", "b</w>"}


def test_the_intermediate_tokens_of_a_merge_are_kept():
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c")]
    vocab = {t: n for n, t in enumerate(["a", "b", "c", "d", "ab", "cd", "abcd", "bc"])}
    vocabulary = Vocabulary(Tokenizer(models.BPE(vocab, merges)))
    assert vocabulary.character_tokens == {"a", "b", "c", "d"}
    assert vocabulary.intermediate_tokens("abcd") == {"a", "b", "c", "d", "ab", "cd"}
    smaller, rows = vocabulary.subset({"a", "b", "c", "d", "ab", "cd", "abcd"})
    assert json.loads(smaller.to_str())["model"]["merges"] == [list(pair) for pair in merges[:3]]
    assert rows == tuple(range(7))


def test_byte_tokens_are_kept():
    pieces = [("<unk>", 0.0), *((f"<0x{n:02X}>", -9.0) for n in range(256)), ("ab", -1.0)]
    vocabulary = Vocabulary(Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True)))
    assert len(vocabulary.character_tokens & {f"<0x{n:02X}>" for n in range(256)}) == 256


def test_unknown_tokens_are_counted():
    tokenizer = TOKENIZERS["WordPiece"]()
    vocabulary = Vocabulary(tokenizer)
    smaller, _ = vocabulary.subset({t for t in tokenizer.get_vocab() if "x" not in t})
    diff = _compare(tokenizer, smaller, [["xyz walk"]], vocabulary.unknown)
    assert diff.unknown_after == diff.unknown + 1


def test_a_wordlevel_tokenizer_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "walk": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="a WordLevel tokenizer cannot be trimmed"):
        trim_tokenizer(tokenizer, settings(tokenizer), small_data(), None)


def test_a_padding_id_that_offsets_positions_must_not_move():
    tokenizer = TOKENIZERS["WordPiece"]()
    pad = tokenizer.get_vocab_size() - 1
    config = settings(tokenizer, model_type="roberta", pad_token_id=pad)
    with pytest.raises(ModelError, match=f"counts positions from its padding id {pad}"):
        trim_tokenizer(tokenizer, config, small_data(), None)
