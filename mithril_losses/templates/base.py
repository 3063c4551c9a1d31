"""The questions that every template answers, so that other code need not know which template it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from mithril_losses.autodiff import by_chunks, differentiable, value_on_host
from mithril_losses.backends.namespaces import Array
from mithril_losses.domains import Choice, Labels, enforced
from mithril_losses.elsewhere import no_such_option
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.signatures import keywords_of
from mithril_losses.shards import Split
from mithril_losses.templates.loop import Call, Loop

F = TypeVar("F", bound=Callable[..., Any])
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Template:
    """How a kind of loss is computed.

    Args:
        separable: see below; likewise `jitted`, `by_numpy`, `check` and `mass`.
        loop: a function of the loss's arguments (NumPy arrays) that returns a `Loop`, or None if none fits them.

    Attributes:
        name: of the loss, for messages.
        domain: what each argument may be, by name.
        wrt: the arguments that the gradient is taken with respect to by default.
        on_request: further arguments that `wrt=` accepts.
        outputs: the arrays in the place of the gradients, by name, each with the argument that has its shape and dtype;
            by default the gradients wrt `wrt`.
        curved: whether the second derivatives of the loss are known.
        has_fisher: whether the Fisher information is known, where it differs from the Hessian.
        sampled: for a likelihood: a function of a source of random numbers and of the loss's arguments by name that
            returns targets drawn from the model, in the form of the given ones.
        has_value: whether a value is computed; if not, 0 stands in its place.
        is_factor: whether what is computed is multiplied by the root of what a gradient is multiplied by.
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
        plain_value: a function of the arguments, in the order of `domain`, that returns the reduced loss; autodiff
            frameworks differentiate what it computes.
        gradient: a function of the same arguments that returns the hand-derived gradient.
        both: a function of the same arguments that returns value and gradient; shared work is done once.
        takes_wrt: whether `both` takes `wrt=`.
        compose: for a loss of other losses: a function that takes `value_and_gradient` (with its settings), and returns
            the function of value and gradient of this loss.
        takes_out: whether that function takes `out`.
        separable: whether different rows have independent unreduced losses, so that rows may be computed separately.
        jitted: whether the pair is compiled for JAX. A loss that compiles its parts by itself may have to read values
            between them.
        by_numpy: whether NumPy computes large JAX arrays in the memory of the host, as it does for tensors: its sorts,
            trees and tiles are faster than XLA's.
        has_loop: whether `loop` may return a loop.
        check: a function of the loss's arguments that raises for illegal values, which a trace cannot read.
        mass: a function of the loss's arguments that returns the mass of each row: what it contributes to the divisor.
        splits_rows: whether the rows of a call may be split over shards.
        splits_classes: whether the last axis, or that of the classes, may be.
        options: the arguments that are no arrays.
        passed_on: the keywords that the loss passes on to its reduction.
        passed_on_by_gradient: those that its gradient passes on.
    """

    name = "the loss"
    domain: Mapping[str, Any] = NOTHING
    wrt: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    outputs: Mapping[str, str] = NOTHING
    curved = False
    has_fisher = False
    sampled: Callable[..., Any] | None = None
    has_value = True
    is_factor = False
    kinks: Any = None
    plain_value: Any = None
    gradient: Any = None
    both: Any = None
    takes_wrt = False
    compose: Callable[..., Any] | None = None
    takes_out = False
    separable = True
    jitted = True
    by_numpy = False
    has_loop = False
    check: Callable[..., Any] | None = None
    mass: Callable[..., Any] | None = None
    splits_classes = False
    options: tuple[str, ...] = ()
    passed_on: tuple[str, ...] = keywords_of(Reduction)
    passed_on_by_gradient: tuple[str, ...] = keywords_of(GradientReduction)
    _loop: Callable[..., Loop | None] | None = None

    def __init__(
        self,
        *,
        separable: bool = True,
        jitted: bool = True,
        by_numpy: bool = False,
        loop: Callable[..., Loop | None] | None = None,
        check: Callable[..., Any] | None = None,
        mass: Callable[..., Any] | None = None,
    ) -> None:
        self.separable, self.jitted, self.by_numpy = separable, jitted, by_numpy
        self.has_loop = loop is not None
        self.check, self.mass = check, mass
        self._loop = loop

    def value(self, *arguments: Any, **reduction: Any) -> Array:
        """Return the reduced loss of arrays and options given in the order of `domain`.

        PyTorch and JAX differentiate it by `gradient`.
        """
        if type(arguments[0]) is np.ndarray:
            return value_on_host(self, arguments, reduction)
        return differentiable(self, arguments, reduction)

    def in_chunks(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], returns: str) -> Any:
        """Return the "value", the "gradient" or "both" for arrays of Dask, in which nothing is computed yet.

        The keywords are those of the reduction, and `wrt`.
        """
        return by_chunks(self, arguments, keywords, returns)

    def likelihood(self, sampled: F) -> F:
        """Declare the loss as the negative log-likelihood of its targets: decorates a function that draws them.

        It takes a `Draw` and the arguments of the loss by name, and raises a ValueError for options with which the loss
        is no likelihood.
        """
        self.sampled = sampled
        return sampled

    def require_known(self, keywords: Mapping[str, Any], gradient: bool = True) -> None:
        """Raise a TypeError for a keyword that neither the loss takes nor, where that is asked for, its gradient."""
        known = self.passed_on_by_gradient if gradient else self.passed_on
        for name in keywords:
            if name not in known:
                raise TypeError(self.refusal(name, known))
        if keywords.get("across") is not None:
            self._require_split(keywords["across"])

    @property
    def splits_rows(self) -> bool:
        """Whether the rows of a call may be split over shards."""
        return self.separable

    def _require_split(self, across: Any) -> None:
        if isinstance(across, Split) and across.classes is not None and not self.splits_classes:
            raise ValueError(f"{self.name} has no axis that Split(classes=…) could split: only its rows may be split")
        if not self.splits_rows and not (isinstance(across, Split) and across.rows is None):
            raise ValueError(f"{self.name} cannot be split by rows: each of its losses depends on all rows")

    def requested(self, wrt: Any) -> tuple[str, ...]:
        """Check the names in `wrt`, a name or a tuple of names, and return them in the order of the arguments.

        None asks for the usual arguments.
        """
        if wrt is None:
            return self.wrt
        if not self.on_request:
            self.require_known({"wrt": wrt})
        choice = Choice(tuple(name for name in self.domain if name in (*self.wrt, *self.on_request)))
        names = {choice.check("wrt", name) for name in (wrt if isinstance(wrt, tuple) else (wrt,))}
        return tuple(name for name in choice.names if name in names)

    def refusal(self, name: str, known: Iterable[str]) -> str:
        """Return the message about an unknown keyword, for a loss with options of its own and those in `known`."""
        if name in self.domain:
            return f"{self.name}() got multiple values for argument {name!r}"
        if name == "upstream":
            return f"{self.name} takes no upstream: that is the gradient which flows into it, for its own gradient"
        if name == "wrt":
            return f"{self.name} has no option 'wrt': the gradient is wrt {', '.join(self.wrt)}"
        of_gradient = ("wrt",) if self.on_request and "upstream" in known else ()
        return no_such_option(self.name, name, [*self.options, *of_gradient, *known])

    def check_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Raise a ValueError if a value of an array is seen to lie outside of its domain."""
        held = enforced(self.domain)
        for name, domain in self.domain.items():
            # a template with its own check knows which labels are ignored
            if name in arrays and (name in held or (isinstance(domain, Labels) and self.check is None)):
                domain.check(name, arrays[name])

    @property
    def elements(self) -> Mapping[str, Any]:
        """The element-wise terms of the loss, by the argument whose slope they return."""
        return NOTHING

    def loop(self, call: Call) -> Loop | None:
        """Return the loop over large arrays, or None if there is none for them; raise for illegal arguments."""
        found = None if self._loop is None else self._loop(*call.arrays.values(), **call.options)
        return found if found is not None and found.shape else None  # a single row cannot be divided among threads

    def parts(self, call: Call) -> Sequence[tuple[Template, Call]] | None:
        """Return the losses that are reduced separately and then added, with their calls; None for plain functions."""
        return ((self, call),)


class Functions(Template):
    """The template of a loss without terms: the two functions of the pair compute value and gradient separately.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import gradient_of, unregister
        >>> def centered_loss(predictions):
        ...     return np.sum((predictions - predictions.mean()) ** 2)
        >>> @gradient_of(centered_loss, terms=Functions(separable=False))
        ... def centered_loss_gradient(predictions):
        ...     return 2.0 * (predictions - predictions.mean())
        >>> unregister("centered_loss")
    """
