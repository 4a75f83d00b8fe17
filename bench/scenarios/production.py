"""What production adds to a request: a token, a trace and an id of the client's own, and TLS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import ClassVar

from bench.peers.base import Configuration
from bench.peers.ours import Ours
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.growth import cost_table, record_cost
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_CONNECTIONS = (1, 8, 32)
_PLAIN, _HEADERS, _TLS = "plain", "token, trace, id", "TLS"
_TOKEN = "bench-" * 6
_TRACED = {
    "Authorization": f"Bearer {_TOKEN}",
    "traceparent": "00-4bf92f3577b34da6{n}-{n}-01",
    "X-Request-Id": "bench-{n}",
}


class Production:
    name: ClassVar[str] = "production"

    def measure(self, run: Run) -> None:
        for case, headers in ((_PLAIN, {}), (_HEADERS, _TRACED), (_TLS, {})):
            folder = run.folder(case)
            settings = {_PLAIN: {}, _HEADERS: _tokens(folder), _TLS: _certificate(folder)}[case]
            with Ours().start(prepare("fit"), Configuration(batch_size=32), folder, settings, headers) as server:
                for connections in _CONNECTIONS:
                    record_cost(run, server, f"{case}, c={connections}", connections)

    def report(self, results: ScenarioResults) -> str:
        return cost_table(results)

    def targets(self, results: ScenarioResults) -> list[Target]:
        found = []
        for connections in _CONNECTIONS:
            key, case = "cpu_us_per_request", f"c={connections}"
            costs = [results.median(key, f"{name}, {case}", OURS) for name in (_HEADERS, _PLAIN)]
            text = "front-end CPU per request with a token, a trace and an id, to that without"
            found.append(Target(case, text, ratio(*costs), "≤", 1.15))
        return found


def _tokens(folder: Path) -> dict[str, str]:
    """Settings: the token that the requests have, and others."""
    file = folder / "tokens.json"
    file.touch(0o600)
    keys = {"inference": _TOKEN, "management": _TOKEN[::-1], "admin": _TOKEN.upper()}
    file.write_text(json.dumps({scope: {"key": key} for scope, key in keys.items()}))
    return {"token_file": str(file)}


def _certificate(folder: Path) -> dict[str, str]:
    """Settings: TLS on the inference port."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    return {"private_key_file": str(key), "certificate_file": str(certificate)}
