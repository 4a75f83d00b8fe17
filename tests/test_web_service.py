"""Scripts of Paddle Serving with one changed import: what they say is what is served, and how."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
import requests
import yaml

from pdarchiver import encryption
from pdserver.configuration.loading import load_config
from pdserver.configuration.table import table
from pdserver.dialects.protos import message_class
from pdserver.errors import ConfigError
from pdserver.handlers.pipeline import settings
from pdserver.handlers.pipeline.config import NO_EFFECT, DagKeys, ModelKeys, OpKeys, ServerKeys, read
from pdserver.handlers.pipeline.graph import order
from pdserver.pipeline_service import ArgsParser, Op, RequestOp, launch
from tests.conftest import Lent, run_script
from tests.running import RunningServer, clean_environment, eventually, free_ports
from tests.test_docs import ROOT

PIPELINE = "baidu.paddle_serving.pipeline_serving"
Request, Response = (message_class(f"{PIPELINE}.{name}") for name in ("Request", "Response"))
SCRIPTS = Path(__file__).parent / "web_services"
CONF = "serving_server_conf.prototxt"
ROW = ", ".join(["0.5"] * 13)


@pytest.fixture
def home(tmp_path: Path, serving_models: Path) -> Path:
    """Where a script is started: the models are there."""
    for model in serving_models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    return tmp_path


def local(model: str, **more: Any) -> dict[str, Any]:
    return {"client_type": "local_predictor", "model_config": model, **more}


Describe = Callable[..., RunningServer]


@pytest.fixture
def serve_script(lent: Lent, home: Path) -> Iterator[Describe]:
    """Serves what a script says with the shared server: `serve_script("uci", {config.yml's op}, argument, …)`."""
    described: list[Path] = []

    def start(name: str, ops: Mapping[str, Any], *arguments: str, script: Path | None = None) -> RunningServer:
        (home / "config.yml").write_text(yaml.safe_dump({"http_port": 18082, "op": dict(ops)}))
        command = ["-m", "tests.web_services.describe", home / "state", script or SCRIPTS / f"{name}.py", *arguments]
        where = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=home, env={**os.environ, "PYTHONPATH": where},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        described.append(lent.store / name)
        shutil.copytree(done.stdout.strip(), described[-1])
        answer = lent.server.manage("POST", f"/models?url={name}&synchronous=true")
        assert answer.ok, answer.text
        return lent.server

    yield start
    for folder in described:
        shutil.rmtree(folder)


def form(**values: str) -> dict[str, tuple[None, str]]:
    """The parts of a form, as requests wants them."""
    return {name: (None, value) for name, value in values.items()}


def ask(server: str, name: str, **values: str) -> dict[str, Any]:
    """Pipeline's answer to these values. `server` is the URL of its inference port."""
    request = {"key": list(values), "value": list(values.values())}
    answer = requests.post(f"{server}/{name}/prediction", json=request, timeout=60)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    assert said.pop("tensors") == []
    return said


def at_once(server: RunningServer, name: str, texts: list[str]) -> list[dict[str, Any]]:
    """Pipeline's answers to requests that are sent together, whose one input is x: values by key, or the failure."""
    with ThreadPoolExecutor(len(texts)) as threads:
        answers = list(threads.map(lambda text: ask(server.inference, name, x=text), texts))
    return [dict(zip(a["key"], a["value"], strict=True)) if not a["err_no"] else a for a in answers]


def arrays(text: str) -> Any:
    """What Python writes of an array, as clients read it back: lists."""
    return eval(text, {"array": np.array, "float32": np.float32}).tolist()


# Whole scripts, real workers, real models


def test_the_tutorials_service(serve_script: Describe) -> None:
    """Rows within a request, values as a form, as JSON by key and value, and as JSON by name."""
    server = serve_script("uci", {"uci": {"local_service_conf": local("uci_housing_model", fetch_list=["price"])}})
    assert server.predict("uci", files=form(x=ROW)).json() == {"price": "[[7.]]"}
    assert server.predict("uci", json={"key": ["x"], "value": [f"{ROW}; {ROW}"]}).json() == {"price": "[[7.]\n [7.]]"}
    assert server.predict("uci", json={"x": ROW}).json() == {"price": "[[7.]]"}
    described = server.manage("GET", "/models/uci?customized=true").json()[0]
    assert described["customizedMetadata"] == {"uci": {"inputs": ["x"], "outputs": ["price"]}}


