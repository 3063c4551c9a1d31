import re

import pytest
from seeds import BACKENDS

from mithril_losses.backends import Backend


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend, with random numbers that are the same on each."""
    return BACKENDS[request.param](seed=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move some parameters of tests to the exhaustive tier.

    These are the ones that the mark `exhaustive_for` describes. Eager JAX compiles each operation by itself. So where a
    test runs on compiled JAX as well, those on eager JAX belong to them; and so do those of single losses, because that
    JAX computes the numbers of NumPy is a law of every loss. What JAX does in tiles stays. Tests of single losses under
    `torch.compile`, which reads all that is called for seconds, belong to them, too: what it reads is the same for all
    losses of a template, and laws hold it for one of each.

    What pages and the documents of a user say is run on NumPy: the laws compare the libraries.
    """
    compiled = {_without_number(item).replace("_jax_jit", "_jax") for item in items if "_jax_jit" in item.name}
    for item in items:
        is_eager = "_jax" in item.name and "_jax_jit" not in item.name
        is_of_a_loss = item.path.parent.name == "losses" and "tiles" not in item.name
        is_compiled_by_torch = re.search(r"torch[._]compile", item.name)
        is_marked = any(
            f"_{mark.kwargs.get('named', '')}" in item.name
            and not (mark.kwargs.get("variants", False) and "-drawn" in item.name)
            for mark in item.iter_markers("exhaustive_for")
        )
        is_twice = is_eager and _without_number(item) in compiled
        is_text = item.path.name.startswith(("test_seed_", "test_docs"))
        is_of_text = is_text and re.search(r"\[(jax|torch|(?!README|quickstart)[\w-]+\.md)\]", item.name)
        if is_marked or is_twice or is_of_text or (is_of_a_loss and (is_eager or is_compiled_by_torch)):
            item.add_marker("exhaustive")


def _without_number(item: pytest.Item) -> str:
    """Return the id of a test without the number that `parameterized` gives to each of its parameters."""
    return re.sub(r"_\d+(?=_)", "", item.nodeid)
