"""Small trained tokenizers of three types, and a dataset for them."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hrkd_cli.data.dataset import Dataset, TextRows

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
STEMS = "walk talk jump play cook paint read sing climb swim".split()  # noqa: SIM905
ENDINGS = ["", "s", "ed", "ing", "er", "ers"]
CORPUS = [f"the {stem}{ending} and the {stem}er" for stem in STEMS for ending in ENDINGS] + ["naïve café 東京 xyz qwv"]
# Train and dev use different words.
TRAIN = ["the walker walked", "the talker talks and jumps", "playing the player", "cooks and cooked"]
DEV = ["the painters painting", "singer walked", "the walker walks", "readers and swimmers"]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=SPECIAL))
    return tokenizer


def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


TOKENIZERS = {"WordPiece": wordpiece, "BPE": bpe, "Unigram": unigram}


def wrap_tokenizer(tokenizer: Tokenizer, *, roberta_processor: bool = False) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer for transformers, with special tokens around a text."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    if roberta_processor:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def small_data() -> Dataset:
    labels = ["negative", "positive"] * 2
    rows = {d: {"train": TextRows(TRAIN, None, labels), "dev": TextRows(DEV, None, labels)} for d in ("books", "dvd")}
    return Dataset.from_rows(rows, has_pairs=False)