def test_what_a_hook_raises_is_answered_with_its_number(serve_script: Describe) -> None:
    server = serve_script("uci", {"uci": {"local_service_conf": local("uci_housing_model")}})
    answer = server.predict("uci", files=form(x="1, two"))
    assert (answer.status_code, answer.headers["x-pipeline-err-no"]) == (500, "10000")
    assert answer.text == "[uci] preprocess: ValueError: could not convert string to float: 'two'"
    more = server.predict("uci", files=form(x=ROW, y="1"))
    assert (more.status_code, more.headers["x-pipeline-err-no"]) == (400, "5000")
    assert 'the model has no input "y"' in more.text
    assert server.predict("uci", files=form(x=ROW)).ok


def test_the_script_is_asked_as_it_always_was(serve_script: Describe) -> None:
    """By Pipeline's own path, and by PipelineClient's message with an array."""
    server = serve_script("uci", {"uci": {"local_service_conf": local("uci_housing_model", fetch_list=["price"])}})

    def asked(key: str, value: str) -> Any:
        return requests.post(f"{server.inference}/uci/prediction", json={"key": [key], "value": [value]}, timeout=60)

    assert asked("x", f"{ROW}; {ROW}").json() == {
        **{"err_no": 0, "err_msg": "", "key": ["price"], "value": ["[[7.]\n [7.]]"], "tensors": []}
    }
    failed = asked("x", "1, two")
    assert (failed.status_code, failed.json()["err_no"]) == (200, 10000)
    assert failed.json()["err_msg"] == "[uci] preprocess: ValueError: could not convert string to float: 'two'"
    assert asked("y", ROW).json()["err_no"] == 10000, "a KeyError of the script's"


def test_pictures_in_base64_with_files_where_the_script_was_started(serve_script: Describe, home: Path) -> None:
    (home / "scripts").mkdir()
    shutil.copy(SCRIPTS / "shades.py", home / "scripts")
    (home / "scripts" / "channels.py").write_text("def names(text):\n    return text.split()\n")
    (home / "classes.txt").write_text("blue green red")
    server = serve_script(
        "shades", {"shades": {"local_service_conf": local("nowhere")}},
        "--config=config.yml", "-o", "op.shades.local_service_conf.model_config=shades", "op.shades.concurrency=2",
        script=home / "scripts" / "shades.py",
    )  # fmt: skip
    pictures = {}
    for i, colour in enumerate([(200, 10, 10), (10, 10, 200)]):
        _, data = cv2.imencode(".png", np.full((4, 6, 3), colour, np.uint8))
        pictures[f"image_{i}"] = base64.b64encode(data.tobytes()).decode()
    assert server.predict("shades", files=form(**pictures)).json() == {"label": "['blue', 'red']"}
    assert server.describe("shades")["minWorkers"] == 2, "concurrency"
    refused = server.predict("shades", files=form(image=base64.b64encode(b"a cat").decode()))
    assert refused.status_code == 400
    assert "expected a JPEG, PNG, WebP or BMP image, got 5 bytes" in refused.text


def test_an_encrypted_model_has_its_key_in_a_file(serve_script: Describe, home: Path) -> None:
    (home / "hidden").mkdir()
    shutil.copy(home / "uci_housing_model" / CONF, home / "hidden")
    with encryption.new_key(home / "key") as key:
        for path in (home / "uci_housing_model").glob("model.*"):
            kind = encryption.ENCRYPTED_PARAMS if path.suffix == ".pdiparams" else encryption.ENCRYPTED_MODEL
            with path.open("rb") as plain, (home / "hidden" / kind).open("wb") as hidden:
                encryption.encrypt(plain, hidden, key)
    op = {"use_encryption_model": True, "encryption_key": "key", "local_service_conf": local("hidden")}
    server = serve_script("uci", {"uci": op})
    assert server.predict("uci", files=form(x=ROW)).json() == {"price": "[[7.]]"}


