"""The working folder of a run and its checkpoints: what may be written, and what a run resumes from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.errors import OutputError, TrainingError, UsageError
from hrkd_cli.layout import partial
from hrkd_cli.options import option_name
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.training.checkpoint import Checkpointer, has_checkpoint, remove_checkpoints
from hrkd_cli.training.context import TrainContext


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run works.

    Attributes:
        work: folder for metrics.jsonl, best weights and checkpoints.
        out: its name once it is whole.
        checkpoint: saves and restores the run.
    """

    work: Path
    out: Path
    checkpoint: Checkpointer


@contextlib.contextmanager
def run_folder(
    out: Path, *, key: str, options: Mapping[str, Any], resume: bool, context: TrainContext
) -> Iterator[RunFolder]:
    """Give a run its working folder and checkpoints; the folder becomes ``out`` when the block ends.

    Raises:
        TrainingError: the checkpoint is of another run, or of another precision.
        OutputError: the folder cannot be written.
    """
    processes = context.processes
    with contextlib.ExitStack() as stack:
        work = partial(out.resolve())
        if processes.is_main:
            stack.enter_context(whole_folder(out, worth_keeping=lambda w: has_checkpoint(w) is not None, go_on=resume))
        processes.barrier()
        checkpoint = Checkpointer(work, processes, {"key": key, "options": dict(options)}, resume=resume)
        if checkpoint.resumed is not None and checkpoint.resumed["key"] != key:
            raise TrainingError(
                f"{out}: {_difference(checkpoint.resumed['options'], options)}; go on with what it had, "
                "or start over with --force"
            )
        now = str(context.precision.precision)
        before = checkpoint.decide("precision", lambda: now)
        if before != now:
            raise TrainingError(
                f"{out}: the run was cut off in {before}, and would go on in {now}; give --precision {before}, "
                "or start over with --force"
            )
        yield RunFolder(work, out, checkpoint)
        if processes.is_main:
            remove_checkpoints(work)
    processes.barrier()


def check_stage_output(out: Path, *, kind: str, is_ours: Callable[[Path], bool], force: bool, resume: bool) -> None:
    """Refuse an output that may not be written, and a run that would forget one that was cut off.

    Raises:
        UsageError: ``force`` and ``resume`` together.
        OutputError: the output exists, or a checkpoint of a run that was cut off does.
    """
    if force and resume:
        raise UsageError("--force --resume: one starts over, the other goes on; leave one out")
    if not (resume and is_ours(out)):
        check_output(out, kind=kind, is_ours=is_ours, force=force)
    step = has_checkpoint(partial(out.resolve()))
    if step is not None and not (force or resume):
        raise OutputError(
            f"{out}: a run that was cut off left a checkpoint after step {step}; go on with --resume, or start over "
            "with --force"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what a run that was cut off differs from this one."""
    other = [f"{option_name(n)} {before.get(n)}" for n, value in now.items() if before.get(n) != value]
    what = f"with {', '.join(other)}" if other else "with other data or another model"
    return f"the run that was cut off was made {what}"
