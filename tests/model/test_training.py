"""Training: it learns, is reproducible to the last bit, also across interrupts and kills, and refuses nonsense."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmmc.core.errors import DmmcError, FileError, MismatchError
from dmmc.model import checkpoint as checkpoints
from dmmc.model import file, training
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.file import write_tensors
from dmmc.model.history import TrainingHistory, TrainingRecord
from dmmc.model.interaction import NetworkSize
from dmmc.model.loss import denoising_loss, path_loss
from dmmc.model.options import TrainingOptions
from dmmc.model.posterior import PosteriorSampler
from dmmc.model.reference import GaussianReference, wiener
from dmmc.model.training import fit
from dmmc.proposals.flow import FlowProposal
from dmmc.theory import sectors, symmetry
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import SIGMA, SMALL, Grid, free_draws, free_reference, hmc_ensemble, noise, random_model, rng

SHAPE, ACTION = (4, 4), Phi4(0.25, 0.1)
SIZE = NetworkSize(filters=4, hidden1=12, hidden2=8, level_knots=6, radial_knots=6)
SHORT = TrainingOptions(steps=12, levels=8, trajectories=2, posterior_steps=2, validation_every=4, seed=3)


def start(phi, action=ACTION, size=SIZE, two_sector=False):
    reference = GaussianReference.measure(phi, Lattice(SHAPE), connected=two_sector)
    config = size.describe() | ({"odd": False} if two_sector else {})
    return DiffusionModel.untrained(
        reference, action, config=config, symmetry="z2", two_sector=two_sector, generator=rng()
    )


def short_fit(options=SHORT, checkpoint=None, resume=False, **changes):
    """A dozen steps of training, the same whenever and in whatever process they are done."""
    phi = changes.pop("phi", None)
    phi = hmc_ensemble(ACTION, SHAPE, n=200) if phi is None else phi
    model = changes.pop("model", None) or start(hmc_ensemble(ACTION, SHAPE, n=200), size=SMALL)
    action = changes.pop("action", ACTION)
    return fit(model, action, phi, replace(options, **changes), checkpoint, resume, progress=False)


def std_log_w(model, action=ACTION, n=1000):
    phi, log_q = FlowProposal(model, 8).sample(n, rng(3))
    return float((-action(phi.double()) - log_q).std())


# What training achieves. Thresholds leave a factor of two to what four other seeds reached.


def test_training_removes_most_of_the_kl():
    phi = hmc_ensemble(ACTION, SHAPE)
    model = start(phi)
    options = TrainingOptions(steps=150, levels=32, trajectories=4, validation_every=50, learning_rate=1e-2)
    trained = fit(model, ACTION, phi, options, progress=False)
    records = trained.history.curve
    assert [record.step for record in records] == [50, 100, 150]
    assert records[-1].kl_removed > 0.04  # reached: 0.09 to 0.15
    assert records[0].gaussian == records[-1].gaussian
    assert std_log_w(trained) < 0.8 < 1.1 < std_log_w(model)  # reached: 0.35 to 0.48, from 1.4 to 1.5
    assert trained.action == ACTION.describe()
    history = trained.history
    assert (history.steps, history.ensemble, history.before) == (150, len(phi), None) and history.seconds > 0
    assert history.options == options
    assert TrainingHistory.from_json(json.loads(json.dumps(history.to_json()))) == history
    # Where it started is left alone, and its record is kept by a second round.
    assert not model.network.o1.any() and model.history is None
    again = fit(trained, ACTION, phi, replace(SHORT, steps=2), progress=False)
    assert again.history.before == history


def test_training_on_data_alone():
    phi = hmc_ensemble(ACTION, SHAPE)
    options = TrainingOptions(steps=150, levels=32, fields_per_level=16, learning_rate=1e-2)
    trained = fit(start(phi, None), None, phi, options, progress=False)
    assert trained.action == {}
    assert std_log_w(trained) < 0.9  # reached: 0.46 to 0.57, from 1.4


def test_training_of_one_sector():
    # Two wells at kappa = 0.35: training starts from the Gaussian of one of them.
    action = Phi4(0.35, 0.1)
    phi = sectors.align(hmc_ensemble(action, SHAPE, n=1000))
    model = start(phi, action, two_sector=True)
    options = TrainingOptions(steps=150, levels=32, trajectories=4, validation_every=50, learning_rate=1e-2)
    trained = fit(model, action, phi, options, progress=False)
    assert trained.two_sector and trained.network.b2.any()
    assert trained.history.curve[-1].kl_removed > 0.08  # reached: 0.20 to 0.34


def test_two_unequal_wells_without_symmetry_get_a_model_of_both():
    # phi^4 on two sites with a linear term: 69 % of the weight lies in the well at M < 0, the rest in the other one.
    even = Phi4(0.5, 0.5)
    action = AutogradAction(lambda phi: 2 * even(phi) + 0.25 * phi.flatten(1).sum(1), "tilted")
    grid = Grid.make(2, 2.6, 161)
    p, M = grid.probabilities(action), grid.phi.mean(1)
    left, mean = float(p[M < 0].sum()), float((p * M).sum())
    assert 0.6 < left < 0.8 and float(p[M.abs() < 0.3].sum()) < 0.1
    phi = grid.draws(action, 2000)
    found = symmetry.find_symmetry(action, phi)
    assert found.symmetry == "none"
    reference = GaussianReference.measure(phi, grid.lattice, connected=True, action=action)
    config = {"filters": 3, "hidden1": 16, "hidden2": 12}
    model = DiffusionModel.untrained(reference, action, config=config, symmetry=found.symmetry, generator=rng())
    assert not model.network.odd and not model.two_sector and model.reference.mean == pytest.approx(mean, abs=0.1)
    options = TrainingOptions(steps=150, levels=32, fields_per_level=2, trajectories=2, learning_rate=1e-2)
    trained = fit(model, action, phi, options, progress=False)
    ess = []
    for m in (model, trained):
        proposed, log_q = FlowProposal(m, 10).sample(5000, rng(3))
        w = torch.softmax(-action(proposed.double()) - log_q, 0)
        ess.append(float(1 / w.square().sum()) / len(w))
    assert ess[0] < 0.65 < 0.75 < ess[1]  # reached: 0.55 and 0.88
    # The proposals themselves visit both wells about as often as they should ...
    side = proposed.double().mean(1)
    assert float((side < 0).double().mean()) == pytest.approx(left, abs=0.05)
    # ... and their weights make the averages exact: self-normalised importance sampling against quadrature.
    for values, exact in ((side, mean), ((side < 0).double(), left)):
        error = float((w * (values - exact)).square().sum().sqrt())
        assert error < 0.03 and abs(float((w * values).sum()) - exact) < SIGMA * error


def test_path_loss_of_the_exact_answer_is_zero_and_of_none_the_kl():
    # For a free field as seen from a reference of half its propagator, N(phi_s) = (1/C' - 1/C) E[phi_0 | phi_s] with
    # E = C'/(C' + v) phi_s is linear and known, and the loss of N = 0 is KL(p || reference) up to v_max.
    lattice = Lattice(SHAPE)
    truth = free_reference(lattice, 0.8)
    reference = GaussianReference(lattice, truth.propagator / 2, v_max=1e4)
    phi0 = free_draws(truth, 4000)
    level = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    v = reference.variance(level)
    phi_s = phi0 + v.repeat_interleave(10).sqrt().view(-1, 1, 1) * noise(lattice, 4000, seed=2)
    noisy = lattice.to_modes(phi_s.view(400, 10, *SHAPE))
    c, c_true = reference.c(noisy), truth.c(noisy)
    force = ((1 / c_true - 1 / c) * wiener(c, v) * wiener(c_true, v)).unsqueeze(1) * noisy

    def nothing(modes, v):
        return torch.zeros_like(modes)

    ratio = truth.propagator / reference.propagator
    kl = 0.5 * float((lattice.orbit_size * (ratio - 1 - ratio.log())).sum())
    # Statistical error: 4,000 fields of 16 modes, sqrt(2 / 64,000) = 0.6 %; v_max is not infinite: 0.1 %.
    assert float(path_loss(nothing, reference, noisy, force, level)) == pytest.approx(kl, rel=0.03)


def test_final_weights_are_the_average_of_the_last_ones(monkeypatch):
    steps, share, seen = 40, 0.2, []
    update = training.Trainer.update

    def spy(trainer, *batch):
        loss = update(trainer, *batch)
        seen.append([p.detach().clone() for p in trainer.parameters])
        return loss

    monkeypatch.setattr(training.Trainer, "update", spy)
    model = start(hmc_ensemble(ACTION, SHAPE, n=200), size=SMALL)
    trained = short_fit(model=model, steps=steps, average=share)
    expected = [p.detach().clone() for p in model.network.parameters()]
    for step, weights in enumerate(seen, 1):
        rate = max(1 / (steps * share), 1 / (step + 1))  # a plain mean until that of the last fifth forgets the first
        expected = [mean + rate * (p - mean) for mean, p in zip(expected, weights, strict=True)]
    for found, mean, last in zip(trained.network.parameters(), expected, seen[-1], strict=True):
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-6)
        assert not torch.equal(found, last)


def test_learning_rate_rises_and_falls(monkeypatch):
    rates = []
    update = training.Trainer.update

    def spy(trainer, *batch):
        loss = update(trainer, *batch)
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(training.Trainer, "update", spy)
    short_fit(steps=60, levels=2, learning_rate=3e-3)
    peak = rates.index(max(rates))
    assert peak == 3 and max(rates) == pytest.approx(3e-3, rel=0.01)  # 5 % of 60
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01 * max(rates)


def test_budget_in_minutes():
    trained = short_fit(steps=None, minutes=0.2 / 60)
    assert trained.history.steps >= 1 and trained.history.seconds >= 0.2


# Reproducibility


def test_same_seed_same_bits():
    first, second, other = short_fit(), short_fit(), short_fit(seed=4)
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()
    assert replace(first.history, seconds=0.0) == replace(second.history, seconds=0.0)


def interrupt_after(monkeypatch, owner, name, call):
    """Send Ctrl-C to this process right after the given call of a function."""
    function, calls = getattr(owner, name), []

    def patched(*args, **kwargs):
        calls.append(1)
        value = function(*args, **kwargs)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return value

    monkeypatch.setattr(owner, name, patched)


# Wherever in a step the interrupt falls. _batch is called four times for validation before the first step.
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (training, "_batch", 5),  # in the first step: nothing is known yet to the optimiser
        (training, "_batch", 10),
        (torch.optim.Adam, "step", 5),
        (training.Trainer, "update", 6),
        (training.Trainer, "averaged_network", 2),  # in validation
        (training.Trainer, "average_in", 7),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_interrupted_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, owner, name, call):
    whole = short_fit()
    checkpoint = tmp_path / "training"
    with monkeypatch.context() as patch:
        interrupt_after(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            short_fit(checkpoint=checkpoint)
    assert os.listdir(tmp_path) == [checkpoint.name]
    with monkeypatch.context() as patch:  # and once more
        interrupt_after(patch, training.Trainer, "update", 2)
        with pytest.raises(KeyboardInterrupt):
            short_fit(checkpoint=checkpoint, resume=True)
    resumed = short_fit(checkpoint=checkpoint, resume=True)
    assert resumed.fingerprint() == whole.fingerprint()
    assert resumed.history.curve == whole.history.curve
    # The state is kept until the caller has saved the model; from it the same model is made without another step.
    assert os.listdir(tmp_path) == [checkpoint.name]
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "update", None)
        assert short_fit(checkpoint=checkpoint, resume=True).fingerprint() == whole.fingerprint()
    checkpoints.remove_checkpoint(checkpoint)
    checkpoints.remove_checkpoint(checkpoint)
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from dmmc.core import files
from test_training import short_fit
import torch
torch.set_num_threads(1)
sync, calls = files.sync, []
def patched(path):
    sync(path)
    calls.append(path.is_file())
    if sum(calls) == 6:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
files.sync = patched
short_fit(checkpoint=sys.argv[1], checkpoint_seconds=0)
"""


