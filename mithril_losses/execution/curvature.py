"""Second derivatives of losses, by hand: diagonals, products with a vector, and products with a factor.

Each is a pair of its own, whose "gradient" is what was asked for. So it is computed as gradients are: in one fused
loop, in blocks, by a compiled function of JAX, or by the plain functions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mithril_losses.autodiff import multiply_by
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import array_namespace
from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.domains import Choice
from mithril_losses.execution import value_and_gradient
from mithril_losses.numerics.sampling import Draw
from mithril_losses.numerics.signatures import show_signature
from mithril_losses.numerics.validation import quiet
from mithril_losses.templates.second_order import HESSIAN, KINDS, Kind, second_order, vector_names
from mithril_losses.terms.second_order import Order

_KIND = Choice(KINDS)
_FEW = 8  # losses that a message names


def hessian_diagonal(
    loss: Callable[..., Any], *, curvature: Kind = "exact", threads: int | None = None, compile: bool | None = None
) -> Callable[..., Any]:
    """Return a function with the arguments of the gradient that returns diag ∇²L, the second derivatives.

    L is the reduced loss, so weights, divisors and `upstream` enter once, as in the gradient; of the unreduced losses
    (`reduction="none"`), it is that of their sum. The diagonal has the structure, shape and dtype of the gradient.

    Args:
        loss: a registered loss that has curvature, or its gradient.
        curvature: "exact"; "fisher", the Fisher information of a likelihood, or for other losses with a positive
            semidefinite Hessian the Hessian; or "bound", a diagonal D ≥ 0 for which D − ∇²L has no negative eigenvalue.
        threads: see `value_and_gradient`.
        compile: see `value_and_gradient`.

    Raises:
        ValueError: the loss has no curvature, or no such curvature; the message names losses that have it.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import huber_loss
        >>> hessian_diagonal(huber_loss)(np.array([0.5, 3.0]), np.zeros(2)).tolist()
        [0.5, 0.0]
    """
    found = _found(loss, "diagonal", curvature, threads, compile)
    return _named(found, find_loss(loss), lambda result: result[1])


def value_gradient_and_hessian(
    loss: Callable[..., Any], *, curvature: Kind = "exact", threads: int | None = None, compile: bool | None = None
) -> Callable[..., tuple[Any, Any, Any]]:
    """Return a function that returns L, ∇L and diag ∇²L from one pass over the arguments.

    Args and errors are those of `hessian_diagonal`.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> value, gradient, hessian = value_gradient_and_hessian(mse_loss)(np.array([3.0, 1.0]), np.ones(2))
        >>> float(value), gradient.tolist(), hessian.tolist()
        (2.0, [2.0, 0.0], [1.0, 1.0])
    """
    pair = find_loss(loss)
    names = {HESSIAN.format(name): name for name in pair.wrt}

    def split(result: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        value, found = result
        gradients = NamedArrays((name, x) for name, x in found.items() if name not in names)
        hessians = NamedArrays((names[name], x) for name, x in found.items() if name in names)
        if len(pair.wrt) == 1:
            return value, gradients[pair.wrt[0]], hessians[pair.wrt[0]]
        return value, gradients, hessians

    return _named(_found(loss, "all", curvature, threads, compile), pair, split)


def hessian_vector_product(
    loss: Callable[..., Any], *, curvature: Kind = "exact", threads: int | None = None, compile: bool | None = None
) -> Callable[..., Any]:
    """Return a function of the arguments of the gradient and of `vector=` that returns ∇²L v; no Hessian is held.

    The vector has the structure and shape of the gradient: an array, or a dict of arrays by argument name.

    Args and errors are those of `hessian_diagonal`.

    Example:
        p = (½, ½): H v = p∘v − p (p·v) = (½ − ¼, −¼).

        >>> import numpy as np
        >>> from mithril_losses import cross_entropy_with_logits
        >>> product = hessian_vector_product(cross_entropy_with_logits)
        >>> product(np.zeros((1, 2)), np.array([0]), vector=np.array([[1.0, 0.0]])).tolist()
        [[0.25, -0.25]]
    """
    return _of_vector(loss, "product", curvature, threads, compile)


def hessian_factor_product(
    loss: Callable[..., Any], *, curvature: Kind = "fisher", threads: int | None = None, compile: bool | None = None
) -> Callable[..., Any]:
    """Return a function of the arguments of the gradient and of `vector=` that returns B w, with B Bᵀ = ∇²L.

    B is a square matrix. By default B Bᵀ is the Fisher information, which is the Gauss–Newton matrix of a loss at its
    arguments; weights and `upstream` must not be negative.

    Args and errors are those of `hessian_diagonal`.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> hessian_factor_product(mse_loss)(np.zeros(2), np.ones(2), vector=np.array([1.0, 3.0])).round(12).tolist()
        [1.0, 3.0]
    """
    return _of_vector(loss, "factor", curvature, threads, compile)


def hessian_factor_transpose_product(
    loss: Callable[..., Any], *, curvature: Kind = "fisher", threads: int | None = None, compile: bool | None = None
) -> Callable[..., Any]:
    """Return a function of the arguments of the gradient and of `vector=` that returns Bᵀ v.

    B and the arguments are those of `hessian_factor_product`.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> vector = np.array([1.0, 3.0])
        >>> hessian_factor_transpose_product(mse_loss)(np.zeros(2), np.ones(2), vector=vector).round(12).tolist()
        [1.0, 3.0]
    """
    return _of_vector(loss, "transposed", curvature, threads, compile)


def sample_gradient(
    loss: Callable[..., Any], *, threads: int | None = None, compile: bool | None = None
) -> Callable[..., Any]:
    """Return a function of the arguments of the gradient and of `key=` that returns the gradient at drawn targets.

    The loss must be the negative log-likelihood of its targets. New targets are drawn from the model, that is, from the
    distribution whose parameters are the other arguments; the given ones only show their shape and form. With weights
    and divisor α of a row, the mean of g gᵀ is α² times its Fisher information, and the mean of g is 0.

    Args:
        loss: a registered loss that is a likelihood, or its gradient.
        threads: see `value_and_gradient`.
        compile: see `value_and_gradient`.

    Returns:
        A function whose `key` is a `Generator` or a seed for NumPy and PyTorch, and a key for JAX.

    Raises:
        ValueError: the loss is no likelihood; the message names losses that are.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import cross_entropy_with_logits
        >>> logits, targets = np.array([[0.0, 0.0]]), np.array([0])
        >>> abs(sample_gradient(cross_entropy_with_logits)(logits, targets, key=1)).tolist()
        [[0.5, 0.5]]
    """
    pair = find_loss(loss)
    sampled = pair.terms.sampled
    if sampled is None:
        known = [name for name, other in catalogue().items() if other.terms.sampled is not None]
        raise ValueError(f"{pair.name} is no likelihood of its targets; losses that are: {', '.join(known)}")
    both = value_and_gradient(pair, threads=threads, compile=compile)

    @functools.wraps(pair.value)
    def of_arguments(*arguments: Any, key: Any, **keywords: Any) -> Any:
        given = dict(zip(pair.parameters, arguments, strict=False)) | keywords
        xp = array_namespace(**{name: given[name] for name in pair.wrt})
        options = {name: x for name, x in given.items() if name in pair.parameters}
        with quiet(xp):
            given[pair.array_arguments[-1]] = sampled(Draw(xp, key), **options)
        return both(**given)[1]

    return of_arguments


def has_curvature(loss: str | Callable[..., Any]) -> bool:
    """Whether the second derivatives of a loss are known.

    Example:
        >>> from mithril_losses import earth_mover_distance, mse_loss
        >>> has_curvature(mse_loss), has_curvature(earth_mover_distance)
        (True, False)
    """
    return find_loss(loss).terms.curved


# --- pairs of second derivatives --------------------------------------------------------------------------------------


def _found(
    loss: Callable[..., Any] | Pair, order: Order, kind: Kind, threads: int | None, compile: bool | None
) -> Callable[..., tuple[Any, Any]]:
    """Return the function that returns the value and what the order asks for; vectors go by name."""
    pair = find_loss(loss)
    _KIND.check("curvature", kind)
    if not pair.terms.curved:
        raise ValueError(_refusal(pair))
    if pair.terms.compose is not None:
        composed: Callable[..., tuple[Any, Any]] = pair.terms.compose(
            lambda part: _found(part, order, kind, threads, compile)
        )
        return composed
    found = value_and_gradient(_derived(pair, order, kind), threads=threads, compile=compile)
    is_needed = kind == "fisher" and not pair.terms.has_fisher
    return _of_positive(pair, found) if is_needed else found


def _of_positive(pair: Pair, found: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises where a Hessian that stands for the Fisher information may be negative.

    Raises:
        ValueError: that is so for all options.
    """
    refusal = (
        f"{pair.name} has no Fisher information: it is no likelihood, and its Hessian may have negative eigenvalues"
    )
    declared = [pair.properties[name] for name in _POSITIVE if name in pair.properties]
    if not declared:
        raise ValueError(refusal)
    if not all(each.options for each in declared):
        return found

    def checked(*arguments: Any, **keywords: Any) -> Any:
        options = {name: parameter.default for name, parameter in pair.parameters.items()} | keywords
        if not any(each.allows(options) for each in declared):
            raise ValueError(f"{refusal} with these options")
        return found(*arguments, **keywords)

    return checked