def test_two_models_joined(serve_script: Describe) -> None:
    ops = {name: {"local_service_conf": local(name, fetch_list=["prediction"])} for name in ("bow", "cnn")}
    server = serve_script("ensemble", ops, "config.yml")
    request = {"key": ["words"], "value": ["good bad that"], "logid": "7"}
    answer = server.session.post(f"{server.inference}/ensemble/prediction", json=request, timeout=60).json()
    assert answer["key"] == ["prediction", "log_id"]
    assert answer["value"] == ["array([[16.5]], dtype=float32)", "array(7)"]
    assert server.describe("ensemble")["batchSize"] == 2
    refused = server.predict("ensemble", files=form(text="good"))
    assert (refused.status_code, refused.headers["x-pipeline-err-no"]) == (400, "5000")
    assert refused.text == "there are no words"


def test_ops_with_workers_of_their_own(serve_script: Describe) -> None:
    """Two Ops that take the request, one that joins them; answers and failures are as those of all Ops in a worker."""
    ops: dict[str, Any] = {name: {"local_service_conf": local(name)} for name in ("bow", "cnn")}
    ops["bow"] |= {"concurrency": 2, "retry": 2}
    ops["combine"] = {"batch_size": 3}
    server = serve_script("ensemble", ops, "config.yml")
    request = {"key": ["words"], "value": ["good bad that"], "logid": "7"}
    answer = server.session.post(f"{server.inference}/ensemble/prediction", json=request, timeout=60).json()
    assert (answer["err_no"], answer["err_msg"], answer["key"]) == (0, "", ["prediction", "log_id"])
    assert answer["value"] == ["array([[16.5]], dtype=float32)", "array(7)"]
    assert server.predict("ensemble", json={"words": "good good good"}).json()["log_id"] == "array(0)"
    refused = server.predict("ensemble", files=form(text="good"))
    assert (refused.status_code, refused.headers["x-pipeline-err-no"]) == (400, "5000")
    assert refused.text == "there are no words"
    failed = ask(server.inference, "ensemble", words="good")
    assert failed["err_no"] == 10000
    assert failed["err_msg"].startswith("the request: ValueError: cannot reshape array of size 1")
    asked = {"name": "body", "datatype": "BYTES", "shape": [1]}
    typed = [
        server.session.post(
            f"{server.inference}/v2/models/ensemble/infer", json={"inputs": [{**asked, "data": [body]}]}
        )
        for body in ('{"words": "good bad that"}', "{}")
    ]
    assert json.loads(typed[0].json()["outputs"][0]["data"][0])["prediction"] == answer["value"][0]
    assert (typed[1].status_code, "there are no words" in typed[1].text) == (400, True)
    nodes = {node["node"]: node for node in server.describe("ensemble")["nodes"]}
    assert [nodes[name]["workers"] for name in ("bow", "cnn", "combine")] == [2, 1, 1]


def test_what_passes_from_worker_to_worker_and_what_does_not(serve_script: Describe) -> None:
    """Texts, tensors of a request, the client's id, the times that it asks for; an object is refused by its name, and
    an Op that takes too long fails its request alone."""
    server = serve_script("pair", {"first": {"concurrency": 2, "timeout": 1000}})

    def asked(**request: Any) -> Any:
        return server.session.post(f"{server.inference}/pair/prediction", json=request, timeout=60).json()

    tensor = {"name": "x", "elem_type": 1, "shape": [1, 2], "float_data": [1.5, 2]}
    answer = asked(key=["text", "pipeline.profile"], value=["字", "1"], tensors=[tensor], logid="7")
    found = dict(zip(answer["key"], answer["value"], strict=True))
    assert found.pop("pipeline.profile").startswith("\nPROFILE")
    assert found == {"text": "str 字", "x": "ndarray [[2.5 3. ]]", "from": "first 7"}
    refused = asked(key=["text"], value=["object"])
    assert refused["err_no"] == 7000
    assert refused["err_msg"].startswith('[first] postprocess: "text" is object, or has one in it: the next Op runs in')
    large = "字" * 200_000
    assert asked(key=["text"], value=[large])["value"] == [f"str {large}", "first 0"], "in a file"
    late = asked(key=["text"], value=["slow"])
    assert (late["err_no"], late["err_msg"].startswith("node first: ")) == (6000, True), late
    assert asked(key=["text"], value=["on"])["value"] == ["str on", "first 0"]


