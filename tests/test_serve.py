"""`pdserver serve`: Paddle Serving's command line, its folders as they are, and several models in a row."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pdarchiver.convert import ConvertOptions, convert
from pdserver.configuration.layers import parse_model_config
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.serve import flags, settings
from tests.conftest import Lent, MadeOnce, run_script
from tests.running import PDSERVER, START_SECONDS, clean_environment, eventually, free_ports, lives

MAKE = """
import sys, numpy as np, paddle
from paddle.static import InputSpec
from pathlib import Path
from paddle.static import io as static_io
root = Path(sys.argv[1])

def linear(weights, bias):
    layer = paddle.nn.Linear(*weights.shape)
    layer.weight.set_value(weights.astype("float32"))
    layer.bias.set_value(np.full(1, bias, "float32"))
    layer.eval()
    return layer

for name, layer, spec in [("price", linear(np.arange(13).reshape(13, 1), 1), InputSpec([None, 13], "float32", "x")),
                          ("tax", linear(np.full((1, 1), 0.5), 0), InputSpec([None, 1], "float32", "y"))]:
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=[spec]), str(root / name))

paddle.enable_static()
executor = paddle.static.Executor()
program, _, outputs = paddle.static.load_inference_model(str(root / "price"), executor)
(root / "parameters").mkdir()
static_io.save_vars(executor, str(root / "parameters"), program, predicate=static_io.is_persistable)
(root / "price.output").write_text(outputs[0].name)
_, _, outputs = paddle.static.load_inference_model(str(root / "tax"), executor)
(root / "tax.output").write_text(outputs[0].name)
"""
ROW = [0.5] * 13
PRICE = 0.5 * sum(range(13)) + 1


@pytest.fixture(scope="module")
def made(made_once: MadeOnce) -> Path:
    """Two models in the old form, `price` (13 floats → 1) and `tax` (1 → 1)."""
    return made_once("serving", lambda folder: run_script("-c", MAKE, folder, FLAGS_enable_pir_api="0"))


def conf(name: str, alias: str, length: int, output: str, output_alias: str) -> str:
    """As Paddle Serving's converter writes it."""
    variable = '{kind}_var {{\n  name: "{name}"\n  alias_name: "{alias}"\n  is_lod_tensor: false\n'
    variable += "  {kind}_type: 1\n  shape: {length}\n}}\n"
    return variable.format(kind="feed", name=name, alias=alias, length=length) + variable.format(
        kind="fetch", name=output, alias=output_alias, length=1
    )


def serving_folder(made: Path, folder: Path, model: str = "price", **aliases: str) -> Path:
    """A folder as `paddle_serving_client.convert` writes it; each parameter of `price` has its own file."""
    folder.mkdir(parents=True)
    source, length = {"price": ("x", 13), "tax": ("y", 1)}[model]
    shutil.copy(made / f"{model}.pdmodel", folder / "__model__")
    if model == "price":
        for file in (made / "parameters").iterdir():
            shutil.copy(file, folder)
    else:
        shutil.copy(made / f"{model}.pdiparams", folder / "__params__")
    output = (made / f"{model}.output").read_text()
    text = conf(source, aliases.get("feed", source), length, output, aliases.get("fetch", output))
    (folder / "serving_server_conf.prototxt").write_text(text)
    (folder / "fluid_time_file").touch()
    return folder


