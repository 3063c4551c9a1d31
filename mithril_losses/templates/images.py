"""The two layouts of images and feature maps: channels last, and channels first."""

from __future__ import annotations

from mithril_losses.backends.namespaces import Array


def image_axes(channels_first: bool) -> tuple[int, int, int]:
    """Return the axes of rows, columns and channels, counted from the end."""
    return (-2, -1, -3) if channels_first else (-3, -2, -1)


def require_images(name: str, x: Array, channels_first: bool) -> None:
    """Raise a ValueError unless `x` is a batch of images.

    An array of three axes could be one image with channels, or a batch of grey images without a channel axis.
    """
    require_maps(name, x, channels_first)
    if len(x.shape) == 3:
        layout, grey = (
            ("(batch, channels, rows, columns)", "[:, None]")
            if channels_first
            else ("(batch, rows, columns, channels)", "[..., None]")
        )
        raise ValueError(
            f"{name} must have shape {layout}, got {tuple(x.shape)}: make it {name}[None] if it is one image, "
            f"{name}{grey} if it is a batch of images of one channel"
        )


def require_maps(name: str, x: Array, channels_first: bool) -> None:
    """Raise a ValueError unless `x` has axes of rows, columns and channels."""
    if len(x.shape) < 3:
        layout = "(…, channels, rows, columns)" if channels_first else "(…, rows, columns, channels)"
        raise ValueError(f"{name} must have shape {layout}, got {tuple(x.shape)}")
