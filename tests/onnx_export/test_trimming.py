import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from vocabularies import CORPUS, DEV, KINDS, SPECIAL, TRAIN, small_data, wrapped

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.onnx_export.retokenize import describe, number, rebuild
from hrkd_cli.onnx_export.trimming import _compare, _lost_characters, plan_trim
from hrkd_cli.onnx_export.vocab_rules import choose_tokens, make_rules


@pytest.fixture(params=list(KINDS))
def tokenizer(request):
    return wrapped(KINDS[request.param](), pair_of_roberta=request.param == "BPE").backend_tokenizer


def settings(tokenizer, **more):
    return {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1, "model_type": "bert", **more}


def tokens(tokenizer, texts):
    return [encoding.tokens for encoding in tokenizer.encode_batch(texts)]


def test_train_texts_are_split_as_before(tokenizer):
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    assert tokens(trimmed.tokenizer, TRAIN) == tokens(tokenizer, TRAIN)
    assert trimmed.report.train.changed == 0
    assert trimmed.report.after == trimmed.tokenizer.get_vocab_size() < trimmed.report.before
    kept = trimmed.report.to_json()["kept"]
    assert sum(kept.values()) == trimmed.report.after


def test_every_row_is_its_tokens_old_one(tokenizer):
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    new = trimmed.tokenizer.get_vocab()
    assert sorted(new.values()) == list(range(len(new)))
    assert {token: trimmed.rows[index] for token, index in new.items()} == {t: tokenizer.token_to_id(t) for t in new}
    assert set(SPECIAL) <= set(new)
    assert new["<pad>"] == tokenizer.token_to_id("<pad>") == 1


def test_special_tokens_stand_around_a_text_under_their_new_ids(tokenizer):
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    new = trimmed.tokenizer
    first, *_, last = new.encode(TRAIN[0]).ids
    assert (first, last) == (new.token_to_id("<s>"), new.token_to_id("</s>"))
    assert new.decode(new.encode(TRAIN[0]).ids).split() == tokenizer.decode(tokenizer.encode(TRAIN[0]).ids).split()


def test_every_character_stays_readable(tokenizer):
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    assert trimmed.report.characters_lost == 0
    characters = sorted({c for text in CORPUS for c in text if c != " "})
    words = [*characters, *(f"w{c}w" for c in characters), *" ".join(CORPUS).split()]
    for word in words:
        before, after = tokenizer.encode(word), trimmed.tokenizer.encode(word)
        unknown, now = tokenizer.token_to_id("<unk>"), trimmed.tokenizer.token_to_id("<unk>")
        assert unknown in before.ids or now not in after.ids, word


def test_dev_tokens_that_became_others_are_counted(tokenizer):
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    changed = total = 0
    for text in DEV:
        old, new = (t.encode(text, add_special_tokens=False) for t in (tokenizer, trimmed.tokenizer))
        total += len(old.ids)
        changed += len(set(zip(old.offsets, old.tokens, strict=True)) - set(zip(new.offsets, new.tokens, strict=True)))
    assert trimmed.report.dev.tokens == 2 * total  # both domains have the same texts
    assert trimmed.report.dev.changed == 2 * changed > 0
    assert (trimmed.report.dev.unknown, trimmed.report.dev.unknown_after) == (0, 0)


def test_the_most_used_are_kept(tokenizer):
    whole = plan_trim(tokenizer, settings(tokenizer), small_data(), None).report
    size = whole.after - 4
    fewer = plan_trim(tokenizer, settings(tokenizer), small_data(), size)
    assert fewer.report.after == fewer.tokenizer.get_vocab_size() <= size
    assert fewer.report.dropped > 0
    assert fewer.report.train.changed > 0
    counts = {token: count for token, count in fewer.report.most_used if token in tokenizer.get_vocab()}
    assert counts == dict(fewer.report.most_used)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert not set(counts) & set(fewer.tokenizer.get_vocab())


def test_less_than_has_to_stay(tokenizer):
    with pytest.raises(UsageError, match=r"--vocabulary-size 6: \d+ tokens have to stay"):
        plan_trim(tokenizer, settings(tokenizer), small_data(), 6)


def test_added_tokens_behind_the_vocabulary_stay_behind_it(tokenizer):
    tokenizer.add_tokens(["Qqqq"])
    trimmed = plan_trim(tokenizer, settings(tokenizer), small_data(), None)
    assert trimmed.tokenizer.token_to_id("Qqqq") == trimmed.report.after - 1
    assert trimmed.tokenizer.encode("Qqqq walker").tokens == tokenizer.encode("Qqqq walker").tokens


def test_a_domains_own_tokens_go_last():
    tokenizer = KINDS["WordPiece"]()
    rules = make_rules(json.loads(tokenizer.to_str())["model"])
    ids = rules.tokens()
    rare, common = sorted(set(ids) - rules.alphabet())[:2]
    size = len(rules.alphabet()) + 1
    kept, dropped = choose_tokens(rules, {rare: 1, common: 9}, rules.alphabet(), size, first={rare: 1})
    assert rare in kept
    assert dropped == [common]


def test_a_character_without_a_token_of_its_own_keeps_those_that_have_it():
    vocab = {"[UNK]": 0, "a": 1, "##a": 2, "aé": 3, "##aé": 4, "éa": 5, "aa": 6, "##aa": 7}
    rules = make_rules({"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##"})
    assert rules.alphabet() >= {"a", "##a", "aé", "##aé", "éa"}
    assert not rules.alphabet() & {"aa", "##aa"}


def test_a_merge_keeps_what_it_passes_through():
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["b", "c"]]
    vocab = {t: n for n, t in enumerate(["a", "b", "c", "d", "ab", "cd", "abcd", "bc"])}
    rules = make_rules({"type": "BPE", "vocab": vocab, "merges": merges})
    assert rules.alphabet() == {"a", "b", "c", "d"}
    assert rules.parts("abcd") == {"a", "b", "c", "d", "ab", "cd"}
    kept = {t: n for n, t in enumerate(["a", "b", "c", "d", "ab", "cd", "abcd"])}
    assert rules.rewritten(kept)["merges"] == merges[:3]


def test_a_character_that_is_lost_is_counted():
    tokenizer = KINDS["WordPiece"]()
    description = describe(tokenizer)
    kept = {t for t in tokenizer.get_vocab() if "x" not in t}
    smaller = rebuild(description, number(description, kept, pinned=None))
    read, lost = _lost_characters(tokenizer, smaller, description)
    assert read == len(set(tokenizer.normalizer.normalize_str("".join(CORPUS))) - {" "})
    assert lost == 1
    reading = _compare(tokenizer, smaller, iter(["xyz walk"]), description)
    assert reading.unknown_after == reading.unknown + 1


def test_words_that_cannot_be_split_are_not_trimmed():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "walk": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="a WordLevel tokenizer cannot be trimmed"):
        plan_trim(tokenizer, settings(tokenizer), small_data(), None)


def test_a_tokenizer_of_another_model(tokenizer):
    with pytest.raises(ModelError, match="more tokens than the embedding table has rows"):
        plan_trim(tokenizer, settings(tokenizer) | {"vocab_size": 20}, small_data(), None)


def test_positions_that_are_counted_from_the_padding_id():
    tokenizer = KINDS["WordPiece"]()
    pad = tokenizer.get_vocab_size() - 1
    config = settings(tokenizer, model_type="roberta", pad_token_id=pad)
    with pytest.raises(ModelError, match=f"counts positions from its padding id {pad}"):
        plan_trim(tokenizer, config, small_data(), None)
