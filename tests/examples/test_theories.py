"""The example of several theories runs, with tiny sizes, and prints its table."""

import os
import re
import subprocess
import sys

from own_actions import EXAMPLES


def run(tmp_path, *options):
    command = [sys.executable, EXAMPLES / "theories.py", "--out", tmp_path / "out", *options]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def test_it_runs(tmp_path):
    ended = run(tmp_path, "field", "--extent", "2", "--steps", "2", "--chains", "8", "--draws", "20")
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout
    assert "φ⁴ in an external field: κ = 0.25, λ = 0.022 (hopping form), h = 0.1, on 2 x 2\nsymmetry none" in said
    z = [float(x) for x in re.findall(r"^(?:M2|phi2|S_per_site) .* ([-+][\d.]+)$", said, re.M)]
    assert len(z) == 3 and max(map(abs, z)) < 6  # rough errors of short chains


def test_a_theory_that_there_is_not(tmp_path):
    ended = run(tmp_path, "four")
    assert ended.returncode == 2 and "there is no theory 'four'" in ended.stderr and not list(tmp_path.iterdir())
