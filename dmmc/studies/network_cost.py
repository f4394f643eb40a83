"""What a proposal of a model costs on this machine, and what it would cost with a network of another size."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dmmc.core import rng
from dmmc.core.records import Record
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.network import network_class
from dmmc.proposals.base import Steppable
from dmmc.proposals.of_model import flow_proposal
from dmmc.proposals.steps import with_known_steps

FIELDS = 32
"""Fields of a turn: two vectors of the machine code."""

TURNS = 5
"""How often each network has its turn; the least time counts, since other work can only slow it down."""

USUAL_DRAWS = 64 * 256
"""Draws of a chain for which the integration steps are chosen: those of ``dmmc sample``."""


@dataclass(frozen=True)
class NetworkCost(Record):
    """What proposals cost.

    Attributes:
        size: name of the size of the network; None if it has another one.
        seconds: wall time of a proposal among many.
        evaluations: evaluations of the network in it.
        others: by the name of another size of the network, how many times as long a proposal with it would take, at as
            many evaluations.
    """

    size: str | None
    seconds: float
    evaluations: int
    others: dict[str, float]

    @property
    def text(self) -> str:
        """One or two sentences for people."""
        network = "the network" if self.size is None else f"the {self.size} network"
        said = f"A proposal takes about {1e3 * self.seconds:.2g} ms here ({self.evaluations} evaluations of {network})"
        if not self.others:
            return f"{said}."
        rest = [f"{ratio:.2g} times as long with the size {name}" for name, ratio in self.others.items()]
        listed = rest[0] if len(rest) == 1 else f"{', '.join(rest[:-1])}, and {rest[-1]}"
        return f"{said}. It would take {listed}."


def network_cost(model: DiffusionModel) -> NetworkCost | None:
    """Time proposals of a model and of untrained networks of the other sizes that have a name.

    Args:
        model: a model.

    Returns:
        what they cost; None where the flow is not compiled, and timing it would take too long.
    """
    if not callable(getattr(model.network, "with_trace", None)):
        return None
    flow = flow_proposal(model, method="dopri5")
    if not flow.machine_code:
        return None
    described = model.network.describe()
    name = described["name"]
    sizes = {size: dict(config) for size, config in network_class(name).sizes().items()}
    mine = {size: all(described[key] == x for key, x in config.items()) for size, config in sizes.items()}
    flows: dict[str | None, Steppable] = {None: flow}
    for size, config in sizes.items():
        if not mine[size]:
            settings = {"odd": described["odd"]} if "odd" in described else {}
            untrained = DiffusionModel.untrained(
                model.reference, None, name, config | settings, symmetry=model.symmetry, two_sector=model.two_sector
            )
            flows[size] = flow_proposal(untrained, method="dopri5")
    shortest = (1,) * flow.intervals
    timed = {size: one.with_schedule(shortest) for size, one in flows.items()}
    least = dict.fromkeys(timed, float("inf"))
    for turn in range(TURNS + 1):  # the first one compiles what is not compiled yet
        for which, one in timed.items():
            latents = one.latents(FIELDS, rng.stream(turn, "cost"))
            began = time.perf_counter()
            float(one.push(latents)[1].sum())  # which waits for a GPU
            if turn:
                least[which] = min(least[which], time.perf_counter() - began)
    evaluations = (with_known_steps(flow, USUAL_DRAWS) or flow_proposal(model)).evaluations
    seconds = least[None] / FIELDS * evaluations / timed[None].evaluations
    others = {size: least[size] / least[None] for size in timed if size is not None}
    return NetworkCost(next((size for size in sizes if mine[size]), None), seconds, evaluations, others)
