"""TensorFlow Serving's command line: what its flags set, and what is refused before anything is started."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pdserver.cli import main
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest
from pdserver.server import reports
from pdserver.tensorflow_model_server import flags, script, settings
from pdserver.tfserving.config import parsed
from tests.running import clean_environment

CERTIFICATE = r"server_cert: '-----BEGIN CERTIFICATE-----'"


@pytest.fixture(autouse=True)
def _where_nothing_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL_NAME", "MODEL_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)


def keys(*arguments: str, **environment: str) -> dict[str, str]:
    """What the arguments set where the environment says this."""
    found = flags.parser().parse_args(flags.plain(arguments))
    said = load_config({}, environment, keys=settings.READ_KEYS)
    return {**settings.keys(found, said), **settings.Places(found, said).keys(tls=bool(found.ssl_config_file))}


def test_flags_set_keys() -> None:
    given = keys(
        *("--port=9000", "--rest_api_port", "8080", "--rest_api_timeout_in_ms=60000", "--num_load_threads=2"),
        *("--model_config_file_poll_wait_seconds=5", "--file_system_poll_wait_seconds", "-1"),
        *("--enable_batching", "--enable_per_model_batching_parameters", "--batching_parameters_file=b"),
        "--enable_serialization_as_tensor_content",
        *("--allow_version_labels_for_unavailable_models", "--max_num_load_retries=0"),
        *("--load_retry_interval_micros=1500000", "--rest_api_enable_cors_support=true"),
    )
    assert given.keys() <= KEYS.keys()
    assert given == {
        "tensorflow_grpc_address": "http://localhost:9000",
        "tensorflow_address": "http://localhost:8080",
        "inference_address": "http://localhost:0",
        "management_address": "http://localhost:29000",
        "grpc_inference_port": "0",
        "grpc_management_port": "0",
        "enable_metrics_api": "false",
        "config_snapshots": "false",
        "max_request_size": "536870912",
        "default_response_timeout": "60.000",
        "tensorflow_num_load_threads": "2",
        "tensorflow_enable_batching": "true",
        "tensorflow_tensor_content": "true",
        "tensorflow_batching_parameters": "b",
        "tensorflow_enable_per_model_batching_parameters": "true",
        "tensorflow_model_config_poll": "5",
        "tensorflow_file_system_poll": "-1",
        "tensorflow_allow_version_labels_for_unavailable_models": "true",
        "tensorflow_max_num_load_retries": "0",
        "tensorflow_load_retry_interval": "1.500000",
        "cors_allowed_origin": "*",
        "cors_allowed_methods": "GET,POST,OPTIONS",
    }
    Path("b").touch()
    assert load_config({**given, "model_store": "."}, {}).tensorflow_load_retry_interval_seconds == 1.5


def test_flags_of_warm_up_and_monitoring_set_keys() -> None:
    given = keys("--enable_model_warmup=false", "--num_request_iterations_for_warmup=7")
    assert given["tensorflow_enable_model_warmup"] == "false"
    assert given["tensorflow_num_request_iterations_for_warmup"] == "7"
    monitoring = Path("monitoring")
    monitoring.write_text("prometheus_config { enable: true path: '/metrics' }")
    assert keys("--monitoring_config_file=monitoring")["tensorflow_metrics_path"] == "/metrics"
    monitoring.write_text("prometheus_config { enable: true }")
    assert keys("--monitoring_config_file=monitoring")["tensorflow_metrics_path"] == "/monitoring/prometheus/metrics"
    monitoring.write_text("prometheus_config { path: '/metrics' }")
    assert "tensorflow_metrics_path" not in keys("--monitoring_config_file=monitoring")
    monitoring.write_text("prometheus_config { enable: true path: 'metrics' }")
    with pytest.raises(ConfigError, match="config_file=monitoring: path: metrics: expected"):
        keys("--monitoring_config_file=monitoring")


def test_what_is_not_said_is_as_theirs_or_as_the_operator_says() -> None:
    assert keys()["tensorflow_grpc_address"] == "http://localhost:8500"
    assert "tensorflow_address" not in keys()
    assert keys("--port=0", "--rest_api_port=8501")["enable_grpc"] == "false"
    assert keys("--port=0", "--rest_api_port=60000")["management_address"] == "http://localhost:40000"
    assert keys("--host=0.0.0.0")["tensorflow_grpc_address"] == "http://0.0.0.0:8500"
    said = {"PD_TENSORFLOW_GRPC_ADDRESS": "https://10.0.0.1:1", "PD_MANAGEMENT_ADDRESS": "http://localhost:99"}
    given = keys("--port=9000", **said, PD_INFERENCE_ADDRESS="http://localhost:1", PD_MAX_REQUEST_SIZE="5")
    assert given["tensorflow_grpc_address"] == "https://10.0.0.1:9000"
    assert given["management_address"] == "http://localhost:99"
    assert not {"inference_address", "max_request_size"} & given.keys()
    assert keys("--ssl_config_file=x")["tensorflow_grpc_address"] == "https://localhost:8500"


@pytest.mark.parametrize(
    ("arguments", "flag", "value"),
    [
        (["--version"], "version", True),
        (["--version=true"], "version", True),
        (["--version", "1"], "version", True),
        (["--version=false"], "version", False),
        (["--noversion"], "version", False),
        (["--noenable_profiler"], "enable_profiler", False),
        (["--port=1", "--port", "2"], "port", 2),
    ],
)
def test_flags_are_written_in_several_ways(arguments: list[str], flag: str, value: object) -> None:
    assert getattr(flags.parser().parse_args(flags.plain(arguments)), flag) == value


def test_what_has_no_meaning_is_named_in_one_warning() -> None:
    found = flags.parser().parse_args(flags.plain(["--tensorflow_intra_op_parallelism=4", "--noenable_profiler"]))
    assert list(flags.without_meaning(found)) == ["--enable_profiler", "--tensorflow_intra_op_parallelism"]


@pytest.mark.parametrize(
    ("environment", "arguments", "name", "path"),
    [
        ({"MODEL_NAME": "fit"}, [], "fit", "/models/fit"),
        ({"MODEL_BASE_PATH": "/here"}, [], "model", "/here/model"),
        ({"MODEL_NAME": "fit", "MODEL_BASE_PATH": "/here"}, [], "fit", "/here/fit"),
        ({"MODEL_BASE_PATH": "/here"}, ["--model_name=given"], "given", "/here/given"),
        ({"MODEL_NAME": "fit"}, ["--model_base_path=/there"], "fit", "/there"),
        ({}, ["--model_base_path=/there"], "default", "/there"),
        ({}, ["--model_name=a", "--model_base_path=/th\u00ebre's"], "a", "/th\u00ebre's"),
    ],
)
def test_the_one_model(environment: dict[str, str], arguments: list[str], name: str, path: str) -> None:
    text = settings.one_model(flags.parser().parse_args(arguments), environment)
    [model] = parsed({Path("it"): text})[0].values()
    assert (model.name, str(model.base_path), model.labels) == (name, path, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model_base_path: name the folder of the model's versions, or --model_config_file"),
        (["--model_base_pth=/x"], "--model_base_pth: unknown flag, did you mean --model_base_path?"),
        (["--rest-api-prt=1"], "--rest-api-prt: unknown flag, did you mean --rest_api_port?"),
        (["8500"], "8500: not expected here"),
        (["--port=85000"], "--port: 85000: expected a whole number from 0 to 65535"),
        (["--port"], "--port: expected one argument"),
        (["--version=maybe"], "--version: maybe: expected true or false"),
        (["--num_load_threads=-1"], "-1: expected a whole number from 0 to 1024"),
        (["--port=0"], "--port=0 without --rest_api_port: nothing could be asked"),
        (["--rest_api_port=8500"], "--rest_api_port=8500 cannot be same as --port"),
        (["--model_base_path=s3://models"], "--model_base_path=s3://models: folders of this machine alone are read"),
        (["--model_base_path=/x", "--model_name=a b"], "--model_name: model name 'a b': must start with"),
        (["--model_config_file=/none"], "--model_config_file=/none: no such file"),
        (["--model_base_path=/x", "--batching_parameters_file=b"], "is set without --enable_batching: add that"),
        (["--model_base_path=/x", "--enable_batching", "--batching_parameters_file=b"], "=b: no such file"),
        (["--grpc_socket_path=/tmp/s"], "--grpc_socket_path=/tmp/s: unix is not served here"),
        (["--install_script=/none"], "--install_script=/none: No such file or directory"),
        (["--model_base_path=/x", "--ssl_config_file=/none"], "--ssl_config_file: /none: cannot be read"),
        (["--model_base_path=/x", "--ssl_config_file=TYPO"], 'SSLConfig has no field "server_kay"; did you mean'),
        (["--model_base_path=/x", "--ssl_config_file=EMPTY"], "server_key: expected the text of a PEM file"),
        (["--model_base_path=/x", "--ssl_config_file=VERIFY"], "custom_ca: client_verify needs it: expected the text"),
        (["--model_base_path=/x", "--monitoring_config_file=TYPO"], 'MonitoringConfig has no field "server_kay"'),
        (["--model_base_path=/x", "--monitoring_config_file=PLACE"], "expected a path such as /monitoring"),
        (["--model_base_path=/x", "--host=0.0.0.0"], "others can reach this address"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It names the flag, the value and the fix, and the status is that of a wrong use."""
    pem = "'-----BEGIN PRIVATE KEY-----'"
    Path("TYPO").write_text(f"server_kay: {pem}")
    Path("PLACE").write_text("prometheus_config { enable: true path: '/v1/models' }")
    Path("EMPTY").write_text(f"{CERTIFICATE} server_key: '/etc/key.pem'")
    Path("VERIFY").write_text(f"{CERTIFICATE} server_key: {pem} client_verify: true")
    try:
        status = main(["tensorflow-model-server", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pem"))


def test_check_config_reads_the_files() -> None:
    Path("models").mkdir()
    config = load_config({"tensorflow_model_config": "models", "log_location": "logs"}, {})
    assert list(reports.problems(config)) == [
        f"{Path('models').absolute()}: no file in it ends with .pbtxt: put model_config_list files there, or name one"
    ]
    Path("models", "a.pbtxt").write_text("model_config_list { }")
    assert not list(reports.problems(config))


def test_help_tells_of_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tensorflow-model-server", "--help"])
    said = capsys.readouterr().out
    for flag in (*flags.WITHOUT_MEANING, "model_config_file", "ssl_config_file", "host"):
        assert f"--{flag}" in re.split(r"[\s,=\[\]]+", said), nearest(flag, said.split())


def test_the_script_is_written_for_who_asks(tmp_path: Path) -> None:
    path = script.install(tmp_path)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, env=clean_environment(), check=True)
    assert "TensorFlow Serving's command line" in said.stdout
    script.install(tmp_path)  # ours is replaced
    path.write_text("#!/bin/sh\nexec theirs")
    refused = subprocess.run(
        [sys.executable, "-m", "pdserver.tensorflow_model_server", f"--install_script={tmp_path}"],
        capture_output=True, text=True, env=clean_environment(), check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "another program has this name" in refused.stderr
    assert path.read_text().endswith("theirs")
