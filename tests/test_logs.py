"""One log a purpose, as text or as JSON, or as the operator's own configuration says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import requests

from tests.conftest import Lent, Serve, pack_handler
from tests.running import eventually


def read(folder: Path, name: str) -> str:
    path = folder / "logs" / name
    return path.read_text() if path.exists() else ""


def test_each_purpose_has_its_file(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={"op": "speak", "text": "hello from the worker"})
    requests.get(f"{server.inference}/ping", timeout=10)
    eventually(lambda: "hello from the worker" in read(server.folder, "model_log.log"))
    eventually(lambda: "/ping" in read(server.folder, "access_log.log"))
    eventually(lambda: "registered chaos/1.0" in read(server.folder, "pdserver.log"))
    line = (
        r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - /127\.0\.0\.1:\d+ "POST /predictions/chaos HTTP/1\.1" 200 \d+\.\d{3}$'
    )
    assert re.search(line, read(server.folder, "access_log.log"), re.MULTILINE)
    assert "hello from the worker" not in read(server.folder, "pdserver.log")


def test_every_request_has_one_access_log_line(lent: Lent) -> None:
    server = lent("chaos", name="asked_often")
    for _ in range(700):
        server.predict("asked_often", json={})
    eventually(lambda: read(server.folder, "access_log.log").count("/predictions/asked_often") == 700)


def test_what_a_client_sends_stays_one_line(servant: Lent) -> None:
    server = servant.server
    requests.get(f"{server.inference}/%0afake%1b[31m", timeout=10)
    eventually(lambda: "fake" in read(server.folder, "access_log.log"))
    [line] = [line for line in read(server.folder, "access_log.log").splitlines() if "fake" in line]
    assert line.isprintable()


def test_json_lines(store: Path, serve: Serve) -> None:
    pack_handler(store, "chaos")
    server = serve(log_format="json")
    server.predict("chaos", json={})
    eventually(lambda: "predictions" in read(server.folder, "access_log.log"))
    [entry] = [json.loads(line) for line in read(server.folder, "access_log.log").splitlines() if "predictions" in line]
    assert (entry["method"], entry["target"], entry["status"]) == ("POST", "/predictions/chaos", 200)
    assert all(json.loads(line) for line in read(server.folder, "pdserver.log").splitlines())


def test_the_operators_own_configuration(store: Path, serve: Serve, tmp_path: Path) -> None:
    pack_handler(store, "chaos")
    config = tmp_path / "logging.yaml"
    config.write_text(
        "formatters:\n  mine: {format: 'MINE %(name)s %(message)s'}\n"
        f"handlers:\n  file: {{class: logging.FileHandler, filename: {tmp_path}/mine.log, formatter: mine}}\n"
        "root: {level: INFO, handlers: [file]}\n"
    )
    server = serve(log_config=str(config))
    server.predict("chaos", json={})
    eventually(lambda: "MINE pdserver.access" in (tmp_path / "mine.log").read_text())
    assert "MINE pdserver.engine registered chaos/1.0" in (tmp_path / "mine.log").read_text()
