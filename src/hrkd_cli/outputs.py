"""Output folders that appear whole or not at all, and never over what is not ours."""

from __future__ import annotations

import contextlib
import errno
import os
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
    """Refuse an output folder that exists and may not be replaced, before any work is done.

    ``force`` replaces a folder that is empty or ``is_ours``: one of that kind ("dataset", "model") that we wrote.

    Raises:
        OutputError: it may not be written.
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
    with writing(out, work):
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
    """Refuse an output that would replace a folder that the run itself reads or writes; ``others`` by what they are.

    Raises:
        UsageError: one of them is ``out``, or lies in it.
    """
    target = out.resolve()
    for what, other in others.items():
        place = other.resolve()
        if target == place or target in place.parents:
            raise UsageError(f"--out {out}: it would replace the {what} ({other}); choose another folder")


@contextlib.contextmanager
def writing(out: Path, work: Path) -> Iterator[None]:
    """Report a full disk or a missing permission in one plain line, and leave no empty folders behind.

    Args:
        out: the output, as the user named it.
        work: the file or folder that is written; its parents may be made in the block.

    Raises:
        OutputError: writing failed.
    """
    made = [folder for folder in work.parents if not folder.exists()]
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # Writers of other languages report a failed write each in their own way, and read back what was cut short.
        if is_full or (not isinstance(error, OSError) and ("No space left" in str(error) or _free(work) < _LEAST_FREE)):
            text = f"{out}: the disk is full; nothing was written; free some space or choose another place with --out"
            raise OutputError(text) from error
        if isinstance(error, OSError):
            text = f"{out}: cannot be written ({error.strerror or error}); choose another place with --out"
            raise OutputError(text) from error
        raise
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def seen_from(folder: Path, path: Path | None) -> str | None:
    """Return ``path`` relative to ``folder``, so that both can move together; absolute on another drive (Windows)."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return str(path.absolute())


def check_space(out: Path, needed: int) -> None:
    """Stop before a run that the disk cannot hold: OutputError if fewer than ``needed`` bytes are free for ``out``."""
    free = _free(out)
    if free < needed:
        raise OutputError(
            f"{out}: the run needs about {needed / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free; free some "
            "space or choose another place with --out"
        )


def _free(path: Path) -> int:
    """Return the free bytes of the disk that an output, which need not exist, is written to."""
    return shutil.disk_usage(
        next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    ).free


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
