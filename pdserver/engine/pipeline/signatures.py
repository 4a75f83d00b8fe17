"""Whether a pipeline fits the models that it asks, as far as they are known when it is registered."""

from __future__ import annotations

from pdarchiver.pipeline.graph import ModelBody, Pipeline
from pdserver.engine.registry import Registry
from pdserver.errors import InvalidRequest, ModelNotFound, VersionNotFound
from pdserver.store.model import StoredModel


class NodeMissing(InvalidRequest):
    """A model that the pipeline asks is not registered. At the start, it may come later."""


def check(pipeline: Pipeline, stored: StoredModel, registry: Registry) -> None:
    """Raises NodeMissing, and InvalidRequest for what does not fit."""

    for path, node in pipeline.graph.walk():
        if isinstance(node.body, ModelBody) and node.body.name:
            try:
                registry.resolve(node.body.name, node.body.version)
            except (ModelNotFound, VersionNotFound) as error:
                raise NodeMissing(
                    f"{stored.url}: node {path}: {error}: register that model first, or pack it inside (archive)"
                ) from None
