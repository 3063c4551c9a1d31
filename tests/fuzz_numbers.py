"""Look for special numbers that get lost, and for digits lost to an offset or a scale, in random calls of all losses.

    .venv/bin/python tests/fuzz_numbers.py [--count 500] [--seed N] [--kind "special numbers"]

Each case is made from its own seed: a loss, a way to evaluate it (NumPy, PyTorch, JAX, compiled or not), and a NaN, an
infinity or an illegal label somewhere in an argument, or an offset or scale up to 1e5. A failure prints the line that
makes the same case again.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated

import numpy as np
import typer
from kinds import random_offset, random_special_number

KINDS: dict[str, Callable[[np.random.Generator], tuple[str, Callable[[], None]]]] = {
    "special numbers": random_special_number,
    "offsets and scales": random_offset,
}


def failures(kind: str, seeds: Iterable[int]) -> list[tuple[int, str]]:
    """Return the seeds whose cases fail, each with what it was and what did not hold."""
    found = []
    for seed in seeds:
        case, check = KINDS[kind](np.random.default_rng(seed))
        try:
            check()
        except Exception as error:
            found.append((seed, f"{case}: {type(error).__name__}: {error}"))
    return found


def main(
    count: Annotated[int, typer.Option(help="how many cases of each kind")] = 500,
    seed: Annotated[int | None, typer.Option(help="the first seed; by default one that the clock gives")] = None,
    kind: Annotated[str | None, typer.Option(help="the kind; by default all")] = None,
) -> None:
    """Try random cases of each kind."""
    warnings.simplefilter("ignore")  # of iterations that do not converge on infinite points
    first = seed if seed is not None else time.time_ns() % 1_000_000_000
    total = 0
    for name in [kind] if kind else KINDS:
        found = failures(name, range(first, first + count))
        total += len(found)
        for failed, text in found:
            print(
                f'FAILED {text}\n  python tests/fuzz_numbers.py --kind "{name}" --seed {failed} --count 1', flush=True
            )
        print(f"{name}: {count} cases from seed {first} on, {len(found)} failures", flush=True)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    typer.run(main)