def test_a_batch_is_one_run_and_a_failure_is_one_requests_own(serve_script: Describe) -> None:
    op = {"batch_size": 8, "auto_batching_timeout": 600_000}
    server = serve_script("together", {"together": {**op, "local_service_conf": local("uci_housing_model")}})
    texts = ["1", "-1", "2", "3;44", "odd", "past", "five", "66"]
    one, negative, two, batches, odd, past, five, rows = at_once(server, "together", texts)
    assert [arrays(answer["price"]) for answer in (one, two, rows)] == [[[13.5]], [[26.5]], [[78.5], [78.5]]]
    assert arrays(one["together"]) == [[4.0]], "of four rows, two of which are one request's"
    assert (negative["err_no"], negative["err_msg"]) == (51, "-1 is negative")
    assert ast.literal_eval(batches["prices"]) == [[39.5], [52.5, 52.5]]
    assert odd["err_no"] == 5000
    assert 'no input "y"' in odd["err_msg"]
    assert past == {"price": "array([0.])"}
    assert five["err_no"] == 10000
    assert five["err_msg"].startswith("[together] preprocess: ValueError: ")


def test_requests_share_no_run_of_a_model_whose_outputs_are_no_rows(serve_script: Describe) -> None:
    op = {"batch_size": 2, "auto_batching_timeout": 600_000, "local_service_conf": local("total")}
    server = serve_script("total", {"total": op})
    answers = at_once(server, "total", ["1", "2"])
    assert [arrays(answer["total"]) for answer in answers] == [[2.0], [4.0]]


def test_a_worker_says_why_a_script_gives_no_service(lent: Lent, serve_script: Describe, home: Path) -> None:
    script = home / "uci.py"
    shutil.copy(SCRIPTS / "uci.py", script)
    serve_script("uci", {"uci": {"local_service_conf": local("uci_housing_model")}}, script=script)
    text = script.read_text()
    for changed, said in [
        (text.replace("uci_service.run_service()", ""), "ended without run_service()"),
        (text.replace("args = ", "raise SystemExit(3)\nargs = "), "ended with 3 before run_service()"),
        (text.replace("import argparse", "import argparze"), "No module named 'argparze'"),
        (text.replace('name="uci", input_ops', 'name="ucy", input_ops'), "there is no such Op; did you mean ucy"),
    ]:  # fmt: skip
        script.write_text(changed)
        answer = lent.server.manage("POST", "/models?url=uci&model_name=again&synchronous=true&initial_workers=1")
        assert not answer.ok
        assert said in answer.json()["message"]


# The command


def started(home: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**clean_environment(), **environment},
        )  # fmt: skip


