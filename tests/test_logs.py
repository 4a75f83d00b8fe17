"""One log a purpose, as text or as JSON, or as the operator's own configuration says."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import requests
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from pdserver.logs import batched as batched_log
from pdserver.logs import marked as marked_lines
from pdserver.logs.batched import timestamp
from tests.conftest import Lent, Serve, pack_handler
from tests.grpc_client import Client, access_log, prediction
from tests.running import RunningServer, eventually
from tests.without_paddle import running_without_paddle
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


def read(folder: Path, name: str) -> str:
    path = folder / "logs" / name
    return path.read_text() if path.exists() else ""


def test_why_requests_run_one_by_one_is_in_the_log_of_workers(lent: Lent, odd_models: Path) -> None:
    """Where requests could share a run at all."""
    for name, config in (("alone", ""), ("apart", "batchSize: 8\n")):
        lent("base_handler", name, config=config, serialized_file=odd_models / "neighbours.json")
        lent.server.predict(name, json=[1] * 6)
    eventually(lambda: "run one by one" in read(lent.server.folder, "model_log.log"))
    said = [line for line in read(lent.server.folder, "model_log.log").splitlines() if "run one by one, unless" in line]
    assert any("apart/1.0" in line and "(operation mean)" in line for line in said)
    assert not any("alone/1.0" in line for line in said)
    assert "run one by one" not in read(lent.server.folder, "pdserver.log")


def test_each_purpose_has_its_file(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={"op": "speak", "text": "hello from the worker"})
    eventually(lambda: "hello from the worker" in read(server.folder, "model_log.log"))
    eventually(lambda: "registered chaos/1.0" in read(server.folder, "pdserver.log"))
    line = (
        r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d\d:\d\d - /127\.0\.0\.1:\d+"
        r' "POST /predictions/chaos HTTP/1\.1" 200 \d+\.\d{3} \w+ chaos$'
    )
    eventually(lambda: re.search(line, read(server.folder, "access_log.log"), re.MULTILINE))
    assert "hello from the worker" not in read(server.folder, "pdserver.log")


def test_every_request_has_one_access_log_line(lent: Lent) -> None:
    server = lent("chaos", name="asked_often")
    for _ in range(300):
        server.predict("asked_often", json={})
    eventually(lambda: read(server.folder, "access_log.log").count("/predictions/asked_often") == 300)


def test_what_a_client_sends_stays_one_line(servant: Lent) -> None:
    server = servant.server
    requests.get(f"{server.inference}/%0afake%1b[31m", timeout=60)
    eventually(lambda: "fake" in read(server.folder, "access_log.log"))
    [line] = [line for line in read(server.folder, "access_log.log").splitlines() if "fake" in line]
    assert line.isprintable()


@pytest.fixture(scope="module")
def in_json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Its logs are JSON, without probes that go well."""
    folder = tmp_path_factory.mktemp("json")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    with running_without_paddle(folder, store, log_format="json", access_log_probes="false") as server:
        yield server


def test_json_lines(in_json: RunningServer) -> None:
    own = in_json.predict("chaos", json={}).headers["x-request-id"]
    eventually(lambda: own in read(in_json.folder, "access_log.log"))
    [entry] = [json.loads(line) for line in read(in_json.folder, "access_log.log").splitlines() if own in line]
    assert (entry["method"], entry["target"], entry["status"]) == ("POST", "/predictions/chaos", 200)
    assert (entry["request_id"], entry["model"]) == (own, "chaos")
    assert all(json.loads(line) for line in read(in_json.folder, "pdserver.log").splitlines())


def test_a_json_line_is_one_line_and_has_an_end_whatever_a_client_calls_its_request(in_json: RunningServer) -> None:
    server = in_json
    separators = "\u2028\u2029\x85"
    given = grpc.InferInput("body", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"{}"], object))
    with grpc.InferenceServerClient(server.grpc_inference) as client:
        for text in ("x" * 100_000, f"own{separators}", "x" * 512):
            with pytest.raises(InferenceServerException):
                client.infer(f"m{text}", [given], request_id=f"i{text}")
            with pytest.raises(InferenceServerException):
                client.infer(text, [given], request_id=text)
    cut = "x" * 511 + "..."
    expected = [(f"i{cut}", f"m{cut}"), ("x" + cut,) * 2]
    expected += [(f"iown{separators}", f"mown{separators}"), (f"own{separators}",) * 2]
    expected += [(f"i{cut}", f"m{cut}"), ("x" * 512,) * 2]
    eventually(lambda: read(server.folder, "access_log.log").count("ModelInfer") == len(expected))
    lines = [line for line in read(server.folder, "access_log.log").splitlines() if "ModelInfer" in line]
    entries = [json.loads(line) for line in lines]
    assert [(entry["request_id"], entry["model"]) for entry in entries] == expected


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


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "UTC"])
def test_a_time_says_its_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    batched_log._to_the_second.cache_clear()
    try:
        said = timestamp(1_773_500_966.535)
    finally:
        monkeypatch.undo()
        time.tzset()
        batched_log._to_the_second.cache_clear()
    assert datetime.fromisoformat(said.replace(",", ".")).timestamp() == pytest.approx(1_773_500_966.535, abs=0.001)
    assert re.fullmatch(r".*,535[+-]\d\d:\d\d", said)


