"""``--processes N``: run the same command in N processes with PyTorch's elastic launcher.

Equivalent to ``torchrun --nproc-per-node N -m hrkd_cli distill ...``, which also works across machines.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import typer

from hrkd_cli.cli.error_report import LAUNCHED, Terminated
from hrkd_cli.errors import ProcessError, UsageError
from hrkd_cli.formatting import plural
from hrkd_cli.machine import usable_cpus

PROCESSES_PER_CORE = 4  # more would exhaust the machine's memory before they are slower


def launch_processes(processes: int | None) -> None:
    """Run the command in several processes and exit; do nothing for one process or in a launched process.

    Raises:
        UsageError: far more processes than cores.
        ProcessError: the error of the process that failed first, with its exit code.
        typer.Exit: all processes succeeded.
    """
    if processes is None or processes < 2 or "WORLD_SIZE" in os.environ:
        return
    if processes > (most := PROCESSES_PER_CORE * usable_cpus()):
        raise UsageError(
            f"--processes {processes}: this machine has {plural(usable_cpus(), 'core')}, so give at most {most}"
        )
    import logging

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ[LAUNCHED] = str(os.getpid())
    # By default, each process would use all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    arguments = ["--standalone", f"--nproc-per-node={processes}", "--module", "hrkd_cli", *sys.argv[1:]]
    try:
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        raise _first_error(error.failures) from None
    except SignalException as error:
        raise (KeyboardInterrupt if error.sigval == signal.SIGINT else Terminated) from None
    raise typer.Exit


def end_with_launcher(launcher: int) -> None:
    """Send this process SIGTERM when its parent, the launcher, has ended; also if it was killed."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _first_error(failures: Mapping[int, Any]) -> ProcessError:
    """Return the first error that is not a consequence of another; ``failures`` are torch's by rank."""
    errors = {rank: _message_of(failure) for rank, failure in failures.items()}
    rank = min(errors, key=lambda rank: (errors[rank][1], rank))
    message, exit_code = errors[rank][0], int(failures[rank].exitcode)
    is_shared = any(other == message for number, (other, _) in errors.items() if number != rank)
    names_rank = exit_code < 0 or (rank != 0 and not is_shared)
    error = ProcessError(f"rank {rank}: {message}" if names_rank else message)
    error.exit_code = max(exit_code, 1)
    return error


def _message_of(failure: Any) -> tuple[str, bool]:
    """Return the error message of a process, and whether it is a consequence of another process's error."""
    if isinstance(failure.message, dict):  # written by error_report
        return failure.message["message"], failure.message["extraInfo"]["secondary"]
    if failure.exitcode < 0:
        message = f"the process was killed by {failure.signal_name()}; continue from the last checkpoint with --resume"
        # The launcher sends SIGTERM to the other processes once one has failed.
        return message, failure.exitcode == -signal.SIGTERM
    return f"the process ended with exit code {failure.exitcode} and no message", False
