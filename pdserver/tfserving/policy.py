"""Which versions of a base path are wanted, and what is to be done next to have them. Pure: decisions only.

Source: TensorFlow Serving's file_system_storage_path_source, AvailabilityPreservingPolicy and
ResourcePreservingPolicy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from pdserver.dialects.tensorflow.control import State

RESOURCE_PRESERVING = "resource_preserving"
AVAILABILITY_PRESERVING = "availability_preserving"


class Choice(msgspec.Struct, frozen=True):
    """A model_version_policy. Without either field: all versions."""

    latest: int = 0
    """So many of the highest."""
    specific: frozenset[int] = frozenset()

    def of(self, versions: Collection[int]) -> frozenset[int]:
        """Those of the versions that are wanted."""
        if self.specific:
            return self.specific & frozenset(versions)
        return frozenset(sorted(versions)[-self.latest :])


class Steps(NamedTuple):
    """Versions whose change can begin now, in this order."""

    load: list[int]
    unload: list[int]


def steps(aspired: Collection[int], states: Mapping[int, State], *, resource_preserving: bool) -> Steps:
    """What to begin, so that the versions `aspired` are served; `states` has those that are, or were, or will be.

    By default, a version that is not aspired serves until one serves that is. With `resource_preserving`, nothing is
    loaded before what is not aspired has ended. A version that has ended, or could not be loaded, is not begun again:
    whoever wants that takes it out of `states`.
    """
    load = sorted(version for version in aspired if states.get(version, State.START) is State.START)
    serving = {version for version, state in states.items() if state is State.AVAILABLE}
    unload = sorted(serving.difference(aspired))
    if resource_preserving:
        leaving = any(state is not State.END for version, state in states.items() if version not in aspired)
        return Steps([] if leaving else load, unload)
    return Steps(load, unload if not aspired or serving.intersection(aspired) else [])
