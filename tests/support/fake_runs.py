"""Run folders with fake numbers, in the files that the stages write."""

import json
import math
from pathlib import Path

DOMAINS = ("books", "dvd")


def step_line(step, *, ratios=True, **more):
    losses = {"total": 3.0 / step + 1.5, "hidden": 3.0 / step + 1.0, "prediction": 0.5}
    line = {"step": step, "epoch": step / 10, "losses": losses, "learning_rate": 1e-4, "gradient_norm": 2.0}
    if ratios:
        line["ratios"] = [[0.4, 0.6], [0.5, 0.5], [0.3, 0.7]]
        line["layer_ratios"] = [[0.45, 0.55], [0.2, 0.3, 0.5]]
    return {**line, "examples_per_second": 30.0, **more}


def scores(accuracy):
    return {"n": 20, "accuracy": accuracy, "macro_f1": accuracy - 0.01, "interval": [accuracy - 0.1, accuracy + 0.05]}


def dev_line(step, books, dvd, *, best, domains=DOMAINS):
    scores_by_domain = {domains[0]: scores(books), domains[1]: scores(dvd)}
    average = {"accuracy": (books + dvd) / 2, "macro_f1": (books + dvd) / 2, "interval": [0.5, 0.9]}
    return {"step": step, "dev": {"domains": scores_by_domain, "average": average}, "is_best": best, "is_kept": best}


def lines(steps=40, **options):
    found = [step_line(n, **options) for n in range(1, steps + 1)]
    dev = [dev_line(steps // 2, 0.7, 0.9, best=True), dev_line(steps, 0.75, 0.8, best=False)]
    return [*found[: steps // 2], dev[0], *found[steps // 2 :], dev[1]]


def write_lines(folder: Path, found, *, tail=""):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in found)
    (folder / "metrics.jsonl").write_text(text + tail, encoding="utf-8")
    return folder


def write_record(folder: Path, *, stage="distill", **options):
    values = {
        "epochs": None,
        "learning_rate": None,
        "method": "hrkd",
        "graph": "uniform",
        "hierarchy": False,
        **options,
    }
    record = {
        "format": 1,
        "stage": stage,
        "options": {name: {"value": value, "from": "default"} for name, value in values.items()},
        "models": {"teacher": {"name": "the-teacher", "fingerprint": "0123456789abcdef"}, "student": {"name": None}},
        "data": {"path": "../dataset", "fingerprint": "fedcba9876543210"},
        "versions": {"python": "3.11.7", "hrkd-cli": "0.1.0"},
        "precision": "fp32",
        "results": {"steps": 40, "seconds": 83.0, "examples_per_second": 31.5},
    }
    (folder / "hrkd.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_run(folder: Path, *, steps=40, ratios=True, **options):
    return write_record(write_lines(folder, lines(steps, ratios=ratios)), **options)


def write_export(folder: Path):
    latency = [{"tokens": n, "threads": 1, "batch": 1, "p50": n / 10, "p95": n / 8} for n in (16, 32)]
    tries = [
        {"precision": "int8", "recipe": "per-channel scales", "bytes": 2e6, "drop": 0.5, "passed": True, "kept": True},
        {
            "precision": "int8",
            "recipe": "per-tensor scales",
            "bytes": 1e6,
            "drop": 3.25,
            "passed": False,
            "kept": False,
        },
    ]
    files = {
        "model.onnx": {"precision": "fp32", "bytes": 8e6, "dev": {"accuracy": {"books": 0.7, "dvd": 0.9}, "drop": 0.0}},
        "model_quantized.onnx": {
            "precision": "int8",
            "bytes": 2e6,
            "recipe": "per-channel scales",
            "tries": tries,
            "dev": {"accuracy": {"books": 0.72, "dvd": 0.87}, "drop": 0.5, "max_drop": 1.0, "padded_drop": 0.75},
            "target": "avx2",
            "weight_bits": 7,
            "latency": latency,
            "machine": "a machine",
        },
    }
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / "onnx" / "export.json").write_text(json.dumps({"format": 1, "files": files}), encoding="utf-8")
    return folder


def evaluated(model, accuracy, *, kind="torch", **more):
    """An entry of eval.json."""
    answers = {"neg": {"neg": 9, "pos": 1}, "pos": {"pos": 10}}
    labels = {"labels": {label: {"support": 10, "answers": own} for label, own in answers.items()}}
    by_domain = {domain: scores(accuracy) | labels for domain in DOMAINS}
    common = {"model": model, "kind": kind, "domains": by_domain, "average": scores(accuracy)}
    if kind == "floor":
        return common
    suspect = {"domain": "dvd", "row": 3, "text": "a <b> film", "label": "neg", "answer": "pos", "probability": 0.987}
    confidence = {
        "bins": 10,
        "reliability": [
            {"confidence": 0.52, "accuracy": 0.5, "n": 9},
            {"confidence": 0.97, "accuracy": 0.9, "n": 11},
            {"confidence": 1.0, "accuracy": 0.95, "n": 80},
        ],
        "risk_coverage": [{"coverage": 0.5, "accuracy": 1.0}, {"coverage": 1.0, "accuracy": 0.9}],
        "suspects": [suspect | {"location": "dvd.csv:18"}] * 12,
    }
    return {**common, "precision": "fp32", "file": "model.safetensors", "bytes": 5e6, "confidence": confidence, **more}


def write_evaluation(folder: Path, *entries, **more):
    for entry in entries:
        (folder / entry["model"]).mkdir(parents=True, exist_ok=True) if entry["kind"] != "floor" else None
    content = {"split": "test", "data": "the-data", "domain": "given", "models": entries, **more}
    (folder / "eval.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def wave(count):
    return [math.sin(n / 9) for n in range(count)]
