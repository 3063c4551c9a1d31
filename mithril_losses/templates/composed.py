"""Losses that are made of other losses, each of which is computed on the fast path of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mithril_losses.templates.base import Template

Both = Callable[..., tuple[Any, Any]]


class Composed(Template):
    """The template of a loss that is made of others.

    Args:
        compose: is handed `fast`, which makes one function of value and gradient of any loss; returns such a function.
        separable: whether the unreduced losses of different rows share nothing.

    Example:
        >>> from mithril_losses import gradient_of, mse_loss, mse_loss_gradient, unregister
        >>> def doubled_loss(predictions, targets):
        ...     return 2.0 * mse_loss(predictions, targets)
        >>> def compose(fast):
        ...     def both(predictions, targets, upstream=1.0):
        ...         value, gradient = fast(mse_loss)(predictions, targets, upstream=2.0 * upstream)
        ...         return 2.0 * value, gradient
        ...     return both
        >>> @gradient_of(doubled_loss, terms=Composed(compose))
        ... def doubled_loss_gradient(predictions, targets, *, upstream=1.0):
        ...     return mse_loss_gradient(predictions, targets, upstream=2.0 * upstream)
        >>> unregister("doubled_loss")
    """

    def __init__(self, compose: Callable[[Callable[..., Both]], Both], separable: bool = True) -> None:
        self.compose = compose
        self.separable = separable
