# ruff: noqa: RUF009  (the table's rows are made by a function)
"""The server's configuration. Each field of Config, PortKeys or TensorFlowKeys that is a `setting` is the one place for
its key.

The flag and the environment variables follow from the field's name. Tests check the documentation's table and the
commented config.properties against the fields. `configuration.loading` reads the sources.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pdarchiver.reading import Limits
from pdserver.configuration import values as parse
from pdserver.configuration.layers import settings_of_models
from pdserver.configuration.model import MODEL_SETTINGS, PartialSettings, envelope, key_file
from pdserver.configuration.models_to_load import ModelsToLoad, ModelToLoad, model_names, models_to_load
from pdserver.configuration.port_keys import PortKeys
from pdserver.configuration.snapshot_text import snapshot_models
from pdserver.configuration.sources import AllowedUrls, parse_allowed_urls, parse_image_urls
from pdserver.configuration.table import setting, table
from pdserver.configuration.tensorflow_keys import TensorFlowKeys
from pdserver.configuration.tokens import Token
from pdserver.formats.values import YEAR_SECONDS, number, whole
from pdserver.types import SequenceHeaders


class Given(NamedTuple):
    """The text of a value and where it was given, so that `{where}={text}` reads well in an error."""

    where: str
    text: str


_archive_bytes = parse.spelled(whole("bytes", 1, 2**50))


@dataclass(frozen=True, kw_only=True)
class Config(TensorFlowKeys, PortKeys):
    """All settings of one server. `Config(model_store=…)` is the defaults."""

    model_store: Path | None = setting(
        parse.existing_folder,
        None,
        "The folder that holds the archives; it must exist. With `model_repository` or `tensorflow_model_config`, it"
        " can be left out.",
    )
    workflow_store: Path | None = setting(
        parse.if_any(parse.folder),
        "",
        "The folder that holds the archives of workflows (`.war`). By default, it is model_store.",
    )
    load_models: ModelsToLoad = setting(
        models_to_load,
        "",
        "Models that are served from the start: archives, separated by commas, each `archive.pdar` or"
        " `name=archive.pdar`; or `all`.",
        flag="--models",
    )
    allowed_urls: AllowedUrls = setting(
        parse_allowed_urls,
        "",
        "Where archives may come from besides the store: prefixes of https, http and file URLs, separated by commas.",
    )
    image_urls: AllowedUrls = setting(
        parse_image_urls,
        "",
        "Where pictures may come from that requests name by their URL (docs/paddlex.md): prefixes of https and http"
        " URLs, separated by commas.",
    )
    allow_unsafe_models: bool = setting(
        parse.truth,
        "false",
        "Set true to let models that come over the network do more than compute: touch files, run code, use the"
        " network.",
    )
    download_timeout_seconds: float = setting(parse.seconds, "600", "Seconds in which an archive must be downloaded.")
    max_archive_bytes: int = setting(
        _archive_bytes, "17179869184", "Bytes that an archive may have (16 GiB).", name="max_archive_size"
    )
    max_unpacked_bytes: int = setting(
        _archive_bytes, "17179869184", "Bytes that an archive may unpack to (16 GiB).", name="max_unpacked_size"
    )
    max_archive_entries: int = setting(
        parse.spelled(whole("files", 1, 1_000_000)), "10000", "Files and folders that an archive may hold."
    )
    max_archive_ratio: int = setting(
        parse.spelled(whole("times", 1, 100_000)),
        "200",
        "How many times its packed size a file of an archive, or a whole tar.gz, may have.",
    )
    models: Mapping[str, Mapping[str, PartialSettings]] = setting(
        settings_of_models, "{}", "Settings of single models: JSON, name → version → settings.", flag="--model-settings"
    )
    model_repository: tuple[Path, ...] = setting(
        parse.existing_folders,
        "",
        "Folders of models in Triton's layout, separated by commas. They are served besides the models of the store.",
    )
    model_control_mode: str = setting(
        parse.word("none", "explicit", "poll"),
        "none",
        "Who loads models: nobody after the start, clients (`explicit`), or changes of the repository (`poll`).",
    )
    load_model: tuple[str, ...] = setting(
        model_names,
        "",
        "With `explicit`: models of the repository that are served from the start, separated by commas; `*`: all.",
    )
    repository_poll_seconds: float = setting(
        parse.spelled(number("seconds", 0, YEAR_SECONDS)),
        "15",
        "With `poll`: seconds between looks at the repository; 0: never after the start.",
        name="repository_poll_secs",
    )
    exit_on_error: bool = setting(
        parse.truth, "true", "Set false to serve on when a model of the repository can't be loaded at the start."
    )
    response_cache_bytes: int = setting(
        parse.spelled(whole("bytes", 0, 2**40)),
        "67108864",
        "Bytes of answers that are kept for models with `responseCache`, all together (64 MiB); 0: none.",
    )
    default_workers_per_model: int = setting(
        parse.workers,
        "1",
        "Workers of each model that sets none; 0: one per CPU core, as far as a cgroup's quota goes.",
    )
    default_service_handler: str = setting(
        parse.name, "base_handler", "The handler of archives whose manifest names none."
    )
    service_envelope: str = setting(
        envelope, "", "How requests wrap what handlers are given: `body`, `json`, `kserve` or `kservev2`."
    )
    model_key_file: str = setting(
        key_file, "", "The file with the key of encrypted models; `PD_MODEL_KEY` is another way (docs/convert.md)."
    )
    use_encryption_model: bool = setting(
        parse.truth,
        "false",
        "Set true to take the key of encrypted models from clients, as Paddle Serving's bring it: over loopback or"
        " TLS.",
    )
    decode_input_request: bool = setting(
        parse.truth, "true", "Set false to give handlers a `bytearray` in place of decoded JSON and text."
    )
    limit_max_image_pixels: bool = setting(
        parse.truth, "true", "Set false to let the built-in handlers take images of more than `max_pixels`."
    )
    ts_header_key_sequence_id: str = setting(
        parse.header_name,
        "ts_request_sequence_id",
        "The header by which requests of stateful models (`sequenceBatching`), and their answers, name their sequence.",
    )
    ts_header_key_sequence_start: str = setting(
        parse.header_name,
        "ts_request_sequence_start",
        "The header that tells the handler of a sequence's first request.",
    )
    ts_header_key_sequence_end: str = setting(
        parse.header_name, "ts_request_sequence_end", "The header of answers by which the handler ends sequences."
    )
    install_py_dep_per_model: bool = setting(
        parse.truth, "false", "Set true to install archives' requirements, in virtual environments that models share."
    )
    install_py_dep_timeout_seconds: float = setting(
        parse.seconds, "600", "Seconds in which the requirements of one archive must be installed."
    )
    venv_location: Path | None = setting(
        parse.if_any(parse.folder),
        "",
        "The folder for the virtual environments of models. By default, it is in `state_location`.",
    )
    blacklist_env_vars: re.Pattern[str] | None = setting(
        parse.if_any(parse.pattern),
        "",
        "Environment variables that workers do not see: a regular expression of whole names.",
    )
    server_id: str = setting(parse.name, "pdserver", "What the server calls itself in the Open Inference Protocol.")
    paddle_serving_model: str = setting(
        parse.name,
        "",
        "The model that Paddle Serving's clients mean, who name none; needed only if several models are served.",
    )
    tensorflow_tensor_content: bool = setting(
        parse.truth,
        "false",
        "Set true to send tensors to TensorFlow Serving's clients over gRPC as `tensor_content`, not as lists.",
    )
    allow_client_shm: bool = setting(
        parse.truth,
        "false",
        "Set true to let clients of this machine pass tensors in shared memory, with the Open Inference Protocol.",
    )
    worker_env_vars: re.Pattern[str] | None = setting(
        parse.if_any(parse.pattern),
        "",
        "Environment variables that workers see besides the usual ones: a regular expression of whole names.",
    )
    worker_limits: Mapping[str, int] = setting(
        parse.limits,
        "",
        "What each worker may use at most, such as `nofile=4096,data=8589934592`, in the units of getrlimit(2).",
    )
    job_queue_size: int = setting(
        parse.spelled(whole("requests", 1, 1_000_000)),
        "100",
        "Requests of one model that may wait for a worker; one more is refused at once.",
    )
    job_queue_bytes: int = setting(
        parse.spelled(whole("bytes", 1, 2**40)),
        "268435456",
        "Bytes that the inputs of one model's waiting requests may have together (256 MiB).",
    )
    default_response_timeout_seconds: float = setting(
        parse.seconds, "120", "Seconds in which a worker must answer a batch."
    )
    default_startup_timeout_seconds: float = setting(
        parse.seconds, "120", "Seconds in which a worker must have loaded its model."
    )
    unregister_model_timeout_seconds: float = setting(
        parse.seconds, "120", "Seconds in which a model's workers must end when it is removed."
    )
    stop_timeout_seconds: float = setting(
        parse.spelled(number("seconds", 0, YEAR_SECONDS)),
        "25",
        "Seconds that accepted requests have for their answers once the server is told to stop.",
    )
    max_request_bytes: int = setting(
        parse.spelled(whole("bytes", 1, 2**31 - 1)),
        "67108864",
        "Bytes that the body of a request may have (64 MiB).",
        name="max_request_size",
    )
    receive_buffer_bytes: int = setting(
        parse.spelled(whole("bytes", 1, 2**40)),
        "536870912",
        "Bytes that bodies may have together while they are received, over all connections (512 MiB).",
    )
    config_snapshots: bool = setting(
        parse.truth,
        "true",
        "Set false to write and read no snapshots. They note the registered models in log_location/config/HOST_PORT,"
        " and the next start serves these again.",
    )
    restore_snapshot: bool = setting(
        parse.truth,
        "false",
        "Set true to serve the last snapshot in place of load_models. By default, it is served when neither"
        " load_models nor models say anything.",
        flag="--restore",
    )
    model_snapshot: tuple[ModelToLoad, ...] = setting(
        snapshot_models,
        "",
        "The models of a snapshot, as its file has them: such a file can be given as the configuration.",
    )
    log_location: Path = setting(parse.folder, "logs", "The folder for log files; it is created.")
    state_location: Path | None = setting(
        parse.if_any(parse.folder),
        "",
        "The folder for what the server needs while it runs. By default, it is `$XDG_STATE_HOME/pdserver`, as a rule"
        " `~/.local/state/pdserver`.",
    )
    access_log: bool = setting(parse.truth, "true", "Set false to write no access log.")
    access_log_probes: bool = setting(
        parse.truth, "true", "Set false to leave successful health checks and scrapes of metrics out of it."
    )
    log_format: str = setting(
        parse.word("text", "json"), "text", "How log files are written: as text, or as json, one object to a line."
    )
    log_config: Path | None = setting(
        parse.if_any(parse.file),
        "",
        "A file that configures Python's logging in place of all this: YAML or JSON (dictConfig), else INI.",
    )
    metrics_mode: str = setting(
        parse.word("prometheus", "log", "legacy"),
        "prometheus",
        "Where TorchServe's metrics and those of handlers go: to the metrics port or to log files.",
    )
    metrics_config: Path | None = setting(
        parse.if_any(parse.file), "", "The metrics.yaml: which metrics there are, and their dimensions."
    )
    metrics_location: Path | None = setting(
        parse.if_any(parse.folder), "", "The folder for metrics' log files. By default, it is log_location."
    )
    model_metrics_auto_detect: bool = setting(
        parse.truth, "true", "Set false to allow handlers only the metrics that metrics.yaml declares."
    )
    model_metrics_series_limit: int = setting(
        parse.spelled(whole("sets", 1, 1_000_000)),
        "100",
        "Sets of dimensions that each metric of a handler may have; values of further ones are dropped.",
    )
    disable_system_metrics: bool = setting(
        parse.truth, "false", "Set true to leave CPU, memory, disk and GPUs unmeasured."
    )
    metric_time_interval_seconds: float = setting(
        parse.seconds, "60", "Seconds between measurements of CPU, memory, disk and GPUs."
    )
    enable_model_api: bool = setting(
        parse.truth, "true", "Set false to forbid that archives of the store are registered or unregistered."
    )

    config_file: Path | None = None
    """The file that was read."""
    given: Mapping[str, Given] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """By key, what does not have its default."""
    tokens: tuple[Token, ...] = dataclasses.field(default=(), repr=False)
    """Given in the environment: PD_INFERENCE_TOKEN, PD_MANAGEMENT_TOKEN, PD_ADMIN_TOKEN."""
    model_key: bytes = dataclasses.field(default=b"", repr=False)
    """Of encrypted models for which no file is named; given in the environment: PD_MODEL_KEY."""
    xdg_state_home: Path | None = None
    """The environment's $XDG_STATE_HOME; one that is not absolute doesn't count."""
    notify_socket: str = ""
    """The environment's $NOTIFY_SOCKET: where systemd wants to be told how the server is."""
    watchdog_seconds: float = 0.0
    """The environment's $WATCHDOG_USEC: systemd ends a server that is silent for so long; 0: it doesn't."""
    ignored_keys: tuple[str, ...] = ()
    """Keys that were given, are known from TorchServe, and have no meaning here."""
    warnings: tuple[str, ...] = ()
    """What the operator should see in the log; the ignored keys have their line here."""

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
        return {row.field: getattr(self, KEYS[row.fallback].field) for row in rows}


KEYS = table(Config, str)
"""By their names. A key's flag is its name with dashes, unless the key has another."""
