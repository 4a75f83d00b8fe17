"""Triton's model repository extension: which models there are, and loading and unloading them.

Whoever may ask for predictions may ask for this too, so loading and unloading are refused unless the operator has set
`model_control_mode=explicit`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pdserver.dialects.oip.loading import Parameters
from pdserver.errors import InvalidRequest, Unavailable
from pdserver.formats.values import nearest, shown

EXPLICIT = "explicit"
_UNLOAD = ("unload_dependents",)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of the index; a model that was never loaded has a name only."""

    name: str
    version: str = ""
    state: str = ""
    """READY, LOADING, UNLOADING or UNAVAILABLE."""
    reason: str = ""


class Repository(Protocol):
    """Where models come from."""

    async def index(self) -> list[Entry]:
        """Everything that is loaded or could be."""

    async def load(self, name: str, parameters: Parameters) -> None:
        """Returns when it is ready. Raises LoadFailed, InvalidRequest."""

    async def unload(self, name: str, parameters: Parameters) -> None:
        """All versions; returns when they are gone. Raises InvalidRequest."""

    def knows(self, name: str) -> bool:
        """Whether a version of it has been loaded, or should have been, be it there or not."""


class Control:
    """The extension's verbs, as far as the operator allows them."""

    def __init__(self, repository: Repository, mode: str) -> None:
        self._repository = repository
        self._mode = mode

    async def index(self, *, ready: bool = False) -> list[Entry]:
        """All entries, or those that are ready."""
        entries = await self._repository.index()
        return [entry for entry in entries if entry.state == "READY"] if ready else entries

    async def load(self, name: str, parameters: Parameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.load does."""
        self.check_allowed()
        await self._repository.load(name, parameters)

    async def unload(self, name: str, parameters: Parameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.unload does."""
        self.check_allowed()
        for key, value in parameters.items():
            if key not in _UNLOAD or not isinstance(value, bool):
                raise InvalidRequest(
                    f"unload parameter '{shown(key)}' is {shown(value)}{nearest(key, _UNLOAD)}: expected "
                    "unload_dependents, true or false"
                )
        await self._repository.unload(name, parameters)

    def knows(self, name: str) -> bool:
        """As Repository has it."""
        return self._repository.knows(name)

    def check_allowed(self) -> None:
        """Raises Unavailable when loading and unloading are not."""
        if self._mode != EXPLICIT:
            raise Unavailable(
                "explicit model load / unload is not allowed if polling is enabled, or if the server loads its models "
                f"at its start alone (model_control_mode={self._mode}): set model_control_mode={EXPLICIT}"
            )
