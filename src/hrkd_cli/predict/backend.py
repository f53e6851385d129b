"""Backends: the interface through which prediction and evaluation run a classifier, and the one for onnxruntime."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from hrkd_cli.errors import ModelError, UsageError, one_line
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.predict.heads import FloatArray
from hrkd_cli.predict.model_location import locate_model
from hrkd_cli.predict.model_spec import build_spec
from hrkd_cli.predict.tokenization import TextTokenizer, find_pad_id, read_tokenizer

THREADS_PER_CORE = 4
_ERRORS_ONLY = 3  # onnxruntime log level; 2 would print warnings to stderr


class Backend:
    """A loaded classifier. Subclasses define ``forward`` and set the attributes below."""

    kind: str  # "torch" or "onnx"
    file: str  # name of the weight file
    bytes: int  # size of the weights on disk
    parameters: int | None = None  # None for an ONNX file, which would have to be parsed to count them
    default_batch_size: int

    def __init__(
        self, name_or_path: str, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], tokenizer: Tokenizer
    ) -> None:
        self.name_or_path = name_or_path
        self.spec = build_spec(config, tokenizer_config)
        self.tokenizer = TextTokenizer(
            tokenizer,
            max_length=self.spec.max_length,
            pad_id=find_pad_id(tokenizer, tokenizer_config, config),
            truncate=self.spec.truncate,
        )

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run the model on one padded batch of arrays (B, T), ignoring inputs that it does not have; return logits."""
        raise NotImplementedError

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all outputs, (n, outputs), in the order of the texts (see ``Predictor.logits``).

        Raises:
            ModelError: the model cannot run, or its outputs do not match the configuration or are not finite.
        """
        examples = self.tokenizer.encode(texts, pairs)
        order = list(range(len(examples)))
        if pad_to is None:  # batching texts of similar length saves most of the padding
            order.sort(key=lambda row: len(examples[row]))
        num_outputs = len(self.spec.config["id2label"])
        logits = np.zeros((len(examples), num_outputs), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch_logits = self.forward(self.tokenizer.pad([examples[row] for row in rows], pad_to))
            if batch_logits.shape != (len(rows), num_outputs):
                raise ModelError(
                    f"{self.name_or_path}: gives {' x '.join(map(str, batch_logits.shape[1:]))} outputs but "
                    f"config.json names {num_outputs}; export it again"
                )
            logits[rows] = batch_logits
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.name_or_path}: gives outputs that are not numbers (nan or infinity); its weights are damaged"
            )
        return logits


class OnnxBackend(Backend):
    """An ONNX file, run by onnxruntime on the CPU."""

    kind = "onnx"
    # Dynamic int8 computes activation scales over the whole batch, so a row's result depends on the others.
    default_batch_size = 1

    def __init__(self, root: Path, onnx_file: Path, *, threads: int | None = None) -> None:
        """Load an ONNX file, and its configuration and tokenizer from the folder ``root``.

        Raises:
            ModelError: a file is missing or damaged, or does not belong to a text classifier.
        """
        tokenizer_config = read_json(root / ModelFiles.tokenizer_config, missing_ok=True)
        super().__init__(str(onnx_file), read_json(root / ModelFiles.config), tokenizer_config, read_tokenizer(root))
        self.file = onnx_file.name
        self.bytes = onnx_file.stat().st_size
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions have no common base class but Exception.
        except Exception as error:
            raise ModelError(f"{onnx_file}: onnxruntime cannot read it ({one_line(error)})") from None
        self._inputs = [node.name for node in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}):
            raise ModelError(f"{onnx_file}: it has inputs that no tokenizer provides: {', '.join(unknown)}")

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run onnxruntime on one padded batch; see ``Backend``."""
        try:
            logits: FloatArray = self._session.run(None, {name: arrays[name] for name in self._inputs})[0]
        except Exception as error:
            raise ModelError(f"{self.name_or_path}: onnxruntime cannot run it ({one_line(error)})") from None
        return logits


def check_threads(threads: int | None) -> None:
    """Raise UsageError for a number of threads that is far above the number of cores."""
    most = THREADS_PER_CORE * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        cores = f"{most} ({THREADS_PER_CORE} for each of the machine's {os.cpu_count()} cores)"
        raise UsageError(f"--threads: {threads} is not at least 1 and at most {cores}")


def open_backend(path: str | Path, *, threads: int | None = None, device: str = "auto") -> Backend:
    """Load an ``onnx`` folder, ``.onnx`` file, model folder or hub id; imports torch only if there is no ONNX file.

    ``threads`` None is the library's default; ``device`` is that of a torch model, ONNX files run on the CPU.

    Raises:
        ModelError: there is nothing at ``path``, or it is not a classifier.
    """
    check_threads(threads)
    location = locate_model(path)
    if location is not None and location.onnx_file is not None:
        return OnnxBackend(location.root, location.onnx_file, threads=threads)
    # Imported by name so that this package works, and type-checks, without torch.
    try:
        if location is None:  # reports a mistyped name before torch is imported, which takes seconds
            importlib.import_module("hrkd_cli.models.model_source").resolve_model(path)
        module = importlib.import_module("hrkd_cli.models.torch_backend")
    except ModuleNotFoundError as error:
        hrkd_cli = f"hrkd-cli (no module {error.name}); pip install hrkd-cli"
        if location is None:
            raise ModelError(f"{path}: no such folder; models on the hub need {hrkd_cli}") from None
        onnx = Path(path) / ModelFiles.onnx
        advice = f"name its ONNX files, {onnx}" if onnx.is_dir() else "export the model"
        raise ModelError(f"{path}: torch weights need {hrkd_cli}, or {advice}") from None
    return cast(Backend, module.TorchBackend(path, threads=threads, device=device))
