"""Predictions and checksums stored with exported files, and the fresh process that repeats them before publication.

The texts are random words of the tokenizer's vocabulary. They need no data, contain no user text, and reach rows all
over the embedding table.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import INT8_OPS, STATIC_INT8_OPS, load_onnx
from hrkd_cli.layout import PREDICTOR_ARCHIVE, ModelFiles, OnnxFiles
from hrkd_cli.models.model_folder import write_json
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import DomainHeads, FloatArray
from hrkd_cli.predict.selfcheck import (
    NO_CLEAR_LABEL,
    ROOT_FILES,
    SELF_CHECK_FORMAT,
    case_labels,
    case_logits,
    read_stored_cases,
    sha256_of,
)
from hrkd_cli.predict.tokenization import read_tokenizer

CASE_COUNT = 16  # number of stored texts; at least one per domain
FP32_TOLERANCE = 1e-3
"""CPUs add fp32 numbers in different orders: about 1e-5 on these models, with a margin for deep ones."""
MIN_INT8_TOLERANCE = 0.05  # for files with 8-bit arithmetic whose logits happen to be very close to fp32's
WEAK_TOLERANCE_FACTOR = 8
"""Limits the minimum for weak students, whose logits may all differ by less. In emulation of AVX2, random weights
multiplied the error by 6.7."""
INT8_TOLERANCE_FACTOR = 3
"""Allowed error, as a multiple of the error of 8-bit arithmetic measured at export. Products saturate on CPUs with AVX2
but without VNNI; in emulation, that multiplied the error of distilled students by up to 2.4 and changed no label."""

_INTEGER_OPS = INT8_OPS | STATIC_INT8_OPS | {"DynamicQuantizeLinear"}
_FP32_ARITHMETIC = 1  # onnxruntime's accuracy_level of 4-bit products
_CANDIDATES_PER_CASE = 8
_LENGTHS = (3, 8, 20)  # tokens, in turn; the next length exceeds the model's maximum
_SEED = 0
_DECIMALS = 6


def write_cases(folder: Path, file_names: Sequence[str], *, earlier: Path, kept: Container[str]) -> list[str]:
    """Write the self-check file with the predictions of ONNX files, and have a fresh process repeat them.

    The files (fp32 included), configuration, tokenizer and runtime are in ``folder``. ``earlier`` is the ``onnx``
    folder that they will be moved to. The predictions of its files in ``kept``, which exist and are the same student's,
    stay, and with them their texts.

    Returns:
        The files of which no label is clear enough to be compared.

    Raises:
        ModelError: the fresh process gets other predictions.
    """
    backends = {name: OnnxBackend(folder, folder / name) for name in file_names}
    fp32 = backends[OnnxFiles.fp32]
    others: dict[str, Any] = {}
    with contextlib.suppress(ModelError):  # missing or damaged
        stored = read_stored_cases(earlier / OnnxFiles.self_check)
        others = {name: entry for name, entry in stored["files"].items() if name in kept and name not in file_names}
    cases = stored["cases"] if others else draw_cases(folder, fp32)
    fp32_logits = case_logits(fp32, cases)
    entries = {
        name: {"sha256": sha256_of(folder / name)}
        | _predict_cases(backend, cases, _exact_logits(folder / name, cases, fp32_logits))
        for name, backend in backends.items()
    }
    checksums = {name: sha256_of(folder / name) for name in ROOT_FILES if (folder / name).is_file()}
    content = {"format": SELF_CHECK_FORMAT, "cases": cases, "files": entries, "sha256": checksums}
    # First the new files alone, because the fresh process finds only these in the folder.
    write_json(folder / OnnxFiles.self_check, content)
    _run_self_check(folder)
    write_json(folder / OnnxFiles.self_check, content | {"files": others | entries})
    return [name for name, entry in entries.items() if set(entry["labels"]) == {None}]


def draw_cases(root: Path, backend: OnnxBackend) -> list[dict[str, Any]]:
    """Draw texts from the vocabulary of the tokenizer in ``root``.

    For each domain, take the texts with the largest margins between the logits of ``backend``, of every label that it
    predicts.
    """
    heads = backend.spec.all_heads
    cases_per_domain = max(1, CASE_COUNT // len(heads.domains))
    count = cases_per_domain * _CANDIDATES_PER_CASE
    lengths = (*_LENGTHS, backend.spec.max_length * 3 // 2)
    texts = _draw_texts(root, 2 * count, lengths)
    candidates: list[dict[str, Any]] = [{"text": text} for text in texts[:count]]
    if backend.spec.pair:
        candidates = [{"text": a, "text_pair": b} for a, b in zip(texts[:count], texts[count:], strict=True)]
    logits = case_logits(backend, candidates)
    too_long = set(range(len(lengths) - 1, count, len(lengths)))
    cases = []
    for domain in heads.domains:
        by_margin = np.argsort(-_margins(logits, heads, domain), kind="stable").tolist()
        labels = case_labels(backend, [{**case, "domain": domain} for case in candidates], logits)
        # Take the clearest text of each label in turn, so that rare labels are included.
        counters: dict[str, Iterator[int]] = defaultdict(itertools.count)
        rank_in_label = {n: next(counters[labels[n]]) for n in by_margin}
        chosen = sorted(rank_in_label, key=rank_in_label.__getitem__)[:cases_per_domain]
        # Include a text that is too long: every client must truncate it in the same way.
        if too_long.isdisjoint(chosen):
            chosen[-1] = next(n for n in by_margin if n in too_long)
        cases += [{**candidates[n], "domain": domain} for n in chosen]
    return cases


def _draw_texts(root: Path, count: int, lengths: Sequence[int]) -> list[str]:
    tokenizer = read_tokenizer(root)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    # Sorted, because the library's order differs between processes.
    ids = sorted(index for token, index in tokenizer.get_vocab().items() if token not in special)
    random = np.random.default_rng(_SEED)
    texts: list[str] = []
    for n in range(count):
        drawn = random.choice(ids, size=lengths[n % len(lengths)]).tolist()
        text = " ".join(tokenizer.decode(drawn).split()) or "a"
        # Incomplete UTF-8 sequences decode to the replacement character.
        texts.append(text.replace("\ufffd", "") or "a")
    return texts


def _margins(logits: FloatArray, heads: DomainHeads, domain: str) -> FloatArray:
    """Return the difference between a domain's two largest logits, (N,); infinite for a single label."""
    ascending = np.sort(logits[:, list(heads.columns[domain])], axis=1)
    if ascending.shape[1] < 2:
        return np.full(len(ascending), np.inf, dtype=np.float32)
    margins: FloatArray = ascending[:, -1] - ascending[:, -2]
    return margins


