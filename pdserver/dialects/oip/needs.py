"""The access that the protocol's calls need, over REST and gRPC, with the names by which Triton can restrict them."""

from __future__ import annotations

from pdserver.security.access import INFERENCE, MANAGEMENT, OPEN

HEALTH = OPEN.of("health")
MODEL_HEALTH = INFERENCE.of("health")
METADATA = INFERENCE.of("metadata")
MODEL_CONFIG = INFERENCE.of("model-config")
STATISTICS = INFERENCE.of("statistics")
REPOSITORY = MANAGEMENT.of("model-repository")
SHARED_MEMORY_STATUS = INFERENCE.of("shared-memory")
SHARED_MEMORY = MANAGEMENT.of("shared-memory")
TRACE = MANAGEMENT.of("trace")
LOGGING = MANAGEMENT.of("logging")
