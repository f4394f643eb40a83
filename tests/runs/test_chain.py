"""Stored runs: what is in the file, thinning, kills, resumption and extension, reproducibility."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import stream
from dmmc.kernels.base import Info, Kernel, State, advance, metropolis, start_state, uniform
from dmmc.kernels.cluster import Cluster
from dmmc.kernels.hmc import HMC
from dmmc.kernels.independence import Independence
from dmmc.proposals.flow import FlowProposal
from dmmc.runs import chain
from dmmc.runs.chain import ChainOptions
from dmmc.runs.header import RunHeader
from dmmc.runs.run import StoredRun, begun_header, load_run
from dmmc.theory.lattice import Lattice
from dmmc.theory.observables import measure
from dmmc.theory.phi4 import Phi4
from helpers import free_reference, random_model, rng

LATTICE, ACTION, CHAINS = Lattice((4, 3)), Phi4(0.2, 0.1), 6
OBSERVABLES = {"M", "abs_M", "M2", "M4", "phi2", "S_per_site", "two_point"}
HMC_STATISTICS = {"energy_error", "energy", "diverging", "step_size", "n_steps"}
STATISTICS = {
    "hmc": {"accepted", "acceptance_rate", *HMC_STATISTICS},
    "cluster": {"accepted", "acceptance_rate", *HMC_STATISTICS, "n_clusters"},
    "flow": {"accepted", "acceptance_rate", "log_q", "log_w", "log_w_proposed"},
}
# HMC below takes 3 forces; cluster two of its trajectories and the sweep; the flow two steps of four evaluations.
COSTS = {"hmc": {"force": 3}, "cluster": {"force": 7}, "flow": {"network": 8}}


def make(name):
    """A kernel, and what starts its chains."""
    if name == "flow":
        model = random_model(free_reference(LATTICE), strength=0.1, dtype=torch.float32)
        kernel = Independence(ACTION, LATTICE, FlowProposal(model, n_steps=2))
        return kernel, lambda: kernel.initial(CHAINS, rng(5))
    local = HMC(ACTION, LATTICE, step_size=0.3, n_leapfrog=3)
    kernel = local if name == "hmc" else Cluster(local, n_local=2)
    return kernel, lambda: kernel.start(torch.zeros(CHAINS, *LATTICE.shape), rng())


def run(name, options, path, **how) -> StoredRun:
    kernel, start = make(name)
    return load_run(chain.run(kernel, start, options, path, show_progress=False, **how))


def assert_same(a: StoredRun, b: StoredRun):
    """Bit for bit, in everything but the identity of the run."""
    for group in ("observables", "stats", "state"):
        left, right = getattr(a, group), getattr(b, group)
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key], err_msg=f"{group}/{key}", strict=True)
    np.testing.assert_array_equal(a.cfg_index, b.cfg_index, strict=True)
    if len(a.cfg_index):
        np.testing.assert_array_equal(a.cfgs(), b.cfgs(), strict=True)
    assert a.header == b.header


# What is in the file


@pytest.mark.parametrize("name", STATISTICS)
def test_contents(name, tmp_path):
    options = ChainOptions(draws=11, steps_per_draw=2, keep_every=3, block=4, seed=7)
    found = run(name, options, tmp_path / "new" / "run.h5", provenance={"why": "test"})
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.h5"]
    assert found.observables.keys() == OBSERVABLES
    assert found.observables["two_point"].shape == (CHAINS, 11, len(LATTICE.orbit_modes))
    assert all(found.observables[key].shape == (CHAINS, 11) for key in OBSERVABLES - {"two_point"})
    assert found.stats.keys() == STATISTICS[name]
    assert all(value.shape == (CHAINS, 11) for value in found.stats.values())
    assert all(value.dtype == np.float64 for value in found.observables.values())
    # Two steps a draw: a draw may have accepted none, one or both of them.
    assert set(np.unique(found.stats["accepted"])) <= {0.0, 0.5, 1.0}
    # Blocks of 1, 2, 4 and 4 draws.
    assert (found.n_chains, found.n_draws, found.n_blocks) == (CHAINS, 11, 4)
    kernel = make(name)[0]
    assert found.header == RunHeader(
        kernel=kernel.describe(),
        facts=kernel.facts,
        cost=COSTS[name],
        action=ACTION.describe(),
        lattice=(4, 3),
        seed=7,
        steps_per_draw=2,
        keep_every=3,
        block=4,
        n_draws=11,
        discard=0,
        observables=(),
        provenance={"why": "test"},
        threads=torch.get_num_threads(),
    )


def test_the_first_blocks_are_small():
    options = ChainOptions(draws=100, block=16)
    assert [options.block_length(k) for k in range(7)] == [1, 2, 4, 8, 16, 16, 16]


def test_steps_are_discarded_before_the_first_draw(tmp_path):
    options = ChainOptions(draws=3, block=4, seed=3)
    made = run("hmc", options, tmp_path / "run.h5", discard=5)
    kernel, start = make("hmc")
    identity = json.dumps([made.header.kernel, made.header.action, made.header.lattice], sort_keys=True)
    state = advance(kernel, start(), 5, stream(3, "chain", identity, "discard"))
    state = advance(kernel, state, 1, stream(3, "chain", identity, 0))
    np.testing.assert_array_equal(made.observables["M"][:, 0], state.phi.mean((1, 2)).numpy())
    assert made.header.discard == 5
    with pytest.raises(MismatchError, match="discard is 5 there and 6 here"):
        run("hmc", replace(options, draws=7), tmp_path / "run.h5", resume=True, discard=6)
    with pytest.raises(DmmcError, match="discard must be an integer of at least 0"):
        run("hmc", options, tmp_path / "other.h5", discard=-1)


def test_observables_of_ones_own_are_recorded(tmp_path):
    own = {"phi0": lambda phi, S: phi[:, 0, 0], "both": lambda phi, S: torch.stack([S, phi.sum((1, 2))], 1)}
    made = run("hmc", ChainOptions(draws=5, keep_every=1), tmp_path / "run.h5", observables=own)
    assert made.observables.keys() == OBSERVABLES | own.keys() and made.header.observables == ("phi0", "both")
    phi = torch.as_tensor(made.cfgs())
    chain_, draw = made.cfg_index.T
    np.testing.assert_array_equal(made.observables["phi0"][chain_, draw], phi[:, 0, 0].numpy())
    np.testing.assert_allclose(made.observables["both"][chain_, draw, 0], ACTION(phi).numpy(), rtol=1e-12)
    with pytest.raises(MismatchError, match="observables"):
        run("hmc", ChainOptions(draws=9, keep_every=1), tmp_path / "run.h5", resume=True)


def test_an_evaluation_is_stored_beside_the_chains(tmp_path):
    made = run("hmc", ChainOptions(draws=5, block=4), tmp_path / "run.h5", evaluate=lambda state: {"delta": state.S})
    assert list(made.evaluation) == ["delta"]
    # It is called with the state after the last draw.
    np.testing.assert_array_equal(made.evaluation["delta"] / made.volume, made.observables["S_per_site"][:, -1])
    assert made.record.wall_draws == 5 and made.record.wall_seconds["chain"] > 0
    extended = run("hmc", ChainOptions(draws=7, block=4), tmp_path / "run.h5", resume=True)
    assert extended.evaluation == {} and extended.record.wall_draws == 2


@pytest.mark.parametrize("name", STATISTICS)
def test_every_kth_configuration_is_kept_and_is_what_was_measured(name, tmp_path):
    found = run(name, ChainOptions(draws=11, keep_every=3, block=4), tmp_path / "run.h5")
    # Draws 3, 6 and 9, counted from 1 and across blocks.
    assert [tuple(row) for row in found.cfg_index] == [(c, draw) for draw in (2, 5, 8) for c in range(CHAINS)]
    phi = torch.as_tensor(found.cfgs())
    expected = measure(phi, ACTION(phi), LATTICE)
    for key, value in expected.items():
        recorded = found.observables[key][tuple(found.cfg_index.T)]
        np.testing.assert_allclose(recorded, value.numpy(), rtol=1e-12, atol=1e-12, err_msg=key)


def test_nothing_is_kept_unless_asked(tmp_path):
    found = run("hmc", ChainOptions(draws=5), tmp_path / "run.h5")
    assert len(found.cfg_index) == 0
    with pytest.raises(FileError, match="kept no configurations"):
        found.cfgs()
    assert len(run("hmc", ChainOptions(draws=5, keep_every=6), tmp_path / "other.h5").cfg_index) == 0


def test_the_chain_is_that_of_the_kernel(tmp_path):
    # Recorded: the state after every third step; block b uses random stream b, and nothing else.
    found = run("hmc", ChainOptions(draws=6, steps_per_draw=3, block=4, seed=3), tmp_path / "run.h5")
    kernel, start = make("hmc")
    state, phi, accepted = start(), [], []
    identity = json.dumps([found.header.kernel, found.header.action, found.header.lattice], sort_keys=True)
    for number, draws in enumerate((1, 2, 3)):
        for after, info in kernel.steps(state, 3 * draws, stream(3, "chain", identity, number)):
            state = after
            phi.append(state.phi)
            accepted.append(info.accepted.double())
    M = torch.stack(phi[2::3], 1).mean((2, 3))
    np.testing.assert_array_equal(found.observables["M"], M.numpy())
    np.testing.assert_allclose(
        found.stats["accepted"], torch.stack(accepted, 1).view(CHAINS, 6, 3).mean(2).numpy(), rtol=1e-15
    )
    np.testing.assert_array_equal(found.state["phi"], state.phi.numpy())


def test_rejections_are_recorded_again(tmp_path):
    found = run("flow", ChainOptions(draws=40), tmp_path / "run.h5")
    accepted, M = found.stats["accepted"][:, 1:] == 1, found.observables["M"]
    assert 0.05 < accepted.mean() < 0.95
    np.testing.assert_array_equal(M[:, 1:] != M[:, :-1], accepted)
    np.testing.assert_array_equal(found.stats["log_w"][accepted.nonzero()[0], accepted.nonzero()[1] + 1],
                                  found.stats["log_w_proposed"][:, 1:][accepted])  # fmt: skip


# Randomness


@pytest.mark.parametrize("name", STATISTICS)
def test_a_seed_makes_the_run(name, tmp_path):
    options = ChainOptions(draws=6, keep_every=2, block=3, seed=4)
    first = run(name, options, tmp_path / "a.h5")
    assert_same(first, run(name, options, tmp_path / "b.h5"))
    other = run(name, replace(options, seed=5), tmp_path / "c.h5")
    assert not np.isin(first.observables["S_per_site"][:, 1:], other.observables["S_per_site"][:, 1:]).all()
    assert not np.array_equal(first.observables["M"], other.observables["M"])


def test_no_random_number_is_used_in_two_blocks(tmp_path):
    log_w = run("flow", ChainOptions(draws=12, block=3), tmp_path / "run.h5").stats["log_w_proposed"]
    assert len(np.unique(log_w)) == log_w.size


# Extension, resumption, refusals


@pytest.mark.parametrize("name", STATISTICS)
def test_extension_is_the_longer_run(name, tmp_path):
    # Exactly so where the first run ended with a whole block.
    options = ChainOptions(draws=6, steps_per_draw=2, keep_every=4, block=3)
    whole = run(name, replace(options, draws=15), tmp_path / "whole.h5")
    run(name, options, tmp_path / "run.h5")
    first_id = load_run(tmp_path / "run.h5").run_id
    assert run(name, replace(options, draws=9), tmp_path / "run.h5", resume=True).n_draws == 9
    extended = run(name, replace(options, draws=15), tmp_path / "run.h5", resume=True)
    assert_same(extended, whole)
    assert extended.run_id == first_id


def test_extension_from_the_middle_of_a_block_keeps_what_was_there(tmp_path):
    options = ChainOptions(draws=5, keep_every=2, block=4)
    before = run("hmc", options, tmp_path / "run.h5")
    kept = before.cfgs()
    after = run("hmc", replace(options, draws=11), tmp_path / "run.h5", resume=True)
    for key, value in before.observables.items():
        np.testing.assert_array_equal(after.observables[key][:, :5], value)
    assert [tuple(row) for row in after.cfg_index[::CHAINS]] == [(0, draw) for draw in (1, 3, 5, 7, 9)]
    np.testing.assert_array_equal(after.cfgs()[: 2 * CHAINS], kept)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    options, path = ChainOptions(draws=5, keep_every=2, block=4), tmp_path / "run.h5"
    run("hmc", options, path, evaluate=lambda state: {"delta": np.arange(3.0)})
    content, inode = path.read_bytes(), path.stat().st_ino

    def never(state):
        raise AssertionError("there is nothing to evaluate")

    resumed = run("hmc", options, path, resume=True, evaluate=never)
    assert resumed.record.wall_draws == 5 and list(resumed.evaluation) == ["delta"]
    with pytest.raises(MismatchError, match=r"has 5 draws of each chain already, more than the 4 .* asked for"):
        run("hmc", replace(options, draws=4), path, resume=True)
    assert path.read_bytes() == content and path.stat().st_ino == inode
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]


def test_an_interrupted_run_is_not_shortened(tmp_path, monkeypatch):
    options, path = ChainOptions(draws=12, block=3), tmp_path / "run.h5"
    with monkeypatch.context() as patched:
        patched.setattr(chain.RunWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("hmc", options, path)
    with pytest.raises(MismatchError, match="has 12 draws"):
        run("hmc", replace(options, draws=11), path, resume=True)
    assert begun_header(path).n_draws == 12
    assert run("hmc", options, path, resume=True).n_draws == 12


def test_the_number_of_threads_is_recorded_and_may_change(tmp_path):
    options, path, before = ChainOptions(draws=3, block=4), tmp_path / "run.h5", torch.get_num_threads()
    assert run("hmc", options, path).header.threads == before
    torch.set_num_threads(before + 1)
    try:
        assert run("hmc", replace(options, draws=4), path, resume=True).header.threads == before + 1
    finally:
        torch.set_num_threads(before)


def test_what_no_memory_holds_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    for chains, options, message in (
        (10**12, ChainOptions(draws=4), r"chains = 10{12} takes about .* GiB .* on 4 x 3, .* at most \d+ are possible"),
        (6, ChainOptions(draws=10**12), r"draws = 10{12} takes about .* with 6 chains .* at most \d+ are possible"),
    ):
        with pytest.raises(DmmcError, match=message):
            chain.check_memory(chains, LATTICE, options)
    # On a machine with 1 GiB: 2^10 fields of 2^12 sites in each of 32 chains take that alone.
    monkeypatch.setattr(chain, "physical_memory", lambda: 1 << 30)
    options = ChainOptions(draws=1 << 10, block=1 << 10, keep_every=1)
    with pytest.raises(DmmcError, match="block = 1024 takes about"):
        chain.check_memory(32, Lattice((64, 64)), options)
    chain.check_memory(32, Lattice((64, 64)), replace(options, block=64))
    monkeypatch.undo()
    chain.check_memory(64, Lattice((32, 32)), ChainOptions(draws=10_000, keep_every=10))
    with pytest.raises(DmmcError, match="draws = 1000000000000"):
        run("hmc", ChainOptions(draws=10**12), tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DmmcError, match="block must be at most 65536, got 1000000000"):
        ChainOptions(draws=3, block=10**9)


def test_proposals_of_a_long_block_are_made_a_few_steps_at_a_time(tmp_path):
    kernel, start = make("flow")
    asked = []

    class Counting(FlowProposal):
        def sample(self, n, generator):
            asked.append(n)
            return super().sample(n, generator)

    counting = replace(kernel, proposal=Counting(kernel.proposal.model, n_steps=2))
    chain.run(counting, start, ChainOptions(draws=3, steps_per_draw=20), tmp_path / "run.h5", show_progress=False)
    assert max(asked) == 16 * CHAINS


def test_an_action_that_breaks_its_contract_is_refused_before_anything_is_written(tmp_path):
    @dataclass(frozen=True)
    class Broken(Phi4):
        def grad(self, phi):
            return -super().grad(phi)

    kernel = HMC(Broken(0.2, 0.1), LATTICE, step_size=0.3, n_leapfrog=3)
    with pytest.raises(DmmcError, match="is not the gradient of S"):
        chain.run(kernel, lambda: kernel.initial(2, rng()), ChainOptions(draws=3), tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_state_is_a_copy(tmp_path):
    # Of memory that HDF5 and NumPy own, a kernel that works in place would otherwise change what was read.
    options, path, given = ChainOptions(draws=3, block=4), tmp_path / "run.h5", []
    run("hmc", options, path)

    @dataclass(frozen=True)
    class Keeping(HMC):
        def restore(self, tensors):
            given.append(tensors)
            return super().restore(tensors)

    kernel = Keeping(ACTION, LATTICE, step_size=0.3, n_leapfrog=3)
    chain.run(kernel, make("hmc")[1], replace(options, draws=4), path, resume=True, show_progress=False)
    assert all(x.is_contiguous() and x.untyped_storage().resizable() for x in given[0].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"steps_per_draw": 2}, "steps_per_draw is 1 there and 2 here"),
        ({"keep_every": 3}, "keep_every"),
        ({"block": 5}, "block is 4 there and 5 here"),
    ],
)
def test_resuming_with_other_options_is_refused(change, message, tmp_path):
    options = ChainOptions(draws=8, keep_every=2, block=4)
    run("hmc", options, tmp_path / "run.h5")
    content = (tmp_path / "run.h5").read_bytes()
    with pytest.raises(MismatchError, match=message):
        run("hmc", replace(options, draws=12, **change), tmp_path / "run.h5", resume=True)
    assert (tmp_path / "run.h5").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_resuming_with_another_kernel_is_refused(tmp_path):
    options = ChainOptions(draws=8, block=4)
    run("flow", options, tmp_path / "run.h5")
    kernel, start = make("flow")
    others = [
        replace(kernel, action=Phi4(0.2, 0.11)),
        replace(kernel, proposal=replace(kernel.proposal, n_steps=3)),
        replace(kernel, proposal=FlowProposal(random_model(free_reference(LATTICE), seed=2), n_steps=2)),
        make("hmc")[0],
    ]
    for other in others:
        with pytest.raises(MismatchError, match="is another run"):
            chain.run(other, start, replace(options, draws=12), tmp_path / "run.h5", resume=True, show_progress=False)
    with pytest.raises(MismatchError, match="provenance"):
        run("flow", options, tmp_path / "run.h5", resume=True, provenance={"chains": 3})


def test_files_in_the_way_are_refused(tmp_path):
    path, options = tmp_path / "run.h5", ChainOptions(draws=4, block=2)
    with pytest.raises(FileError, match="nothing to resume"):
        run("hmc", options, path, resume=True)
    assert not list(tmp_path.iterdir())
    run("hmc", options, path)
    with pytest.raises(FileError, match="exists"):
        run("hmc", options, path)
    assert run("hmc", replace(options, seed=1), path, overwrite=True).header.seed == 1


@pytest.mark.parametrize(
    "change",
    [
        {"draws": 0},
        {"draws": -1},
        {"steps_per_draw": 0},
        {"block": 0},
        {"keep_every": -1},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(DmmcError, match="must be"):
        ChainOptions(**{"draws": 3, **change})


# Interruptions


@pytest.mark.parametrize("name", ["hmc", "flow"])
def test_an_interrupt_keeps_whole_blocks(name, tmp_path, monkeypatch):
    options = ChainOptions(draws=12, keep_every=2, block=3)
    whole = run(name, options, tmp_path / "whole.h5")
    inner, calls = chain.measure, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 9:  # in the fourth block; the initial state has been measured too
            raise KeyboardInterrupt
        return inner(*args)

    monkeypatch.setattr(chain, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(name, options, tmp_path / "run.h5")
    journal = tmp_path / "run.h5.partial"
    assert sorted(path.name for path in journal.glob("block_*")) == [f"block_{k:06d}.h5" for k in range(3)]
    with pytest.raises(FileError, match="unfinished"):
        run(name, options, tmp_path / "run.h5")
    with pytest.raises(FileError, match="is not finished"):
        load_run(tmp_path / "run.h5")
    assert_same(run(name, options, tmp_path / "run.h5", resume=True), whole)
    assert not journal.exists()
    # The initial state, six draws before the interrupt and two that were lost with it; then six more. The new run that
    # is refused has measured its initial state as well.
    assert len(calls) == 9 + 1 + 6


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from runs.test_chain import KILLED, run
run({name!r}, KILLED, {path!r}, resume={resume})
"""
KILLED = ChainOptions(draws=240, steps_per_draw=2, keep_every=50, block=3)


