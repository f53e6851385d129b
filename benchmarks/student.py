"""The students of `study.py` and their teacher, with the interface of the peers (`peers/peer.py`).

A student is distilled with the default options, except those of the method in `study_methods.py`, and exported to int8.
If no int8 file passes the accuracy gate, the fp32 file is used. The teacher is fine-tuned once per seed and column.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from hrkd_cli import Predictor, distill, export, teach
from hrkd_cli.errors import GateError
from peer import Data, Options, Predict, Text, run_method
from study_methods import METHODS, TEACHER


def train(data: Data, folder: Path, options: Options) -> Mapping[str, Any]:
    """Fine-tune the teacher if it is missing; distill and export the student."""
    taught = teach(str(options.encoder), data=data.folder, out=options.teacher, resume=True, seed=options.teacher_seed)
    if options.method == TEACHER:
        for file in options.teacher.iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        return {"minutes": taught.seconds / 60}
    weights = folder.with_name(f"{folder.name}-weights")
    given = METHODS[options.method].options or {}
    distilled = distill(
        options.teacher, data=data.folder, out=weights, resume=True, seed=options.seed, on_event=print_event, **given
    )
    folder.rmdir()
    facts: dict[str, Any] = {
        "minutes": (taught.seconds + distilled.seconds) / 60,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    try:
        export(weights, int8=True, out=folder, latency=False)
        (folder / "onnx" / "model.onnx").unlink()
    except GateError as error:
        export(weights, out=folder, latency=False)
        facts["note"] = str(error)
    return facts


def print_event(event: object) -> None:
    """Print what a run decides and scores."""
    if type(event).__name__ in ("Note", "DevScored", "StageStarted"):
        print(event, flush=True)


def load(folder: Path) -> Predict:
    """Open an exported folder, or the teacher's."""
    predictor = Predictor(folder, threads=1)

    def predict(texts: Sequence[Text], domain: str) -> Sequence[str]:
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        seconds = None if isinstance(texts[0], str) else [text[1] for text in texts]
        return [prediction.label or "" for prediction in predictor.predict(firsts, seconds, domain=domain)]

    return predict


if __name__ == "__main__":
    run_method(train, load, weights=["onnx/*.onnx", "model.safetensors"])
