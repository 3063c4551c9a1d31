"""Regularization of parameters: an array, or any nesting of dicts and lists of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mithril_losses._pairs import gradient_of, value_and_gradient_of
from mithril_losses._reduction import spread
from mithril_losses._rows import Rows
from mithril_losses._tree import leaves, map_leaves
from mithril_losses._validation import as_dtype, compute_dtype, normalize_axis, quiet, require_one_number
from mithril_losses.backends._namespace import Array, array_namespace, placement
from mithril_losses.domains import NON_NEGATIVE, Axis, Matrices, Parameters, Predicate

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
_DOMAIN = {"params": Parameters(), "lambda_reg": NON_NEGATIVE, "select": _SELECT}

Select = Callable[[str, Any], bool]


def _is_selected(select: Select | None, path: str, w: Array) -> bool:
    checked = _SELECT.check("select", select)
    return checked is None or bool(checked(path, w))


def _strength(xp: Any, lambda_reg: Any) -> Any:
    checked = NON_NEGATIVE.check("lambda_reg", lambda_reg)
    return require_one_number(xp, "lambda_reg", checked, getattr(checked, "dtype", None))


def _arrays(params: Any) -> dict[str, Array]:
    arrays = dict(leaves(params))
    if not arrays:
        raise ValueError("params holds no array to regularize")
    return arrays


def _wide(xp: Any, path: str, w: Array) -> Array:
    return as_dtype(xp, w, compute_dtype(xp, w.dtype, path))


def _total(xp: Any, sums: list[Array], strength: Any, dtype: Any) -> Array:
    """Return λ times the sum, in the dtype of the first array."""
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    return as_dtype(xp, strength * total, dtype)


def _sum_over_leaves(
    penalty: Callable[[Any, Array], Array], params: Any, lambda_reg: float, select: Select | None
) -> Array:
    """Return λ Σ penalty(w) over the selected arrays of the nesting."""
    arrays = _arrays(params)
    xp = array_namespace(**arrays)
    strength = _strength(xp, lambda_reg)
    wide = {path: _wide(xp, path, w) for path, w in arrays.items()}
    with quiet(xp):
        sums = [xp.sum(penalty(xp, w)) for path, w in wide.items() if _is_selected(select, path, arrays[path])]
        if not sums:
            sums = [xp.zeros_like(xp.sum(next(iter(wide.values()))))]
        return _total(xp, sums, strength, next(iter(arrays.values())).dtype)


def _spread_over_leaves(
    slope: Callable[[Any, Array], Array],
    params: Any,
    lambda_reg: float,
    select: Select | None,
    upstream: float | Array,
) -> Any:
    """Return λ u slope(w) in the structure of `params`, 0 for arrays that are not selected."""
    xp = array_namespace(**_arrays(params))
    strength = _strength(xp, lambda_reg)

    def gradient(path: str, w: Array) -> Array:
        wide = _wide(xp, path, w)
        found = slope(xp, wide) if _is_selected(select, path, w) else xp.zeros_like(wide)
        return spread(found, like=w, reduction="sum", upstream=strength * upstream)

    with quiet(xp):
        return map_leaves(gradient, params)


def l1_regularization(params: Any, *, lambda_reg: float = 0.01, select: Select | None = None) -> Array:
    """λ Σ |w|.

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.
        select: which arrays are regularised, a function of the path of each, such as "params['layer']['bias']", and of
            the array. All of them by default; `select=lambda path, w: w.ndim > 1` leaves out biases.

    Returns:
        A scalar: the sum over all elements of the selected arrays, 0 where none is.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is no array, or not floating point.

    Example:
        ½ (1 + 2 + 3) = 3.

        >>> import numpy as np
        >>> float(l1_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.0

    Source:
        R. Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
        https://doi.org/10.1111/j.2517-6161.1996.tb02080.x
    """
    return _sum_over_leaves(lambda xp, w: xp.abs(w), params, lambda_reg, select)


@gradient_of(
    l1_regularization,
    domain=_DOMAIN,
    kinks=lambda params, lambda_reg, select=None: tuple(w for _, w in leaves(params)),
    properties=("convex", "non_negative"),
)
def l1_regularization_gradient(
    params: Any, *, lambda_reg: float = 0.01, select: Select | None = None, upstream: float | Array = 1.0
) -> Any:
    """λ sign(w), with sign(0) = 0.

    Args:
        params: as in `l1_regularization`.
        lambda_reg: λ ≥ 0.
        select: which arrays are regularised; the gradient of all others is 0.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `l1_regularization`.
        TypeError: as in `l1_regularization`.

    Example:
        >>> import numpy as np
        >>> l1_regularization_gradient([np.array([1.0, -2.0, 0.0])], lambda_reg=0.5)
        [array([ 0.5, -0.5,  0. ])]
    """
    return _spread_over_leaves(lambda xp, w: xp.sign(w), params, lambda_reg, select, upstream)


def l2_regularization(params: Any, *, lambda_reg: float = 0.01, select: Select | None = None) -> Array:
    """½ λ Σ w².

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.
        select: which arrays are regularised, a function of the path of each, such as "params['layer']['bias']", and of
            the array. All of them by default; `select=lambda path, w: w.ndim > 1` leaves out biases.

    Returns:
        A scalar: the sum over all elements of the selected arrays, 0 where none is.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is no array, or not floating point.

    Example:
        ½ · ½ (1 + 4 + 9) = 3.5.

        >>> import numpy as np
        >>> float(l2_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.5

    Source:
        A. E. Hoerl and R. W. Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, 1970. https://doi.org/10.1080/00401706.1970.10488634
    """
    return _sum_over_leaves(lambda xp, w: 0.5 * w * w, params, lambda_reg, select)


@gradient_of(l2_regularization, domain=_DOMAIN, properties=("convex", "non_negative"))
def l2_regularization_gradient(
    params: Any, *, lambda_reg: float = 0.01, select: Select | None = None, upstream: float | Array = 1.0
) -> Any:
    """λ w.

    Args:
        params: as in `l2_regularization`.
        lambda_reg: λ ≥ 0.
        select: which arrays are regularised; the gradient of all others is 0.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `l2_regularization`.
        TypeError: as in `l2_regularization`.

    Example:
        >>> import numpy as np
        >>> l2_regularization_gradient({"w": np.array([1.0, -2.0])}, lambda_reg=0.5)
        {'w': array([ 0.5, -1. ])}
    """
    return _spread_over_leaves(lambda xp, w: w, params, lambda_reg, select, upstream)


# --- of matrices ------------------------------------------------------------------------------------------------------

_MATRICES = {"params": Matrices(), "lambda_reg": NON_NEGATIVE, "output_axis": Axis()}

# (xp, matrix, whether to return slopes) → penalty, its derivative by the matrix or None
MatrixRule = Callable[[Any, Array, bool], tuple[Array, Array | None]]


def _over_matrices(
    rule: MatrixRule, params: Any, lambda_reg: float, output_axis: int, slopes: bool = False, upstream: Any = 1.0
) -> tuple[Array, Any]:
    """Return λ Σ rule(W) over all arrays, each seen as a matrix, and its gradient where `slopes` asks for it."""
    arrays = _arrays(params)
    xp = array_namespace(**arrays)
    strength = _strength(xp, lambda_reg)
    penalties = []

    def penalize(path: str, w: Array) -> Array | None:
        wide, shape = _wide(xp, path, w), tuple(w.shape)
        if len(shape) < 2:
            raise ValueError(f"{path} must be a matrix, or have more axes than two, got shape {shape}")
        rows = normalize_axis("output_axis", output_axis, len(shape))
        view = Rows.along(tuple(i for i in range(len(shape)) if i != rows), shape)
        penalty, slope = rule(xp, view.of(xp, wide), slopes)
        penalties.append(penalty)
        if slope is None:
            return None
        return spread(view.back(xp, slope), like=w, reduction="sum", upstream=strength * upstream)

    with quiet(xp):
        gradients = map_leaves(penalize, params)
        return _total(xp, penalties, strength, next(iter(arrays.values())).dtype), gradients


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


def orthogonal_regularization(params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0) -> Array:
    """λ Σ ‖WWᵀ − I‖², or ‖WᵀW − I‖² where W has more rows than columns; ‖·‖ is Frobenius' norm.

    It is 0 where the rows of W, or the columns if there are fewer of them, are orthonormal.

    Args:
        params: W, a matrix, or a dict, list or nesting of matrices. An array of more axes, such as a kernel of a
            convolution, is the matrix with `output_axis` for rows and all other axes for columns.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs: 0 in PyTorch, −1 for kernels of Flax and Keras. A transposed matrix has
            the same penalty.

    Returns:
        A scalar: the sum over all arrays.

    Raises:
        ValueError: lambda_reg is negative, an array has fewer than two axes or lacks the output axis, or there is no
            array in `params`.
        TypeError: something in `params` is no array, or not floating point.

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
    return _over_matrices(_orthogonality, params, lambda_reg, output_axis)[0]


@gradient_of(orthogonal_regularization, domain=_MATRICES, properties=("non_negative",))
def orthogonal_regularization_gradient(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, upstream: float | Array = 1.0
) -> Any:
    """4 λ (WWᵀ − I) W, which is 4 λ W (WᵀW − I).

    Args:
        params: as in `orthogonal_regularization`; likewise `output_axis`.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `orthogonal_regularization`.
        TypeError: as in `orthogonal_regularization`.

    Example:
        ½ · 4 (2² − 1) · 2 = 12.

        >>> import numpy as np
        >>> orthogonal_regularization_gradient(np.array([[2.0, 0.0], [0.0, 1.0]]), lambda_reg=0.5).tolist()
        [[12.0, 0.0], [0.0, 0.0]]
    """
    return _over_matrices(_orthogonality, params, lambda_reg, output_axis, slopes=True, upstream=upstream)[1]


@value_and_gradient_of(orthogonal_regularization)
def orthogonal_regularization_value_and_gradient(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, upstream: float | Array = 1.0
) -> tuple[Array, Any]:
    """`orthogonal_regularization` and its gradient, whose products are computed once.

    Args:
        params: as in `orthogonal_regularization`; likewise `output_axis`.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        The value and the gradient.

    Example:
        >>> import numpy as np
        >>> w = np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> value, gradient = orthogonal_regularization_value_and_gradient(w, lambda_reg=0.5)
        >>> float(value), gradient.tolist()
        (4.5, [[12.0, 0.0], [0.0, 0.0]])
    """
    return _over_matrices(_orthogonality, params, lambda_reg, output_axis, slopes=True, upstream=upstream)


def _spectral(xp: Any, matrix: Array, with_slope: bool) -> tuple[Array, Array | None]:
    """½ σ² and σ u vᵀ, with σ the largest singular value; σ² and u are the Gram matrix's own, or σ² and v."""
    if 0 in matrix.shape:
        return xp.sum(matrix), matrix if with_slope else None
    unit = _unit_of_squares(xp, matrix)
    matrix = matrix / unit
    is_wide, gram = _gram(xp, matrix)
    # the decomposition of a matrix that is not finite is an error here and NaN there
    trace = xp.linalg.trace(gram)
    is_finite = xp.isfinite(trace)
    gram = xp.where(is_finite, gram, 0.0)
    if not with_slope:
        return 0.5 * xp.where(is_finite, xp.linalg.eigvalsh(gram)[-1], trace) * unit * unit, None
    squares, vectors = xp.linalg.eigh(gram)
    own = vectors[:, -1:]  # squares ascend
    slope = own @ (xp.matrix_transpose(own) @ matrix) if is_wide else matrix @ own @ xp.matrix_transpose(own)
    value = 0.5 * xp.where(is_finite, squares[-1], trace) * unit * unit
    return value, xp.where(is_finite, slope * unit, math.nan)


def _unit_of_squares(xp: Any, x: Array) -> Array:
    """Return a number in which the squares of x neither overflow nor vanish: 1 where they would not anyway."""
    limits = xp.finfo(x.dtype)
    smallest, largest = float(limits.smallest_normal), xp.max(xp.abs(x))
    low, high = (smallest / float(limits.eps)) ** 0.5, (float(limits.eps) / smallest) ** 0.5
    # a number whose reciprocal is one, too
    return xp.where((largest > low) & (largest < high), 1.0, xp.minimum(xp.maximum(largest, smallest), 1.0 / smallest))


def spectral_norm_regularization(params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0) -> Array:
    """½ λ Σ σ(W)², with σ the largest singular value: how much a layer can stretch a difference between its inputs.

    Exact, from an eigendecomposition of the smaller one of WWᵀ and WᵀW.

    Args:
        params: W, a matrix, or a dict, list or nesting of matrices. An array of more axes, such as a kernel of a
            convolution, is the matrix with `output_axis` for rows and all other axes for columns.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs: 0 in PyTorch, −1 for kernels of Flax and Keras. A transposed matrix has
            the same penalty.

    Returns:
        A scalar: the sum over all arrays.

    Raises:
        ValueError: lambda_reg is negative, an array has fewer than two axes or lacks the output axis, or there is no
            array in `params`.
        TypeError: something in `params` is no array, or not floating point.

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
    return _over_matrices(_spectral, params, lambda_reg, output_axis)[0]


def _spectral_gaps(params: Any, lambda_reg: Any, output_axis: int) -> tuple[Array, ...]:
    """Return, for every element of an array, how far its two largest singular values are apart."""
    found = []
    for _, w in leaves(params):
        xp, shape = array_namespace(w=w), tuple(w.shape)
        rows = output_axis % len(shape)
        matrix = Rows.along(tuple(i for i in range(len(shape)) if i != rows), shape).of(xp, w)
        values = xp.linalg.svdvals(matrix)
        gap = values[0] - values[1] if values.shape[0] > 1 else values[0]
        found.append(xp.ones_like(w) * gap)
    return tuple(found)


@gradient_of(
    spectral_norm_regularization, domain=_MATRICES, kinks=_spectral_gaps, properties=("convex", "non_negative")
)
def spectral_norm_regularization_gradient(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, upstream: float | Array = 1.0
) -> Any:
    """λ σ u vᵀ, with u and v the singular vectors of σ.

    Where several singular values are the largest there is no derivative, and u and v are those of one of them.

    Args:
        params: as in `spectral_norm_regularization`; likewise `output_axis`.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `spectral_norm_regularization`.
        TypeError: as in `spectral_norm_regularization`.

    Example:
        u = (1, 0) and v = (3, 4, 0) / 5: the slope is σ v in the first row.

        >>> import numpy as np
        >>> w = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
        >>> abs(spectral_norm_regularization_gradient(w, lambda_reg=0.5).round(12)).tolist()
        [[1.5, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _over_matrices(_spectral, params, lambda_reg, output_axis, slopes=True, upstream=upstream)[1]


@value_and_gradient_of(spectral_norm_regularization)
def spectral_norm_regularization_value_and_gradient(
    params: Any, *, lambda_reg: float = 0.01, output_axis: int = 0, upstream: float | Array = 1.0
) -> tuple[Array, Any]:
    """`spectral_norm_regularization` and its gradient, from one decomposition.

    Args:
        params: as in `spectral_norm_regularization`; likewise `output_axis`.
        lambda_reg: λ ≥ 0.
        output_axis: the axis of the outputs.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        The value and the gradient.

    Example:
        >>> import numpy as np
        >>> w = np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> value, gradient = spectral_norm_regularization_value_and_gradient(w, lambda_reg=0.5)
        >>> float(value), gradient.tolist()
        (1.0, [[1.0, 0.0], [0.0, 0.0]])
    """
    return _over_matrices(_spectral, params, lambda_reg, output_axis, slopes=True, upstream=upstream)
