"""Gradients checked in exact numbers: at each point, the derivative along a direction is gradient · direction.

The value is computed on dual numbers of sixty digits, so its rate of change is the derivative of what the code computes
on the piece of the domain on which the point lies. The gradient is computed on the same numbers without rates, for an
upstream gradient that is exact as well: so the divisor of a mean is no double.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mithril_losses._execution import value_and_gradient
from mithril_losses._pairs import catalogue, find_loss
from mithril_losses._tree import leaves, map_leaves
from mithril_losses.checking.exact.arrays import ExactArray, exact, following, rate
from mithril_losses.checking.exact.points import Point, points
from mithril_losses.checking.exact.scalars import CONTEXT, DIGITS, ZERO, Number
from mithril_losses.checking.gradients import GradientMismatchError

PROVED = 30  # digits from which on a gradient counts as right whatever limits them


@dataclass(frozen=True)
class Limit:
    """Why a loss keeps fewer digits than the arithmetic has.

    Attributes:
        losses: which losses.
        digits: how many they keep at least.
        reason: what limits them.
        holds: at which points; everywhere by default.
    """

    losses: tuple[str, ...]
    digits: int
    reason: str
    holds: Callable[[Point], bool] = lambda point: True


def _has_a_rounded_root(point: Point) -> bool:
    p = point.options["p"]
    return math.isfinite(p) and math.frexp(p)[0] != 0.5


def _has_a_small_variance(point: Point) -> bool:
    ratio = point.arrays["logvar"] - point.arrays.get("other_logvar", 0.0)
    return bool((np.abs(ratio) < 0.8).any())


LIMITS = (
    Limit(
        ("triplet_loss", "wasserstein_distance", "sliced_wasserstein_distance"),
        15,
        "the exponent 1/p, a double (p no power of two)",
        _has_a_rounded_root,
    ),
    Limit(
        (
            "gaussian_kl_divergence",
            "gaussian_kl_divergence_between",
            "vae_loss",
            "beta_vae_loss",
            "vae_loss_free_bits",
        ),
        16,
        "the continued fraction of eˣ − 1 − x (|x| < 0.8)",
        _has_a_small_variance,
    ),
    Limit(("sinkhorn_divergence",), 48, "the end of the iterations (masses right to 10⁻⁵⁰)"),
)


ARITHMETIC = "the arithmetic"


@dataclass
class ExactCheck:
    """What the exact check of a loss found.

    Attributes:
        loss: its name.
        points: how many points were looked at.
        pieces: on how many pieces of the domain they lie: everything that the loss decides falls alike on each.
        digits: to how many digits derivative and gradient agree at least, by what limits them: the arithmetic, or the
            reason of a `Limit`.
        failures: what was found wrong, by point.
    """

    loss: str
    points: int = 0
    pieces: int = 0
    digits: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def summary(self) -> str:
        """The digits and the pieces, with what limits the former where it is not the arithmetic."""
        pieces = f"on {self.pieces} piece{'s' * (self.pieces != 1)}"
        found = [
            f"{digits} digits {pieces}" if reason == ARITHMETIC else f"{digits} digits {pieces}, limited by {reason}"
            for reason, digits in self.digits.items()
        ]
        return "; ".join(found[:1] + [text.replace(f" {pieces}", "") for text in found[1:]])


def check_exact(loss: str | Callable[..., Any]) -> ExactCheck:
    """Check the gradient of a registered loss in exact numbers, at points drawn from its domain.

    Args:
        loss: a loss that declares its domain, or its name.

    Returns:
        How many digits agree, and what failed.

    Raises:
        ValueError: there is no such loss, or it declares no domain.

    Example:
        >>> check = check_exact("huber_loss")
        >>> check.is_right, check.summary
        (True, '60 digits on 13 pieces')
    """
    pair = find_loss(loss)
    found, pieces, moving = ExactCheck(pair.name), set(), dict.fromkeys(pair.wrt, False)
    for point in points(pair):
        found.points += 1
        try:
            agreement = compare(point)
        except Exception as error:
            found.failures.append(f"{point}: {type(error).__name__}: {error}")
            continue
        pieces.add(agreement.piece)
        for name in agreement.moving:
            moving[name] = True
        limit = _limit(point)
        reason, least = (ARITHMETIC, PROVED) if limit is None else (limit.reason, limit.digits)
        found.digits[reason] = min(found.digits.get(reason, DIGITS), agreement.digits)
        if agreement.digits < least:
            found.failures.append(f"{point}: {agreement}")
    found.pieces = len(pieces)
    found.digits = dict(sorted(found.digits.items(), key=lambda item: item[0] != ARITHMETIC))
    found.failures += [f"the gradient wrt {name} is 0 at every point" for name, moves in moving.items() if not moves]
    return found


def check_catalogue_exactly(names: Iterable[str] = ()) -> Iterator[ExactCheck]:
    """Yield `check_exact` of losses by name, of all by default.

    Raises:
        ValueError: there is no such loss.
    """
    for pair in [find_loss(name) for name in names] or list(catalogue().values()):
        yield check_exact(pair)


def _limit(point: Point) -> Limit | None:
    return next((limit for limit in LIMITS if point.pair.name in limit.losses and limit.holds(point)), None)


# --- one point --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How derivative and gradient compare at a point.

    Attributes:
        derivative: of the value along the direction.
        product: gradient · direction.
        digits: to how many digits the two agree.
        piece: the name of the piece on which the point lies.
        moving: the arguments whose gradient is not 0.
    """

    derivative: Number
    product: Number
    digits: int
    piece: str
    moving: tuple[str, ...]

    def __str__(self) -> str:
        derivative, product = (CONTEXT.nstr(x, self.digits + 6) for x in (self.derivative, self.product))
        return f"gradient · direction = {product}, but the derivative is {derivative}"


