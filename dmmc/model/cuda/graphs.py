"""CUDA graphs: work on the device that is recorded once and then launched as a whole.

An integration of the flow is hundreds of small operations, whose launches one by one take longer than the work itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmmc.model.memo import WeightVersions

RECORDED_FROM = 3
"""From which use on work is launched as a graph. What is needed only once or twice is not worth the recording; besides,
the first use compiles kernels and plans Fourier transforms, which cannot be recorded."""

KEPT = 16
"""Graphs that are kept, each with its memory on the device."""

Work = Callable[[Any, Tensor], tuple[Tensor, ...]]
"""What is done with what was prepared from the weights, and an input."""


@dataclass
class _Graph:
    prepared: Any
    uses: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    source: Tensor | None = None
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
        self, key: Hashable, weights: Iterable[Tensor], prepare: Callable[[], Any], work: Work, x: Tensor
    ) -> tuple[Tensor, ...]:
        """``work(prepare(), x)``.

        Args:
            key: tells different work apart, and inputs of different shapes.
            weights: what ``prepare`` depends on.
            prepare: what the work needs beside its input; called again only when weights have changed.
            work: operations on the device of ``x`` that depend on the numbers in ``x`` through these numbers alone, and
                never wait for the device.
            x: the input.
        """
        weights = list(weights)
        if not self._versions.known(weights):
            return work(prepare(), x)
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
            if x.device.type != "cuda" or one.uses < RECORDED_FROM:
                return work(one.prepared, x)
            if one.graph is None:
                self._record(one, work, x)
            assert one.graph is not None and one.source is not None
            one.source.copy_(x)
            one.graph.replay()
            return tuple(result.clone() for result in one.results)

    def _record(self, one: _Graph, work: Work, x: Tensor) -> None:
        one.source, graph = x.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.device(x.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            one.results = work(one.prepared, one.source)
        one.graph = graph
