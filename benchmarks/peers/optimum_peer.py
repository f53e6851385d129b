"""Every other layer of the encoder, fine-tuned on the labels with transformers' Trainer and quantized by optimum.

One model has the labels of all domains; a domain's prediction is the best of its own labels. The learning rate follows
the rule of hrkd-cli. The epoch that is best on dev is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

from peer import Data, Options, Predict, Rows, Text, run_method

MAX_LENGTH = 128
BATCH_SIZE = 32
EPOCHS, STEPS = 10, 600  # at least
PATIENCE = 3  # epochs
LARGE_RATE, LARGE_SIZE = 5e-5, 12 * 768  # learning rate of BERT-base; a smaller model needs more in proportion
DOMAINS = "domains.json"


def tokenize(tokenizer: Any, texts: Sequence[Text], **options: Any) -> Any:
    """Return the token ids of texts or pairs, truncated."""
    columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
    return tokenizer(*columns, truncation=True, max_length=MAX_LENGTH, **options)


def examples(tokenizer: Any, rows: dict[str, Rows], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of all domains as the Trainer's examples."""
    found = []
    for own in rows.values():
        encoded = tokenize(tokenizer, own.texts)
        for row, label in enumerate(own.labels):
            found.append({**{name: ids[row] for name, ids in encoded.items()}, "label": labels.index(label)})
    return found


def accuracy(outputs: EvalPrediction) -> dict[str, float]:
    """Return the accuracy on dev."""
    return {"accuracy": float((outputs.predictions.argmax(axis=-1) == outputs.label_ids).mean())}


def fine_tune(data: Data, folder: Path, options: Options, labels: Sequence[str], tokenizer: Any) -> Any:
    """Return the fine-tuned model."""
    torch.manual_seed(options.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        options.encoder, dtype=torch.float32, num_labels=len(labels)
    )
    model.bert.encoder.layer = model.bert.encoder.layer[1::2]
    model.config.num_hidden_layers = len(model.bert.encoder.layer)
    train, dev = (examples(tokenizer, data.rows(split), labels) for split in ("train", "dev"))
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        learning_rate=LARGE_RATE * LARGE_SIZE / (model.config.num_hidden_layers * model.config.hidden_size),
        warmup_ratio=0.1,
        weight_decay=0.01,
        num_train_epochs=max(EPOCHS, round(STEPS * BATCH_SIZE / len(train))),
        per_device_train_batch_size=BATCH_SIZE,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        seed=options.seed,
        report_to=[],
        use_cpu=True,
        group_by_length=True,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=dev,
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(PATIENCE)],
    )
    trainer.train()
    return trainer.model


def train(data: Data, folder: Path, options: Options) -> None:
    """Fine-tune, export with optimum and quantize for this processor."""
    labels = sorted({label for own in data.labels.values() for label in own})
    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    work = folder.with_name(f"{folder.name}-weights")
    fine_tune(data, work, options, labels, tokenizer).save_pretrained(work)
    tokenizer.save_pretrained(work)
    ORTModelForSequenceClassification.from_pretrained(work, export=True).save_pretrained(work / "onnx")
    vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    make_config = AutoQuantizationConfig.avx512_vnni if vnni else AutoQuantizationConfig.avx2
    quantizer = ORTQuantizer.from_pretrained(work / "onnx")
    quantizer.quantize(save_dir=folder, quantization_config=make_config(is_static=False, per_channel=False))
    tokenizer.save_pretrained(folder)
    columns = {domain: [labels.index(label) for label in own] for domain, own in data.labels.items()}
    (folder / DOMAINS).write_text(json.dumps({"labels": labels, "columns": columns}), encoding="utf-8")


def load(folder: Path) -> Predict:
    """Open the quantized graph; texts are predicted one at a time, as by hrkd-cli."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    session = onnxruntime.InferenceSession(folder / "model_quantized.onnx", options)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = json.loads((folder / DOMAINS).read_text(encoding="utf-8"))
    inputs = [entry.name for entry in session.get_inputs()]

    def predict(texts: Sequence[Text], domain: str) -> Sequence[str]:
        columns, found = names["columns"][domain], []
        for text in texts:
            encoded = tokenize(tokenizer, [text], return_tensors="np")
            logits = session.run(None, {name: encoded[name].astype(np.int64) for name in inputs})[0][0]
            found.append(names["labels"][columns[int(logits[columns].argmax())]])
        return found

    return predict


if __name__ == "__main__":
    run_method(train, load, weights=["model_quantized.onnx"])
