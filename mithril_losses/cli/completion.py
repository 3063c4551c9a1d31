"""What a shell completes: names of losses, families and backends."""

from __future__ import annotations

from mithril_losses.catalogue import catalogue


def losses(incomplete: str) -> list[str]:
    """Return the losses whose names begin so."""
    return [name for name in catalogue() if name.startswith(incomplete)]


def families(incomplete: str) -> list[str]:
    """Return the families whose names begin so."""
    return [name for name in all_families() if name.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    """Return the built-in backends whose names begin so."""
    return [name for name in ("numpy", "jax", "torch") if name.startswith(incomplete)]


def all_families() -> list[str]:
    """Return the families of the catalogue, in its order."""
    return list(dict.fromkeys(pair.family for pair in catalogue().values()))