class Serving:
    """A server that `pdserver serve` runs in a folder of its own."""

    def __init__(self, folder: Path, arguments: list[str], module: bool, environment: dict[str, str]) -> None:
        folder.mkdir()
        [self.port] = free_ports(1, foreign=True)
        self.output = folder / "output.log"
        how = [sys.executable, "-m", "pdserver.serve"] if module else [PDSERVER, "serve"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*how, *arguments, "--port", str(self.port)],
                cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env=clean_environment() | environment,
            )  # fmt: skip
        eventually(self._started, START_SECONDS)

    def _started(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "Model server started." in self.said()

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def predict(self, name: str, data: Any) -> Any:
        answer = requests.post(f"http://127.0.0.1:{self.port}/predictions/{name}", json=data, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def start(*arguments: str, module: bool = False, **environment: str) -> Serving:
            server = Serving(
                tmp_path / f"there{len(list(tmp_path.glob('there*')))}", list(arguments), module, environment
            )
            stack.callback(server.process.wait, 40)
            stack.callback(server.process.terminate)
            return server

        yield start


def serve(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PDSERVER, "serve", *arguments],
        cwd=folder, env={**clean_environment(), **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def read_only(folder: Path) -> dict[str, float]:
    """Forbid writing to the folder, and return what is in it."""
    folder.chmod(0o555)
    return {path.name: path.stat().st_mtime for path in folder.iterdir()}


def test_the_tutorials_command_serves_its_folder_until_it_is_stopped(made: Path, tmp_path: Path, serving: Any) -> None:
    """With aliases, and with each parameter in a file of its own, in a folder that nobody may write to."""
    folder = serving_folder(made, tmp_path / "uci_housing_model", feed="features", fetch="price")
    before = read_only(folder)
    server = serving(
        *("--model", str(folder), "--thread", "10", "--name", "uci", "--use_calib", "--op", "GeneralInferOp"),
        *("--request_cache_size", "1000000", "--precision", "fp16", "--mem_optim_off", "--cpu_math_thread_num", "1"),
        module=True,
    )
    said = server.said()
    assert f"http://127.0.0.1:{server.port}" in said
    assert f"--thread 10; this machine has {len(os.sched_getaffinity(0))} CPU cores" in said
    [warning] = [line for line in said.splitlines() if line.startswith("pdserver: warning")]
    assert warning == ("pdserver: warning: without a meaning here, ignored: --use_calib, --op, --precision fp16")
    assert server.predict("uci", {"features": ROW}) == {"price": [PRICE]}
    assert server.predict("uci", {"features": [ROW, ROW]}) == {"price": [[PRICE], [PRICE]]}
    feed = {"name": "x", "alias_name": "features", "elem_type": 1, "shape": [1, 13], "float_data": ROW}
    asked = {"tensor": [feed], "fetch_var_names": ["price"], "log_id": 0}
    theirs = requests.post(f"http://127.0.0.1:{server.port}/GeneralModelService/inference", json=asked, timeout=60)
    assert theirs.json()["outputs"][0]["tensor"][0]["float_data"] == [PRICE], theirs.text
    assert {path.name: path.stat().st_mtime for path in folder.iterdir()} == before
    again = serve(tmp_path, "--model", str(folder), "--port", str(server.port))
    assert (again.returncode, "pdserver serve stop --port" in again.stderr) == (1, True)
    assert server.predict("uci", {"features": ROW}) == {"price": [PRICE]}
    stopped = serve(tmp_path, "stop", "--port", str(server.port))
    assert (stopped.returncode, "has stopped" in stopped.stdout) == (0, True), stopped.stderr
    assert server.process.wait(60) == 0
    nothing = serve(tmp_path, "stop", "--port", str(server.port))
    assert (nothing.returncode, "no server that serve or a web service has started" in nothing.stdout) == (0, True)
    assert not list(Path(os.environ["XDG_STATE_HOME"], "pdserver").glob(f"serve-*-{server.port}")), "nothing is left"


def test_models_in_a_row_are_one_and_all_servers_can_be_killed(made: Path, tmp_path: Path, serving: Any) -> None:
    first = serving_folder(made, tmp_path / "price", fetch="money")
    second = serving_folder(made, tmp_path / "tax", "tax", feed="money", fetch="tax")
    server = serving("--model", str(first), str(second), "--workdir", str(tmp_path / "work"), "--batch_infer_size", "4")
    assert server.predict("price-tax", {"x": ROW}) == {"tax": [PRICE / 2]}
    assert server.predict("price-tax", [ROW, ROW, ROW]) == {"tax": [[PRICE / 2]] * 3}
    refused = requests.post(f"http://127.0.0.1:{server.port}/predictions/price-tax", json={"money": [1]}, timeout=60)
    assert (refused.status_code, 'inputs are "x"' in refused.json()["message"]) == (400, True), refused.text
    assert (tmp_path / f"work_{server.port}").is_dir()
    family = psutil.Process(server.process.pid).children(recursive=True)
    killed = serve(tmp_path, "kill")
    assert (killed.returncode, "was killed" in killed.stdout) == (0, True), killed.stderr
    assert server.process.wait(60) == -signal.SIGKILL
    assert not any(map(lives, family))


@pytest.mark.parametrize("by", ["the environment", "a client"])
def test_an_encrypted_folder_needs_its_key_alone(by: str, made: Path, tmp_path: Path, serving: Any) -> None:
    folder, key = tmp_path / "hidden", tmp_path / "key"
    convert(
        ConvertOptions(
            dirname=made, model_filename="price.pdmodel", params_filename="price.pdiparams",
            serving_server=folder, serving_client=tmp_path / "client", fetch_alias_names=["price"], key_file=key,
        )
    )  # fmt: skip
    secret = base64.b64encode(key.read_bytes()).decode()
    given = {"PD_MODEL_KEY": secret} if by == "the environment" else {}
    server = serving("--model", str(folder), "--use_encryption_model", **given)
    if by == "a client":
        brought = requests.post(f"http://127.0.0.1:{server.port}", json.dumps({"key": secret}), timeout=60)
        assert brought.json() == {"endpoint_list": [server.port]}
    assert server.predict("hidden", {"x": ROW}) == {"price": [PRICE]}
    assert "warning" not in server.said()
    assert secret not in server.said()


def test_a_model_that_cannot_be_loaded_ends_the_server(made: Path, tmp_path: Path) -> None:
    folder = serving_folder(made, tmp_path / "broken", "tax")
    (folder / "model-config.yaml").write_text("startupTimeout: 0\n")
    [port] = free_ports(1, foreign=True)
    failed = serve(tmp_path, "--model", str(folder), "--port", str(port))
    assert failed.returncode == 1
    assert "pdserver: nothing is served, so the server ends: broken: " in failed.stderr
    assert "startupTimeout=0: expected a number of seconds" in failed.stderr
    assert "Model server started." not in failed.stdout
    assert not list(Path(os.environ["XDG_STATE_HOME"], "pdserver").glob(f"serve-*-{port}")), "nothing is left"


def test_models_that_do_not_fit_are_an_error_with_both_sides(made: Path, tmp_path: Path) -> None:
    first = serving_folder(made, tmp_path / "price", fetch="money")
    second = serving_folder(made, tmp_path / "tax", "tax", fetch="tax")
    failed = serve(tmp_path, "--model", str(first), str(second))
    assert (failed.returncode, failed.stderr.splitlines()) == (
        2,
        [
            f"pdserver: {second} can't follow {first}: it takes y float32[-1, 1], and {first} gives money "
            "float32[-1, 1]: in the conf of one of them (alias_name), give equal names to what fits"
        ],
    )


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], {"minWorkers": 4, "batchSize": 32}),
        (["--thread", "10"], {"minWorkers": 8, "batchSize": 32}),
        (["--thread", "10", "--cpu_math_thread_num", "3"], {"minWorkers": 2, "predictor": {"threads": 3}}),
        (["--runtime_thread_num", "2", "--batch_infer_size", "64"], {"minWorkers": 2, "batchSize": 64}),
        (["--gpu_ids", "0,1", "2"], {"minWorkers": 3, "deviceType": "gpu", "deviceIds": [0, 1, 2]}),
        (["--gpu_ids", "-1", "--use_mkl"], {"minWorkers": 4, "predictor": {"onednn": True}}),
        (["--precision", "INT8"], {"predictor": {"onednn": True, "precision": "int8"}}),
        (["--mem_optim_off", "--gpu_memory_mb", "7"], {"predictor": {"memory_optim": False, "gpu_memory_mb": 7}}),
        (["--request_cache_size", "10"], {"responseCache": True}),
        (
            [
                *("--gpu_ids", "0", "--runtime_thread_num", "2", "--use_trt", "--precision", "fp16", "--ir_optim"),
                *("--min_subgraph_size", "5", "--trt_workspace_size", "9", "--batch_infer_size", "16"),
            ],
            {
                "minWorkers": 2,
                "predictor": {
                    "tensorrt": {
                        "precision": "float16", "min_graph_size": 5, "workspace_bytes": 9, "max_batch_size": 16
                    }
                },
            },
        ),
    ],
)  # fmt: skip
def test_flags_become_settings_of_the_model(arguments: list[str], config: dict[str, Any]) -> None:
    found = flags.parser().parse_args(["--model", "m", *arguments])
    made = settings.running(found, cores=8).config
    assert made == made | config
    parsed, _ = parse_model_config(json.dumps(made).encode(), "flags")
    assert parsed["min_workers"] == made["minWorkers"]
    assert sections.read(PredictorSettings, "predictor", made)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    """Elsewhere, it would be slower than float32: a warning says that it is ignored."""
    monkeypatch.setattr(settings, "has_instructions", lambda precision: able)
    found = flags.parser().parse_args(["--model", "m", "--precision", "bf16"])
    predictor = settings.running(found, cores=8).config.get("predictor", {})
    assert predictor == ({"onednn": True, "precision": "bfloat16"} if able else {})
    assert list(settings.lost_precision(found)) == ([] if able else ["--precision bf16"])


