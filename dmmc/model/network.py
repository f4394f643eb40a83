"""The contract of a network, and the registry that lets any network be saved and loaded.

A network is the interaction part of a diffusion model for one Gaussian reference. :mod:`dmmc.model.interaction` has
the one whose divergence is exact and cheap; :mod:`dmmc.model.sites` turns an ordinary torch module that works on the
sites into one. A network of your own is registered under a name, and from then on it is trained, saved, loaded and
sampled like those of the package::

    @register_network("my-net")
    class MyNet(Network):
        def __init__(self, reference, channels=16): ...
        def forward(self, modes, v, context=None): ...
        def config(self):
            return {"channels": self.channels}

A network that is not registered can be trained and sampled in memory, and cannot be saved. Loading a model file runs no
code from it: the name in the file is looked up in the registry, so the module that registers the network has to be
imported first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from dmmc.core.errors import DmmcError
from dmmc.core.memory import physical_memory
from dmmc.core.records import json_text
from dmmc.model.initialisation import drawing_from, usual_defaults
from dmmc.model.reference import GaussianReference
from dmmc.model.transport import Transport
from dmmc.theory.lattice import Lattice

WEIGHT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of numbers that weights may have."""

TRAINED_BYTES = 20
"""What a weight takes in a training: five float32 numbers (it, its average, its gradient, two moments)."""

_REGISTRY: dict[str, type[Network]] = {}


class UnknownNetworkError(DmmcError):
    """The network of a file is not known in this process."""


