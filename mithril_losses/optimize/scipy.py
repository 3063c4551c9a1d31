"""The loss of a compiled model as a function of one vector of parameters, with gradient and curvature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from mithril_losses.backends.namespaces import host_values, namespace_of, placement
from mithril_losses.execution.curvature import hessian_diagonal
from mithril_losses.models import CompiledModel
from mithril_losses.numerics.trees import add_into, leaves, map_leaves
from mithril_losses.objectives import Objective
from mithril_losses.templates.second_order import Kind

Vector = np.ndarray[Any, np.dtype[np.float64]]

_SQUARE = 1e-6  # how far ½ Σ r² may be from the loss, relative to it: rounding of single precision


def scipy_objective(
    model: CompiledModel, objective: Objective, data: Mapping[str, Any], params: Any, *, curvature: Kind = "exact"
) -> ScipyObjective:
    """Return L(x), the objective of a model whose parameters are one vector x, for `scipy.optimize`.

    Args:
        model: a compiled model. Products with the curvature need its `jvp`, which the adapters have.
        objective: the loss of the outputs, and of the parameters if it has regularizers.
        data: the inputs of the model and the targets of the objective.
        params: where to start: the parameters by name, an array or a nesting of arrays each.
        curvature: which second derivatives of the loss `hessp` and `jacobian` use, see `hessian_diagonal`.

    Example:
        The line through (0, 1), (1, 3), (2, 5).

        >>> import numpy as np
        >>> from scipy.optimize import minimize
        >>> from mithril_losses import Objective, Term
        >>> from mithril_losses.models import NumpyModel
        >>> line = NumpyModel(lambda params, data: {"y": params["slope"] * data["x"] + params["offset"]})
        >>> fit = Objective([Term("fit", "mse_loss", outputs="y", targets="t")])
        >>> data = {"x": np.array([0.0, 1.0, 2.0]), "t": np.array([1.0, 3.0, 5.0])}
        >>> problem = scipy_objective(line, fit, data, {"slope": np.array(0.0), "offset": np.array(0.0)})
        >>> found = minimize(problem.fun, problem.x0, jac=True, hessp=problem.hessp, method="trust-ncg")
        >>> {name: round(float(x), 6) for name, x in problem.params(found.x).items()}
        {'slope': 2.0, 'offset': 1.0}
    """
    return ScipyObjective(model, objective, data, params, curvature)


class ScipyObjective:
    """L(x) of one vector x, as `scipy_objective` returns it.

    Attributes:
        x0: the parameters to start from, as one vector of float64.
    """

    def __init__(
        self, model: CompiledModel, objective: Objective, data: Mapping[str, Any], params: Any, curvature: Kind
    ) -> None:
        self._model, self._objective, self._data, self._curvature = model, objective, data, curvature
        self._like = params
        self.x0 = _flat(params)
        self._last: tuple[Vector, Any, Any] | None = None

    def fun(self, x: Any) -> tuple[float, Vector]:
        """Return L and ∇L, for `scipy.optimize.minimize(…, jac=True)`."""
        params, outputs = self._evaluated(x)
        result = self._objective.evaluate(outputs, self._data, params)
        return float(result.loss), self._pulled_back(params, result.output_gradients, result.parameter_gradients)

    def hessp(self, x: Any, v: Any) -> Vector:
        """Return G v = Jᵀ H J v, with J of the model and H of the loss: the Gauss–Newton matrix.

        For a model that is linear in its parameters this is ∇²L v. Regularizers add their own ∇² v.

        Raises:
            TypeError: the model has no `jvp`.
            ValueError: a loss has no curvature.
        """
        params, outputs = self._evaluated(x)
        directions = self.params(v)
        products, of_params = self._objective.hessian_products(
            outputs, self._data, self._pushed_forward(params, directions), params, directions, self._curvature
        )
        return self._pulled_back(params, products, of_params)

    def residuals(self, x: Any) -> Vector:
        """Return r with L = ½ Σ r², for `scipy.optimize.least_squares`: ∂L/∂z / √(∂²L/∂z²) of the output z.

        Raises:
            ValueError: the objective is not one loss of one output, or this loss is not a square.
        """
        _, outputs = self._evaluated(x)
        gradient, root = self._gradient_and_root(outputs)
        found = np.divide(gradient, root, out=np.zeros_like(gradient), where=root > 0.0)
        loss = float(self._objective.evaluate(outputs, self._data, gradients=False).loss)
        total = 0.5 * float(found @ found)
        if not math.isclose(total, loss, rel_tol=_SQUARE, abs_tol=_SQUARE * _SQUARE):
            name = self._objective.terms[0].pair.name
            raise ValueError(
                f"least squares need a loss that is a square, but {name} is {loss:g} where ½ Σ r² is {total:g}"
            )
        return found

    def jacobian(self, x: Any) -> LinearOperator:
        """Return ∂r/∂x of `residuals` as a linear operator, for `least_squares(…, jac=…, tr_solver="lsmr")`."""
        params, outputs = self._evaluated(x)
        _, root = self._gradient_and_root(outputs)
        [name] = self._objective.terms[0].output_of.values()

        def forward(v: Vector) -> Vector:
            return root * _flat(self._pushed_forward(params, self.params(np.ravel(v)))[name])

        def backward(v: Vector) -> Vector:
            return self._pulled_back(params, {name: _unflat(root * np.ravel(v), outputs[name])}, {})

        return LinearOperator((root.size, self.x0.size), matvec=forward, rmatvec=backward, dtype=np.float64)

    def params(self, x: Any) -> Any:
        """Return the parameters of a vector: arrays of the shapes, dtypes and library of those given at first."""
        return _unflat(np.asarray(x, dtype=np.float64), self._like)

    def _evaluated(self, x: Any) -> tuple[Any, Any]:
        """Return the parameters of x and the outputs there; scipy asks at one x several times in a row."""
        x = np.asarray(x, dtype=np.float64)
        if self._last is None or not np.array_equal(self._last[0], x):
            params = self.params(x)
            self._last = (x.copy(), params, self._model.evaluate(params, self._data))
        return self._last[1:]

    def _pushed_forward(self, params: Any, directions: Any) -> dict[str, Any]:
        jvp = getattr(self._model, "jvp", None)
        if jvp is None:
            raise TypeError(
                f"a product with the curvature needs a model with jvp, which {type(self._model).__name__} lacks"
            )
        found: dict[str, Any] = jvp(params, self._data, directions)
        return found

    def _pulled_back(self, params: Any, by_output: Mapping[str, Any], by_param: Mapping[str, Any]) -> Vector:
        """Return Jᵀ of what is by output, plus what is by parameter, as one vector."""
        _, gradients = self._model.evaluate(params, self._data, output_gradients=by_output)
        for name, own in by_param.items():
            gradients[name] = add_into(map_leaves(lambda _, x: +x, own), gradients[name])
        return _flat({name: gradients[name] for name in self._like})

    def _gradient_and_root(self, outputs: Mapping[str, Any]) -> tuple[Vector, Vector]:
        """Return ∂L/∂z and √(∂²L/∂z²) of the output z, as vectors."""
        terms = self._objective.terms
        if len(terms) != 1 or len(terms[0].output_of) != 1 or self._objective.regularizers:
            raise ValueError("least squares need an objective of one loss of one output, without regularizers")
        term, weight = terms[0], terms[0].weight_at(0)
        _, [(_, gradient)] = term.value_and_gradients(outputs, self._data, weight)
        hessian = term.of_arguments(
            hessian_diagonal(term.pair.value, curvature=self._curvature), outputs, self._data, upstream=weight
        )
        return _flat(gradient), np.sqrt(np.maximum(_flat(hessian), 0.0))


def _flat(tree: Any) -> Vector:
    """Return all arrays of a nesting in one vector of float64."""
    arrays = [np.ravel(np.asarray(host_values(x), dtype=np.float64)) for _, x in leaves(tree)]
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _unflat(x: Vector, like: Any) -> Any:
    """Return the nesting of arrays whose vector is x: the inverse of `_flat`."""
    sizes = [math.prod(leaf.shape) for _, leaf in leaves(like)]
    if x.shape != (sum(sizes),):
        raise ValueError(f"the parameters are a vector of {sum(sizes)} numbers, got shape {x.shape}")
    parts = iter(np.split(x, np.cumsum(sizes)[:-1]))

    def shaped(_: str, leaf: Any) -> Any:
        xp: Any = namespace_of(leaf)
        part = next(parts).reshape(tuple(leaf.shape))
        return xp.astype(xp.asarray(part.copy(), **placement(leaf)), leaf.dtype)

    return map_leaves(shaped, like)
