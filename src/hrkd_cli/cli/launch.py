"""``--processes N``: the same command once more in N processes, on PyTorch's own launcher.

torchrun does the same from outside (``torchrun --nproc-per-node 2 -m hrkd_cli distill ...``), over machines too.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.cli import error_report

# Set for the processes started here: their errors go to the launcher, which says one line.
LAUNCHED = "_HRKD_LAUNCHED"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_arguments: list[str] = []


def remember(arguments: Sequence[str]) -> None:
    """Note the words of the command line, which the processes will be given."""
    _arguments[:] = arguments


def is_wanted(processes: int | None) -> bool:
    """Tell whether this process should start others rather than work itself."""
    return processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ


def run_together(processes: int) -> int:
    """Run the command in several processes and return the exit code."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHED] = "1"
    # Otherwise each would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    launching = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    program = error_report.program_name(_arguments, _arguments[:1])
    try:
        elastic_launch(launching, sys.executable)("-m", "hrkd_cli", *_arguments)
    except ChildFailedError as error:
        line, code = _cause(error.failures)
        sys.stderr.write(f"{program}: {line}\n")
        return code
    except SignalException as error:
        stopped = error.sigval == signal.SIGINT
        sys.stderr.write(f"{program}: {'interrupted' if stopped else 'terminated'}\n")
        return error_report.INTERRUPTED if stopped else error_report.TERMINATED
    return 0


def hand_over(line: str, code: int, *, secondary: bool) -> bool:
    """Give the launcher this process's error; tell whether there is a launcher of ours.

    Args:
        line: the plain line.
        code: exit code.
        secondary: whether another process's error is the cause.
    """
    file = os.environ.get(_ERROR_FILE)
    if LAUNCHED not in os.environ or not file:
        return False
    content = {"message": line, "extraInfo": {"timestamp": int(time.time()), "code": code, "secondary": secondary}}
    Path(file).write_text(json.dumps({"message": content}), encoding="utf-8")
    return True


def _cause(failed: Mapping[int, Any]) -> tuple[str, int]:
    """Return the line and the exit code of the process that failed first, of those that did not fail because of it."""
    told = [_told(rank, failure) for rank, failure in failed.items()]
    rank, line, code, _ = min(told, key=lambda entry: (entry[3], entry[0]))
    alone = rank != 0 and not any(other == line for number, other, _, _ in told if number != rank)
    return (f"rank {rank}: {line}" if alone or code < 0 else line), (code if code > 0 else 1)


def _told(rank: int, failure: Any) -> tuple[int, str, int, bool]:
    """Return rank, line, exit code (below 0 for a signal) and whether another process was the cause."""
    try:
        content = json.loads(Path(failure.error_file).read_text(encoding="utf-8"))["message"]
        extra = content["extraInfo"]
        return rank, content["message"], int(extra["code"]), bool(extra["secondary"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    code = int(failure.exitcode)
    if code < 0:
        name = signal.Signals(-code).name
        line = f"the process was ended by {name}; the last checkpoint, if there is one, is kept: go on with --resume"
        # The launcher ends the others that way once one has failed.
        return rank, line, code, -code == signal.SIGTERM
    return rank, f"the process ended with exit code {code} and said nothing", code, False
