"""Gradients checked in exact numbers: at each point, the derivative along a direction is gradient · direction.

The value is computed on dual numbers of sixty digits, so its rate of change is the derivative of what the code computes
on the piece of the domain that contains the point. The gradient is computed on the same numbers without rates. Its
upstream gradient is exact, too, so that the divisor of a mean is not a double.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mithril_losses.catalogue import catalogue, find_loss
from mithril_losses.checking.exact.arrays import ExactArray, exact, following, rate
from mithril_losses.checking.exact.points import OF_VARIANCES, Point, points
from mithril_losses.checking.exact.scalars import CONTEXT, DIGITS, ZERO, Number
from mithril_losses.checking.gradients import GradientMismatchError
from mithril_losses.execution import value_and_gradient
from mithril_losses.execution.curvature import hessian_vector_product
from mithril_losses.numerics.trees import leaves, map_leaves

PROVED = 30  # with so many digits a gradient counts as right, whatever limits them


@dataclass(frozen=True)
class Limit:
    """Why a loss keeps fewer digits than the arithmetic has.

    Attributes:
        losses: the names of the losses.
        digits: the least number of digits that they keep.
        reason: what limits the digits.
        holds: the points to which the limit applies; all by default.
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


def _has_a_small_error(point: Point) -> bool:
    error = np.abs(point.arrays["predictions"] - point.arrays["targets"])
    return bool((error < point.options.get("scale", 1.0)).any())


LIMITS = (
    Limit(
        ("triplet_loss", "wasserstein_distance", "sliced_wasserstein_distance"),
        15,
        "the exponent 1/p, a double (p no power of two)",
        _has_a_rounded_root,
    ),
    Limit(
        OF_VARIANCES,
        16,
        "the continued fraction of eˣ − 1 − x (|x| < 0.8)",
        _has_a_small_variance,
    ),
    Limit(("fair_loss",), 14, "the continued fraction of eˣ − 1 − x (errors below the scale)", _has_a_small_error),
    Limit(("sinkhorn_divergence",), 48, "the end of the iterations (masses right to 10⁻⁵⁰)"),
)


ARITHMETIC = "the arithmetic"


@dataclass
class ExactCheck:
    """The result of the exact check of a loss.

    Attributes:
        loss: its name.
        points: the number of points that were checked.
        pieces: the number of pieces of the domain that contain them; on a piece, all decisions of the loss are equal.
        digits: the least number of digits to which derivative and gradient agree, by what limits them: the arithmetic,
            or the reason of a `Limit`.
        failures: the errors that were found, by point.
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
        """The digits and the pieces, and, if it is not the arithmetic, what limits the digits."""
        pieces = f"on {self.pieces} piece{'s' * (self.pieces != 1)}"
        limits = ["" if reason == ARITHMETIC else f", limited by {reason}" for reason in self.digits]
        places = [f" {pieces}", *("" for _ in limits[1:])]
        digits = self.digits.values()
        return "; ".join(f"{n} digits{where}{limit}" for n, where, limit in zip(digits, places, limits, strict=True))


def check_exact(loss: str | Callable[..., Any]) -> ExactCheck:
    """Check the gradient of a registered loss in exact numbers, at points drawn from its domain.

    Args:
        loss: a loss that declares its domain, or its name.

    Returns:
        The number of digits that agree, and the failures.

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
            agreements = compare(point)
        except Exception as error:
            found.failures.append(f"{point}: {type(error).__name__}: {error}")
            continue
        limit = _limit(point)
        reason, least = (ARITHMETIC, PROVED) if limit is None else (limit.reason, limit.digits)
        for agreement in agreements:
            pieces.add(agreement.piece)
            moving |= dict.fromkeys(agreement.moving, True)
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


