"""Atomic output folders: they appear complete or not at all, and replace only folders that hrkd wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath

from hrkd_cli.errors import DataError, OutputError, UsageError
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, partial_folder

STAGE_OUTPUTS = {"teach": "teacher", "distill": "student"}
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_MARKER = ".hrkd-partial"
_LOCK = ".hrkd-lock"
_MIN_FREE_BYTES = 1 << 20  # with fewer, an unexplained write error is reported as a full disk


def check_output(out: Path, *, kind: str, is_ours: Callable[[Path], bool], written: Sequence[str], force: bool) -> None:
    """Check, before any work is done, that ``out`` does not exist or may be replaced.

    Args:
        out: the output folder.
        kind: what the folder holds, for messages: "dataset", "model".
        is_ours: returns whether hrkd wrote a folder of this kind.
        written: patterns of the files that hrkd writes into such a folder.
        force: replace a folder that is empty or was written by hrkd.

    Raises:
        OutputError: the folder exists and may not be replaced, or cannot be made.
    """
    # The root of a drive has no parents.
    existing = next((folder for folder in out.absolute().parents if os.path.lexists(folder)), out)
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        reason = os.strerror(errno.EACCES if existing.is_dir() else errno.ENOTDIR)
        raise OutputError(f"{out}: cannot be written ({reason}); choose another place with --out")
    try:
        if not (out.exists() or out.is_symlink()):
            return
        ours = out.is_dir() and (is_ours(out) or not any(out.iterdir()))
    except OSError as error:
        raise OutputError(f"{out}: cannot be read ({error.strerror or error})") from None
    if not ours:
        raise OutputError(
            f"{out} is not a {kind} folder written by hrkd and will not be replaced; choose another --out"
        )
    if not force:
        raise OutputError(f"{out} exists already; replace it with --force or choose another --out")
    for path in sorted(out.rglob("*")):
        if not matches(path.relative_to(out), written) and (path.is_symlink() or not path.is_dir()):
            raise OutputError(f"{path} was not written by hrkd, and --force would delete it; move it elsewhere first")


def matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Return whether a relative path matches a pattern part by part."""
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


@contextlib.contextmanager
def locked_folder(work: Path) -> Iterator[None]:
    """Make a working folder, and keep ``clear_leftover`` of other programs away from it."""
    from filelock import FileLock

    work.mkdir(parents=True, exist_ok=True)
    (work / _MARKER).touch()
    with FileLock(work / _LOCK):
        yield


@contextlib.contextmanager
def atomic_folder(out: Path, *, resume: bool = False) -> Iterator[Path]:
    """Yield a working folder: renamed to ``out`` when the block ends, deleted if it fails without a checkpoint.

    An existing ``out`` is replaced at the end (call ``check_output`` first); if the block fails, it stays as it was.
    With ``resume``, the working folder of an earlier run is continued if it has a checkpoint.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    # Resolved because ".partial" cannot be appended to "." and "..".
    target = out.resolve()
    work = partial_folder(target)
    existed = target.exists()
    with explain_write_errors(out, work):
        clear_leftover(work, keep=resume and bool(checkpoint_folders(work)))
        try:
            with locked_folder(work):
                yield work
            for name in (_MARKER, _LOCK):
                (work / name).unlink(missing_ok=True)
            apply_umask(work.rglob("*"))
        except BaseException:  # Ctrl-C too
            if not checkpoint_folders(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
    # The result is complete: from here on nothing removes it.
    if target.exists() and not existed:
        raise OutputError(
            f"{out} was made by another program in the meantime and was not replaced; the finished result is in {work}"
        )
    try:
        _replace_folder(target, work)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be replaced ({error.strerror or error}); the finished result is in {work}"
        ) from error


def check_stage_output(out: Path, stage: str, *, force: bool, resume: bool) -> None:
    """Check that a stage may write its output, and that no interrupted run would be discarded.

    Raises:
        UsageError: ``force`` and ``resume`` together.
        OutputError: the output or a checkpoint of an interrupted run exists.
    """
    if force and resume:
        raise UsageError("--force --resume: one starts over, the other continues a run; leave one out")
    if not (resume and is_stage_folder(out, stage)):
        is_ours = partial(is_stage_folder, stage=stage)
        check_output(out, kind=STAGE_OUTPUTS[stage], is_ours=is_ours, written=ModelFiles.written, force=force)
    step = latest_checkpoint_step(partial_folder(out.resolve()))
    if step is not None and not (force or resume):
        raise OutputError(
            f"{out}: an interrupted run left a checkpoint after step {step}; continue it with --resume, or start over "
            "with --force"
        )


def is_stage_folder(path: Path, stage: str) -> bool:
    """Return whether ``stage`` ("teach" or "distill") wrote a folder."""
    return bool(read_json_or_empty(path / ModelFiles.run).get("stage") == stage)


def metrics_file(run: Path) -> Path:
    """Return the metrics of a run's folder, finished or not; raise DataError if it is none."""
    hint = "give the output folder of hrkd teach or hrkd distill"
    if not run.is_dir():
        if (work := partial_folder(run)).is_dir():
            hint = f"to report the unfinished run, give {work}"
        raise DataError(f"{run}: {'not a' if run.exists() else 'no such'} folder; {hint}")
    if not (run / ModelFiles.metrics).is_file():
        raise DataError(f"{run}: no {ModelFiles.metrics} in it; {hint}")
    return run / ModelFiles.metrics


