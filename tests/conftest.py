import pytest
from seeds import BACKENDS

from mithril_losses.backends import Backend


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, with random numbers that are the same on each."""
    return BACKENDS[request.param](seed=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move those of a test's parameters to the exhaustive tier that its mark `exhaustive_for` describes."""
    for item in items:
        for mark in item.iter_markers("exhaustive_for"):
            library, variants = mark.kwargs.get("library", ""), mark.kwargs.get("variants", False)
            if f"_{library}" in item.name and not (variants and "-drawn" in item.name):
                item.add_marker("exhaustive")
