"""Whether models can be asked, and what they take and give."""

from __future__ import annotations

from collections.abc import Iterable

from pdserver.engine.pool import Pool
from pdserver.engine.registry import Model
from pdserver.errors import Unavailable
from pdserver.types import Interface


def is_ready(pool: Pool) -> bool:
    return pool.interface is not None and pool.serving > 0


def interface_of(pool: Pool) -> Interface:
    """What the model takes and gives. Raises Unavailable until a worker has loaded it."""
    if pool.interface is None:
        ref = pool.spec.ref
        reason = f": {pool.last_error}" if pool.last_error else ""
        raise Unavailable(f"'{ref.name}' version {ref.version} has not been loaded{reason}")
    return pool.interface


def ready_versions(model: Model) -> list[str]:
    """In the order of their numbers, or of their names."""
    return sorted((version for version, pool in model.versions.items() if is_ready(pool)), key=_order)


def in_order(pools: Iterable[Pool]) -> list[Pool]:
    """By the models' names, then by the numbers or names of the versions."""
    return sorted(pools, key=lambda pool: (pool.spec.name, _order(pool.spec.version)))


def _order(version: str) -> tuple[int, int, str]:
    return (0, int(version), "") if version.isdecimal() else (1, 0, version)
