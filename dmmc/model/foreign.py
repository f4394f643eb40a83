"""Networks of other codes: any torch module that was trained to predict the score, the noise or the field.

With ``y = phi_0 + sigma eps`` the score of y is ``s = grad log p(y)``, and by the definition of N

    D N = -s - (y - mean) / (C + v),     v = sigma^2.

What the module predicts from ``x = a y`` gives s as

* ``score``, of x:    ``s = a score(x)``, since the density of x is that of y, stretched by a;
* ``eps``:            ``s = -eps / sigma``;
* ``x0``:             ``s = (x0 - y) / sigma^2``;
* ``v``:              ``s = -(a v + b x) / sigma`` with ``b = a sigma``. Here ``v = a eps - b phi_0`` (Salimans and Ho,
  2202.00512), so that ``eps = a v + b x`` where ``a^2 + b^2 = 1``.

Below the least noise that the module was trained with it is asked at this noise, and N is continued as a constant. A
module may work on fields in another normalisation, ``scale phi``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.core.records import json_text
from dmmc.model.initialisation import drawing_from
from dmmc.model.network import Network, UnknownNetworkError, refuse_context, register_network
from dmmc.model.reference import GaussianReference
from dmmc.model.schedules import Schedule, schedule_of
from dmmc.theory.lattice import Lattice

PREDICTIONS = ("score", "eps", "x0", "v")
"""What a module may predict."""

_TRUSTED: dict[str, type[nn.Module]] = {}

M = TypeVar("M", bound=type[nn.Module])


def trust_network(cls: M) -> M:
    """Let model files name this class of modules; also as a decorator of the class.

    A model file with a network of another code holds the import path of its class, and the arguments with which the
    class makes it. Nothing is imported for a file, and no class is called that was not passed to this function, or to
    :func:`dmmc.foreign`, in the same process: a file from a stranger runs no code.

    Raises:
        DmmcError: if it is not a class of torch modules.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise DmmcError(f"trust_network takes a class of torch modules, such as MyUNet; got {cls!r}")
    _TRUSTED[import_path(cls)] = cls
    return cls


