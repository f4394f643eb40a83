"""Standard output and standard error of commands, which nobody need be able to read for the work to go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


class Stream:
    """A stream that remembers why it could not be written, and is silent from then on.

    Args:
        stream: standard output or standard error.
        name: what messages call it.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, if that is possible."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, if that is possible."""
        self._try(self._stream.flush)

    def finish(self) -> bool:
        """Hand over what was written; returns whether somebody reads it, such as a pager or ``head``.

        Raises:
            OSError: if it could not be written for another reason, such as a full disk.
        """
        self.flush()
        if self._error is None or isinstance(self._error, BrokenPipeError):
            return self._error is None
        raise OSError(self._error.errno, self._error.strerror, self._name)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._error = self._error or error
            # What is left in the buffer must not fail once more when Python ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def standard_streams() -> tuple[Stream, Stream]:
    """Standard output and standard error.

    Where one was closed by whoever started this process, its descriptor is taken by a stream that goes nowhere.
    Otherwise a file of the work would get it, and the messages of libraries would end up there.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return Stream(sys.stdout, "standard output"), Stream(sys.stderr, "standard error")
