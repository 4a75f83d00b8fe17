"""An archive that is open, and what all sources say of its model → the version as the engine serves it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdarchiver.manifest import check_name
from pdserver.configuration.layers import Layer, build_spec
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.errors import InvalidRequest
from pdserver.store.model import StoredModel
from pdserver.types import SequenceHeaders


class Specs(msgspec.Struct, frozen=True):
    """With what the server's configuration says."""

    models: Mapping[str, Mapping[str, PartialSettings]]
    """By name and version."""
    defaults: PartialSettings
    default_handler: str
    sequence_headers: SequenceHeaders = SequenceHeaders()

    def __call__(
        self, stored: StoredModel, name: str | None, handler: str | None, settings: PartialSettings
    ) -> ModelSpec:
        """With what the call that registers it says. Raises InvalidRequest for a bad name, ConfigError for settings
        that contradict each other."""
        manifest = stored.manifest
        name = name or stored.name
        version = manifest.model_version
        check_model_name(name)
        return build_spec(
            name=name,
            version=version,
            url=stored.url,
            directory=str(stored.directory),
            handler=handler or stored.handler or self.default_handler,
            manifest=dict(manifest.raw),
            model_config=stored.model_config,
            layers=[
                Layer("register call", settings),
                Layer("models in config.properties", self.models.get(name, {}).get(version, {})),
                Layer(f"{stored.url}: {manifest.config_file}", stored.settings),
            ],
            defaults=self.defaults,
            sequence_headers=self.sequence_headers,
        )


def check_model_name(name: str) -> None:
    """Raises InvalidRequest."""
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
