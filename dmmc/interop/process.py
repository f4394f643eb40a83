"""Actions computed by another process, such as an MPI program, which gets the fields through shared memory.

::

    from dmmc.interop.process import Server

    server = Server(["./phi4_server", "0.27", "0.022"])
    action = dmmc.action(server.S, server.grad, name="phi4_server", kappa=0.27, lam=0.022)

**The protocol.** The fields and the results are in a file that both sides have mapped to their memory. Its first half
holds the fields, n times V doubles in C order and native byte order; the second half takes n doubles for an action, or
n times V for a gradient. The two sides take turns, with lines of text on the standard input and output of the server:

1. dmmc starts the command with the file and its size in bytes as two more arguments. The server maps the file, and says
   that it is ready: ``dmmc-action 1``, where 1 is the version of this protocol. The file has no name from then on.
2. dmmc asks, for example, ``S 17 0 256 16 16``: request 17, the actions of the fields from number 0 on, which are 256,
   on a 16 x 16 lattice. For gradients the first word is ``grad``.
3. The server answers ``17`` when the results are in their places, those of field number k in place number k; or
   ``error`` and a text that is shown to the user. More requests may be waiting by then: a large batch is asked for
   in parts, so that one side copies while the other computes.
4. When its input ends, the server ends.

The server must flush its output after each line and print nothing else there. For an action that takes less than a
millisecond, it may look for its next request for a moment before it sleeps, as dmmc does for its answers
(:mod:`dmmc.core.watch`): to be woken up takes tens of microseconds. What it prints on its standard error is
free, and the last line of it is shown if the server ends by itself. Of an MPI program rank 0 has the standard input,
and hands the requests and the fields on.

A server is started when it is first needed. One that ends, does not answer in time, or gives an answer that is none, is
stopped, and one :class:`~dmmc.core.errors.DmmcError` says what has happened. Chains that were running can be resumed:
the next request starts a new server.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dmmc.core.errors import DmmcError
from dmmc.core.watch import Watch

Array = NDArray[np.float64]

GREETING = "dmmc-action 1"
"""What a server says when it is ready; the number is the version of the protocol."""

CUTS = {"S": (0, 1, 8), "grad": (0, 1, 7, 8)}
"""Where a batch is divided into requests, in eighths.

