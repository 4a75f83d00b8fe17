"""What of TensorFlow Serving's configuration its clients see: labels, the states of versions, the change of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol

import msgspec

from pdserver.dialects.rpc import Code
from pdserver.errors import Conflict, InvalidRequest
from pdserver.formats.values import shown


class State(IntEnum):
    """Of a version. Source: TensorFlow Serving's get_model_status.proto."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionStatus(msgspec.Struct, frozen=True):
    version: int
    state: int
    """One of `State`."""
    code: int = Code.OK
    """What went wrong, as a code of gRPC; OK: nothing."""
    message: str = ""


class Control(Protocol):
    """What serves models by a model_config_list, as far as clients see it."""

    def version_of(self, model: str, label: str) -> str:
        """The version, under our name for it, that has the label. Raises InvalidRequest if none has."""

    def labels(self) -> Mapping[str, Mapping[str, int]]:
        """By model, each label and its version."""

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        """Of versions that the catalogue does not have yet, or any more."""

    async def reload(self, config: Any) -> None:
        """Serve what a tensorflow.serving.ModelServerConfig says, instead of all that was configured before.

        Raises PdError.
        """


class NoControl:
    """A server without a model_config_list."""

    def version_of(self, model: str, label: str) -> str:
        raise unknown_label(label)

    def labels(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        return ()

    async def reload(self, config: Any) -> None:
        raise Conflict(
            "the server has no model_config_list that could be replaced: start it by "
            "`python -m pdserver.tensorflow_model_server --model_config_file=FILE`"
        )


def unknown_label(label: str) -> InvalidRequest:
    return InvalidRequest(f"Unrecognized servable version label: {shown(label)}")