def test_a_handlers_traceback_is_an_error_and_names_the_request(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={"op": "fail"}, headers={"x-request-id": "mine-1"})
    eventually(lambda: re.search(r"mine-1 failed:[^~]*\| KeyError: ", read(server.folder, "model_log.log")))  # its end
    lines = [
        line.partition(" ")[2] for line in read(server.folder, "model_log.log").splitlines() if "chaos/1.0" in line
    ]
    first = next(number for number, line in enumerate(lines) if "mine-1" in line)
    assert re.fullmatch(r"\[ERROR\] pdserver\.worker - chaos/1\.0 worker \d+ \| request mine-1 failed:", lines[first])
    assert lines[first + 1].endswith("| Traceback (most recent call last):")
    last = next(line for line in lines[first:] if "KeyError" in line)
    assert all(line.startswith("[ERROR] ") for line in lines[first : lines.index(last) + 1])
    server.predict("chaos", json={"op": "speak", "text": "only said"})
    eventually(lambda: "only said" in read(server.folder, "model_log.log"))
    said = [line for line in read(server.folder, "model_log.log").splitlines() if "only said" in line]
    assert all("[INFO]" in line for line in said)


def test_a_request_has_its_id_and_model_in_the_access_log_by_every_protocol(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={}, headers={"x-request-id": "by-rest"})
    server.predict("unlogged", json={}, headers={"x-request-id": "a b"})
    server.manage("GET", "/models/chaos", headers={"x-request-id": "by-management"})
    with Client(server) as client:
        client.predict(prediction("chaos", body=b"{}"), metadata=[("x-request-id", "by-grpc")])
    ends = {"by-rest chaos", "by-management chaos", "by-grpc chaos"}
    eventually(lambda: {" ".join(line.split()[-2:]) for line in access_log(server).splitlines()} >= ends)
    [lost] = [line for line in read(server.folder, "access_log.log").splitlines() if "/predictions/unlogged" in line]
    assert re.search(r" 404 \d+\.\d{3} \w+ unlogged$", lost)


def test_management_changes_are_logged_with_who_has_made_them(lent: Lent) -> None:
    server = lent("chaos")
    server.manage("PUT", "/models/chaos?min_worker=2")
    with Client(server) as client:
        client.manage("ScaleWorker", model_name="chaos", min_worker=1)
    server.manage("PUT", "/models/nobody?min_worker=2")
    server.manage("DELETE", "/models/chaos")
    expected = [
        'Model "chaos" Version: 1.0 registered with 1 initial workers',
        "Workers scaled to 2 for model: chaos",
        "Workers scaled to 1 for model: chaos",
        'Model "chaos" unregistered',
    ]
    line = re.compile(r"\[INFO\] pdserver\.management - (.*), by 127\.0\.0\.1:\d+$", re.MULTILINE)
    eventually(lambda: line.findall(read(server.folder, "pdserver.log"))[-4:] == expected)
    assert "model: nobody" not in read(server.folder, "pdserver.log"), "nothing was changed there"


def test_a_change_names_the_scope_of_the_token(serve: Serve, store: Path) -> None:
    pack_handler(store, "chaos")
    tokens = store.parent / "tokens.json"
    server = serve(token_file=str(tokens))
    key = json.loads(tokens.read_text())["management"]["key"]
    assert server.manage("PUT", "/models/chaos?min_worker=2", headers={"Authorization": f"Bearer {key}"}).ok
    by = r"Workers scaled to 2 for model: chaos, by 127\.0\.0\.1:\d+ with a token for management$"
    eventually(lambda: re.search(by, read(server.folder, "pdserver.log"), re.MULTILINE))


def test_the_foreground_shows_the_access_log(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={}, headers={"x-request-id": "shown-there"})
    server.logged(" shown-there chaos\n")


def test_probes_that_go_well_can_be_left_out(in_json: RunningServer) -> None:
    server = in_json
    paths = ("/ping", "/", "/health", "/v2/health/ready?x=1", "/v2/models/chaos/ready", "/v1/models/chaos")
    for path in paths:
        assert requests.get(f"{server.inference}{path}", timeout=60).ok
    requests.get(f"{server.metrics}/metrics", timeout=60)
    with Client(server) as client:
        client.ping()
    requests.get(f"{server.inference}/v2/models/nobody/ready", timeout=60)
    server.predict("chaos", json={}, headers={"x-request-id": "after-probes"})
    eventually(lambda: "after-probes" in read(server.folder, "access_log.log"))
    entries = [json.loads(line) for line in read(server.folder, "access_log.log").splitlines()]
    asked = {entry["target"] for entry in entries if "ModelInfer" not in entry["target"]}
    assert asked == {"/v2/models/nobody/ready", "/predictions/chaos"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"plain", (logging.INFO, b"plain")),
        (b"\x1eEbad", (logging.ERROR, b"bad")),
        (b"\x1eWodd", (logging.WARNING, b"odd")),
        (b"\x1ewhat", (logging.INFO, b"\x1ewhat")),
        (b"", (logging.INFO, b"")),
    ],
)
def test_marks_of_a_workers_lines_are_read(line: bytes, expected: tuple[int, bytes]) -> None:
    assert marked_lines.read(line) == expected