def latest_checkpoint_step(work: Path) -> int | None:
    """Return the step of the newest checkpoint without reading it; None if there is none."""
    return next(map(_step, checkpoint_folders(work)), None)


def checkpoint_folders(work: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, damaged ones too."""
    if not work.is_dir():
        return []
    folders = [path for path in work.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def apply_umask(paths: Iterable[Path]) -> None:
    """Give files the permissions that new files have; safetensors makes them readable for their owner only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in paths:
        if path.is_file():
            with contextlib.suppress(OSError):  # a file system without permissions
                path.chmod(0o666 & ~mask)


def check_no_overlap(out: Path, others: Mapping[str, Path]) -> None:
    """Check that ``out``, which will be replaced, contains none of the ``others``: folders by description.

    Raises:
        UsageError: one of the others is ``out`` or is inside it.
    """
    target = out.resolve()
    for description, other in others.items():
        if other.resolve().is_relative_to(target):
            raise UsageError(f"--out {out}: it would replace the {description} ({other}); choose another folder")


@contextlib.contextmanager
def explain_write_errors(out: Path, work: Path) -> Iterator[None]:
    """Raise OutputError for a full disk or a missing permission, and remove the empty folders that the block made.

    ``work`` is the file or folder that the block writes; errors name ``out`` instead.
    """
    missing_parents = [folder for folder in work.parents if not folder.exists()]
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not isinstance(error, OSError):
            # Native libraries (safetensors, DuckDB, onnx) report a full disk as errors of their own.
            is_full = "No space left" in str(error) or free_bytes(work) < _MIN_FREE_BYTES
        if is_full:
            raise OutputError(
                f"{out}: the disk is full; nothing was written; free some space or choose another place with --out"
            ) from error
        if isinstance(error, OSError):
            raise OutputError(
                f"{out}: cannot be written ({error.strerror or error}); choose another place with --out"
            ) from error
        raise
    finally:
        for folder in missing_parents:
            with contextlib.suppress(OSError):
                folder.rmdir()


def relative_path(path: Path | None, start: Path) -> str | None:
    """Return ``path`` relative to ``start``, so that both can be moved together; absolute on another Windows drive."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
    except ValueError:
        return str(path.absolute())


def absolute_path(path: str, start: Path) -> Path:
    """Return what ``relative_path`` was given: ``path`` is relative to ``start``, which may be a link by now."""
    start = start.resolve() if start.is_symlink() else start
    return Path(os.path.normpath(start / path))  # hrkd-out/dataset, not hrkd-out/student/../dataset


def check_disk_space(out: Path, needed: int) -> None:
    """Raise OutputError if fewer than ``needed`` bytes are free on the disk of ``out``."""
    free = free_bytes(out)
    if free < needed:
        raise OutputError(
            f"{out}: the run needs about {needed / 1e6:,.0f} MB of disk, but only {free / 1e6:,.0f} MB are free; free "
            "some space or choose another place with --out"
        )


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of ``path``, which need not exist."""
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def clear_leftover(work: Path, *, keep: bool = False) -> None:
    """Remove the working folder of a killed run, unless ``keep``.

    Raises:
        OutputError: hrkd did not create the folder, or another process is using it.
    """
    from filelock import FileLock, Timeout

    if not work.exists():
        return
    if not (work / _MARKER).is_file():
        raise OutputError(f"{work} exists and was not written by hrkd; move it or choose another --out")
    try:
        with FileLock(work / _LOCK, blocking=False):
            pass
    except Timeout:
        raise OutputError(f"{work} is being written by another hrkd; wait for it or choose another --out") from None
    if not keep:
        shutil.rmtree(work)


def _replace_folder(target: Path, work: Path) -> None:
    """Rename ``work`` to ``target``; an existing target is deleted only after that."""
    if not target.exists():
        work.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        target.rename(aside / target.name)
        work.rename(target)
    except BaseException:
        if not target.exists():
            (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
