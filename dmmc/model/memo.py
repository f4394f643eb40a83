"""What a network computes from its weights and the noise level alone, kept while neither changes.

A flow meets the same noise levels again and again: in the stages of one step, in every chunk, in every call. Filters
and matrices at a level depend on nothing else but the weights, so they are computed once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dmmc.core.weights import WeightVersions

KEPT_NUMBERS = 1 << 24
"""About how many numbers a network keeps: 64 MiB in float32."""

Prepared = dict[str, Tensor]


class LevelMemo:
    """Tensors by noise variances, as long as the weights are the same; what was used last is kept longest.

    Nothing is kept of weights that are being trained, nor on a device other than the CPU, where looking up a level
    would wait for the device.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Prepared] = OrderedDict()
        self._versions = WeightVersions()

    def __deepcopy__(self, memo: dict[int, Any]) -> LevelMemo:
        return LevelMemo()

    def __reduce__(self) -> tuple[type[LevelMemo], tuple[()]]:
        return LevelMemo, ()

    def get(self, kind: str, v: Tensor, weights: Iterable[Tensor], compute: Callable[[Tensor], Prepared]) -> Prepared:
        """``compute(v)``, or what it returned before.

        Args:
            kind: tells different functions ``compute`` apart.
            v: noise variances ``(G,)``.
            weights: everything else that the result depends on.
            compute: makes the tensors.
        """
        weights = list(weights)
        tracked = WeightVersions.known((v, *weights)) and not any(x.requires_grad for x in (v, *weights))
        if v.device.type != "cpu" or not tracked:
            return compute(v)
        if not self._versions.same(weights):
            self._kept.clear()
        key = kind, v.dtype, tuple(v.tolist())
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            # Outside inference mode, so that autograd accepts what is kept.
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = made = compute(v)
            most = max(1, KEPT_NUMBERS // sum(x.numel() for x in made.values()))
            while len(self._kept) > most:
                self._kept.popitem(last=False)
        return self._kept[key]
