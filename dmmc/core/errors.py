"""The exceptions of dmmc.

Every refusal of bad input is a :class:`DmmcError`; its message names what is wrong and what to do.
"""


class DmmcError(ValueError):
    """Input that dmmc refuses: the message says what is wrong and what to do about it."""


class FileError(DmmcError):
    """A file that is missing, foreign, truncated, or in the way of an output."""


class MismatchError(DmmcError):
    """Two things that do not belong together: model and action, model and lattice, file and options."""
