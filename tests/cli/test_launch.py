"""``--processes``: which error of several processes is reported."""

import signal

from hrkd_cli import errors
from hrkd_cli.cli import error_report, launch


def test_a_process_that_the_launcher_terminated_is_not_the_cause(tmp_path, monkeypatch):
    """Rank 1 failed first; rank 0 was ended before it could say the same."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv(error_report.LAUNCHED, "1")
    failed = {}
    for rank, error in ((0, error_report.Terminated()), (1, errors.UsageError("--max-length 5000: too long"))):
        file = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        failed[rank] = ProcessFailure(rank, 1, error_report.report_error(error, "hrkd teach"), str(file))
    silent = ProcessFailure(1, 1, -signal.SIGKILL, "no file")
    for failures, line, code in (
        (failed, "rank 1: --max-length 5000: too long (see hrkd teach --help)", 2),
        ({0: failed[0]}, "terminated", 143),
        ({0: failed[0], 1: silent}, "rank 1: the process was killed by SIGKILL; continue from the last checkpoint", 1),
    ):
        cause = launch._first_error(failures)
        assert str(cause).startswith(line)
        assert cause.exit_code == code
