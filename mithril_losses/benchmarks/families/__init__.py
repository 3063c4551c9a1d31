"""Which losses are measured, and what the measurements must show: one module per family of losses.

Each module has `PROBLEMS`, a block per loss, and may have `TARGETS`. New modules, and losses without a block, are found
automatically.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from mithril_losses.benchmarks import targets
from mithril_losses.benchmarks.problems import Case, Problem, drawn_problem
from mithril_losses.benchmarks.targets import Target
from mithril_losses.catalogue import catalogue

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

_WRITTEN = {problem.loss for module in _MODULES for problem in module.PROBLEMS}
_DRAWN = (drawn_problem(pair) for pair in catalogue().values() if pair.name not in _WRITTEN)
PROBLEMS: list[Problem] = sorted(
    [*(problem for module in _MODULES for problem in module.PROBLEMS), *filter(None, _DRAWN)],
    key=lambda problem: list(catalogue()).index(problem.loss),
)
TARGETS: list[Target] = [
    *(target for module in _MODULES for target in getattr(module, "TARGETS", ())),
    *targets.OF_ALL_LOSSES,
]


def all_cases() -> Iterator[Case]:
    """Yield every case, the small ones first."""
    for size in ("small", "medium", "large"):
        for problem in PROBLEMS:
            for shape in problem.shapes.get(size, ()):
                yield Case(problem, size, shape)
    for problem in PROBLEMS:
        for shape in problem.ours_alone:
            yield Case(problem, "large", shape, ours_alone=True)
