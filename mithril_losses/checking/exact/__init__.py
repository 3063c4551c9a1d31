"""Gradients checked in exact numbers: an array library of dual numbers of sixty digits, and losses compared on it.

This package needs mpmath (extra `proof`).
"""

from mithril_losses.checking.exact import arrays, linalg
from mithril_losses.checking.exact.arrays import ExactArray, exact, rate
from mithril_losses.checking.exact.check import (
    LIMITS,
    ExactCheck,
    Limit,
    check_catalogue_exactly,
    check_exact,
    check_exact_curvature,
)
from mithril_losses.checking.exact.points import Point, points

arrays.linalg = linalg

__all__ = [
    "LIMITS",
    "ExactArray",
    "ExactCheck",
    "Limit",
    "Point",
    "check_catalogue_exactly",
    "check_exact",
    "check_exact_curvature",
    "exact",
    "points",
    "rate",
]
