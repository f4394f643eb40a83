"""What dmmc does on a GPU: correctness first, then rates, training, and the race against HMC. About 8 minutes.

    python examples/benchmarks/gpu.py OUT              # on a CUDA device
    python examples/benchmarks/gpu.py OUT --quick      # under a minute, on any device: shows that the program runs

The tests that need a CUDA device come first, and nothing is measured where they fail. Then comes the race: the time per
effective sample of M and M^2 of the exact diffusion chain and of HMC with trajectories of several lengths, whose
kernels take turns. Then the rate of the flow as one CUDA graph, step by step, and in TF32, each with the error that the
arithmetic makes in log q; and two minutes of training. The tables are printed, and written to ``OUT/gpu.json`` together
with the name of the device.

All times are of one device in one run. Compare ratios between devices, not times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

import dmmc
from dmmc.core.graphs import RECORDED_FROM
from dmmc.core.rng import stream
from dmmc.kernels.hmc import HMC
from dmmc.proposals.certify import rounding_error
from dmmc.studies.race import Contestant, Entry, independence_of, seconds_per_step

TRAINED = dmmc.Phi4(kappa=0.27, lam=0.022)
SEED = 7


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        batches: numbers of fields whose rate is measured.
        chains: parallel chains of the race.
        draws: draws of the diffusion chain; HMC makes four times as many.
        turns: how often each kernel of the race has its turn; the least time counts.
        lengths: trajectory lengths among which HMC chooses, for a field in the normalisation of the hopping form.
        minutes, steps: budget of the training, one of them.
        repeats: of each timing, of which the fastest counts.
        flow_steps: integration steps of the chains.
        extent: of the square lattice on which a model is trained.
        raced: the shipped model whose rates and race are measured.
    """

    batches: tuple[int, ...] = (64, 512, 4096)
    chains: int = 1024
    draws: int = 60
    turns: int = 12
    lengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    minutes: float | None = 2.0
    steps: int | None = None
    repeats: int = 3
    flow_steps: int | Literal["auto"] = "auto"
    extent: int = 16
    raced: str = "phi4-flow-L32-medium"


QUICK = Size(
    (4,),
    4,
    20,
    turns=2,
    lengths=(2.0,),
    minutes=None,
    steps=30,
    repeats=1,
    flow_steps=2,
    extent=4,
    raced="phi4-flow-L8",
)


