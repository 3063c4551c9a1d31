"""Regularization of parameters: an array, or any nesting of dicts and lists of arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, Unpack

from mithril_losses.backends.namespaces import Array, array_namespace, placement
from mithril_losses.catalogue import both_of, gradient_of
from mithril_losses.domains import NON_NEGATIVE, REAL, Axis, Matrices, Parameters, Predicate
from mithril_losses.numerics.flattening import Flattening
from mithril_losses.numerics.reduction import NoOthers
from mithril_losses.numerics.trees import leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, compute_dtype, normalize_axis, require_one_number
from mithril_losses.templates.elements import Elementwise, elementwise
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, diagonal_curvature, unreduced

__all__ = [
    "l1_regularization",
    "l1_regularization_gradient",
    "l2_regularization",
    "l2_regularization_gradient",
    "orthogonal_regularization",
    "orthogonal_regularization_gradient",
    "orthogonal_regularization_value_and_gradient",
    "spectral_norm_regularization",
    "spectral_norm_regularization_gradient",
    "spectral_norm_regularization_value_and_gradient",
]

_SELECT = Predicate()
_DOMAIN: dict[str, Any] = {"params": Parameters(), "lambda_reg": NON_NEGATIVE, "select": _SELECT}

Select = Callable[[str, Any], bool]
ParamsT = TypeVar("ParamsT")  # the gradient is a nesting like that of the parameters
# (namespace, path, array in the dtype to compute in, λ) → the penalty, and a function of a number that returns its
# derivative times λ and this number
Rule = Callable[[Any, str, Array, Any], tuple[Array, Callable[[float], Array]]]


class _Second(NamedTuple):
    """The second derivatives of the penalty of one array: products with a vector, the diagonal, a bound if known."""

    product: Callable[[Array], Array]
    diagonal: Callable[[], Array]
    bound: Callable[[], Array] | None = None
    is_diagonal: bool = False


# (namespace, path, array in the dtype to compute in) → the second derivatives of its penalty
SecondRule = Callable[[Any, str, Array], _Second]


def _over_leaves(rule: Rule, params: Any, lambda_reg: Any, second: SecondRule | None = None) -> Losses:
    """Return λ Σ rule(w) over all arrays of the nesting."""
    arrays = dict(leaves(params))
    if not arrays:
        raise ValueError("params holds no array to regularize")
    xp = array_namespace(**arrays)
    strength = require_one_number(xp, "lambda_reg", lambda_reg, getattr(lambda_reg, "dtype", None))
    computed = {path: as_dtype(xp, w, compute_dtype(xp, w.dtype, path)) for path, w in arrays.items()}
    found = {path: rule(xp, path, w, strength) for path, w in computed.items()}
    total, *others = (penalty for penalty, _ in found.values())
    for penalty in others:
        total = total + penalty

    def scaled(factor: float) -> dict[str, Any]:
        return {"params": map_leaves(lambda path, _: found[path][1](factor), params)}

    if second is None:
        return Losses(strength * total, lambda: scaled(1.0), scaled=scaled)

    def curvature() -> Curvature:
        seconds = {path: second(xp, path, w) for path, w in computed.items()}
        bounded = all(each.bound is not None for each in seconds.values())

        def of_leaves(part: Callable[[str], Array]) -> dict[str, Any]:
            return {"params": map_leaves(lambda path, _: strength * part(path), params)}

        def product(vectors: Named) -> dict[str, Any]:
            moved = dict(leaves(vectors["params"]))
            return of_leaves(lambda path: seconds[path].product(moved[path]))

        diagonal = functools.partial(of_leaves, lambda path: seconds[path].diagonal())
        bound = functools.partial(of_leaves, lambda path: (seconds[path].bound or seconds[path].diagonal)())
        if all(each.is_diagonal for each in seconds.values()):
            return diagonal_curvature(xp, diagonal, bound)
        return Curvature(product, diagonal, bound if bounded else None)

    return Losses(strength * total, lambda: scaled(1.0), scaled=scaled, curvature=curvature)


def _over_elements(
    terms: Elementwise,
    second: float,
    params: Any,
    lambda_reg: Any,
    select: Select | None,
) -> Losses:
    """Return λ times the sum of the terms over the selected arrays; the slope of all other elements is 0."""
    given = {} if select is None else dict(leaves(params))

    def rule(xp: Any, path: str, w: Array, strength: Any) -> tuple[Array, Callable[[float], Array]]:
        if select is not None and not select(path, given[path]):
            return xp.zeros((), dtype=w.dtype, **placement(w)), lambda factor: xp.zeros_like(w)
        found = terms.in_one_pass(w, strength) if type(strength) is float else None
        if found is not None:
            total, gradient = found
            # both numbers together, because the gradient alone may vanish or overflow
            return total, lambda u: gradient if u == 1.0 else terms.terms(xp, w)[1] * (strength * u)
        penalties, slopes = terms.terms(xp, w)
        return xp.sum(penalties), lambda factor: slopes * (strength * factor)

    def second_rule(xp: Any, path: str, w: Array) -> _Second:
        chosen = select is None or select(path, given[path])
        bound = xp.ones_like(w) if chosen else xp.zeros_like(w)  # of |w|, which has a kink, as of ½ w²
        return _Second(lambda v: second * bound * v, lambda: second * bound, lambda: bound, is_diagonal=True)

    return _over_leaves(rule, params, lambda_reg, second_rule)


@elementwise(w=REAL)
def _magnitude(xp: Any, w: Array) -> tuple[Array, Array]:
    return xp.abs(w), xp.sign(w)


@elementwise(w=REAL)
def _half_square(xp: Any, w: Array) -> tuple[Array, Array]:
    return 0.5 * w * w, w


@unreduced(curved=True, kinks=lambda params, lambda_reg, select=None: tuple(w for _, w in leaves(params)), **_DOMAIN)
def _l1(params: Any, lambda_reg: Any, select: Select | None, wanted: Wanted) -> Losses:
    return _over_elements(_magnitude, 0.0, params, lambda_reg, select)


@unreduced(curved=True, **_DOMAIN)
def _l2(params: Any, lambda_reg: Any, select: Select | None, wanted: Wanted) -> Losses:
    return _over_elements(_half_square, 1.0, params, lambda_reg, select)


def l1_regularization(
    params: Any, *, lambda_reg: float = 0.01, select: Select | None = None, **others: Unpack[NoOthers]
) -> Array:
    """λ Σ |w|.

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.
        select: a function of the path of an array, such as `params['layer']['bias']`, and of the array: whether it is
            regularized. By default all arrays are; `select=lambda path, w: w.ndim > 1` leaves out biases.

    Returns:
        A scalar: the sum over all elements of the selected arrays, 0 if none is selected.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is not an array, or not floating point.

    Example:
        ½ (1 + 2 + 3) = 3.

        >>> import numpy as np
        >>> float(l1_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.0

    Source:
        R. Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
        https://doi.org/10.1111/j.2517-6161.1996.tb02080.x
    """
    return _l1.value(params, lambda_reg, select, **others)


@gradient_of(
    l1_regularization, terms=_l1, properties=("convex", "non_negative", "constant_curvature", "zero_curvature")
)
def l1_regularization_gradient(
    params: ParamsT,
    *,
    lambda_reg: float = 0.01,
    select: Select | None = None,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> ParamsT:
    """λ sign(w), with sign(0) = 0.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Example:
        >>> import numpy as np
        >>> l1_regularization_gradient([np.array([1.0, -2.0, 0.0])], lambda_reg=0.5)
        [array([ 0.5, -0.5,  0. ])]
    """
    return _l1.gradient(params, lambda_reg, select, upstream=upstream, **others)


def l2_regularization(
    params: Any, *, lambda_reg: float = 0.01, select: Select | None = None, **others: Unpack[NoOthers]
) -> Array:
    """½ λ Σ w².

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.
        select: a function of the path of an array, such as `params['layer']['bias']`, and of the array: whether it is
            regularized. By default all arrays are; `select=lambda path, w: w.ndim > 1` leaves out biases.

    Returns:
        A scalar: the sum over all elements of the selected arrays, 0 if none is selected.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is not an array, or not floating point.

    Example:
        ½ · ½ (1 + 4 + 9) = 3.5.

        >>> import numpy as np
        >>> float(l2_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.5

    Source:
        A. E. Hoerl and R. W. Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, 1970. https://doi.org/10.1080/00401706.1970.10488634
    """
    return _l2.value(params, lambda_reg, select, **others)


@gradient_of(l2_regularization, terms=_l2, properties=("convex", "non_negative", "constant_curvature"))
def l2_regularization_gradient(
    params: ParamsT,
    *,
    lambda_reg: float = 0.01,
    select: Select | None = None,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> ParamsT:
    """λ w.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Example:
        >>> import numpy as np
        >>> l2_regularization_gradient({"w": np.array([1.0, -2.0])}, lambda_reg=0.5)
        {'w': array([ 0.5, -1. ])}
    """
    return _l2.gradient(params, lambda_reg, select, upstream=upstream, **others)


# --- of matrices ------------------------------------------------------------------------------------------------------

_MATRICES: dict[str, Any] = {"params": Matrices(), "lambda_reg": NON_NEGATIVE, "output_axis": Axis()}

# (namespace, matrix, whether to return slopes) → penalty, its derivative by the matrix or None
MatrixRule = Callable[[Any, Array, bool], tuple[Array, Array | None]]


def _over_matrices(
    matrix_rule: MatrixRule,
    params: Any,
    lambda_reg: Any,
    output_axis: int,
    wanted: Wanted,
    second: Callable[[Any, Array], _Second] | None = None,
) -> Losses:
    """Return λ Σ rule(W) over all arrays, each seen as a matrix."""

    def view_of(path: str, w: Array) -> Flattening:
        shape = tuple(w.shape)
        if len(shape) < 2:
            raise ValueError(f"{path} must be a matrix, or have more axes than two, got shape {shape}")
        rows = normalize_axis("output_axis", output_axis, len(shape))
        return Flattening.along(tuple(i for i in range(len(shape)) if i != rows), shape)

    def rule(xp: Any, path: str, w: Array, strength: Any) -> tuple[Array, Callable[[float], Array]]:
        view = view_of(path, w)
        penalty, slope = matrix_rule(xp, view.of(xp, w), bool(wanted))
        return penalty, lambda factor: view.back(xp, slope) * (strength * factor)

    def second_rule(xp: Any, path: str, w: Array) -> _Second:
        assert second is not None
        view = view_of(path, w)
        found = second(xp, view.of(xp, w))
        return _Second(lambda v: view.back(xp, found.product(view.of(xp, v))), lambda: view.back(xp, found.diagonal()))

    return _over_leaves(rule, params, lambda_reg, None if second is None else second_rule)


def _gram(xp: Any, matrix: Array) -> tuple[bool, Array]:
    """Return whether W has no more rows than columns, and the smaller one of WWᵀ and WᵀW."""
    is_wide = matrix.shape[0] <= matrix.shape[1]
    transposed = xp.matrix_transpose(matrix)
    return is_wide, matrix @ transposed if is_wide else transposed @ matrix


def _orthogonality(xp: Any, matrix: Array, with_slope: bool) -> tuple[Array, Array | None]:
    """‖G − I‖² with G the smaller of WWᵀ and WᵀW, and 4 (G − I) W or 4 W (G − I)."""
    is_wide, gram = _gram(xp, matrix)
    excess = gram - xp.eye(gram.shape[0], dtype=gram.dtype, **placement(gram))
    slope = None
    if with_slope:
        slope = 4.0 * (excess @ matrix if is_wide else matrix @ excess)
    return xp.sum(excess * excess), slope


def _orthogonality_second(xp: Any, matrix: Array) -> _Second:
    """With E = G − I and W wide: H V = 4 (E V + (V Wᵀ + W Vᵀ) W), whose diagonal is 4 (E_ii + ‖w_j‖² + W_ij²)."""
    if matrix.shape[0] > matrix.shape[1]:
        turned = _orthogonality_second(xp, xp.matrix_transpose(matrix))
        turn = xp.matrix_transpose
        return _Second(lambda v: turn(turned.product(turn(v))), lambda: turn(turned.diagonal()))
    transposed = xp.matrix_transpose(matrix)
    identity = xp.eye(matrix.shape[0], dtype=matrix.dtype, **placement(matrix))
    excess = matrix @ transposed - identity

    def product(v: Array) -> Array:
        moved = v @ transposed
        return 4.0 * (excess @ v + (moved + xp.matrix_transpose(moved)) @ matrix)

    def diagonal() -> Array:
        squares = matrix * matrix
        of_row = xp.sum(excess * identity, axis=-1, keepdims=True)
        return 4.0 * (of_row + xp.sum(squares, axis=0, keepdims=True) + squares)

    return _Second(product, diagonal)


@unreduced(curved=True, **_MATRICES)
def _orthogonal(params: Any, lambda_reg: Any, output_axis: int, wanted: Wanted) -> Losses:
    return _over_matrices(_orthogonality, params, lambda_reg, output_axis, wanted, _orthogonality_second)


def orthogonal_regularization(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, **others: Unpack[NoOthers]
) -> Array:
    """λ Σ ‖WWᵀ − I‖², or ‖WᵀW − I‖² where W has more rows than columns; ‖·‖ is Frobenius' norm.

    The penalty is 0 if the rows of W, or its columns if there are fewer of them, are orthonormal.

    Args:
        params: W, a matrix, or a dict, list or nesting of matrices. An array of more axes, such as a kernel of a
            convolution, is treated as a matrix with `output_axis` as rows and all other axes as columns.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs: 0 in PyTorch, −1 for kernels of Flax and Keras. A transposed matrix has
            the same penalty.

    Returns:
        A scalar: the sum over all arrays.

    Raises:
        ValueError: lambda_reg is negative, an array has fewer than two axes or lacks the output axis, or there is no
            array in `params`.
        TypeError: something in `params` is not an array, or not floating point.

    Example:
        WWᵀ − I = ((1, 2), (2, 3)): 1 + 4 + 4 + 9 = 18.

        >>> import numpy as np
        >>> w = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
        >>> float(orthogonal_regularization(w, lambda_reg=0.5))
        9.0

    Source:
        N. Bansal, X. Chen and Z. Wang, Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?,
        2018. https://arxiv.org/abs/1810.09102
    """
    return _orthogonal.value(params, lambda_reg, output_axis, **others)


@gradient_of(orthogonal_regularization, terms=_orthogonal, properties=("non_negative",))
def orthogonal_regularization_gradient(
    params: ParamsT,
    *,
    lambda_reg: float = 0.01,
    output_axis: int = 0,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> ParamsT:
    """4 λ (WWᵀ − I) W, which is 4 λ W (WᵀW − I).

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Example:
        ½ · 4 (2² − 1) · 2 = 12.

        >>> import numpy as np
        >>> orthogonal_regularization_gradient(np.array([[2.0, 0.0], [0.0, 1.0]]), lambda_reg=0.5).tolist()
        [[12.0, 0.0], [0.0, 0.0]]
    """
    return _orthogonal.gradient(params, lambda_reg, output_axis, upstream=upstream, **others)


orthogonal_regularization_value_and_gradient = both_of(orthogonal_regularization_gradient)


def _spectral(xp: Any, matrix: Array, with_slope: bool) -> tuple[Array, Array | None]:
    """½ σ² and σ u vᵀ, with σ the largest singular value; σ² and u (or v) are an eigenpair of the Gram matrix."""
    if 0 in matrix.shape:
        return xp.sum(matrix), matrix if with_slope else None
    unit = _unit_of_squares(xp, matrix)
    matrix = matrix / unit
    is_wide, gram = _gram(xp, matrix)
    # the libraries disagree about matrices that are not finite: some raise, some return NaN
    trace = xp.linalg.trace(gram)
    is_finite = xp.isfinite(trace)
    gram = xp.where(is_finite, gram, 0.0)
    if not with_slope:
        return 0.5 * xp.where(is_finite, xp.linalg.eigvalsh(gram)[-1], trace) * unit * unit, None
    squares, vectors = xp.linalg.eigh(gram)
    own = vectors[:, -1:]  # eigenvalues are in ascending order
    slope = own @ (xp.matrix_transpose(own) @ matrix) if is_wide else matrix @ own @ xp.matrix_transpose(own)
    value = 0.5 * xp.where(is_finite, squares[-1], trace) * unit * unit
    return value, xp.where(is_finite, slope * unit, math.nan)


def _unit_of_squares(xp: Any, x: Array) -> Array:
    """Return a unit for x in which its squares neither overflow nor vanish: 1 if they do neither without it."""
    limits = xp.finfo(x.dtype)
    smallest, largest = float(limits.smallest_normal), xp.max(xp.abs(x))
    low, high = (smallest / float(limits.eps)) ** 0.5, (float(limits.eps) / smallest) ** 0.5
    # the reciprocal must be finite, too
    return xp.where((largest > low) & (largest < high), 1.0, xp.minimum(xp.maximum(largest, smallest), 1.0 / smallest))


def _spectral_gaps(params: Any, lambda_reg: Any, output_axis: int) -> tuple[Array, ...]:
    """Return, for every element of an array, the gap between the two largest singular values of the array."""
    found = []
    for _, w in leaves(params):
        xp, shape = array_namespace(w=w), tuple(w.shape)
        rows = output_axis % len(shape)
        matrix = Flattening.along(tuple(i for i in range(len(shape)) if i != rows), shape).of(xp, w)
        values = xp.linalg.svdvals(matrix)
        gap = values[0] - values[1] if values.shape[0] > 1 else values[0]
        found.append(xp.ones_like(w) * gap)
    return tuple(found)


@unreduced(kinks=_spectral_gaps, **_MATRICES)
def _spectral_norm(params: Any, lambda_reg: Any, output_axis: int, wanted: Wanted) -> Losses:
    return _over_matrices(_spectral, params, lambda_reg, output_axis, wanted)


def spectral_norm_regularization(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, **others: Unpack[NoOthers]
) -> Array:
    """½ λ Σ σ(W)², with σ the largest singular value: how much a layer can stretch a difference between its inputs.

    σ is exact: it comes from an eigendecomposition of the smaller one of WWᵀ and WᵀW.

    Args:
        params: W, a matrix, or a dict, list or nesting of matrices. An array of more axes, such as a kernel of a
            convolution, is treated as a matrix with `output_axis` as rows and all other axes as columns.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs: 0 in PyTorch, −1 for kernels of Flax and Keras. A transposed matrix has
            the same penalty.

    Returns:
        A scalar: the sum over all arrays.

    Raises:
        ValueError: lambda_reg is negative, an array has fewer than two axes or lacks the output axis, or there is no
            array in `params`.
        TypeError: something in `params` is not an array, or not floating point.

    Example:
        WWᵀ = ((25, 0), (0, 4)), so σ = 5: ½ · ½ · 25 = 6.25.

        >>> import numpy as np
        >>> w = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
        >>> round(float(spectral_norm_regularization(w, lambda_reg=0.5)), 12)
        6.25

    Source:
        Y. Yoshida and T. Miyato, Spectral Norm Regularization for Improving the Generalizability of Deep Learning,
        2017. https://arxiv.org/abs/1705.10941
    """
    return _spectral_norm.value(params, lambda_reg, output_axis, **others)


@gradient_of(spectral_norm_regularization, terms=_spectral_norm, properties=("convex", "non_negative"))
def spectral_norm_regularization_gradient(
    params: ParamsT,
    *,
    lambda_reg: float = 0.01,
    output_axis: int = 0,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> ParamsT:
    """λ σ u vᵀ, with u and v the singular vectors of σ.

    If several singular values are the largest, there is no derivative; u and v then belong to one of them.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Example:
        u = (1, 0) and v = (3, 4, 0) / 5: the slope is σ v in the first row.

        >>> import numpy as np
        >>> w = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
        >>> abs(spectral_norm_regularization_gradient(w, lambda_reg=0.5).round(12)).tolist()
        [[1.5, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _spectral_norm.gradient(params, lambda_reg, output_axis, upstream=upstream, **others)


spectral_norm_regularization_value_and_gradient = both_of(spectral_norm_regularization_gradient)
