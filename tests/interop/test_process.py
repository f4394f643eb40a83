"""Actions of another process: what a server answers is used, and what goes wrong with it is one error."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import dmmc
from dmmc.core.errors import DmmcError
from dmmc.interop.process import Server
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.run import load_run
from dmmc.theory.action_check import check_action
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import noise
from own_actions import COMPILER, EXAMPLES, c_library, needs_a_compiler, phi4_of
from user_kernel import GuidedWalk

PHI4 = Phi4(0.25, 0.1)
LATTICE = Lattice((4, 3))

SERVER = """
import mmap, os, signal, sys, time
with open(sys.argv[-2], "r+b") as file:
    memory = memoryview(mmap.mmap(file.fileno(), int(sys.argv[-1]))).cast("d")
half = len(memory) // 2
print({greeting!r}, flush=True)
for line in sys.stdin:
    what, number, first, n, *shape = line.split()
    first, n, volume = int(first), int(n), 1
    for extent in shape:
        volume *= int(extent)
    begin, end = first * volume, (first + n) * volume
    if what == "S":
        for k in range(first, first + n):
            memory[half + k] = sum(x * x for x in memory[k * volume : (k + 1) * volume]) / 2
    else:
        memory[half + begin : half + end] = memory[begin:end]
    {fault}
    print(number, flush=True)