class Clock:
    """Wall time on a device that works asynchronously."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def fastest(self, work: Callable[[], Any], repeats: int) -> float:
        """Seconds of the fastest of ``repeats`` calls, after a few that are not counted: a graph is recorded late."""
        for _ in range(RECORDED_FROM):
            work()
        seconds = []
        for _ in range(repeats):
            start = self.now()
            work()
            seconds.append(self.now() - start)
        return min(seconds)


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Matrix products of float32 numbers with 10 bits of mantissa."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def run_tests(out: Path) -> str:
    """Run the tests that are marked cuda, and return the last line of what they say.

    Raises:
        SystemExit: if one of them fails.
    """
    root = Path(__file__).parents[2]
    marked = ["tests/test_cuda.py", "tests/core", "tests/model", "tests/proposals/test_graphed.py", "tests/runs"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *marked]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    (out / "tests.txt").write_text(done.stdout + done.stderr)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
        raise SystemExit(f"the tests on the device failed ({last}), so nothing is measured")
    return last


def ceilings(clock: Clock, size: Size) -> dict[str, float]:
    """The rates that this device reaches at best: float32 products, and bytes copied (read and written)."""
    n = 256 if size is QUICK else 8192
    a = torch.randn(n, n, device=clock.device)
    b = torch.empty_like(a)
    return {
        "sgemm_tflops": 2e-12 * n**3 / clock.fastest(lambda: torch.mm(a, a, out=b), size.repeats),
        "copy_gbytes_per_second": 8e-9 * n * n / clock.fastest(lambda: b.copy_(a), size.repeats),
    }


def raced(clock: Clock, size: Size) -> dmmc.DiffusionModel:
    """The model whose rates and race are measured."""
    return dmmc.load_pretrained(size.raced, device=clock.device)


def rates(clock: Clock, size: Size, model: dmmc.DiffusionModel) -> list[dict[str, Any]]:
    """Fields per second of the flow of a model, with density, and the error in log q."""
    table = []
    whole = dmmc.flow_proposal(model, (2, 2, 2, 2, 2), method="dopri5")
    by_step = replace(whole, compiled=False)
    ways: dict[str, tuple[Any, Any]] = {"float32": (whole, contextlib.nullcontext)}
    if clock.device.type == "cuda":
        # Autocast, and with it bfloat16, is switched off wherever dmmc evaluates a network.
        ways |= {"float32, step by step": (by_step, contextlib.nullcontext), "TF32, step by step": (by_step, tf32)}
    for way, (flow, context) in ways.items():
        for n in size.batches:
            latents = flow.latents(n, stream(SEED, "rates", n, device=clock.device))
            with context():
                seconds = clock.fastest(lambda flow=flow, latents=latents: flow.push(latents), size.repeats)
                error = rounding_error(flow, latents[: min(n, 64)])
            table.append(
                {
                    "arithmetic": way,
                    "fields": n,
                    "fields_per_second": n / seconds,
                    "microseconds_per_evaluation_and_field": 1e6 * seconds / n / flow.evaluations,
                    "std_error_of_log_q": float(error.std()),
                }
            )
    return table


def diffusion_chain(size: Size, path: Path, model: dmmc.DiffusionModel, bias_share: float = 0.01) -> dmmc.Run:
    """The exact chain of a model, with steps for the given bias in units of the statistical error."""
    return dmmc.sample(
        model,
        path,
        chains=size.chains,
        keep_every=0,
        draws=size.draws,
        flow_steps=size.flow_steps,
        bias_share=bias_share,
        seed=SEED,
        overwrite=True,
    )


def training(clock: Clock, size: Size, out: Path) -> dict[str, Any]:
    """Train a model of the critical region, and run its chain."""
    lattice = dmmc.Lattice((size.extent, size.extent))
    device = str(clock.device)
    ensemble = dmmc.make_ensemble(
        TRAINED,
        lattice,
        out / "ensemble.h5",
        chains=64 if size is QUICK else 1024,
        draws=40,
        keep_every=4,
        seed=SEED,
        overwrite=True,
        device=device,
    )
    start = clock.now()
    model = dmmc.train(
        ensemble,
        out / "model.safetensors",
        minutes=size.minutes,
        steps=size.steps,
        seed=SEED,
        overwrite=True,
        device=device,
    )
    seconds = clock.now() - start
    summary = diffusion_chain(size, out / "trained.h5", model).summary()
    return {
        "steps": None if model.history is None else model.history.steps,
        "seconds": seconds,
        "acceptance": summary.acceptance,
        "ess_fraction": summary.ess_fraction,
        "bias_bound_sigma": summary.bias_bound_sigma,
    }


def race(clock: Clock, size: Size, out: Path, model: dmmc.DiffusionModel) -> list[dict[str, Any]]:
    """Seconds per effective sample of the diffusion chain and of HMC, whose kernels take turns."""
    device, action = str(clock.device), model.known_action()
    if action is None:
        raise SystemExit("the model does not say its action")
    runs: dict[str, dmmc.Run] = {}
    kernels: dict[str, Any] = {}
    for share in (0.01, 0.1):
        name = f"diffusion chain, bias share {share:g}"
        runs[name] = diffusion_chain(size, out / f"chain-{share:g}.h5", model, share)
        kernels[name] = independence_of(runs[name], model, action)
    for length in size.lengths:
        name = f"HMC, length {length:g}"
        runs[name] = dmmc.make_ensemble(
            action,
            model.lattice,
            out / f"hmc-{length:g}.h5",
            chains=size.chains,
            draws=4 * size.draws,
            keep_every=0,
            trajectory=length,
            seed=SEED,
            overwrite=True,
            device=device,
        )
        described = {key: x for key, x in runs[name].header.kernel.items() if key != "name"}
        kernels[name] = HMC(action, model.lattice, **described)
    contestants = {name: Contestant(kernel, size.chains, 2) for name, kernel in kernels.items()}
    seconds = seconds_per_step(contestants, size.turns, SEED, device)
    rows = []
    for name, run in runs.items():
        entry, summary = Entry.of(run, seconds[name], ("M", "M2")), run.summary()
        row: dict[str, Any] = {"sampler": name, "acceptance": entry.acceptance}
        row |= {"evaluations": run.header.cost.get("network"), "microseconds_a_step": 1e6 * entry.seconds}
        for observable, found in entry.estimates.items():
            row |= {observable: found.value, f"{observable}_error": found.error}
            row |= {f"tau_int_{observable}": found.tau_int, f"tau_int_{observable}_error": found.tau_int_error}
            row[f"microseconds_per_effective_{observable}"] = 1e6 * entry.cost[observable]
        rows.append(row | {"bias_bound_sigma": summary.bias_bound_sigma})
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""

    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)

    print(f"\n{title}")
    for row in rows:
        print("  " + ", ".join(f"{key.replace('_', ' ')} {text(value)}" for key, value in row.items()), flush=True)


def main() -> None:
    """Measure everything, and save after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="little of everything, on any device")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    if not (torch.cuda.is_available() or args.quick):
        raise SystemExit("there is no CUDA device; --quick runs on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = Clock(device)
    args.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "dmmc": dmmc.__version__}
    parts: dict[str, Callable[[], Any]] = {
        "tests": lambda: run_tests(args.out) if device.type == "cuda" else "skipped: no CUDA device",
        "ceilings": lambda: ceilings(clock, size),
        "race": lambda: race(clock, size, args.out, raced(clock, size)),
        "rates": lambda: rates(clock, size, raced(clock, size)),
        "training": lambda: training(clock, size, args.out),
    }
    print(f"{name}, torch {torch.__version__}")
    for part, work in parts.items():
        start = clock.now()
        results[part] = work()
        results.setdefault("seconds", {})[part] = clock.now() - start
        (args.out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n")
        value = results[part]
        show(part, value if isinstance(value, list) else [value if isinstance(value, dict) else {"result": value}])
    chain = results["race"][0]
    for observable, text in (("M", "M"), ("M2", "M^2")):
        cost = f"microseconds_per_effective_{observable}"
        best = min((row for row in results["race"] if row["sampler"].startswith("HMC")), key=lambda row: row[cost])
        print(
            f"HMC at its best needs {best[cost] / chain[cost]:.3g} times as long as the chain for an effective {text}."
        )
    print(f"The results are in {args.out / 'gpu.json'}.")


if __name__ == "__main__":
    main()