def test_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    # The worst moment: half of the sixth checkpoint is written. The fifth is still there.
    checkpoint = tmp_path / "training"
    folders = [*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, checkpoint]
    process = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert checkpoint.exists()
    done = []
    update = training.Trainer.update
    monkeypatch.setattr(training.Trainer, "update", lambda *args: done.append(1) or update(*args))
    resumed = short_fit(checkpoint=checkpoint, resume=True)
    assert len(done) == SHORT.steps - 5
    monkeypatch.undo()
    assert resumed.fingerprint() == short_fit().fingerprint()


def stopped(checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, training, "_batch", 10)
        with pytest.raises(KeyboardInterrupt):
            short_fit(checkpoint=checkpoint)
    return checkpoint


def test_checkpoint_is_ignored_unless_resuming_and_is_not_needed(tmp_path, monkeypatch):
    whole = short_fit()
    checkpoint = stopped(tmp_path / "training", monkeypatch)
    assert short_fit(checkpoint=checkpoint).fingerprint() == whole.fingerprint()
    assert short_fit(checkpoint=checkpoint, resume=True).fingerprint() == whole.fingerprint()


def test_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch):
    checkpoint = stopped(tmp_path / "training", monkeypatch)
    content = checkpoint.read_bytes()
    phi = hmc_ensemble(ACTION, SHAPE, n=200)
    others = [
        ({"seed": 4}, "options"),
        ({"steps": 13}, "options"),
        ({"learning_rate": 1e-3}, "options"),
        ({"phi": torch.cat([phi[1:], phi[:1] * 1.1])}, "ensemble"),
        ({"phi": phi[:-1]}, "ensemble"),
        ({"model": start(phi)}, "network"),
        ({"model": start(phi * 1.1, size=SMALL)}, "reference"),
        ({"model": start(phi, None, SMALL), "action": None}, "action"),
    ]
    for changes, what in others:
        with pytest.raises(MismatchError, match=rf"another training run \(different .*{what}.*\); resume with"):
            short_fit(checkpoint=checkpoint, resume=True, **changes)
        assert checkpoint.read_bytes() == content
    # What does not enter the numbers may change.
    resumed = short_fit(checkpoint=checkpoint, resume=True, checkpoint_seconds=5.0)
    assert resumed.fingerprint() == short_fit().fingerprint()


