"""What prediction and evaluation need from a classifier, whatever runs it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.encoder import TextEncoder
from hrkd_cli.predict.folder import Spec, locate

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")

TORCH_BATCH = 32
"""Rows a torch model reads at once; its fp32 results do not depend on it."""


class Backend(Protocol):
    """A loaded classifier.

    Attributes:
        kind: ``"torch"`` or ``"onnx"``.
        file: name of the file that holds the weights.
        bytes: size of the weights on disk.
        parameters: numbers in the weights; None for a graph, whose file has to be read for that.
        best_batch: rows to score at once where nothing else is asked for.
        spec: what the configuration says.
        encoder: the tokenizer.
    """

    kind: str
    file: str
    bytes: int
    parameters: int | None
    best_batch: int
    spec: Spec
    encoder: TextEncoder

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
            batch_size: rows a forward pass reads at once.
            pad_to: tokens every batch is padded to; None pads to the longest of the batch.
        """


def open_backend(path: str | Path, *, threads: int | None = None, device: str = "auto") -> Backend:
    """Load the classifier at ``path``; torch is imported only where there is no ONNX graph.

    Args:
        path: ``onnx`` folder, ``.onnx`` file, model folder, or hub id.
        threads: threads of the kernels; None for the library's own choice.
        device: where a torch model runs; ONNX graphs run on the CPU.

    Raises:
        ModelError: nothing there, or not a classifier.
        UsageError: ``threads`` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: {threads} is not at least 1")
    location = locate(path)
    if location is not None and location.graph is not None:
        from hrkd_cli.predict.onnx_backend import OnnxBackend

        return OnnxBackend(location.root, location.graph, threads=threads)
    if location is None and not _may_be_hub_id(path):
        raise ModelError(f"{path}: no such file or folder; name a model folder, an onnx folder or one .onnx file")
    # By name, so that this package works (and type-checks) on its own, without the torch side.
    try:
        module = importlib.import_module("hrkd_cli.models.backend")
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: reading it needs {error.name}; pip install hrkd-cli, or export the model") from None
    return cast(Backend, module.TorchBackend(path, threads=threads, device=device))


def _may_be_hub_id(path: str | Path) -> bool:
    """Whether an absent path could be NAME or OWNER/NAME on the hub rather than a folder that was mistyped."""
    parts = Path(path).parts
    return not (
        Path(path).is_absolute()
        or len(parts) not in (1, 2)
        or str(path).startswith(".")
        or Path(path).suffix == ".onnx"
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def check_pairs(spec: Spec, pairs: Sequence[str] | None) -> None:
    """Refuse second texts that the classifier does not read, or their absence where it reads two.

    Raises:
        UsageError: second texts are missing or too many.
    """
    if spec.pair is True and pairs is None:
        raise UsageError("this model reads two texts: give the second ones too (pairs, --text-pair)")
    if spec.pair is False and pairs is not None:
        raise UsageError("this model reads one text: leave out the second ones (pairs, --text-pair)")


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