def test_a_script_is_started_as_it_was_until_serve_stops_it(home: Path) -> None:
    """The process becomes the server, without what the script has imported, on the ports of config.yml."""
    http, rpc, management = free_ports(3)
    ops = {"uci": {"concurrency": 2, "retry": 3, "local_service_conf": local("uci_housing_model", workdir="here")}}
    settings = {"http_port": http, "rpc_port": rpc, "worker_num": 4, "dag": {"is_thread_op": False}, "op": ops}
    (home / "config.yml").write_text(yaml.safe_dump(settings))
    shutil.copy(SCRIPTS / "uci.py", home)
    environment = {"PD_MANAGEMENT_ADDRESS": f"http://localhost:{management}"}
    server = started(home, "uci.py", "config.yml", **environment)
    try:

        def ready() -> bool:
            said = (home / "log").read_text()
            assert server.poll() is None, said
            return "Model server started." in said

        eventually(ready, 120)
        said = (home / "log").read_text()
        assert (
            "config.yml: keys without effect here (docs/web-service.md): dag.is_thread_op,"
            " op.uci.local_service_conf.workdir, worker_num\n"
        ) in said
        assert "uci/1.0, 2 workers" in said
        assert f"127.0.0.1:{rpc}" in said
        said_at = {"err_no": 0, "err_msg": "", "key": ["price"], "value": ["[[7.]]"]}
        assert ask(f"http://localhost:{http}", "uci", x=ROW) == said_at
        with grpc.insecure_channel(f"localhost:{rpc}") as channel:
            call: Any = channel.unary_unary(
                f"/{PIPELINE}.PipelineService/inference",
                request_serializer=Request.SerializeToString,
                response_deserializer=Response.FromString,
            )
            response = call(Request(name="uci", key=["x"], value=[ROW]), timeout=60)
        assert (list(response.key), list(response.value)) == (["price"], ["[[7.]]"])
        assert "libpaddle" not in Path(f"/proc/{server.pid}/maps").read_text()
        stopped = started(home, "-m", "pdserver.serve", "stop", **environment)
        assert (stopped.wait(60), server.wait(1)) == (0, 0)
        assert f"{http}, pid {server.pid}\npdserver has stopped." in (home / "log").read_text()
        assert not list(Path(os.environ["XDG_STATE_HOME"], "pdserver").glob(f"serve-*-{http}")), "nothing is left"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"http_port": 80}, "config.yml: http_port=80: expected a port from 1024 to 65535"),
        (
            {"op": {"uci": {"local_service_conf": {"model_config": "nowhere"}}}},
            "op.uci.local_service_conf.model_config: nowhere: no",
        ),
        (None, "config.yml: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_config_ends_the_script(home: Path, change: dict[str, Any] | None, said: str) -> None:
    if change is not None:
        (home / "config.yml").write_text(yaml.safe_dump({"http_port": 18082, "op": {}, **change}))
    assert started(home, str(SCRIPTS / "uci.py")).wait(60) == 2
    assert f"pdserver: {said}" in (home / "log").read_text()


def test_a_service_that_cannot_be_loaded_ends_the_server(home: Path) -> None:
    http, management = free_ports(2)
    ops = {"uci": {"local_service_conf": local("uci_housing_model")}}
    (home / "config.yml").write_text(yaml.safe_dump({"http_port": http, "op": ops}))
    script = (SCRIPTS / "uci.py").read_text()
    (home / "uci.py").write_text(
        script.replace("def init_op(self) -> None:", "def init_op(self) -> None:\n        open('words')")
    )
    ended = started(home, "uci.py", PD_MANAGEMENT_ADDRESS=f"http://localhost:{management}")
    assert ended.wait(120) == 1
    said = (home / "log").read_text()
    assert "pdserver: nothing is served, so the server ends: uci/1.0: " in said
    assert "No such file or directory: 'words'" in said
    assert "Model server started." not in said


def test_the_import_takes_no_paddle_along() -> None:
    run_script(
        "-c", "import sys, pdserver.pipeline_service, pdserver.local_predict; assert 'paddle' not in sys.modules"
    )


# config.yml


def config(text: str, /, **ops: dict[str, Any]) -> Any:
    """What a config.yml says of a service with these Ops, each with what its constructor was given."""
    return read(yaml.safe_load(text), ops or {"uci": {}}, "config.yml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither http_port nor rpc_port: say where to serve"),
        ("- 1", "expected keys and values, found [1]"),
        ("http_prot: 18082", "http_prot: unknown key; did you mean http_port?"),
        ("http_port: x", "http_port=x: expected a port"),
        ("{http_port: 18082, dag: {is_tread_op: true}}", "dag.is_tread_op: unknown key; did you mean is_thread_op?"),
        ("{http_port: 18082, dag: {channel_recv_frist_arrive: true}}", "an Op waits for all"),
        ("{http_port: 18082, op: {uvi: {}}}", "op.uvi: there is no such Op; did you mean uci?; there are uci"),
        ("{http_port: 18082, op: {uci: 1}}", "op.uci: expected keys and values, found 1"),
        ("{http_port: 18082, op: {uci: {batchsize: 1}}}", "op.uci.batchsize: unknown key; did you mean batch_size?"),
        ("{http_port: 18082, op: {uci: {batch_size: 0}}}", "op.uci.batch_size=0: expected a whole number of requests"),
        ("{http_port: 18082, op: {uci: {server_endpoints: ['h:1']}}}", "local_predictor, model_config: FOLDER"),
        ("{http_port: 18082, op: {uci: {local_service_conf: {model_conf: x}}}}", "did you mean model_config?"),
        ("{http_port: 18082, op: {uci: {local_service_conf: {device_type: 4}}}}", "Kunlun's devices are not served"),
        ("{http_port: 18082, op: {uci: {local_service_conf: {devices: gpu}}}}", "devices=gpu: expected the numbers"),
        ("{http_port: 18082, op: {uci: {local_service_conf: {precision: fp8}}}}", "expected fp32, fp16, int8 or bf16"),
        ("{http_port: 18082, op: {uci: {fetch_list: [1]}}}", 'fetch_list=[1]: expected a list of names'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_config_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(text)
    assert said in str(error.value)


def test_a_config_becomes_the_servers_settings() -> None:
    text = """
        rpc_port: 9998
        worker_num: 20
        dag: {tracer: {interval_s: 10}, retry: 1, enable_prometheus: true, prometheus_port: 19393}
        op:
          det:
            concurrency: 2
            timeout: 3000
            local_service_conf:
              {model_config: det, device_type: 1, devices: "0,1", thread_num: 4, use_mkldnn: false, mem_optim: false}
          rec:
            concurrency: 6
            batch_size: 8
            auto_batching_timeout: 20
            timeout: 1500
            local_service_conf: {client_type: brpc, model_config: rec, devices: "0,1", precision: fp16, ir_optim: false}
          text: {}
    """
    found = config(text, det={}, rec={"concurrency": 3, "fetch_list": ["feature"]}, text={})
    assert (found.http_port, found.rpc_port, found.metrics_port, found.workers) == (None, 9998, 19393, 3)
    assert found.ops["rec"].fetch_list == ("feature",)
    assert found.ops["text"].model is None
    assert found.warnings == (
        "config.yml: keys without effect here (docs/web-service.md): dag.tracer, op.rec.local_service_conf.precision,"
        " worker_num",
        "config.yml: op.rec.local_service_conf.client_type=brpc: the model runs in the worker (local_predictor)",
    )
    assert settings.of_model(found) == {
        "minWorkers": 3,
        "batchSize": 8,
        "maxBatchDelay": 20,
        "deviceType": "gpu",
        "deviceIds": [0, 1],
        "responseTimeout": 4.5,
        "predictor": {"threads": 4},
    }
    det = settings.predictor(found.ops["det"].model, {})
    assert (det.threads, det.onednn, det.memory_optim, det.ir_optim) == (4, False, False, True)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            "http_port: 18082",
            {
                "inference_address": "http://localhost:18082",
                "management_address": "http://localhost:38082",
                "enable_grpc": "false",
                "enable_metrics_api": "false",
            },
        ),
        (
            "{rpc_port: 9998, dag: {enable_prometheus: true}}",
            {
                "inference_address": "http://localhost:0",
                "management_address": "http://localhost:29998",
                "enable_grpc": "true",
                "grpc_inference_port": "9998",
                "grpc_management_port": "0",
                "enable_metrics_api": "true",
                "metrics_address": "http://localhost:19393",
            },
        ),
    ],
)
def test_a_configs_ports_are_the_servers(text: str, keys: dict[str, str]) -> None:
    service: Any = SimpleNamespace(config=config(text))
    assert launch.keys(service, load_config({}, {}, keys=frozenset())) == keys


