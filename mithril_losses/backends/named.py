"""Arrays by name, such as the gradients of several arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

X = TypeVar("X")


class NamedArrays(dict[str, X]):
    """A dict of arrays whose entries are attributes, too: `gradients["anchor"]` is `gradients.anchor`.

    An entry with the name of a method of dicts, such as `keys`, is reached by its key alone. JAX and PyTorch take it
    for a nesting, whose leaves have the order that they have in a dict. To JAX it is of another type than `dict`: where
    a function of JAX demands the very structure of a dict, as a vector-Jacobian product may, pass `dict(gradients)`.

    Example:
        >>> gradients = NamedArrays(anchor=1.0, positive=2.0)
        >>> gradients.anchor, gradients["positive"], gradients == {"anchor": 1.0, "positive": 2.0}
        (1.0, 2.0, True)
    """

    __slots__ = ()
    if TYPE_CHECKING:
        shape: None  # to type checkers, `__getattr__` has every attribute that an array has; this one tells them apart

    def __getattr__(self, name: str) -> X:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} among {', '.join(self)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]
