"""Whether the teacher runs on every batch or its outputs are cached on disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from hrkd_cli.choices import CacheTeacher, Method
from hrkd_cli.distillation.cached_teacher import CachedTeacher
from hrkd_cli.distillation.task import Comparison
from hrkd_cli.distillation.teacher_outputs import NoTeacher, OnlineTeacher, TeacherOutputs
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note
from hrkd_cli.layout import CACHE
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext

LIMIT = 50 * 10**9  # bytes that auto keeps at most
SPARE = 10**9  # bytes of the disk that are left to others


def teacher_outputs(
    teachers: Teachers,
    rows: tuple[Encoder, Mapping[str, Encoded]],
    comparison: Comparison,
    settings: DistillSettings,
    *,
    before: bool | None,
    out: Path,
    own_tokenizer: bool,
    passes: float,
    context: TrainContext,
) -> tuple[TeacherOutputs, bool]:
    """Return where a run gets its teacher outputs from, and whether that is a cache, which is then built.

    Args:
        teachers: one for each domain.
        rows: the training data as they see it: (encoder, token ids by domain).
        comparison: what is compared.
        settings: see DistillSettings.
        before: what a run that is resumed had chosen; None for a new run.
        out: the student's folder; the cache lies beside it.
        own_tokenizer: whether the student sees the data differently.
        passes: times that the run reads each row, on average.
        context: see TrainContext.

    Raises:
        OutputError: the cache must be used, and the disk has no room for it.
    """
    if settings.method is Method.LABELS:
        return NoTeacher(), False
    arithmetic, processes, on_event = context.precision, context.processes, context.on_event
    online = OnlineTeacher(
        teachers,
        comparison.layers,
        attention=comparison.attention,
        rows=rows,
        own_tokenizer=own_tokenizer,
        pad_to=rows[0].max_length if comparison.padded else None,
        device=arithmetic.device,
    )
    if settings.cache_teacher is CacheTeacher.OFF or comparison.padded or before is False:
        return online, False
    must = settings.cache_teacher is CacheTeacher.ON or before is True
    cache = CachedTeacher(out.resolve().parent / CACHE.folder, online, arithmetic=arithmetic, processes=processes)
    problem = None if must else _not_worth_it(cache, passes)
    if problem is None and processes.is_main:  # one process looks at the disk, for all
        cache.folder.claim()
        problem = _no_room(cache)
    if processes.any(problem is not None):
        if must:
            raise OutputError(f"--cache-teacher on: {problem}; free some space or use --cache-teacher off")
        on_event(Note(f"teacher outputs: computed on every batch ({problem})"))
        return online, False
    computed = cache.build(on_event)
    what = f"computed once and kept in {cache.root} ({cache.bytes / 1e9:.2f} GB)"
    on_event(Note(f"teacher outputs: {what if computed else f'read from {cache.folder.path}'}"))
    return cache, True


def _not_worth_it(cache: CachedTeacher, passes: float) -> str | None:
    """Return why auto does not cache; None where it does."""
    if cache.arithmetic.device.type != "cpu":
        return "on a GPU that is no slower than reading them"
    if passes <= 1:
        return "most rows are read only once"
    if cache.bytes > LIMIT:
        return f"they take {cache.bytes / 1e9:.0f} GB, more than the {LIMIT / 1e9:.0f} GB that auto keeps"
    return None


def _no_room(cache: CachedTeacher) -> str | None:
    """Return why the disk cannot hold what is missing; None where it can."""
    missing, free = cache.bytes - cache.folder.size(), max(0, _free(cache.root))
    if missing <= free:
        return None
    return f"the teacher's outputs take {missing / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB to spare"


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free - SPARE
