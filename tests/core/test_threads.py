"""How threads wait: set before torch is imported, and never against the user."""

import os
import subprocess
import sys

import pytest
import torch

from dmmc.core.threads import WORTH_THREADS, threads_for

SHOW = "import dmmc, os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_threads_sleep_soon_unless_the_user_says_otherwise(given, expected):
    rest = {name: x for name, x in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    shown = subprocess.run([sys.executable, "-c", SHOW], env=rest | given, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == expected


def test_small_arrays_are_the_work_of_one_thread():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with threads_for(WORTH_THREADS - 1):
            assert torch.get_num_threads() == 1
        with threads_for(WORTH_THREADS):
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), threads_for(1):
            _ = 1 / 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
