"""The management port, as TorchServe's clients use it."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests
from grpc import StatusCode

from tests.conftest import Lent, Serve, fit_file, pack_handler
from tests.grpc_client import Client, chaos, refusal
from tests.running import eventually


def test_parameters_in_a_form_are_refused_and_change_nothing(lent: Lent) -> None:
    server = lent("mirror", "formed")
    answer = server.manage("PUT", "/models/formed", data={"min_worker": "2"})
    assert answer.status_code == 400
    assert "in the query (?min_worker=2), or in a body of application/json" in answer.json()["message"]


def test_register_scale_describe_unregister(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server
    assert server.predict("chaos", json={}).status_code == 404

    none = server.manage("POST", "/models?url=chaos.pdar&initial_workers=0")
    assert (none.status_code, none.json()) == (
        200,
        {
            "status": 'Model "chaos" Version: 1.0 registered with 0 initial workers. '
            "Use scale workers API to add workers for the model."
        },
    )
    refused = server.predict("chaos", json={})
    assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
    assert "min_worker" in refused.json()["message"]

    scaled = server.manage("PUT", "/models/chaos?min_worker=2&synchronous=true")
    assert (scaled.status_code, scaled.json()) == (200, {"status": "Workers scaled to 2 for model: chaos"})
    assert len(server.pids("chaos")) == 2
    described = server.describe("chaos")
    assert described["modelName"] == "chaos"
    assert described["modelVersion"] == "1.0"
    assert described["modelUrl"] == "chaos.pdar"
    assert (described["minWorkers"], described["maxWorkers"], described["batchSize"]) == (2, 2, 1)
    worker = described["workers"][0]
    assert worker["status"] == "READY"
    assert worker["memoryUsage"] > 1_000_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker["startTime"])

    begun = server.manage("PUT", "/models/chaos/1.0?min_worker=1")
    assert (begun.status_code, begun.json()) == (202, {"status": "Processing worker updates..."})
    eventually(lambda: len(server.pids("chaos")) == 1)

    gone = server.manage("DELETE", "/models/chaos")
    assert (gone.status_code, gone.json()) == (200, {"status": 'Model "chaos" unregistered'})
    assert server.predict("chaos", json={}).status_code == 404
    assert server.manage("GET", "/models/chaos").status_code == 404
    assert server.manage("GET", "/models").json() == {"models": []}


@pytest.mark.parametrize(
    ("handler", "config", "message"),
    [
        ("image_classifier", "image: {thresold: 0.5}\n", "image.thresold: .*threshold"),
        ("base_handler", "predictor: {treads: 2}\n", "predictor.treads: .*threads"),
        ("base_handler", "predictor: {threads: many}\n", "predictor.threads: many"),
        ("base_handler", "warmup: [{inputs: {y: {}}}]\n", "warmup 0: the model has no input y"),
        ("image_classifier", "", r"expected a model with one float input .*x float32\[-1, 13\]"),
        ("text_classifier", "inputs: {x: input_ids}\n", "text_classifier needs the model's tokenizer"),
        ("base_handler", "minWorkers: two\n", "minWorkers"),
        ("base_handler", "batch_size: 8\n", "batchSize"),
    ],
)
def test_a_mistake_in_an_archive_is_the_senders(
    lent: Lent, fit_model: Path, handler: str, config: str, message: str
) -> None:
    model = fit_file(fit_model)
    pack_handler(lent.store, handler, name="mistaken", config=config, serialized_file=model)
    refused = lent.server.manage("POST", "/models?url=mistaken.pdar&initial_workers=1")
    assert (refused.status_code, refused.json()["type"]) == (400, "BadRequestException")
    assert re.search(message, refused.json()["message"]), refused.text


def test_what_a_handler_raises_while_it_loads_is_not_the_senders_mistake(lent: Lent) -> None:
    pack_handler(lent.store, "broken_load")
    refused = lent.server.manage("POST", "/models?url=broken_load.pdar&initial_workers=1")
    assert (refused.status_code, refused.json()["type"]) == (500, "InternalServerException")


def test_a_handler_that_the_archive_has_not_is_the_senders_mistake(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    refused = lent.server.manage("POST", "/models?url=chaos.pdar&handler=chaoss.py&initial_workers=1")
    assert (refused.status_code, refused.json()["type"]) == (400, "BadRequestException")
    assert "did you mean chaos.py?" in refused.json()["message"]


def test_a_slash_at_the_end_changes_nothing(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server

    def ask(method: str, url: str) -> tuple[int, str]:
        answer = requests.request(method, url, timeout=60, allow_redirects=False)
        return answer.status_code, answer.text

    models = f"{server.management}/models"
    assert ask("POST", f"{models}/?url=chaos.pdar&initial_workers=0")[0] == 200
    assert ask("PUT", f"{models}/chaos/?min_worker=1&synchronous=true")[0] == 200
    assert ask("PUT", f"{models}/chaos/1.0/set-default/")[0] == 200
    for url in (
        models,
        f"{server.inference}/ping",
        f"{server.inference}/v2",
        f"{server.inference}/v2/models/chaos/ready",
    ):
        assert ask("GET", f"{url}/") == ask("GET", url)
    assert '"modelName": "chaos"' in ask("GET", f"{models}/chaos/")[1]
    assert ask("GET", f"{server.metrics}/metrics/")[0] == 200
    assert ask("GET", f"{server.metrics}/metrics//")[0] == 404
    assert ask("DELETE", f"{models}/chaos/")[0] == 200


def test_register_is_synchronous_unless_asked_otherwise(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server
    answer = server.manage(
        "POST", "/models?url=chaos.pdar&initial_workers=1&batch_size=3&max_batch_delay=50&s3_sse_kms=false"
    )
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": 'Model "chaos" Version: 1.0 registered with 1 initial workers'},
    )
    described = server.describe("chaos")
    assert (described["batchSize"], described["maxBatchDelay"]) == (3, 50)
    later = server.manage("POST", "/models?url=chaos.pdar&model_name=other&synchronous=false")
    assert later.status_code == 202
    eventually(lambda: server.predict("other", json={"nonce": 1}).status_code == 200)


def test_parameters_may_come_as_json(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server
    answer = server.manage("POST", "/models", json={"url": "chaos.pdar", "batch_size": 5, "synchronous": True})
    assert answer.status_code == 200, answer.text
    assert server.describe("chaos")["batchSize"] == 5


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "url is required"),
        ("url=chaos.pdar&copies=2", 400, "copies: this is one server; a cluster's management takes it"),
        ("url=chao.pdar", 404, "did you mean chaos.pdar?"),
        ("url=../chaos.pdar", 400, "name of a file in the model store"),
        ("url=http://example.com/a.pdar", 403, "model store"),
        ("url=file:///etc/passwd", 403, "model store"),
        ("url=corrupt.pdar", 400, "corrupt.pdar"),
        ("url=chaos.pdar&batch_size=dd", 400, "batch_size=dd"),
        ("url=chaos.pdar&batchsize=4", 400, "batch_size"),
        ("url=chaos.pdar&initial_workers=x", 400, "initial_workers"),
        ("url=chaos.pdar&synchronous=maybe", 400, "true or false"),
        ("url=chaos.pdar&model_name=a/b", 400, "a/b"),
        ("url=chaos.pdar&runtime=LSP", 400, "python"),
        ("url=chaos.pdar&s3_sse_kms=true", 400, "S3 encrypts"),
        ("url=broken_load.pdar", 500, "FileNotFoundError: the vocabulary is missing"),
        ("url=chaos.pdar&handler=nope", 400, "nope"),
    ],
)
def test_what_is_refused_says_why_and_leaves_nothing(lent: Lent, query: str, status: int, words: str) -> None:
    server, store = lent.server, lent.store
    pack_handler(store, "chaos")
    pack_handler(store, "broken_load")
    (store / "corrupt.pdar").write_bytes((store / "chaos.pdar").read_bytes()[:-40])
    answer = server.manage("POST", f"/models?{query}")
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == status
    assert words in answer.json()["message"]
    assert "Traceback" not in answer.text
    assert server.manage("GET", "/models").json() == {"models": []}


@pytest.mark.catalogue("L14")
def test_a_version_is_registered_once_however_many_ask(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: server.manage("POST", "/models?url=chaos.pdar").status_code, range(10)))
    assert sorted(answers) == [200] + [409] * 9
    assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1


def test_a_default_that_cannot_be_loaded_makes_way_for_a_version_that_can(lent: Lent) -> None:
    pack_handler(lent.store, "chaos", name="two", version="2.0").rename(lent.store / "two-2.pdar")
    pack_handler(lent.store, "hard_to_load", name="two", config="loading: {hang: true}\nstartupTimeout: 2\n")
    server = lent.server
    with ThreadPoolExecutor(1) as threads:
        failing = threads.submit(server.manage, "POST", "/models?url=two.pdar")
        eventually(lambda: server.manage("GET", "/models/two").status_code == 200)
        assert requests.post(f"{server.management}/models?url=two-2.pdar", timeout=60).status_code == 200
        assert failing.result().status_code == 500
    assert [version["modelVersion"] for version in server.manage("GET", "/models/two/all").json()] == ["2.0"]
    assert server.predict("two", json={"nonce": 1}).json()["nonce"] == 1


@pytest.mark.catalogue("L18")
def test_two_versions_and_the_default(lent: Lent) -> None:
    server = lent.server
    for version in ("1.0", "2.0"):
        pack_handler(lent.store, "chaos", version=version).rename(lent.store / f"chaos{version}.pdar")
        assert server.manage("POST", f"/models?url=chaos{version}.pdar").status_code == 200
    first, second = (server.manage("GET", f"/models/chaos/{v}").json()[0]["workers"][0]["pid"] for v in ("1.0", "2.0"))

    def asked(path: str) -> int:
        pid: int = server.predict(path, json={}).json()["pid"]
        return pid

    assert [asked("chaos"), asked("chaos/1.0"), asked("chaos/2.0")] == [first, first, second]
    assert len(server.manage("GET", "/models/chaos/all").json()) == 2

    refused = server.manage("DELETE", "/models/chaos/1.0")
    assert (refused.status_code, refused.json()["type"]) == (403, "InvalidModelVersionException")
    changed = server.manage("PUT", "/models/chaos/2.0/set-default")
    assert changed.json() == {"status": 'Default version successfully updated for model "chaos" to "2.0"'}
    assert asked("chaos") == second
    assert server.manage("PUT", "/models/chaos/9/set-default").json()["type"] == "ModelVersionNotFoundException"
    assert server.manage("DELETE", "/models/chaos/1.0").status_code == 200
    assert server.predict("chaos/1.0", json={}).status_code == 404
    assert asked("chaos") == second


def test_paging(lent: Lent) -> None:
    pack_handler(lent.store, "chaos")
    server = lent.server
    for name in "cab":
        server.manage("POST", f"/models?url=chaos.pdar&model_name={name}&initial_workers=0")
    page = server.manage("GET", "/models?limit=2").json()
    assert [model["modelName"] for model in page["models"]] == ["a", "b"]
    rest = server.manage("GET", f"/models?limit=2&next_page_token={page['nextPageToken']}").json()
    assert rest == {"models": [{"modelName": "c", "modelUrl": "chaos.pdar"}]}
    assert len(server.manage("GET", "/models?limit=1000").json()["models"]) == 3
    assert server.manage("GET", "/models?limit=ten").status_code == 400


@pytest.mark.catalogue("L13")
def test_scaling_has_its_bounds(lent: Lent) -> None:
    server = lent("chaos")
    for query, words in (
        ("min_worker=2&max_worker=1&batch_size=7", "max_worker cannot be less than min_worker."),
        ("min_worker=-1", "min_worker=-1"),
        ("min_worker=1000000", "min_worker=1000000"),
        ("min_worker=1.5", "min_worker=1.5"),
    ):
        answer = server.manage("PUT", f"/models/chaos?{query}")
        assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text
    assert server.manage("PUT", "/models/nope?min_worker=1").json()["type"] == "ModelNotFoundException"
    assert len(server.pids("chaos")) == 1
    assert server.describe("chaos")["batchSize"] == 1, "what was refused has changed nothing"


def test_a_stated_max_workers_limits_and_max_worker_raises_it(lent: Lent) -> None:
    pack_handler(lent.store, "chaos", config="maxWorkers: 2\n")
    server = lent.server

    def limits() -> tuple[int, int]:
        described = server.describe("chaos")
        return described["minWorkers"], described["maxWorkers"]

    refused = server.manage("POST", "/models?url=chaos.pdar&initial_workers=3")
    assert refused.status_code == 400
    assert "minWorkers=3 (register call) is more than maxWorkers=2 (chaos.pdar:" in refused.json()["message"]
    assert server.manage("POST", "/models?url=chaos.pdar&initial_workers=1").ok
    assert server.manage("PUT", "/models/chaos?min_worker=0&synchronous=true").ok
    assert limits() == (0, 2), "fewer workers leave the limit as it is"
    refused = server.manage("PUT", "/models/chaos?min_worker=3&batch_size=9")
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "min_worker=3: more than maxWorkers=2 of chaos/1.0: ask for fewer, or say max_worker=3 as well, which raises"
        " the limit",
    )
    assert (limits(), server.describe("chaos")["batchSize"]) == ((0, 2), 1), "what was refused has changed nothing"
    assert server.manage("PUT", "/models/chaos?min_worker=3&max_worker=3&synchronous=true").ok
    assert (limits(), len(server.pids("chaos"))) == ((3, 3), 3)


def test_without_max_workers_any_number_may_be_asked_for(lent: Lent) -> None:
    server = lent("chaos")
    for workers in (2, 1, 3):
        assert server.manage("PUT", f"/models/chaos?min_worker={workers}&synchronous=true").ok
        described = server.describe("chaos")
        assert (described["minWorkers"], described["maxWorkers"]) == (workers, workers)


def test_without_the_model_api_nothing_is_registered_at_run_time(store: Path, serve: Serve) -> None:
    pack_handler(store, "chaos")
    server = serve(enable_model_api="false")
    assert server.manage("POST", "/models?url=chaos.pdar").json()["type"] == "MethodNotAllowedException"
    assert server.manage("DELETE", "/models/chaos").status_code == 405
    assert server.manage("PUT", "/models/chaos?min_worker=2&synchronous=true").status_code == 200
    rpcs = {"RegisterModel": {"url": "chaos.pdar"}, "UnregisterModel": {"model_name": "chaos"}}
    with Client(server) as client:
        for method, fields in rpcs.items():
            code, words = refusal(partial(client.manage, method, **fields))
            assert (code, "enable_model_api" in words) == (StatusCode.PERMISSION_DENIED, True)
        assert client.predict(chaos("text")) == "grüße".encode()


def test_openapi(servant: Lent) -> None:
    server = servant.server
    document = server.manage("OPTIONS", "/").json()
    assert set(document["paths"]["/models"]) == {"get", "post"}
    assert set(document["paths"]["/models/{model_name}"]) == {"get", "put", "delete"}
    assert server.manage("GET", "/nowhere").json()["type"] == "ResourceNotFoundException"


def test_a_running_version_takes_other_batch_settings(lent: Lent) -> None:
    server = lent("chaos")
    pids = server.pids("chaos")
    changed = server.manage("PUT", "/models/chaos?batch_size=4&max_batch_delay=60000&response_timeout=7")
    assert (changed.status_code, changed.json()) == (
        200,
        {"status": "Changed batch_size, max_batch_delay, response_timeout of model: chaos"},
    )
    described = server.describe("chaos")
    assert (described["batchSize"], described["maxBatchDelay"], described["responseTimeout"]) == (4, 60000, 7)
    with ThreadPoolExecutor(4) as threads:
        urls = [f"{server.inference}/predictions/chaos"] * 4
        answers = list(threads.map(lambda url: requests.post(url, json={}, timeout=60).json(), urls))
    assert {answer["batch"] for answer in answers} == {4}
    assert server.pids("chaos") == pids


SHY = """
from ts.utils.util import PredictionException

