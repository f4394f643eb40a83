"""What reports and diagnostics need to know about the kernel of a chain.

It is stored with every chain, so that nobody needs the kernel itself, or torch, to read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmmc.core.records import Record


@dataclass(frozen=True)
class PartFacts(Record):
    """What reports need to know about one of the kernels that a kernel is put together from.

    Attributes:
        label: what people call it.
        statistic: name of the sample statistic that says whether its steps were accepted; NaN where it made none.
        steps: its steps in one step of the whole, on average.
        cost: what these cost: evaluations by name.
    """

    label: str
    statistic: str
    steps: float
    cost: dict[str, float]


@dataclass(frozen=True)
class KernelFacts(Record):
    """What reports and diagnostics need to know about a kernel.

    Attributes:
        name: identifies the kernel, as in ``describe()["name"]``.
        label: what people call its chain, as in tables and figures.
        independent_weights: whether ``log_w_proposed`` in its info is the log weight of proposals that are independent
            of each other and of the chain. ESS/N, log Z, Kullback-Leibler divergences and the law of rejections are
            computed only then.
        model_free: whether the kernel works without a trained model, so that its averages are an independent check of
            those of a model.
        inexact: why the chain does not sample ``exp(-S)``; empty for an exact kernel.
        parts: the kernels that this one is put together from; empty for most.
    """

    name: str
    label: str = ""
    independent_weights: bool = False
    model_free: bool = False
    inexact: str = ""
    parts: tuple[PartFacts, ...] = ()

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))
