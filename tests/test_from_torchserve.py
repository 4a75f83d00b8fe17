"""The migration guide says what is so."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pdserver.configuration.loading import load_config
from pdserver.configuration.model import ENVELOPES
from pdserver.configuration.server import KEYS
from pdserver.configuration.torchserve_keys import IGNORED_KEYS
from tests.conftest import pack_handler
from tests.running import RunningServer, free_ports
from tests.without_paddle import running_without_paddle

PAGE = (Path(__file__).parent.parent / "docs" / "from-torchserve.md").read_text()
TORCHSERVES_KEYS = frozenset(
    re.findall(
        r"\w+",
        """
    allowed_urls async_logging blacklist_env_vars certificate_file cors_allowed_headers cors_allowed_methods
    cors_allowed_origin cpp_log_config cpu_launcher_args cpu_launcher_enable debug decode_input_request
    default_response_timeout default_service_handler default_startup_timeout default_workers_per_model
    disable_system_metrics disable_token_authorization enable_envvars_config enable_grpc_ssl enable_metrics_api
    enable_model_api grpc_inference_address grpc_inference_max_connection_age_grace_ms
    grpc_inference_max_connection_age_ms grpc_inference_port grpc_management_address
    grpc_management_max_connection_age_grace_ms grpc_management_max_connection_age_ms grpc_management_port
    inference_address initial_distribution_port initial_worker_port install_py_dep_per_model io_ratio ipex_enable
    ipex_gpu_enable job_queue_size keystore keystore_pass keystore_type limit_max_image_pixels load_models
    management_address max_request_size max_response_size metric_time_interval metrics_address metrics_config
    metrics_mode model_metrics_auto_detect model_server_home model_snapshot model_store models netty_client_threads
    number_of_gpu number_of_netty_threads plugins_path prefer_direct_buffer private_key_file service_envelope
    system_metrics_cmd token_expiration_min ts_header_key_sequence_end ts_header_key_sequence_id
    ts_header_key_sequence_start ts_open_inference_protocol unregister_model_timeout use_env_allowed_urls use_native_io
    vmargs workflow_store
""",
    )
)


def test_the_keys_that_are_refused() -> None:
    """A key that comes to be known, or to be ignored, leaves the page's list."""
    listed = PAGE.partition("remove them:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == TORCHSERVES_KEYS - KEYS.keys() - IGNORED_KEYS


def test_the_envelopes() -> None:
    table = PAGE.partition("| `service_envelope` | A request")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ENVELOPES


MODULES = re.findall(r"^\| `(ts\.[\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("module", "names"), MODULES, ids=[module for module, _ in MODULES])
def test_the_names_that_handlers_import(module: str, names: str) -> None:
    ours = importlib.import_module(f"pdserver.ts_compat.{module}")
    for name in re.findall(r"`(\w+)`", names):
        assert hasattr(ours, name), name


def test_every_module_is_listed() -> None:
    root = Path(__file__).parent.parent / "pdserver" / "ts_compat"
    files = {path for path in (root / "ts").rglob("*.py") if path.name != "__init__.py"}
    assert {".".join(path.relative_to(root).with_suffix("").parts) for path in files} == {name for name, _ in MODULES}


def test_the_table_has_three_columns() -> None:
    table = PAGE.partition("| Where | TorchServe | Here |")[2].partition("\n\n")[0]
    rows = table.strip().split("\n")
    assert len(rows) > 50
    assert all(row.count("|") == 4 for row in rows)


ONE_MODEL = (
    '{"name":"startup.cfg","modelCount":1,"models":{"mnist":{"1.0":{"defaultVersion":true,"marName":"mnist.mar",'
    '"minWorkers":1,"maxWorkers":5,"batchSize":5,"maxBatchDelay":200,"responseTimeout":60}}}}'
)
KSERVE = f"""
inference_address=http://127.0.0.1:8085
management_address=http://127.0.0.1:8085
metrics_address=http://127.0.0.1:8082
enable_envvars_config=true
metrics_format=prometheus
NUM_WORKERS=1
number_of_netty_threads=4
number_of_gpu=1
max_response_size=2047093252
load_models=all
model_snapshot={ONE_MODEL}
"""
ESCAPED = ONE_MODEL.replace("{", "{\\n  ").replace(":", "\\:")
SNAPSHOT = f"""
#Saving snapshot
#Thu Jan 02 03:04:05 UTC 2020
inference_address=http\\://127.0.0.1\\:8080
load_models=mnist.mar
async_logging=true
default_workers_per_model=4
number_of_gpu=0
tsConfigFile=config.properties
python=/usr/bin/python3
version=0.12.0
debug=false
workflow_store=/home/model-server/store
model_snapshot={ESCAPED}
"""


@pytest.mark.parametrize("text", [KSERVE, SNAPSHOT], ids=["kserve", "snapshot"])
def test_its_configurations_and_snapshots_are_read_with_one_warning(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text(f"model_store={tmp_path}\n{text}")
    config = load_config({}, {}, path)
    [model] = config.model_snapshot
    assert (model.url, model.name, model.version, model.default) == ("mnist.mar", "mnist", "1.0", True)
    [warning] = config.warnings
    assert warning.startswith("settings that have no meaning here, ignored: ")
    assert "number_of_gpu" in warning


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose inference, management and metrics share a port that asks for tokens."""
    folder = tmp_path_factory.mktemp("port")
    (folder / "store").mkdir()
    pack_handler(folder / "store", "chaos")
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = {f"{name}_address": url for name in ("inference", "management", "metrics")}
    tokens = str(folder / "tokens.json")
    with running_without_paddle(folder, folder / "store", load_models="", token_file=tokens, **settings) as server:
        server.inference = server.management = server.metrics = url
        yield server


@pytest.fixture(scope="module")
def keys(port: RunningServer) -> dict[str, dict[str, str]]:
    """The headers of each scope."""
    tokens = json.loads(Path(port.settings["token_file"]).read_text())
    return {scope: {"authorization": f"Bearer {token['key']}"} for scope, token in tokens.items()}


def test_one_port_may_serve_inference_management_and_metrics(
    port: RunningServer, keys: dict[str, dict[str, str]]
) -> None:
    url, session = port.inference, requests.Session()
    session.headers.update(keys["admin"])
    assert session.post(f"{url}/models?url=chaos.pdar&initial_workers=1", timeout=60).status_code == 200
    assert session.get(f"{url}/models", timeout=60).json()["models"][0]["modelName"] == "chaos"
    for path in ("/predictions/chaos", "/models/chaos/invoke"):
        assert session.post(f"{url}{path}", json={"op": "echo", "nonce": 7}, timeout=60).json()["nonce"] == 7
    assert 'model_name="chaos"' in session.get(f"{url}/metrics", timeout=60).text
    assert session.delete(f"{url}/models/chaos", timeout=60).status_code == 200


def test_on_a_shared_port_each_call_needs_its_own_token(port: RunningServer, keys: dict[str, dict[str, str]]) -> None:
    url = port.inference
    found = {scope: requests.get(f"{url}/models", headers=keys[scope], timeout=60).status_code for scope in keys}
    assert found == {"inference": 403, "management": 200, "admin": 200}
    assert requests.get(f"{url}/models", timeout=60).status_code == 401
    assert requests.post(f"{url}/predictions/none", headers=keys["inference"], timeout=60).status_code == 404
