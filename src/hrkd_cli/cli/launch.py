"""``--processes N``: the same command once more in N processes, on PyTorch's own launcher.

torchrun does the same from outside (``torchrun --nproc-per-node 2 -m hrkd_cli distill ...``), over machines too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import typer

from hrkd_cli.cli.error_report import LAUNCHED, Terminated
from hrkd_cli.errors import ProcessError


def start_processes(processes: int | None) -> None:
    """Run the command in several processes and end, where more than one is asked for and none is started yet.

    Raises:
        ProcessError: the error of the process that failed first, with its exit code.
        typer.Exit: all have done their work.
    """
    if processes is None or processes < 2 or "WORLD_SIZE" in os.environ:
        return
    import logging

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ[LAUNCHED] = "1"
    # Otherwise each would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    words = ["--standalone", f"--nproc-per-node={processes}", "--module", "hrkd_cli", *sys.argv[1:]]
    try:
        run(parse_args(words))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        raise _cause(error.failures) from None
    except SignalException as error:
        raise (KeyboardInterrupt if error.sigval == signal.SIGINT else Terminated) from None
    raise typer.Exit


def _cause(failures: Mapping[int, Any]) -> ProcessError:
    """Return the first error that no other process caused; ``failures`` are torch's ``ProcessFailure`` by rank."""
    told = {rank: _told(failure) for rank, failure in failures.items()}
    rank = min(told, key=lambda rank: (told[rank][1], rank))
    line, code = told[rank][0], int(failures[rank].exitcode)
    is_alone = rank != 0 and not any(other == line for number, (other, _) in told.items() if number != rank)
    error = ProcessError(f"rank {rank}: {line}" if is_alone or code < 0 else line)
    error.exit_code = max(code, 1)
    return error


def _told(failure: Any) -> tuple[str, bool]:
    """Return the line about a process's end, and whether another process was the cause."""
    if isinstance(failure.message, dict):  # written by error_report
        return failure.message["message"], failure.message["extraInfo"]["secondary"]
    if failure.exitcode < 0:
        kept = "the last checkpoint, if there is one, is kept: go on with --resume"
        # The launcher ends the others by SIGTERM once one has failed.
        return f"the process was ended by {failure.signal_name()}; {kept}", failure.exitcode == -signal.SIGTERM
    return f"the process ended with exit code {failure.exitcode} and said nothing", False
