# ruff: noqa: RUF009  (the table's rows are made by a function)
"""The server's configuration: config.properties + environment + command line → one frozen Config.

The one table is the class Config: each of its keys says its default, how it is parsed and what it means; the
documentation's table and the commented config.properties are checked against it. Precedence, highest first:

    command line > environment (PD_<KEY>, then TS_<KEY>, in capitals) > file > default

The file is --pd-config (or --ts-config), else PD_CONFIG_FILE, else TS_CONFIG_FILE, else ./config.properties if there
is one. Relative paths start at the working directory, whoever names them. In a value, `$$NAME$$` stands for the
environment variable NAME.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pdarchiver.reading import Limits
from pdserver.configuration import values as parse
from pdserver.configuration.model import MODEL_SETTINGS, PartialSettings, envelope
from pdserver.configuration.snapshot_text import snapshot_models
from pdserver.configuration.sources import AllowedUrls, parse_allowed_urls
from pdserver.configuration.tokens import Scope, Token
from pdserver.configuration.values import Address, ModelsToLoad, ModelToLoad
from pdserver.errors import ConfigError
from pdserver.formats.properties import PropertiesError, parse_properties
from pdserver.formats.values import YEAR_SECONDS, nearest, number, shown, whole
from pdserver.types import SequenceHeaders

T = TypeVar("T")


# Keys of TorchServe that steer the JVM, Netty or PyTorch, that its snapshots have, or that stand in its own examples
# without a meaning: an existing config.properties may keep them.
IGNORED_KEYS = frozenset(
    {
        "NUM_WORKERS",
        "async_logging",
        "cpp_log_config",
        "cpu_launcher_args",
        "cpu_launcher_enable",
        "debug",
        "enable_envvars_config",
        "initial_distribution_port",
        "initial_worker_port",
        "io_ratio",
        "ipex_enable",
        "ipex_gpu_enable",
        "max_response_size",
        "metrics_format",
        "model_api_enabled",
        "model_server_home",
        "netty_client_threads",
        "number_of_gpu",
        "number_of_netty_threads",
        "plugins_path",
        "prefer_direct_buffer",
        "python",
        "snapshot_store",
        "system_metrics_cmd",
        "tsConfigFile",
        "ts_open_inference_protocol",
        "use_env_allowed_urls",
        "use_native_io",
        "version",
        "vmargs",
        "workflow_store",
    }
)


_CONVERT = (
    "openssl pkcs12 -in KEYSTORE -nodes -out server.pem writes both that certificate_file and private_key_file may name"
)
REFUSED_KEYS = {"keystore": _CONVERT, "keystore_pass": _CONVERT, "keystore_type": _CONVERT}
"""TorchServe's that ask for what is to be had in another way, and in which."""


@dataclass(frozen=True)
class Key:
    """What the table says of one key. `default` is spelled as in a file; None: the key must be set."""

    name: str
    parser: Callable[[str], object]
    default: str | None
    help: str
    flag: str


class Given(NamedTuple):
    """The text of a value and where it was given, so that `{where}={text}` reads well in an error."""

    where: str
    text: str


def _key(name: str, parser: Callable[[str], T], default: str | None, help: str, flag: str = "") -> T:
    key = Key(name, parser, default, help, flag or "--" + name.replace("_", "-"))
    row: T
    if default is None:
        row = dataclasses.field(metadata={"key": key})
    else:
        row = dataclasses.field(default_factory=lambda: parser(default), metadata={"key": key})
    return row


# The names that TorchServe has for settings which are none of its keys.
_OTHER_VARIABLES = {"log_location": "LOG_LOCATION", "metrics_location": "METRICS_LOCATION"}

