"""What a front end knows of the model repository and of TensorFlow Serving's configuration.

Its predictions need no more. All else is asked of the main process, by calls that are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdserver.dialects.oip.repository import IndexEntry, LoadParameters
from pdserver.dialects.tensorflow.control import NoControl, unknown_label
from pdserver.errors import Unsupported

_ELSEWHERE = Unsupported("the main process answers this")


class KnownNames:
    """A `Repository` that knows names."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()

    def known(self) -> frozenset[str]:
        return self.names

    async def index(self) -> list[IndexEntry]:
        raise _ELSEWHERE

    async def load(self, name: str, parameters: LoadParameters) -> None:
        raise _ELSEWHERE

    async def unload(self, name: str, parameters: LoadParameters) -> None:
        raise _ELSEWHERE


class Labels(NoControl):
    """A `Control` that knows labels."""

    def __init__(self) -> None:
        self.given: Mapping[str, Mapping[str, int]] = {}

    def version_of(self, model: str, label: str) -> str:
        version = self.given.get(model, {}).get(label)
        if version is None:
            raise unknown_label(label)
        return str(version)
