"""What TensorFlow Serving's flags say in the terms of this server: its keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from pdarchiver.manifest import check_name
from pdserver.command.addresses import management_address
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address, metrics_path
from pdserver.dialects.protos import message_class
from pdserver.dialects.protos.text import read
from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.tensorflow_model_server.flags import DEFAULT_NAME, DEFAULT_PORT
from pdserver.tfserving.config import ModelServerConfig

READ_KEYS = frozenset(
    {"inference_address", "management_address", "tensorflow_address", "tensorflow_grpc_address"}
    | {"grpc_inference_port", "grpc_management_port", "enable_metrics_api", "max_request_size"}
)
"""The keys that the flags have defaults for. What the operator's configuration says of them holds."""
_MAX_BODY_BYTES = 512 * 1024 * 1024
MonitoringConfig = message_class("tensorflow.serving.MonitoringConfig")
_METRICS_PATH = "/monitoring/prometheus/metrics"
_IMAGE_FOLDER, _IMAGE_NAME = "/models", "model"
"""What MODEL_BASE_PATH and MODEL_NAME are in TensorFlow Serving's image, unless somebody says otherwise."""


def _as_bool(value: bool) -> str:
    return "true" if value else "false"


_KEYS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "model_config_file_poll_wait_seconds": ("tensorflow_model_config_poll", str),
    "file_system_poll_wait_seconds": ("tensorflow_file_system_poll", str),
    "allow_version_labels_for_unavailable_models": (
        "tensorflow_allow_version_labels_for_unavailable_models",
        _as_bool,
    ),
    "enable_model_warmup": ("tensorflow_enable_model_warmup", _as_bool),
    "num_request_iterations_for_warmup": ("tensorflow_num_request_iterations_for_warmup", str),
    "enable_batching": ("tensorflow_enable_batching", _as_bool),
    "batching_parameters_file": ("tensorflow_batching_parameters", str),
    "enable_per_model_batching_parameters": ("tensorflow_enable_per_model_batching_parameters", _as_bool),
    "enable_serialization_as_tensor_content": ("tensorflow_tensor_content", _as_bool),
    "max_num_load_retries": ("tensorflow_max_num_load_retries", str),
    "load_retry_interval_micros": ("tensorflow_load_retry_interval", lambda micros: f"{micros / 1e6:.6f}"),
    "rest_api_timeout_in_ms": ("default_response_timeout", lambda milliseconds: f"{milliseconds / 1000:.3f}"),
}
"""Flag → the key that it sets, and the key's text."""


class Places:
    """Where the server answers. `said` is the operator's configuration."""

    def __init__(self, found: argparse.Namespace, said: Config) -> None:
        """Raises ConfigError."""
        self.grpc_port = DEFAULT_PORT if found.port is None else found.port
        self.rest_port = found.rest_api_port or 0
        if not (self.grpc_port or self.rest_port):
            raise ConfigError("--port=0 without --rest_api_port: nothing could be asked: name one of the ports")
        if self.grpc_port == self.rest_port:
            raise ConfigError(f"--rest_api_port={self.rest_port} cannot be same as --port: name another")
        self.management = management_address(self.main_port, said)
        self._found = found
        self._said = said

    @property
    def main_port(self) -> int:
        """It tells this machine's servers apart."""
        return self.grpc_port or self.rest_port

    def keys(self, *, tls: bool) -> dict[str, str]:
        """The keys of all ports. Those that TensorFlow Serving does not have are on this machine alone, wherever there
        is room; `tls`: gRPC speaks TLS."""
        said = self._said
        overrides = {"management_address": str(self.management)}
        if self.rest_port:
            overrides["tensorflow_address"] = str(self._at(said.tensorflow_address, self.rest_port))
        if self.grpc_port:
            grpc = self._at(said.tensorflow_grpc_address, self.grpc_port)
            overrides["tensorflow_grpc_address"] = str(Address(grpc.host, grpc.port, grpc.tls or tls))
        else:
            overrides["enable_grpc"] = "false"
        if "inference_address" not in said.given:
            overrides["inference_address"] = "http://localhost:0"
        if "enable_metrics_api" not in said.given:
            overrides["enable_metrics_api"] = "false"
        return overrides | {
            key: "0" for key in ("grpc_inference_port", "grpc_management_port") if key not in said.given
        }

    def _at(self, said: Address | None, port: int) -> Address:
        return Address(self._found.host or (said.host if said else "localhost"), port, said.tls if said else False)


def keys(found: argparse.Namespace, said: Config) -> dict[str, str]:
    """The keys that the flags set, but for those of ports and models. Raises ConfigError."""
    if found.grpc_socket_path:
        raise ConfigError(
            f"--grpc_socket_path={shown(found.grpc_socket_path)}: unix is not served here: leave it out, and let"
            " clients use --port"
        )
    if found.batching_parameters_file and not found.enable_batching:
        raise ConfigError("--batching_parameters_file is set without --enable_batching: add that, or leave it out")
    overrides = {
        key: text(getattr(found, flag)) for flag, (key, text) in _KEYS.items() if getattr(found, flag) is not None
    }
    if found.monitoring_config_file:
        overrides |= _monitoring(found.monitoring_config_file)
    overrides["config_snapshots"] = "false"  # the command line says what to serve
    if found.num_load_threads:
        overrides["tensorflow_num_load_threads"] = str(found.num_load_threads)
    if found.rest_api_enable_cors_support:
        overrides |= {"cors_allowed_origin": "*", "cors_allowed_methods": "GET,POST,OPTIONS"}
    if "max_request_size" not in said.given:
        overrides["max_request_size"] = str(_MAX_BODY_BYTES)
    return overrides


def _monitoring(file: Path) -> dict[str, str]:
    """Raises ConfigError."""
    named = f"--monitoring_config_file={file}"
    prometheus = read(file, MonitoringConfig, named).prometheus_config
    if not prometheus.enable:
        return {}
    try:
        return {"tensorflow_metrics_path": metrics_path(prometheus.path or _METRICS_PATH)}
    except ValueError as error:
        raise ConfigError(f"{named}: path: {shown(prometheus.path)}: {error}") from None


def one_model(found: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """A model_config_list with the one model that the flags, or the environment, name. Raises ConfigError."""
    name = found.model_name or environment.get("MODEL_NAME", "")
    folder = environment.get("MODEL_BASE_PATH", "")
    base_path = found.model_base_path
    if not base_path and (folder or "MODEL_NAME" in environment):  # as the image's entry point has it
        name = name or _IMAGE_NAME
        base_path = f"{folder or _IMAGE_FOLDER}/{name}"
    if not base_path:
        raise ConfigError(
            "--model_base_path: name the folder of the model's versions, or --model_config_file for several models"
        )
    try:
        check_name(name or DEFAULT_NAME)
    except ValueError as error:
        raise ConfigError(f"--model_name: {error}") from None
    if "://" in base_path:
        raise ConfigError(f"--model_base_path={shown(base_path)}: folders of this machine alone are read")
    message = ModelServerConfig()
    message.model_config_list.config.add(name=name or DEFAULT_NAME, base_path=str(Path(base_path).absolute()))
    return str(text_format.MessageToString(message))