@pytest.mark.parametrize("name", ["hmc", "flow"])
def test_a_killed_run_is_resumed_bit_for_bit(name, tmp_path):
    # Killed twice, each time a random while after a random number of further blocks has appeared; then finished.
    whole, path = run(name, KILLED, tmp_path / "whole.h5"), tmp_path / "run.h5"
    journal = tmp_path / "run.h5.partial"
    moments = np.random.default_rng(len(name))
    for attempt in range(2):
        script = SCRIPT.format(tests=str(Path(__file__).parents[1]), name=name, path=str(path), resume=attempt > 0)
        target = len(list(journal.glob("block_*.h5"))) + int(moments.integers(1, 8))
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        while len(list(journal.glob("block_*.h5"))) < target:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        _, message = process.communicate()
        assert process.returncode == -signal.SIGKILL, message
        assert not path.exists()
    resumed = run(name, KILLED, path, resume=True)
    assert resumed.n_blocks == 81  # of 1, 2 and then 3 draws each
    assert_same(resumed, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5", "whole.h5"]


# Devices


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), pytest.param("cuda", marks=pytest.mark.cuda)])
def test_device(device, tmp_path):
    kernel, _ = make("hmc")
    seen = []

    class Watched(HMC):
        def steps(self, state, n, generator):
            seen.append((state.phi.device.type, generator.device.type))
            return super().steps(state, n, generator)

    watched = Watched(ACTION, LATTICE, kernel.step_size, kernel.n_leapfrog)
    where = torch.device(device)
    options, path = ChainOptions(draws=5, block=2, keep_every=2), tmp_path / "run.h5"

    def start():
        return watched.start(torch.zeros(CHAINS, *LATTICE.shape), stream(0, "start", device=where))

    chain.run(watched, start, options, path, device=device, show_progress=False)
    chain.run(watched, start, replace(options, draws=9), path, device=device, resume=True, show_progress=False)
    assert seen == [(where.type, where.type)] * 5  # blocks of 1, 2, 2, and then of 2, 2
    if where.type == "cpu":
        assert_same(load_run(path), run("hmc", replace(options, draws=9), tmp_path / "plain.h5"))


