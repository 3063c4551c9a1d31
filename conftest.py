"""Settings of every test run, and the choice of `--loss`: what a change to one loss, or to one family, has to pass."""

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# two xdist workers on two cores: libraries must not start a thread pool each
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# in a pipe, tables keep to this width, which the caller's terminal or xdist may have set
os.environ.pop("COLUMNS", None)

# workers share what XLA compiles, above all of single operations, and a second run finds it
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# without the lines of Python that each operation comes from, JAX lowers in three quarters of the time
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

collect_ignore = ["backends"]  # a link to mithril_losses/backends, whose tests would run twice
if importlib.util.find_spec("kfac_jax") is None:  # which no JAX of the extra `test` can have
    collect_ignore.append("mithril_losses/optimize/kfac_jax.py")

# tests of every loss of the catalogue: of these, `--loss` selects by the name of the loss
LAWS = (
    "test_laws.py",
    "test_extremes.py",
    "test_edges.py",
    "test_kinks.py",
    "test_properties.py",
    "test_formulas.py",
    "test_offsets.py",
    "test_special_numbers.py",
    "test_options_at_extremes.py",
    "test_order.py",
)

CHOSEN = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loss", help="only the laws of this loss or family, its family's tests, and its doctests")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CHOSEN] = losses_of(config.getoption("loss"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect the laws, and the module and the tests of each family that has a chosen loss."""
    families = set(config.stash[CHOSEN].values())
    if not families or collection_path.is_dir():
        return None
    files = {*LAWS, *(f"{family}.py" for family in families), *(f"test_{family}.py" for family in families)}
    return True if collection_path.name not in files else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the laws of other losses."""
    chosen = config.stash[CHOSEN]
    if chosen:
        left_out = {item for item in items if item.path.name in LAWS and loss_in(item.name) not in chosen}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Look for garbage rarely, and never among what was imported and collected: there are millions of such objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def keep_what_jax_compiled() -> Iterator[None]:
    """The next module needs some of it, above all single operations; but looks for garbage must not pass over it.

    It is forgotten whenever it has grown by two gigabytes.
    """
    yield
    if "jax" in sys.modules:
        if _resident_bytes() > _LIMIT["next"]:
            sys.modules["jax"].clear_caches()
            _LIMIT["next"] = _resident_bytes() + _GROWTH
        gc.freeze()


_GROWTH = 2_000_000_000
_LIMIT = {"next": 2 * _GROWTH}


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")  # elsewhere than on Linux, nothing is forgotten
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def losses_of(name: str | None) -> dict[str, str]:
    """Return the family of each loss of this name or family; nothing if there is no name."""
    if name is None:
        return {}
    from mithril_losses import catalogue

    found = {pair.name: pair.family for pair in catalogue().values() if name in (pair.name, pair.family)}
    if not found:
        raise pytest.UsageError(f"--loss: {name!r} is neither a loss nor a family")
    return found


def loss_in(text: str) -> str:
    """Return the loss that a test is named after: the longest name, because names are parts of others."""
    from mithril_losses import catalogue

    return max((name for name in catalogue() if name in text), key=len, default="")
