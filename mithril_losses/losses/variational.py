"""Losses of variational autoencoders: reconstruction + β KL, the negative evidence lower bound.

Each returns its total together with the two parts; the gradient is that of the total. The word "mean" has another
meaning in every code base; its meaning here is explained beside each loss, and in a table in the documentation.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import Pair, find_loss, given, gradient_of
from mithril_losses.domains import NON_NEGATIVE, PROBABILITY, Choice, Elements
from mithril_losses.execution import value_and_gradient
from mithril_losses.losses.classification import binary_cross_entropy
from mithril_losses.losses.divergence import gaussian_kl_divergence
from mithril_losses.losses.regression import mse_loss
from mithril_losses.numerics.reduction import NoOthers
from mithril_losses.numerics.validation import as_dtype, quiet, require_one_number
from mithril_losses.templates.composed import Composed

__all__ = [
    "VAELoss",
    "beta_vae_loss",
    "beta_vae_loss_gradient",
    "vae_loss",
    "vae_loss_free_bits",
    "vae_loss_free_bits_gradient",
    "vae_loss_gradient",
]

ReductionName = Literal["sum", "mean", "batch_sum"]
ReconstructionName = Literal["bce", "mse"]
Parts = tuple[Array, Array, Array]

_REDUCTION = Choice(("sum", "mean", "batch_sum"))
_RECONSTRUCTIONS: Mapping[str, Callable[..., Any]] = {"bce": binary_cross_entropy, "mse": mse_loss}
_RECONSTRUCTION = Choice(tuple(_RECONSTRUCTIONS))
_WRT = ("recon_x", "mu", "logvar")
_fast = functools.cache(value_and_gradient)
_RETURNS = ("total", "reconstruction", "kl")
_LATENT = Elements(per_sample=(3,))
_MSE = 'for any real numbers there is VAELoss(reconstruction_type="mse")'
_IMAGES = {
    "recon_x": PROBABILITY.suggesting(f"take the sigmoid of logits; {_MSE}"),
    "x": PROBABILITY.suggesting(f"scale the data; {_MSE}"),
}
_DOMAIN = {**_IMAGES, "mu": _LATENT, "logvar": _LATENT, "reduction": _REDUCTION}


class _Bound:
    """reconstruction + β KL of given arrays; every option has been checked."""

    def __init__(
        self,
        recon_x: Array,
        x: Array,
        mu: Array,
        logvar: Array,
        reduction: str,
        *,
        reconstruction: str = "bce",
        beta: Any = 1.0,
        free_bits: Any = 0.0,
        kl_per_element: bool = False,
    ) -> None:
        self._xp = array_namespace(recon_x=recon_x, x=x, mu=mu, logvar=logvar)
        if tuple(recon_x.shape[:1]) != tuple(mu.shape[:1]):
            raise ValueError(
                f"recon_x and mu must hold as many samples, got shapes {tuple(recon_x.shape)} and {tuple(mu.shape)}"
            )
        self._images, self._latents = (recon_x, x), (mu, logvar)
        beta = NON_NEGATIVE.check("beta", beta)
        self._beta = require_one_number(self._xp, "beta", beta, getattr(beta, "dtype", None))
        self._reconstruction = _RECONSTRUCTIONS[_RECONSTRUCTION.check("reconstruction_type", reconstruction)]
        self._image_options = {"reduction": _REDUCTION.check("reduction", reduction)}
        self._latent_options = _kl_options(mu, reduction, free_bits, kl_per_element)

    def value(self) -> Parts:
        return self._parts(
            self._of_images(self._reconstruction, **self._image_options),
            gaussian_kl_divergence(*self._latents, **self._latent_options),
        )

    def gradient(self, upstream: Any) -> NamedArrays[Array]:
        return self._joined(
            self._of_images(find_loss(self._reconstruction).gradient, **self._image_options, upstream=upstream),
            find_loss(gaussian_kl_divergence).gradient(
                *self._latents, **self._latent_options, upstream=self._beta * upstream
            ),
        )

    def both(
        self, fast: Callable[..., Any], upstream: Any, vectors: Mapping[str, Any]
    ) -> tuple[Any, NamedArrays[Array]]:
        """Return the value and the gradient, from what `fast` makes of each of the two losses.

        It may make second derivatives of them: these take vectors, and the value is 0 if it is not wanted.
        """
        of_image = {"vector": vectors["recon_x_vector"]} if vectors else {}
        of_latent = {"mean_vector": vectors["mu_vector"], "logvar_vector": vectors["logvar_vector"]} if vectors else {}
        both = fast(self._reconstruction)
        reconstruction, by_image = self._of_images(both, **self._image_options, upstream=upstream, **of_image)
        kl, by_latent = fast(gaussian_kl_divergence)(
            *self._latents, **self._latent_options, upstream=self._beta * upstream, **of_latent
        )
        own = next(iter(inspect.signature(self._reconstruction).parameters))
        by_image = by_image if isinstance(by_image, Mapping) else {own: by_image}
        found: NamedArrays[Array] = NamedArrays(
            _renamed(by_image, {own: "recon_x"}) | _renamed(by_latent, {"mean": "mu", "logvar": "logvar"})
        )
        return self._parts(reconstruction, kl) if hasattr(kl, "dtype") else 0.0, found

    def _of_images(self, function: Callable[..., Any], **options: Any) -> Any:
        """Call a function of the reconstruction loss; what it says about its arguments is said about those given."""
        try:
            return function(*self._images, **options)
        except ValueError:
            if self._reconstruction is binary_cross_entropy:
                for (name, domain), x in zip(_IMAGES.items(), self._images, strict=True):
                    domain.check(name, x)
            raise

    def _parts(self, reconstruction: Array, kl: Array) -> Parts:
        with quiet(self._xp):
            total = reconstruction + self._beta * kl
        return as_dtype(self._xp, total, reconstruction.dtype), reconstruction, kl

    def _joined(self, by_image: Array, by_latent: Mapping[str, Array]) -> NamedArrays[Array]:
        return NamedArrays(recon_x=by_image, mu=by_latent["mean"], logvar=by_latent["logvar"])


def _renamed(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return arrays by other names; a diagonal beside a gradient has the name of the argument and an ending."""
    return {
        new + name.removeprefix(old): x
        for old, new in names.items()
        for name, x in found.items()
        if name.startswith(old)
    }


