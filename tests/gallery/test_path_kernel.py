"""The path kernel with a U-Net: exact however poor the network is."""

from dmmc.gallery.path_kernel import QUICK, TRACTABLE, UNET
from helpers import SIGMA


def test_chains_of_both_networks_are_exact_and_the_better_one_is_accepted_more(quick_gallery):
    chains = quick_gallery("path-kernel").numbers["chains"]
    for of_network in chains.values():
        assert set(of_network) == {str(steps) for steps in QUICK.steps}
        assert all(abs(x["z"]) < SIGMA for x in of_network.values())
    steps = str(QUICK.steps[-1])
    # 60 steps on fields alone against 60 on the action as well: most of the paths of the former are rejected.
    assert chains[TRACTABLE][steps]["acceptance"] > 0.3 > chains[UNET][steps]["acceptance"]