@pytest.mark.parametrize(
    ("arguments", "environ", "keys"),
    [
        (
            [], {},
            {"inference_address": "http://localhost:9393", "management_address": "http://localhost:29393",
             "enable_metrics_api": "false", "max_request_size": "536870912", "grpc_inference_port": "0"},
        ),
        (["--port", "60000"], {}, {"inference_address": "http://localhost:60000",
                                   "management_address": "http://localhost:40000"}),
        (
            ["--port", "5"], {"PD_INFERENCE_ADDRESS": "https://0.0.0.0:1", "PD_MANAGEMENT_ADDRESS": "http://[::1]:2"},
            {"inference_address": "https://0.0.0.0:5", "management_address": "http://[::1]:2"},
        ),
        (["--enable_prometheus"], {}, {"enable_metrics_api": "true", "metrics_address": "http://localhost:19393"}),
        (["--max_body_size", "7", "--request_cache_size", "8"], {"PD_MAX_REQUEST_SIZE": "9"},
         {"max_request_size": "7", "response_cache_bytes": "8"}),
    ],
)  # fmt: skip
def test_flags_become_keys_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environ: dict[str, str], keys: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = flags.parser().parse_args(["--model", "m", *arguments])
    said = load_config({}, environ, keys=settings.READ_KEYS)
    made = settings.keys(found, found.port or flags.DEFAULT_PORT, said)
    assert made == made | keys
    assert made.keys() <= KEYS.keys()


