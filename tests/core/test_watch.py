"""Waiting for another process: there is an answer or there is none, and staying awake ends where it does not pay."""

import math
import os
import select
import time

import pytest

from dmmc.core import watch
from dmmc.core.watch import Watch


@pytest.fixture
def ends(monkeypatch):
    """A pipe, and a machine on which staying awake always pays."""
    monkeypatch.setattr(watch, "AWAKE", math.inf)
    monkeypatch.setattr(watch, "INTERRUPTED", math.inf)
    monkeypatch.setattr(watch, "REST", 5)
    reader, writer = os.pipe()
    with open(reader, "rb", 0) as to_read, open(writer, "wb", 0) as to_write:
        yield to_read, to_write


@pytest.fixture
def sleeps(monkeypatch):
    """For how many milliseconds a process was ready to sleep, at each look."""
    times = []

    class Poll:
        def __init__(self):
            self.poll_of = real()
            self.register = self.poll_of.register

        def poll(self, milliseconds):
            times.append(milliseconds)
            return self.poll_of.poll(milliseconds)

    real = select.poll
    monkeypatch.setattr(select, "poll", Poll)
    return times


def soon():
    return time.monotonic() + 0.01


@pytest.mark.parametrize("awake", [math.inf, -1.0])
def test_it_sees_what_is_there_and_waits_no_longer_than_it_may(awake, ends, monkeypatch):
    monkeypatch.setattr(watch, "AWAKE", awake)
    to_read, to_write = ends
    waiting = Watch(to_read)
    for _ in range(2):
        until = soon()
        assert not waiting.wait(until) and time.monotonic() >= until
    to_write.write(b"x")
    assert waiting.wait(soon())
    to_read.read(1)
    to_write.close()
    assert waiting.wait(soon())  # the end of the file is something, too


def test_it_stays_awake_while_answers_come_in_time(ends, sleeps):
    to_read, to_write = ends
    to_write.write(b"x")
    waiting = Watch(to_read)
    assert all(waiting.wait(math.inf) for _ in range(5)) and sleeps == [0] * 5


def awake_in(waits, waiting, sleeps):
    """Which of the next waits begin awake."""
    begin = []
    for _ in range(waits):
        sleeps.clear()
        waiting.wait(time.monotonic() + 0.05)
        begin.append(sleeps[0] == 0)
    return begin


def test_it_sleeps_for_long_where_others_want_the_core(ends, sleeps, monkeypatch):
    to_read, to_write = ends
    to_write.write(b"x")
    waiting = Watch(to_read)
    monkeypatch.setattr(watch, "INTERRUPTED", -1.0)
    assert awake_in(1, waiting, sleeps) == [True] and sleeps == [0]  # it was there, but was not seen at once
    monkeypatch.setattr(watch, "INTERRUPTED", math.inf)
    assert awake_in(7, waiting, sleeps) == [False] * 5 + [True] * 2


def test_it_sleeps_for_longer_and_longer_where_answers_come_late(ends, sleeps, monkeypatch):
    to_read, to_write = ends
    waiting = Watch(to_read)
    monkeypatch.setattr(watch, "AWAKE", -1.0)
    late = [True, False] + [True] + [False] * 3 + [True] + [False] * 5
    assert awake_in(len(late), waiting, sleeps) == late
    to_write.write(b"x")
    assert awake_in(2, waiting, sleeps) == [True] * 2
    to_read.read(1)
    assert awake_in(3, waiting, sleeps) == [True, False, True]
