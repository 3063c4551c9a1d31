"""Losses that are composed of other losses, each of which is computed on its own fast path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mithril_losses.templates.base import Template

Both = Callable[..., tuple[Any, Any]]


class Composed(Template):
    """The template of a loss that is composed of others.

    Args:
        compose: a function that takes `fast`, which is `value_and_gradient` with its settings, and returns the
            function of value and gradient of this loss.
        separable: whether the unreduced losses of different rows are independent.
        takes_out: whether the composed function hands `out` on to a function that `fast` returned.
        curved: whether the composed function hands further keywords on to it, too, and returns the sum of what it
            returns: then its second derivatives are those of the losses that it is composed of.

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

    def __init__(
        self,
        compose: Callable[[Callable[..., Both]], Both],
        separable: bool = True,
        *,
        takes_out: bool = False,
        curved: bool = False,
    ) -> None:
        self.compose = compose
        self.separable = separable
        self.takes_out = takes_out
        self.curved = curved
