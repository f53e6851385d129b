import io
import sys

import pytest

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.error_report import report_error
from hrkd_cli.cli.progress import LINES_PER_RUN, LiveDisplay, PlainDisplay, make_display
from hrkd_cli.errors import DataError
from hrkd_cli.events import DevScored, Note, Progress, StageDone, StageStarted, StepDone

DOMAINS = ("books", "dvd [new]")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def step(number: int, ratios=((0.25, 0.75), (0.35, 0.65))) -> StepDone:
    losses = {"total": 1.5, "hidden": 1.0, "attention": 0.25, "prediction": 0.25}
    return StepDone("distill", number, number / 100, losses, 5e-5, 21.34, 61.0, ratios)


START = StageStarted("distill", 1000, 10, DOMAINS, 754.0, 260_000_000)
SCORE = DevScored("distill", 500, "accuracy", {"books": 0.8, "dvd [new]": 0.7}, 0.75, is_best=True)
DONE = StageDone("distill", "hrkd-out/student", 1000, 700.0)


@pytest.fixture
def plain():
    clock = Clock()
    return PlainDisplay(Console(), clock), clock


@pytest.fixture
def terminal(monkeypatch):
    """Have stderr lead to a terminal."""

    def make(**variables):
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "160", "NO_COLOR": "1", **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


def test_a_plain_display_writes_lines(plain, capsys):
    display, clock = plain
    display(Note("loading"))
    display(Note("no test split", warning=True))
    display(START)
    clock.now += 2
    display(step(60))
    display(SCORE)
    display(DONE)
    assert capsys.readouterr().err.splitlines() == [
        "loading",
        "warning: no test split",
        "distill: 1,000 steps (10 epochs, 2 domains: books, dvd [new]), about 13 min and 260 MB on disk",
        "distill: step 60/1,000 (6%), epoch 0.60, loss 1.5 (hidden 1, attention 0.25, prediction 0.25), "
        "21.3 examples/s, 61 s left",
        "distill: step 500, dev accuracy 75.0% (books 80.0, dvd [new] 70.0), best so far",
        "distill: done, 1,000 steps in 12 min, in hrkd-out/student",
    ]


def test_a_run_gets_about_twenty_lines(plain, capsys):
    display, clock = plain
    display(START)
    for number in range(1, 1001):
        clock.now += 0.1
        display(step(number))
    assert len(capsys.readouterr().err.splitlines()) == 1 + LINES_PER_RUN


def test_a_short_run_gets_fewer_lines(plain, capsys):
    display, clock = plain
    display(START)
    for number in range(1, 1001):
        clock.now += 0.004
        display(step(number))
    assert 2 <= len(capsys.readouterr().err.splitlines()) <= 6


def test_a_slow_run_gets_a_line_after_the_maximum_interval(plain, capsys):
    display, clock = plain
    display(START)
    for number in range(1, 11):
        clock.now += 10
        display(step(number))
    assert [line.split(",")[1] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "000 (0%)",
        "000 (1%)",
        "000 (1%)",
    ]


def test_progress_of_a_short_task_is_not_written(plain, capsys):
    display, clock = plain
    display(Progress("reading", 10, 10))
    assert capsys.readouterr().err == ""
    clock.now += 31
    display(Progress("reading", 1000))
    assert capsys.readouterr().err == "reading: 1,000\n"


def test_a_task_without_a_count_is_named_when_it_starts(plain, capsys):
    display, _clock = plain
    display(Progress("loading the teacher"))
    display(Progress("scoring dev", 0, 100))
    assert capsys.readouterr().err == "loading the teacher\n"


def test_a_counted_task_shows_the_time_left_since_its_own_start(plain, capsys):
    display, clock = plain
    clock.now += 500
    for done, seconds in ((40, 0), (60, 40), (90, 40), (10, 40), (20, 40)):  # a second round starts with 10
        clock.now += seconds
        display(Progress("scoring dev", done, 100))
    assert capsys.readouterr().err.splitlines() == [
        "scoring dev: 40/100",
        "scoring dev: 60/100, 80 s left",
        "scoring dev: 90/100, 16 s left",
        "scoring dev: 10/100",
        "scoring dev: 20/100, 5 min left",
    ]


def test_of_equal_dev_scores_the_last_is_called_kept(plain, capsys):
    display, _clock = plain
    display(DevScored("distill", 60, "accuracy", {"books": 0.8}, 0.8, is_best=True, is_kept=True))
    display(DevScored("distill", 70, "accuracy", {"books": 0.8}, 0.8, is_best=False, is_kept=True))
    display(DevScored("distill", 80, "accuracy", {"books": 0.7}, 0.7, is_best=False))
    endings = [line.rpartition(")")[2] for line in capsys.readouterr().err.splitlines()]
    assert endings == [", best so far", ", equal to the best and kept", ""]


def test_a_bar_names_the_current_task_with_its_own_seconds(terminal):
    terminal()
    display = make_display(Console(), Clock())
    now = 100.0
    display.bars.get_time = lambda: now
    display(Progress("loading the teacher"))
    now += 60
    display(Note("teacher: 12 layers"))
    assert "loading the teacher" in drawn(display)
    assert "0:01:00" in drawn(display)
    display(Progress("tokenizing"))
    now += 3
    picture = drawn(display)
    assert "loading" not in picture
    assert "tokenizing" in picture
    assert "0:00:03" in picture


