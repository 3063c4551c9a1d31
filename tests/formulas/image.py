"""Images: loops over pixels and windows."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def _planes(images: Array, channels_first: bool) -> Array:
    """(…, channels, rows, columns)."""
    return images if channels_first else np.moveaxis(images, -1, -3)


def _back(planes: Array, channels_first: bool) -> Array:
    return planes if channels_first else np.moveaxis(planes, -3, -1)


def _per_image(s: Array) -> Array:
    return s[..., None, None, None]


def total_variation_loss(images: Array, norm_type: str, channels_first: bool) -> Array:
    x = _planes(images, channels_first)
    rows, columns = x.shape[-2:]
    loss = np.zeros(x.shape[:-3])
    for i in range(rows):
        for j in range(columns):
            across = x[..., i, j + 1] - x[..., i, j] if j + 1 < columns else np.zeros(x.shape[:-2])
            down = x[..., i + 1, j] - x[..., i, j] if i + 1 < rows else np.zeros(x.shape[:-2])
            term = {
                "l1": np.abs(across) + np.abs(down),
                "isotropic": np.sqrt(across**2 + down**2),
                "l2_squared": across**2 + down**2,
            }[norm_type]
            loss += term.sum(axis=-1)
    return loss


def total_variation_loss_gradient(images: Array, norm_type: str, channels_first: bool, s: Array) -> dict[str, Array]:
    x = _planes(images, channels_first)
    rows, columns = x.shape[-2:]

    def difference(i: int, j: int, di: int, dj: int) -> Array:
        inside = i + di < rows and j + dj < columns
        return x[..., i + di, j + dj] - x[..., i, j] if inside else np.zeros(x.shape[:-2])

    def slope(i: int, j: int, di: int, dj: int) -> Array:
        """s of the difference that starts at the pixel (i, j); no neighbour, no term."""
        if i < 0 or j < 0:
            return 0.0
        d = difference(i, j, di, dj)
        if norm_type == "l1":
            return np.sign(d)
        if norm_type == "l2_squared":
            return 2.0 * d
        length = np.sqrt(difference(i, j, 0, 1) ** 2 + difference(i, j, 1, 0) ** 2)
        return np.where(length > 0.0, d / np.where(length > 0.0, length, 1.0), 0.0)

    g = np.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            g[..., i, j] = slope(i, j - 1, 0, 1) - slope(i, j, 0, 1) + slope(i - 1, j, 1, 0) - slope(i, j, 1, 0)
    return {"images": _back(g * _per_image(s), channels_first)}


def _window(size: int, sigma: float) -> Array:
    at = np.arange(size) - size // 2
    heights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2.0 * sigma**2))
    return heights / heights.sum()


def window_mean(x: Array, window: Array) -> Array:
    """G x: the mean in the window at every position whose window lies within the image."""
    size = len(window)
    rows, columns = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    return sum(window[i, j] * x[..., i : i + rows, j : j + columns] for i in range(size) for j in range(size))


def transposed(slopes: Array, window: Array, shape: Any) -> Array:
    """Gᵀ: each pixel collects the slopes of all positions whose window it lies in."""
    size = len(window)
    rows, columns = slopes.shape[-2:]
    g = np.zeros(shape)
    for i in range(size):
        for j in range(size):
            g[..., i : i + rows, j : j + columns] += window[i, j] * slopes
    return g


class Similarity:
    """The quantities of the first line of `ssim_loss`, at every position."""

    def __init__(self, x: Array, y: Array, max_value: float, window_size: int, sigma: float, k1: float, k2: float):
        self.window = _window(window_size, sigma)
        self.x, self.y = x, y
        self.c1, self.c2 = (k1 * max_value) ** 2, (k2 * max_value) ** 2
        self.mu_x, self.mu_y = window_mean(x, self.window), window_mean(y, self.window)
        self.var_x = window_mean(x * x, self.window) - self.mu_x**2
        self.var_y = window_mean(y * y, self.window) - self.mu_y**2
        self.cov = window_mean(x * y, self.window) - self.mu_x * self.mu_y
        self.m = self.mu_x**2 + self.mu_y**2 + self.c1
        self.v = self.var_x + self.var_y + self.c2
        self.luminance = (2.0 * self.mu_x * self.mu_y + self.c1) / self.m
        self.structure = (2.0 * self.cov + self.c2) / self.v

    def slopes(self, with_luminance: bool) -> Array:
        """The sum over positions of ∂(1 − l c s)/∂x; of 1 − c s without l, for which a = a′ = 0."""
        a = (self.mu_x - self.mu_y) ** 2 / self.m if with_luminance else 0.0
        b = (self.var_x + self.var_y - 2.0 * self.cov) / self.v
        a1 = 2.0 * (self.mu_x - self.mu_y - a * self.mu_x) / self.m if with_luminance else 0.0
        b1 = 2.0 * (b * self.mu_x - self.mu_x + self.mu_y) / self.v

        def back(slopes: Array) -> Array:
            return transposed(slopes, self.window, self.x.shape)

        first = back((1.0 - b) * a1 + (1.0 - a) * b1)
        second = 2.0 * (self.x - self.y) * back((1.0 - a) / self.v)
        return first + second - 2.0 * self.x * back((1.0 - a) * b / self.v)


def ssim_loss(predictions: Array, targets: Array, channels_first: bool, **options: Any) -> Array:
    found = Similarity(_planes(predictions, channels_first), _planes(targets, channels_first), **options)
    return 1.0 - (found.luminance * found.structure).mean(axis=(-3, -2, -1))


def ssim_loss_gradient(
    predictions: Array, targets: Array, channels_first: bool, s: Array, **options: Any
) -> dict[str, Array]:
    found = Similarity(_planes(predictions, channels_first), _planes(targets, channels_first), **options)
    count = np.prod(found.mu_x.shape[-3:])
    return {"predictions": _back(found.slopes(True) / count * _per_image(s), channels_first)}


def _halved(x: Array) -> Array:
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4.0


def _quartered(slopes: Array, shape: Any) -> Array:
    """Hᵀ."""
    g = np.zeros(shape)
    rows, columns = slopes.shape[-2:]
    g[..., : 2 * rows, : 2 * columns] = np.repeat(np.repeat(slopes, 2, axis=-2), 2, axis=-1) / 4.0
    return g


def _scales(x: Array, y: Array, count: int, **options: Any) -> list[Similarity]:
    scales = []
    for _ in range(count):
        scales.append(Similarity(x, y, **options))
        x, y = _halved(x), _halved(y)
    return scales


def _ratios(scales: list[Similarity]) -> list[Array]:
    """r_j of each channel."""
    means = [scale.structure.mean(axis=(-2, -1)) for scale in scales[:-1]]
    return [*means, (scales[-1].luminance * scales[-1].structure).mean(axis=(-2, -1))]


def _product(ratios: list[Array], weights: tuple[float, ...]) -> Array:
    positive = np.all([r > 0.0 for r in ratios], axis=0)
    powers = [np.where(positive, r, 1.0) ** w for r, w in zip(ratios, weights, strict=True)]
    return np.where(positive, np.prod(powers, axis=0), 0.0)


def multi_scale_ssim_loss(
    predictions: Array, targets: Array, scale_weights: tuple[float, ...], channels_first: bool, **options: Any
) -> Array:
    x, y = _planes(predictions, channels_first), _planes(targets, channels_first)
    ratios = _ratios(_scales(x, y, len(scale_weights), **options))
    return (1.0 - _product(ratios, scale_weights)).mean(axis=-1)


def multi_scale_ssim_loss_gradient(
    predictions: Array, targets: Array, scale_weights: tuple[float, ...], channels_first: bool, s: Array, **options: Any
) -> dict[str, Array]:
    x, y = _planes(predictions, channels_first), _planes(targets, channels_first)
    scales = _scales(x, y, len(scale_weights), **options)
    ratios, last = _ratios(scales), len(scales) - 1
    product = _product(ratios, scale_weights)
    g = np.zeros_like(x)
    for j, (scale, r, w) in enumerate(zip(scales, ratios, scale_weights, strict=True)):
        positions = np.prod(scale.mu_x.shape[-2:])
        factor = np.where(product > 0.0, w / np.where(r > 0.0, r, 1.0) * product, 0.0)
        slopes = factor[..., None, None] * scale.slopes(j == last) / positions
        for coarse in range(j, 0, -1):
            slopes = _quartered(slopes, scales[coarse - 1].x.shape)
        g += slopes
    return {"predictions": _back(g / x.shape[-3] * _per_image(s), channels_first)}
