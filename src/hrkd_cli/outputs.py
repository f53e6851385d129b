"""Output folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from hrkd_cli.errors import HrkdError, OutputError
from hrkd_cli.layout import partial

NO_SPACE = "No space left on device"


def check_output(out: Path, *, marker: str, force: bool) -> None:
    """Refuse an output folder that may not be written, before any work is done.

    Args:
        out: the folder.
        marker: a file that every folder of this kind has; ``force`` replaces only such a folder, or an empty one.
        force: whether an existing output may be replaced.

    Raises:
        OutputError: it exists and may not be replaced, or its parent cannot be written.
    """
    if not out.exists() and not out.is_symlink():
        return
    ours = out.is_dir() and ((out / marker).is_file() or not any(out.iterdir()))
    if not ours:
        raise OutputError(f"{out}: exists and was not written by hrkd (no {marker}); give another --out")
    if any(out.iterdir()) and not force:
        raise OutputError(f"{out}: exists already; give another --out, or --force to replace it")


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder to work in, which becomes ``out`` when the block ends and vanishes when it fails.

    An existing ``out`` is replaced (call check_output first) and stays as it was when the block fails.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    work = partial(out)
    with plain_disk_errors(out):
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            yield work
            old = out.with_name(out.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                out.rename(old)
            work.rename(out)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


@contextlib.contextmanager
def plain_disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one plain line."""
    try:
        yield
    except HrkdError:
        raise
    except Exception as error:
        # Not every writer raises OSError: the Rust ones raise errors of their own that only quote it.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or NO_SPACE in str(error):
            raise OutputError(f"{out}: the disk is full; free some space or give --out on another disk") from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise OutputError(f"{out}: cannot be written ({error.strerror}: {error.filename})") from error
        raise


def check_space(out: Path, needed: int) -> None:
    """Stop before a run that the disk cannot hold.

    Args:
        out: the folder to be written; it need not exist.
        needed: estimated bytes.

    Raises:
        OutputError: less is free.
    """
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"{out}: the run needs about {needed / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free; free some "
            "space or give --out on another disk"
        )
