"""Losses for kfac-jax, which preconditions gradients of JAX models by Kronecker factors of a curvature matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import kfac_jax
from kfac_jax._src.layers_and_loss_tags import LossMetaData, loss_tag  # what its own `register_…` functions bind

from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.domains import Choice
from mithril_losses.execution.curvature import (
    hessian_factor_product,
    hessian_factor_transpose_product,
    hessian_vector_product,
)
from mithril_losses.numerics.sampling import Draw
from mithril_losses.templates.second_order import KINDS, Kind

_KIND = Choice(KINDS)


def register_loss(
    loss: str | Callable[..., Any], *arrays: Any, weight: float = 1.0, curvature: Kind = "fisher", **options: Any
) -> None:
    """Register weight · Σ ℓ / batch size as the loss of the model that is being traced.

    The matrices of kfac-jax, its Gauss–Newton matrix and for a likelihood its Fisher matrix, are then made of the
    second derivatives that are written by hand. It is called as `kfac_jax.register_squared_error_loss` is.

    Args:
        loss: a registered loss whose Hessian has a factor, its name or its gradient.
        arrays: its arrays, in their order: outputs of the model first, then targets. The first axis is the batch.
        weight: what the sum of the losses, divided by the size of the batch, is multiplied by: 1 / C for the mean over
            C outputs.
        curvature: see `hessian_factor_product`.
        options: the options of the loss: numbers, flags and names.

    Raises:
        ValueError: the loss has no curvature.
        TypeError: a wrong number of arrays, or an option that is an array.
    """
    pair = find_loss(loss)
    names = tuple(pair.array_arguments)
    if len(arrays) != len(names):
        raise TypeError(f"{pair.name} has the arrays {', '.join(names)}, got {len(arrays)}")
    for name, x in options.items():
        if hasattr(x, "shape"):
            raise TypeError(f"{name} must be a number, a flag or a name here, got an array")
    kind = _class_of(pair.name, _KIND.check("curvature", curvature), tuple(sorted(options.items())))
    meta = LossMetaData(
        loss_class=kind,
        parameter_dependants=pair.wrt,
        parameter_independants=(*(name for name in names if name not in pair.wrt), "weight"),
        argument_names=(*names, "weight"),
    )
    loss_tag.bind(*arrays, weight, meta=meta)


@functools.cache  # JAX compares the classes, and keeps each that it knows
def _class_of(name: str, kind: Kind, options: tuple[tuple[str, Any], ...]) -> type[kfac_jax.LossFunction]:
    pair = find_loss(name)
    base = _Loss if pair.terms.sampled is None else _Likelihood
    products = (hessian_vector_product, hessian_factor_product, hessian_factor_transpose_product)
    made: Any = type(
        name,
        (base,),
        {
            "pair": pair,
            "options": dict(options),
            "products": tuple(make(pair, curvature=kind) for make in products),  # in a tuple, they are no methods
        },
    )
    found: type[kfac_jax.LossFunction] = jax.tree_util.register_pytree_node_class(made)
    return found


class _Loss(kfac_jax.LossFunction):  # type: ignore[misc]  # kfac-jax has no types where it is not installed
    """A loss with one factor for all samples; the vectors of two arguments of a loss stand side by side."""

    pair: Pair
    options: dict[str, Any]
    products: tuple[Callable[..., Any], ...]

    def __init__(self, *arrays: Any, weight: Any = 1.0, **named: Any) -> None:
        names = self.pair.array_arguments
        self._arrays = dict(zip(names, arrays, strict=False)) | named
        weight = arrays[len(names)] if len(arrays) > len(names) else weight
        super().__init__(weight)

    @property
    def targets(self) -> Any:
        return self._arrays[self.pair.array_arguments[-1]]

    @property
    def parameter_dependants(self) -> tuple[Any, ...]:
        return tuple(self._arrays[name] for name in self.pair.wrt)

    params = parameter_dependants

    @property
    def parameter_independants(self) -> tuple[Any, ...]:
        return (*(x for name, x in self._arrays.items() if name not in self.pair.wrt), self._weight)

    def _evaluate(self, targets: Any) -> Any:
        arrays = {**self._arrays, self.pair.array_arguments[-1]: targets}
        return self.pair.value(**arrays, **self.options, reduction="none")

    def _product(self, which: int, vectors: Sequence[Any]) -> tuple[Any, ...]:
        wrt = self.pair.wrt
        vector = vectors[0] if len(wrt) == 1 else dict(zip(wrt, vectors, strict=True))
        found = self.products[which](**self._arrays, **self.options, vector=vector, reduction="sum")
        return (found,) if len(wrt) == 1 else tuple(found[name] for name in wrt)

    @property
    def ggn_factor_inner_shape(self) -> tuple[int, ...]:
        shape = self.parameter_dependants[0].shape
        return (*shape[:-1], len(self.pair.wrt) * shape[-1]) if len(self.pair.wrt) > 1 else shape

    def multiply_ggn_unweighted(self, vector: Sequence[Any]) -> tuple[Any, ...]:
        return self._product(0, vector)

    def multiply_ggn_factor_unweighted(self, vector: Any) -> tuple[Any, ...]:
        count = len(self.pair.wrt)
        return self._product(1, jax.numpy.split(vector, count, axis=-1) if count > 1 else (vector,))

    def multiply_ggn_factor_transpose_unweighted(self, vector: Sequence[Any]) -> Any:
        found = self._product(2, vector)
        return jax.numpy.concatenate(found, axis=-1) if len(found) > 1 else found[0]

    def multiply_ggn_factor_replicated_one_hot_unweighted(self, index: tuple[int, ...]) -> tuple[Any, ...]:
        unit = jax.numpy.zeros(self.ggn_factor_inner_shape, self.dtype).at[(slice(None), *index)].set(1.0)
        return self.multiply_ggn_factor_unweighted(unit)


class _Likelihood(_Loss, kfac_jax.NegativeLogProbLoss):  # type: ignore[misc]  # likewise
    """A loss that draws targets from the model, too: its Fisher matrix is the matrix above."""

    fisher_factor_inner_shape = _Loss.ggn_factor_inner_shape
    multiply_fisher_unweighted = _Loss.multiply_ggn_unweighted
    multiply_fisher_factor_unweighted = _Loss.multiply_ggn_factor_unweighted
    multiply_fisher_factor_transpose_unweighted = _Loss.multiply_ggn_factor_transpose_unweighted
    multiply_fisher_factor_replicated_one_hot_unweighted = _Loss.multiply_ggn_factor_replicated_one_hot_unweighted

    def sample(self, rng: Any) -> Any:
        sampled: Any = self.pair.terms.sampled
        return sampled(Draw(jax.numpy, rng), **self._arrays, **self.options)
