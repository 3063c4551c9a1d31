"""Checks of hand-derived gradients, for the catalogue and for a user's own pairs."""

from mithril_losses.checking.drawing import draw_arguments
from mithril_losses.checking.gradients import (
    GradientCheck,
    GradientMismatchError,
    check_catalogue,
    check_gradient,
)

__all__ = ["GradientCheck", "GradientMismatchError", "check_catalogue", "check_gradient", "draw_arguments"]
