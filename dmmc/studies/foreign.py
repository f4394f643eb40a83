"""A network of another code as a model: reference, checks, and does it describe this ensemble?"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dmmc.core import rng
from dmmc.core.errors import DmmcError
from dmmc.model.diffusion_model import DiffusionModel
from dmmc.model.foreign import PREDICTIONS, ForeignNetwork, trust_network
from dmmc.model.loss import path_loss
from dmmc.model.posterior import PosteriorSampler
from dmmc.model.reference import GaussianReference
from dmmc.model.schedules import Schedule
from dmmc.model.separation import check_separate
from dmmc.studies.given import Source, read_ensemble
from dmmc.studies.remarks import Say, note
from dmmc.theory.actions import Action
from dmmc.theory.symmetry import find_symmetry

LEVELS, FIELDS = 16, 16
"""Noise levels, and fields at each, on which a network is tried."""

WORSE = 1.0
"""Path-space KL by which a network may be worse than none before something is said; its measurement has noise."""


def foreign(
    net: nn.Module,
    *,
    predicts: str,
    schedule: Schedule,
    ensemble: Source,
    action: Action | None = None,
    arguments: Mapping[str, Any] | None = None,
    scale: float = 1.0,
    channel_axis: bool = True,
    say: Say = note,
) -> DiffusionModel:
    """A model of a network that was trained, or is to be trained, elsewhere.

    It is sampled with the path kernels, which need no divergence, or as a flow with a brute-force divergence. Chains
    are exact whatever the network predicts; how well it was trained decides on their acceptance. A model that is made
    here can also be trained on: ``dmmc.train(ensemble, path, init=model)``.

    Args:
        net: called with noisy fields ``(m, 1, *lattice)`` and what it is told about their noise, ``(m,)``; returns the
            shape of its input, as a tensor or as the attribute ``sample`` of what it returns. A copy of it is used.
        predicts: ``score``, ``eps`` (the noise), ``x0`` (the field), or ``v``; see :mod:`dmmc.model.foreign`.
        schedule: the noise that it was trained with, and what it is told about it: a :class:`dmmc.model.schedules.VE`
            or a :class:`dmmc.model.schedules.VP`. The largest noise of the model is that of the schedule.
        ensemble: fields of the theory, from which the propagator is measured: a finished run, the path of a run or of
            another file with fields, or fields ``(n, *lattice)``.
        action: the action, where the ensemble does not say it.
        arguments: with which the class of the network makes it again, as JSON values; needed to save the model.
        scale: of the fields that the network was trained on, in units of those of the ensemble.
        channel_axis: whether the network takes an axis of one channel; otherwise it takes ``(m, *lattice)``.
        say: is told if the network does not describe the ensemble, with the likely cause.

    Raises:
        DmmcError: if an argument is not what it should be, the network fails, returns another shape or something that
            is not finite, or couples the fields of a batch.
        MismatchError: if the ensemble does not fit its action.
    """
    given = read_ensemble(ensemble, action)
    finding = find_symmetry(given.action, given.phi, "auto")
    reference = GaussianReference.measure(given.phi, given.lattice, finding.symmetry == "none", given.action)
    network = ForeignNetwork(reference, _copied(net), predicts, schedule, arguments, scale, channel_axis)
    network.to(dtype=_dtype(net)).eval()
    losses = _losses(network, given.phi)
    check_separate(network)
    given.check(finding.symmetry)
    trust_network(type(net))
    network.requires_grad_(False)
    if losses[predicts] > losses["nothing"] + WORSE:
        say(f"note: {_likely(predicts, losses)}")
    return DiffusionModel(
        network,
        {} if given.action is None else given.action.describe(),
        symmetry=finding.symmetry,
        symmetry_evidence=finding.evidence,
    )


def _copied(net: Any) -> Any:
    return copy.deepcopy(net) if isinstance(net, nn.Module) else net


def _dtype(net: nn.Module) -> torch.dtype:
    types = {x.dtype for x in net.parameters() if x.is_floating_point()}
    if len(types) > 1:
        raise DmmcError(f"the weights of the network are of several types: {', '.join(sorted(map(str, types)))}")
    return types.pop() if types else torch.float32


@torch.no_grad()
def _losses(network: ForeignNetwork, phi: torch.Tensor) -> dict[str, float]:
    """The loss on noised fields of the ensemble for each thing that the network might predict, and for no network."""
    generator = rng.stream(0, "foreign")
    reference = network.reference
    phi = phi[rng.integers(len(phi), (LEVELS, FIELDS), generator)].to(network.dtype)
    level = (torch.arange(LEVELS, dtype=torch.float64, device="cpu") + 0.5).to(phi) / LEVELS
    noisy, target, _ = PosteriorSampler.measure(reference, None, phi.flatten(0, 1)).targets(phi, level, generator)
    losses = {"nothing": float(path_loss(lambda modes, v: torch.zeros_like(modes), reference, noisy, target, level))}
    predicted = network.predicts
    for name in PREDICTIONS:
        if name == "v" and not network.schedule.preserves_variance:
            continue
        network.predicts = name
        try:
            losses[name] = float(path_loss(network, reference, noisy, target, level))
        except DmmcError:
            raise
        except Exception as error:  # whatever the module of a user raises
            raise DmmcError(
                f"the network fails on {len(noisy) * FIELDS} fields of shape {network.lattice.shape} "
                f"[{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}]: it is called with "
                f"(fields {'(m, 1, *lattice)' if network.channel_axis else '(m, *lattice)'}, noise (m,))"
            ) from error
        finally:
            network.predicts = predicted
    if not math.isfinite(losses[predicted]):
        raise DmmcError(
            "the network returns NaN or infinite values on noised fields of the ensemble; look at its weights, and at "
            "the schedule, whose noise it is told"
        )
    return losses


def _likely(predicts: str, losses: Mapping[str, float]) -> str:
    better = [name for name, loss in losses.items() if name != "nothing" and loss < losses["nothing"] + WORSE]
    said = f"as a prediction of {predicts!r} the network describes the ensemble worse than a Gaussian field does"
    if better:
        best = min(better, key=lambda name: losses[name])
        return f"{said}, and as one of {best!r} it does not: probably it predicts that"
    return f"{said}; it is not trained, or the schedule or the scale of its fields is another one"
