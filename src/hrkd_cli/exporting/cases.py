"""Predictions that ship with exported graphs, and the fresh process that repeats them before anything is kept.

The texts are drawn from the tokenizer's own vocabulary: they need no data, give nobody's text away, and reach rows all
over the embedding table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.errors import ModelError
from hrkd_cli.layout import MODEL, ONNX
from hrkd_cli.runtime.backend import FloatArray
from hrkd_cli.runtime.encoder import read_tokenizer
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.runtime.onnx_backend import OnnxBackend
from hrkd_cli.runtime.predictor import single_head
from hrkd_cli.runtime.selfcheck import SELF_CHECK, SELF_CHECK_FORMAT, case_labels, case_logits, read_stored

CASES = 16
"""Stored texts; at least one of every domain."""
FP32_TOLERANCE = 1e-3
"""fp32 sums differ between CPUs in the order of their terms: some 1e-5 on these models, with room for deep ones."""
LEAST_TOLERANCE = 0.05
"""Of a quantised file, where its cases happen to lie closer to fp32's than usual."""
ROOM = 3
"""Times that which quantising moved the logits, a quantised file may be off: int8 products saturate on CPUs with AVX2
but without VNNI, which (emulated, distilled students) moved them by up to 2.4 times as much; no label changed."""

_CANDIDATES = 8  # texts drawn for each that is kept
_LENGTHS = (3, 8, 20)  # tokens, in turn; then one that is cut
_SEED = 0
_DIGITS = 6

# What a device does not have. The child refuses to import it, so that nothing but the runtime's three packages is used.
_ABSENT = (
    "torch",
    "transformers",
    "datasets",
    "pyarrow",
    "onnx",
    "optimum",
    "safetensors",
    "typer",
    "rich",
    "accelerate",
)
_CHILD = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("no " + name + " on a device", name=name)
sys.meta_path.insert(0, Absent())
from hrkd_cli.errors import HrkdError
from hrkd_cli.runtime.selfcheck import self_check
try:
    self_check(sys.argv[1])
except HrkdError as error:
    sys.exit(str(error))