def compare(point: Point) -> Agreement:
    """Compare the derivative of the value along a direction with gradient · direction."""
    pair, wrt = point.pair, _wrt(point)
    still = {name: map_leaves(_exact_leaf, x, name) for name, x in (point.arrays | point.options).items()}
    directions = {path: _eighths(path, x.shape) for name in wrt for path, x in leaves(still[name], name)}
    moving = {name: map_leaves(lambda path, x: _along(directions, path, x), x, name) for name, x in still.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with following() as trail:
            value = pair.loss(_call(pair.value, point, moving))
        upstream = exact(_eighths("upstream", value.shape)) if pair.takes_upstream else exact(np.ones(()))
        gradient = _gradient(point, still, upstream, value)
    derivative = np.sum(rate(value).values * upstream.values)
    products = {}
    for name in wrt:
        slopes = dict(leaves(gradient[name], name))
        shapes = {path: x.shape for path, x in leaves(still[name], name)}
        if {path: slope.shape for path, slope in slopes.items()} != shapes:
            raise GradientMismatchError(f"the gradient wrt {name} is not of its argument's structure and shape")
        products[name] = sum((np.sum(x.values * directions[path], initial=ZERO) for path, x in slopes.items()), ZERO)
    product = sum(products.values(), ZERO)
    differing = tuple(name for name, own in products.items() if own != 0)
    return Agreement(derivative, product, _digits(derivative, product), trail.piece, differing)


def _wrt(point: Point) -> tuple[str, ...]:
    """Return the arguments that the gradient is asked for."""
    if isinstance(point.request, tuple):
        return point.request
    return tuple(name for name in point.pair.wrt if name in point.arrays or point.options.get(name) is not None)


def _exact_leaf(_: str, x: Any) -> Any:
    return exact(x) if isinstance(x, np.ndarray | np.generic) else x


def _along(directions: dict[str, Any], path: str, x: Any) -> Any:
    return ExactArray(x.values, directions[path]) if path in directions else x


def _eighths(path: str, shape: tuple[int, ...]) -> Any:
    """Return a direction for an argument: numbers ±1/8 … ±1, none of them 0."""
    generator = np.random.default_rng(list(path.encode()))
    return exact(generator.integers(1, 9, shape) * generator.choice([-0.125, 0.125], shape)).values


def _call(function: Callable[..., Any], point: Point, given: dict[str, Any], **more: Any) -> Any:
    arrays = [given[name] for name in point.arrays]
    return function(*arrays, **{name: given[name] for name in point.options}, **more)


def _gradient(point: Point, given: dict[str, Any], upstream: ExactArray, value: ExactArray) -> dict[str, Any]:
    """Return the gradient by argument, as the point requests it."""
    pair, wrt = point.pair, _wrt(point)
    scale = {"upstream": upstream} if pair.takes_upstream else {}
    if point.request == "value_and_gradient":
        again, gradient = _call(value_and_gradient(pair), point, given, **scale)
        worst = min(map(_digits, np.ravel(pair.loss(again).values), np.ravel(value.values)))
        if worst < PROVED:
            raise GradientMismatchError(f"value_and_gradient has another value than the loss, from digit {worst} on")
    elif point.request == "gradient":
        gradient = _call(pair.gradient, point, given, **scale)
    elif len(wrt) == 1:
        return {wrt[0]: _call(pair.gradient, point, given, wrt=wrt[0], **scale)}
    else:
        return dict(_call(pair.gradient, point, given, wrt=wrt, **scale))
    return dict(gradient) if len(pair.wrt) > 1 else {pair.wrt[0]: gradient}


def _digits(x: Number, y: Number) -> int:
    """Return to how many digits two numbers agree."""
    difference, scale = abs(x - y), max(abs(x), abs(y))
    if difference != difference:
        return 0
    if difference == 0:
        return DIGITS
    return max(0, min(DIGITS, math.floor(-float(CONTEXT.log10(difference / scale)))))