_POSITIVE = ("convex", "psd")  # the properties by which a Hessian has no negative eigenvalue


def _derived(pair: Pair, order: Order, kind: Kind) -> Pair:
    """Return the pair whose "gradient" is what the order asks for; it is dropped together with the loss."""
    found: Pair | None = pair.prepared.get((order, kind))
    if found is not None:
        return found
    template = second_order(pair.terms, order, kind)
    template.name = pair.name
    vectors = [] if order in ("diagonal", "all") else list(vector_names(pair.wrt).values())
    derived = Pair(
        name=f"{order} of {pair.name}",
        value=_without_vectors(pair, vectors),
        gradient=_by_template(pair, template, vectors),
        terms=template,
        wrt=pair.wrt,
        domain=template.domain,
    )
    pair.prepared[order, kind] = derived
    return derived


def _without_vectors(pair: Pair, vectors: list[str]) -> Callable[..., Any]:
    """Return the value as a function that also takes vectors, after the arrays; it only matters for its shape."""
    count, loss = len(pair.array_arguments), pair.value

    def value(*arguments: Any, **keywords: Any) -> Any:
        own = {name: x for name, x in keywords.items() if name not in vectors}
        return loss(*arguments[:count], *arguments[count + len(vectors) :], **own)

    show_signature(value, _signature(loss, count, vectors))
    value.__name__ = pair.name
    return value