_seconds = parse.number_text(number("seconds", 0.001, YEAR_SECONDS))
_archive_bytes = parse.number_text(whole("bytes", 1, 2**50))


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one server. `Config(model_store=…)` is the defaults."""

    inference_address: Address = _key(
        "inference_address", parse.address, "http://localhost:8080", "Where predictions are asked for."
    )
    management_address: Address = _key(
        "management_address", parse.address, "http://localhost:8081", "Where models are managed."
    )
    metrics_address: Address = _key(
        "metrics_address", parse.address, "http://localhost:8082", "Where Prometheus fetches metrics."
    )
    oip_address: Address | None = _key(
        "oip_address",
        parse.address_if_any,
        "",
        "Where the Open Inference Protocol has a port of its own, such as `http://127.0.0.1:8000`; `inference_address`"
        " has it, too.",
    )
    oip_grpc_address: Address | None = _key(
        "oip_grpc_address",
        parse.address_if_any,
        "",
        "The same for gRPC, such as `http://127.0.0.1:8001`; `grpc_inference_port` has it, too.",
    )
    enable_grpc: bool = _key("enable_grpc", parse.truth, "true", "Whether the gRPC ports are opened.")
    grpc_inference_host: str = _key(
        "grpc_inference_address", parse.host, "localhost", "The host for gRPC predictions, without a port."
    )
    grpc_inference_port: int = _key(
        "grpc_inference_port", parse.port, "7070", "Where predictions are asked for by gRPC."
    )
    grpc_management_host: str = _key(
        "grpc_management_address", parse.host, "localhost", "The host for gRPC management."
    )
    grpc_management_port: int = _key("grpc_management_port", parse.port, "7071", "Where models are managed by gRPC.")
    grpc_inference_max_connection_age_ms: int | None = _key(
        "grpc_inference_max_connection_age_ms",
        parse.milliseconds_if_any,
        "",
        "Milliseconds after which a client must connect anew for gRPC predictions, as load balancers like it.",
    )
    grpc_inference_max_connection_age_grace_ms: int | None = _key(
        "grpc_inference_max_connection_age_grace_ms",
        parse.milliseconds_if_any,
        "",
        "Milliseconds that calls on such a connection have to end.",
    )
    grpc_management_max_connection_age_ms: int | None = _key(
        "grpc_management_max_connection_age_ms", parse.milliseconds_if_any, "", "The same for gRPC management."
    )
    grpc_management_max_connection_age_grace_ms: int | None = _key(
        "grpc_management_max_connection_age_grace_ms", parse.milliseconds_if_any, "", "The same for gRPC management."
    )
    grpc_idle_timeout_seconds: float = _key(
        "grpc_idle_timeout", _seconds, "600", "Seconds without a call after which a gRPC connection ends."
    )
    allow_insecure: bool = _key(
        "allow_insecure",
        parse.truth,
        "false",
        "Whether addresses that others can reach may do without tokens and TLS.",
    )
    allowed_hosts: tuple[str, ...] = _key(
        "allowed_hosts",
        parse.host_names,
        "",
        "Names by which clients may call the server, besides its addresses and `localhost`; `*.name`, or `*` for any.",
    )
    disable_token_authorization: bool | None = _key(
        "disable_token_authorization",
        parse.truth_if_any,
        "",
        "Whether nobody needs a token; by default, nobody does on loopback unless there are tokens.",
        flag="--disable-token-auth",
    )
    token_file: Path | None = _key(
        "token_file",
        parse.folder_if_any,
        "",
        "The file with the tokens; it is made if it is not there. Without one, in `state_location`.",
    )
    token_expiration_minutes: int | None = _key(
        "token_expiration_min",
        parse.minutes_if_any,
        "",
        "Minutes after which tokens that the server makes expire, except the admin's; by default, never.",
    )
    metrics_token_authorization: bool | None = _key(
        "metrics_token_authorization",
        parse.truth_if_any,
        "",
        "Whether /metrics needs a token, too, where there are any; by default, when others can reach its port.",
    )
    certificate_file: Path | None = _key(
        "certificate_file", parse.file_if_any, "", "The certificate, and those that vouch for it, for TLS: PEM."
    )
    private_key_file: Path | None = _key(
        "private_key_file", parse.file_if_any, "", "The certificate's private key: PEM, without a password."
    )
    client_ca_file: Path | None = _key(
        "client_ca_file",
        parse.file_if_any,
        "",
        "Certificates, PEM; with it, clients must show one that these vouch for (mutual TLS).",
    )
    enable_grpc_ssl: bool = _key("enable_grpc_ssl", parse.truth, "false", "Whether the gRPC ports speak TLS.")
    cors_allowed_origin: str = _key(
        "cors_allowed_origin", parse.origin, "", "The origin whose web pages may use the server from a browser, or `*`."
    )
    cors_allowed_methods: str = _key(
        "cors_allowed_methods", parse.header_list, "", "The methods that such pages may use."
    )
    cors_allowed_headers: str = _key(
        "cors_allowed_headers",
        parse.header_list,
        "content-type,authorization",
        "The headers that such pages may send; JSON needs `content-type`.",
    )
    http_restricted_api: Mapping[str, tuple[str, str]] = _key(
        "http_restricted_api",
        parse.restricted_apis,
        "",
        "As Triton's, `API,API:HEADER=VALUE`: calls of these need the header, over REST, or a token if there are any.",
    )
    grpc_restricted_protocol: Mapping[str, tuple[str, str]] = _key(
        "grpc_restricted_protocol",
        parse.restricted_apis,
        "",
        "The same over gRPC: `API,API:KEY=VALUE`, and the metadata `triton-grpc-protocol-KEY`.",
    )
    max_connections: int = _key(
        "max_connections",
        parse.number_text(whole("connections", 1, 1_000_000)),
        "4096",
        "Connections that each port may have at the same time.",
    )
    slow_client_timeout_seconds: float = _key(
        "slow_client_timeout",
        _seconds,
        "20",
        "Seconds in which a request's head must come, and in which a client that sends or reads must get on.",
    )
    idle_timeout_seconds: float = _key(
        "idle_timeout",
        _seconds,
        "75",
        "Seconds without a request after which a connection is closed; more than a load balancer keeps its own.",
    )
    model_store: Path | None = _key(
        "model_store",
        parse.existing_folder,
        None,
        "The folder that holds the archives; it must exist. With `model_repository`, it can be left out.",
    )
    load_models: ModelsToLoad = _key(
        "load_models",
        parse.models_to_load,
        "",
        "Served from the start: archives, separated by commas, each `archive.pdar` or `name=archive.pdar`; or `all`.",
        flag="--models",
    )
    allowed_urls: AllowedUrls = _key(
        "allowed_urls",
        parse_allowed_urls,
        "",
        "Where archives may come from besides the store: prefixes of https, http and file URLs, separated by commas.",
    )
    allow_unsafe_models: bool = _key(
        "allow_unsafe_models",
        parse.truth,
        "false",
        "Whether models that come over the network may do more than compute: touch files, run code, use the network.",
    )
    download_timeout_seconds: float = _key(
        "download_timeout", _seconds, "600", "Seconds in which an archive must be downloaded."
    )
    max_archive_bytes: int = _key(
        "max_archive_size", _archive_bytes, "17179869184", "Bytes that an archive may have (16 GiB)."
    )
    max_unpacked_bytes: int = _key(
        "max_unpacked_size", _archive_bytes, "17179869184", "Bytes that an archive may unpack to (16 GiB)."
    )
    max_archive_entries: int = _key(
        "max_archive_entries",
        parse.number_text(whole("files", 1, 1_000_000)),
        "10000",
        "Files and folders that an archive may hold.",
    )
    max_archive_ratio: int = _key(
        "max_archive_ratio",
        parse.number_text(whole("times", 1, 100_000)),
        "200",
        "How many times its packed size a file of an archive, or a whole tar.gz, may have.",
    )
    models: Mapping[str, Mapping[str, PartialSettings]] = _key(
        "models",
        parse.models,
        "{}",
        "Settings of single models: JSON, name → version → settings.",
        flag="--model-settings",
    )
    model_repository: tuple[Path, ...] = _key(
        "model_repository",
        parse.existing_folders,
        "",
        "Folders of models in Triton's layout, separated by commas; they are served besides what the store has.",
    )
    model_control_mode: str = _key(
        "model_control_mode",
        parse.one_of("none", "explicit", "poll"),
        "none",
        "Who loads models: nobody after the start, clients (`explicit`), or changes of the repository (`poll`).",
    )
    load_model: tuple[str, ...] = _key(
        "load_model",
        parse.model_names,
        "",
        "With `explicit`: models of the repository that are served from the start, separated by commas; `*`: all.",
    )
    repository_poll_seconds: float = _key(
        "repository_poll_secs",
        parse.number_text(number("seconds", 0, YEAR_SECONDS)),
        "15",
        "With `poll`: seconds between looks at the repository; 0: never after the start.",
    )
    exit_on_error: bool = _key(
        "exit_on_error",
        parse.truth,
        "true",
        "Whether the server ends when a model of the repository can't be loaded at the start.",
    )
    response_cache_bytes: int = _key(
        "response_cache_bytes",
        parse.number_text(whole("bytes", 0, 2**40)),
        "67108864",
        "Bytes of answers that are kept for models with `responseCache`, all together (64 MiB); 0: none.",
    )
    default_workers_per_model: int = _key(
        "default_workers_per_model",
        parse.workers,
        "1",
        "Workers of each model that sets none; 0: one per CPU core, as far as a cgroup's quota goes.",
    )
    default_service_handler: str = _key(
        "default_service_handler", str, "base_handler", "The handler of archives whose manifest names none."
    )
    service_envelope: str = _key(
        "service_envelope",
        envelope,
        "",
        "How requests wrap what handlers are given: `body`, `json`, `kserve` or `kservev2`.",
    )
    decode_input_request: bool = _key(
        "decode_input_request",
        parse.truth,
        "true",
        "Whether JSON and text are decoded for handlers; false gives them a `bytearray`.",
    )
    limit_max_image_pixels: bool = _key(
        "limit_max_image_pixels",
        parse.truth,
        "true",
        "Whether the built-in handlers refuse images of more than `max_pixels`.",
    )
    ts_header_key_sequence_id: str = _key(
        "ts_header_key_sequence_id",
        parse.header_name,
        "ts_request_sequence_id",
        "The header by which requests of stateful models (`sequenceBatching`), and their answers, name their sequence.",
    )
    ts_header_key_sequence_start: str = _key(
        "ts_header_key_sequence_start",
        parse.header_name,
        "ts_request_sequence_start",
        "The header that tells the handler of a sequence's first request.",
    )
    ts_header_key_sequence_end: str = _key(
        "ts_header_key_sequence_end",
        parse.header_name,
        "ts_request_sequence_end",
        "The header of answers by which the handler ends sequences.",
    )
    install_py_dep_per_model: bool = _key(
        "install_py_dep_per_model",
        parse.truth,
        "false",
        "Whether archives' requirements are installed, in virtual environments that models share.",
    )
    install_py_dep_timeout_seconds: float = _key(
        "install_py_dep_timeout", _seconds, "600", "Seconds in which the requirements of one archive must be installed."
    )
    venv_location: Path | None = _key(
        "venv_location",
        parse.folder_if_any,
        "",
        "The folder for those environments; without one, in `state_location`.",
    )
    blacklist_env_vars: re.Pattern[str] | None = _key(
        "blacklist_env_vars",
        parse.pattern_if_any,
        "",
        "Environment variables that workers do not see: a regular expression of whole names.",
    )
    server_id: str = _key("server_id", str, "pdserver", "What the server calls itself in the Open Inference Protocol.")
    allow_client_shm: bool = _key(
        "allow_client_shm",
        parse.truth,
        "false",
        "Whether clients of this machine may pass tensors in shared memory, with the Open Inference Protocol.",
    )
    worker_env_vars: re.Pattern[str] | None = _key(
        "worker_env_vars",
        parse.pattern_if_any,
        "",
        "Environment variables that workers see besides the usual ones: a regular expression of whole names.",
    )
    worker_limits: Mapping[str, int] = _key(
        "worker_limits",
        parse.limits,
        "",
        "What each worker may use at most, such as `nofile=4096,data=8589934592`, in the units of getrlimit(2).",
    )
    job_queue_size: int = _key(
        "job_queue_size",
        parse.number_text(whole("requests", 1, 1_000_000)),
        "100",
        "Requests of one model that may wait for a worker; one more is refused at once.",
    )
    job_queue_bytes: int = _key(
        "job_queue_bytes",
        parse.number_text(whole("bytes", 1, 2**40)),
        "268435456",
        "Bytes that the inputs of one model's waiting requests may have together (256 MiB).",
    )
    default_response_timeout_seconds: float = _key(
        "default_response_timeout", _seconds, "120", "Seconds in which a worker must answer a batch."
    )
    default_startup_timeout_seconds: float = _key(
        "default_startup_timeout", _seconds, "120", "Seconds in which a worker must have loaded its model."
    )
    unregister_model_timeout_seconds: float = _key(
        "unregister_model_timeout", _seconds, "120", "Seconds in which a model's workers must end when it is removed."
    )
    stop_timeout_seconds: float = _key(
        "stop_timeout",
        parse.number_text(number("seconds", 0, YEAR_SECONDS)),
        "25",
        "Seconds that accepted requests have for their answers once the server is told to stop.",
    )
    max_request_bytes: int = _key(
        "max_request_size",
        parse.number_text(whole("bytes", 1, 2**31 - 1)),
        "67108864",
        "Bytes that the body of a request may have (64 MiB).",
    )
    receive_buffer_bytes: int = _key(
        "receive_buffer_bytes",
        parse.number_text(whole("bytes", 1, 2**40)),
        "536870912",
        "Bytes that bodies may have together while they are received, over all connections (512 MiB).",
    )
    config_snapshots: bool = _key(
        "config_snapshots",
        parse.truth,
        "true",
        "Whether the registered models are noted in log_location/config/HOST_PORT, and served again at the next start.",
    )
    restore_snapshot: bool = _key(
        "restore_snapshot",
        parse.truth,
        "false",
        "Whether the last snapshot goes before load_models; else it is used when neither it nor models say anything.",
        flag="--restore",
    )
    model_snapshot: tuple[ModelToLoad, ...] = _key(
        "model_snapshot",
        snapshot_models,
        "",
        "The models of a snapshot, as its file has them: such a file can be given as the configuration.",
    )
    log_location: Path = _key("log_location", parse.folder, "logs", "The folder for log files; it is created.")
    state_location: Path | None = _key(
        "state_location",
        parse.folder_if_any,
        "",
        "The folder for what the server needs while it runs; without one, `$XDG_STATE_HOME/pdserver`, as a rule"
        " `~/.local/state/pdserver`.",
    )
    access_log: bool = _key("access_log", parse.truth, "true", "Whether each request gets a line in the access log.")
    access_log_probes: bool = _key(
        "access_log_probes",
        parse.truth,
        "true",
        "Whether health checks and scrapes of metrics that went well get a line in it, too.",
    )
    log_format: str = _key(
        "log_format", parse.one_of("text", "json"), "text", "How log files are written: text, or json, a line each."
    )
    log_config: Path | None = _key(
        "log_config",
        parse.file_if_any,
        "",
        "A file that configures Python's logging in place of all this: YAML or JSON (dictConfig), else INI.",
    )
    metrics_mode: str = _key(
        "metrics_mode",
        parse.one_of("prometheus", "log", "legacy"),
        "prometheus",
        "Where TorchServe's metrics and those of handlers go: to the metrics port or to log files.",
    )
    metrics_config: Path | None = _key(
        "metrics_config", parse.file_if_any, "", "The metrics.yaml: which metrics there are, and their dimensions."
    )
    metrics_location: Path | None = _key(
        "metrics_location", parse.folder_if_any, "", "The folder for metrics' log files; else log_location."
    )
    model_metrics_auto_detect: bool = _key(
        "model_metrics_auto_detect",
        parse.truth,
        "true",
        "Whether handlers may have metrics that metrics.yaml doesn't declare.",
    )
    model_metrics_series_limit: int = _key(
        "model_metrics_series_limit",
        parse.number_text(whole("sets", 1, 1_000_000)),
        "100",
        "Sets of dimensions that each metric of a handler may have; values of further ones are dropped.",
    )
    disable_system_metrics: bool = _key(
        "disable_system_metrics", parse.truth, "false", "Whether CPU, memory, disk and GPUs are left unmeasured."
    )
    metric_time_interval_seconds: float = _key(
        "metric_time_interval", _seconds, "60", "Seconds between measurements of CPU, memory, disk and GPUs."
    )
    enable_model_api: bool = _key(
        "enable_model_api", parse.truth, "true", "Whether archives of the store can be registered and unregistered."
    )
    enable_metrics_api: bool = _key("enable_metrics_api", parse.truth, "true", "Whether the metrics port is opened.")

    config_file: Path | None = None
    """The file that was read."""
    given: Mapping[str, Given] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """By key, what does not have its default."""
    tokens: tuple[Token, ...] = dataclasses.field(default=(), repr=False)
    """Given in the environment: PD_INFERENCE_TOKEN, PD_MANAGEMENT_TOKEN, PD_ADMIN_TOKEN."""
    xdg_state_home: Path | None = None
    """The environment's $XDG_STATE_HOME; one that is not absolute doesn't count."""
    ignored_keys: tuple[str, ...] = ()
    """Keys that were given, are known from TorchServe, and have no meaning here."""
    warnings: tuple[str, ...] = ()
    """What the operator should see in the log; the ignored keys have their line here."""

    @property
    def addresses(self) -> dict[str, Address]:
        """Where the ports that are opened are to be, by the keys that say so."""
        wanted = {"inference_address": self.inference_address, "management_address": self.management_address}
        if self.oip_address is not None:
            wanted["oip_address"] = self.oip_address
        if self.enable_metrics_api:
            wanted["metrics_address"] = self.metrics_address
        if self.enable_grpc:
            tls = self.enable_grpc_ssl
            if self.oip_grpc_address is not None:
                host, port = self.oip_grpc_address.host, self.oip_grpc_address.port
                wanted["oip_grpc_address"] = Address(host, port, tls or self.oip_grpc_address.tls)
            wanted["grpc_inference_address"] = Address(self.grpc_inference_host, self.grpc_inference_port, tls)
            wanted["grpc_management_address"] = Address(self.grpc_management_host, self.grpc_management_port, tls)
        return wanted

    @property
    def snapshot_folder(self) -> Path:
        """Of this server alone: others may have the same log_location."""
        return self.log_location / "config" / self.management_address.file_name

    @property
    def archive_limits(self) -> Limits:
        return Limits(
            packed_bytes=self.max_archive_bytes,
            unpacked_bytes=self.max_unpacked_bytes,
            entries=self.max_archive_entries,
            ratio=self.max_archive_ratio,
        )

    @property
    def sequence_headers(self) -> SequenceHeaders:
        return SequenceHeaders(
            self.ts_header_key_sequence_id, self.ts_header_key_sequence_start, self.ts_header_key_sequence_end
        )

    @property
    def model_defaults(self) -> PartialSettings:
        """What holds for a model of which no other source says anything."""
        rows = [row for row in MODEL_SETTINGS.values() if row.fallback in KEYS]
        return {row.field: getattr(self, _FIELDS[KEYS[row.fallback]]) for row in rows}


_FIELDS: Mapping[Key, str] = {
    field.metadata["key"]: field.name for field in dataclasses.fields(Config) if field.metadata
}
KEYS: Mapping[str, Key] = {key.name: key for key in _FIELDS}


def load_config(
    overrides: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
    config_file: Path | None = None,
    *,
    keys: AbstractSet[str] | None = None,
) -> Config:
    """The configuration from the command line (`overrides` by key, and `config_file`), the environment and the file.

    With `keys`, only these are looked at, whatever is wrong with others, which have their defaults.

    Raises ConfigError; its text has one line for each problem found: source, key, value, fix.
    """
    problems: list[str] = []
    path = _find_file(environ, config_file)
    in_file, ignored = _from_file(path, problems) if path else ({}, [])
    given = _from_environment(environ)
    given |= {name: Given(KEYS[name].flag, text) for name, text in overrides.items() if name in KEYS}
    if "load_models" in given:
        in_file.pop("model_snapshot", None)
    given |= {name: value for name, value in in_file.items() if name not in given}
    ignored += [name for name in overrides if name in IGNORED_KEYS and name not in ignored]
    if keys is not None:
        problems = []
        values = _parse({name: given[name] for name in keys & given.keys()}, environ, problems)
        values["xdg_state_home"] = _xdg_state_home(environ)
        if problems:
            raise ConfigError("\n".join(problems))
        return Config(model_store=None, **values)
    values = _parse(given, environ, problems)
    tokens = _tokens(environ, problems)
    if "model_store" not in given and "model_repository" in given and values.get("model_repository") != ():
        values["model_store"] = None
    elif "model_store" not in given:
        problems.append(
            "model_store is not set: use --model-store FOLDER, or model_store=FOLDER in config.properties,"
            " to name the folder that holds the archives"
        )
    if values.get("load_model") and values.get("model_control_mode") != "explicit":
        problems.append(
            f"{given['load_model'].where}={shown(given['load_model'].text)}: this needs model_control_mode=explicit;"
            " in the other modes, all models of the repository are loaded"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    if "models" in given:
        ignored += parse.ignored_in_models(_fill_in(given["models"].text, environ))
    warnings = _unknown_variables(environ)
    warnings += _closed_to_json(values)
    if ignored:
        warnings.insert(0, f"settings that have no meaning here, ignored: {', '.join(map(shown, ignored))}")
    values["xdg_state_home"] = _xdg_state_home(environ)
    return Config(
        **values,
        given=given,
        tokens=tokens,
        config_file=path,
        ignored_keys=tuple(ignored),
        warnings=tuple(warnings),
    )


def is_given(environ: Mapping[str, str]) -> bool:
    """Whether there is anything to read besides the command line. Raises ConfigError."""
    return _find_file(environ, None) is not None or bool(_from_environment(environ))


def _closed_to_json(values: Mapping[str, Any]) -> list[str]:
    headers = [name.strip().lower() for name in values.get("cors_allowed_headers", "*").split(",")]
    if not values.get("cors_allowed_origin") or "content-type" in headers or "*" in headers:
        return []
    return ["cors_allowed_headers lacks content-type: browsers send no JSON from the pages of cors_allowed_origin"]


def _xdg_state_home(environ: Mapping[str, str]) -> Path | None:
    home = Path(environ.get("XDG_STATE_HOME", ""))
    return home if home.is_absolute() else None


def _parse(given: Mapping[str, Given], environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The values by Config's fields, in the table's order."""
    values: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        if key.name in given:
            where, text = given[key.name]
            try:
                values[field] = key.parser(_fill_in(text, environ).strip())
            except ValueError as problem:
                problems.append(f"{where}={shown(text)}: {problem}")
    return values


