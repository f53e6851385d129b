"""Predictions that ship with exported graphs, and the fresh process that repeats them before anything is kept.

The texts are drawn from the tokenizer's own vocabulary: they need no data, give nobody's text away, and reach rows all
over the embedding table.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import INTEGER_OPS, STATIC_OPS, load_onnx
from hrkd_cli.layout import PREDICTOR_ARCHIVE, ModelFiles, OnnxFiles
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.heads import DomainHeads, FloatArray
from hrkd_cli.predict.selfcheck import SELF_CHECK_FORMAT, case_labels, case_logits, read_stored_cases
from hrkd_cli.predict.tokenization import read_tokenizer

CASES = 16
"""Stored texts; at least one of every domain."""
FP32_TOLERANCE = 1e-3
"""fp32 sums differ between CPUs in the order of their terms: some 1e-5 on these models, with room for deep ones."""
LEAST_TOLERANCE = 0.05
"""Of a file with integer arithmetic, where its cases happen to lie closer to fp32's than usual."""
ROOM = 3
"""Times that which integer arithmetic moved the logits, a file may be off: int8 products saturate on CPUs with AVX2 but
without VNNI, which (emulated, distilled students) moved them by up to 2.4 times as much; no label changed."""

_INTEGER_OPS = INTEGER_OPS | STATIC_OPS | {"DynamicQuantizeLinear"}
_FP32_ARITHMETIC = 1  # onnxruntime's accuracy_level of 4-bit products
_CANDIDATES = 8  # texts drawn for each that is kept
_LENGTHS = (3, 8, 20)  # tokens, in turn; then one that is cut
_SEED = 0
_DIGITS = 6


def write_cases(root: Path, folder: Path, graphs: Sequence[str], *, earlier: Path) -> None:
    """Store predictions of new graphs beside them, and have a fresh process repeat them.

    ``root`` holds configuration and tokenizer; the graphs, the fp32 one among them, and the runtime lie in ``folder``,
    which is in ``root`` or has copies of its files. In ``earlier``, the ``onnx`` folder that they will be moved to, the
    entries of other graphs are kept, and its texts are used again.

    Raises:
        ModelError: the fresh process does not get the same.
    """
    backends = {name: OnnxBackend(root, folder / name) for name in graphs}
    fp32 = backends[OnnxFiles.fp32]
    before = _read_earlier(earlier / OnnxFiles.self_check, fp32)
    cases = before.get("cases") or draw_cases(root, fp32)
    reference = case_logits(fp32, cases)
    entries = {
        name: _entry(backend, cases, _exact(root, folder / name, cases, reference))
        for name, backend in backends.items()
    }
    # The new files alone first: the others lie elsewhere.
    _write(folder, cases, entries)
    _repeat(folder)
    kept = {name: entry for name, entry in before.get("files", {}).items() if (earlier / name).is_file()}
    _write(folder, cases, kept | entries)


