"""The migration guide says what is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pdserver.config import IGNORED_KEYS, KEYS
from pdserver.settings import ENVELOPES

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