# A kernel of one's own


@dataclass(frozen=True)
class WalkState(State):
    """A state with something of its own: how often each chain has moved."""

    moves: torch.Tensor


@dataclass(frozen=True)
class Walk(Kernel[WalkState]):
    """A random walk of Metropolis that counts its moves."""

    action: Phi4
    lattice: Lattice
    width: float = 0.3

    @property
    def facts(self):
        return KernelFacts("walk", model_free=True)

    def describe(self):
        return {"name": "walk", "width": self.width}

    def initial(self, n, generator):
        return self.start(torch.zeros(n, *self.lattice.shape), generator)

    def start(self, phi, generator):
        state = start_state(self.action, self.lattice, phi, generator.device)
        return WalkState(state.phi, state.S, torch.zeros(len(phi), dtype=torch.int64))

    def restore(self, tensors):
        return WalkState(**tensors)

    def step(self, state, generator):
        phi = state.phi + self.width * torch.randn(state.phi.shape, generator=generator, dtype=torch.float64)
        proposed = WalkState(phi, self.action(phi), state.moves + 1)
        new, accepted, rate = metropolis(state, proposed, state.S - proposed.S, uniform(len(phi), generator, phi))
        return new, Info(accepted, rate)


def test_a_kernel_with_a_state_of_its_own_runs_and_is_resumed(tmp_path):
    kernel, options = Walk(ACTION, LATTICE), ChainOptions(draws=6, block=3)

    def go(path, options, **how):
        return load_run(
            chain.run(kernel, lambda: kernel.initial(CHAINS, rng()), options, path, show_progress=False, **how)
        )

    whole = go(tmp_path / "whole.h5", replace(options, draws=12))
    go(tmp_path / "run.h5", options)
    extended = go(tmp_path / "run.h5", replace(options, draws=12), resume=True)
    assert_same(extended, whole)
    # What the state counts is what the statistics say.
    np.testing.assert_array_equal(extended.state["moves"], extended.stats["accepted"].sum(1))
    assert extended.header.facts.label == "walk"