def draw_cases(root: Path, backend: OnnxBackend) -> list[dict[str, Any]]:
    """Draw texts from the vocabulary of the tokenizer in ``root``.

    Of each domain those whose labels are clearest, judged by ``backend``, and all its labels if it gives them.
    """
    heads = backend.spec.all_heads
    share = max(1, CASES // len(heads.domains))
    count = share * _CANDIDATES
    lengths = (*_LENGTHS, backend.spec.max_length * 3 // 2)
    texts = _draw_texts(root, 2 * count, lengths)
    cases: list[dict[str, Any]] = [{"text": text} for text in texts[:count]]
    if backend.spec.pair:
        cases = [{"text": a, "text_pair": b} for a, b in zip(texts[:count], texts[count:], strict=True)]
    logits = case_logits(backend, cases)
    too_long = set(range(len(lengths) - 1, count, len(lengths)))
    found = []
    for domain in heads.domains:
        order = np.argsort(-_margins(logits, heads, domain), kind="stable").tolist()
        labels = case_labels(backend, [{**case, "domain": domain} for case in cases], logits)
        # The clearest of each label in turn, so that a rare label is there too.
        ranks: dict[str, Iterator[int]] = defaultdict(itertools.count)
        ranked = {n: next(ranks[labels[n]]) for n in order}
        chosen = sorted(ranked, key=ranked.__getitem__)[:share]
        # And one that is too long: every client has to cut it at the same place.
        if too_long.isdisjoint(chosen):
            chosen[-1] = next(n for n in order if n in too_long)
        found += [{**cases[n], "domain": domain} for n in chosen]
    return found


def _draw_texts(root: Path, count: int, lengths: Sequence[int]) -> list[str]:
    tokenizer = read_tokenizer(root)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    # Sorted: the library's own order changes from process to process.
    ids = sorted(index for token, index in tokenizer.get_vocab().items() if token not in special)
    random = np.random.default_rng(_SEED)
    texts: list[str] = []
    for n in range(count):
        drawn = random.choice(ids, size=lengths[n % len(lengths)]).tolist()
        text = " ".join(tokenizer.decode(drawn).split()) or "a"
        # A byte that is no character on its own is shown as one that stands for damage.
        texts.append(text.replace("\ufffd", "") or "a")
    return texts


def _margins(logits: FloatArray, heads: DomainHeads, domain: str) -> FloatArray:
    """Return how far the best output of the domain lies above the second, [n]; without a second, infinitely."""
    own = np.sort(logits[:, list(heads.columns[domain])], axis=1)
    if own.shape[1] < 2:
        return np.full(len(own), np.inf, dtype=np.float32)
    margins: FloatArray = own[:, -1] - own[:, -2]
    return margins


def _exact(root: Path, graph: Path, cases: list[dict[str, Any]], fp32: FloatArray) -> FloatArray | None:
    """Return what a graph's logits would be without integer arithmetic; None where it has none.

    Weights that are rounded once and multiplied in fp32 are the same numbers on every CPU, so they need no room. Of
    8-bit products fp32's logits are the nearest there is; they leave room for the rounding of the weights too.
    """
    model = load_onnx(graph)
    if any(node.op_type in _INTEGER_OPS for node in model.graph.node):
        return fp32
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    if not products:
        return None
    for node in products:
        level = next(attribute for attribute in node.attribute if attribute.name == "accuracy_level")
        level.i = _FP32_ARITHMETIC
    plain = graph.with_name("exact.onnx")
    onnx.save(model, str(plain))
    logits = case_logits(OnnxBackend(root, plain), cases)
    plain.unlink()
    return logits


def _entry(backend: OnnxBackend, cases: list[dict[str, Any]], exact: FloatArray | None) -> dict[str, Any]:
    """Return what is stored of one graph; ``exact`` as ``_exact`` gives it."""
    logits = case_logits(backend, cases)
    tolerance = FP32_TOLERANCE
    if exact is not None:
        tolerance = max(LEAST_TOLERANCE, round(ROOM * float(np.abs(logits - exact).max()), _DIGITS))
    heads = backend.spec.all_heads
    labels: list[str | None] = list(case_labels(backend, cases, logits))
    for n, case in enumerate(cases):
        if _margins(logits[n : n + 1], heads, case["domain"])[0] <= 2 * tolerance:
            labels[n] = None
    rows = [[round(float(value), _DIGITS) for value in row] for row in logits]
    return {"tolerance": tolerance, "labels": labels, "logits": rows}


def _read_earlier(path: Path, backend: OnnxBackend) -> dict[str, Any]:
    """Return what an earlier export stored; nothing where it did not, or of a model with other domains or inputs."""
    try:
        stored = read_stored_cases(path)
    except ModelError:
        return {}
    heads = backend.spec.all_heads
    fits = all(c["domain"] in heads.labels and ("text_pair" in c) == backend.spec.pair for c in stored["cases"])
    return stored if fits else {}


def _write(folder: Path, cases: list[dict[str, Any]], files: dict[str, Any]) -> None:
    content = {"format": SELF_CHECK_FORMAT, "cases": cases, "files": files}
    (folder / OnnxFiles.self_check).write_text(
        json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def _repeat(folder: Path) -> None:
    """Run the self-check in a process of its own, with the one-file runtime that devices run."""
    # This process's places, however they were set.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(folder / PREDICTOR_ARCHIVE), str(folder), "--self-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ModelError(f"a fresh process does not repeat the predictions of {ModelFiles.onnx}/: {said}")
