"""kfac-jax's matrices: equal to its own for the losses that it knows, and exact for losses that it has none of."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import WITHOUT_A_FACTOR, double_precision

import mithril_losses as ml

kfac_jax = pytest.importorskip("kfac_jax", reason="the extra kfac-jax is not installed")
from mithril_losses.optimize.kfac_jax import register_loss  # noqa: E402  # it cannot be imported without

SAMPLES, INPUTS, OUTPUTS = 6, 4, 3


def data(kind: str) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    shape = (SAMPLES, OUTPUTS)
    targets = {
        "real": lambda: generator.standard_normal(shape),
        "positive": lambda: generator.random(shape) + 0.5,
        "binary": lambda: generator.integers(0, 2, shape).astype(float),
        "sign": lambda: 2.0 * generator.integers(0, 2, shape) - 1.0,
        "class": lambda: generator.integers(0, OUTPUTS, SAMPLES),
    }
    return jnp.asarray(generator.standard_normal((SAMPLES, INPUTS))), jnp.asarray(targets[kind]())


def parameters() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "w": jnp.asarray(0.3 * generator.standard_normal((INPUTS, OUTPUTS))),
        "b": jnp.asarray(0.3 * generator.standard_normal(OUTPUTS)),
    }


def registered(register: Any) -> Any:
    """Return the function that kfac-jax traces: a linear model whose loss is registered."""

    def loss(params: Any, batch: Any) -> Any:
        outputs = batch[0] @ params["w"] + params["b"]
        register(outputs, batch[1])
        return jnp.zeros(())

    return loss


def matrix(times: Any) -> np.ndarray:
    like = parameters()
    flat, tree = jax.flatten_util.ravel_pytree(like)
    product = jax.jit(lambda v: jax.flatten_util.ravel_pytree(times(tree(v)))[0])
    return np.stack([np.asarray(product(unit)) for unit in jnp.eye(flat.size)], axis=-1)


def exact(register: Any, batch: Any, which: str = "multiply_ggn") -> np.ndarray:
    curvature = kfac_jax.ImplicitExactCurvature(registered(register))
    return matrix(lambda v: getattr(curvature, which)((parameters(), batch), v))


def kronecker(register: Any, batch: Any, mode: str) -> np.ndarray:
    """Return the matrix of the Kronecker factors of the layer, estimated once."""
    estimator = kfac_jax.BlockDiagonalCurvature(registered(register), default_estimation_mode=mode)
    state = estimator.init(
        rng=jax.random.key(0),
        func_args=(parameters(), batch),
        exact_powers_to_cache=None,
        approx_powers_to_cache=None,
        cache_eigenvalues=False,
    )
    state = estimator.update_curvature_matrix_estimate(
        state,
        ema_old=0.0,
        ema_new=1.0,
        identity_weight=0.0,
        rng=jax.random.key(1),
        func_args=(parameters(), batch),
        batch_size=SAMPLES,
    )
    options = {"identity_weight": 0.0, "exact_power": True, "use_cached": False, "pmap_axis_name": None}
    return matrix(lambda v: estimator.multiply(state, v, **options))


KNOWN = {
    "mse_loss": ("real", kfac_jax.register_squared_error_loss),
    "cross_entropy_with_logits": ("class", kfac_jax.register_softmax_cross_entropy_loss),
    "binary_cross_entropy_with_logits": ("binary", kfac_jax.register_sigmoid_cross_entropy_loss),
}


def ours(loss: str, **options: Any) -> Any:
    return lambda outputs, targets: register_loss(loss, outputs, targets, weight=0.7, **options)


@pytest.mark.parametrize("loss", KNOWN)
def test_matrices_of_losses_that_it_knows(loss: str) -> None:
    kind, theirs = KNOWN[loss]
    with double_precision("jax"):
        batch = data(kind)
        known = functools.partial(theirs, weight=0.7)
        for which in ("multiply_ggn", "multiply_fisher"):
            found, expected = (exact(register, batch, which) for register in (ours(loss), known))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        for mode in ("ggn_exact", "fisher_exact"):
            found, expected = (kronecker(register, batch, mode) for register in (ours(loss), known))
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("loss", "kind", "options"), WITHOUT_A_FACTOR, ids=[name for name, *_ in WITHOUT_A_FACTOR])
def test_gauss_newton_matrix_of_other_losses(loss: str, kind: str, options: Any) -> None:
    with double_precision("jax"):
        batch, params = data(kind), parameters()
        found = exact(ours(loss, **options), batch)
        outputs = np.asarray(batch[0] @ params["w"] + params["b"])
        diagonal = ml.hessian_diagonal(loss, curvature="fisher")
        hessian = diagonal(outputs, np.asarray(batch[1]), reduction="sum", **options)
    unit, expected = np.eye(OUTPUTS), np.zeros_like(found)
    for row, h in zip(np.asarray(batch[0]), hessian, strict=True):
        jacobian = np.concatenate([unit, np.kron(row[None], unit)], axis=1)  # b, and W row by row
        expected += jacobian.T @ (h[:, None] * jacobian) * 0.7 / SAMPLES
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_two_outputs_of_a_likelihood() -> None:
    """The Fisher matrix of a mean and a logarithmic variance, by a factor whose two halves stand side by side."""
    with double_precision("jax"):
        batch = data("real")

        def register(outputs: Any, targets: Any) -> None:
            register_loss("gaussian_negative_log_likelihood", outputs, 0.1 * outputs**2, targets)

        found = [exact(register, batch, which) for which in ("multiply_ggn", "multiply_fisher")]
        factor = kfac_jax.ImplicitExactCurvature(registered(register))
        params = parameters()

        def model(params: Any) -> Any:
            outputs = batch[0] @ params["w"] + params["b"]
            return {"mean": outputs, "logvar": 0.1 * outputs**2}

        times = ml.hessian_vector_product("gaussian_negative_log_likelihood", curvature="fisher")

        def product(v: Any) -> Any:
            given, moved = jax.jvp(model, (params,), (v,))
            back = times(given["mean"], given["logvar"], batch[1], vector=moved, reduction="sum")
            return jax.tree.map(lambda x: x / SAMPLES, jax.vjp(model, params)[1](dict(back))[0])

        expected = matrix(product)
        by_factor = matrix(
            lambda v: factor.multiply_ggn_factor(
                (params, batch), factor.multiply_ggn_factor_transpose((params, batch), v)
            )
        )
    for each in (*found, by_factor):
        np.testing.assert_allclose(each, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "kind", "mode"),
    [("poisson_negative_log_likelihood", "positive", "fisher_gradients"), ("huber_loss", "real", "ggn_curvature_prop")],
)
def test_the_optimizer_takes_steps(loss: str, kind: str, mode: str) -> None:
    batch = data(kind)

    def objective(params: Any, batch: Any) -> Any:
        outputs = batch[0] @ params["w"] + params["b"]
        register_loss(loss, outputs, batch[1])
        return ml.catalogue()[loss].value(outputs, batch[1], reduction="sum") / SAMPLES

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(objective),
        l2_reg=0.0,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=1e-3,
        num_burnin_steps=0,
        estimation_mode=mode,
    )
    params = parameters()
    state = optimizer.init(params, jax.random.key(0), batch)
    losses = []
    for i in range(5):
        params, state, statistics = optimizer.step(params, state, jax.random.key(i), batch=batch, global_step_int=i)
        losses.append(float(statistics["loss"]))
    assert losses[-1] < losses[0] - 0.1
    gradient = jax.grad(objective)(params, batch)
    assert max(float(jnp.abs(x).max()) for x in gradient.values()) < 0.05


def test_refused_in_one_line() -> None:
    outputs = jnp.ones((2, 3))
    with pytest.raises(TypeError, match="mse_loss has the arrays predictions, targets, got 1"):
        register_loss("mse_loss", outputs)
    with pytest.raises(TypeError, match="delta must be a number, a flag or a name here, got an array"):
        register_loss("huber_loss", outputs, outputs, delta=jnp.ones(3))
    with pytest.raises(ValueError, match="earth_mover_distance has no curvature"):
        register_loss("earth_mover_distance", outputs, outputs)
