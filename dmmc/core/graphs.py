"""CUDA graphs: work on the device that is recorded once and then launched as a whole.

An integration is hundreds of small operations, whose launches one by one take longer than the work itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.core.weights import WeightVersions

RECORDED_FROM = 3
"""From which use on work is launched as a graph. What is needed only once or twice is not worth the recording; besides,
the first use compiles kernels and plans Fourier transforms, which cannot be recorded."""

KEPT = 6
"""Graphs that are kept, each with its memory on the device."""

Work = Callable[..., tuple[Tensor, ...]]
"""What is done with what was prepared from the weights, and with the inputs."""


@dataclass
class _Graph:
    prepared: Any
    uses: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    sources: tuple[Tensor, ...] = ()
    results: tuple[Tensor, ...] = ()


class Graphs:
    """Work by name, as long as the weights are the same; what was used last is kept longest.

    The work of one instance is done in one stream at a time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._versions = WeightVersions()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphs:
        return Graphs()

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()

    def run(
        self, key: Hashable, weights: Iterable[Tensor], prepare: Callable[[], Any], work: Work, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """``work(prepare(), *inputs)``.

        Args:
            key: tells different work apart, and inputs of different shapes.
            weights: what ``prepare`` depends on.
            prepare: what the work needs beside its input; called again only when weights have changed.
            work: operations on the device of the inputs, which are the same whatever numbers these hold, and never wait
                for the device.
            inputs: tensors on one device.
        """
        weights = list(weights)
        if not self._versions.known(weights):
            return work(prepare(), *inputs)
        with self._lock:
            if not self._versions.same(weights):
                self._kept.clear()
            if key not in self._kept:
                self._kept[key] = _Graph(prepare())
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            one = self._kept[key]
            one.uses += 1
            if inputs[0].device.type != "cuda" or one.uses < RECORDED_FROM:
                return work(one.prepared, *inputs)
            if one.graph is None:
                one.sources, one.graph = tuple(x.clone() for x in inputs), torch.cuda.CUDAGraph()
                with (
                    torch.cuda.device(inputs[0].device),
                    torch.cuda.graph(one.graph, capture_error_mode="thread_local"),
                ):
                    one.results = work(one.prepared, *one.sources)
            for source, x in zip(one.sources, inputs, strict=True):
                source.copy_(x)
            one.graph.replay()
            return tuple(result.clone() for result in one.results)
