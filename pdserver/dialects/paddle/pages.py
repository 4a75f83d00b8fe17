"""The pages of a brpc server that people use as health checks and for their graphs: /health, /status, /vars,
/brpc_metrics.

They show what there is, in brpc's forms. Its pages that change settings (/flags) or show other clients don't exist.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from pdserver import __version__
from pdserver.dialects.paddle.message import SERVICE
from pdserver.engine.catalogue import InferenceEngine, ServedVersion
from pdserver.metrics.counters import Totals
from pdserver.security.access import INFERENCE, OPEN
from pdserver.security.routes import Route

_COUNTERS = (
    "pd_query_request_success_total",
    "pd_query_request_failure_total",
    "pd_inference_count_total",
    "pd_query_request_duration_us_total",
    "pd_inference_duration_us_total",
)
"""Paddle Serving's five counters of a model."""


def routes(engine: InferenceEngine) -> list[BaseRoute]:
    catalogue = engine.catalogue
    began = time.monotonic()
    counters = INFERENCE.of("statistics")

    def counted() -> Iterator[tuple[ServedVersion, Totals]]:
        return ((served, engine.statistics(served.spec.ref)) for served in catalogue.versions())

    async def health(_: Request) -> Response:
        if catalogue.health().healthy:
            return PlainTextResponse("OK")
        return PlainTextResponse("not everything that should be served is", 503)

    async def status(_: Request) -> Response:
        lines = [f"version: pdserver {__version__}", "", SERVICE]
        for served, totals in counted():
            workers = f"{served.serving} of {served.min_workers} workers serve"
            answers = f"{totals.succeeded} requests answered, {totals.failed} failed"
            lines.append(f"  {served.spec.ref}: {served.state.value}, {workers}; {answers}")
        return _text(lines)

    async def variables(_: Request) -> Response:
        found: list[tuple[str, object]] = [
            ("pid", os.getpid()),
            ("pdserver_version", f'"{__version__}"'),
            ("process_uptime", round(time.monotonic() - began)),
        ]
        for served, totals in counted():
            name = "_".join((served.spec.name, served.spec.version)).replace(".", "_")
            found += [(f"{counter}_{name}", value) for counter, value in zip(_COUNTERS, _values(totals), strict=True)]
        return _text(f"{name} : {value}" for name, value in sorted(found))

    async def metrics(_: Request) -> Response:
        lines = []
        samples = [(served.spec, _values(totals)) for served, totals in counted()]
        for idx, counter in enumerate(_COUNTERS):
            lines.append(f"# TYPE {counter} counter")
            lines += [
                f'{counter}{{model="{_escaped(spec.name)}",version="{_escaped(spec.version)}"}} {values[idx]}'
                for spec, values in samples
            ]
        return _text(lines)

    return [
        Route("/health", health, OPEN.of("health")),
        Route("/status", status, counters),
        Route("/vars", variables, counters),
        Route("/brpc_metrics", metrics, counters),
    ]


def _values(totals: Totals) -> tuple[int, ...]:
    """Of _COUNTERS. Times are microseconds."""
    statistics = totals.statistics
    return (
        totals.succeeded,
        totals.failed,
        statistics.rows,
        round((totals.latency_seconds + totals.failed_seconds) * 1e6),
        round(statistics.infer_seconds * 1e6),
    )


def _text(lines: Iterator[str] | list[str]) -> Response:
    return PlainTextResponse("".join(f"{line}\n" for line in lines))


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
