"""Output folders that appear whole or not at all, and never over what is not ours."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from hrkd_cli.errors import OutputError, UsageError
from hrkd_cli.layout import partial

_MARK = ".hrkd-partial"
_LEAST_FREE = 1 << 20  # bytes; with fewer free, a failure of unknown kind is put down to a full disk


def check_output(out: Path, *, kind: str, is_ours: Callable[[Path], bool], force: bool) -> None:
    """Refuse an output folder that may not be written, before any work is done.

    Args:
        out: the folder.
        kind: what it would be, for the message: "dataset", "model".
        is_ours: tells a folder of that kind that we wrote; ``force`` replaces only such a one, or an empty one.
        force: whether an existing output may be replaced.

    Raises:
        OutputError: it exists and may not be replaced.
    """
    try:
        if not (out.exists() or out.is_symlink()):
            return
        ours = out.is_dir() and (is_ours(out) or not any(out.iterdir()))
    except OSError as error:
        raise OutputError(f"{out}: cannot be looked at: {error.strerror or error}") from None
    if not ours:
        raise OutputError(f"{out} is not a {kind} folder written by hrkd, so it is left alone; choose another --out")
    if not force:
        raise OutputError(f"{out} exists already; replace it with --force or choose another --out")


@contextlib.contextmanager
def whole_folder(
    out: Path, *, worth_keeping: Callable[[Path], bool] = lambda _: False, go_on: bool = False
) -> Iterator[Path]:
    """Give a folder to work in, which becomes ``out`` when the block ends and vanishes when it fails.

    An existing ``out`` is replaced (call check_output first) and stays as it was when the block fails.

    Args:
        out: the folder.
        worth_keeping: tells a working folder that must not vanish when the block fails (it has a checkpoint).
        go_on: work in the folder that an earlier try left, if it is worth keeping.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    # Resolved, because "." and ".." have no name to put ".partial" after.
    target = out.resolve()
    work = partial(target)
    known = target.exists()
    with plain_disk_errors(out, work), made_folders(work):
        _clear_leftover(work, keep=go_on and worth_keeping(work))
        try:
            work.mkdir(parents=True, exist_ok=True)
            with (work / _MARK).open("w") as mark:
                _lock(mark)
                yield work
            (work / _MARK).unlink()
            if target.exists() and not known:
                raise OutputError(f"{out} appeared while it was being written, and is left alone; choose another --out")
            _move_in(work, target)
        except BaseException:  # Ctrl-C too
            if not worth_keeping(work):
                shutil.rmtree(work, ignore_errors=True)
            raise


def check_apart(out: Path, others: Mapping[str, Path]) -> None:
    """Refuse an output that would replace what the run itself reads or writes.

    Args:
        out: the folder to be written.
        others: the run's other folders, by what they are.

    Raises:
        UsageError: one of them is ``out``, or lies in it.
    """
    target = out.resolve()
    for what, other in others.items():
        place = other.resolve()
        if target == place or target in place.parents:
            raise UsageError(f"--out {out}: it would replace the {what} ({other}); choose another folder")


@contextlib.contextmanager
def made_folders(path: Path) -> Iterator[None]:
    """Remove the parents of ``path`` that did not exist before the block, where they are empty after it."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def plain_disk_errors(out: Path, work: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one plain line.

    Args:
        out: the output, as the user named it.
        work: a folder on the disk that is written to.

    Raises:
        OutputError: writing failed.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # Writers of other languages report a failed write each in their own way, and read back what was cut short.
        if is_full or (not isinstance(error, OSError) and ("No space left" in str(error) or _is_full(work))):
            text = f"{out}: the disk is full; nothing was written; free some space or choose another place with --out"
            raise OutputError(text) from error
        if isinstance(error, OSError):
            text = f"{out}: cannot be written ({error.strerror or error}); choose another place with --out"
            raise OutputError(text) from error
        raise


def check_space(out: Path, needed: int) -> None:
    """Stop before a run that the disk cannot hold.

    Args:
        out: the folder to be written; it need not exist.
        needed: estimated bytes.

    Raises:
        OutputError: less is free.
    """
    free = shutil.disk_usage(_existing(out)).free
    if free < needed:
        raise OutputError(
            f"{out}: the run needs about {needed / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free; free some "
            "space or choose another place with --out"
        )


def _clear_leftover(work: Path, *, keep: bool) -> None:
    """Remove what a killed run left, unless it is to be kept, and nothing else."""
    if not work.exists():
        return
    if not (work / _MARK).is_file():
        raise OutputError(f"{work} is in the way and not a leftover of hrkd; move it or choose another --out")
    with (work / _MARK).open("a") as mark:
        if not _lock(mark):
            raise OutputError(f"{work} is being written by another hrkd; wait for it or choose another --out")
    if not keep:
        shutil.rmtree(work)


def _lock(mark: IO[str]) -> bool:
    """Hold a file for as long as it is open; False when another process holds it. No lock where there are none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _move_in(work: Path, target: Path) -> None:
    """Put a whole folder in its place; what it replaces is removed only after that."""
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


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(_existing(folder)).free < _LEAST_FREE
    except OSError:
        return False
