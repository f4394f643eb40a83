"""One table says how observables are written."""

import html

import pytest
from matplotlib.mathtext import MathTextParser

from dmmc.diagnostics.symbols import SYMBOLS, symbol


def test_means_and_values_in_each_notation():
    mean = symbol("abs_M")
    assert (mean.text, mean.html, mean.math) == ("<|M|>", "⟨|M|⟩", r"$\langle |M|\rangle$")
    assert (mean.value.text, mean.value.html, mean.value.math) == ("|M|", "|M|", "$|M|$")
    assert (symbol("S_per_site").value.text, symbol("S_per_site").value.math) == ("S/V", "$S/V$")
    assert symbol("binder").value == symbol("binder")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("own", "own"), ("M[1]", "⟨M⟩<sub>1</sub>"), ("<own>[0, 1]", "&lt;own&gt;<sub>0, 1</sub>")],
)
def test_other_names_and_components(name, expected):
    assert (symbol(name).text, symbol(name).html, symbol(name).math) == (name, expected, name)


@pytest.mark.parametrize("name", SYMBOLS)
def test_matplotlib_and_browsers_can_read_the_symbols(name):
    for notation in (symbol(name), symbol(name).value):
        MathTextParser("path").parse(notation.math)
        assert html.unescape(notation.html) == notation.html
        assert not {"⟨", "⟩"} & set(symbol(name).value.html)