def handle(data, context):
    if data and context.get_request_header(0, "describe"):
        raise PredictionException("not today", 418) if context.model_name == "polite" else KeyError("lost")
    return data
"""


def test_a_handler_that_fails_at_its_description_fails_the_call_as_with_torchserve(lent: Lent, tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(SHY)
    for name, status, words in (("polite", 418, "not today"), ("rude", 500, "KeyError: 'lost'")):
        pack_handler(lent.store, str(tmp_path / "shy.py"), name)
        assert lent.server.manage("POST", f"/models?url={name}.pdar&initial_workers=1").status_code == 200
        failed = lent.server.manage("GET", f"/models/{name}?customized=true")
        assert (failed.status_code, words in failed.json()["message"]) == (status, True)
        assert lent.server.describe(name)["modelName"] == name


DESCRIBED = {
    "modelName": str, "modelVersion": str, "modelUrl": str, "runtime": str, "minWorkers": int, "maxWorkers": int,
    "batchSize": int, "maxBatchDelay": int, "responseTimeout": int, "startupTimeout": int, "maxRetryTimeoutInSec": int,
    "clientTimeoutInMills": int, "parallelType": str, "parallelLevel": int, "deviceType": str,
    "continuousBatching": bool, "useJobTicket": bool, "useVenv": bool, "stateful": bool, "sequenceMaxIdleMSec": int,
    "sequenceTimeoutMSec": int, "maxNumSequence": int, "maxSequenceJobQueueSize": int, "loadedAtStartup": bool,
    "workers": list, "jobQueueStatus": dict,
}  # fmt: skip
"""TorchServe's fields and their types in JSON."""