def _kl_options(mu: Array, reduction: str, free_bits: Any, per_element: bool) -> dict[str, Any]:
    """Return the options of the divergence. Its "mean" is taken over samples, or over all elements of `mu`."""
    if reduction == "sum":
        return {"reduction": "sum", "free_bits": free_bits}
    elements = {"normalizer": math.prod(mu.shape)} if reduction == "mean" and per_element else {}
    return {"reduction": "mean", "free_bits": free_bits, **elements}


_VECTORS = ("recon_x_vector", "mu_vector", "logvar_vector")


def _compose(bound_of: Callable[..., _Bound]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the function that composes a fast value and gradient from those of the two losses."""

    def compose(fast: Callable[..., Any]) -> Callable[..., Any]:
        fast = functools.cache(fast)

        def both(*arguments: Any, upstream: Any = 1.0, **options: Any) -> tuple[Any, NamedArrays[Array]]:
            vectors = {name: options.pop(name) for name in _VECTORS if name in options}
            return bound_of(*arguments, **options).both(fast, upstream, vectors)

        return both

    return compose


# --- the functions ----------------------------------------------------------------------------------------------------


def _vae(recon_x: Array, x: Array, mu: Array, logvar: Array, reduction: str = "sum") -> _Bound:
    return _Bound(recon_x, x, mu, logvar, reduction)


_VAE_LOSS = Composed(_compose(_vae), separable=False, curved=True)


def vae_loss(
    recon_x: ArrayT, x: Array, mu: ArrayT, logvar: ArrayT, reduction: ReductionName = "sum", **others: Unpack[NoOthers]
) -> tuple[ArrayT, ArrayT, ArrayT]:
    """BCE(x̂, x) + KL, x̂ = clip(recon_x, ε, 1 − ε), ε = 10⁻⁷, KL = Σ ½ (μ² + e^ℓ − 1 − ℓ), ℓ = logvar.

    Args:
        recon_x: the output of the decoder: probabilities, first axis = samples. They are clipped to [ε, 1 − ε]. If
            1 − ε rounds to 1 in their dtype, ε is raised to its resolution.
        x: the data, in [0, 1], the same shape.
        mu: μ of the encoder, first axis = samples.
        logvar: ℓ = log σ² of the encoder, the shape of `mu`.
        reduction: "sum": both sums over all elements. "mean": the mean of the cross-entropy over all elements, and the
            sum of the KL divided by the number of samples. "batch_sum": both sums divided by the number of samples,
            which is the mean negative evidence lower bound of a sample.

    Returns:
        The total, the reconstruction loss and the KL, three scalars.

    Raises:
        ValueError: shapes or numbers of samples differ, or the reduction is unknown.
        TypeError: an argument is not an array, or not floating point.

    Example:
        −log ½ = 0.693147…, and ½ (1² + 1 − 1 − 0) = ½.

        >>> import numpy as np
        >>> total, reconstruction, kl = vae_loss(*np.array([[[0.5]], [[1.0]], [[1.0]], [[0.0]]]))
        >>> round(float(total), 6), round(float(reconstruction), 6), float(kl)
        (1.193147, 0.693147, 0.5)

    Source:
        D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, 2014. https://arxiv.org/abs/1312.6114
    """
    _VAE_LOSS.require_known(others, gradient=False)
    return _vae(recon_x, x, mu, logvar, reduction).value()


@gradient_of(
    vae_loss,
    wrt=_WRT,
    returns=_RETURNS,
    domain=_DOMAIN,
    terms=_VAE_LOSS,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def vae_loss_gradient(
    recon_x: ArrayT,
    x: Array,
    mu: ArrayT,
    logvar: ArrayT,
    reduction: ReductionName = "sum",
    *,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> NamedArrays[ArrayT]:
    """(x̂ − x) / (x̂ (1 − x̂)) / N, μ / M and ½ (e^ℓ − 1) / M; taken at x̂ also where recon_x was clipped.

    N and M are 1 for "sum", the numbers of elements of x and of samples for "mean", and the number of samples for
    "batch_sum".

    Returns:
        The gradient of the total: new arrays under "recon_x", "mu" and "logvar".

    Example:
        >>> import numpy as np
        >>> gradients = vae_loss_gradient(*np.array([[[0.5]], [[1.0]], [[1.0]], [[0.0]]]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'recon_x': [[-2.0]], 'mu': [[1.0]], 'logvar': [[0.0]]}
    """
    _VAE_LOSS.require_known(others)
    return _vae(recon_x, x, mu, logvar, reduction).gradient(upstream)


def _beta_vae(recon_x: Array, x: Array, mu: Array, logvar: Array, beta: Any = 4.0, reduction: str = "sum") -> _Bound:
    return _Bound(recon_x, x, mu, logvar, reduction, beta=beta)


_BETA_VAE_LOSS = Composed(_compose(_beta_vae), separable=False, curved=True)


def beta_vae_loss(
    recon_x: ArrayT,
    x: Array,
    mu: ArrayT,
    logvar: ArrayT,
    beta: float = 4.0,
    reduction: ReductionName = "sum",
    **others: Unpack[NoOthers],
) -> tuple[ArrayT, ArrayT, ArrayT]:
    """BCE(x̂, x) + β KL, x̂ = clip(recon_x, ε, 1 − ε), ε = 10⁻⁷, KL = Σ ½ (μ² + e^ℓ − 1 − ℓ), ℓ = logvar.

    Args:
        recon_x: as in `vae_loss`; likewise all other arguments.
        x: the data.
        mu: μ.
        logvar: ℓ.
        beta: β ≥ 0. A β above 1 favours independent latent dimensions, at the cost of the reconstruction.
        reduction: "sum", "mean" or "batch_sum".

    Returns:
        The total, the reconstruction loss and the KL, not weighted by β.

    Raises:
        ValueError: as in `vae_loss`, or beta is negative.
        TypeError: as in `vae_loss`.

    Example:
        log 2 + 4 · ½ = 2.693147…

        >>> import numpy as np
        >>> total, _, kl = beta_vae_loss(*np.array([[[0.5]], [[1.0]], [[1.0]], [[0.0]]]))
        >>> round(float(total), 6), float(kl)
        (2.693147, 0.5)

    Source:
        I. Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, 2017.
        https://openreview.net/forum?id=Sy2fzU9gl
    """
    _BETA_VAE_LOSS.require_known(others, gradient=False)
    return _beta_vae(recon_x, x, mu, logvar, beta, reduction).value()


@gradient_of(
    beta_vae_loss,
    wrt=_WRT,
    returns=_RETURNS,
    domain={**_DOMAIN, "beta": NON_NEGATIVE},
    terms=_BETA_VAE_LOSS,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def beta_vae_loss_gradient(
    recon_x: ArrayT,
    x: Array,
    mu: ArrayT,
    logvar: ArrayT,
    beta: float = 4.0,
    reduction: ReductionName = "sum",
    *,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> NamedArrays[ArrayT]:
    """(x̂ − x) / (x̂ (1 − x̂)) / N, β μ / M and ½ β (e^ℓ − 1) / M; taken at x̂ also where recon_x was clipped.

    N and M are the divisors of the two parts, as in `vae_loss_gradient`.

    Returns:
        The gradient of the total: new arrays under "recon_x", "mu" and "logvar".

    Example:
        >>> import numpy as np
        >>> beta_vae_loss_gradient(*np.array([[[0.5]], [[1.0]], [[1.0]], [[0.0]]]), beta=3.0)["mu"].tolist()
        [[3.0]]
    """
    _BETA_VAE_LOSS.require_known(others)
    return _beta_vae(recon_x, x, mu, logvar, beta, reduction).gradient(upstream)


def _free_bits_vae(
    recon_x: Array, x: Array, mu: Array, logvar: Array, free_bits: Any = 0.1, reduction: str = "sum"
) -> _Bound:
    return _Bound(recon_x, x, mu, logvar, reduction, free_bits=free_bits)


_VAE_LOSS_FREE_BITS = Composed(_compose(_free_bits_vae), separable=False, curved=True)


def vae_loss_free_bits(
    recon_x: ArrayT,
    x: Array,
    mu: ArrayT,
    logvar: ArrayT,
    free_bits: float = 0.1,
    reduction: ReductionName = "sum",
    **others: Unpack[NoOthers],
) -> tuple[ArrayT, ArrayT, ArrayT]:
    """BCE(x̂, x) + Σ max(λ, ½ (μ² + e^ℓ − 1 − ℓ)), x̂ = clip(recon_x, ε, 1 − ε), ε = 10⁻⁷, ℓ = logvar, λ = free_bits.

    Args:
        recon_x: as in `vae_loss`; likewise all other arguments.
        x: the data.
        mu: μ.
        logvar: ℓ.
        free_bits: λ ≥ 0, in nats: the least that each dimension of each sample costs. Where the KL of a dimension is
            below λ, its gradient is 0, so that it may carry λ nats of information without a penalty.
        reduction: "sum", "mean" or "batch_sum".

    Returns:
        The total, the reconstruction loss and the KL with its free bits.

    Raises:
        ValueError: as in `vae_loss`, or free_bits is negative.
        TypeError: as in `vae_loss`.

    Example:
        The divergences ½ · 1² and 0 count ½ and 0.1.

        >>> import numpy as np
        >>> _, _, kl = vae_loss_free_bits(*np.array([[[0.5, 0.5]], [[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]]))
        >>> float(kl)
        0.6

    Source:
        D. P. Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, which has the
        maximum of λ and the mean over the minibatch: with one for each sample the loss is at least as large.
        https://arxiv.org/abs/1606.04934
    """
    _VAE_LOSS_FREE_BITS.require_known(others, gradient=False)
    return _free_bits_vae(recon_x, x, mu, logvar, free_bits, reduction).value()


@gradient_of(
    vae_loss_free_bits,
    wrt=_WRT,
    returns=_RETURNS,
    domain={**_DOMAIN, "free_bits": NON_NEGATIVE},
    kinks=lambda recon_x, x, mu, logvar, free_bits, reduction: find_loss(gaussian_kl_divergence).kinks_at(
        (mu, logvar), {"free_bits": free_bits}
    ),
    terms=_VAE_LOSS_FREE_BITS,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def vae_loss_free_bits_gradient(
    recon_x: ArrayT,
    x: Array,
    mu: ArrayT,
    logvar: ArrayT,
    free_bits: float = 0.1,
    reduction: ReductionName = "sum",
    *,
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> NamedArrays[ArrayT]:
    """(x̂ − x) / (x̂ (1 − x̂)) / N, μ / M and ½ (e^ℓ − 1) / M, the last two 0 where the KL is below the free bits.

    N and M are the divisors of the two parts, as in `vae_loss_gradient`. The first is taken at x̂ also where recon_x was
    clipped.

    Returns:
        The gradient of the total: new arrays under "recon_x", "mu" and "logvar".

    Example:
        >>> import numpy as np
        >>> arrays = np.array([[[0.5, 0.5]], [[1.0, 1.0]], [[1.0, 0.25]], [[0.0, 0.0]]])
        >>> vae_loss_free_bits_gradient(*arrays)["mu"].tolist()
        [[1.0, 0.0]]
    """
    _VAE_LOSS_FREE_BITS.require_known(others)
    return _free_bits_vae(recon_x, x, mu, logvar, free_bits, reduction).gradient(upstream)


# --- the class --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class VAELoss:
    """reconstruction + β KL, as an object that holds the options and has a method `gradient`.

    The attributes may be changed between calls, as when a schedule sets `loss.beta`.

    Args:
        reconstruction_type: "bce" (binary cross-entropy of probabilities) or "mse" (squared error).
        beta: β ≥ 0, the weight of the KL in the total.
        free_bits: the least that each dimension of each sample costs in the KL, in nats; None for no such bound.
        reduction: "sum": both sums over all elements. "mean": the mean of each part over all of its elements, so that
            the KL is divided by samples × dimensions. "batch_sum": both sums divided by the number of samples.

    Raises:
        ValueError: an unknown type or reduction, or a negative number.

    Example:
        (1 − ½)² + 2 · ½ · 1² = 1.25.

        >>> import numpy as np
        >>> loss = VAELoss(reconstruction_type="mse", beta=2.0)
        >>> arrays = np.array([[[0.5]], [[1.0]], [[1.0]], [[0.0]]])
        >>> [float(part) for part in loss(*arrays)]
        [1.25, 0.25, 0.5]
        >>> loss.gradient(*arrays)["mu"].tolist()
        [[2.0]]
    """

    reconstruction_type: ReconstructionName = "bce"
    beta: float = 1.0
    free_bits: float | None = None
    reduction: ReductionName = "sum"

    def __post_init__(self) -> None:
        _RECONSTRUCTION.check("reconstruction_type", self.reconstruction_type)
        NON_NEGATIVE.check("beta", self.beta)
        NON_NEGATIVE.check("free_bits", self._free_bits)
        _REDUCTION.check("reduction", self.reduction)

    def reconstruction_loss(self, recon_x: Array, x: Array) -> Array:
        """Return the first part alone."""
        loss = _RECONSTRUCTIONS[_RECONSTRUCTION.check("reconstruction_type", self.reconstruction_type)]
        return loss(recon_x, x, reduction=_REDUCTION.check("reduction", self.reduction))

    def kl_loss(self, mu: Array, logvar: Array) -> Array:
        """Return the second part alone, not weighted by β."""
        reduction = _REDUCTION.check("reduction", self.reduction)
        return gaussian_kl_divergence(mu, logvar, **_kl_options(mu, reduction, self._free_bits, per_element=True))

    def __call__(self, recon_x: Array, x: Array, mu: Array, logvar: Array) -> Parts:
        """Return the total, the reconstruction loss and the KL, not weighted by β; see `vae_loss` for the arguments."""
        return self._bound(recon_x, x, mu, logvar).value()

    def gradient(
        self, recon_x: Array, x: Array, mu: Array, logvar: Array, *, upstream: float | Array = 1.0
    ) -> NamedArrays[Array]:
        """Return the gradient of the total: new arrays under "recon_x", "mu" and "logvar"."""
        return self._bound(recon_x, x, mu, logvar).gradient(upstream)

    def value_and_gradient(
        self, recon_x: Array, x: Array, mu: Array, logvar: Array, *, upstream: float | Array = 1.0
    ) -> tuple[Parts, NamedArrays[Array]]:
        """Return the results of the call and of `gradient`, each part of the loss evaluated once."""
        return self._bound(recon_x, x, mu, logvar).both(_fast, upstream, {})

    @property
    def pair(self) -> Pair:
        """The loss as an entry of the catalogue."""
        return Pair(
            name="VAELoss",
            value=self,
            gradient=self.gradient,
            wrt=_WRT,
            returns=_RETURNS,
            terms=Composed(_compose(self._bound), separable=False, curved=True),
        )

    @property
    def _free_bits(self) -> float:
        return 0.0 if self.free_bits is None else self.free_bits

    def _bound(self, recon_x: Array, x: Array, mu: Array, logvar: Array) -> _Bound:
        return _Bound(
            recon_x,
            x,
            mu,
            logvar,
            self.reduction,
            reconstruction=self.reconstruction_type,
            beta=self.beta,
            free_bits=self._free_bits,
            kl_per_element=True,
        )
