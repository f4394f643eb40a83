"""What the command line refuses: one line that says what is wrong and what to do, and nothing is written."""

import math
import os
import re
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch

from commands import ACTION
from dmmc.cli import main as cli
from dmmc.core.errors import DmmcError
from dmmc.model.file import write_tensors
from dmmc.runs.fields import load_fields
from dmmc.runs.journal import RunWriter
from dmmc.runs.run import load_run
from dmmc.studies.quickstart import QuickstartOptions
from dmmc.theory.phi4 import Phi4
from helpers import hmc_ensemble

OWN_THEORY = """
import numpy as np
import dmmc

class Theory: pass

number = 7
def total(x): return x.reshape(len(x), -1).sum(1)
def plain(phi): return total(phi**2)
def raises(phi): raise RuntimeError("no convergence")
half = dmmc.action(plain, lambda phi: phi, name="half")
nan = dmmc.action(lambda phi: total(phi) * np.nan, lambda phi: 2 * phi, name="nan")
floats = dmmc.action(lambda phi: float(phi.sum()), lambda phi: 2 * phi, name="floats")
in_place = dmmc.action(lambda phi: total(np.multiply(phi, phi, out=phi)), lambda phi: 2 * phi, name="in place")
shape = dmmc.action(plain, lambda phi: total(phi), name="shape")
mixes = dmmc.action(lambda phi: total(phi**2) + phi.sum(), lambda phi: 2 * phi, name="mixes")
fails = dmmc.action(raises, lambda phi: 2 * phi, name="fails")
symmetric = dmmc.action(lambda phi: total(phi**2 + phi), lambda phi: 2 * phi + 1, name="tilted", symmetry="z2")
"""
"""Actions that are wrong in one way each."""