def check_exact_curvature(loss: str | Callable[..., Any]) -> ExactCheck:
    """Check the second derivatives of a registered loss in exact numbers, at points drawn from its domain.

    The gradient is computed on dual numbers, so its rate of change along a direction d is H d. It is compared, element
    by element, with the product that is computed by hand.

    Args:
        loss: a loss that has curvature, or its name.

    Returns:
        The number of digits that agree, relative to the largest element, and the failures.

    Raises:
        ValueError: there is no such loss, or it has no curvature.

    Example:
        >>> check = check_exact_curvature("huber_loss")
        >>> check.is_right, check.summary.partition(" on ")[0]
        (True, '60 digits')
    """
    pair = find_loss(loss)
    product = hessian_vector_product(pair)
    found, pieces = ExactCheck(pair.name), set()
    for point in points(pair):
        found.points += 1
        try:
            piece, digits = _compare_curvature(replace(point, wrt=()), product)
        except Exception as error:
            found.failures.append(f"{point}: {type(error).__name__}: {error}")
            continue
        pieces.add(piece)
        limit = _limit(point) if digits < PROVED else None  # most limits are those of a value
        reason, least = (ARITHMETIC, PROVED) if limit is None else (limit.reason, limit.digits)
        found.digits[reason] = min(found.digits.get(reason, DIGITS), digits)
        if digits < least:
            found.failures.append(
                f"{point}: H · direction agrees with the derivative of the gradient to {digits} digits"
            )
    found.pieces = len(pieces)
    found.digits = dict(sorted(found.digits.items(), key=lambda item: item[0] != ARITHMETIC))
    return found


def _compare_curvature(point: Point, product: Callable[..., Any]) -> tuple[str, int]:
    """Return the piece that contains a point, and the digits to which H d and the derivative of the gradient agree."""
    pair, wrt = point.pair, _wrt(point)
    still = {name: map_leaves(_exact_leaf, x, name) for name, x in (point.arrays | point.options).items()}
    directions = {path: _eighths(path, x.shape) for name in wrt for path, x in leaves(still[name], name)}
    moving = {name: map_leaves(lambda path, x: _along(directions, path, x), x, name) for name, x in still.items()}
    vectors = {name: map_leaves(lambda path, _: exact(directions[path]), still[name], name) for name in wrt}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with following() as trail:
            gradient = _by_argument(point, _call(pair.gradient, point, moving))
        vector = vectors if len(pair.wrt) > 1 else vectors[pair.wrt[0]]
        by_hand = _by_argument(point, _call(product, point, still, vector=vector))
    digits = DIGITS
    for name, tree in gradient.items():
        for (path, slope), (_, x) in zip(leaves(tree, name), leaves(by_hand[name], name), strict=True):
            if x.shape != slope.shape:
                raise GradientMismatchError(f"H · direction wrt {path} has the shape {x.shape}, not {slope.shape}")
            digits = min(digits, _digits_of_arrays(rate(slope).values, x.values))
    return trail.piece, digits


def _digits_of_arrays(one: Any, other: Any) -> int:
    """Return the number of digits to which two arrays agree, relative to their largest element."""
    scale = max((abs(x) for x in (*one.flat, *other.flat)), default=ZERO)
    differences = [abs(x - y) for x, y in zip(one.flat, other.flat, strict=True)]
    if any(x != x for x in differences):
        return 0
    largest = max(differences, default=ZERO)
    return DIGITS if largest == 0 else max(0, min(DIGITS, math.floor(-float(CONTEXT.log10(largest / scale)))))


def _limit(point: Point) -> Limit | None:
    return next((limit for limit in LIMITS if point.pair.name in limit.losses and limit.holds(point)), None)


