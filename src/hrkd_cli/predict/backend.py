"""What prediction and evaluation need from a classifier, and the one that onnxruntime runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import onnxruntime

from hrkd_cli.errors import ModelError, UsageError, one_line
from hrkd_cli.predict.folder import ONNX_SUFFIX, Spec, locate, read_spec
from hrkd_cli.predict.heads import FloatArray
from hrkd_cli.predict.tokenization import TextTokenizer

T = TypeVar("T")

TORCH_BATCH = 32
"""Rows of a torch model's batch; its fp32 results do not depend on it."""

_ERRORS_ONLY = 3  # onnxruntime's scale: 2 would print warnings on stderr


class Backend(Protocol):
    """A loaded classifier.

    Attributes:
        kind: ``"torch"`` or ``"onnx"``.
        where: what to call it in errors.
        file: name of the file that holds the weights.
        bytes: size of the weights on disk.
        parameters: numbers in the weights; None for a graph, whose file has to be read for that.
        best_batch: batch size where the caller does not give one.
        spec: what the configuration says.
        encoder: the tokenizer.
    """

    kind: str
    where: str
    file: str
    bytes: int
    parameters: int | None
    best_batch: int
    spec: Spec
    encoder: TextTokenizer

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all outputs, [n, outputs], in the order of the texts.

        Args:
            texts: first texts.
            pairs: second texts, where the classifier reads two.
            batch_size: rows of one forward pass.
            pad_to: tokens every batch is padded to; None pads to the longest of the batch.
        """


class OnnxBackend:
    """A graph with the usual inputs, and the configuration and tokenizer beside it, on the CPU."""

    kind = "onnx"
    parameters: int | None = None
    # Dynamic int8 takes its activation scales over the whole batch, so a row's result depends on its neighbors.
    best_batch = 1

    def __init__(self, root: Path, graph: Path, *, threads: int | None = None) -> None:
        """Load a graph.

        Args:
            root: folder of config.json and the tokenizer.
            graph: the ``.onnx`` file.
            threads: threads of one forward pass; None for onnxruntime's own choice.

        Raises:
            ModelError: a file is missing, broken, or not a text classifier's.
        """
        self.where = str(graph)
        self.file = graph.name
        self.bytes = graph.stat().st_size
        self.spec = read_spec(root)
        self.encoder = TextTokenizer.from_folder(
            root, max_length=self.spec.max_length, config=self.spec.config, truncate=self.spec.truncate
        )
        self._session = open_session(graph, threads=threads)
        self._inputs = [node.name for node in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}):
            raise ModelError(f"{graph}: it has inputs that no tokenizer gives: {', '.join(unknown)}")

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all outputs, [n, outputs]; see ``Backend``."""
        parts = [np.zeros((0, len(self.spec.config["id2label"])))] if not len(texts) else []
        for batch in batches(self.encoder.encode(texts, pairs), batch_size):
            arrays = self.encoder.collate(batch, pad_to)
            try:
                parts.append(self._session.run(None, {name: arrays[name] for name in self._inputs})[0])
            # onnxruntime has an exception class of its own for every status code, with no common base.
            except Exception as error:
                raise ModelError(f"{self.where}: onnxruntime cannot run it ({one_line(error)})") from None
        return check_logits(np.concatenate(parts).astype(np.float32), self.spec, self.where)


def open_session(graph: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load a graph into onnxruntime on the CPU, silently.

    Raises:
        ModelError: onnxruntime cannot read the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{graph}: onnxruntime cannot read it ({one_line(error)})") from None


def open_backend(path: str | Path, *, threads: int | None = None, device: str = "auto") -> Backend:
    """Load the classifier at ``path``; torch is imported only where there is no ONNX graph.

    Args:
        path: ``onnx`` folder, ``.onnx`` file, model folder, or hub id.
        threads: threads of one forward pass; None for the library's own choice.
        device: where a torch model runs; ONNX graphs run on the CPU.

    Raises:
        ModelError: nothing there, or not a classifier.
        UsageError: ``threads`` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: {threads} is not at least 1")
    location = locate(path)
    if location is not None and location.graph is not None:
        return OnnxBackend(location.root, location.graph, threads=threads)
    if location is None and not _may_be_hub_id(str(path)):
        raise ModelError(f"{path}: no such file or folder; name a model folder, an onnx folder or one .onnx file")
    # By name, so that this package works (and type-checks) on its own, without the torch side.
    try:
        module = importlib.import_module("hrkd_cli.models.backend")
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: reading it needs {error.name}; pip install hrkd-cli, or export the model") from None
    return cast(Backend, module.TorchBackend(path, threads=threads, device=device))


def _may_be_hub_id(path: str) -> bool:
    """Whether an absent path could be NAME or OWNER/NAME on the hub rather than a folder that was mistyped."""
    parts = Path(path).parts
    if Path(path).is_absolute() or path.startswith(".") or path.endswith(ONNX_SUFFIX):
        return False
    return len(parts) == 1 or (len(parts) == 2 and not Path(parts[0]).is_dir())


def check_logits(logits: FloatArray, spec: Spec, where: str) -> FloatArray:
    """Refuse logits that do not fit the configuration, or that are not numbers.

    Raises:
        ModelError: the number of outputs differs from ``id2label``, or an output is not finite.
    """
    outputs = len(spec.config["id2label"])
    if logits.ndim != 2 or logits.shape[1] != outputs:
        given = " x ".join(map(str, logits.shape[1:]))
        raise ModelError(f"{where}: gives {given} outputs but config.json names {outputs}; export it again")
    if not np.isfinite(logits).all():
        raise ModelError(f"{where}: gives outputs that are not numbers (nan or infinity); its weights are damaged")
    return logits


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of ``size``; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