@pytest.fixture(scope="module")
def bad(made, tmp_path_factory):
    """A folder of files that are wrong in one way each, next to links to good ones."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("hmc.h5", "model.safetensors", "chain.h5"):
        (folder / name).write_bytes((made / name).read_bytes())
    fields = load_fields(made / "hmc.h5")
    np.save(folder / "good.npy", fields)
    np.save(folder / "mass.npy", math.sqrt(0.2) * fields)
    np.save(folder / "few.npy", fields[:10])
    np.save(folder / "one.npy", fields[:1])
    np.save(folder / "zero.npy", 0 * fields)
    np.save(folder / "nan.npy", np.where(np.arange(len(fields)) == 5, np.nan, fields.T).T)
    np.save(folder / "flat.npy", fields.ravel())
    np.save(folder / "complex.npy", fields + 1j)
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "other_lattice.npy", fields[:, :, :3])
    np.save(folder / "channel.npy", fields[:, None])
    np.save(folder / "chains.npy", fields.reshape(16, 12, 4, 4))
    np.save(folder / "tall.npy", hmc_ensemble(Phi4(0.2, 0.05), (3, 5)).reshape(-1, 5, 3).numpy())
    np.savez(folder / "archive.npz", fields=fields)
    (folder / "broken_module.py").write_text("1 / 0\n")
    (folder / "own_module.py").write_text("\ndef wrong(phi, S):\n    return phi.sum(7)\n")
    (folder / "own_theory.py").write_text(OWN_THEORY)
    (folder / "summary.json").write_text("{}")
    (folder / "plan.json").write_text('{"kind": "scan"}')
    (folder / "unfinished.safetensors.checkpoint").write_bytes(b"")
    (folder / "text").write_text("kappa = 0.27\n")
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    for name in ("hmc.h5", "model.safetensors"):
        content = (made / name).read_bytes()
        (folder / f"truncated_{name}").write_bytes(content[: len(content) // 2])
    damaged = bytearray((made / "hmc.h5").read_bytes())
    with h5py.File(made / "hmc.h5") as file:
        damaged[file["cfgs"].id.get_chunk_info(0).byte_offset + 1000] ^= 1
    (folder / "damaged.h5").write_bytes(damaged)
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["configurations"] = fields
    write_tensors(folder / "other.safetensors", {"x": torch.zeros(2)}, "something-else", 1, {})
    write_tensors(folder / "newer.safetensors", {"x": torch.zeros(2)}, "dmmc-model", 99, {})
    (folder / "directory").mkdir()
    (folder / "unfinished.h5.partial").mkdir()
    RunWriter.create(folder / "unfinished.h5", load_run(made / "hmc.h5").header).close()
    return folder


FIELDS = "--ensemble hmc.h5 --steps 2"
FORM = "ensemble --shape 4 4 --out new"
BASE = f"{FORM} {ACTION}"
MODEL = "sample --model model.safetensors --draws 4 --out new"
LEARN = "train --steps 2 --out new"
SINE_GORDON = "--action sine_gordon --set m2=0.1 alpha=0.2 beta=2"

BAD = [
    # Actions
    (f"{FORM}", "say which action"),
    (f"{FORM} --kappa 0.2", "needs all of --kappa --lam"),
    (f"{FORM} --lam 0.1", "needs all of --kappa --lam"),
    (f"{FORM} --m2 0.2", "needs all of --m2 --lam-mass"),
    (f"{BASE} --m2 0.2", "one form"),
    (f"{BASE} --free-mass 1", "one form"),
    (f"{FORM} --kappa nan --lam 0.1", "kappa must be a finite number"),
    (f"{FORM} --kappa inf --lam 0.1", "kappa must be a finite number"),
    (f"{FORM} --kappa -0.2 --lam 0.1", "kappa must be positive"),
    (f"{FORM} --kappa 0 --lam 0.1", "kappa must be positive"),
    (f"{FORM} --kappa 0.2 --lam 0", "lam must be positive"),
    (f"{FORM} --kappa 0.2 --lam -1", "lam must be positive"),
    (f"{FORM} --m2 nan --lam-mass 1", "m2 must be a finite number"),
    (f"{FORM} --m2 -4 --lam-mass 0", "lam_m must be positive"),
    (f"{FORM} --free-mass 0", "mass must be positive"),
    (f"{BASE} --action own_theory:half", "one form"),
    (f"{FORM} --action nothing", "an action is given as module:name, got 'nothing'"),
    (f"{FORM} --action external_field --set h=1", "those that come with dmmc are free, phi4, sine_gordon"),
    (f"{FORM} --action yukawa --set g=1", "those that come with dmmc are free, phi4, sine_gordon"),
    (f"{FORM} --yukawa 0.1", "--yukawa couples fermions to the field of an action, and none is given"),
    (f"{BASE} --fermion-mass 0.1", "--fermion-mass is the mass of the fermions that --yukawa couples"),
    (f"{BASE} --yukawa nan", "g must be a finite number"),
    (f"{BASE} --yukawa 0.1 --fermion-mass inf", "m_f must be a finite number"),
    (f"{BASE} --components 2 --yukawa 0.1", "this action declares 2 components"),
    (f"ensemble --shape 4 --out new {ACTION} --yukawa 0.1", "live in two dimensions, and the lattice has 1"),
    (f"{BASE} --method pseudofermions", "this kernel is for theories with fermions, such as Yukawa"),
    (f"{BASE} --yukawa 0.1 --method cluster", "cluster"),
    (f"{BASE} --observable condensate", "got 'condensate', and the action offers none"),
    (f"{BASE} --yukawa 0.1 --observable psi", "got 'psi', and those that the action offers are condensate"),
    (f"{BASE} --yukawa 0.1 --observable condensate --observable condensate", "two observables are called 'condensate'"),
    (f"{FORM} --action sine_gordon", "sine_gordon needs m2, alpha, beta; give them with --set"),
    (f"{FORM} {SINE_GORDON} gamma=1", "sine_gordon has no parameter 'gamma'; it takes m2, alpha, beta"),
    (f"{FORM} {SINE_GORDON} m2=0.2", "--set gives m2 twice"),
    (f"{FORM} --action sine_gordon --set m2=0.1 alpha=x beta=2", "--set alpha must be a number, got 'x'"),
    (f"{FORM} --action sine_gordon --set m2", "--set is given as NAME=X, got 'm2'"),
    (f"{FORM} --action sine_gordon --set m2=0 alpha=1 beta=2", "m2 must be positive, got 0: without a mass"),
    (f"{FORM} --action sine_gordon --set m2=nan alpha=1 beta=2", "m2 must be a finite number"),
    (f"{FORM} --action own_theory:half --set m2=1", "own_theory:half has its own; omit it"),
    (f"{BASE} --set m2=1", "--set gives the parameters of an action that comes with dmmc; name it with --action"),
    (f"{FORM} --free-mass 1 --components 2", "--components is for phi^4"),
    (f"{BASE} --components 0", "components must be a positive integer, got 0"),
    (f"{BASE} --components 2 --h 0.1", "an external field h is a number for a scalar field"),
    (f"{FORM} --action phi4 --set kappa=0.2 lam=0.1 components=1.5", "components must be a positive integer, got 1.5"),
    (f"{FORM} --h 0.1", "--h puts an action into an external field, and none is given"),
    (f"{BASE} --h nan", "h must be a finite number"),
    (f"{BASE} --h 0.1 --method cluster", "cluster updates need an action that declares its hopping term"),
    (f"{LEARN} --ensemble hmc.h5 {ACTION} --h 0.1", "leave the action out, or use an ensemble of that action"),
    (f"{LEARN} --ensemble good.npy {ACTION} --h 0.2", "<dS/dphi> should be 0 and is -0."),
    (f"{LEARN} --ensemble good.npy {ACTION} --h 0.2 --symmetry z2", "declares that it has none"),
    (f"{MODEL} {ACTION} --h 0.1", "the model was trained for"),
    ("scan --h 0.1 --kappas 0.2 --lam 0.1 --out new", "--kappas goes with --lam alone"),
    ("scan --set m2=1 --kappas 0.2 --lam 0.1 --out new", "--kappas goes with --lam alone"),
    ("scan --h 0.1 --sizes 4 --out new", "--h puts an action into an external field"),
    (f"exactness --shape 4 4 {ACTION} --h 0.1 --out new", "this action does not declare the hopping term"),
    ("check-action --shape 4 4 --h 0.1", "--h puts an action into an external field"),
    (f"{FORM} --action no_such_module:x", "an action 'no_such_module:x' cannot be loaded [ModuleNotFoundError"),
    (f"{FORM} --action broken_module:x", "cannot be loaded [ZeroDivisionError"),
    (f"{FORM} --action own_theory:nothing", "cannot be loaded [AttributeError"),
    (f"{FORM} --action own_theory:number", "is of the type int; name an action"),
    (f"{FORM} --action own_theory:Theory", "is a class; name an action"),
    (f"{FORM} --action own_theory:plain", "HMC follows the gradient of the action, and 'plain' has none"),
    (f"{FORM} --action own_theory:half", "is not the gradient of S"),
    (f"{FORM} --action own_theory:nan", "is not finite (NaN, for 256 of 256 fields); put the action right"),
    (f"{FORM} --action own_theory:floats", "must return an array of shape (2,), float64; got float"),
    (f"{FORM} --action own_theory:in_place", "changes the fields that it is given; work on a copy"),
    (f"{FORM} --action own_theory:shape", "'shape'.grad must return an array of shape (4, 4, 4), float64"),
    (f"{FORM} --action own_theory:mixes", "mixes the fields of a batch"),
    (f"{FORM} --action own_theory:fails", "[RuntimeError: no convergence]; put that right"),
    (f"{LEARN} --ensemble good.npy --action own_theory:half", "is not the gradient of S"),
    (f"{LEARN} --ensemble good.npy --action own_theory:plain", "the ensemble does not fit the action"),
    (f"{LEARN} --ensemble hmc.h5 --action own_theory:plain", "leave the action out, or use an ensemble of that action"),
    (f"{MODEL} --action own_theory:plain", "the model was trained for"),
    ("scan --action own_theory:plain --sizes 4 --samplers hmc --out new", "HMC follows the gradient of the action"),
    ("scan --action own_theory:half --kappas 0.2 --lam 0.1 --out new", "--kappas goes with --lam alone"),
    (
        "exactness --shape 2 --action own_theory:plain --out new",
        "one of the variants, follows the gradient",
    ),
    ("check-action --shape 4 4", "say which action"),
    ("check-action --action own_theory:plain", "say where to test the action"),
    ("check-action --action own_theory:plain --shape 4 --ensemble hmc.h5", "say where to test the action"),
    ("check-action --action own_theory:plain --shape 4 --fields 0", "on at least one field, got 0"),
    ("check-action --action own_theory:half --shape 4 4", "does not keep its contract; see WRONG above"),
    ("check-action --action own_theory:symmetric --shape 4 4", "does not keep its contract; see WRONG above"),
    ("check-action --action own_theory:in_place --ensemble hmc.h5", "changes the fields that it is given"),
    # Lattices and lengths
    (f"ensemble --shape 0 4 --out new {ACTION}", "1 to 4 positive extents"),
    (f"ensemble --shape 4 -4 --out new {ACTION}", "1 to 4 positive extents"),
    (f"ensemble --shape 2 2 2 2 2 --out new {ACTION}", "1 to 4 positive extents"),
    (f"{BASE} --draws 0", "--draws must be at least 4"),
    (f"{BASE} --draws 3", "--draws must be at least 4"),
    (f"{BASE} --chains 0", "number of chains must be a positive integer"),
    (f"{BASE} --thermalise 0", "thermalisation"),
    (f"{BASE} --trajectory 0", "trajectory length must be a positive number"),
    (f"{BASE} --trajectory inf", "trajectory length must be a positive number"),
    (f"{BASE} --steps-per-draw 0", "steps_per_draw must be a positive integer"),
    (f"{BASE} --keep-every -1", "keep_every must be an integer of at least 0"),
    (f"{BASE} --block 0", "block must be a positive integer"),
    (f"{BASE} --block 1000000000", "block must be at most 65536"),
    (f"{BASE} --draws 1000000000000", "draws = 1000000000000 takes about"),
    (f"{BASE} --chains 1000000000000", "chains = 1000000000000 takes about"),
    (f"{BASE} --trajectory 1e6", "the trajectory length must be at most 100"),
    (f"{BASE} --seed -1", "the seed must be an integer between 0 and"),
    (f"{BASE} --seed 9223372036854775808", "the seed must be an integer between 0 and"),
    (f"{BASE} --threads 0", "--threads must lie between 1 and"),
    (f"{BASE} --threads 100000", "--threads must lie between 1 and"),
    (f"{BASE} --device nonsense", "--device nonsense cannot be used"),
    (f"{BASE} --device meta", "--device meta cannot be used"),
    (f"{BASE} --device cuda:99", "--device cuda:99 cannot be used"),
    # Outputs
    (f"{BASE} --out hmc.h5", "exists"),
    (f"{BASE} --out directory", "is a directory"),
    (f"{BASE} --out pipe --overwrite", "not a regular file"),
    (f"{BASE} --json pipe", "not a regular file"),
    (f"{BASE} --out text/new", "not a directory that can be written to"),
    (f"{BASE} --out unfinished.h5", "holds an unfinished run"),
    (f"{BASE} --json missing/summary.json", "no directory missing"),
    (f"{BASE} --json directory", "is a directory"),
    (f"{BASE} --json summary.json", "--json summary.json exists"),
    (f"{BASE} --json hmc.h5", "--json hmc.h5 exists"),
    (f"{BASE} --json hmc.h5 --overwrite", "is not an earlier summary"),
    (f"{BASE} --json plan.json --resume", "is not an earlier summary"),
    (f"{BASE} --json new", "is the --out of this command too"),
    ("report chain.h5 --json model.safetensors --overwrite", "is not an earlier summary"),
    ("report directory --out new", "holds neither a scan nor an exactness laboratory"),
    (f"{LEARN} --ensemble hmc.h5 --out unfinished.safetensors", "holds an unfinished training"),
    (f"{BASE} --out text --resume", "not an HDF5 file"),
    (f"{LEARN} --ensemble hmc.h5 --out model.safetensors", "exists"),
    (f"{LEARN} --ensemble hmc.h5 --out model.safetensors --resume", "nothing to resume"),
    (f"{LEARN} --ensemble hmc.h5 --out directory", "is a directory"),
    (f"{MODEL} --out chain.h5", "exists"),
    # Ensembles
    (f"{LEARN} --ensemble missing.h5", "there is no file missing.h5"),
    (f"{LEARN} --ensemble directory", "is a directory"),
    (f"{LEARN} --ensemble empty", "is empty"),
    (f"{LEARN} --ensemble text", "not an HDF5 file"),
    (f"{LEARN} --ensemble truncated_hmc.h5", "truncated or damaged"),
    (f"{LEARN} --ensemble damaged.h5", "damaged"),
    (f"{LEARN} --ensemble unfinished.h5", "is not finished"),
    (f"{LEARN} --ensemble foreign.h5 {ACTION}", "no dataset /cfgs"),
    (f"{LEARN} --ensemble nan.npy {ACTION}", "NaN or infinite"),
    (f"{LEARN} --ensemble flat.npy {ACTION}", "must have shape"),
    (f"{LEARN} --ensemble complex.npy {ACTION}", "must be real numbers"),
    (f"{LEARN} --ensemble object.npy {ACTION}", "not a readable .npy file"),
    (
        f"{LEARN} --ensemble few.npy {ACTION}",
        "few.npy of shape (10, 4, 4), read as 10 configurations on a lattice (4, 4)",
    ),
    (f"{LEARN} --ensemble one.npy {ACTION}", "at least 24 configurations are needed"),
    (f"{LEARN} --ensemble good.npy --kappa 0.2 --lam 0.5", "does not fit the action: <phi dS/dphi>/V should be 1"),
    (f"{LEARN} --ensemble good.npy --m2 0.5 --lam-mass 1.25", "normalisation of the hopping form"),
    (f"{LEARN} --ensemble mass.npy {ACTION}", "normalisation of the mass form"),
    (f"{LEARN} --ensemble tall.npy {ACTION}", "the fields fit if their axes are read as (3, 5)"),
    (f"{LEARN} --ensemble channel.npy {ACTION}", "without its axes of extent 1: reshape it to (192, 4, 4)"),
    (f"{LEARN} --ensemble chains.npy {ACTION}", "its first two axes as chain and draw: reshape it to (192, 4, 4)"),
    (f"{LEARN} --ensemble archive.npz {ACTION}", "is an archive such as .npz"),
    (f"{LEARN} --ensemble zero.npy {ACTION}", "does not fit the action"),
    (f"{LEARN} --ensemble hmc.h5 --kappa 0.3 --lam 0.05", "leave the action out"),
    (f"{LEARN} --ensemble hmc.h5 --init text", "not a safetensors file"),
    (f"{LEARN} --ensemble hmc.h5 --init missing", "no file missing"),
    (f"{LEARN} --ensemble hmc.h5 --init model.safetensors --sectors two", "cannot start one of two"),
    # Directories without a name
    (f"{LEARN} --ensemble . {ACTION}", ". is a directory; name a file in it"),
    (f"{LEARN} --ensemble / {ACTION}", "/ is a directory; name a file in it"),
    ("train --ensemble hmc.h5 --steps 1 --out . --resume", ". is a directory; name a file in it"),
    (f"ensemble {ACTION} --shape 4 4 --out / --resume", "/ is a directory; name a file in it"),
    (f"{MODEL} --reference .", ". is a directory; name a file in it"),
    ("export . --out new", ". is a directory; name a file in it"),
    ("export hmc.h5 --out .", ". is a directory; name a file in it"),
    (f"check-action {ACTION} --ensemble .", ". is a directory; name a file in it"),
    # Training
    # Rounds
    (LEARN, "--ensemble is needed: the fields to train on. Only --rounds can begin with --init or --shape"),
    (f"{LEARN} --init model.safetensors", "--ensemble is needed"),
    (f"{LEARN} --rounds 2", "--rounds begins with --ensemble, with --init, or with neither on a lattice of --shape"),
    (f"{LEARN} --rounds 2 --shape 4 4", "--shape does not say an action that is known here; give it with --kappa"),
    (f"{LEARN} --rounds 2 --shape 4 4 --kappa 0.2", "needs all of --kappa --lam"),
    (f"{LEARN} --rounds 2 --shape 4 0 {ACTION}", "extents"),
    (f"{LEARN} --rounds 0 --shape 4 4 {ACTION}", "rounds must be a positive integer, got 0"),
    (f"{LEARN} --rounds 999 --shape 4 4 {ACTION}", "rounds must be at most 200"),
    (f"{LEARN} --rounds 2 --proposals 10 --shape 4 4 {ACTION}", "proposals must be an integer of at least 64"),
    (f"{LEARN} --rounds 2 --least-ess 1 --shape 4 4 {ACTION}", "least_ess must lie between 0 and 1"),
    (f"{LEARN} --rounds 2 --least-ess nan --shape 4 4 {ACTION}", "least_ess must lie between 0 and 1"),
    (f"{LEARN} --rounds 2 --shape 4 4 --ensemble hmc.h5", "leave it out, or --ensemble and --init"),
    (f"{LEARN} --rounds 2 --shape 4 4 --init model.safetensors", "leave it out, or --ensemble and --init"),
    (f"{LEARN} --shape 4 4 {ACTION}", "--shape is an option of a training in rounds"),
    (f"{LEARN} --ensemble hmc.h5 --proposals 128", "--proposals is an option of a training in rounds"),
    (f"{LEARN} --ensemble hmc.h5 --least-ess 0.5", "--least-ess is an option of a training in rounds"),
    (f"{LEARN} --rounds 2 --ensemble mass.npy {ACTION}", "normalisation of the mass form"),
    (f"{LEARN} --rounds 2 --ensemble few.npy {ACTION}", "too small"),
    (f"{LEARN} --rounds 2 --ensemble good.npy", "does not say an action that is known here"),
    (f"{LEARN} --rounds 2 --ensemble hmc.h5 --kappa 0.3 --lam 0.05", "leave the action out"),
    (f"{LEARN} --rounds 2 --init model.safetensors {ACTION} --h 0.1", "not all actions of the path have it"),
    (f"{LEARN} --rounds 2 --shape 4 4 {ACTION} --h 0.1 --symmetry z2", "declares that it has none"),
    (f"{LEARN} --rounds 2 --shape 4 4 --action own_theory:half", "is not the gradient of S"),
    ("train --ensemble hmc.h5 --out new --steps 0", "steps must be a positive integer"),
    ("train --ensemble hmc.h5 --out new --minutes nan", "budget must be positive"),
    ("train --ensemble hmc.h5 --out new --minutes -1", "budget must be positive"),
    (f"{LEARN} --ensemble hmc.h5 --levels 0", "levels must be a positive integer"),
    (f"{LEARN} --ensemble hmc.h5 --learning-rate nan", "learning_rate must be positive"),
    (f"{LEARN} --ensemble hmc.h5 --hidden1 0", "hidden1 must be a positive integer"),
    (f"{LEARN} --ensemble hmc.h5 --size huge", "has no size 'huge'; its sizes are auto, tiny, small, medium, large"),
    (f"{LEARN} --rounds 2 --init model.safetensors --size small", "leave size out, or init"),
    (f"{LEARN} --ensemble hmc.h5 --seed -1", "the seed must be an integer between 0 and"),
    # Models
    ("sample --model missing --out new", "there is no file missing"),
    ("sample --model directory --out new", "there is no file directory"),
    ("sample --model text --out new", "not a safetensors file"),
    ("sample --model truncated_model.safetensors --out new", "truncated"),
    ("sample --model other.safetensors --out new", "not a dmmc-model file"),
    ("sample --model newer.safetensors --out new", "newer dmmc"),
    ("sample --pretrained nonsense --out new", "no pretrained model 'nonsense'"),
    (f"{MODEL} --kappa 0.21 --lam 0.05", "was trained for"),
    (f"{MODEL} --free-mass 1", "was trained for"),
    (f"{MODEL} --shape 8 8", "was trained on lattice (4, 4), not (8, 8)"),
    (f"{MODEL} --draws 0", "--draws must be at least 4"),
    (f"{MODEL} --chains 0", "number of chains must be a positive integer"),
    (f"{MODEL} --flow-steps 0", "number of steps must be a positive integer"),
    (f"{MODEL} --determinants 17", "no more than the 16 proposals of the certificate"),
    (f"{MODEL} --kernel path --determinants 8", "for kernels with a flow"),
    (f"{MODEL} --kernel path --flow-steps 8", "has no integrator"),
    (f"{MODEL} --kernel latent --target-acceptance 2", "must lie between 0 and 1"),
    (f"{MODEL} --kernel path --level 0.5", "level is an option of the kernel refresh"),
    (f"{MODEL} --kernel refresh --level 0", "noise level must lie above 0"),
    (f"{MODEL} --path-steps 8", "path_steps is an option"),
    (f"{MODEL} --reference other_lattice.npy", "is on a lattice (4, 3), not (4, 4)"),
    (f"{MODEL} --reference nan.npy", "NaN or infinite"),
    (f"{MODEL} --reference mass.npy", "normalisation of the mass form"),
    (f"{MODEL} --discard -1", "discard must be an integer of at least 0"),
    (f"{MODEL} --discard 1000000000000", "discard must be at most 10000000"),
    (f"{BASE} --thermalise 1000000000000", "thermalisation must be at most 10000000"),
    # Observables
    (f"{MODEL} --derived U4", "--derived is given as NAME=MODULE:FUNCTION, got 'U4'"),
    (f"{MODEL} --derived U4=missing:f", "a derived observable 'missing:f' cannot be loaded [ModuleNotFoundError"),
    (f"{MODEL} --derived a=math:pi", "must be a function of the means"),
    (f"{MODEL} --derived M2=math:sin", "belongs to another observable"),
    (f"{MODEL} --derived a=math:sin --derived a=math:cos", "two derived observables are called 'a'"),
    (f"{MODEL} --observable kinetic", "is given as NAME=MODULE:FUNCTION"),
    (f"{MODEL} --observable a=b", "is given as module:name"),
    (f"{MODEL} --observable a=missing:f", "cannot be loaded [ModuleNotFoundError: No module named 'missing']"),
    (f"{MODEL} --observable a=math:missing", "cannot be loaded"),
    (f"{MODEL} --observable a=math:pi", "must be a function, and is a float"),
    (f"{MODEL} --observable a=broken_module:f", "cannot be loaded [ZeroDivisionError: division by zero]"),
    (f"{MODEL} --observable a=own_module:wrong", "own_module.py:3 [IndexError: Dimension out of range"),
    (f"{MODEL} --observable a=torch:abs --observable a=own_module:wrong", "two observables are called 'a'"),
    (f"{MODEL} --observable M=torch:abs", "belongs to a standard observable"),
    (f"{MODEL} --observable a/b=torch:abs", "cannot be called 'a/b'"),
    (f"{MODEL} --observable a=torch:is_same_size", "must return a torch.Tensor"),
    # Quickstart
    ("quickstart --out text", "is a file"),
    ("quickstart --out new --draws 0", "--draws must be at least 4"),
    ("quickstart --out new --steps 0", "steps must be a positive integer"),
    ("quickstart --out new --minutes nan", "budget must be positive"),
    ("quickstart --out new --baseline-draws 10", "--baseline-draws must be at least 60"),
    ("quickstart --out new --seed -1", "the seed must be an integer between 0 and"),
]


REMARKS = re.compile(r"The symmetry phi -> -phi|going on with|.*hmc\.h5: \d+ configurations, <phi dS/dphi>/V = ")


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[arguments for arguments, _ in BAD])
def test_bad_input_is_refused(arguments, message, bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = contents(bad)
    try:
        code, after = cli.main(arguments.split()), contents(bad)
    finally:  # the next one is to find the folder as it was
        for path in contents(bad).keys() - before.keys():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    captured = capsys.readouterr()
    # One message, perhaps after remarks about the ensemble, and not a traceback; and nothing written.
    *remarks, error = captured.err.splitlines()
    assert code == 2 and error.startswith("dmmc ") and message in error
    assert all(REMARKS.match(remark) for remark in remarks)
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("nonsense", "invalid choice"),
        (f"{BASE} --method metropolis", "invalid choice"),
        (f"{BASE} --draws many", "invalid int value"),
        ("sample --model model.safetensors --kernel nonsense --out new", "invalid choice"),
        ("sample --out new", "one of the arguments --model --pretrained is required"),
        (f"train {FIELDS} --minutes 1 --out new", "not allowed with"),
        (f"{BASE} --resume --overwrite", "not allowed with"),
        (f"train {FIELDS} --out new --overwrite --resume", "not allowed with"),
    ],
)
def test_what_is_no_command_is_refused(arguments, message, bad, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"steps": 0}, {"draws": 3}, {"baseline_draws": 59}, {"minutes": math.inf}])
def test_bad_sizes_of_a_quickstart_are_refused_from_python_too(options):
    with pytest.raises(DmmcError):
        QuickstartOptions(**options)
