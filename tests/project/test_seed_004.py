"""The code blocks of the guide "Loss Functions" (seed document 004), in its order, on every backend they apply to.

Each test is named after the block's heading and holds the block as it stands there. Adapted are the imports, and what
the guide leaves out: the model and the arrays. What follows each block checks that it did what the guide says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from seeds import assert_is_derivative, assert_moved_downhill, choice, probabilities, unit_interval

from mithril_losses import check_gradient, gradient_of, unregister
from mithril_losses.backends import Backend, JaxBackend, TorchBackend
from mithril_losses.models import JaxModel, NumpyModel, TorchModel

# --- what the guide leaves out ----------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """One linear layer per output; `functional_call` hands it the parameters."""

    def __init__(self, params: dict[str, Any], softmax: tuple[str, ...]) -> None:
        super().__init__()
        self.softmax = softmax
        for name, value in params.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        return linear(torch, dict(self.named_parameters()), input, self.softmax)


def linear(xp: Any, params: dict[str, Any], x: Any, softmax: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [name.removesuffix("_weight") for name in params if name.endswith("_weight")]
    found = {name: xp.matmul(x, params[f"{name}_weight"]) + params[f"{name}_bias"] for name in names}
    for name in softmax:
        exponentials = xp.exp(found[name])
        found[name] = exponentials / xp.sum(exponentials, axis=-1)[:, None]
    return found


class Compiled:
    """A model as the guide has it after `ml.compile(model, backend)`: linear in its one input, some outputs softmax."""

    def __init__(self, backend: Backend, features: int, softmax: tuple[str, ...] = (), **widths: int) -> None:
        self._params = {}
        for name, width in widths.items():
            self._params[f"{name}_weight"] = 0.1 * backend.randn(features, width)
            self._params[f"{name}_bias"] = backend.zeros(width)
        if backend.name == "numpy":
            self._model: Any = NumpyModel(lambda params, data: linear(anp, params, data["input"], softmax))
        elif backend.name == "jax":
            self._model = JaxModel(lambda params, data: linear(jnp, params, data["input"], softmax))
        else:
            self._model = TorchModel(Linear(self._params, softmax))

    def get_parameters(self) -> dict[str, Any]:
        return dict(self._params)

    def evaluate(self, params: Any, inputs: Any, output_gradients: Any = None) -> Any:
        data = {"input": inputs["input"]}
        return self._model.evaluate(params, data, output_gradients=output_gradients)


def along_rows(gradients: Any) -> Any:
    """The part of a gradient along which rows keep their sum."""
    return gradients - gradients.mean(-1)[:, None]


@pytest.fixture
def registered() -> Iterator[list[str]]:
    """Names of the pairs that a test registers; they leave the catalogue with the test."""
    names: list[str] = []
    yield names
    for name in names:
        unregister(name)


# --- Basic Usage ------------------------------------------------------------------------------------------------


def test_computing_loss_and_gradients(backend: Backend) -> None:
    from mithril_losses import mse_loss, mse_loss_gradient

    compiled_model = Compiled(backend, 784, output=10)

    # Initialize parameters
    params = compiled_model.get_parameters()

    # Training data
    inputs = {"input": backend.randn(32, 784)}  # Batch of 32 examples
    targets = backend.randn(32, 10)  # Target outputs

    # Forward pass
    outputs = compiled_model.evaluate(params, inputs)
    predictions = outputs["output"]  # Shape [32, 10]

    # Compute loss value (for monitoring)
    loss_value = mse_loss(predictions, targets)
    print(f"Loss: {loss_value}")

    # Compute loss gradients with respect to predictions
    loss_gradients = mse_loss_gradient(predictions, targets)  # Shape [32, 10]

    # Backward pass to get parameter gradients
    _, gradients = compiled_model.evaluate(params, inputs, output_gradients={"output": loss_gradients})

    start = dict(params)
    # Update parameters (e.g., using gradient descent)
    learning_rate = 0.01
    for name, grad in gradients.items():
        params[name] = params[name] - learning_rate * grad

    assert_moved_downhill(loss_value, mse_loss(compiled_model.evaluate(params, inputs)["output"], targets))

    def loss_of_bias(bias: Any) -> Any:
        return mse_loss(backend.matmul(inputs["input"], start["output_weight"]) + bias, targets)

    assert_is_derivative(backend, gradients["output_bias"], loss_of_bias, start["output_bias"])
    weight = backend.to_numpy(inputs["input"]).T @ backend.to_numpy(loss_gradients)
    np.testing.assert_allclose(backend.to_numpy(gradients["output_weight"]), weight, rtol=1e-3, atol=1e-5)


# --- Common Loss Functions --------------------------------------------------------------------------------------


def test_mean_squared_error(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import mse_loss, mse_loss_gradient

    # Compute MSE loss
    loss_value = mse_loss(predictions, targets)

    # Compute gradients for backpropagation
    loss_gradients = mse_loss_gradient(predictions, targets)

    assert_is_derivative(backend, loss_gradients, mse_loss, predictions, targets)
    assert_moved_downhill(loss_value, mse_loss(predictions - loss_gradients, targets))


def test_mean_squared_error_implementation(backend: Backend) -> None:
    import mithril_losses

    def mse_loss(predictions, targets):
        """Mean squared error loss."""
        return backend.mean(backend.square(predictions - targets))

    def mse_loss_gradient(predictions, targets):
        """Gradient of MSE loss with respect to predictions."""
        # Factor of 2/n from the mean of squared differences
        n = backend.size(predictions)
        return 2 * (predictions - targets) / n

    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)
    value, gradient = mse_loss(predictions, targets), mse_loss_gradient(predictions, targets)
    np.testing.assert_allclose(float(value), float(mithril_losses.mse_loss(predictions, targets)), rtol=1e-6)
    np.testing.assert_allclose(gradient, mithril_losses.mse_loss_gradient(predictions, targets), rtol=1e-6)
    check_gradient(mse_loss, predictions, targets, gradient=mse_loss_gradient)  # its name is taken in the catalogue


def test_cross_entropy_loss(backend: Backend) -> None:
    predictions, targets, logits = probabilities(backend, 4, 3), backend.array([0, 2, 1, 1]), backend.randn(4, 3)

    from mithril_losses import cross_entropy_loss, cross_entropy_loss_gradient

    # For multi-class classification with softmax outputs
    loss_value = cross_entropy_loss(predictions, targets)
    loss_gradients = cross_entropy_loss_gradient(predictions, targets)

    # the guide goes on to bind the same two names again
    assert_is_derivative(backend, loss_gradients, cross_entropy_loss, predictions, targets)
    assert_moved_downhill(loss_value, cross_entropy_loss(predictions - 1e-3 * along_rows(loss_gradients), targets))

    # With logits (pre-softmax)
    from mithril_losses import cross_entropy_with_logits, cross_entropy_with_logits_gradient

    loss_value = cross_entropy_with_logits(logits, targets)
    loss_gradients = cross_entropy_with_logits_gradient(logits, targets)

    assert_is_derivative(backend, loss_gradients, cross_entropy_with_logits, logits, targets)
    assert_moved_downhill(loss_value, cross_entropy_with_logits(logits - loss_gradients, targets))


def test_binary_cross_entropy(backend: Backend) -> None:
    predictions, targets = unit_interval(backend, 4, 3), choice(backend, (0.0, 1.0), 4, 3)
    logits = backend.randn(4, 3)

    from mithril_losses import binary_cross_entropy, binary_cross_entropy_gradient

    # For binary classification with sigmoid outputs [0,1]
    loss_value = binary_cross_entropy(predictions, targets)
    loss_gradients = binary_cross_entropy_gradient(predictions, targets)

    assert_is_derivative(backend, loss_gradients, binary_cross_entropy, predictions, targets)
    assert_moved_downhill(loss_value, binary_cross_entropy(predictions - 1e-3 * loss_gradients, targets))

    # With logits (pre-sigmoid)
    from mithril_losses import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_gradient

    loss_value = binary_cross_entropy_with_logits(logits, targets)
    loss_gradients = binary_cross_entropy_with_logits_gradient(logits, targets)

    assert_is_derivative(backend, loss_gradients, binary_cross_entropy_with_logits, logits, targets)
    assert_moved_downhill(loss_value, binary_cross_entropy_with_logits(logits - loss_gradients, targets))


def test_huber_loss(backend: Backend) -> None:
    predictions, targets = 2.0 * backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import huber_loss, huber_loss_gradient

    # Compute Huber loss (defaults to delta=1.0)
    loss_value = huber_loss(predictions, targets, delta=1.0)
    loss_gradients = huber_loss_gradient(predictions, targets, delta=1.0)

    assert float(loss_value) == float(huber_loss(predictions, targets))
    assert_is_derivative(backend, loss_gradients, huber_loss, predictions, targets)
    assert_moved_downhill(loss_value, huber_loss(predictions - loss_gradients, targets))


def test_hinge_loss(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), choice(backend, (-1.0, 1.0), 4, 3)

    from mithril_losses import hinge_loss, hinge_loss_gradient

    # Compute hinge loss
    loss_value = hinge_loss(predictions, targets)
    loss_gradients = hinge_loss_gradient(predictions, targets)

    assert_is_derivative(backend, loss_gradients, hinge_loss, predictions, targets)
    assert_moved_downhill(loss_value, hinge_loss(predictions - loss_gradients, targets))


def test_kullback_leibler_divergence(backend: Backend) -> None:
    predictions, targets = probabilities(backend, 4, 3), probabilities(backend, 4, 3)

    from mithril_losses import kl_divergence, kl_divergence_gradient

    # Compute KL divergence loss
    loss_value = kl_divergence(predictions, targets)
    loss_gradients = kl_divergence_gradient(predictions, targets)

    assert_is_derivative(backend, loss_gradients, kl_divergence, predictions, targets)
    assert_moved_downhill(loss_value, kl_divergence(predictions - 1e-3 * along_rows(loss_gradients), targets))


# --- Custom Loss Functions --------------------------------------------------------------------------------------


def test_custom_loss_functions(backend: Backend, registered: list[str]) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    def custom_loss(predictions, targets, alpha=1.0):
        """Custom loss function combining MSE and L1 loss."""
        mse = backend.mean(backend.square(predictions - targets))
        l1 = backend.mean(backend.abs(predictions - targets))
        return mse + alpha * l1

    def custom_loss_gradient(predictions, targets, alpha=1.0):
        """Gradient of custom loss with respect to predictions."""
        n = backend.size(predictions)
        # MSE gradient component
        mse_grad = 2 * (predictions - targets) / n
        # L1 gradient component
        l1_grad = backend.sign(predictions - targets) / n
        return mse_grad + alpha * l1_grad

    # Usage
    loss_value = custom_loss(predictions, targets, alpha=0.5)
    loss_gradients = custom_loss_gradient(predictions, targets, alpha=0.5)

    assert_is_derivative(backend, loss_gradients, lambda p, t: custom_loss(p, t, alpha=0.5), predictions, targets)
    assert_moved_downhill(loss_value, custom_loss(predictions - 0.1 * loss_gradients, targets, alpha=0.5))
    kinks = gradient_of(custom_loss, kinks=lambda predictions, targets, alpha: (predictions - targets,))
    assert kinks(custom_loss_gradient) is custom_loss_gradient
    registered.append("custom_loss")
    for options in ({}, {"alpha": 0.5}):
        assert check_gradient("custom_loss", predictions, targets, **options).compared > 6


# --- Multi-Output Loss Functions --------------------------------------------------------------------------------


def test_multi_output_loss_functions(backend: Backend) -> None:
    compiled_model = Compiled(backend, 5, class_output=3, reg_output=2)
    params, inputs = compiled_model.get_parameters(), {"input": backend.randn(8, 5)}
    # The guide feeds class_output to the loss on probabilities: so it does here, for rows that sum to one.
    params["class_output_weight"] = 0.05 * (probabilities(backend, 5, 3) - 1 / 3)
    params["class_output_bias"] = backend.full((3,), 1 / 3)
    class_targets, reg_targets = backend.array([0, 1, 2, 0, 1, 2, 0, 1]), backend.randn(8, 2)

    # Model with two outputs: classification and regression
    outputs = compiled_model.evaluate(params, inputs)
    class_predictions = outputs["class_output"]
    reg_predictions = outputs["reg_output"]

    # Compute separate losses
    from mithril_losses import cross_entropy_loss, cross_entropy_loss_gradient, mse_loss, mse_loss_gradient

    class_loss = cross_entropy_loss(class_predictions, class_targets)
    reg_loss = mse_loss(reg_predictions, reg_targets)

    # Combine losses with weighting
    total_loss = class_loss + 0.5 * reg_loss

    # Compute gradients for each output
    class_gradients = cross_entropy_loss_gradient(class_predictions, class_targets)
    reg_gradients = mse_loss_gradient(reg_predictions, reg_targets)

    # Backward pass with gradients for both outputs
    _, gradients = compiled_model.evaluate(
        params,
        inputs,
        output_gradients={
            "class_output": class_gradients,
            "reg_output": 0.5 * reg_gradients,  # Apply the same weight as in the loss
        },
    )

    def total(class_bias: Any, reg_bias: Any) -> Any:
        x = inputs["input"]
        class_loss = cross_entropy_loss(backend.matmul(x, params["class_output_weight"]) + class_bias, class_targets)
        reg_loss = mse_loss(backend.matmul(x, params["reg_output_weight"]) + reg_bias, reg_targets)
        return class_loss + 0.5 * reg_loss

    biases = params["class_output_bias"], params["reg_output_bias"]
    np.testing.assert_allclose(float(total_loss), float(total(*biases)), rtol=1e-6)
    assert_is_derivative(backend, gradients["class_output_bias"], total, *biases)
    assert_is_derivative(backend, gradients["reg_output_bias"], lambda r, c: total(c, r), *biases[::-1])


# --- Loss Functions with Regularization -------------------------------------------------------------------------


def test_l1_regularization(backend: Backend) -> None:
    compiled_model = Compiled(backend, 3, output=2)
    params, inputs, targets = compiled_model.get_parameters(), {"input": backend.randn(6, 3)}, backend.randn(6, 2)
    learning_rate, lambda_reg = 0.01, 0.05

    def loss_with_l1_reg(predictions, targets, params, lambda_reg=0.01):
        """Loss function with L1 regularization."""
        # Base loss (e.g., MSE)
        base_loss = backend.mean(backend.square(predictions - targets))

        # L1 regularization term
        l1_reg = 0
        for param in params.values():
            l1_reg += backend.sum(backend.abs(param))

        return base_loss + lambda_reg * l1_reg

    def loss_gradient_with_l1_reg(predictions, targets, lambda_reg=0.01):
        """Gradient of base loss (regularization applied separately)."""
        n = backend.size(predictions)
        return 2 * (predictions - targets) / n

    predictions = compiled_model.evaluate(params, inputs)["output"]
    before = loss_with_l1_reg(predictions, targets, params, lambda_reg)
    loss_gradients = loss_gradient_with_l1_reg(predictions, targets)
    _, gradients = compiled_model.evaluate(params, inputs, output_gradients={"output": loss_gradients})
    start = dict(params)

    # When updating parameters, add regularization gradient
    for name, grad in gradients.items():
        # L1 regularization gradient
        l1_grad = lambda_reg * backend.sign(params[name])
        # Apply combined gradient
        params[name] = params[name] - learning_rate * (grad + l1_grad)

    from mithril_losses import l1_regularization, l1_regularization_gradient, mse_loss

    after = compiled_model.evaluate(params, inputs)["output"]
    assert_moved_downhill(before, loss_with_l1_reg(after, targets, params, lambda_reg))
    # the package's own terms are those of the guide
    own = mse_loss(predictions, targets) + l1_regularization(start, lambda_reg=lambda_reg)
    np.testing.assert_allclose(float(own), float(before), rtol=1e-6)
    for name, gradient in l1_regularization_gradient(start, lambda_reg=lambda_reg).items():
        step = learning_rate * (gradients[name] + gradient)
        np.testing.assert_allclose(params[name], start[name] - step, rtol=1e-6, atol=1e-8)


def test_l2_regularization_weight_decay(backend: Backend) -> None:
    compiled_model = Compiled(backend, 3, output=2)
    params, inputs, targets = compiled_model.get_parameters(), {"input": backend.randn(6, 3)}, backend.randn(6, 2)
    learning_rate, lambda_reg = 0.01, 0.05

    def loss_with_l2_reg(predictions, targets, params, lambda_reg=0.01):
        """Loss function with L2 regularization."""
        # Base loss (e.g., MSE)
        base_loss = backend.mean(backend.square(predictions - targets))

        # L2 regularization term
        l2_reg = 0
        for param in params.values():
            l2_reg += backend.sum(backend.square(param))

        return base_loss + 0.5 * lambda_reg * l2_reg

    def loss_gradient_with_l2_reg(predictions, targets, lambda_reg=0.01):
        """Gradient of base loss (regularization applied separately)."""
        n = backend.size(predictions)
        return 2 * (predictions - targets) / n

    predictions = compiled_model.evaluate(params, inputs)["output"]
    before = loss_with_l2_reg(predictions, targets, params, lambda_reg)
    loss_gradients = loss_gradient_with_l2_reg(predictions, targets)
    _, gradients = compiled_model.evaluate(params, inputs, output_gradients={"output": loss_gradients})
    start = dict(params)

    # When updating parameters, add regularization gradient
    for name, grad in gradients.items():
        # L2 regularization gradient
        l2_grad = lambda_reg * params[name]
        # Apply combined gradient
        params[name] = params[name] - learning_rate * (grad + l2_grad)

    from mithril_losses import l2_regularization, l2_regularization_gradient, mse_loss

    after = compiled_model.evaluate(params, inputs)["output"]
    assert_moved_downhill(before, loss_with_l2_reg(after, targets, params, lambda_reg))
    own = mse_loss(predictions, targets) + l2_regularization(start, lambda_reg=lambda_reg)
    np.testing.assert_allclose(float(own), float(before), rtol=1e-6)
    for name, gradient in l2_regularization_gradient(start, lambda_reg=lambda_reg).items():
        step = learning_rate * (gradients[name] + gradient)
        np.testing.assert_allclose(params[name], start[name] - step, rtol=1e-6, atol=1e-8)


# --- Advanced Loss Functions ------------------------------------------------------------------------------------


def test_focal_loss(backend: Backend) -> None:
    predictions, targets = unit_interval(backend, 4, 3), choice(backend, (0.0, 1.0), 4, 3)

    from mithril_losses import focal_loss, focal_loss_gradient

    # Compute focal loss
    loss_value = focal_loss(predictions, targets, gamma=2.0, alpha=0.25)
    loss_gradients = focal_loss_gradient(predictions, targets, gamma=2.0, alpha=0.25)

    assert float(loss_value) == float(focal_loss(predictions, targets))
    assert_is_derivative(backend, loss_gradients, focal_loss, predictions, targets)
    assert_moved_downhill(loss_value, focal_loss(predictions - 1e-3 * loss_gradients, targets))


def test_triplet_loss(backend: Backend) -> None:
    compiled_model = Compiled(backend, 5, anchor=3, positive=3, negative=3)
    params, inputs = compiled_model.get_parameters(), {"input": backend.randn(6, 5)}
    outputs = compiled_model.evaluate(params, inputs)

    from mithril_losses import triplet_loss, triplet_loss_gradient

    # Compute triplet loss
    anchors = outputs["anchor"]
    positives = outputs["positive"]
    negatives = outputs["negative"]

    loss_value = triplet_loss(anchors, positives, negatives, margin=1.0)
    gradients = triplet_loss_gradient(anchors, positives, negatives, margin=1.0)

    # Backward pass with triplet gradients
    _, param_gradients = compiled_model.evaluate(
        params,
        inputs,
        output_gradients={
            "anchor": gradients["anchor"],
            "positive": gradients["positive"],
            "negative": gradients["negative"],
        },
    )

    for argnum, name in enumerate(("anchor", "positive", "negative")):
        embeddings = (anchors, positives, negatives)
        assert_is_derivative(backend, gradients[name], triplet_loss, *embeddings, argnum=argnum)
    moved = {name: params[name] - 0.01 * gradient for name, gradient in param_gradients.items()}
    assert_moved_downhill(loss_value, triplet_loss(**compiled_model.evaluate(moved, inputs)))


def test_contrastive_loss(backend: Backend) -> None:
    compiled_model = Compiled(backend, 5, embedding1=3, embedding2=3)
    params = compiled_model.get_parameters()
    inputs = {"input": backend.randn(6, 5), "labels": backend.array([1, 0, 1, 0, 0, 1])}
    outputs = compiled_model.evaluate(params, inputs)

    from mithril_losses import contrastive_loss, contrastive_loss_gradient

    # Compute contrastive loss
    embeddings1 = outputs["embedding1"]
    embeddings2 = outputs["embedding2"]
    # 1 if same class, 0 if different
    labels = inputs["labels"]

    loss_value = contrastive_loss(embeddings1, embeddings2, labels, margin=1.0)
    gradients = contrastive_loss_gradient(embeddings1, embeddings2, labels, margin=1.0)

    # Backward pass with contrastive gradients
    _, param_gradients = compiled_model.evaluate(
        params,
        inputs,
        output_gradients={"embedding1": gradients["embedding1"], "embedding2": gradients["embedding2"]},
    )

    for argnum, name in enumerate(("embedding1", "embedding2")):
        arguments = (embeddings1, embeddings2, labels)
        assert_is_derivative(backend, gradients[name], contrastive_loss, *arguments, argnum=argnum)
    moved = {name: params[name] - 0.01 * gradient for name, gradient in param_gradients.items()}
    assert_moved_downhill(loss_value, contrastive_loss(**compiled_model.evaluate(moved, inputs), labels=labels))


# --- Backend-Specific Loss Functions ----------------------------------------------------------------------------


def test_jax_backend() -> None:
    # Create a JAX backend
    backend = JaxBackend()
    compiled_model = Compiled(backend, 5, output=3)
    params, inputs = compiled_model.get_parameters(), {"input": backend.randn(6, 5)}
    targets = probabilities(backend, 6, 3)

    # Define a JAX-native loss function
    def jax_cross_entropy(logits, targets):
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.mean(jnp.sum(targets * log_probs, axis=-1))

    # Define the gradient function using JAX's grad
    jax_cross_entropy_grad = jax.grad(lambda logits, targets: jax_cross_entropy(logits, targets), argnums=0)

    # Use in training loop
    outputs = compiled_model.evaluate(params, inputs)
    loss_value = jax_cross_entropy(outputs["output"], targets)
    loss_gradients = jax_cross_entropy_grad(outputs["output"], targets)

    _, gradients = compiled_model.evaluate(
        params, inputs, output_gradients={"output": backend.from_jax(loss_gradients)}
    )

    from mithril_losses import cross_entropy_with_logits, cross_entropy_with_logits_gradient

    own = cross_entropy_with_logits_gradient(outputs["output"], targets)
    np.testing.assert_allclose(loss_gradients, own, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(loss_value, cross_entropy_with_logits(outputs["output"], targets), rtol=1e-6)
    moved = {name: params[name] - 0.1 * gradient for name, gradient in gradients.items()}
    assert_moved_downhill(loss_value, jax_cross_entropy(compiled_model.evaluate(moved, inputs)["output"], targets))


def test_pytorch_backend() -> None:
    import torch.nn.functional as F  # noqa: N812

    # Create a PyTorch backend
    backend = TorchBackend()
    compiled_model = Compiled(backend, 5, output=3)
    params, inputs = compiled_model.get_parameters(), {"input": backend.randn(6, 5)}
    targets = backend.array([0, 1, 2, 0, 1, 2])

    # Use PyTorch's built-in loss functions
    def torch_cross_entropy(predictions, targets):
        return F.cross_entropy(backend.to_torch(predictions), backend.to_torch(targets))

    # For gradients, use PyTorch's autograd
    def torch_cross_entropy_gradient(predictions, targets):
        predictions_torch = backend.to_torch(predictions)
        predictions_torch.requires_grad_(True)
        targets_torch = backend.to_torch(targets)

        loss = F.cross_entropy(predictions_torch, targets_torch)
        loss.backward()

        return backend.from_torch(predictions_torch.grad)

    # Use in training loop
    outputs = compiled_model.evaluate(params, inputs)
    loss_value = torch_cross_entropy(outputs["output"], targets)
    loss_gradients = torch_cross_entropy_gradient(outputs["output"], targets)

    _, gradients = compiled_model.evaluate(params, inputs, output_gradients={"output": loss_gradients})

    from mithril_losses import cross_entropy_with_logits, cross_entropy_with_logits_gradient

    own = cross_entropy_with_logits_gradient(outputs["output"], targets)
    np.testing.assert_allclose(loss_gradients, own, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(loss_value, cross_entropy_with_logits(outputs["output"], targets), rtol=1e-6)
    moved = {name: params[name] - 0.1 * gradient for name, gradient in gradients.items()}
    assert_moved_downhill(loss_value, torch_cross_entropy(compiled_model.evaluate(moved, inputs)["output"], targets))


# --- Loss Function Composition ----------------------------------------------------------------------------------


def test_loss_function_composition(backend: Backend) -> None:
    from mithril_losses import cross_entropy_loss, cross_entropy_loss_gradient, mse_loss, mse_loss_gradient

    # the guide hands the outputs to a loss on probabilities, "for multi-class classification with softmax outputs"
    compiled_model = Compiled(backend, 4, softmax=("main_output",), main_output=3, aux_output=2)
    params, inputs = compiled_model.get_parameters(), {"input": backend.randn(6, 4)}
    main_targets, aux_targets = probabilities(backend, 6, 3), backend.randn(6, 2)
    learning_rate = 0.01

    def combined_loss(
        predictions, targets, aux_preds=None, aux_targets=None, lambda_aux=0.3, lambda_reg=0.01, params=None
    ):
        """Combined loss with main task, auxiliary task, and regularization."""
        # Main task loss (e.g., classification)
        main_loss = cross_entropy_loss(predictions, targets)

        # Auxiliary task loss (e.g., regression)
        aux_loss = 0
        if aux_preds is not None and aux_targets is not None:
            aux_loss = lambda_aux * mse_loss(aux_preds, aux_targets)

        # Regularization loss
        reg_loss = 0
        if params is not None:
            for param in params.values():
                reg_loss += backend.sum(backend.square(param))
            reg_loss = 0.5 * lambda_reg * reg_loss

        # Combined loss
        return main_loss + aux_loss + reg_loss

    # Compute gradients for main and auxiliary tasks
    def combined_loss_gradients(predictions, targets, aux_preds=None, aux_targets=None, lambda_aux=0.3):
        """Compute gradients for main and auxiliary tasks."""
        main_gradients = cross_entropy_loss_gradient(predictions, targets)

        aux_gradients = None
        if aux_preds is not None and aux_targets is not None:
            aux_gradients = lambda_aux * mse_loss_gradient(aux_preds, aux_targets)

        return {"main": main_gradients, "aux": aux_gradients}

    # Use in training loop
    outputs = compiled_model.evaluate(params, inputs)
    main_preds = outputs["main_output"]
    aux_preds = outputs["aux_output"]

    # Compute combined loss value
    loss_value = combined_loss(
        main_preds, main_targets, aux_preds, aux_targets, lambda_aux=0.3, lambda_reg=0.01, params=params
    )

    # Compute gradients for each output
    gradients_dict = combined_loss_gradients(main_preds, main_targets, aux_preds, aux_targets, lambda_aux=0.3)

    # Backward pass with task-specific gradients
    _, gradients = compiled_model.evaluate(
        params,
        inputs,
        output_gradients={"main_output": gradients_dict["main"], "aux_output": gradients_dict["aux"]},
    )

    start = dict(params)
    # Apply regularization gradient separately
    for name, grad in gradients.items():
        # Apply task-specific gradient and regularization
        reg_grad = 0.01 * params[name]  # L2 regularization
        params[name] = params[name] - learning_rate * (grad + reg_grad)

    def loss_of(name: str) -> Callable[..., Any]:
        def loss(value: Any) -> Any:
            at = {**start, name: value}
            found = linear(backend, at, inputs["input"], ("main_output",))
            return combined_loss(
                found["main_output"], main_targets, found["aux_output"], aux_targets, lambda_reg=0.01, params=at
            )

        return loss

    for name, grad in gradients.items():
        assert_is_derivative(backend, grad + 0.01 * start[name], loss_of(name), start[name])
    outputs = compiled_model.evaluate(params, inputs)
    after = combined_loss(
        outputs["main_output"], main_targets, outputs["aux_output"], aux_targets, lambda_reg=0.01, params=params
    )
    assert_moved_downhill(loss_value, after)


# --- Numerical Stability ----------------------------------------------------------------------------------------


def test_stable_softmax_cross_entropy(backend: Backend, registered: list[str]) -> None:
    def stable_cross_entropy(logits, targets):
        """Numerically stable cross-entropy loss."""
        # Shift logits to avoid overflow in exp
        max_logits = backend.max(logits, axis=-1, keepdims=True)
        shifted_logits = logits - max_logits

        # Compute log softmax
        exp_logits = backend.exp(shifted_logits)
        sum_exp_logits = backend.sum(exp_logits, axis=-1, keepdims=True)
        log_probs = shifted_logits - backend.log(sum_exp_logits)

        # Compute cross-entropy
        return -backend.mean(backend.sum(targets * log_probs, axis=-1))

    def stable_cross_entropy_gradient(logits, targets):
        """Numerically stable gradient of cross-entropy loss."""
        # Compute softmax probabilities
        max_logits = backend.max(logits, axis=-1, keepdims=True)
        shifted_logits = logits - max_logits
        exp_logits = backend.exp(shifted_logits)
        sum_exp_logits = backend.sum(exp_logits, axis=-1, keepdims=True)
        probs = exp_logits / sum_exp_logits

        # Gradient is (probabilities - targets) / batch_size
        batch_size = backend.shape(logits)[0]
        return (probs - targets) / batch_size

    from mithril_losses import cross_entropy_with_logits, cross_entropy_with_logits_gradient

    logits, targets = 100.0 * backend.randn(6, 3), probabilities(backend, 6, 3)
    value, gradient = stable_cross_entropy(logits, targets), stable_cross_entropy_gradient(logits, targets)
    np.testing.assert_allclose(float(value), float(cross_entropy_with_logits(logits, targets)), rtol=1e-6)
    np.testing.assert_allclose(gradient, cross_entropy_with_logits_gradient(logits, targets), rtol=1e-5, atol=1e-7)
    gradient_of(stable_cross_entropy)(stable_cross_entropy_gradient)
    registered.append("stable_cross_entropy")
    # the guide's gradient holds for targets that sum to one, which rows drawn in float32 do not in float64
    targets = backend.array(np.eye(3)[[0, 2, 1, 1, 0, 2]])
    check_gradient("stable_cross_entropy", backend.randn(6, 3), targets)


def test_epsilon_in_divisions(backend: Backend) -> None:
    def binary_cross_entropy_stable(predictions, targets, epsilon=1e-7):
        """Numerically stable binary cross-entropy loss."""
        # Clip predictions to avoid log(0) and log(1)
        clipped_preds = backend.clip(predictions, epsilon, 1.0 - epsilon)

        # Compute BCE
        return -backend.mean(targets * backend.log(clipped_preds) + (1 - targets) * backend.log(1 - clipped_preds))

    from mithril_losses import binary_cross_entropy

    predictions, targets = backend.array([0.0, 0.3, 1.0, 1.0]), backend.array([1.0, 0.25, 1.0, 0.0])
    value = float(binary_cross_entropy_stable(predictions, targets))
    assert np.isfinite(value)
    np.testing.assert_allclose(value, float(binary_cross_entropy(predictions, targets)), rtol=1e-6)