def test_broken_checkpoints_are_refused(tmp_path, monkeypatch):
    checkpoint = stopped(tmp_path / "training", monkeypatch)
    content = checkpoint.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"kappa = 0.27\n" * 50):
        checkpoint.write_bytes(broken)
        with pytest.raises(FileError, match="truncated or not a safetensors file"):
            short_fit(checkpoint=checkpoint, resume=True)
    start(hmc_ensemble(ACTION, SHAPE, n=200), size=SMALL).save(checkpoint)
    with pytest.raises(FileError, match="not a dmmc-training file"):
        short_fit(checkpoint=checkpoint, resume=True)
    write_tensors(checkpoint, {"w": torch.ones(2)}, checkpoints.FORMAT, checkpoints.FORMAT_VERSION + 1, {})
    with pytest.raises(FileError, match="newer dmmc"):
        short_fit(checkpoint=checkpoint, resume=True)


# Refusals


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": None}, "either in steps or in minutes"),
        ({"minutes": 1.0}, "either in steps or in minutes"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"steps": 2.5}, "steps must be a positive integer"),
        ({"steps": None, "minutes": 0.0}, "budget must be positive"),
        ({"steps": None, "minutes": math.nan}, "budget must be positive"),
        ({"levels": 0}, "must be a positive integer"),
        ({"fields_per_level": 0}, "must be a positive integer"),
        ({"posterior_steps": 0}, "posterior_steps"),
        ({"validation_every": 0}, "validation_every"),
        ({"trajectories": -1}, "trajectories must be an integer of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"average": 0.0}, "average must lie between 0 and 1"),
        ({"average": 1.0}, "average must lie between 0 and 1"),
    ],
    ids=str,
)
def test_refused_options(bad, message):
    with pytest.raises(DmmcError, match=message):
        replace(SHORT, **bad)


def test_refused_ensembles():
    phi = hmc_ensemble(ACTION, SHAPE, n=200)
    for bad, message in [
        (phi[:23], "at least 24 configurations, got 23"),
        (phi.view(200, 2, 8), r"training ensemble must have shape \(batch, 4, 4\)"),
        (phi[0], "training ensemble must have shape"),
        (torch.where(torch.arange(16).view(SHAPE) == 3, torch.nan, phi), "training ensemble has NaN"),
        (phi.numpy(), "must be a torch.Tensor"),
        (phi.long(), "must be real floating point"),
    ]:
        with pytest.raises(DmmcError, match=message):
            short_fit(phi=bad)


def test_refused_action_and_divergence():
    for action in (Phi4(0.26, 0.1), FreeField(1.0)):
        with pytest.raises(MismatchError, match="trained for phi4"):
            short_fit(action=action)
    model = random_model(free_reference(Lattice(SHAPE)), ACTION)
    with torch.no_grad():
        model.network.o1.fill_(math.inf)
    with pytest.raises(DmmcError, match="the loss is nan after 1 steps; lower the learning rate"):
        short_fit(model=model)


# Checkpoints and histories


def test_an_interrupt_while_the_model_is_saved_loses_nothing(tmp_path):
    # fit leaves its state behind: a full disk or a Ctrl-C between training and saving costs no training.
    checkpoint = tmp_path / "training"
    trained = short_fit(checkpoint=checkpoint)
    assert checkpoint.exists()
    assert short_fit(checkpoint=checkpoint, resume=True).fingerprint() == trained.fingerprint()


