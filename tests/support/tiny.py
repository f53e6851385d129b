"""Tiny models and text, made on the spot: no network, no files of others."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from hrkd_cli.data.dataset import Dataset, TextRows

WORDS = {"good": "fine great lovely solid superb", "bad": "poor awful broken cheap noisy"}
FILLER = "the a this it was thing box part one for my we had and very quite".split()  # noqa: SIM905
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DOMAINS = ("books", "music")
ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "modernbert")


def tiny_tokenizer(*, types: bool = True, extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *FILLER, *(w for group in WORDS.values() for w in group.split()), *DOMAINS, *extra]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=names,
    )


def tiny_config(architecture: str = "bert", *, layers: int = 2, width: int = 32, heads: int = 4):
    common = {"vocab_size": 64, "pad_token_id": 0}
    if architecture == "distilbert":
        sizes = {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": 4 * width}
    else:
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }
    if architecture == "electra":
        sizes["embedding_size"] = 16
    if architecture == "modernbert":
        sizes |= {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    return AutoConfig.for_model(architecture, **common, **sizes, max_position_embeddings=66)


def write_encoder(folder: Path, architecture: str = "bert", *, dtype=torch.float32, seed: int = 0, **sizes) -> Path:
    """Write a plain encoder with random weights and a tokenizer, as a hub repository would hold them."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(tiny_config(architecture, **sizes)).to(dtype)
    model.save_pretrained(folder)
    tiny_tokenizer(types=architecture in ("bert", "electra")).save_pretrained(folder)
    return folder


def make_texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Return separable texts: each has three words of its label's kind among filler."""
    rng = random.Random(seed)
    texts, labels = [], []
    for n in range(count):
        label = ("bad", "good")[n % 2]
        words = rng.choices(FILLER, k=rng.randint(2, 8)) + rng.choices(WORDS[label].split(), k=3)
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def make_dataset(*, train: int = 48, dev: int = 16, test: int = 16, domains=DOMAINS, seed: int = 0) -> Dataset:
    """Return a separable dataset in memory, two labels a domain."""
    rows: dict[str, dict[str, TextRows]] = {}
    for d, domain in enumerate(domains):
        rows[domain] = {}
        for s, (split, count) in enumerate((("train", train), ("dev", dev), ("test", test))):
            texts, labels = make_texts(count, seed * 1000 + 10 * d + s)
            rows[domain][split] = TextRows(texts, None, labels)
    return Dataset(dict.fromkeys(domains, ("bad", "good")), False, "made-up", None, rows)


def write_raw(folder: Path, *, rows: int = 60, domains=DOMAINS) -> Path:
    """Write a CSV file a domain."""
    folder.mkdir(parents=True, exist_ok=True)
    for d, domain in enumerate(domains):
        texts, labels = make_texts(rows, 7 + d)
        # A running number keeps the texts apart: equal ones would be dropped as duplicates.
        lines = [f"{text} {n},{label}" for n, (text, label) in enumerate(zip(texts, labels, strict=True))]
        (folder / f"{domain}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder
