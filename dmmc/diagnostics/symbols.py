"""How observables are written in text, on pages and in figures."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """An observable in three notations.

    Attributes:
        text: as on a terminal.
        html: as on a page.
        math: as in a figure, in matplotlib's mathematics.
    """

    text: str
    html: str
    math: str

    @property
    def value(self) -> Symbol:
        """The symbol of the values themselves, without the brackets of a mean: ``|M|`` in place of ``<|M|>``."""
        return Symbol(
            self.text.replace("<", "").replace(">", ""),
            self.html.replace("⟨", "").replace("⟩", ""),
            self.math.replace(r"\langle ", "").replace(r"\rangle", ""),
        )


SYMBOLS = {
    "M": Symbol("<M>", "⟨M⟩", r"$\langle M\rangle$"),
    "abs_M": Symbol("<|M|>", "⟨|M|⟩", r"$\langle |M|\rangle$"),
    "M2": Symbol("<M^2>", "⟨M²⟩", r"$\langle M^2\rangle$"),
    "M4": Symbol("<M^4>", "⟨M⁴⟩", r"$\langle M^4\rangle$"),
    "chi2": Symbol("chi2", "χ", r"$\chi$"),
    "chi2_signed": Symbol("chi2 (signed M)", "χ, signed M", r"$\chi$, signed $M$"),
    "binder": Symbol("U_L", "U<sub>L</sub>", "$U_L$"),
    "xi": Symbol("xi", "ξ", r"$\xi$"),
    "phi2": Symbol("<phi^2>", "⟨φ²⟩", r"$\langle \phi^2\rangle$"),
    "S_per_site": Symbol("<S>/V", "⟨S⟩/V", r"$\langle S\rangle/V$"),
    "condensate": Symbol("<psi-bar psi>", "⟨ψ̄ψ⟩", r"$\langle\bar\psi\psi\rangle$"),
    "G_min": Symbol("G(p_min)", "G(p<sub>min</sub>)", r"$G(p_{\min})$"),
}
"""The observables that have a symbol, in the order in which tables show them."""

_COMPONENT = re.compile(r"(.+)\[([\d, ]+)\]")


def symbol(name: str) -> Symbol:
    """The symbol of an observable, which is its name unless :data:`SYMBOLS` has it.

    On pages, a component of a vector such as ``M[1]`` has its number as an index.
    """
    if (component := _COMPONENT.fullmatch(name)) is not None:
        return Symbol(name, f"{symbol(component[1]).html}<sub>{component[2]}</sub>", name)
    return SYMBOLS.get(name) or Symbol(name, html.escape(name), name)
