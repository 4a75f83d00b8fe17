"""What the transports of the Open Inference Protocol have in common."""

from __future__ import annotations

import msgspec

from pdserver.configuration.server import Config
from pdserver.dialects.codec import Codec
from pdserver.dialects.oip.errors import unknown_model, unknown_version, without_versions
from pdserver.dialects.oip.repository import EXPLICIT, Control, Repository
from pdserver.dialects.oip.settings import LogSettings
from pdserver.dialects.oip.shared_memory import Regions
from pdserver.engine.catalogue import InferenceEngine, ServedVersion
from pdserver.errors import Forbidden, Missing, ModelNotFound, VersionNotFound


class OpenInference(msgspec.Struct):
    """What a server has for this protocol, whatever the transport."""

    engine: InferenceEngine
    server_id: str
    """What the server calls itself."""
    limit_bytes: int
    """The limit of a request's body."""
    codec: Codec
    control: Control
    regions: Regions
    logs: LogSettings
    manageable: bool
    """Whether clients may load and unload models, and change the settings of logging."""

    def find(self, name: str, version: str | None) -> ServedVersion:
        """A version, the default one when it is None or empty. Raises ModelNotFound, VersionNotFound."""
        try:
            return self.engine.catalogue.asked(name, version or None)
        except ModelNotFound as error:
            raise self.missing(error.missing or Missing(name)) from None
        except VersionNotFound as error:
            raise unknown_version(error.missing or Missing(name, version)) from None

    def missing(self, missing: Missing) -> ModelNotFound:
        """The error for a model of which no version is served."""
        return without_versions(missing) if self.control.knows(missing.model) else unknown_model(missing)

    def check_manageable(self) -> None:
        """Raises Forbidden."""
        if not self.manageable:
            raise Forbidden(
                "clients may not change the settings of logging: set model_control_mode=explicit to let clients "
                "manage the server"
            )


def open_inference(
    config: Config, engine: InferenceEngine, repository: Repository, regions: Regions, codec: Codec
) -> OpenInference:
    """As the configuration says."""
    mode = config.model_control_mode
    return OpenInference(
        engine,
        config.server_id,
        config.max_request_bytes,
        codec,
        Control(repository, mode),
        regions,
        LogSettings(),
        manageable=mode == EXPLICIT,
    )
