"""What prediction and evaluation need from a classifier, and the one that onnxruntime runs."""

from __future__ import annotations

import importlib
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

_ERRORS_ONLY = 3  # onnxruntime's scale: 2 would print warnings on stderr


class Backend:
    """A loaded classifier. A subclass gives ``forward`` and the attributes below."""

    kind: str  # "torch" or "onnx"
    file: str  # name of the file that holds the weights
    bytes: int  # size of the weights on disk
    parameters: int | None = None  # numbers in the weights; None for a graph, whose file has to be read for that
    default_batch_size: int  # batch size where the caller does not give one

    def __init__(
        self, name_or_path: str, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], tokenizer: Tokenizer
    ) -> None:
        self.name_or_path = name_or_path  # what to call it in errors
        self.spec = build_spec(config, tokenizer_config)
        self.tokenizer = TextTokenizer(
            tokenizer,
            max_length=self.spec.max_length,
            pad_id=find_pad_id(tokenizer, tokenizer_config, config),
            truncate=self.spec.truncate,
        )

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run the model once on padded arrays, each [B, T]; inputs that it does not take are left out."""
        raise NotImplementedError

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all outputs, [n, outputs], in the order of the texts (see ``Predictor.logits``).

        Raises:
            ModelError: it cannot be run, or its outputs do not fit the configuration or are not finite.
        """
        encoded = self.tokenizer.encode(texts, pairs)
        order = list(range(len(encoded)))
        if pad_to is None:  # texts of similar length share a batch, which saves most of the padding
            order.sort(key=lambda row: len(encoded[row]))
        found = np.zeros((len(encoded), len(self.spec.config["id2label"])), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            logits = self.forward(self.tokenizer.pad([encoded[row] for row in rows], pad_to))
            if logits.shape != (len(rows), found.shape[1]):
                raise ModelError(
                    f"{self.name_or_path}: gives {' x '.join(map(str, logits.shape[1:]))} outputs but config.json "
                    f"names {found.shape[1]}; export it again"
                )
            found[rows] = logits
        if not np.isfinite(found).all():
            raise ModelError(
                f"{self.name_or_path}: gives outputs that are not numbers (nan or infinity); its weights are damaged"
            )
        return found


class OnnxBackend(Backend):
    """A graph with the usual inputs, on the CPU."""

    kind = "onnx"
    # Dynamic int8 takes its activation scales over the whole batch, so a row's result depends on its neighbors.
    default_batch_size = 1

    def __init__(self, root: Path, graph: Path, *, threads: int | None = None) -> None:
        """Load a graph, and configuration and tokenizer from the folder ``root``.

        Raises:
            ModelError: a file is missing, broken, or not a text classifier's.
        """
        tokenizer_config = read_json(root / ModelFiles.tokenizer_config, missing_ok=True)
        super().__init__(str(graph), read_json(root / ModelFiles.config), tokenizer_config, read_tokenizer(root))
        self.file = graph.name
        self.bytes = graph.stat().st_size
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        # onnxruntime has an exception class of its own for every status code, with no common base.
        except Exception as error:
            raise ModelError(f"{graph}: onnxruntime cannot read it ({one_line(error)})") from None
        self._inputs = [node.name for node in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}):
            raise ModelError(f"{graph}: it has inputs that no tokenizer gives: {', '.join(unknown)}")

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run the graph once; see ``Backend``."""
        try:
            logits: FloatArray = self._session.run(None, {name: arrays[name] for name in self._inputs})[0]
        except Exception as error:
            raise ModelError(f"{self.name_or_path}: onnxruntime cannot run it ({one_line(error)})") from None
        return logits


def open_backend(path: str | Path, *, threads: int | None = None, device: str = "auto") -> Backend:
    """Load the classifier at ``path``; torch is imported only where there is no ONNX graph.

    Args:
        path: ``onnx`` folder, ``.onnx`` file, model folder, or hub id.
        threads: threads of one forward pass; None for the library's own choice.
        device: where a torch model runs; ONNX graphs run on the CPU.

    Raises:
        ModelError: nothing there, or not a classifier.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: {threads} is not at least 1")
    location = locate_model(path)
    if location is not None and location.onnx_file is not None:
        return OnnxBackend(location.root, location.onnx_file, threads=threads)
    # By name, so that this package works (and type-checks) on its own, without the torch side.
    try:
        module = importlib.import_module("hrkd_cli.models.torch_backend")
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: reading it needs {error.name}; pip install hrkd-cli, or export the model") from None
    return cast(Backend, module.TorchBackend(path, threads=threads, device=device))