def _by_template(pair: Pair, template: Any, vectors: list[str]) -> Callable[..., Any]:
    """Return what the order asks for as a function of the arguments of the gradient and of vectors."""
    signature = _signature(pair.gradient, len(pair.array_arguments), vectors)

    def gradient(*arguments: Any, **keywords: Any) -> Any:
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        given = dict(bound.arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name)
        given.pop("wrt", None)
        own = [given.pop(name) for name in template.domain]
        return template.gradient(*own, **given)

    show_signature(gradient, signature)
    gradient.__name__ = pair.name
    return gradient


def _signature(function: Callable[..., Any], count: int, vectors: list[str]) -> inspect.Signature:
    """Return the signature of a function with vectors after its arrays."""
    parameters = list(inspect.signature(function).parameters.values())
    added = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in vectors]
    return inspect.Signature([*parameters[:count], *added, *parameters[count:]])


def _refusal(pair: Pair) -> str:
    known = [name for name, other in catalogue().items() if has_curvature(other)]
    near = [name for name in known if catalogue()[name].family == pair.family] or known
    more = f" and {len(known) - len(near[:_FEW])} more"
    return f"{pair.name} has no curvature; losses that have it are {', '.join(near[:_FEW])}{more}"


# --- functions for callers --------------------------------------------------------------------------------------------


def _named(found: Callable[..., Any], pair: Pair, finish: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(pair.value)
    def of_arguments(*arguments: Any, **keywords: Any) -> Any:
        return finish(found(*arguments, **keywords))

    return of_arguments


def _of_vector(
    loss: Callable[..., Any], order: Order, kind: Kind, threads: int | None, compile: bool | None
) -> Callable[..., Any]:
    pair = find_loss(loss)
    found = _found(pair, order, kind, threads, compile)
    names = vector_names(pair.wrt)
    positions = [n for n, p in pair.parameters.items() if p.kind is not p.KEYWORD_ONLY]
    count, is_simple = len(pair.array_arguments), pair.terms.compose is None

    @functools.wraps(pair.value)
    def of_arguments(*arguments: Any, vector: Any, **keywords: Any) -> Any:
        if len(arguments) > count:  # options by position
            keywords |= dict(zip(positions[count:], arguments[count:], strict=False))
            arguments = arguments[:count]
        vectors = _by_name(pair, names, vector)
        if len(arguments) == count and is_simple:  # by position, at two thirds of the cost of a small call
            return found(*arguments, *vectors.values(), **keywords)[1]
        return found(*arguments, **vectors, **keywords)[1]

    return of_arguments


def _by_name(pair: Pair, names: Mapping[str, str], vector: Any) -> dict[str, Any]:
    """Return the vectors by the arguments that take them.

    Raises:
        TypeError: a dict of vectors is expected.
        ValueError: it has other names than the gradient.
    """
    if len(names) == 1:
        return {"vector": vector}
    if not isinstance(vector, Mapping):
        raise TypeError(f"vector must be a dict by argument, {', '.join(names)}, got {type(vector).__name__}")
    if vector.keys() != names.keys():
        raise ValueError(f"vector must have the keys {', '.join(names)}, got {', '.join(map(str, vector)) or 'none'}")
    return {names[name]: vector[name] for name in names}


# --- the derivative of a gradient, for PyTorch and JAX ----------------------------------------------------------------


def _products(template: Any, is_recorded: bool) -> Callable[..., dict[str, Any]]:
    """Return a function of arguments, vectors and reduction by name that returns H v by argument."""
    pair = catalogue().get(template.name)
    names = vector_names(template.wrt)
    if pair is None or pair.terms is not template or pair.wrt != template.wrt:  # a part of a loss
        derived, fast = second_order(template, "product", "exact"), None
    else:
        derived = _derived(pair, "product", "exact").terms
        fast = pair.prepared.get("product")
        if fast is None:
            fast = pair.prepared.setdefault("product", value_and_gradient(_derived(pair, "product", "exact")))

    def product(given: Mapping[str, Any], vectors: Mapping[str, Any], reduction: Mapping[str, Any]) -> dict[str, Any]:
        given = {**given, **{names[name]: vector for name, vector in vectors.items()}}
        if is_recorded or fast is None:
            found = derived.gradient(*(given[name] for name in derived.domain), **reduction)
        else:
            found = fast(**given, **reduction)[1]
        return found if len(names) > 1 else {template.wrt[0]: found}

    return product


multiply_by(_products)
