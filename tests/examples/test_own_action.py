"""The examples of actions of one's own run, with tiny sizes, and say what they should."""

import os
import subprocess
import sys

import pytest

from own_actions import EXAMPLES, needs_a_compiler


@needs_a_compiler
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "own_action_c",
            "--extent 2 --draws 20 --steps 2",
            ["HMC: 1280 decisions, all the same", "model: 1280 decisions, all the same"],
        ),
        ("own_action_process", "--extent 2 --batch 4 --repeats 3", ["file: ", "S of 4 fields", "gradient of 4 fields"]),
    ],
)
def test_it_runs(name, options, said, tmp_path):
    command = [sys.executable, EXAMPLES / f"{name}.py", "--out", tmp_path / "out", *options.split()]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert all(text in ended.stdout for text in said), ended.stdout
