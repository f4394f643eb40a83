"""What an effective sample of M^2 costs with two versions of dmmc, each with its own defaults and its own model.

    git worktree add ../then e699ca3
    python examples/benchmarks/progress.py ../then                                     # phi4-flow-L32, three turns each
    python examples/benchmarks/progress.py ../then --options "--chains 16 --draws 40"  # less of a slow version

``dmmc sample --pretrained NAME`` runs from the folder of the other version and from this one in turns, with the Python
that runs this program, and the least wall time of each counts. The autocorrelation times are those of the runs. The
two bounds on the bias are printed as well, since a cheaper sample should not be a worse one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """One run: wall seconds of a draw of one chain, tau_int of M^2, bound on the bias in standard deviations."""

    seconds: float
    tau_int: float
    bias: float

    @property
    def effective(self) -> float:
        """Wall seconds of an effective M^2."""
        return 2 * max(self.tau_int, 0.5) * self.seconds

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Cost:
        """The cost in the summary that ``--json`` writes, of this version or of an older one."""
        # Older versions discarded nothing, and had two bounds, the stricter of which is the one of today.
        steps = summary["draws"] + summary.get("discard", 0) + summary.get("steps_discarded", 0)
        seconds = summary["wall_seconds"]["chain"] / (summary["chains"] * steps)
        bias = summary.get("bias_bound_sigma_95", summary["bias_bound_sigma"])
        return cls(seconds, summary["observables"]["M2"]["tau_int"], bias)


def run(root: Path, name: str, options: list[str]) -> Cost:
    """The chain of a model that comes with the version in the folder ``root``."""
    with tempfile.TemporaryDirectory() as folder:
        out, summary = Path(folder) / "chain.h5", Path(folder) / "chain.json"
        words = [sys.executable, "-m", "dmmc", "sample", "--pretrained", name, *options]
        words += ["--out", str(out), "--json", str(summary)]
        environment = os.environ | {"PYTHONPATH": str(root.resolve())}
        subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
        return Cost.of(json.loads(summary.read_text()))


def main() -> None:
    """Let both versions run in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("then", type=Path, help="the folder with the other version")
    parser.add_argument("--pretrained", default="phi4-flow-L32", metavar="NAME", help="a model that both come with")
    parser.add_argument("--options", default="", metavar="OPTIONS", help="of dmmc sample in the other version")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="of each version")
    args = parser.parse_args()
    if not (args.then / "dmmc" / "__main__.py").is_file():
        parser.error(f"{args.then} is not a folder with dmmc in it; make one with git worktree add")
    best: dict[str, Cost] = {}
    for _ in range(args.turns):
        for label, root, options in (("then", args.then, args.options.split()), ("now", HERE, [])):
            cost = run(root, args.pretrained, options)
            best[label] = min(best.get(label, cost), cost, key=lambda one: one.seconds)
    for label, cost in best.items():
        print(
            f"{label}: {1e3 * cost.seconds:.3g} ms a draw, tau_int of M^2 {cost.tau_int:.2f}, effective M^2 "
            f"{1e3 * cost.effective:.3g} ms, bias at most {cost.bias:.1e} of a standard deviation"
        )
    print(f"An effective M^2 costs {best['then'].effective / best['now'].effective:.3g} times less now.")


if __name__ == "__main__":
    main()
