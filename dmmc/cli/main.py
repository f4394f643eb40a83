"""The command line: parses, calls :mod:`dmmc.studies.workflow`, prints. No physics here."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dmmc
from dmmc.cli.memory import keep_freed_memory
from dmmc.core.errors import DmmcError, FileError
from dmmc.core.files import replace_file

DESCRIPTION = """\
Exact sampling of lattice field theories with diffusion models.

A diffusion model with a tractable likelihood proposes whole field configurations; a Metropolis
step makes the chain exact. The usual way:

  dmmc ensemble --kappa 0.27 --lam 0.022 --shape 16 16 --out hmc.h5
  dmmc train    --ensemble hmc.h5 --minutes 5 --out model.safetensors
  dmmc sample   --model model.safetensors --out chain.h5

or all of it at once, with a comparison and figures: dmmc quickstart."""

EPILOG = "Errors in brackets are statistical, with autocorrelations; tau_int is 1/2 for a white series."


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmmc", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dmmc {dmmc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, formatter_class=_Help)

    ensemble = command("ensemble", "make an ensemble with HMC or embedded cluster updates")
    _add_action(ensemble)
    ensemble.add_argument("--shape", type=int, nargs="+", required=True, metavar="L", help="lattice, e.g. 16 16")
    ensemble.add_argument("--method", choices=["hmc", "cluster"], default="hmc", help="sampler")
    ensemble.add_argument("--chains", type=int, default=256, help="parallel chains")
    ensemble.add_argument("--thermalise", type=int, default=200, help="steps thrown away")
    ensemble.add_argument("--trajectory", type=float, default=4.0, metavar="LENGTH", help="length of HMC trajectories, "
                          "also of those between cluster updates, for the hopping-form field")  # fmt: skip
    _add_chain(ensemble, draws=240, keep_every=12)
    _add_common(ensemble)

    train = command("train", "train a diffusion model on an ensemble")
    train.add_argument("--ensemble", type=Path, required=True, help="HDF5 file with /cfgs, or .npy: N x lattice")
    _add_action(train, "; only for an ensemble that does not say")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="training budget in minutes (5, if --steps is not given)")
    budget.add_argument("--steps", type=int, help="training budget in optimiser steps; reproducible")
    train.add_argument("--init", help="start from this model file or pretrained name, of any lattice size or coupling")
    train.add_argument("--sectors", choices=["auto", "one", "two"], default="auto",
                       help="one centred reference, or the sector M > 0 and its mirror image")  # fmt: skip
    train.add_argument("--hidden", type=int, nargs=2, default=[48, 32], metavar=("F1", "F2"), help="channels")
    train.add_argument("--filters", type=int, default=6, help="filters of the first layer")
    train.add_argument("--learning-rate", type=float, default=5e-3, help="peak of the schedule")
    train.add_argument("--levels", type=int, default=64, help="noise levels a batch, one field each")
    train.add_argument("--trajectories", type=int, default=16, help="posterior trajectories that average a target")
    train.add_argument("--compile", action="store_true", help="fuse with torch.compile where that works")
    _add_common(train)

    sample = command("sample", "run the exact Metropolis chain of a trained model")
    which = sample.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="model file")
    which.add_argument("--pretrained", metavar="NAME", help="a model that comes with dmmc, e.g. phi4-flow-L32")
    _add_action(sample, "; checked against the model's")
    sample.add_argument("--shape", type=int, nargs="+", metavar="L", help="lattice; checked against the model's")
    sample.add_argument("--chains", type=int, default=64, help="parallel chains")
    sample.add_argument("--kernel", default="independence", metavar="KERNEL", help="independence: whole fields; "
                        "latent: a rotation of the noise they are made of, for large volumes; path: whole paths of the "
                        "reverse diffusion, no integrator; refresh: the same from some noise on; hybrid: a field of "
                        "the flow and an HMC trajectory in turn")  # fmt: skip
    sample.add_argument("--target-acceptance", type=float, help="of --kernel latent, whose angle is tuned to it; "
                        "0.4 if not given")  # fmt: skip
    sample.add_argument("--path-steps", type=int, metavar="N", help="of --kernel path and refresh; 32 if not given")
    sample.add_argument("--level", type=float, help="of --kernel refresh: noise up to it, between 0 and 1; 0.5 if not "
                        "given")  # fmt: skip
    sample.add_argument("--trajectory", type=float, metavar="LENGTH", help="of --kernel hybrid: length of its HMC "
                        "trajectories for the hopping-form field; 4 if not given")  # fmt: skip
    sample.add_argument("--flow-steps", type=_steps, metavar="N", help="integration steps of the probability flow; "
                        "auto: as few as keep its bias below 1 percent of the statistical error")  # fmt: skip
    sample.add_argument("--determinants", type=int, metavar="N", help="of how many of its 16 proposals, 8 at least to "
                        "count, the certificate takes the determinant of the flow's map, up to 256 sites: minutes on "
                        "16 x 16; if not given, all where that is cheap, else step doubling")  # fmt: skip
    sample.add_argument("--reference", type=Path, help="ensemble of another sampler, to weigh: shows missed modes")
    _add_chain(sample, draws=256, keep_every=8)
    _add_common(sample)

    scan = command("scan", "samplers over lattice sizes or couplings: critical slowing down, costs, Binder crossing")
    scan.add_argument("--along", choices=["L", "kappa"], help="what changes along a curve, and is fitted along; if not "
                      "given, kappa for several --kappas, else L")  # fmt: skip
    scan.add_argument("--sizes", type=int, nargs="+", default=[6, 8, 10, 12, 14, 20], metavar="L", help="lattice sizes")
    scan.add_argument("--dim", type=int, default=2, help="dimensions of the lattices")
    _add_action(scan, "; without one, the flow benchmark: m2 = -4, and lam_m by L such that xi = L/4")
    scan.add_argument("--kappas", type=float, nargs="+", metavar="KAPPA", help="hopping parameters (with --lam)")
    scan.add_argument("--samplers", nargs="+", choices=["hmc", "diffusion", "cluster"], metavar="SAMPLER",
                      default=["hmc", "diffusion", "cluster"], help="any of hmc, diffusion, cluster")  # fmt: skip
    scan.add_argument("--minutes", type=float, help="training budget of each model in minutes (1, without --steps)")
    scan.add_argument("--steps", type=int, help="training budget of each model in optimiser steps; reproducible")
    scan.add_argument("--chains", type=int, default=64, help="parallel chains of each sampler")
    scan.add_argument("--draws", type=int, default=512, help="draws of each HMC and cluster chain to begin with")
    scan.add_argument("--diffusion-draws", type=int, default=64, help="the same of each diffusion chain")
    scan.add_argument("--flow-steps", type=int, help="integration steps of the probability flow")
    scan.add_argument("--max-draws", type=int, default=16384, help="draws of a chain, at most")
    scan.add_argument("--lengths", type=float, default=2000.0, help="chains are extended until all together they are "
                      "this many tau_int long; tau_int to about 4 / sqrt(lengths)")  # fmt: skip
    scan.add_argument("--thermalise", type=int, help="steps thrown away; if not given 200, of HMC L^2 if that is more")
    scan.add_argument("--trajectory", type=float, default=1.0, metavar="LENGTH", help="of HMC, for the hopping-form "
                      "field: 1 is short enough for a power law in xi, 4 costs several times less")  # fmt: skip
    _add_common(scan, out="scan")

    exact = command("exactness", "ways to put a model into Metropolis, exact or not, against a known truth")
    exact.add_argument("--shape", type=int, nargs="+", metavar="L", help="lattice; 2: two sites, where the truth is "
                       "known by quadrature; if not given, 8 8, 16 16 and 2, one after another")  # fmt: skip
    _add_action(exact, "; without one, kappa = 0.27, lam = 0.022, on two sites kappa = lam = 0.3")
    exact.add_argument("--variants", nargs="+", metavar="VARIANT", help="some of them; if not given, all: "
                       "flow latent path refresh hybrid hmc, and ode sde-8 sde-64 sde-ode hutchinson-1 hutchinson-4 "
                       "hutchinson-16 ode-2 pool one-sector no-tail, which are not exact")  # fmt: skip
    exact.add_argument("--draws", type=int, help="of each variant, all chains together; if not given 98304, from 256 "
                       "sites on 24576")  # fmt: skip
    exact.add_argument("--chains", type=int, default=512, help="parallel chains of each variant")
    exact.add_argument("--truth-draws", type=int, default=524288, help="of the cluster sampler, all chains together")
    trained = exact.add_mutually_exclusive_group()
    trained.add_argument("--steps", type=int, default=400, help="training budget in optimiser steps")
    trained.add_argument("--model", type=Path, help="a model file instead")
    exact.add_argument("--flow-steps", type=int, help="integration steps of the probability flow; if not given, as "
                       "many as the statistical error asks for")  # fmt: skip
    _add_common(exact, out="exactness")

    report = command("report", "write one self-contained HTML page about runs: verdicts, comparison, figures")
    report.add_argument("inputs", type=Path, nargs="+", metavar="RUN",
                        help="run files of one lattice and action; also folders of scans")  # fmt: skip
    report.add_argument("--out", type=Path, default="report.html", help="the page")
    report.add_argument("--reference", metavar="NAME", help="the run to compare with: cluster, HMC, diffusion, or its "
                        "file; if not given, the first cluster run, else the first HMC run")  # fmt: skip
    report.add_argument("--title", help="of the page; if not given, the theory and the lattice")
    report.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary here")
    report.add_argument("--overwrite", action="store_true", help="replace an earlier page")

    quick = command("quickstart", "the whole idea once: 16 x 16 near criticality, in under 6 minutes on 2 cores")
    quick.add_argument("--minutes", type=float, default=2.5, help="training budget in minutes")
    quick.add_argument("--steps", type=int, help="training budget in optimiser steps instead; reproducible")
    quick.add_argument("--draws", type=int, default=96, help="draws of each of 64 diffusion chains")
    quick.add_argument("--baseline-draws", type=int, default=240, help="draws of each of 256 HMC and cluster chains")
    _add_common(quick, out="quickstart", resume=False)
    return parser


def _add_action(parser: argparse.ArgumentParser, note: str = "") -> None:
    group = parser.add_argument_group("action", f"phi^4 in one of its forms, or a free field{note}")
    group.add_argument("--kappa", type=float, help="hopping parameter (with --lam)")
    group.add_argument("--lam", type=float, help="quartic coupling of the hopping form")
    group.add_argument("--m2", type=float, help="bare mass squared of the mass form (with --lam-mass)")
    group.add_argument("--lam-mass", type=float, help="quartic coupling of the mass form")
    group.add_argument("--free-mass", type=float, help="mass of a free field")


def _steps(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of steps or auto, not {text!r}") from None


def _add_chain(parser: argparse.ArgumentParser, draws: int, keep_every: int) -> None:
    parser.add_argument("--draws", type=int, default=draws, help="recorded draws of each chain")
    parser.add_argument("--steps-per-draw", type=int, default=1, help="Metropolis steps between two draws")
    parser.add_argument(
        "--keep-every", type=int, default=keep_every, help="keep the fields of every k-th draw; 0: none"
    )
    parser.add_argument("--block", type=int, default=16, help="draws between two writes to disk")


def _add_common(parser: argparse.ArgumentParser, out: str | None = None, resume: bool = True) -> None:
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores this process may use")
    parser.add_argument("--out", type=Path, required=out is None, default=out, help="where the result goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable summary here")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    if resume:
        parser.add_argument("--resume", action="store_true", help="go on with an interrupted run, or extend a chain")


def _action(args: argparse.Namespace, dim: int) -> Any:
    """The action that the flags ask for; None without any."""
    from dmmc.theory.actions import FreeField, Phi4

    forms = {
        "--kappa --lam": (args.kappa, args.lam),
        "--m2 --lam-mass": (args.m2, args.lam_mass),
        "--free-mass": (args.free_mass,),
    }
    given = {name: values for name, values in forms.items() if any(v is not None for v in values)}
    if not given:
        return None
    if len(given) > 1:
        raise DmmcError(f"give the action in one form, not as {' and '.join(given)}")
    ((name, values),) = given.items()
    if any(v is None for v in values):
        raise DmmcError(f"the action needs all of {name}")
    if name == "--kappa --lam":
        return Phi4(args.kappa, args.lam)
    return Phi4.from_mass(args.m2, args.lam_mass, dim) if name == "--m2 --lam-mass" else FreeField(args.free_mass)


def _check_folder(path: Path) -> None:
    """Refuse a place where nothing can be written, before any work is done."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise FileError(f"--out {path}: {folder} is not a directory that can be written to; choose another --out")