def test_many_domains_fit_on_one_line(plain, capsys):
    display, _clock = plain
    scores = {f"domain{n}": 0.8 + n / 100 for n in (3, 1, 2, 6, 5, 4)}
    display(StageStarted("distill", 1000, 10, tuple(scores), 754.0, 260_000_000))
    display(DevScored("distill", 500, "accuracy", scores, 0.835, is_best=False))
    display(DevScored("distill", 501, "accuracy", dict.fromkeys(scores, 0.5), 0.5, is_best=False))
    assert capsys.readouterr().err.splitlines() == [
        "distill: 1,000 steps (10 epochs, 6 domains), about 13 min and 260 MB on disk",
        "distill: step 500, dev accuracy 83.5% (domain1 81.0 to domain6 86.0)",
        "distill: step 501, dev accuracy 50.0% (all 6 domains the same)",
    ]


def test_a_bar_fits_into_80_columns(terminal):
    terminal(COLUMNS="80")
    display = make_display(Console(), Clock())
    display(START)
    display(step(60))
    display(Progress("encoding texts for the linear baseline on a frozen encoder", 1000, 2000))
    lines = drawn(display).splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert "…" not in text.replace("encoding texts for the li…", "")
    for part in ("step 60/1,000 (6%), epoch 0.60", "loss 1.5, 61 s left", "1,000/2,000"):
        assert part in text
    assert text.count("0:00:00") == 2


def test_verbose_shows_every_step(capsys):
    display = PlainDisplay(Console(verbose=True), Clock())
    display(START)
    for number in range(1, 6):
        display(step(number))
    display(Progress("scoring", 10, 10))
    assert len(capsys.readouterr().err.splitlines()) == 7


def test_quiet_shows_warnings_only(terminal):
    stream = terminal()
    with make_display(Console(quiet=True)) as display:
        for event in (Note("loading"), Note("careful", warning=True), START, step(1), SCORE, DONE):
            display(event)
    assert stream.getvalue() == "warning: careful\n"


def test_a_pipe_gets_plain_lines():
    with make_display(Console()) as display:
        assert type(display) is PlainDisplay


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(terminal):
    terminal(TERM="dumb")
    with make_display(Console()) as display:
        assert type(display) is PlainDisplay


def drawn(display: LiveDisplay) -> str:
    with display.bars.console.capture() as capture:
        display.bars.console.print(display.bars.get_renderable())
    return capture.get()


def test_a_terminal_gets_moving_bars(terminal):
    terminal()
    display = make_display(Console(), Clock())
    assert isinstance(display, LiveDisplay)
    assert "starting" in drawn(display)
    display(Progress("reading", 5, 10))
    assert "5/10" in drawn(display)
    display(START)
    picture = drawn(display)
    assert "step 0/1,000, 13 min left" in picture
    assert "reading" not in picture
    display(step(60))
    picture = drawn(display)
    assert "distill" in picture
    assert "step 60/1,000 (6%), epoch 0.60" in picture
    assert "loss 1.5 (hidden 1, attention 0.25, prediction 0.25), 21.3 examples/s, 61 s left" in picture
    display(SCORE)
    display(Progress("scoring [dev]", 5, None))
    picture = drawn(display)
    assert "scoring [dev]" in picture  # not read as Rich markup
    assert "step 60/1,000" in picture  # the run's bar stays
    display(step(61))
    assert "scoring" not in drawn(display)
    display(DONE)
    picture = drawn(display)
    assert "finishing" in picture
    assert "step" not in picture


def test_long_lines_are_wrapped_at_words_on_a_terminal_only(terminal):
    line = "warning: teacher ./a-folder/with-hyphens was made from other data"
    stream = terminal(COLUMNS="40")
    with make_display(Console()) as display:
        display(Note(line.removeprefix("warning: "), warning=True))
    assert "warning: teacher\n./a-folder/with-hyphens was made from\nother data\n" in stream.getvalue()
    assert report_error(DataError("a/long/path/that-is-broken: no such file or folder"), "hrkd eval") == 1
    assert stream.getvalue().endswith("hrkd eval: a/long/path/that-is-broken:\nno such file or folder\n")
    terminal(COLUMNS="40", TERM="dumb")
    PlainDisplay(Console())(Note(line))
    assert sys.stderr.getvalue() == f"{line}\n"


def test_lines_stay_above_the_bars(terminal):
    stream = terminal()
    with make_display(Console(), Clock()) as display:
        for event in (START, step(60), SCORE, Note("a warning", warning=True), DONE):
            display(event)
    stayed = stream.getvalue()
    assert "warning: a warning\n" in stayed
    assert "distill: step 500, dev accuracy 75.0% (books 80.0, dvd [new] 70.0), best so far\n" in stayed
    assert "distill: done, 1,000 steps in 12 min, in hrkd-out/student\n" in stayed
    assert "\x1b[?25h" in stayed  # the cursor is back
