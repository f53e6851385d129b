"""Tiny model folders with random weights, as the stages write them, for tests of what reads such folders."""

from __future__ import annotations

import inspect
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.models.wide import WideBranch
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.tokenization import TextTokenizer, read_tokenizer

WORDS = [
    "good",
    "bad",
    "book",
    "film",
    "pan",
    "hot",
    "cold",
    "new",
    "old",
    "very",
    "not",
    "is",
    "the",
    "a",
    "it",
    "page",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LABELS = {"books": ("negative", "positive"), "dvd": ("negative", "positive")}
MAX_LENGTH = 24

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, Any] = {
    "bert": lambda **kw: BertConfig(**{**SHAPE, **kw}),
    "distilbert": lambda **kw: DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **kw),
    "roberta": lambda **kw: RobertaConfig(**SHAPE, **kw),
    "xlm-roberta": lambda **kw: XLMRobertaConfig(type_vocab_size=1, **SHAPE, **kw),
    "electra": lambda **kw: ElectraConfig(embedding_size=16, **SHAPE, **kw),
    # Three layers, so that there is a local one, with a window shorter than the longest inputs.
    "modernbert": lambda **kw: ModernBertConfig(
        **{**SHAPE, "num_hidden_layers": 3},
        local_attention=8, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, **kw,
    ),
}  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """Write a WordPiece tokenizer over WORDS and single letters, with BERT's special tokens."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = list(dict.fromkeys([*SPECIAL, *WORDS, *letters, *("##" + letter for letter in letters)]))
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)


def write_model(
    folder: Path,
    *,
    architecture: str = "bert",
    labels: Mapping[str, Sequence[str]] = LABELS,
    plain_labels: Sequence[str] | None = None,
    pair: bool = False,
    domain_posterior: bool = False,
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **options: Any,
) -> Path:
    """Write a classifier's folder; with ``plain_labels`` one that is not a multi-domain one. ``options`` are BERT's.

    With a ``tokenizer`` of its own, the embedding table has a few rows more than it has tokens.
    """
    heads = DomainHeads.build(labels)
    entries = heads.to_config()
    id2label = dict(enumerate(plain_labels)) if plain_labels else entries["id2label"]
    settings = {
        "vocab_size": 80 if tokenizer is None else len(tokenizer) + 3,
        "max_position_embeddings": 160,
        "pad_token_id": 0 if tokenizer is None else tokenizer.pad_token_id,
        # Wide, so that random weights disagree with each other and a wrong graph shows.
        "initializer_range": 0.3,
        "id2label": id2label,
        "label2id": {name: index for index, name in id2label.items()},
    }
    config = CONFIGS[architecture](**settings | options)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    if not plain_labels:
        model.config.hrkd = {"format": 1, "domains": entries["domains"], "max_length": MAX_LENGTH, "pair": pair}
    if domain_posterior:
        model.config.hrkd["domain_posterior"] = True
    if tokenizer is None:
        write_tokenizer(folder)
    else:
        tokenizer.save_pretrained(folder)
    _balance(model, folder)
    model.save_pretrained(folder)
    run = {"format": 1} | ({"data": dict(data)} if data else {})
    (folder / "hrkd.json").write_text(json.dumps(run))
    return folder


def with_wide_branch(student: Path, out: Path, *, buckets: int = 16) -> Path:
    """Copy a student's folder and add a wide branch with random weights, which reads up to 64 tokens."""
    shutil.copytree(student, out)
    config = json.loads((out / "config.json").read_text())
    config["hrkd"] |= {"max_length": 64, "encoder_length": MAX_LENGTH}
    (out / "config.json").write_text(json.dumps(config))
    outputs = len(config["id2label"])
    weight = torch.randn(config["vocab_size"] + buckets, outputs, generator=torch.Generator().manual_seed(5))
    WideBranch(weight, config["vocab_size"]).save(out)
    return out


def _balance(model: Any, folder: Path) -> None:
    """Shift the outputs to a mean of 0, so that every label is predicted for some text."""
    tokenizer = TextTokenizer(read_tokenizer(folder), max_length=MAX_LENGTH, pad_id=model.config.pad_token_id)
    arrays = tokenizer.pad(tokenizer.encode(make_texts(100, seed=1)))
    names = inspect.signature(model.forward).parameters
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.num_labels][-1]
    with torch.no_grad():
        logits = model.eval()(**{name: torch.as_tensor(a) for name, a in arrays.items() if name in names}).logits
        last.bias -= logits.mean(dim=0)


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Make texts of 1 to 20 words."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 20))) for _ in range(count)]


def make_dataset(rows: Mapping[str, Mapping[str, tuple[list[str], list[str]]]], *, path: Path | None = None) -> Dataset:
    """Make a dataset of single texts from ``{domain: {split: (texts, labels)}}``."""
    return Dataset(
        labels={d: tuple(sorted({n for _, names in splits.values() for n in names})) for d, splits in rows.items()},
        has_pairs=False,
        fingerprint="made in a test",
        path=path,
        rows={
            d: {s: TextRows(texts, None, names) for s, (texts, names) in splits.items()} for d, splits in rows.items()
        },
    )


def write_csv(path: Path, dataset: Dataset, split: str) -> Path:
    """Write one split of a dataset as a raw CSV source without splits of its own."""
    lines = ["text,label,domain"]
    for domain in dataset.domains:
        rows = dataset.split(domain, split)
        lines += [f"{text},{label},{domain}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
