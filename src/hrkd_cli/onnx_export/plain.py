"""The fp32 file: traced, rewritten, compared with torch."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli.errors import ModelError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.models.backend import TorchBackend
from hrkd_cli.onnx_export.rewrites import rewrite_file
from hrkd_cli.onnx_export.trace import write_graph
from hrkd_cli.onnx_export.verify import check_equal


def write_fp32(torch_model: TorchBackend, path: Path, *, on_event: OnEvent = ignore) -> None:
    """Write a student's graph, rewritten where that keeps its logits and as it was traced where it does not.

    Raises:
        ModelError: the architecture cannot be traced, or the graph's logits are not torch's.
    """
    on_event(Note("tracing the student into an ONNX graph"))
    write_graph(torch_model.model, torch_model.inputs, path)
    traced = path.read_bytes()
    counts = rewrite_file(path)
    try:
        difference = check_equal(torch_model, path)
    except ModelError:
        path.write_bytes(traced)
        difference = check_equal(torch_model, path)
        on_event(Note("rewriting the graph changed its logits: it is kept as it was traced, and slower", warning=True))
    else:
        done = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if count)
        on_event(Note(f"rewritten: {done or 'nothing'}"))
    on_event(Note(f"{path.name} gives the student's logits (largest difference {difference:.1g})"))
