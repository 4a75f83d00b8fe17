"""Who serves what among several servers: what a server needs to pass on requests for models that it lacks."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdserver.types import ModelRef


class Addresses(msgspec.Struct, frozen=True):
    """Where a node is reached by the other machines."""

    inference: str
    """URL."""
    management: str
    """URL."""
    metrics: str
    """URL."""
    grpc: str
    """HOST:PORT, or grpcs://HOST:PORT with TLS, or "" without gRPC."""


class Route(msgspec.Struct, frozen=True):
    """Who serves a version. The names of nodes are in the order of their ids."""

    ref: ModelRef
    nodes: tuple[str, ...]
    default: bool
    sequences: bool = False
    """Whether requests belong to sequences, which are bound to one node."""
    contract: str = ""
    """Of a pipeline: whose requests and answers over HTTP it has, such as "paddlex/ocr"."""


class Peers(msgspec.Struct, frozen=True):
    """Who serves what in the cluster: what a node needs to pass on requests for models that it lacks.

    A node's server reads it from a JSON file, which is replaced as a whole.
    """

    node: str
    """The id of the node that reads it."""
    nodes: Mapping[str, Addresses]
    """By their ids, the reading one too."""
    routes: tuple[Route, ...]
