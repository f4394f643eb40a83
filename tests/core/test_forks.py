"""Processes that are forked need none of the threads that they did not inherit."""

import os

import pytest
import torch

import dmmc  # noqa: F401  # which is enough


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks, for the very reason that is tested here
def test_a_forked_process_uses_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        child = os.fork()
        if child == 0:
            os._exit(torch.get_num_threads())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