"""


def write_cases(root: Path, folder: Path, graphs: Sequence[str], *, earlier: Path) -> str:
    """Store predictions of new graphs beside them, and have a fresh process repeat them.

    Texts of an earlier export are used again and the entries of its other graphs are kept.

    Args:
        root: folder of configuration and tokenizer.
        folder: where the new graphs lie (and ``root``'s files, or it lies in ``root``).
        graphs: names of the new graphs.
        earlier: the ``onnx`` folder that they will be moved to.

    Returns:
        The name of the file that was written.

    Raises:
        ModelError: the fresh process does not get the same.
    """
    backends = {name: OnnxBackend(root, folder / name) for name in graphs}
    before = _earlier(earlier)
    first = backends.get(ONNX.fp32) or backends[graphs[0]]
    cases = before["cases"] if before else draw_cases(root, first)
    fp32 = backends.get(ONNX.fp32)
    reference = case_logits(fp32, cases) if fp32 else _stored_fp32(before)
    entries = {name: _entry(name, backend, cases, reference) for name, backend in backends.items()}
    stored = {"format": SELF_CHECK_FORMAT, "cases": cases}
    new = folder / SELF_CHECK
    # The new files alone first: the others lie elsewhere.
    _write(new, {**stored, "files": entries})
    _repeat(folder)
    kept = {
        n: e for n, e in (before["files"] if before else {}).items() if n not in entries and (earlier / n).is_file()
    }
    _write(new, {**stored, "files": {**kept, **entries}})
    return SELF_CHECK


def draw_cases(root: Path, backend: OnnxBackend) -> list[dict[str, Any]]:
    """Draw texts from the vocabulary; of each domain those whose labels are clearest, all its labels if it gives them.

    Args:
        root: folder of the tokenizer.
        backend: the graph that the labels are judged by.
    """
    heads = backend.spec.heads or single_head(backend.spec)
    share = max(1, CASES // len(heads.domains))
    lengths = (*_LENGTHS, backend.spec.max_length * 3 // 2)
    texts = _draw_texts(root, 2 * share * _CANDIDATES, lengths)
    half = len(texts) // 2
    cases: list[dict[str, Any]] = [{"text": text} for text in texts[:half]]
    if backend.spec.pair:
        cases = [{"text": a, "text_pair": b} for a, b in zip(texts[:half], texts[half:], strict=True)]
    logits = case_logits(backend, cases)
    found = []
    for domain in heads.domains:
        order = np.argsort(-_margins(logits, heads, domain), kind="stable").tolist()
        labels = case_labels(backend, [{**case, "domain": domain} for case in cases], logits)
        # The clearest of each label in turn, so that a rare label is there too.
        ranks = [sum(labels[other] == labels[n] for other in order[:place]) for place, n in enumerate(order)]
        chosen = [n for _, n in sorted(zip(ranks, order, strict=True), key=lambda pair: pair[0])][:share]
        # And one that is too long: every client has to cut it at the same place.
        if not any(_is_long(n, lengths) for n in chosen):
            chosen[-1] = next(n for n in order if _is_long(n, lengths))
        found += [{**cases[n], "domain": domain} for n in chosen]
    return found


def _is_long(n: int, lengths: Sequence[int]) -> bool:
    return n % len(lengths) == len(lengths) - 1


def _draw_texts(root: Path, count: int, lengths: Sequence[int]) -> list[str]:
    tokenizer = read_tokenizer(root)
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    # Sorted: the library's own order changes from process to process.
    ids = sorted(index for token, index in tokenizer.get_vocab().items() if token not in special)
    random = np.random.default_rng(_SEED)
    texts: list[str] = []
    while len(texts) < count:
        drawn = random.choice(ids, size=lengths[len(texts) % len(lengths)]).tolist()
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


def _entry(
    name: str, backend: OnnxBackend, cases: list[dict[str, Any]], reference: FloatArray | None
) -> dict[str, Any]:
    """Return what is stored of one graph.

    A quantised graph may differ by ``ROOM`` times what quantising itself changed its logits by: int8 arithmetic is not
    the same on every CPU.
    """
    logits = case_logits(backend, cases)
    tolerance = FP32_TOLERANCE
    if name != ONNX.fp32:
        moved = float(np.abs(logits - reference).max()) if reference is not None else 0.0
        tolerance = max(LEAST_TOLERANCE, round(ROOM * moved, _DIGITS))
    heads = backend.spec.heads or single_head(backend.spec)
    labels: list[str | None] = list(case_labels(backend, cases, logits))
    for n, case in enumerate(cases):
        if _margins(logits[n : n + 1], heads, case["domain"])[0] <= 2 * tolerance:
            labels[n] = None
    rows = [[round(float(value), _DIGITS) for value in row] for row in logits]
    return {"tolerance": tolerance, "labels": labels, "logits": rows}


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Return what an earlier export stored; None where it did not, or cannot be read."""
    path = folder / SELF_CHECK
    try:
        return read_stored(path) if path.is_file() else None
    except ModelError:
        return None


def _stored_fp32(stored: dict[str, Any] | None) -> FloatArray | None:
    entry = (stored or {}).get("files", {}).get(ONNX.fp32)
    return None if entry is None else np.array(entry["logits"], dtype=np.float32)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _repeat(folder: Path) -> None:
    """Run the self-check in a process of its own, with only onnxruntime, tokenizers and numpy.

    Raises:
        ModelError: it does not get the stored predictions.
    """
    package = str(Path(__file__).resolve().parents[2])
    # This process's places, however they were set, since -I leaves out what the environment says.
    code = f"import sys; sys.path[:] = {[package, *sys.path]!r}\n" + _CHILD.format(absent=_ABSENT)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ModelError(f"a fresh process does not repeat the predictions of {MODEL.onnx}/: {said}")