def test_checkpoints_that_are_incomplete_or_old_are_refused(tmp_path, monkeypatch):
    checkpoint = stopped(tmp_path / "training", monkeypatch)
    contents = file.read_tensors(checkpoint, checkpoints.FORMAT, checkpoints.FORMAT_VERSION)

    def refused(kind, message, tensors=contents.tensors, version=checkpoints.FORMAT_VERSION, **changes):
        header = {key: value for key, value in (contents.header | changes).items() if value is not None}
        write_tensors(checkpoint, tensors, checkpoints.FORMAT, version, header)
        with pytest.raises(kind, match=message):
            short_fit(checkpoint=checkpoint, resume=True)

    metadata = {"format": checkpoints.FORMAT, "format_version": "1", "header": json.dumps(contents.header)}
    save_file(contents.tensors, checkpoint, metadata)
    with pytest.raises(MismatchError, match="an older dmmc began, with other random numbers; remove it"):
        short_fit(checkpoint=checkpoint, resume=True)
    for changes in (
        {"step": "many"}, {"step": None}, {"curve": 3}, {"angles": ["x"]}, {"identity": []},
        {"step": -(10**15)}, {"seconds": -1e9}, {"angles": [0.0]},  # with these, a training would never end
    ):  # fmt: skip
        refused(FileError, "not a complete checkpoint: this is not a valid CheckpointHeader", **changes)
    refused(FileError, "has 13 steps of a training of 12", step=13)
    contents.header["version"] = 99
    refused(FileError, "this CheckpointHeader has layout 99")
    contents.header["version"] = 1
    short = {name: value for name, value in contents.tensors.items() if name != "weight.a1"}
    refused(FileError, "not a complete checkpoint: there is no tensor 'weight.a1'", tensors=short)
    # Shapes that torch would broadcast, and others.
    for name in ("weight.a1", "average.a1", "adam.exp_avg.a1", "adam.step.a1"):
        for value in (torch.ones(1), contents.tensors[name].long()):
            refused(FileError, f"complete checkpoint: the tensor '{name}'", tensors=contents.tensors | {name: value})
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    with pytest.raises(FileError, match="is damaged: its contents do not match their checksum"):
        short_fit(checkpoint=checkpoint, resume=True)


def test_histories_of_format_1_are_read():
    options = dataclasses.asdict(SHORT)
    points = [{"step": 4, "loss": 0.5, "validation": 0.4, "N=0": 0.9}]
    first = {"options": options, "steps": 12, "seconds": 1.5, "ensemble": 200, "validation": points, "before": {}}
    second = first | {"before": first, "validation": []}
    history = TrainingHistory.from_version_1(json.loads(json.dumps(second)))
    assert history.before == TrainingHistory(SHORT, 12, 1.5, 200, (TrainingRecord(4, 0.5, 0.4, 0.9),))
    assert history.curve == () and history.before.curve[0].kl_removed == pytest.approx(0.5)
    assert TrainingHistory.from_version_1({}) is None
    for bad in ({"steps": 3}, first | {"validation": [{"step": 4}]}, first | {"steps": "x"}, first | {"before": 3}):
        with pytest.raises(DmmcError, match="not a"):
            TrainingHistory.from_version_1(bad)


def test_progress_is_reported_off_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("dmmc.core.progress.EVERY_SECONDS", 0.0)
    phi = hmc_ensemble(ACTION, SHAPE, n=200)
    fit(start(phi, size=SMALL), ACTION, phi, SHORT)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == SHORT.steps and lines[0].startswith("train: 8 %") and "step 1" in lines[0]
    assert lines[-1].startswith("train: 100 %") and "KL removed" in lines[-1]


def test_batches_beyond_any_memory_or_patience_are_refused():
    with pytest.raises(DmmcError, match=r"levels = 1000000000 .* at most \d+ levels are possible"):
        training.check_memory(TrainingOptions(steps=1, levels=10**9), Lattice((32, 32)))
    training.check_memory(TrainingOptions(steps=1), Lattice((32, 32)))
    for name in ("trajectories", "posterior_steps"):
        with pytest.raises(DmmcError, match=f"{name} must be at most"):
            TrainingOptions(steps=1, **{name: 10**9})


def test_autocast_of_the_caller_changes_nothing():
    expected = short_fit(steps=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert short_fit(steps=2).fingerprint() == expected.fingerprint()


def test_small_noise_does_not_dominate_the_loss_of_data_without_an_action():
    # The target is y_D with variance D / v of a mode: the weight v + v_offset would make its share grow as 1 / v.
    reference = free_reference(Lattice((8,)), mass=0.7)
    phi = free_draws(reference, 4000).view(1, 4000, 8)
    sampler = PosteriorSampler.measure(reference, None, phi[0])

    def losses(loss, at):
        level = torch.full((1,), at, dtype=torch.float64)
        noisy, target, _ = sampler.targets(phi, level, rng())
        return float(loss(lambda modes, v: torch.zeros_like(modes), reference, noisy, target, level))

    small, smaller = (losses(denoising_loss, at) for at in (1e-4, 1e-6))
    assert smaller == pytest.approx(small, rel=0.05)
    # At v << C every mode has 1/2 log_range v <|D y|^2> = 1/2 log_range.
    assert smaller == pytest.approx(0.5 * reference.log_range * 8, rel=0.05)
    assert losses(path_loss, 1e-6) > 50 * losses(path_loss, 1e-4)
