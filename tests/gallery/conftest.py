"""A gallery that the tests of its exhibits share, so that ensembles and models are made once."""

import pytest

from dmmc.gallery import registry
from dmmc.gallery.exhibit import Request
from dmmc.gallery.show import show


@pytest.fixture(scope="session")
def quick_gallery(tmp_path_factory):
    """Makes an exhibit in its quick version, or reads it: ``quick_gallery(name)``."""
    folder = tmp_path_factory.mktemp("gallery")

    def make(name):
        return show(registry.exhibit(name), request(name))

    def request(name):
        return Request(folder / name, folder, quick=True, say=lambda _: None)

    make.request = request
    return make