def _check_out(path: Path, args: argparse.Namespace) -> None:
    if path.is_dir():
        raise FileError(f"--out {path} is a directory; name a file in it")
    _check_folder(path)
    if path.exists() and not (args.overwrite or getattr(args, "resume", False)):
        raise FileError(f"{path} exists; choose another --out, or pass --overwrite")


def _check_json(args: argparse.Namespace) -> None:
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise FileError(f"--json {args.json}: there is no directory {args.json.parent}; make it first")
    if args.json is not None and args.json.is_dir():
        raise FileError(f"--json {args.json} is a directory; name a file in it")


def _check_seed(args: argparse.Namespace) -> None:
    if not 0 <= args.seed < 2**63:
        raise DmmcError(f"--seed must be between 0 and 2^63 - 1, got {args.seed}")


def _device(args: argparse.Namespace) -> str:
    import torch

    try:
        device = torch.device(args.device)
        # All that is needed of a device: memory that can be read, and double precision.
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DmmcError(f"--device {args.device} cannot be used here ({reason}); use cpu") from None
    return str(args.device)


def _check_draws(args: argparse.Namespace) -> None:
    from dmmc.diagnostics.autocorrelation import MIN_DRAWS

    if args.draws < MIN_DRAWS:
        raise DmmcError(f"--draws must be at least {MIN_DRAWS}, for errors to be estimated; got {args.draws}")


