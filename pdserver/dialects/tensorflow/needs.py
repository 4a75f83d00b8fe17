"""The access that the protocol's calls need, over REST and gRPC, with the names by which they can be restricted."""

from __future__ import annotations

from pdserver.security.access import INFERENCE, MANAGEMENT

STATUS = INFERENCE.of("health")
METADATA = INFERENCE.of("metadata")
CONFIG = MANAGEMENT.of("model-repository")
