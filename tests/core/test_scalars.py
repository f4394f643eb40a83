"""Counts that users give: integers of every kind, and one clear error for everything else."""

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError
from dmmc.core.scalars import check_count


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers_become_ints(value):
    count = check_count(value, "n_steps")
    assert count == 3 and type(count) is int


@pytest.mark.parametrize("value", [3.0, 2.5, True, np.True_, np.float64(3), "3", None, float("nan"), (3,)])
def test_what_is_not_an_integer_is_refused(value):
    with pytest.raises(DmmcError, match="n_steps must be a positive integer, got"):
        check_count(value, "n_steps")


def test_the_smallest_number_is_named():
    assert check_count(0, "n", 0) == 0
    with pytest.raises(DmmcError, match="n must be a positive integer, got 0"):
        check_count(0, "n")
    with pytest.raises(DmmcError, match="n must be an integer of at least 2, got -1"):
        check_count(-1, "n", 2)


def test_the_largest_number_is_named():
    assert check_count(7, "n", maximum=7) == 7
    with pytest.raises(DmmcError, match="n must be at most 7, got 8"):
        check_count(8, "n", maximum=7)
