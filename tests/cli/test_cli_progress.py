import io

import pytest

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.progress import LINES_PER_RUN, PlainDisplay, make_display
from hrkd_cli.events import DevScored, Note, Progress, StageDone, StageStarted, StepDone

DOMAINS = ("books", "dvd [new]")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def console(stream: io.StringIO, **options) -> Console:
    made = Console(**options)
    made.err = stream
    return made


def step(number: int, ratios=((0.25, 0.75), (0.35, 0.65))) -> StepDone:
    losses = {"total": 1.5, "hidden": 1.0, "attention": 0.25, "prediction": 0.25}
    return StepDone("distill", number, number / 100, losses, 5e-5, 21.34, 61.0, ratios)


START = StageStarted("distill", 1000, 10, DOMAINS, 754.0, 260_000_000)
SCORE = DevScored("distill", 500, "accuracy", {"books": 0.8, "dvd [new]": 0.7}, 0.75, is_best=True)
DONE = StageDone("distill", "hrkd-out/student", 1000, 700.0)


@pytest.fixture
def plain():
    stream, clock = io.StringIO(), Clock()
    return PlainDisplay(console(stream), clock), stream, clock


def test_plain_lines_of_a_run(plain):
    display, stream, clock = plain
    display(Note("loading"))
    display(Note("no test split", warning=True))
    display(START)
    clock.now += 2
    display(step(60))
    display(SCORE)
    display(DONE)
    assert stream.getvalue().splitlines() == [
        "loading",
        "warning: no test split",
        "distill: 1,000 steps (10 epochs, 2 domains: books, dvd [new]), about 13 min and 260 MB on disk",
        "distill: step 60/1,000 (6 %), epoch 0.60, loss 1.5 (hidden 1, attention 0.25, prediction 0.25), "
        "21.3 examples/s, 61 s left",
        "distill: step 500, dev accuracy 75.0 % (books 80.0, dvd [new] 70.0), best so far",
        "distill: done, 1,000 steps in 12 min, in hrkd-out/student",
    ]


def test_a_run_gets_about_twenty_lines(plain):
    display, stream, clock = plain
    display(START)
    for number in range(1, 1001):
        clock.now += 0.1
        display(step(number))
    assert len(stream.getvalue().splitlines()) == 1 + LINES_PER_RUN


def test_a_run_of_seconds_gets_fewer_lines(plain):
    display, stream, clock = plain
    display(START)
    for number in range(1, 1001):
        clock.now += 0.004
        display(step(number))
    assert 2 <= len(stream.getvalue().splitlines()) <= 6


def test_a_slow_run_gives_a_sign_of_life(plain):
    display, stream, clock = plain
    display(START)
    for number in range(1, 11):
        clock.now += 10
        display(step(number))
    assert [line.split(",")[1] for line in stream.getvalue().splitlines()[1:]] == [
        "000 (0 %)",
        "000 (1 %)",
        "000 (1 %)",
    ]


def test_counting_speaks_up_only_when_it_takes_long(plain):
    display, stream, clock = plain
    display(Progress("reading", 10, 10))
    assert stream.getvalue() == ""
    clock.now += 31
    display(Progress("reading", 1000))
    assert stream.getvalue() == "reading: 1,000\n"


def test_verbose_shows_every_step():
    stream = io.StringIO()
    display = PlainDisplay(console(stream, verbose=True), Clock())
    display(START)
    for number in range(1, 6):
        display(step(number))
    display(Progress("scoring", 10, 10))
    assert len(stream.getvalue().splitlines()) == 7


def test_quiet_shows_warnings_only():
    stream = io.StringIO()
    with make_display(console(stream, quiet=True)) as display:
        for event in (Note("loading"), Note("careful", warning=True), START, step(1), SCORE, DONE):
            display(event)
    assert stream.getvalue() == "warning: careful\n"


def test_a_pipe_gets_plain_lines(monkeypatch):
    for term, stream in (("xterm", io.StringIO()), ("dumb", Terminal())):
        monkeypatch.setenv("TERM", term)
        with make_display(console(stream)) as display:
            assert isinstance(display, PlainDisplay)


def test_a_terminal_gets_a_moving_picture(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    from hrkd_cli.cli.progress_rich import LiveDisplay

    stream, clock = Terminal(), Clock()
    display = make_display(console(stream), clock)
    assert isinstance(display, LiveDisplay)

    def drawn() -> str:
        with display._rich.capture() as capture:
            display._rich.print(display._draw())
        return capture.get()

    assert "starting (0.0 s)" in drawn()
    display(Progress("reading", 5, 10))
    assert "reading: 5/10" in drawn()
    display(START)
    assert "step 0/1,000" in drawn()
    assert "13 min left" in drawn()
    display(step(60))
    picture = drawn()
    assert "step 60/1,000  epoch 0.60/10  21.3 examples/s  61 s left" in picture
    assert "loss 1.5 (hidden 1, attention 0.25, prediction 0.25)" in picture
    assert [line.split() for line in picture.splitlines() if "books" in line] == [["books", "0.300"]]
    display(SCORE)
    display(Progress("scoring dev", 5, None))
    picture = drawn()
    assert "dvd [new]" in picture  # not read as Rich markup
    assert [line.split() for line in picture.splitlines() if "books" in line] == [["books", "0.300", "80.0", "80.0"]]
    assert "scoring dev: 5" in picture
    with display:
        display(Note("a warning", warning=True))
        display(DONE)
    stayed = stream.getvalue()
    assert "warning: a warning" in stayed
    assert "distill: done, 1,000 steps in 12 min" in stayed
    assert stayed.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in stayed  # the cursor is back


def test_many_domains_fit_a_small_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    names = tuple(f"domain{i}" for i in range(40))
    display = make_display(console(Terminal()), Clock())
    display(StageStarted("teach", 10, 1, names, 1.0, 1))
    display(StepDone("teach", 1, 0.1, {"total": 1.0}, 1e-5, 1.0, 1.0))
    display(DevScored("teach", 1, "accuracy", dict.fromkeys(names[1:], 0.5), 0.5, is_best=False))
    with display._rich.capture() as capture:
        display._rich.print(display._draw())
    assert len(capture.get().splitlines()) < 20
    assert "and 28 more" in capture.get()