def test_a_description_has_torchserves_fields_and_types(lent: Lent) -> None:
    plain = lent("chaos").describe("chaos")
    assert {name: type(plain[name]) for name in DESCRIBED} == DESCRIBED
    assert (plain["responseTimeout"], plain["maxRetryTimeoutInSec"], plain["maxNumSequence"]) == (120, 300, 0)
    config = "sequenceBatching: true\nmaxNumSequence: 4\nsequenceMaxIdleMSec: 1500\nclientTimeoutInMills: 250\n"
    stateful = lent("counter", config=config).describe("counter")
    assert (stateful["stateful"], stateful["maxNumSequence"], stateful["sequenceMaxIdleMSec"]) == (True, 4, 1500)
    assert stateful["clientTimeoutInMills"] == 250


def test_a_model_for_which_there_is_no_memory_is_a_507(lent: Lent) -> None:
    pack_handler(lent.store, "unloadable", config="why: no memory\n")
    refused = lent.server.manage("POST", "/models?url=unloadable.pdar&initial_workers=1&synchronous=true")
    assert (refused.status_code, refused.json()["code"]) == (507, 507)
    assert "MemoryError: 8 TB" in refused.json()["message"]
    assert lent.server.manage("GET", "/models/unloadable").status_code == 404


def test_a_handler_may_describe_itself(lent: Lent) -> None:
    server = lent("chaos")
    described = server.manage("GET", "/models/chaos?customized=true").json()[0]
    assert described["customizedMetadata"]["batch"] == 1
    server.manage("PUT", "/models/chaos?min_worker=0&synchronous=true")
    assert server.manage("GET", "/models/chaos?customized=true").status_code == 503
    assert "customizedMetadata" not in server.describe("chaos")


