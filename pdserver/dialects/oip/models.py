"""Whether models can be asked, and what they take and give."""

from __future__ import annotations

from collections.abc import Iterable

from pdserver.engine.catalogue import ServedModel, ServedVersion
from pdserver.errors import Unavailable
from pdserver.types import Interface


def interface_of(served: ServedVersion) -> Interface:
    """What the model takes and gives. Raises Unavailable until a worker has loaded it."""
    if served.interface is None:
        ref = served.spec.ref
        reason = f": {served.last_error}" if served.last_error else ""
        raise Unavailable(f"'{ref.name}' version {ref.version} has not been loaded{reason}")
    return served.interface


def ready_versions(model: ServedModel) -> list[str]:
    """In the order of their numbers, or of their names."""
    return sorted((version for version, served in model.versions.items() if served.is_ready), key=_order)


def in_order(versions: Iterable[ServedVersion]) -> list[ServedVersion]:
    """By the models' names, then by the numbers or names of the versions."""
    return sorted(versions, key=lambda served: (served.spec.name, _order(served.spec.version)))


def _order(version: str) -> tuple[int, int, str]:
    return (0, int(version), "") if version.isdecimal() else (1, 0, version)