def _chain_options(args: argparse.Namespace) -> Any:
    from dmmc.runs.chain import ChainOptions

    _check_draws(args)
    return ChainOptions(args.draws, args.steps_per_draw, args.keep_every, args.block, args.seed)


def _ensemble(args: argparse.Namespace) -> dict[str, Any]:
    from dmmc.studies import workflow
    from dmmc.theory.lattice import Lattice

    _check_out(args.out, args)
    lattice = Lattice(tuple(args.shape))
    action = _action(args, lattice.dim)
    if action is None:
        raise DmmcError("say which action: --kappa and --lam, or --m2 and --lam-mass, or --free-mass")
    options = workflow.EnsembleOptions(args.method, args.chains, args.thermalise, _chain_options(args), args.trajectory)
    stages = workflow.Stages()
    made = workflow.make_ensemble(
        action, lattice, options, args.out,
        resume=args.resume, overwrite=args.overwrite, device=_device(args), stages=stages,
    )  # fmt: skip
    found = workflow.estimates(made)
    summary = workflow.summarise(made, found, stages)
    _print_run(summary, found)
    return summary


def _train(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from dmmc.model.interaction import NetworkSize
    from dmmc.model.training import TrainingOptions
    from dmmc.runs import storage
    from dmmc.studies import workflow
    from dmmc.theory.actions import action_from_description, same_action
    from dmmc.theory.lattice import Lattice

    _check_out(args.out, args)
    if args.resume and not Path(f"{args.out}.checkpoint").exists():
        if not args.out.exists():
            raise FileError(f"there is no training to resume at {args.out}; start it without --resume")
        if not args.overwrite:
            raise FileError(f"{args.out} is finished, there is nothing to resume; to train on, pass it as --init")
    device = _device(args)
    phi = torch.as_tensor(storage.load_fields(args.ensemble), dtype=torch.float32)
    lattice = Lattice(tuple(phi.shape[1:]))
    action = _action(args, lattice.dim)
    header = storage.stored_header(args.ensemble)
    if header is not None:
        if action is not None and not same_action(action.describe(), header["action"]):
            raise DmmcError(
                f"{args.ensemble} is an ensemble of {header['action']}, not of {action.describe()}; "
                "leave out the action flags"
            )
        action = action or action_from_description(header["action"])
    if action is None:
        raise DmmcError(f"{args.ensemble} does not say its action; give it: --kappa and --lam, or --m2 and --lam-mass")
    minutes = 5.0 if args.minutes is None and args.steps is None else args.minutes
    options = TrainingOptions(
        steps=args.steps, minutes=minutes, levels=args.levels, learning_rate=args.learning_rate,
        trajectories=args.trajectories, seed=args.seed, compile=args.compile,
    )  # fmt: skip
    size = NetworkSize(filters=args.filters, hidden1=args.hidden[0], hidden2=args.hidden[1])
    stages = workflow.Stages()
    # Chains of an ensemble lie one after another in the file; validation must not be on one of them alone.
    phi = phi[torch.randperm(len(phi), generator=torch.Generator().manual_seed(args.seed))]
    model = workflow.train(
        action, lattice, phi, options, args.out,
        size=size, init=_load_model(args.init, device) if args.init else None,
        two_sector={"auto": None, "one": False, "two": True}[args.sectors],
        resume=args.resume, device=device, stages=stages,
    )  # fmt: skip
    history = model.history
    assert history is not None
    last = history.curve[-1] if history.curve else None
    summary = {
        "model": str(args.out),
        "action": dict(model.action),
        "lattice": list(lattice.shape),
        "two_sector": model.two_sector,
        "steps": history.steps,
        "validation": [point.to_json() for point in history.curve],
        "wall_seconds": {name: round(s, 3) for name, s in stages.seconds.items()},
    }
    print(f"trained {history.steps} steps in {stages.seconds['train']:.0f} s", end="")
    print(f"; KL removed from the Gaussian reference: {last.kl_removed:.2f}" if last else "")
    print(f"model: {args.out}")
    return summary


def _load_model(name: str | Path, device: str) -> Any:
    from dmmc.model.diffusion_model import DiffusionModel
    from dmmc.model.pretrained import load_pretrained, pretrained_names

    if str(name) in pretrained_names():
        return load_pretrained(str(name), device=device)
    return DiffusionModel.load(name, device=device)


def _sample(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from dmmc.kernels.of_model import SamplerOptions
    from dmmc.model.diffusion_model import DiffusionModel
    from dmmc.model.pretrained import load_pretrained
    from dmmc.runs import storage
    from dmmc.studies import workflow
    from dmmc.theory.lattice import Lattice

    _check_out(args.out, args)
    options = _chain_options(args)
    sampler = SamplerOptions(args.kernel, args.target_acceptance, args.path_steps, args.level, args.trajectory)
    device = _device(args)
    if args.pretrained is not None:
        model = load_pretrained(args.pretrained, device=device)
    else:
        model = DiffusionModel.load(args.model, device=device)
    action = _action(args, model.lattice.dim) or model.known_action()
    if action is None:
        raise DmmcError("the model does not say its action; give it: --kappa and --lam, or --m2 and --lam-mass")
    model.check_fits(action, Lattice(tuple(args.shape)) if args.shape else None)
    reference = None
    if args.reference is not None:
        fields = storage.load_fields(args.reference, model.lattice.shape)
        # Chains lie one after another in the file: take some of each.
        reference = torch.as_tensor(fields[:: max(1, len(fields) // 512)][:512])
    stages = workflow.Stages()
    made = workflow.sample(
        model, action, args.chains, options, args.out,
        sampler=sampler, n_steps=args.flow_steps, reference=reference, determinants=args.determinants,
        resume=args.resume, overwrite=args.overwrite, stages=stages,
    )  # fmt: skip
    found = workflow.estimates(made)
    summary = workflow.summarise(made, found, stages)
    _print_run(summary, found)
    return summary


def _scan_points(args: argparse.Namespace, along: str) -> Any:
    from dmmc.studies.scan import scan
    from dmmc.theory.actions import Phi4

    if args.kappas is not None:
        if any(x is not None for x in (args.kappa, args.m2, args.lam_mass, args.free_mass)):
            raise DmmcError("--kappas goes with --lam alone")
        if args.lam is None:
            raise DmmcError("--kappas needs --lam")
        actions = {f"kappa{kappa:g}": Phi4(kappa, args.lam) for kappa in sorted(set(args.kappas))}
        return scan.grid(actions, args.sizes, args.dim, along)
    action = _action(args, args.dim)
    if along == "kappa":
        raise DmmcError("a scan along kappa needs --kappas and --lam")
    if action is not None:
        return scan.grid({str(action.describe()["name"]): action}, args.sizes, args.dim, along)
    if args.dim != 2:
        raise DmmcError("the flow benchmark is two-dimensional; give the action: --kappa and --lam, or --kappas")
    return scan.flow_benchmark(args.sizes)


def _scan(args: argparse.Namespace) -> dict[str, Any]:
    from dmmc.studies.scan import scan

    along = args.along or ("kappa" if len(args.kappas or []) > 1 else "L")
    options = scan.ScanOptions(
        points=_scan_points(args, along), along=along, samplers=tuple(args.samplers),
        minutes=1.0 if args.minutes is None and args.steps is None else args.minutes, steps=args.steps,
        chains=args.chains, draws=args.draws, diffusion_draws=args.diffusion_draws, max_draws=args.max_draws,
        flow_steps=args.flow_steps, lengths=args.lengths, trajectory=args.trajectory, thermalise=args.thermalise,
        seed=args.seed, device=_device(args),
    )  # fmt: skip
    _check_folder(args.out)
    summary = scan.scan(options, args.out, resume=args.resume, overwrite=args.overwrite)
    print(
        f"\n{summary['table']}\n\neverything is in {args.out}/: table.txt, scan.json, scan.nc, chains, and the figures"
    )
    for path in summary["figures"]:
        print(f"  {path}")
    return summary


def _exactness(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from dmmc.studies import exactness

    def options(action: Any, shape: tuple[int, ...]) -> Any:
        draws = exactness.DRAWS if math.prod(shape) < exactness.LARGE else exactness.DRAWS_LARGE
        return exactness.ExactnessOptions(
            action=action, shape=shape, variants=tuple(args.variants or exactness.NAMES),
            draws=draws if args.draws is None else args.draws, chains=args.chains, truth_draws=args.truth_draws,
            steps=args.steps, model=None if args.model is None else str(args.model),
            flow_steps=args.flow_steps, seed=args.seed, device=_device(args),
        )  # fmt: skip

    if args.threads is None:  # tensors are too small for a second core to be of use
        torch.set_num_threads(1)
    theories = exactness.default_theories(_action(args, len(args.shape or (1, 1))))
    how = {"resume": args.resume, "overwrite": args.overwrite}
    _check_folder(args.out)
    if args.shape is None:
        if args.model is not None:
            raise DmmcError("a --model is of one lattice; name it with --shape")
        summary = exactness.side_by_side({name: options(*one) for name, one in theories.items()}, args.out, **how)
    else:
        action, _ = theories["two-sites" if args.shape == [2] else "8x8"]
        summary = exactness.exactness(options(action, tuple(args.shape)), args.out, **how)
    print(f"\n{summary['table']}\n\nlook at {summary['report']}")
    where = f"in {args.out}/" if args.shape else f"in folders of {args.out}/"
    print(f"the table (table.txt), exactness.json, the figure and the chains are {where}")
    return summary


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from dmmc.report import page

    summary = page.write_report(
        args.inputs, args.out, reference=args.reference, title=args.title, overwrite=args.overwrite
    )
    for name, verdicts in summary["verdicts"].items():
        for verdict in verdicts:
            print(f"{name}: {verdict['level']}: {verdict['title']}")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(f"report: {args.out}")
    return summary


def _quickstart(args: argparse.Namespace) -> dict[str, Any]:
    from dmmc.studies import quickstart

    device = _device(args)
    if args.out.exists() and not args.out.is_dir():
        raise FileError(f"--out {args.out} is a file; name a directory")
    _check_folder(args.out)
    # Bad numbers are refused here, before an earlier result is removed.
    options = quickstart.QuickstartOptions(
        minutes=args.minutes, steps=args.steps, draws=args.draws,
        baseline_draws=args.baseline_draws, seed=args.seed, device=device,
    )  # fmt: skip
    if args.overwrite and args.out.is_dir():
        for name in quickstart.FILES:
            (args.out / name).unlink(missing_ok=True)
            shutil.rmtree(args.out / f"{name}.partial", ignore_errors=True)
    summary = quickstart.quickstart(options, args.out)
    print()
    print(summary["table"])
    print()
    _print_weights(summary)
    print(f"\nlook at {summary['report']}")
    print(f"the table (table.txt), the chains (*.h5), the model and the figures (*.png) are beside it in {args.out}/")
    return summary


def _print_weights(summary: dict[str, Any]) -> None:
    if summary["inexact"]:
        print(f"INEXACT, on purpose: {summary['inexact']}")
    print(f"acceptance {summary['acceptance']:.3f}", end="")
    if summary["ess_fraction"] is not None:
        print(f", ESS/N {summary['ess_fraction']:.3f}, std(log w) {summary['std_log_w']:.3f}", end="")
    print()
    certificate = summary["certificate"]
    if certificate is not None:
        print(
            f"bias from integrator and rounding: at most {summary['bias_bound_sigma_95']:.1e} of an observable's "
            f"standard deviation (95 % confidence), {100 * summary['bias_bound_of_error']:.2g} % of a statistical error"
        )
        print(
            f"certificate: std(delta) {certificate['std_delta']:.1e} by {certificate['method']} on "
            f"{certificate['proposals']} proposals, rounding {certificate['std_rounding']:.1e}; there and back "
            f"max |dphi| {certificate['reversal_phi']:.1e}, max |dlog q| {certificate['reversal_log_q']:.1e}"
        )
    elif summary["bias_bound_sigma"] is not None:
        bound = summary["bias_bound_sigma"]
        print(f"bias from the integrator: at most about {bound:.1e} of an observable's standard deviation")
    if summary["rejected_not_finite"]:
        print(f"warning: {summary['rejected_not_finite']} proposals were not finite and were rejected")
    if summary["kl"] is not None:
        for name in ("KL(q||p) from proposals", "KL(p||q) from reference configurations"):
            print(f"{name}: {summary['kl'][name]:.3f}")


def _print_run(summary: dict[str, Any], found: dict[str, Any]) -> None:
    from dmmc.report import table

    print(table.comparison({summary["kernel"]: found}, reference=summary["kernel"]))
    _print_weights(summary)
    if "energy_error" in summary:
        error = summary["energy_error"]
        print(f"energy error dH: std {error['std']:.3f}, <exp(-dH)> = {error['mean_exp_minus']:.4f} (1 in equilibrium)")
    print(f"{summary['chains']} chains of {summary['draws']} draws: {summary['file']}")


COMMANDS = {
    "ensemble": _ensemble,
    "train": _train,
    "sample": _sample,
    "scan": _scan,
    "exactness": _exactness,
    "report": _report,
    "quickstart": _quickstart,
}


def _threads(args: argparse.Namespace) -> None:
    import torch

    if args.threads is not None:
        if args.threads < 1:
            raise DmmcError(f"--threads must be positive, got {args.threads}")
        torch.set_num_threads(args.threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 if the system fails, 2 for refused input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        _check_json(args)
        if "seed" in args:  # whatever draws random numbers computes long enough for threads to matter
            _check_seed(args)
            _threads(args)
        keep_freed_memory()
        summary = COMMANDS[args.command](args)
        if args.json is not None:
            text = json.dumps(summary, indent=2) + "\n"
            replace_file(args.json, lambda path: path.write_text(text))
    except DmmcError as error:
        print(f"dmmc {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output (head, a pager) has seen enough. Python must not fail once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        again = "go on with --resume" if "resume" in args else "run it again"
        print(f"dmmc {args.command}: {error}; make room or mend that, then {again}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; go on with the same command and --resume" if "resume" in args else ""
        print(f"\ndmmc {args.command}: interrupted{hint}", file=sys.stderr)
        return 130
    return 0
