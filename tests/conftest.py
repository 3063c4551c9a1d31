import pytest
from seeds import BACKENDS

from mithril_losses.backends import Backend


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, with random numbers that are the same on each."""
    return BACKENDS[request.param](seed=4)
