"""What it takes to hold the arrays of a call to their domains, loss by loss.

Run it as `python -m mithril_losses.benchmarks.domains [PAGE]`.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.benchmarks.page import table
from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.checking.drawing import draw_arguments
from mithril_losses.domains import Boxes, Distributions, Elements, Labels
from mithril_losses.execution import value_and_gradient
from mithril_losses.loops.compiling import has_numba
from mithril_losses.numerics.trees import map_leaves

SMALL, LARGE = (32, 10), (100_000, 10)
_ROUNDS = 30
_HEAD = """# Checks of domains

What it takes to check that arrays lie in the [domains](conventions.md#domains) of their arguments, as a part of one
call of `value_and_gradient` on NumPy arrays in float32. The time of a check is measured by itself, on the same
arrays; it is a part of the time of the call. Where a compiled loop computes the loss, it checks elements and sums of
rows in the same pass: only the corners of boxes are then checked apart. The sums of rows of ten numbers take about a
quarter of that loop, elements mostly less than a twentieth.
"""


class Cost(NamedTuple):
    """How long a call takes, and how long the checks in it: 0 where a loop does them."""

    call: float
    check: float

    @property
    def share(self) -> float:
        """The part of the call that the checks take."""
        return self.check / self.call


def losses() -> Iterator[Pair]:
    """Yield every loss some of whose arrays have bounds."""
    for pair in catalogue().values():
        if any(_has_bounds(pair.domain.get(name)) for name in pair.array_arguments):
            yield pair


def cost(pair: Pair, shape: tuple[int, ...], rounds: int = _ROUNDS) -> Cost:
    """Measure one loss on arrays drawn for rows of this shape."""
    arrays, options = draw_arguments(pair, np.random.default_rng(0), shape)
    arrays = {name: map_leaves(lambda _, x: _narrow(x), x) for name, x in arrays.items()}
    both = value_and_gradient(pair)
    in_loop = shape == LARGE and has_numba() and all(part.terms.has_loop for part in _parts(pair, arrays, options))
    checks = [*_checks(pair, arrays, in_loop)]

    def check() -> None:
        for each in checks:
            each()

    return Cost(_best(lambda: both(*arrays.values(), **options), rounds), _best(check, rounds) if checks else 0.0)


def _parts(pair: Pair, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> list[Pair]:
    """Return the losses that a loss is composed of, or itself."""
    if pair.terms.compose is None:
        return [pair]
    found: list[Pair] = []

    def fast(loss: Callable[..., Any]) -> Callable[..., Any]:
        found.append(find_loss(loss))
        return value_and_gradient(loss)

    pair.terms.compose(fast)(*arrays.values(), **options)
    return found


def _checks(pair: Pair, arrays: Mapping[str, Any], in_loop: bool) -> Iterator[Callable[[], Any]]:
    for name, x in arrays.items():
        domain: Any = pair.domain.get(name)
        if not _has_bounds(domain):
            continue
        if isinstance(domain, Boxes):
            columns = [*np.ascontiguousarray(x.T)]
            yield functools.partial(domain.are_legal, columns)
        elif isinstance(domain, Distributions) and not (in_loop and not domain.held_by_loss):
            yield functools.partial(domain.check_along, name, x, -1)
        elif not in_loop:
            yield functools.partial(domain.check, name, x)


def _has_bounds(domain: Any) -> bool:
    return isinstance(domain, Boxes | Distributions | Labels) or (isinstance(domain, Elements) and domain.is_bounded)


def _narrow(x: Any) -> Any:
    return x.astype(np.float32) if x.dtype == np.float64 else x


def _best(call: Callable[[], Any], rounds: int) -> float:
    """Return the seconds of the fastest of some calls; short ones are made several times at once."""
    call()
    start = time.perf_counter()
    call()
    several = max(1, int(1e-3 / (time.perf_counter() - start)))
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(several):
            call()
        found.append((time.perf_counter() - start) / several)
    return min(found)


def page(pairs: Iterable[Pair], rounds: int = _ROUNDS) -> str:
    """Measure some losses, and return the page."""
    rows = []
    for pair in pairs:
        small, large = (cost(pair, shape, rounds) for shape in (SMALL, LARGE))
        rows.append(
            [
                pair.name,
                f"{small.call * 1e6:.1f}",
                f"{small.check * 1e6:.1f}",
                f"{small.share:.0%}",
                f"{large.call * 1e3:.2f}",
                f"{large.check * 1e3:.2f}" if large.check else "in the loop",
                f"{large.share:.0%}",
            ]
        )
    sizes = ["×".join(f"{n:,}" for n in shape) for shape in (SMALL, LARGE)]
    head = ["loss", f"{sizes[0]}, µs", "check, µs", "share", f"{sizes[1]}, ms", "check, ms", "share"]
    return f"{_HEAD}\n{table(head, rows)}\n"


if __name__ == "__main__":
    text = page(losses())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text)
