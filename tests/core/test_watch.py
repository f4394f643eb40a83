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
    monkeypatch.setattr(watch, "REST", 2)
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


@pytest.mark.parametrize("reason", ["AWAKE", "INTERRUPTED"])
def test_it_rests_after_a_wait_that_did_not_pay(reason, ends, sleeps, monkeypatch):
    to_read, to_write = ends
    waiting = Watch(to_read)
    if reason == "INTERRUPTED":
        to_write.write(b"x")  # there all the same, but it was not seen at once
    monkeypatch.setattr(watch, reason, -1.0)
    waiting.wait(time.monotonic() + 0.1)
    monkeypatch.setattr(watch, reason, math.inf)
    assert sleeps.pop(0) == 0 and (reason == "INTERRUPTED" or sleeps.pop(0) > 0)
    to_write.write(b"x")
    for _ in range(3):
        assert waiting.wait(time.monotonic() + 60.0)
    assert [milliseconds > 0 for milliseconds in sleeps] == [True, True, False]
