"""The spans of one request in a pipeline, for those who send a W3C trace context.

A request whose header `traceparent` says that it is sampled leaves one line in traces.log: its own span, and one for
each run of a node. The line is OpenTelemetry's TracesData as JSON (OTLP 1.x, its JSON encoding), which the collector's
receiver `otlpjsonfile` reads.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

from pdserver.configuration.model import ModelSpec
from pdserver.types import NodeRun, Request

_log = logging.getLogger("pdserver.traces")
_TRACEPARENT = re.compile(
    rb"[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(-.*)?"
)
_SAMPLED = 1
_INTERNAL, _SERVER = 1, 2
"""OTLP's kinds of span."""
_ERROR = 2
"""OTLP's code of a span that failed."""


class Trace:
    """The spans of one request. Times are seconds of a monotonic clock."""

    def __init__(self, trace_id: str, parent: str, spec: ModelSpec, request: Request) -> None:
        self._trace_id = trace_id
        self._spec = spec
        self._own_id = secrets.token_hex(8)
        self._parent = parent
        self._request_id = request.id
        self._spans: list[dict[str, Any]] = []

    def node(self, path: str, model: str, began: float, taken: float, ended: float, error: str = "") -> str:
        """A node's run for one item has ended. It was in its queue until `taken`. Returns the span's id."""
        attributes = {"pd.node": path, "pd.model": model, "pd.queue_seconds": max(0.0, taken - began)}
        span_id = secrets.token_hex(8)
        self._add(path, span_id, self._own_id, _INTERNAL, (began, ended), attributes, error)
        return span_id

    def inner(self, parent: str, model: str, run: NodeRun, item: int, batch_began: float) -> None:
        """A node of a fused graph, whose span is `parent`, has run for an item."""
        began = batch_began + run.began_seconds
        failure = run.failures.get(item)
        attributes = {"pd.node": run.node, "pd.model": model}
        error = "" if failure is None else failure.message
        times = (began, began + run.seconds)
        self._add(run.node, secrets.token_hex(8), parent, _INTERNAL, times, attributes, error)

    def end(self, began: float, ended: float, error: str = "") -> None:
        """The request has ended: write its spans."""
        name = str(self._spec.ref)
        attributes = {"pd.request_id": self._request_id}
        self._add(name, self._own_id, self._parent, _SERVER, (began, ended), attributes, error)
        scope = {"scope": {"name": "pdserver"}, "spans": self._spans}
        service = {"attributes": _attributes({"service.name": "pdserver"})}
        _log.info(json.dumps({"resourceSpans": [{"resource": service, "scopeSpans": [scope]}]}))

    def _add(
        self,
        name: str,
        span_id: str,
        parent: str,
        kind: int,
        times: tuple[float, float],
        attributes: dict[str, Any],
        error: str,
    ) -> None:
        offset = time.time() - time.monotonic()
        start, end = (str(int((moment + offset) * 1e9)) for moment in times)
        span = {
            "traceId": self._trace_id,
            "spanId": span_id,
            "parentSpanId": parent,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": start,
            "endTimeUnixNano": end,
            "attributes": _attributes(attributes),
        }
        if error:
            span["status"] = {"code": _ERROR, "message": error}
        self._spans.append(span)


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"doubleValue" if isinstance(value, float) else "stringValue": value}}
        for key, value in values.items()
    ]


def trace_of(spec: ModelSpec, request: Request, headers: Sequence[tuple[bytes, bytes]]) -> Trace | None:
    """None unless the headers have a trace context that is sampled."""
    for name, value in headers:
        if name == b"traceparent":
            match = _TRACEPARENT.fullmatch(value)
            if match and int(match["flags"], 16) & _SAMPLED:
                return Trace(match["trace"].decode(), match["span"].decode(), spec, request)
    return None