# --- one point --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """The comparison of derivative and gradient at a point.

    Attributes:
        by: the function that returned the gradient, "gradient" or "value_and_gradient".
        derivative: the derivative of the value along the direction.
        product: gradient · direction.
        piece: the name of the piece that contains the point.
        moving: the arguments whose gradient is not 0.
    """

    by: str
    derivative: Number
    product: Number
    piece: str
    moving: tuple[str, ...]

    @property
    def digits(self) -> int:
        """The number of digits to which derivative and product agree."""
        return _digits(self.derivative, self.product)

    def __str__(self) -> str:
        derivative, product = (CONTEXT.nstr(x, self.digits + 6) for x in (self.derivative, self.product))
        return f"by {self.by}, gradient · direction = {product}, but the derivative is {derivative}"


def compare(point: Point) -> list[Agreement]:
    """Compare the derivative of the value along a direction with gradient · direction, for both gradient functions.

    Raises:
        GradientMismatchError: a gradient does not have the structure and shape of its argument, or the value of
            `value_and_gradient` differs from the loss.
    """
    pair, wrt = point.pair, _wrt(point)
    still = {name: map_leaves(_exact_leaf, x, name) for name, x in (point.arrays | point.options).items()}
    directions = {path: _eighths(path, x.shape) for name in wrt for path, x in leaves(still[name], name)}
    moving = {name: map_leaves(lambda path, x: _along(directions, path, x), x, name) for name, x in still.items()}
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with following() as trail:
            value = pair.total_of(_call(pair.value, point, moving))
        upstream = exact(_eighths("upstream", value.shape)) if pair.takes_upstream else exact(np.ones(()))
        derivative = np.sum(rate(value).values * upstream.values)
        more = ({"upstream": upstream} if pair.takes_upstream else {}) | ({"wrt": _request(point)} if point.wrt else {})
        again, other = _call(value_and_gradient(pair), point, still, **more)
        _require_equal(value, pair.total_of(again))
        gradients = {"gradient": _call(pair.gradient, point, still, **more), "value_and_gradient": other}
    for by, gradient in gradients.items():
        products = _products(_by_argument(point, gradient), directions)
        differing = tuple(name for name, product in products.items() if product != 0)
        found.append(Agreement(by, derivative, sum(products.values(), ZERO), trail.piece, differing))
    return found


def _products(gradient: dict[str, Any], directions: dict[str, Any]) -> dict[str, Number]:
    """Return gradient · direction by argument."""
    slopes = {path: x for name, tree in gradient.items() for path, x in leaves(tree, name)}
    if {path: x.shape for path, x in slopes.items()} != {path: x.shape for path, x in directions.items()}:
        raise GradientMismatchError(
            f"the gradients {_shapes(slopes)} are not of the structure and shape of the arguments {_shapes(directions)}"
        )
    products = {path: np.sum(x.values * directions[path], initial=ZERO) for path, x in slopes.items()}
    return {name: sum((products[path] for path, _ in leaves(tree, name)), ZERO) for name, tree in gradient.items()}


def _shapes(arrays: dict[str, Any]) -> str:
    return ", ".join(f"{path} {x.shape}" for path, x in arrays.items())


def _require_equal(value: ExactArray, again: ExactArray) -> None:
    worst = min(map(_digits, value.values.flat, again.values.flat), default=DIGITS)
    if worst < PROVED:
        raise GradientMismatchError(f"value_and_gradient has another value than the loss, from digit {worst} on")


def _wrt(point: Point) -> tuple[str, ...]:
    """Return the arguments of the gradient; an optional argument only if it is given."""
    given = [name for name in point.pair.wrt if name in point.arrays or point.options.get(name) is not None]
    return point.wrt or tuple(given)


def _request(point: Point) -> str | tuple[str, ...]:
    return point.wrt[0] if len(point.wrt) == 1 else point.wrt


def _by_argument(point: Point, gradient: Any) -> dict[str, Any]:
    is_dict = len(point.wrt) > 1 if point.wrt else len(point.pair.wrt) > 1
    return dict(gradient) if is_dict else {_wrt(point)[0]: gradient}


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


def _digits(x: Number, y: Number) -> int:
    """Return the number of digits to which two numbers agree."""
    difference, scale = abs(x - y), max(abs(x), abs(y))
    if difference != difference:
        return 0
    if difference == 0:
        return DIGITS
    return max(0, min(DIGITS, math.floor(-float(CONTEXT.log10(difference / scale)))))
