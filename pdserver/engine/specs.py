"""An archive that is open, and what all sources say of its model → the version as the engine serves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pdarchiver import encryption
from pdarchiver.manifest import check_name
from pdarchiver.pipeline.graph import Graph, Pipeline, PythonBody
from pdserver.configuration.layers import Layer, build_spec, settings_among
from pdserver.configuration.model import MAX_BATCH_SIZE, ModelSpec, PartialSettings
from pdserver.engine.pipeline.variants import WHOLE, variants
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.pipeline import fused
from pdserver.pipeline.run import Plan, Step
from pdserver.store.model import StoredModel
from pdserver.types import SequenceHeaders

_INHERITED = ("min_workers", "max_workers", "response_timeout_seconds", "startup_timeout_seconds", "model_key_file")
"""Settings that a pipeline's nodes have from it, unless they say something else."""
_BATCH_SIZE = 32
"""Of nodes that say none: the items of many requests make a batch."""


class Specs(msgspec.Struct, frozen=True):
    """With what the server's configuration says."""

    models: Mapping[str, Mapping[str, PartialSettings]]
    """By name and version."""
    defaults: PartialSettings
    default_handler: str
    sequence_headers: SequenceHeaders = SequenceHeaders()
    model_key: bytes = b""
    """Of encrypted models for which no file is named."""
    trials: str = ""
    """The folder that remembers which engine runs which model best."""

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
                *([Layer("pipelines", {"batch_size": MAX_BATCH_SIZE})] if stored.pipeline else []),
            ],
            defaults=self.defaults,
            sequence_headers=self.sequence_headers,
        )
        spec = dataclasses.replace(spec, trials=self.trials)
        encrypted = encryption.is_encrypted(manifest.serialized_file or "")
        return dataclasses.replace(spec, key=self._key(spec)) if encrypted else spec

    def of_nodes(
        self, stored: StoredModel, pipeline: Pipeline, spec: ModelSpec
    ) -> dict[str, tuple[ModelSpec, StoredModel]]:
        """What the workers of a pipeline's nodes load, and where from, by the nodes' paths; `spec` is the pipeline's.
        Models of the store have workers of their own. Raises ConfigError."""
        found: dict[str, tuple[ModelSpec, StoredModel]] = {}
        for graph in variants(pipeline.graph):
            for step in Plan(graph).leaves():
                if step.path not in found and (own := self._of_node(stored, spec, step)) is not None:
                    found[step.path] = own
        return found

    def _of_node(self, stored: StoredModel, spec: ModelSpec, step: Step) -> tuple[ModelSpec, StoredModel] | None:
        """None for a model of the store."""
        body = step.node.body
        if isinstance(body, Graph):
            place = "" if step.path == WHOLE else step.path
            inner = {
                each.path: self._of_node(stored, spec, each)
                for each in Plan(fused.in_one_process(body), place).leaves()
            }
            nodes = {path: pair[0] for path, pair in inner.items() if pair is not None}
            return fused.spec(self._of_code(stored, stored, spec, step, fused.HANDLER), body, nodes, place), stored
        if isinstance(body, PythonBody):
            own = self._of_code(stored, stored, spec, step, body.entry)
            return dataclasses.replace(own, is_step=True), stored
        if not body.archive:
            return None
        nested = stored.nested[body.archive]
        own = self._of_code(stored, nested, spec, step, nested.handler or self.default_handler)
        if encryption.is_encrypted(nested.manifest.serialized_file or ""):
            own = dataclasses.replace(own, key=self._key(own))
        return own, nested

    def _of_code(
        self, stored: StoredModel, nested: StoredModel, spec: ModelSpec, step: Step, handler: str
    ) -> ModelSpec:
        where = f"{stored.url}: nodes.{step.path}.settings"
        config = dict(step.node.settings)
        settings = settings_among(config, where)
        inner = nested is not stored
        own = build_spec(
            name=f"{spec.name}:{step.path}",
            version=spec.version,
            url=stored.url,
            directory=str(nested.directory),
            handler=handler,
            manifest=dict(nested.manifest.raw),
            model_config={**nested.model_config, **config} if inner else config,
            layers=[
                Layer(where, settings),
                Layer(f"{nested.url}: {nested.manifest.config_file}", nested.settings if inner else {}),
                Layer(f"pipeline {spec.ref}", {field: getattr(spec, field) for field in _INHERITED}),
                Layer("pipelines", {"batch_size": _BATCH_SIZE}),
            ],
            defaults=self.defaults,
            sequence_headers=self.sequence_headers,
        )
        return dataclasses.replace(own, trials=self.trials)

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