def import_path(cls: type) -> str:
    """``module:name`` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _trusted(path: object) -> type[nn.Module]:
    if not isinstance(path, str) or path not in _TRUSTED:
        raise UnknownNetworkError(
            f"its network is a module {path!r} of another code, and a file runs no code: import this class, if you "
            "trust it, and pass it to dmmc.trust_network first (on the command line: --trust MODULE:CLASS)"
        )
    return _TRUSTED[path]


def _made(cls: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return cls(**arguments)
    except Exception as error:  # whatever the class of a user raises
        raise DmmcError(
            f"{import_path(cls)} is not made by the arguments {dict(arguments)} [{type(error).__name__}: {error}]"
        ) from error


@register_network("foreign")
class ForeignNetwork(Network):
    """A module of another code as a network of a diffusion model.

    Args:
        reference: the Gaussian field; its largest noise is replaced by that of the schedule.
        module: called with fields ``(m, 1, *lattice)``, or ``(m, N, *lattice)`` of N components, and what it is told
            about their noise, ``(m,)``; returns the shape of its input, as a tensor or as the attribute ``sample`` of
            what it returns.
        predicts: ``score``, ``eps``, ``x0`` or ``v``.
        schedule: the noise that it was trained with.
        arguments: with which its class makes it again, as JSON values; None for a network that is not to be saved.
        scale: the module works on ``scale phi``.
        channel_axis: whether its fields have an axis of one channel; otherwise they are ``(m, *lattice)``.

    Raises:
        DmmcError: if one of these is not what it should be.
    """

    def __init__(
        self,
        reference: GaussianReference,
        module: nn.Module,
        predicts: str,
        schedule: Schedule,
        arguments: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        channel_axis: bool = True,
    ) -> None:
        if isinstance(module, type) or not isinstance(module, nn.Module):
            shown = module.__name__ if isinstance(module, type) else type(module).__name__
            raise DmmcError(f"the network must be a torch.nn.Module, made and with its weights; got {shown}")
        if predicts not in PREDICTIONS:
            raise DmmcError(f"predicts must be one of {', '.join(PREDICTIONS)}; got {predicts!r}")
        if not callable(getattr(schedule, "told", None)) or isinstance(schedule, type):
            raise DmmcError(f"the schedule must be a dmmc.VE(...) or a dmmc.VP(...), got {schedule!r}")
        if predicts == "v" and not schedule.preserves_variance:
            raise DmmcError("v = a eps - b phi_0 is defined where a^2 + b^2 = 1: give a schedule dmmc.VP(...)")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
            raise DmmcError(f"scale must be a positive number, got {scale!r}")
        super().__init__(replace(reference, v_max=(schedule.bounds[1] / scale) ** 2))
        self.module = module
        self.predicts = predicts
        self.schedule = schedule
        self.arguments = None if arguments is None else dict(arguments)
        self.scale = float(scale)
        self.channel_axis = channel_axis
        if self.arguments is not None:
            self._check_arguments()

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """``D N``, as :meth:`dmmc.model.network.Network.forward`.

        Raises:
            DmmcError: if the module returns another shape than it was given, or there is a context.
        """
        refuse_context(self, context)
        lattice, c = self.lattice, self.reference.c(modes)
        sigma = (self.scale * v.double().sqrt()).clamp(*self.schedule.bounds)
        per_level = (-1, *(1,) * (modes.ndim - 1))
        y = self.scale * (lattice.to_sites(modes) + self.reference.mean)
        score = self.scale * self._score(y, sigma)
        seen = (sigma / self.scale).square().to(c).view(per_level)
        wanted = v.to(c).view(per_level)
        return -(lattice.to_modes(score) * (c + seen) + modes) / (c + wanted)

    def _score(self, y: Tensor, sigma: Tensor) -> Tensor:
        """``grad log p`` of fields ``(G, n, *lattice)`` with noise sigma ``(G,)``, in the units of the module."""
        told = self.schedule.told(sigma).to(y).repeat_interleave(y.shape[1])
        sigma = sigma.to(y).view(-1, *(1,) * (y.ndim - 1))
        a = (1 + sigma.square()).rsqrt() if self.schedule.preserves_variance else torch.ones_like(sigma)
        x = a * y
        out = self._predicted(x.flatten(0, 1), told).view(y.shape)
        if self.predicts == "score":
            return a * out
        if self.predicts == "eps":
            return -out / sigma
        if self.predicts == "x0":
            return (out - y) / sigma.square()
        return -(a * out + a * sigma * x) / sigma

    def _predicted(self, x: Tensor, told: Tensor) -> Tensor:
        fields = x.unsqueeze(1) if self.channel_axis and self.lattice.components is None else x
        out = self.module(fields, told)
        out = getattr(out, "sample", out) if not isinstance(out, Tensor) else out
        if not isinstance(out, Tensor):
            raise DmmcError(
                f"the module {type(self.module).__name__} must return a tensor, got {type(out).__name__}; wrap it in a "
                "module that does"
            )
        if out.shape != fields.shape:
            raise DmmcError(
                f"the module {type(self.module).__name__} must keep the shape {tuple(fields.shape)} of its fields; got "
                f"{tuple(out.shape)}. Does it predict a variance too, or take fields without an axis of channels "
                "(channel_axis=False)?"
            )
        return out

    def config(self) -> dict[str, Any]:
        if self.arguments is None:
            raise DmmcError(
                f"the module {import_path(type(self.module))} cannot be made again: pass dmmc.foreign its "
                "arguments={...}, with which its class makes it, as JSON values"
            )
        return {"module": import_path(type(self.module)), "arguments": self.arguments, **self._settings()}

    def describe(self) -> dict[str, Any]:
        if self.arguments is not None:
            return super().describe()
        made = {"module": import_path(type(self.module)), "layers": repr(self.module)}
        return {"name": self.name, **made, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        return {
            "predicts": self.predicts,
            "schedule": self.schedule.describe(),
            "scale": self.scale,
            "channel_axis": self.channel_axis,
        }

    @classmethod
    def from_config(
        cls, reference: GaussianReference, config: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> ForeignNetwork:
        settings = dict(config)
        made = _trusted(settings.pop("module", None))
        arguments = settings.pop("arguments", {})
        schedule = schedule_of(settings.pop("schedule", {}))
        with drawing_from(generator):
            module = _made(made, arguments)
        return cls(reference, module, schedule=schedule, arguments=arguments, **settings)

    @classmethod
    def n_weights(cls, lattice: Lattice, config: Mapping[str, Any]) -> int | None:
        made = _trusted(config.get("module"))
        try:
            with torch.device("meta"):  # without the memory
                module = made(**config.get("arguments", {}))
        except Exception:  # some classes compute with their weights when they are made
            return None
        return sum(value.numel() for value in module.state_dict().values())

    def moved_to(self, reference: GaussianReference) -> ForeignNetwork:
        module = copy.deepcopy(self.module)
        settings = (self.predicts, self.schedule, self.arguments, self.scale, self.channel_axis)
        return ForeignNetwork(reference, module, *settings).to(device=self.device, dtype=self.dtype)

    def _check_arguments(self) -> None:
        """Refuse arguments that do not make this module again."""
        assert self.arguments is not None
        what = f"the arguments of {import_path(type(self.module))}"
        json_text(self.arguments, what)
        with drawing_from(None):
            again = _made(type(self.module), self.arguments)
        wanted, found = ({k: tuple(x.shape) for k, x in m.state_dict().items()} for m in (self.module, again))
        differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if differing:
            key = differing[0]
            raise DmmcError(
                f"{what} make another network: its weights {key!r} have the shape {found.get(key, 'none')}, and those "
                f"of the network that was given {wanted.get(key, 'none')}"
            )
