"""Quantities of the user's own that are functions of means, such as ``1 - <M^4> / (3 <M^2>^2)``.

Such a function takes the means of observables by name, ``mean["M2"]``; of an observable with several components, the
array of their means. The observables that it asks for are those whose fluctuations make its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.autocorrelation import Estimate, gamma_derived
from dmmc.diagnostics.observables import components
from dmmc.diagnostics.series import as_array

Means = Mapping[str, Any]
"""Means by the name of the observable: a number, or an array for an observable with several components."""

OfMeans = Callable[[Means], Any]
"""A function of means; what it returns is one real number."""

STANDARD = ("chi2", "chi2_signed", "binder", "xi")
"""Functions of means that every summary has."""


class _Means(Mapping[str, Any]):
    """Means that remember which of them were asked for."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self._values, self._name = values, name
        self.used: list[str] = []

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise DmmcError(
                f"the derived observable {self._name!r} asks for the mean of {key!r}, which is not recorded; there are "
                f"{', '.join(self._values)}"
            )
        if key not in self.used:
            self.used.append(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def of_means(record: Mapping[str, ArrayLike], functions: Mapping[str, OfMeans], S: float = 1.5) -> dict[str, Estimate]:
    """Functions of means with errors and autocorrelation times, by :func:`~dmmc.diagnostics.gamma_derived`.

    Args:
        record: arrays ``(chain, draw, ...)`` by name.
        functions: by name; each takes the means by name, as in ``lambda mean: mean["M4"] / mean["M2"] ** 2``, and
            returns one real number.
        S: window parameter of the Gamma method.

    Returns:
        Estimates by name; one of nan, with a warning, where a function is not defined at the measured means.

    Raises:
        DmmcError: if a function asks for something that is not recorded, or for nothing, fails, or returns anything
            but one real number.
    """
    return {name: _of_means(record, name, function, S) for name, function in functions.items()}


def _of_means(record: Mapping[str, ArrayLike], name: str, function: OfMeans, S: float) -> Estimate:
    value, labelled = of_columns(record, name, function)
    return gamma_derived(value, list(labelled.values()), S, name)


def of_columns(
    record: Mapping[str, ArrayLike], name: str, function: OfMeans
) -> tuple[Callable[..., float], dict[str, NDArray[Any]]]:
    """A function of means as one of numbers, and the series ``(chain, draw)`` whose means these are, by name.

    Raises:
        DmmcError: as :func:`of_means`.
    """
    used = _used(record, name, function)
    columns = dict(part for key in used for part in components(key, record[key]))

    def value(*means: float) -> float:
        return _call(name, function, _gathered(record, used, means))

    return value, columns


def _used(record: Mapping[str, ArrayLike], name: str, function: OfMeans) -> list[str]:
    """The observables whose means a function asks for, in the order in which it does."""
    arrays = {key: as_array(values, key) for key, values in record.items()}
    means = _Means({key: _mean(array) for key, array in arrays.items()}, name)
    _call(name, function, means)
    if not means.used:
        raise DmmcError(f'the derived observable {name!r} uses no mean; take them from its argument, as in mean["M2"]')
    return means.used


def _mean(array: NDArray[Any]) -> Any:
    mean = array.astype(np.float64).mean((0, 1))
    return float(mean) if mean.ndim == 0 else mean


def _gathered(record: Mapping[str, ArrayLike], used: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    """The values of components, given one after another, by observable: a number, or an array for one with more."""
    left, made = iter(values), {}
    for key in used:
        shape = np.shape(record[key])[2:]
        of_key = [next(left) for _ in range(math.prod(shape))]
        made[key] = np.array(of_key).reshape(shape) if shape else of_key[0]
    return made


def _call(name: str, function: OfMeans, means: Means) -> float:
    """What a function makes of means; nan where it is not defined."""
    try:
        value = function(means)
    except DmmcError:
        raise
    except (ArithmeticError, ValueError):  # a division by zero, the root of a negative number
        return math.nan
    except Exception as error:  # whatever the function of a user raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DmmcError(f"the derived observable {name!r} fails [{reason}]; put that right") from error
    if np.ndim(value) != 0:
        raise DmmcError(
            f"the derived observable {name!r} must return one number, got an array of shape {np.shape(value)}; "
            "define one for each component"
        )
    if isinstance(value, (bool, str)) or not np.isreal(value):
        raise DmmcError(f"the derived observable {name!r} must return a real number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DmmcError(
            f"the derived observable {name!r} must return a real number, got {type(value).__name__}"
        ) from None


def check_functions(functions: Mapping[str, OfMeans], recorded: Iterable[str]) -> None:
    """Refuse functions of means that could not be evaluated, before anything is recorded.

    Args:
        functions: by name.
        recorded: names of the observables that are, or will be, recorded.

    Raises:
        DmmcError: if a name is taken or cannot stand in a table, something is not a function, or a function asks for an
            observable that is not recorded.
    """
    taken = (*recorded, *STANDARD)
    for name, function in functions.items():
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise DmmcError(
                f"a derived observable cannot be called {name!r}; use letters, digits, underscores and hyphens"
            )
        if name in taken:
            raise DmmcError(f"the name {name!r} belongs to another observable; choose another one")
        if not callable(function):
            raise DmmcError(
                f"the derived observable {name!r} must be a function of the means, as lambda mean: mean['M4'] / "
                f"mean['M2'] ** 2, and is a {type(function).__name__}"
            )
        try:
            function(_Means(dict.fromkeys(taken[: -len(STANDARD)], 1.0), name))
        except DmmcError:
            raise
        except Exception:
            pass  # values and shapes are not known yet, only the names
