"""Whether the teachers' outputs are kept on disk or computed at every step: decided once, said, and remembered."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from hrkd_cli.choices import CacheTeacher, Method
from hrkd_cli.distillation.cache import TeacherCache, measure_rates
from hrkd_cli.distillation.cache_files import bytes_of, make_room
from hrkd_cli.distillation.cached_teachers import CachedTeachers
from hrkd_cli.distillation.task import Comparison
from hrkd_cli.distillation.teacher_side import AskedTeachers, NoTeachers, TeacherSide
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import CACHE
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.process_group import ProcessGroup

WORTH = 2.0  # reading must be this much faster than computing: near 1 the choice would change from run to run
# What a checkpoint remembers: the teachers run at every step, or their outputs are read from disk and queries and keys
# are computed from them, or these are kept too.
ASKED, DERIVED, KEPT = "asked", "derived", "kept"
SPARE = 1 << 30  # bytes of the disk that are left to others


def teacher_side(
    teachers: Teachers,
    rows: tuple[Encoder, Mapping[str, Encoded]],
    comparison: Comparison,
    settings: DistillSettings,
    *,
    own_tokenizer: bool,
    out: Path,
    decided: str | None,
    passes: float,
    arithmetic: Arithmetic,
    processes: ProcessGroup,
    on_event: OnEvent,
) -> tuple[TeacherSide, str]:
    """Make the teachers' side of a run; where their outputs are to be kept, compute what is missing of them.

    Args:
        teachers: one a domain.
        rows: the train split as they see it.
        comparison: what is compared.
        settings: see DistillSettings.
        own_tokenizer: whether they have another tokenizer than the student.
        out: the run's output: outputs are kept beside it.
        decided: what an interrupted run had decided; None decides now.
        passes: times that the run reads each row, on average.
        arithmetic: precision and device.
        processes: the processes of the run.
        on_event: told what was decided.

    Returns:
        The side, and what was decided: ``ASKED``, ``DERIVED`` or ``KEPT``.

    Raises:
        OutputError: keeping was asked for, and the disk is too small.
    """
    if settings.method is Method.LABELS:
        return NoTeachers(), ASKED
    if not comparison.padded and settings.cache_teacher is not CacheTeacher.OFF and decided != ASKED:
        root = out.resolve().parent / CACHE.folder
        cache = _planned(root, teachers, rows, comparison, settings, decided, arithmetic, processes, on_event)
        wanted = decided is not None or settings.cache_teacher is CacheTeacher.ON
        if processes.any(processes.is_main and _keep(cache, root, settings, passes, must=wanted, on_event=on_event)):
            with _alone(cache, processes, on_event):
                computed = cache.build(on_event)
            if not computed:
                on_event(Note(f"teacher outputs: read from {cache.folder.path}"))
            _forget(arithmetic.device)
            return CachedTeachers(cache), KEPT if cache.kept.scored else DERIVED
    pad_to = rows[0].max_length if comparison.padded else None
    side = AskedTeachers(
        teachers,
        comparison.layers,
        attention=comparison.attention,
        rows=rows,
        own_tokenizer=own_tokenizer,
        pad_to=pad_to,
        device=arithmetic.device,
    )
    return side, ASKED


def _planned(
    root: Path,
    teachers: Teachers,
    rows: tuple[Encoder, Mapping[str, Encoded]],
    comparison: Comparison,
    settings: DistillSettings,
    decided: str | None,
    arithmetic: Arithmetic,
    processes: ProcessGroup,
    on_event: OnEvent,
) -> TeacherCache:
    """Plan what would be kept: queries and keys too on a CPU, as long as limit and disk allow it."""

    def plan(*, derived: bool) -> TeacherCache:
        return TeacherCache(
            root,
            teachers,
            rows,
            layers=comparison.layers,
            attention=comparison.attention,
            derived=derived,
            arithmetic=arithmetic,
            processes=processes,
        )

    if decided == DERIVED or arithmetic.device.type != "cpu":
        return plan(derived=True)
    whole = plan(derived=False)
    if decided == KEPT:
        return whole
    if whole.bytes > settings.cache_limit * 1e9:
        return plan(derived=True)
    # One process looks at the disk, for all.
    if not processes.any(processes.is_main and not _has_room(whole, root, settings.cache_limit)):
        return whole
    derived = plan(derived=True)
    if derived.bytes == whole.bytes:
        return whole
    on_event(Note("teacher outputs: the disk has no room for queries and keys, only for what they come from"))
    return derived


def _has_room(cache: TeacherCache, root: Path, limit: float) -> bool:
    """Tell whether the disk holds what is not there yet, once the outputs that must make way for it have done so."""
    own = cache.folder.path
    missing = cache.bytes - bytes_of(own)
    try:
        others = sum(bytes_of(p) for p in root.iterdir() if p != own and (p / CACHE.index).is_file())
    except OSError:  # no such folder yet, or another run at work in it
        others = 0
    return missing <= max(0, _free(root) + max(0, cache.bytes + others - int(limit * 1e9)))


def _keep(
    cache: TeacherCache, root: Path, settings: DistillSettings, passes: float, *, must: bool, on_event: OnEvent
) -> bool:
    """Decide, and say why."""
    there = cache.folder.path.is_dir()
    problem = None if there else _no_room(cache, root, settings.cache_limit)
    if problem and must:
        raise OutputError(
            f"--cache-teacher on: {problem}; raise --cache-limit, free some space or use --cache-teacher off"
        )
    size = f"{cache.bytes / 1e9:.2f} GB"
    if must or (there and not problem):
        if not there:
            on_event(Note(f"teacher outputs: computed once and kept in {root} ({size})"))
        return True
    if problem or passes <= 1:
        once = "one epoch would read them once only" if settings.epochs == 1 else "most would be read once or never"
        on_event(Note(f"teacher outputs: computed at every step ({problem or once})"))
        return False
    computing, reading = measure_rates(cache, root)
    rates = f"reading {reading:,.0f} examples/s, computing {computing:,.0f}"
    if reading < WORTH * computing:
        with contextlib.suppress(OSError):
            root.rmdir()
        on_event(Note(f"teacher outputs: computed at every step ({rates})"))
        return False
    on_event(Note(f"teacher outputs: computed once and kept in {root} ({size}; {rates})"))
    return True


def _no_room(cache: TeacherCache, root: Path, limit: float) -> str | None:
    """Say why the outputs cannot be kept; None when they can. May remove those of other runs, oldest first."""
    size = f"the teacher's outputs take {cache.bytes / 1e9:.2f} GB"
    if not make_room(root, cache.folder.path, cache.bytes, int(limit * 1e9)):
        return f"{size}, and --cache-limit is {limit:g} GB"
    if cache.bytes > (free := _free(root)):
        return f"{size}, and the disk has {max(0, free) / 1e9:.2f} GB to spare"
    return None


def _free(root: Path) -> int:
    """Bytes that may be written in a folder, which need not exist yet; below 0 where others need what is left."""
    place = root
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free - SPARE


@contextlib.contextmanager
def _alone(cache: TeacherCache, processes: ProcessGroup, on_event: OnEvent) -> Iterator[None]:
    """Let no other run build the same outputs meanwhile."""
    if not processes.is_main:
        yield
        return

    def waiting() -> None:
        on_event(Note("teacher outputs: another run is computing the same ones; waiting for it"))

    with cache.folder.locked(waiting):
        yield


def _forget(device: torch.device) -> None:
    """Give the memory of the teachers' forward passes back before the student needs it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
