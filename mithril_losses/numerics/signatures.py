"""The signatures of functions that pass keywords on to a reduction, with these keywords by name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, is_typeddict

from mithril_losses.numerics.reduction import plan

_UNPACKED = re.compile(r"(?:\w+\.)*Unpack\[(\w+)\]")
_DEFAULTS = dict(plan.__kwdefaults__ or {})


class PassedOn(inspect.Parameter):
    """A keyword that a function takes by `**`, as an entry of a `TypedDict`, and passes on."""


def show_signature(function: Callable[..., Any], signature: inspect.Signature) -> None:
    """Let `inspect.signature` and `help` show this signature of a function."""
    function.__signature__ = signature  # type: ignore[attr-defined]  # `inspect` reads it; types do not know it


def keywords_of(entries: Any) -> tuple[str, ...]:
    """Return the names of the entries of a `TypedDict` of reduction keywords, in the order in which they are shown.

    Example:
        >>> from mithril_losses.numerics.reduction import GradientReduction
        >>> keywords_of(GradientReduction)
        ('reduction', 'weights', 'axis', 'normalizer', 'across', 'upstream')
    """
    return tuple(name for name in _DEFAULTS if name in entries.__annotations__)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, in which `**reduction: Unpack[…]` is replaced by the keywords themselves.

    Example:
        >>> from mithril_losses import mse_loss_gradient
        >>> list(signature_of(mse_loss_gradient).parameters)
        ['predictions', 'targets', 'reduction', 'weights', 'axis', 'normalizer', 'across', 'upstream']
    """
    found = inspect.signature(function)
    *others, last = found.parameters.values() or [None]
    if last is None or last.kind is not last.VAR_KEYWORD:
        return found
    entries = _entries(last.annotation, getattr(function, "__globals__", {}))
    return found if entries is None else found.replace(parameters=[*others, *_passed_on(entries)])


def _entries(annotation: Any, names: dict[str, Any]) -> Any:
    """Return the `TypedDict` of an annotation `Unpack[…]`, or None for any other annotation."""
    if isinstance(annotation, str):
        match = _UNPACKED.fullmatch(annotation)
        found = names.get(match[1]) if match else None
    else:
        found = (get_args(annotation) or (None,))[0]
    return found if is_typeddict(found) and found.__annotations__.keys() <= _DEFAULTS.keys() else None


@functools.cache
def _passed_on(entries: Any) -> tuple[PassedOn, ...]:
    types = {name: getattr(x, "__forward_arg__", x) for name, x in entries.__annotations__.items()}
    return tuple(
        PassedOn(name, PassedOn.KEYWORD_ONLY, default=_DEFAULTS[name], annotation=types[name])
        for name in keywords_of(entries)
    )
