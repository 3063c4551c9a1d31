import pytest
from seeds import BACKENDS

from mithril_losses.backends import Backend


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, with random numbers that are the same on each."""
    return BACKENDS[request.param](seed=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Variants of a loss on JAX, which compiles each operation for each, belong to the exhaustive tier."""
    for item in items:
        if item.path.name == "test_laws.py" and "_jax" in item.name and "-drawn" not in item.name:
            item.add_marker("exhaustive")
