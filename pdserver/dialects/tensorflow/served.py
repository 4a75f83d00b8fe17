"""Models as the protocol's clients see them: which version a call means, and in which state the versions are."""

from __future__ import annotations

import msgspec

from pdserver.dialects.rpc import Code
from pdserver.dialects.tensorflow.control import Control, State, VersionStatus
from pdserver.dialects.tensorflow.errors import unknown_version
from pdserver.dialects.tensorflow.versions import default_of, find, number
from pdserver.engine.catalogue import Catalogue, ServedVersion
from pdserver.errors import Missing, ModelNotFound, NotServed, VersionNotFound
from pdserver.formats.values import shown

_STATES = {
    "empty": State.START,
    "loading": State.LOADING,
    "ready": State.AVAILABLE,
    "degraded": State.AVAILABLE,
    "failed": State.END,
    "unloading": State.UNLOADING,
}
"""By the values of `VersionState`."""


class NamedStatus(VersionStatus, frozen=True):
    """`name` is the version as JSON has it: its number, or what we call it if that is none."""

    name: str = ""


class Models(msgspec.Struct, frozen=True):
    """What the server has of models, for both transports."""

    catalogue: Catalogue
    control: Control

    def meant(self, model: str, version: str, label: str) -> ServedVersion:
        """What a path means: the version of this number, of this name of ours, or with this label, or the default one.

        Raises ModelNotFound, VersionNotFound, InvalidRequest.
        """
        if not (version or label):
            return default_of(self.catalogue, model)
        if label:
            return find(self.catalogue, self.control, model, None, label)
        if (wanted := number(version)) is not None:
            return find(self.catalogue, self.control, model, wanted, "")
        try:
            return self.catalogue.resolve(model, version)
        except NotServed:
            raise unknown_version(model, version) from None

    def statuses(self, model: str, version: str = "") -> list[NamedStatus]:
        """The states of a model's versions, the newest first, or of the one version.

        Raises ModelNotFound, VersionNotFound.
        """
        known = self.catalogue.model(model).versions if self.catalogue.knows(model) else {}
        found = [_status(name, served) for name, served in known.items()]
        numbers = {status.version for status in found}
        found += [
            NamedStatus(status.version, status.state, status.code, status.message, str(status.version))
            for status in self.control.statuses(model)
            if status.version not in numbers
        ]
        if not found:
            said = f"Could not find any versions of model {shown(model)}"
            raise ModelNotFound(said, Missing(model, version or None))
        if version:
            wanted = number(version)
            one = [status for status in found if status.name == version or status.version == wanted]
            if not one:
                said = f"Could not find version {shown(version)} of model {shown(model)}"
                raise VersionNotFound(said, Missing(model, version))
            return one[:1]
        return sorted(found, key=lambda status: (status.version, status.name), reverse=True)


def version_shown(version: str) -> str:
    """A version of ours in JSON."""
    value = number(version)
    return version if value is None else str(value)


def _status(name: str, served: ServedVersion) -> NamedStatus:
    value = number(name)
    state = _STATES[served.state.value]
    failed = state == State.END
    code, message = (Code.UNKNOWN, served.last_error) if failed else (Code.OK, "")
    return NamedStatus(-1 if value is None else value, state, code, message, version_shown(name))
