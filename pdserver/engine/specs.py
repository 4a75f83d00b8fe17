"""An archive that is open, and what all sources say of its model → the version as the engine serves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pdarchiver import encryption
from pdarchiver.manifest import check_name
from pdserver.configuration.layers import Layer, build_spec
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.store.model import StoredModel
from pdserver.types import SequenceHeaders


class Specs(msgspec.Struct, frozen=True):
    """With what the server's configuration says."""

    models: Mapping[str, Mapping[str, PartialSettings]]
    """By name and version."""
    defaults: PartialSettings
    default_handler: str
    sequence_headers: SequenceHeaders = SequenceHeaders()
    model_key: bytes = b""
    """Of encrypted models for which no file is named."""

    def __call__(
        self, stored: StoredModel, name: str | None, handler: str | None, settings: PartialSettings
    ) -> ModelSpec:
        """With what the call that registers it says. Raises InvalidRequest for a bad name, ConfigError for settings
        that contradict each other, and for an encrypted model without a key."""
        manifest = stored.manifest
        name = name or stored.name
        version = manifest.model_version
        check_model_name(name)
        spec = build_spec(
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
        encrypted = encryption.is_encrypted(manifest.serialized_file or "")
        return dataclasses.replace(spec, key=self._key(spec)) if encrypted else spec

    def _key(self, spec: ModelSpec) -> bytes:
        where = f"model {spec.name} version {spec.version}"
        if spec.model_key_file:
            try:
                return encryption.read_key(Path(spec.model_key_file))
            except (OSError, ValueError) as error:
                problem = getattr(error, "strerror", None) or error
                raise ConfigError(f"{where}: model_key_file={spec.model_key_file}: {problem}") from None
        if not self.model_key:
            raise ConfigError(
                f"{where}: it is encrypted: name the file with its key by model_key_file, set PD_MODEL_KEY, or let "
                "clients bring it (use_encryption_model)"
            )
        return self.model_key


def check_model_name(name: str) -> None:
    """Raises InvalidRequest."""
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
