"""A version that a cluster serves, in the words of one server's description, and how its copies are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdserver.cluster.base import CopyView, ModelView, NodeView
from pdserver.cluster.since import written

Json = dict[str, Any]


def describe(model: ModelView, nodes: Mapping[str, NodeView], told: Mapping[str, Json]) -> Json:
    """`told` is what the servers of its nodes say of it, by the nodes' ids; those that did not answer are missing."""
    wanted = model.wanted
    described: Json = {
        "modelName": wanted.ref.name,
        "modelVersion": wanted.ref.version,
        "modelUrl": wanted.url,
        "runtime": "python",
        **next(iter(told.values()), {}),
    }
    described |= {"modelUrl": wanted.url, "status": status_of(model)}
    described["workers"] = [
        {**worker, "machine": node} for node, said in told.items() for worker in said.get("workers", ())
    ]
    described["workerRestarts"] = sum(said.get("workerRestarts", 0) for said in told.values())
    queues = [said["jobQueueStatus"] for said in told.values() if "jobQueueStatus" in said]
    described["jobQueueStatus"] = {
        key: sum(queue[key] for queue in queues) for key in ("remainingCapacity", "pendingRequests")
    }
    described["copies"] = {
        "wanted": wanted.copies,
        "ready": sum(copy.ready for copy in model.copies),
        "spread": wanted.spread,
        "default": wanted.default,
        "nodes": [_copy(copy, nodes.get(copy.node)) for copy in model.copies],
    }
    for key, refs in (("asks", model.asks), ("askedBy", model.asked_by)):
        if refs:
            described["copies"][key] = list(map(str, refs))
    if problems := problems_of(model):
        described["problems"] = problems
    return described


def status_of(model: ModelView) -> str:
    """READY, DEGRADED, LOADING, FAILED or EMPTY."""
    if model.wanted.workers == 0 and not model.problem and all(copy.state == "EMPTY" for copy in model.copies):
        return "EMPTY"
    ready = sum(copy.ready for copy in model.copies)
    if ready >= model.wanted.copies:
        return "READY"
    if ready:
        return "DEGRADED"
    return "FAILED" if model.problem or any(copy.problem for copy in model.copies) else "LOADING"


def problems_of(model: ModelView) -> list[str]:
    return [text for text in (model.problem, *(copy.problem for copy in model.copies)) if text]


def _copy(copy: CopyView, node: NodeView | None) -> Json:
    described: Json = {"node": copy.node}
    if node is not None and node.status is not None:
        described["host"] = node.status.host
    described |= {"status": copy.state, "since": written(copy.since)}
    if copy.reason:
        described["reason"] = copy.reason
    return described | {"memoryBytes": copy.memory_bytes}
