"""An exported classifier, run by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from hrkd_cli.errors import ModelError
from hrkd_cli.predict.backend import FloatArray, batches, check_logits
from hrkd_cli.predict.encoder import TextEncoder
from hrkd_cli.predict.folder import one_line, read_spec

_ERRORS_ONLY = 3  # onnxruntime's scale: 2 would print warnings on stderr


class OnnxBackend:
    """A graph with the usual inputs, and the configuration and tokenizer that lie beside it."""

    kind = "onnx"
    parameters: int | None = None
    # Dynamic int8 takes its activation scales over the whole batch, so a row's result depends on its neighbours.
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
        spec = self.spec
        self.encoder = TextEncoder.from_folder(
            root, max_length=spec.max_length, config=spec.config, truncate=spec.truncate
        )
        self._session = open_session(graph, threads=threads)
        self._inputs = [node.name for node in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}):
            raise ModelError(f"{graph}: it asks for inputs that no tokenizer gives: {', '.join(unknown)}")

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all outputs, [n, outputs]; see ``Backend``."""
        parts = []
        for batch in batches(self.encoder.encode(texts, pairs), batch_size):
            arrays = self.encoder.collate(batch, pad_to)
            try:
                parts.append(self._session.run(None, {name: arrays[name] for name in self._inputs})[0])
            # onnxruntime has an exception class of its own for every status code, with no common base.
            except Exception as error:
                raise ModelError(f"{self.where}: onnxruntime cannot run it ({one_line(error)})") from None
        outputs = len(self.spec.config["id2label"])
        found = np.concatenate(parts) if parts else np.zeros((0, outputs))
        return check_logits(found.astype(np.float32), self.spec, self.where)


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
