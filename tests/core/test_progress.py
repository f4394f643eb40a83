"""Progress: a bar on a terminal, a line now and then elsewhere. Time is that of a clock which the tests set."""

import io
import threading
import time
from contextlib import redirect_stderr

import pytest

from dmmc.core import progress as module
from dmmc.core.progress import EVERY_SECONDS, duration, patience, progress


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (100 * 3600, "100 h 0 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# Where there is no terminal


def work(clock, seconds, steps, total=None, **options):
    """Equal steps of so many seconds each."""
    with progress("sampling", total or steps, **options) as bar:
        for k in range(steps):
            clock.now += seconds
            bar.advance(1, f"step {k}")


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""  # output that is piped stays clean
    return captured.err.splitlines()


def test_short_work_is_not_announced(clock, capsys):
    work(clock, seconds=0.1, steps=200)
    assert lines(capsys) == []


def test_long_work_says_first_how_long_it_will_take(clock, capsys):
    work(clock, seconds=2.0, steps=100)
    first, *others = lines(capsys)
    assert first == "sampling: 1 %, about 3 min 18 s left; step 0"
    # Then a line every 30 s: after steps of 2 s, at 32, 62, ... of 200 s.
    assert others[0] == "sampling: 16 %, about 2 min 48 s left; step 15"
    assert [line.split(":")[1].split("%")[0].strip() for line in others] == ["16", "31", "46", "61", "76", "91"]


def test_steps_that_take_long_give_a_line_each(clock, capsys):
    work(clock, seconds=2 * EVERY_SECONDS, steps=3)
    assert lines(capsys) == [
        "sampling: 33 %, about 2 min 0 s left; step 0",
        "sampling: 67 %, about 1 min 0 s left; step 1",
        "sampling: 100 %, about 0 s left; step 2",
    ]


def test_a_resumed_run_counts_what_was_done_but_not_its_time(clock, capsys):
    # 40 of 100 were done earlier: the 10 s of the next step are the time of a hundredth.
    with progress("training", 100, done=40) as bar:
        clock.now += 10
        bar.advance(1)
    assert lines(capsys) == ["training: 41 %, about 9 min 50 s left"]


def test_steps_need_not_be_equal(clock, capsys):
    with progress("training", 10.0) as bar:
        clock.now += 50
        bar.advance(2.5, "loss 0.3")
        clock.now += 50
        bar.advance(0.0, "nothing new")
        clock.now += 50
        bar.advance(5.0)
    assert lines(capsys) == [
        "training: 25 %, about 2 min 30 s left; loss 0.3",
        "training: 25 %, about 5 min 0 s left; nothing new",
        "training: 75 %, about 50 s left",
    ]


def test_no_estimate_without_anything_done(clock, capsys):
    with progress("training", 10) as bar:
        clock.now += 100
        bar.advance(0)
    assert lines(capsys) == []


def test_more_than_the_total_is_never_a_negative_time(clock, capsys):
    work(clock, seconds=40, steps=3, total=2)
    assert lines(capsys)[-1] == "sampling: 150 %, about 0 s left; step 2"


def test_nothing_is_shown_on_request(clock, capsys):
    work(clock, seconds=100, steps=5, show=False)
    assert lines(capsys) == []


# On a terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal():
    with redirect_stderr(Terminal()) as terminal, progress("sampling", 10, done=4, unit="draws") as bar:
        bar.advance(3, "acceptance 0.71")
        bar.advance(3)
    shown = terminal.getvalue()
    assert "sampling:  40%" in shown and "4/10 draws" in shown  # where the earlier run stopped
    assert "sampling: 100%" in shown and "10/10 draws" in shown
    assert "about" not in shown


def test_a_note_is_shown_with_the_bar():
    with redirect_stderr(Terminal()) as terminal, progress("training", 2) as bar:
        bar.advance(2, "loss 0.5")
    assert "loss 0.5" in terminal.getvalue()


def test_nothing_is_shown_on_a_terminal_on_request():
    with redirect_stderr(Terminal()) as terminal, progress("sampling", 10, show=False) as bar:
        bar.advance(10)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("make", [Terminal, io.StringIO])
@pytest.mark.parametrize("show", [True, False])
def test_errors_pass_through(make, show):
    with redirect_stderr(make()), pytest.raises(KeyboardInterrupt), progress("sampling", 10, show=show) as bar:
        bar.advance(1)
        raise KeyboardInterrupt


# Work without progress


def test_what_takes_long_is_said(capsys):
    said = ""
    with patience("compiling", after=0.0):
        for _ in range(1000):
            said += capsys.readouterr().err
            if said:
                break
            time.sleep(0.01)
    assert said == "compiling\n"


def test_what_is_over_before_is_not(capsys, monkeypatch):
    made = []

    class Timer(threading.Timer):
        def start(self):
            made.append(self)

    monkeypatch.setattr(module.threading, "Timer", Timer)
    with patience("compiling"):
        assert not made[0].finished.is_set()
    made[0].interval = 0.0
    made[0].run()  # too late: it has been cancelled
    assert capsys.readouterr().err == ""
