"""Fits by scipy.optimize find the optima that independent solvers find, with NumPy, JAX and PyTorch models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import convert, double_precision
from scipy.optimize import least_squares, minimize

from mithril_losses import Objective, Regularizer, Term
from mithril_losses.models import CallableModel, compile_model
from mithril_losses.optimize import scipy_objective

LIBRARIES = ("numpy", "jax", "torch")
GENERATOR = np.random.default_rng(2)
TIMES = np.linspace(0.0, 3.0, 40)
DATA = {"t": TIMES, "y": 2.0 * np.exp(-1.3 * TIMES) + 0.5 + 0.02 * GENERATOR.standard_normal(40)}
DATA["y"][::9] += 3.0  # outliers
START = {"size": np.array(1.0), "rate": np.array(1.0), "level": np.array(0.0)}
SCALE = 0.05
EXACTLY: dict[str, Any] = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}


def decay(xp: Any, params: Any, data: Any) -> dict[str, Any]:
    return {"y": params["size"] * xp.exp(-params["rate"] * data["t"]) + params["level"]}


def problem_of(loss: str, library: str = "numpy", regularizers: Any = (), **options: Any) -> Any:
    objective = Objective([Term("fit", loss, outputs="y", targets="y", options=options)], regularizers)
    params, data = ({name: convert(x, library) for name, x in arrays.items()} for arrays in (START, DATA))
    return scipy_objective(compile_model(decay, library), objective, data, params)


def errors(x: Any) -> np.ndarray:
    return x[0] * np.exp(-x[1] * TIMES) + x[2] - DATA["y"]


def reference(loss: str, start: Any) -> np.ndarray:
    """The optimum that `least_squares` finds by another method, for a loss that it has, too."""
    return least_squares(errors, start, loss=loss, f_scale=SCALE, **EXACTLY).x


CONVEX = reference("soft_l1", [1.0, 1.0, 0.0])
FITS = [
    ("pseudo_huber_loss", {"delta": SCALE}, [1.0, 1.0, 0.0], CONVEX),
    ("cauchy_loss", {"scale": SCALE}, CONVEX, reference("cauchy", CONVEX)),
]
METHODS = [("L-BFGS-B", {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 1000}), ("trust-ncg", {"gtol": 1e-13})]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
@pytest.mark.parametrize(("loss", "scale", "start", "expected"), FITS, ids=[name for name, *_ in FITS])
def test_robust_fit(
    loss: str, scale: Any, start: Any, expected: np.ndarray, method: str, options: Any, library: str
) -> None:
    with double_precision(library):
        problem = problem_of(loss, library, reduction="sum", **scale)
        hessp = {"hessp": problem.hessp} if method == "trust-ncg" else {}
        found = minimize(problem.fun, start, jac=True, method=method, options=options, **hessp)
    np.testing.assert_allclose(found.x, expected, rtol=1e-8)
    assert np.abs(expected - [2.0, 1.3, 0.5]).max() < 0.1  # in spite of the outliers


@pytest.mark.parametrize("library", LIBRARIES)
def test_gradient_and_gauss_newton_product(library: str) -> None:
    with double_precision(library):
        problem = problem_of("cauchy_loss", library, scale=SCALE)
        x, v = np.array([1.5, 0.7, 0.2]), np.array([0.3, -1.0, 0.5])
        _, gradient = problem.fun(x)
        product = problem.hessp(x, v)
    jacobian = np.stack([np.exp(-x[1] * TIMES), -x[0] * TIMES * np.exp(-x[1] * TIMES), np.ones(40)], axis=1)
    u = errors(x) / SCALE
    np.testing.assert_allclose(gradient, jacobian.T @ (errors(x) / (1.0 + u**2)) / 40, rtol=1e-10)
    curvature = (1.0 - u**2) / (1.0 + u**2) ** 2
    np.testing.assert_allclose(product, jacobian.T @ (curvature * (jacobian @ v)) / 40, rtol=1e-9)


@pytest.mark.parametrize("library", LIBRARIES)
def test_least_squares(library: str) -> None:
    weights = np.linspace(0.0, 2.0, 40)
    with double_precision(library):
        problem = problem_of("mse_loss", library, weights=convert(weights, library))
        found = least_squares(problem.residuals, problem.x0, jac=problem.jacobian, tr_solver="lsmr", **EXACTLY)
        loss, gradient = problem.fun(found.x)
    np.testing.assert_allclose(found.cost, loss, rtol=1e-12)
    assert np.abs(gradient).max() < 1e-7
    expected = least_squares(
        lambda x: np.sqrt(weights) * errors(x), [1.0, 1.0, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-14
    )
    np.testing.assert_allclose(found.x, expected.x, rtol=2e-6)


def test_jacobian_is_that_of_the_residuals() -> None:
    problem = problem_of("mse_loss")
    x, h = np.array([1.5, 0.7, 0.2]), 1e-6
    operator = problem.jacobian(x)
    for i in range(3):
        step = np.eye(3)[i]
        column = (problem.residuals(x + h * step) - problem.residuals(x - h * step)) / (2.0 * h)
        np.testing.assert_allclose(operator @ step, column, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(operator.T @ np.ones(40), [(operator @ step).sum() for step in np.eye(3)], rtol=1e-12)


def test_regularizers_count_in_gradient_and_curvature() -> None:
    ridge = Regularizer("l2_regularization", parameters=["rate"], options={"lambda_reg": 0.3})
    plain, problem = problem_of("mse_loss"), problem_of("mse_loss", regularizers=[ridge])
    x, v = np.array([1.5, 0.7, 0.2]), np.array([0.3, -1.0, 0.5])
    np.testing.assert_allclose(problem.fun(x)[1] - plain.fun(x)[1], [0.0, 0.3 * 0.7, 0.0], atol=1e-14)
    np.testing.assert_allclose(problem.hessp(x, v) - plain.hessp(x, v), [0.0, -0.3, 0.0], atol=1e-14)


def test_nested_parameters_of_several_shapes_come_back() -> None:
    params = {"layers": [{"w": np.arange(6.0).reshape(2, 3)}, {"w": np.float32([7.0])}], "b": torch.tensor(3.0)}
    model = CallableModel(lambda params, data: {}, lambda params, data, gradients: {})
    problem = scipy_objective(model, Objective([Term("fit", "mse_loss", outputs="y", targets="y")]), {}, params)
    np.testing.assert_array_equal(problem.x0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 3.0])
    back = problem.params(problem.x0)
    np.testing.assert_array_equal(back["layers"][0]["w"], params["layers"][0]["w"])
    assert (back["layers"][1]["w"].dtype, back["b"].dtype) == (np.float32, torch.float32)
    with pytest.raises(ValueError, match=r"a vector of 8 numbers, got shape \(7,\)"):
        problem.params(np.zeros(7))


def test_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="least squares need a loss that is a square, but cauchy_loss is"):
        problem_of("cauchy_loss").residuals(np.ones(3))
    ridge = Regularizer("l2_regularization")
    with pytest.raises(ValueError, match="one loss of one output, without regularizers"):
        problem_of("mse_loss", regularizers=[ridge]).residuals(np.ones(3))
    model = CallableModel(
        lambda params, data: {"y": params["w"] * data["t"]}, lambda params, data, g: {"w": g["y"].sum()}
    )
    fit = Objective([Term("fit", "mse_loss", outputs="y", targets="y")])
    problem = scipy_objective(model, fit, DATA, {"w": np.array(1.0)})
    with pytest.raises(TypeError, match="CallableModel has no jvp"):
        problem.hessp(np.ones(1), np.ones(1))


def test_a_model_without_jvp_says_so() -> None:
    class Bare:
        def evaluate(self, params: Any, data: Any, output_gradients: Any = None) -> Any:
            return {"y": params["w"] * data["t"]}

    fit = Objective([Term("fit", "mse_loss", outputs="y", targets="y")])
    problem = scipy_objective(Bare(), fit, DATA, {"w": np.array(1.0)})
    with pytest.raises(TypeError, match="needs a model with jvp, which Bare lacks"):
        problem.hessp(np.ones(1), np.ones(1))