"""
"""A server of S = sum phi^2 / 2 in plain Python, into which faults can be put."""


def server(fault="pass", greeting="dmmc-action 1", **options):
    return Server([sys.executable, "-SE", "-c", SERVER.format(fault=fault, greeting=greeting)], **options)


def white(server):
    return dmmc.action(server.S, server.grad, name="white")


def test_fields_go_there_and_numbers_come_back():
    with server() as running:
        action, phi = white(running), noise(LATTICE, 5)
        for _ in range(2):
            torch.testing.assert_close(action(phi), 0.5 * phi.square().flatten(1).sum(1))
            assert torch.equal(action.grad(phi), phi) and action.grad(phi.float()).dtype == torch.float32
        check_action(action, phi)
        child = running._connection.process
    assert child.returncode == 0  # the end of its input, and no signal


def test_a_large_batch_is_handed_over_in_pieces():
    with server(megabytes=0.001) as running:  # 62 numbers on either side: five fields of 12 sites
        phi = noise(LATTICE, 13)
        torch.testing.assert_close(white(running)(phi), 0.5 * phi.square().flatten(1).sum(1))
        assert running._connection.number == 3
        with pytest.raises(DmmcError, match=r"a field of 64 sites does not fit .* \(megabytes=\)"):
            running.S(np.zeros((1, 8, 8)))


def test_a_batch_is_computed_while_the_rest_of_it_is_copied():
    phi = noise(LATTICE, 701)
    for divide, requests in ((True, [2, 3]), (False, [1, 1])):
        with server(divide=divide) as running:
            torch.testing.assert_close(white(running)(phi), 0.5 * phi.square().flatten(1).sum(1))
            assert running._connection.number == requests[0]
            assert torch.equal(white(running).grad(phi), phi) and running._connection.number == sum(requests)
            running.S(phi.numpy().reshape(1, 701, 12))
            assert running._connection.number == sum(requests) + 1  # a single field cannot be divided
    faulty = server("if number == '2': memory[half + 500] = float('nan')")
    with faulty, pytest.raises(DmmcError, match=r"gave NaN, or nothing at all, for 1 of 614 fields \(S\)"):
        faulty.S(phi.numpy())


FAULTS = {
    "dies": ("print('no memory', file=sys.stderr); os._exit(3)", "ended with status 3; its last words: no memory"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    "hangs": ("time.sleep(60)", "did not answer to the request 'S 16 0 4 4 3' within 0.2 s and was stopped"),
    "says something else": ("print('rank 0 is happy')", "answered 'rank 0 is happy' .* nothing but its answers"),
    "answers twice": ("print(number)", "nothing but its answers"),
    "answers another request": ("number = 7777", "answered '7777'"),
    "prints no end of line": ("os.write(1, b'x' * 5000)", "answered 'xxx"),
    "reports an error": ("print('error no convergence', flush=True); continue", "reports an error: no convergence"),
    "gives NaN": ("memory[half] = float('nan')", r"gave NaN, or nothing at all, for 1 of 4 fields \(S\)"),
}
"""What a server does at its request 16, and what is said of it."""


def run_of(running, path, resume=False):
    """A chain of which some blocks are written before request 16."""

    def S(phi):
        if running._connection is not None and running._connection.number == 15 and "sleep" in running.command[-1]:
            running.timeout = 0.2  # not before, since the machine may be busy
        return running.S(phi)

    kernel = GuidedWalk(dmmc.action(S, running.grad, name="white"), LATTICE, 0.3)

    def start():
        return kernel.start(noise(LATTICE, 4), torch.Generator().manual_seed(1))

    options = ChainOptions(draws=12, block=2, seed=3)
    return load_run(chain.run(kernel, start, options, path, resume=resume, show_progress=False))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with server() as running:
        return run_of(running, tmp_path_factory.mktemp("whole") / "run.h5")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_chain_whose_server_fails_can_be_resumed(fault, whole, tmp_path):
    """One error; what was written stays; and the resumed chain is the one that was not interrupted."""
    code, message = fault
    with server(f"\n    if int(number) == 16:\n        {code}\n") as running:
        with pytest.raises(DmmcError, match=message):
            run_of(running, tmp_path / "run.h5")
        assert running._connection is None and list(tmp_path.glob("run.h5.partial/*"))
        running.command[-1] = SERVER.format(fault="pass", greeting="dmmc-action 1")
        running.timeout = 60
        resumed = run_of(running, tmp_path / "run.h5", resume=True)
    np.testing.assert_array_equal(resumed.observables["M"], whole.observables["M"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: server(greeting="Hello World"),
            "answered 'Hello World' to be ready, where 'dmmc-action 1' was expected",
        ),
        (lambda: server(greeting="dmmc-action 2"), "answered 'dmmc-action 2'"),
        (lambda: Server(["./no-such-program"]), r"cannot be started: No such file or directory; check its path"),
        (lambda: Server([sys.executable, "-c", "1 / 0"]), "ended with status 1; its last words: ZeroDivisionError"),
        (
            lambda: Server([sys.executable, "-Sc", "import time; time.sleep(9)"], timeout=0.1),
            "did not answer to be ready",
        ),
    ],
)
def test_a_server_that_does_not_start(make, message):
    with pytest.raises(DmmcError, match=message), make() as running:
        white(running)(noise(LATTICE, 2))
    assert running._connection is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"command": "server 0.27"}, "is a list"),
        ({"command": []}, "is a list"),
        ({"command": ["x"], "timeout": 0}, "time limit"),
        ({"command": ["x"], "megabytes": 0}, "0.001 to 1e6 megabytes"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(DmmcError, match=message):
        Server(**arguments)


@needs_a_compiler
def test_the_server_of_the_example(tmp_path):
    built = tmp_path / "phi4_server"
    subprocess.run([COMPILER, "-O2", "-ffp-contract=off", "-o", built, EXAMPLES / "own_action_server.c"], check=True)
    compiled, phi = phi4_of(PHI4, c_library(tmp_path)), noise(Lattice((3, 4, 2)), 5)
    with Server([built, 0.25, 0.1]) as running:
        action = dmmc.action(running.S, running.grad, name="phi4_server", kappa=0.25, lam=0.1)
        assert torch.equal(action(phi), compiled(phi)) and torch.equal(action.grad(phi), compiled.grad(phi))
        child = running._connection.process
        child.stdin.write(b"curvature 2 0 5 3 4 2\n")
        child.wait()  # what it said before it ended is still to be read
        with pytest.raises(DmmcError, match="reports an error: no request is called curvature"):
            action(phi)