def test_each_worker_with_all_ops_is_what_is_always_so() -> None:
    found = config("{http_port: 18082, worker_num: 5, build_dag_each_worker: true, op: {uci: {concurrency: 2}}}")
    assert (found.workers, found.warnings) == (5, ())


def test_ops_have_workers_of_their_own_if_they_want_different_numbers_or_gpus() -> None:
    def is_separate(text: str, *, jumps: bool = False) -> bool:
        return settings.is_separate(config(f"{{http_port: 18082, {text}}}", a={}, b={}), jumps=jumps)

    gpus = ", ".join(
        f"{name}: {{local_service_conf: {{model_config: m, devices: '{i}'}}}}" for i, name in enumerate("ab")
    )
    assert not is_separate("op: {a: {concurrency: 2}, b: {concurrency: 2}}")
    assert is_separate("op: {a: {concurrency: 2}}")
    assert is_separate(f"op: {{{gpus}}}")
    assert not is_separate("build_dag_each_worker: true, op: {a: {concurrency: 2}}")
    assert not is_separate("op: {a: {concurrency: 2}}", jumps=True)
    of_op = settings.of_op(config(f"{{http_port: 18082, op: {{{gpus}}}}}", a={"timeout": 500}, b={}).ops["a"])
    assert of_op == {
        "batchSize": 1,
        "maxBatchDelay": 0,
        "minWorkers": 1,
        "deviceType": "gpu",
        "deviceIds": [0],
        "responseTimeout": 0.5,
    }