@dataclass(frozen=True)
class Forgetful(Walk):
    """A walk that restores the plain state."""

    restore = Kernel.restore


@dataclass(frozen=True)
class Uncounted(Walk):
    """A walk that starts with the plain state and restores one of its own."""

    start = Kernel.start

    def restore(self, tensors):
        return WalkState(**tensors, moves=torch.zeros(1))


@dataclass(frozen=True)
class Taciturn(Walk):
    """A walk that reports a dictionary."""

    def step(self, state, generator):
        new, info = super().step(state, generator)
        return new, info.tensors()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Forgetful, "cannot restore its own state.*moves.*define restore"),
        (Uncounted, "starts with a State and restores a WalkState"),
        (Taciturn, "must report an Info of tensors; got dict"),
    ],
)
def test_a_kernel_that_could_not_be_resumed_is_refused(kind, message, tmp_path):
    kernel = kind(ACTION, LATTICE)
    with pytest.raises(DmmcError, match=message):
        chain.run(
            kernel, lambda: kernel.initial(3, rng()), ChainOptions(draws=6), tmp_path / "run.h5", discard=1,
            show_progress=False,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# Independence of runs


def test_runs_of_one_seed_share_no_random_numbers(tmp_path):
    # HMC at two values of kappa: with common random numbers the correlation of M was 0.87. Here M has 6 x 300
    # correlated draws; a bound of 0.25 is above five standard errors for tau_int up to 2.
    def M(action, name):
        kernel = HMC(action, LATTICE, step_size=0.3, n_leapfrog=5)
        options = ChainOptions(draws=300, steps_per_draw=3, seed=1, block=64)
        path = chain.run(
            kernel, lambda: kernel.start(torch.zeros(CHAINS, *LATTICE.shape), rng()), options, tmp_path / name,
            show_progress=False, discard=50,
        )  # fmt: skip
        return load_run(path).observables["M"].ravel()

    a, b = M(Phi4(0.2, 0.1), "a.h5"), M(Phi4(0.205, 0.1), "b.h5")
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be a positive integer, got 0"),
        ({"draws": 4.5}, "draws must be a positive integer, got 4.5"),
        ({"draws": 4, "keep_every": -1}, "keep_every must be an integer of at least 0"),
        ({"draws": 4, "steps_per_draw": 10**12}, "steps_per_draw must be at most 65536"),
    ],
)
def test_absurd_lengths_are_refused(options, message):
    with pytest.raises(DmmcError, match=message):
        ChainOptions(**options)
