"""Whether weights have changed since something was computed from them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class WeightVersions:
    """Tells whether weights are still the ones that they were.

    A write to ``weight.data`` goes unnoticed here as it does in autograd; change weights under ``torch.no_grad()``
    instead.
    """

    def __init__(self) -> None:
        # Aliases of the weights, which keep their memory from being used again, and the versions of their values.
        self._weights: list[Tensor] = []
        self._versions: list[tuple[int, int]] = []

    @staticmethod
    def known(weights: Iterable[Tensor]) -> bool:
        """Whether the weights have versions, as those made in inference mode have not."""
        return not any(x.is_inference() for x in weights)

    def same(self, weights: Iterable[Tensor]) -> bool:
        """Whether these are the weights of the last call, unchanged."""
        weights = list(weights)
        versions = [(x.data_ptr(), x._version) for x in weights]
        if versions == self._versions:
            return True
        self._weights, self._versions = [x.detach() for x in weights], versions
        return False