def test_ops_of_one_worker_share_its_gpu() -> None:
    text = "{http_port: 18082, op: {a: {local_service_conf: {model_config: a, devices: '0'}}," \
        " b: {local_service_conf: {model_config: b, devices: '1'}}}}"  # fmt: skip
    with pytest.raises(ConfigError, match=r"op\.a: 0; op\.b: 1: here, a worker runs all Ops"):
        settings.of_model(config(text, a={}, b={}))


def test_tensorrt_takes_an_ops_shapes() -> None:
    keys = ModelKeys(device_type=2, precision="fp16", min_subgraph_size=5)
    shapes = {f"{which}_input_shape": {"x": [1, size]} for which, size in (("min", 1), ("max", 9), ("opt", 4))}
    found = settings.predictor(keys, shapes).tensorrt
    assert found is not None
    assert (found.precision, found.min_graph_size, found.max_shapes) == ("float16", 5, {"x": [1, 9]})
    with pytest.raises(ConfigError, match="opt_input_shape missing"):
        settings.predictor(keys, {name: shape for name, shape in shapes.items() if "opt" not in name})


def test_options_of_the_command_replace_values(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("op: {det: {concurrency: 1, local_service_conf: {devices: ''}}}")
    options = ["op.det.concurrency=4", "op.det.local_service_conf.devices=0,1", "dag.is_thread_op=True", "http_port=99"]
    found = ArgsParser().parse_args(["--config", str(path), "-o", *options])
    assert found.conf_dict == {
        "op": {"det": {"concurrency": 4, "local_service_conf": {"devices": "0,1"}}},
        "dag": {"is_thread_op": True},
        "http_port": 99,
    }


@pytest.mark.parametrize("options", [["--config", "nowhere.yml"], [], ["-c", "/dev/null", "-o", "x"]])
def test_wrong_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ArgsParser().parse_args(options)
    assert "error: " in capsys.readouterr().err


# The graph


def two(first: list[Op], second: list[Op]) -> Op:
    return Op("b", [Op("a", first), *second])


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lambda: None, "get_pipeline_response returned NoneType"),
        (RequestOp, "returned the read_op"),
        (lambda: Op("a"), "Op a: no input_ops"),
        (lambda: two([RequestOp()], [RequestOp()]), "several Ops take the request apart"),
        (lambda: Op("a", [Op("a", [RequestOp()])]), "two Ops are called a"),
        (lambda: two([read := RequestOp()], [read]), "Op b: several input_ops: override preprocess"),
        (lambda: Op("a", ["b"]), "Op a: input_ops: expected Ops, found str"),  # type: ignore[list-item]
        (lambda: Op("a", [RequestOp()], jump_to_ops=[Op("b")]), "Op a: jump_to_ops: b is none of the service's Ops: a"),
        (lambda: Op("a", [], jump_to_ops=["b"]), "Op a: jump_to_ops: expected Ops, found str"),  # type: ignore[list-item]
        (lambda: Op("a", [], local_service_handler=1), "op.a.local_service_conf.model_config"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_graph_is_said(last: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        order(last())
    assert said in str(error.value)


def test_the_page_has_all_keys() -> None:
    page = (ROOT / "docs" / "web-service.md").read_text()
    for kind in (ServerKeys, DagKeys, OpKeys, ModelKeys):
        for key in {*table(kind, str), *NO_EFFECT[kind]} - {"op", "dag", "local_service_conf"}:
            assert f"`{key}`" in page or f".{key}`" in page, key