def test_what_the_operators_configuration_says_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"PD_MAX_REQUEST_SIZE": "9", "PD_ENABLE_METRICS_API": "true", "PD_GRPC_INFERENCE_PORT": "7070"}
    said = load_config({}, environ, keys=settings.READ_KEYS)
    made = settings.keys(flags.parser().parse_args(["--model", "m"]), 9393, said)
    assert not made.keys() & {"max_request_size", "enable_metrics_api", "grpc_inference_port"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model: name the folder of the model to serve"),
        (["--model", "nowhere"], "--model nowhere: no such folder"),
        (["--model", "."], "--model .: no model in this folder; expected inference.json"),
        (["--model", "client"], "--model client: no model in this folder, which is the one for clients; name"),
        (["--model", "above"], "--model above: no model in this folder; name above/serving_server, which has one"),
        (["--model", "file"], "--model file: name the folder that holds the model's files"),
        (["--model", ".", "--thred", "3"], "--thred: unknown flag, did you mean --thread?"),
        (["--model", ".", "--gpu-id", "0"], "--gpu-id: unknown flag, did you mean --gpu_ids?"),
        (["--model", ".", "--thread", "many"], "argument --thread: many: expected a whole number from 1 to 1024"),
        (["--model", ".", "--use_trt"], "--use_trt: TensorRT runs on GPUs: name them with --gpu_ids"),
        (["--model", ".", "--gpu_ids", "a"], "--gpu_ids a: expected numbers of GPUs"),
        (["--model", ".", "--name", "a b"], "--name: model name 'a b': must start with a letter"),
        (["restart"], "invalid choice: 'restart'"),
    ],
)
def test_wrong_arguments_are_said_with_the_fix(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "serving_client_conf.prototxt").touch()
    (tmp_path / "above" / "serving_server").mkdir(parents=True)
    (tmp_path / "above" / "serving_server" / "serving_server_conf.prototxt").touch()
    (tmp_path / "file").touch()
    failed = serve(tmp_path, *arguments)
    assert failed.returncode == 2
    assert words in failed.stderr
    assert not (tmp_path / "logs").exists()


