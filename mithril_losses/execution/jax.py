"""JAX: one compiled function per loss and set of options, and views of arrays for NumPy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.catalogue import Pair
from mithril_losses.domains import Interval, checked
from mithril_losses.loops.compiling import COMPILED
from mithril_losses.numerics.reduction import require_divisor, require_shares
from mithril_losses.numerics.trees import map_leaves
from mithril_losses.numerics.validation import is_number

# for how many sets of options JAX keeps a loss compiled, about 2 MB each
_JITTED = 64


class OnJax:
    """Value and gradient of JAX arrays in one compiled call; inside a trace, the plain functions."""

    def __init__(self, pair: Pair, donate: bool) -> None:
        self._pair = pair
        self._plain = pair.plain
        self._jitted = jitted(pair)
        self._donate = donate
        # numbers that a compiled function takes as arguments; all other options are constants in it
        intervals = {name: x for name, x in pair.domain.items() if isinstance(x, Interval) and not x.static}
        self._numbers: dict[str, Interval | None] = intervals | {"upstream": None, "normalizer": None}
        self._defaults = {name: pair.parameters[name].default for name in pair.options}

    def __call__(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """Return value and gradient, from the plain functions if JAX cannot compile a call with these arguments."""
        pair = self._pair
        given = dict(zip(pair.array_arguments, arguments, strict=False)) | keywords
        concrete = concrete_array()
        wrt: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        static: dict[str, Any] = {}
        for name, x in given.items():
            if type(x) is concrete:
                (wrt if name in pair.wrt else rest)[name] = x
            elif name in self._numbers and is_number(x):
                if (domain := self._numbers[name]) is not None:
                    domain.check(name, x)
                rest[name] = float(x)
            else:
                static[name] = x
        fits = len(given) == len(arguments) + len(keywords) and all(n in wrt or n in rest for n in pair.array_arguments)
        if not fits or not pair.terms.jitted or any(namespace_of(x) is not None for x in static.values()):
            return self._plain(*arguments, **keywords)
        normalizer = rest.get("normalizer")
        if type(normalizer) is float and not normalizer >= 0.0:
            return self._plain(*arguments, **keywords)  # which raise
        try:
            # with their types: 1 and True are equal, but not the same option
            both = self._jitted(tuple((name, x, type(x)) for name, x in static.items()), self._donate)
        except TypeError:  # an option is not hashable
            return self._plain(*arguments, **keywords)
        if self._donate:  # a wrong call must not destroy the caller's arrays
            self._check_values(given)
        found: tuple[Any, Any] = both(wrt, rest)
        if not self._donate:  # JAX goes on computing while the values are checked
            self._check_values(given)
        return found

    def _check_values(self, given: Mapping[str, Any]) -> None:
        """Raise for illegal values, which a trace could not read."""
        pair = self._pair
        pair.terms.check_arrays({name: given[name] for name in pair.array_arguments})
        options = checked(pair.domain, {name: x for name, x in given.items() if name in self._defaults})
        if given.get("reduction") == "weighted_mean" and pair.takes_reduction:
            require_shares(given.get("weights"))
        if type(normalizer := given.get("normalizer")) is concrete_array():
            require_divisor(normalizer)
        if (check := pair.terms.check) is not None:
            check(*(given[name] for name in pair.array_arguments), **self._defaults | options)


def jitted(pair: Pair) -> Any:
    """Return `jitted(static, donate)`, which returns the plain functions compiled for the static options."""
    found = pair.prepared.get("jax")
    if found is None:
        compile_once = functools.lru_cache(maxsize=_JITTED)(functools.partial(_jitted, pair.plain))
        found = pair.prepared.setdefault("jax", compile_once)
    return found


def _jitted(plain: Callable[..., Any], static: tuple[tuple[str, Any, type], ...], donate: bool) -> Any:
    import jax

    options = {name: x for name, x, _ in static}

    def both(wrt: dict[str, Any], rest: dict[str, Any]) -> Any:
        return plain(**wrt, **rest, **options)

    return jax.jit(both, donate_argnums=(0,) if donate else ())


@functools.cache
def concrete_array() -> type:
    """Return the type of JAX's arrays that have values."""
    import jax

    with jax.ensure_compile_time_eval():  # the first call may be inside a trace
        return type(jax.numpy.zeros(()))


def jax_views(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with NumPy views in place of JAX arrays, or None if one is traced or not on this CPU."""
    jax = sys.modules["jax"]
    given = [*arguments, *keywords.values()]
    arrays = [x for x in given if isinstance(x, jax.Array)]
    if any(isinstance(x, jax.core.Tracer) or x.dtype not in COMPILED for x in arrays):
        return None
    devices = set().union(*(x.devices() for x in arrays))
    if len(devices) != 1 or any(device.platform != "cpu" for device in devices):
        return None
    for x in given:
        if isinstance(x, Mapping) or not (isinstance(x, (jax.Array, np.generic)) or namespace_of(x) is None):
            return None  # of another library or kind: the plain functions decide

    def view(x: Any) -> Any:
        return np.asarray(x) if isinstance(x, jax.Array) else x

    return [view(x) for x in arguments], {name: view(x) for name, x in keywords.items()}


def as_jax(found: tuple[Any, Any], like: Any) -> tuple[Any, Any]:
    """Return NumPy's results as JAX arrays without a copy, on the device of `like` (uncommitted on the default one)."""
    jax = sys.modules["jax"]
    value, gradient = found
    put = functools.partial(jax.device_put, may_alias=True)
    value = put(np.asarray(value))
    if value.devices() != like.devices():
        put = functools.partial(put, device=next(iter(like.devices())))
        value = put(value)
    return value, map_leaves(lambda _, x: put(x), gradient)
