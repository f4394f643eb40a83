"""What the tests of the commands start from."""

import pytest

from commands import make_all


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with an ensemble, a model and a chain of it, and their summaries. It is read only."""
    return make_all(tmp_path_factory.mktemp("made"))