def test_help_says_where_it_listens_and_what_has_no_effect(tmp_path: Path) -> None:
    said = serve(tmp_path, "--help").stdout
    for words in ("inference_address", "listened on all addresses", "--product_name", "--runtime_thread_num"):
        assert words in said


@pytest.mark.parametrize("form", ["serving", "inference", "scattered"])
def test_a_folder_of_the_store_is_served_as_it_is(made: Path, tmp_path: Path, lent: Lent, form: str) -> None:
    folder = tmp_path / "uci-1"
    if form == "inference":
        folder.mkdir()
        for ending in (".pdmodel", ".pdiparams"):
            shutil.copy(made / f"price{ending}", folder / f"inference{ending}")
    else:
        serving_folder(made, folder, fetch="price")
        if form == "serving":
            for file in (made / "parameters").iterdir():
                (folder / file.name).unlink()
            shutil.copy(made / "price.pdiparams", folder / "params")
    output = (made / "price.output").read_text() if form == "inference" else "price"
    placed = lent.store / "uci-1"
    shutil.copytree(folder, placed)
    before = read_only(placed)
    try:
        answer = lent.server.manage("POST", "/models?url=uci-1&synchronous=true&initial_workers=1")
        assert answer.status_code == 200, answer.text
        assert lent.server.predict("uci-1", json={"x": ROW}).json() == {output: [PRICE]}
        described = lent.server.describe("uci-1")
        assert (described["modelVersion"], described["batchSize"]) == ("1.0", 32)
        assert {path.name: path.stat().st_mtime for path in placed.iterdir()} == before
        outside = lent.server.manage("POST", f"/models?url={folder}")
        assert outside.status_code == 400
    finally:
        lent.server.manage("DELETE", "/models/uci-1")
        placed.chmod(0o755)
        shutil.rmtree(placed)


def test_what_is_wrong_with_a_folder_of_the_store_is_said(made: Path, lent: Lent) -> None:
    folder = serving_folder(made, lent.store / "uci")
    (folder / "serving_server_conf.prototxt").write_text(conf("x", "x", 14, "y", "y"))
    try:
        answer = lent.server.manage("POST", "/models?url=uci")
        assert answer.status_code == 400
        assert "the model has no 'y'" in answer.text
        assert str(lent.store) not in answer.text
    finally:
        shutil.rmtree(folder)


def test_doctor_predicts_and_says_what_is_wrong(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in clean_environment().items() if "proxy" not in name.lower()},
        **{f"PD_{key}": f"http://localhost:{port}" for key, port in zip(
            ("INFERENCE_ADDRESS", "MANAGEMENT_ADDRESS", "METRICS_ADDRESS"), free_ports(3), strict=True)},
        "PD_ENABLE_GRPC": "false",
    }  # fmt: skip

    def doctor(*arguments: str, **more: str) -> tuple[int, Any]:
        done = subprocess.run(
            [PDSERVER, *arguments], cwd=tmp_path, env=environment | more, capture_output=True, text=True, timeout=300
        )
        return done.returncode, json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    status, report = doctor("doctor", "--json")
    assert (status, report["ok"]) == (0, True), report
    found = {finding["name"]: finding["value"] for finding in report["findings"]}
    assert found["prediction"].startswith("right, in ")
    assert found["paddle"].startswith(metadata.version("paddlepaddle"))
    assert f"openvino {metadata.version('openvino')}" in found["other engines"]
    (tmp_path / "paddle.py").write_text("raise ModuleNotFoundError('no', name='paddle')")
    status, said = doctor("doctor", http_proxy="http://proxy:3128", PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "wrong: pip install 'pdserver[cpu]'" in said
    assert "export no_proxy=localhost,127.0.0.1" in said
    status, said = doctor("serve", "check", "--port", "9393", PYTHONPATH=str(tmp_path), no_proxy="localhost,127.0.0.1")
    assert (status, "port 9393" in said) == (1, True)
