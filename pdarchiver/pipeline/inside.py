"""What the models give that are packed inside a pipeline, for people who look at its archive."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from pdarchiver import archive
from pdarchiver.errors import ArchiveError
from pdarchiver.pipeline.flow import BODY, Signatures
from pdarchiver.pipeline.graph import ANY, Graph, ModelBody, Node, Pipeline
from pdarchiver.pipeline.named import named_files
from pdarchiver.pipeline.packing import packed_signatures
from pdarchiver.reading import Limits


def with_outputs(pipeline: Pipeline, path: Path, limits: Limits = Limits()) -> Pipeline:  # noqa: B008 (frozen)
    """The pipeline of the archive, or of the folder, at `path`, whose nodes with a model inside have its outputs, as
    far as they are known. Raises ArchiveError, OSError."""
    if path.is_dir():
        return replace(pipeline, graph=_told(pipeline.graph, packed_signatures(path)))
    named = [each.path for each in named_files(pipeline) if each.kind == "archive"]
    with tempfile.TemporaryDirectory() as folder:
        archive.unpack_some(path, named, Path(folder), limits)
        return replace(pipeline, graph=_told(pipeline.graph, packed_signatures(Path(folder))))


def _told(graph: Graph, signatures: Signatures) -> Graph:
    return replace(graph, nodes={name: _node(node, signatures) for name, node in graph.nodes.items()})


def _node(node: Node, signatures: Signatures) -> Node:
    body = node.body
    if isinstance(body, Graph):
        return replace(node, body=_told(body, signatures))
    if not isinstance(body, ModelBody):
        return node
    if body.opaque:
        return replace(node, outputs={BODY: ANY})
    try:
        known = signatures("", body)
    except (ArchiveError, OSError):  # `verify` says what is wrong with it
        known = None
    return replace(node, outputs=known.outputs) if known else node