The server starts on a small part while the rest is being copied. Of gradients, few are left to be copied back at the
end.
"""

WORTH_IT = 1 << 13
"""How many numbers a batch must have to be divided."""

LONGEST_LINE = 4096
"""Bytes of a line of the server; more without an end of line are no answer."""

BOUNDED = 1e50
"""Fields below this do not overflow, whatever the usual powers of them, so that their action is a number."""


class Server:
    """The client's side: starts the server, and asks it for actions and gradients, which it returns as new arrays.

    Args:
        command: the program and its arguments, as :class:`subprocess.Popen` takes them, without a shell.
        timeout: seconds to wait for an answer, and for the server to be ready.
        megabytes: size of the shared memory. Larger batches are handed over in pieces.
        divide: whether a large batch is asked for in parts, so that one side copies while the other computes. False is
            better for a server that takes much longer than a copy, and that distributes the fields itself.

    Raises:
        DmmcError: if a number is out of its range.
    """

    def __init__(
        self, command: Sequence[str | Path], timeout: float = 60.0, megabytes: float = 16.0, divide: bool = True
    ) -> None:
        if isinstance(command, str) or not command:
            raise DmmcError(f"the command of a server is a list, such as ['./server', '0.27'], got {command!r}")
        if not timeout > 0:
            raise DmmcError(f"the time limit of a server must be positive, got {timeout}")
        if not 0.001 <= megabytes <= 1e6:
            raise DmmcError(f"the shared memory of a server must have 0.001 to 1e6 megabytes, got {megabytes}")
        self.command = [str(word) for word in command]
        self.timeout, self._divide = timeout, divide
        self._half = int(megabytes * 1e6) // 16  # doubles on either side
        self._connection: _Connection | None = None

    def S(self, phi: Array) -> Array:
        """The actions of fields ``(n, *lattice)``, ``(n,)``.

        Raises:
            DmmcError: if the server does not answer as it should.
        """
        out = np.empty(len(phi))
        self._ask("S", phi, out)
        return out

    def grad(self, phi: Array) -> Array:
        """The gradients of fields ``(n, *lattice)``, of the same shape.

        Raises:
            DmmcError: if the server does not answer as it should.
        """
        out = np.empty(phi.shape)
        self._ask("grad", phi, out)
        return out

    def close(self) -> None:
        """Stop the server; it is started again if it is needed. The end of the program stops it, too."""
        if self._connection is not None:
            self._connection.stop()
        self._connection = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, phi: Array, out: Array) -> None:
        volume = phi[0].size if len(phi) else 1
        at_once = self._half // volume
        if at_once < 1:
            raise DmmcError(
                f"a field of {volume} sites does not fit into the shared memory of the server, whose halves have "
                f"{self._half} numbers each; make it larger (megabytes=)"
            )
        if self._connection is None:
            self._connection = _Connection(self.command, self._half, self.timeout)
        try:
            for begin in range(0, len(phi), at_once):
                part = slice(begin, begin + at_once)
                self._connection.ask(what, phi[part], out[part], self.timeout, self._divide)
        except BaseException:  # also after Ctrl-C the next answer would be that of this request
            self.close()
            raise


class _Connection:
    """A running server."""

    def __init__(self, command: list[str], half: int, timeout: float) -> None:
        self.name = f"the server {command[0]!r} of an action"
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a folder in memory, on Linux
        size, self.number, self.read = 16 * half, 0, b""
        with tempfile.NamedTemporaryFile(prefix="dmmc-action-", dir=shared) as file:
            try:
                file.write(bytes(size))  # so that the memory is there: a write to a page that is not would be fatal
                file.flush()
            except OSError as error:
                raise DmmcError(
                    f"there is no room for {size} bytes of shared memory in {file.name}: {error.strerror}; take less "
                    "(megabytes=), or make room"
                ) from None
            numbers = np.frombuffer(mmap.mmap(file.fileno(), size), dtype=np.float64)
            self.fields, self.results = numbers[:half], numbers[half:]
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # it is open for as long as the server runs
            try:
                # In a session of its own: Ctrl-C is for dmmc, and what the command starts can be stopped with it.
                self.process = subprocess.Popen(
                    [*command, file.name, str(size)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                self.errors.close()
                raise DmmcError(f"{self.name} cannot be started: {error.strerror}; check its path") from None
            self.stop = weakref.finalize(self, _stop, self.process, self.errors)
            assert self.process.stdout is not None
            self.watch = Watch(self.process.stdout)
            try:
                self._expect(GREETING, timeout, "to be ready")
            except BaseException:
                self.stop()
                raise
            self.watch = Watch(self.process.stdout)  # the time to start says nothing about that of an answer

    def ask(self, what: str, phi: Array, out: Array, timeout: float, divide: bool) -> None:
        """Have the server compute ``out`` of ``phi``."""
        n = len(phi)
        # Never by what the clock says, since the rounding of a server may depend on what it is asked for at once.
        ends = sorted({n * k // 8 for k in (CUTS[what] if divide and phi.size >= WORTH_IT else (0, 8))})
        fields, results = self.fields[: phi.size].reshape(phi.shape), self.results[: out.size].reshape(out.shape)
        results.reshape(n, -1)[:, 0] = np.nan  # where nothing is written, this stays
        requests, lattice = [], " ".join(map(str, phi.shape[1:]))
        for first, end in pairwise(ends):
            fields[first:end] = phi[first:end]
            self.number += 1
            line = f"{what} {self.number} {first} {end - first} {lattice}"
            self._send(line)
            requests.append((self.number, line, first, end))
        for number, line, first, end in requests:
            self._expect(str(number), timeout, f"to the request {line!r}", last=number == self.number)
            part = results[first:end]
            out[first:end] = part
            if math.isnan(np.vdot(part, part)):  # one pass over the results, where isnan would take more
                self._check_nan(what, phi[first:end], out[first:end])

    def _check_nan(self, what: str, phi: Array, out: Array) -> None:
        """Refuse NaN, except for fields that have run away."""
        nan, size = np.isnan(out.reshape(len(out), -1)).any(1), np.abs(phi.reshape(len(phi), -1)).max(1)
        wrong = int((nan & (size < BOUNDED)).sum())
        if wrong:
            raise DmmcError(
                f"{self.name} gave NaN, or nothing at all, for {wrong} of {len(out)} fields ({what}); put that right, "
                "and resume what was running"
            )

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise self._ended() from None

    def _expect(self, answer: str, timeout: float, to: str, last: bool = True) -> None:
        """Wait for a line of the server, which must be ``answer``, and with ``last`` the end of what it has to say."""
        assert self.process.stdout is not None
        until = time.monotonic() + timeout
        while b"\n" not in self.read and len(self.read) < LONGEST_LINE:
            if not self.watch.wait(until):
                raise DmmcError(
                    f"{self.name} did not answer {to} within {timeout:g} s and was stopped; find out why, or give it "
                    "more time (timeout=), and resume what was running"
                )
            more = os.read(self.process.stdout.fileno(), LONGEST_LINE)
            if not more:
                raise self._ended()
            self.read += more
        line, _, self.read = self.read.partition(b"\n")
        said = line.decode(errors="backslashreplace").strip()
        if said == answer and not (last and self.read):
            return
        if said.startswith("error"):
            raise self._reported(said)
        if said == answer:
            said += "\\n" + self.read.decode(errors="backslashreplace").strip()
        raise DmmcError(
            f"{self.name} answered {said[:80]!r} {to}, where {answer!r} was expected; it must print nothing but its "
            "answers on its standard output. It was stopped; put that right, and resume what was running"
        )

    def _reported(self, said: str) -> DmmcError:
        """The error that a server reports."""
        return DmmcError(
            f"{self.name} reports an error: {said.removeprefix('error').strip() or 'it does not say which'}"
        )

    def _ended(self) -> DmmcError:
        """What to say of a server that is no more: the error that it reported before, or how it ended."""
        assert self.process.stdout is not None
        while self.watch.wait(0.0) and (more := os.read(self.process.stdout.fileno(), LONGEST_LINE)):
            self.read = (self.read + more)[-LONGEST_LINE:]
        for line in self.read.decode(errors="backslashreplace").splitlines():
            if line.startswith("error"):
                return self._reported(line.strip())
        try:
            status = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            how = "closed its standard output"
        else:
            how = f"ended with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
        last = _last_line(self.errors)
        said = f"; its last words: {last}" if last else ""
        return DmmcError(f"{self.name} {how}{said}; put that right, and resume what was running")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - LONGEST_LINE))
    lines = errors.read().decode(errors="backslashreplace").strip().splitlines()
    return lines[-1] if lines else ""


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """End a server, with all that it has started."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()  # which lets a server that waits for requests end by itself
    try:
        process.wait(0.2)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    errors.close()