class Network(nn.Module):
    """The interaction part ``D N`` of a diffusion model, for one Gaussian reference.

    A subclass defines :meth:`forward` and :meth:`config`, and is registered with :func:`register_network`. It may also
    have ``with_trace(modes, v, context=None)``, which returns ``D N`` and the trace of its Jacobian, ``(G, n)``
    float64; with it the flow needs no other divergence. Fields must not see each other (no batch statistics), or the
    density of one would depend on its neighbours in the batch.

    Args:
        reference: the Gaussian field; the network is for its lattice and its noise levels.

    Attributes:
        name: the name under which it is registered.
        odd: whether ``N(-phi) = -N(phi)`` exactly.
        equivariant: whether ``N(R phi) = R N(phi)`` exactly, for rotations R of the components of a field.
        fused: whether to run through torch.compile, for networks that can.
        level_intervals: number of equal intervals of the noise level within which the network is smooth; integrators
            let no step straddle two of them. It matters where the network is made of splines.
    """

    name: ClassVar[str] = ""
    odd: bool = False
    equivariant: bool = False
    fused: bool = False
    level_intervals: int = 5
    _c: Tensor

    def __init__(self, reference: GaussianReference) -> None:
        super().__init__()
        self.reference = reference
        self.lattice = reference.lattice
        self.register_buffer("_c", self.lattice.spread(reference.propagator).float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._c.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type in which the network computes."""
        return self._c.dtype

    def forward(self, modes: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """``D N`` in momentum space.

        Args:
            modes: Fourier modes of ``phi_s - mean``, ``(G, n, *half)`` complex: n fields at each of G noise levels.
                Those of a field with N components are ``(G, n, N, *half)``.
            v: noise variances ``(G,)``.
            context: what else the network is conditioned on, such as couplings, ``(G, k)``; None for most networks.

        Returns:
            modes of ``D N``, the shape of ``modes``.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The arguments, as JSON values, with which :meth:`from_config` makes this network again.

        Raises:
            DmmcError: if the class of the network does not define it.
        """
        raise DmmcError(
            f"a {type(self).__name__} cannot be made again: define its config(), which returns its arguments"
        )

    @classmethod
    def from_config(
        cls, reference: GaussianReference, config: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Network:
        """The network of a configuration, with initial weights; by default ``cls(reference, **config)``.

        ``generator`` is where random initial weights come from. By default torch's global generator is set to its state
        while the network is made, so that ordinary modules draw from it.
        """
        with drawing_from(generator):
            return cls(reference, **config)

    @classmethod
    def n_weights(cls, lattice: Lattice, config: Mapping[str, Any]) -> int | None:
        """How many numbers the weights of a configuration are, buffers included; None where that is not known.

        Where it is known, a file whose header does not fit its weights is refused before the network is made: a
        damaged header might ask for more memory than there is.
        """
        return None

    @classmethod
    def oddness(cls, odd: bool) -> dict[str, Any]:
        """The part of a configuration that makes the network odd, or not odd; empty where there is no choice."""
        return {}

    @classmethod
    def sizes(cls) -> Mapping[str, Mapping[str, Any]]:
        """Configurations that have a name, such as ``small``, from the cheapest to the best; empty for none."""
        return {}

    @classmethod
    def usual_size(cls, lattice: Lattice, precise: bool = False) -> str | None:
        """The one of :meth:`sizes` with which an effective sample most likely costs least.

        None where sizes have no names; a new network then has its default configuration.

        Args:
            lattice: the lattice that the network is for.
            precise: whether being accepted more often is worth more than a cheap proposal, as with an action that
                takes longer than the proposal itself, or on a GPU, where a larger network hardly takes longer.
        """
        return None

    @property
    def operations(self) -> int | None:
        """Floating-point operations of an evaluation with its trace, for each site; None where they are not counted.

        What is small beside the rest, such as Fourier transforms and activations, is left out.
        """
        return None

    def moved_to(self, reference: GaussianReference) -> Network:
        """A network of this kind that starts the training for another reference.

        By default one with the same configuration and weights.

        Raises:
            DmmcError: if the weights do not fit there.
        """
        with usual_defaults():
            network = type(self).from_config(reference, self.config())
        network.to(device=self.device, dtype=self.dtype)
        try:
            network.load_state_dict(self.state_dict())
        except RuntimeError as error:
            raise DmmcError(
                f"the weights of a {type(self).__name__} on {self.lattice.shape} do not fit on "
                f"{reference.lattice.shape}; train afresh ({error})"
            ) from None
        return network

    def transport(self) -> Transport | None:
        """The probability flow of this network in machine code; None where there is none, as by default.

        What it computes must be what :meth:`forward` and ``with_trace`` lead to, up to rounding.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """The facts beside the weights that tell this network from others, as JSON values."""
        if is_registered(self):
            return {"name": self.name, **self.config()}
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", "layers": repr(self)}

    def identity(self) -> dict[str, Any]:
        """The part of :meth:`describe` that enters the fingerprint of a model, as far as the weights do not tell it."""
        return self.describe()


def refuse_context(network: Network, context: Tensor | None) -> None:
    """For networks that are not conditioned on anything.

    Raises:
        DmmcError: if there is a context.
    """
    if context is not None:
        raise DmmcError(f"a {type(network).__name__} takes no context; use a network that is conditioned on one")


N = TypeVar("N", bound=type[Network])


def register_network(name: str) -> Callable[[N], N]:
    """Class decorator: the network is saved and loaded under ``name``.

    Raises:
        DmmcError: if another network has this name.
    """

    def register(cls: N) -> N:
        known = _REGISTRY.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise DmmcError(f"there is a network {name!r} already; choose another name")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


def is_registered(network: Network) -> bool:
    """Whether the network can be made again by the name in a file: its own class is registered, not only a parent."""
    return _REGISTRY.get(network.name) is type(network)


def network_names() -> tuple[str, ...]:
    """The names of all registered networks."""
    return tuple(sorted(_REGISTRY))


def network_class(name: str) -> type[Network]:
    """The class that is registered under a name.

    Raises:
        UnknownNetworkError: if there is none.
        DmmcError: if the name is not text.
    """
    if not isinstance(name, str):
        raise DmmcError(f"the name of a network must be text, got {name!r}")
    if name not in _REGISTRY:
        raise UnknownNetworkError(
            f"no network {name!r} is registered (there are {', '.join(network_names())}); "
            "import the module that registers it first"
        )
    return _REGISTRY[name]


AUTO = "auto"
"""The size that stands for the usual one of a network on a lattice."""


def sized(
    name: str, size: str, config: Mapping[str, Any] | None, lattice: Lattice, precise: bool = False
) -> dict[str, Any]:
    """The configuration of a new network, where it differs from the default.

    Args:
        name: the name under which the network is registered.
        size: the name of one of its :meth:`Network.sizes`, or :data:`AUTO` for its :meth:`Network.usual_size`.
        config: its configuration where it differs from that size.
        lattice, precise: as for :meth:`Network.usual_size`.

    Raises:
        DmmcError: if there is no network of this name, or it has no such size.
    """
    cls = network_class(name)
    sizes, chosen = cls.sizes(), cls.usual_size(lattice, precise) if size == AUTO else size
    if chosen is not None and chosen not in sizes:
        known = f"its sizes are {', '.join([AUTO, *sizes])}" if sizes else "it has no sizes, so give its config"
        raise DmmcError(f"the network {name!r} has no size {size!r}; {known}")
    return {**({} if chosen is None else sizes[chosen]), **(config or {})}


def make_network(
    name: str,
    reference: GaussianReference,
    config: Mapping[str, Any],
    generator: torch.Generator | None = None,
) -> Network:
    """A registered network from its configuration, with initial weights.

    It is made in float32 on the CPU, whatever torch's default type and device are.

    Args:
        name: the name under which it is registered.
        reference: the Gaussian field that it is for.
        config: its arguments.
        generator: source of the random initial weights (CPU); by default one of a fixed seed.

    Raises:
        DmmcError: if there is no network of this name, the configuration is not one of it, or has more weights than fit
            into memory, or what its ``config()`` returns does not consist of JSON values.
    """
    cls = network_class(name)
    try:
        weights = cls.n_weights(reference.lattice, config)
        if weights is not None and TRAINED_BYTES * weights > physical_memory():
            raise DmmcError(
                f"a network {name!r} of this configuration has {weights} weights, and to train them takes "
                f"{TRAINED_BYTES * weights / 2**30:.3g} GiB of memory, of which this machine has "
                f"{physical_memory() / 2**30:.3g}; take smaller layers"
            )
        with usual_defaults():
            network = cls.from_config(reference, config, generator)
    except DmmcError:
        raise
    except Exception as error:  # the class need not have been written with other configurations in mind
        raise DmmcError(f"this is not a configuration of the network {name!r}: {dict(config)} ({error!r})") from error
    check_config(network)
    return network


def restore_network(
    description: Mapping[str, Any], reference: GaussianReference, tensors: Mapping[str, Tensor]
) -> Network:
    """The registered network that was described and stored, on the CPU.

    Args:
        description: what :meth:`Network.describe` gave: its name and configuration.
        reference: the Gaussian field that it is for.
        tensors: its state dictionary.

    Raises:
        DmmcError: if there is no network of this name, the configuration is not one of it, or the tensors have other
            names, shapes or types, or values that are not finite.
    """
    config = dict(description)
    name = config.pop("name", None)
    types = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(types) > 1:
        raise DmmcError(f"its weights are of several types: {', '.join(sorted(map(str, types)))}")
    dtype = types.pop() if types else torch.float32
    if dtype not in WEIGHT_TYPES:
        raise DmmcError(f"its weights are {dtype}, in which networks do not compute")
    try:
        wanted = network_class(name).n_weights(reference.lattice, config)
    except (TypeError, AttributeError) as error:
        raise DmmcError(f"this is not a configuration of the network {name!r}: {config} ({error})") from None
    found = sum(value.numel() for value in tensors.values())
    if wanted is not None and wanted != found:
        raise DmmcError(f"a network {name!r} of this configuration has {wanted} weights, and the file {found}")
    network = make_network(name, reference, config).to(dtype)
    types_made = {key: value.dtype for key, value in network.state_dict().items()}
    for key, value in tensors.items():
        if value.dtype != types_made.get(key, value.dtype):
            raise DmmcError(f"the weights {key!r} are {value.dtype} and should be {types_made[key]}")
        if not bool(torch.isfinite(value).all()):
            raise DmmcError(f"the weights {key!r} are not all finite")
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise DmmcError(str(error)) from None
    return network


def check_config(network: Network) -> None:
    """Refuse a registered network whose configuration could not be written to a file.

    Raises:
        DmmcError: if it does not consist of JSON values.
    """
    if is_registered(network):
        json_text(network.config(), f"the config() of the network {network.name!r}")