def _exact_logits(path: Path, cases: list[dict[str, Any]], fp32_logits: FloatArray) -> FloatArray | None:
    """Return the logits of an ONNX file without the error of 8-bit arithmetic; None if it has none.

    Rounded weights that are multiplied in fp32 give the same logits on every CPU. For 4-bit weights, these logits are
    computed. For int8 files, fp32's logits are the best available reference; they include the rounding of the weights.
    """
    model = load_onnx(path)
    if any(node.op_type in _INTEGER_OPS for node in model.graph.node):
        return fp32_logits
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    if not products:
        return None
    for node in products:
        level = next(attribute for attribute in node.attribute if attribute.name == "accuracy_level")
        level.i = _FP32_ARITHMETIC
    exact = path.with_name("exact.onnx")
    onnx.save(model, str(exact))
    logits = case_logits(OnnxBackend(path.parent, exact), cases)
    exact.unlink()
    return logits


def _predict_cases(backend: OnnxBackend, cases: list[dict[str, Any]], exact: FloatArray | None) -> dict[str, Any]:
    """Return the self-check entry of a file; ``exact`` is the result of ``_exact_logits``."""
    logits = case_logits(backend, cases)
    # Of each text: one that is rounded badly must not make the labels of the others unclear.
    tolerances = np.full(len(cases), FP32_TOLERANCE)
    if exact is not None:
        errors = np.abs(logits - exact).max(axis=1)
        least = min(MIN_INT8_TOLERANCE, WEAK_TOLERANCE_FACTOR * errors.max())
        tolerances = np.maximum(max(FP32_TOLERANCE, least), INT8_TOLERANCE_FACTOR * errors)
    tolerance = round(float(tolerances.max()), _DECIMALS)
    heads = backend.spec.all_heads
    labels: list[str | None] = list(case_labels(backend, cases, logits))
    for n, case in enumerate(cases):
        if _margins(logits[n : n + 1], heads, case["domain"])[0] <= 2 * tolerances[n]:
            labels[n] = None
    rounded = [[round(float(value), _DECIMALS) for value in row] for row in logits]
    return {"tolerance": tolerance, "labels": labels, "logits": rounded}


def _run_self_check(folder: Path) -> None:
    """Run the self-check in a new process with the single-file runtime, as a device does."""
    # The import path of this process, however it was set.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(folder / PREDICTOR_ARCHIVE), str(folder), "--self-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode:
        last_line = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        if NO_CLEAR_LABEL in last_line:  # all logits agree
            return
        raise ModelError(f"a fresh process does not repeat the predictions of {ModelFiles.onnx}/: {last_line}")
