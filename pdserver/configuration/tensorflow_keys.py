# ruff: noqa: RUF009  (the table's rows are made by a function)
"""The keys by which models are served as TensorFlow Serving serves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pdserver.configuration import values as parse
from pdserver.configuration.table import setting
from pdserver.formats.values import YEAR_SECONDS, number, whole


@dataclass(frozen=True, kw_only=True)
class TensorFlowKeys:
    tensorflow_model_config: Path | None = setting(
        parse.if_any(parse.existing),
        "",
        "A file with TensorFlow Serving's `model_config_list`, or a folder of such files (`.pbtxt`): models in base"
        " paths, which are served besides those of the store.",
    )
    tensorflow_model_config_poll_seconds: float = setting(
        parse.spelled(number("seconds", 0, YEAR_SECONDS)),
        "0",
        "Seconds between looks at these files, which are followed when they have changed; 0: never after the start.",
    )
    tensorflow_file_system_poll_seconds: float = setting(
        parse.spelled(number("seconds", -1, YEAR_SECONDS)),
        "1",
        "Seconds between looks at the base paths, for versions that come and go; 0 or less: never after the start.",
    )
    tensorflow_allow_version_labels_for_unavailable_models: bool = setting(
        parse.truth, "false", "Set true to let new labels go to versions that are not served yet."
    )
    tensorflow_aspired_version_policy: str = setting(
        parse.word("availability_preserving", "resource_preserving"),
        "availability_preserving",
        "When versions change: load the new ones first, or unload the old ones first (`resource_preserving`).",
    )
    tensorflow_max_num_load_retries: int = setting(
        parse.spelled(whole("retries", 0, 1_000_000)), "5", "How often a version that can't be loaded is tried again."
    )
    tensorflow_load_retry_interval_seconds: float = setting(
        parse.spelled(number("seconds", 0, YEAR_SECONDS)), "60", "Seconds between these tries."
    )
    tensorflow_metrics_path: str = setting(
        parse.metrics_path,
        "",
        "TensorFlow Serving's metrics are exposed beside the others, and all of them at this path of"
        " `tensorflow_address`, too, such as `/monitoring/prometheus/metrics`.",
    )
    tensorflow_enable_batching: bool = setting(
        parse.truth,
        "false",
        "Set true to batch requests to these models by TensorFlow Serving's parameters; by default, an idle worker"
        " takes what waits.",
    )
    tensorflow_batching_parameters: Path | None = setting(
        parse.if_any(parse.file), "", "With it: the file with these parameters. By default, they have their defaults."
    )
    tensorflow_enable_per_model_batching_parameters: bool = setting(
        parse.truth,
        "false",
        "Set true to read them from `batching_params.pbtxt` in each version's folder; the file gives threads alone.",
    )
    tensorflow_enable_model_warmup: bool = setting(
        parse.truth,
        "true",
        "Set false to leave out the requests in a version's `assets.extra/tf_serving_warmup_requests`, which each"
        " worker answers before it serves.",
    )
    tensorflow_num_request_iterations_for_warmup: int = setting(
        parse.spelled(whole("times", 1, 10_000)), "1", "How often each of these requests is asked."
    )
    tensorflow_num_load_threads: int = setting(
        parse.spelled(whole("versions", 1, 1024)), "4", "Versions of base paths that are loaded at the same time."
    )