def _fill_in(text: str, environ: Mapping[str, str]) -> str:
    """`text` with each `$$NAME$$` replaced by that environment variable."""

    def replace(match: re.Match[str]) -> str:
        if match.group(1) not in environ:
            raise ValueError(f"the environment variable {match.group(1)} is not set")
        return environ[match.group(1)]

    return re.sub(r"\$\$([A-Za-z_][A-Za-z0-9_]*)\$\$", replace, text)


def _find_file(environ: Mapping[str, str], config_file: Path | None) -> Path | None:
    if config_file:
        path, where = config_file, "--pd-config"
    elif variable := next((name for name in ("PD_CONFIG_FILE", "TS_CONFIG_FILE") if environ.get(name)), None):
        path, where = Path(environ[variable]), f"environment variable {variable}"
    else:
        path = Path("config.properties")
        return path if path.is_file() else None
    if not path.is_file():
        reason = "a folder, not a file" if path.is_dir() else "no such file"
        raise ConfigError(f"{where}={shown(str(path))}: {reason}: name a config.properties file")
    return path


def _from_file(path: Path, problems: list[str]) -> tuple[dict[str, Given], list[str]]:
    """What the file gives, by key, and the keys in it that are ignored."""
    try:
        entries = parse_properties(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except PropertiesError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    given: dict[str, Given] = {}
    lines: dict[str, int] = {}
    for line, key, text, has_sign in entries:
        where = f"{path}:{line}: {shown(key)}"
        if key in lines:
            problems.append(f"{where}: given twice, first on line {lines[key]}: keep one")
        elif key in KEYS:
            given[key] = Given(where, text)
        elif key in REFUSED_KEYS:
            problems.append(f"{where}: not known here: {REFUSED_KEYS[key]}")
        elif key not in IGNORED_KEYS:
            fix = nearest(key, KEYS) or (": remove it" if has_sign else ": expected key=value, or # before a comment")
            problems.append(f"{where}: unknown key{fix}")
        lines.setdefault(key, line)
    return given, [key for key in lines if key in IGNORED_KEYS]


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name in KEYS:
        for variable in (f"PD_{name.upper()}", f"TS_{name.upper()}", _OTHER_VARIABLES.get(name, "")):
            if environ.get(variable):
                given[name] = Given(f"environment variable {variable}", environ[variable])
                break
    return given


def _tokens(environ: Mapping[str, str], problems: list[str]) -> tuple[Token, ...]:
    """Those of the environment, for each scope one or more, separated by commas; no file or argument shows them."""
    tokens: list[Token] = []
    for scope in Scope:
        for text in filter(None, environ.get(_token_variable(scope), "").split(",")):
            try:
                tokens.append(Token.of(text.strip(), scope))
            except ValueError as problem:
                problems.append(f"environment variable {_token_variable(scope)}: {problem}")
    return tuple(tokens)


def _token_variable(scope: Scope) -> str:
    return f"PD_{scope.name}_TOKEN"


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each PD_ variable that looks like a misspelt key; others may own the prefix, so not for the rest."""
    known = {f"PD_{name.upper()}" for name in KEYS} | {"PD_CONFIG_FILE", *map(_token_variable, Scope)}
    unknown = sorted(name for name in environ if name.startswith("PD_") and name not in known)
    return [
        f"environment variable {shown(name)}: not a key{meant}"
        for name in unknown
        if (meant := nearest(name, known, cutoff=0.9))
    ]