def test_kserve_readiness(lent: Lent) -> None:
    server = lent("chaos")

    def asked(path: str) -> tuple[int, object]:
        answer = server.session.get(server.inference + path, timeout=60)
        return answer.status_code, answer.json()

    assert asked("/") == (200, {"status": "alive"})
    assert asked("/v1/models") == (200, {"models": ["chaos"]})
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert asked("/v1/models/chaos") == (200, {"name": "chaos", "ready": True, "model_version_status": [status]})
    assert asked("/v1/models/nobody")[0] == 404
    assert server.manage("GET", "/v1/models/chaos").json() == {"name": "chaos", "ready": True}
    server.manage("PUT", "/models/chaos?min_worker=0&synchronous=true")
    assert server.manage("GET", "/v1/models/chaos").json() == {"name": "chaos", "ready": False}
    status["state"] = "START"
    assert asked("/v1/models/chaos") == (503, {"name": "chaos", "ready": False, "model_version_status": [status]})


@pytest.mark.parametrize("victim", ["worker", "nursery"])
@pytest.mark.parametrize("verb", ["register", "scale"])
def test_a_kill_during_a_synchronous_call_is_neither_a_hang_nor_a_failure(
    lent: Lent, tmp_path: Path, verb: str, victim: str
) -> None:
    server = lent.server
    loaded = tmp_path / "loaded"
    pack_handler(lent.store, "hard_to_load", name="slow", config=f"loading: {{until: {loaded}}}\n")
    calls = {
        "register": ("POST", "/models?url=slow.pdar&initial_workers=1&synchronous=true"),
        "scale": ("PUT", "/models/slow?min_worker=1&synchronous=true"),
    }
    if verb == "scale":
        assert server.manage("POST", "/models?url=slow.pdar&initial_workers=0").status_code == 200

    def loading() -> set[int]:
        described = server.manage("GET", "/models/slow").json()
        workers = described[0]["workers"] if isinstance(described, list) else []
        return {worker["pid"] for worker in workers if worker["status"] == "LOADING" and worker["pid"]}

    with ThreadPoolExecutor(1) as threads:
        method, path = calls[verb]
        asked = threads.submit(requests.request, method, server.management + path, timeout=60)
        [pid] = eventually(loading)  # another nursery may have to wake up first
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: loading() - {pid})
        else:
            os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
        loaded.touch()
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert len(server.pids("slow")) == 1
