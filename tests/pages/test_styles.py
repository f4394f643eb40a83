"""Every label has one style, and the samplers of dmmc always have the same."""

from itertools import islice

from dmmc.pages import svg
from dmmc.pages.styles import COLOURS, PLACES, palette, styles


def test_known_labels_have_fixed_places():
    for labels in (["HMC", "diffusion", "cluster"], ["cluster", "own", "HMC"], ["diffusion"]):
        looks = palette(labels)
        assert list(looks) == labels
        for label in PLACES:
            if label in looks:
                assert looks[label].colour == COLOURS[PLACES.index(label)]


def test_other_labels_take_the_next_places():
    looks = palette(["own", "HMC", "another", "own"])
    assert looks["own"].colour == COLOURS[3]
    assert looks["another"].colour == COLOURS[4]
    assert len(set(islice(styles(), 28))) == 28
    many = palette([f"kernel {k}" for k in range(20)] + list(PLACES))
    assert len(set(many.values())) == 23


def test_every_colour_has_a_shade_for_dark_pages():
    assert {colour.lower() for colour in COLOURS} <= svg.DARK.keys()
    assert len(set(svg.DARK.values())) == len(svg.DARK)
