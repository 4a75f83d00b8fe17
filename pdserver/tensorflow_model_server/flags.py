"""The flags of `tensorflow_model_server`, under their names.

Source: tensorflow_serving/model_servers/main.cc.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pdarchiver.usage import Parser

DEFAULT_PORT = 8500
DEFAULT_NAME = "default"
_USAGE = """\
python -m pdserver.tensorflow_model_server --rest_api_port=8501 --model_name=NAME --model_base_path=DIR [--FLAG=VALUE …]
       python -m pdserver.tensorflow_model_server --rest_api_port=8501 --model_config_file=FILE [--FLAG=VALUE …]
       python -m pdserver.tensorflow_model_server --install_script=DIR"""
_EPILOG = """\
A base path has a folder for each version, with its number for a name and a Paddle model or an archive in it. Without
--model_base_path and --model_config_file, the environment's MODEL_BASE_PATH and MODEL_NAME say what is served, as in
TensorFlow Serving's image.

The server listens on this machine alone, where TensorFlow Serving listened on all addresses: --host=0.0.0.0 lets others
reach it (docs/security.md says what that needs). config.properties and PD_… variables hold here, too, where no flag
says otherwise. It runs in the foreground, until SIGTERM or SIGINT.
"""
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_BOOLEANS = (
    "enable_batching",
    "enable_per_model_batching_parameters",
    "allow_version_labels_for_unavailable_models",
    "enable_model_warmup",
    "rest_api_enable_cors_support",
    "enable_serialization_as_tensor_content",
    "version",
)
WITHOUT_MEANING = {
    **dict.fromkeys(
        (
            *("flush_filesystem_caches", "use_alts_credentials", "remove_unused_fields_from_bundle_metagraph"),
            *("prefer_tflite_model", "use_tflite_model", "enable_signature_method_name_check", "enable_profiler"),
            *("xla_cpu_compilation_enabled", "skip_initialize_tpu", "enable_grpc_healthcheck_service"),
            *("use_saved_model", "enforce_session_run_timeout"),
        ),
        True,
    ),
    **dict.fromkeys(
        (
            *("tensorflow_session_parallelism", "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"),
            *("per_process_gpu_memory_fraction", "saved_model_tags", "platform_config_file", "mixed_precision"),
            *("num_tflite_pools", "num_tflite_interpreters_per_pool", "thread_pool_factory_config_file"),
            *("grpc_channel_arguments", "grpc_max_threads", "rest_api_num_threads", "num_unload_threads"),
            *("tensorflow_default_session_config", "total_model_memory_limit_bytes"),
        ),
        False,
    ),
}
"""Flags without an effect here; whether each is a boolean."""


def parser() -> Parser:
    parser = Parser(
        prog="tensorflow_model_server",
        usage=_USAGE,
        description="Serve Paddle models as TensorFlow Serving's tensorflow_model_server does, with its flags.",
        epilog=_EPILOG,
    )
    _add_places(parser.add_argument_group("ports"))
    _add_models(parser.add_argument_group("models"))
    _add_others(parser.add_argument_group("this command"))
    group = parser.add_argument_group("accepted from TensorFlow Serving, without effect")
    for name, boolean in WITHOUT_MEANING.items():
        if boolean:
            _add_boolean(group, name, argparse.SUPPRESS)
        else:
            group.add_argument(f"--{name}", help=argparse.SUPPRESS)
    group.description = ", ".join(f"--{name}" for name in WITHOUT_MEANING)
    return parser


def without_meaning(found: argparse.Namespace) -> Iterator[str]:
    """The flags that were given and have no effect."""
    return (f"--{name}" for name in WITHOUT_MEANING if getattr(found, name) is not None)


def plain(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--noFLAG` written as `--FLAG=false`."""
    negated = {f"--no{name}": name for name in (*_BOOLEANS, *WITHOUT_MEANING) if WITHOUT_MEANING.get(name, True)}
    return [f"--{negated[argument]}=false" if argument in negated else argument for argument in arguments]


def _add_places(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--port", type=_whole(0, 65535), metavar="PORT", help=f"for gRPC; 0: none [{DEFAULT_PORT}]")
    group.add_argument("--rest_api_port", type=_whole(0, 65535), metavar="PORT", help="for REST; 0: none [0]")
    group.add_argument(
        "--host", help="the addresses of both ports; not a flag of TensorFlow Serving's, which has 0.0.0.0 [localhost]"
    )
    group.add_argument("--grpc_socket_path", metavar="PATH", help="not served: name a --port")
    group.add_argument(
        "--ssl_config_file", type=Path, metavar="FILE", help="an SSLConfig: speak TLS on the port for gRPC"
    )
    group.add_argument(
        "--rest_api_timeout_in_ms",
        type=_whole(1, 2**31 - 1),
        metavar="MS",
        help="milliseconds in which a batch must be answered [120000]",
    )
    _add_boolean(group, "enable_serialization_as_tensor_content", "answer gRPC by tensor_content, not lists [false]")
    _add_boolean(group, "rest_api_enable_cors_support", "let web pages of any origin use REST [false]")


def _add_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model_name", metavar="NAME", help=f"of the one model [{DEFAULT_NAME}]")
    group.add_argument("--model_base_path", metavar="DIR", help="of the one model: the folder of its versions")
    group.add_argument(
        "--model_config_file", metavar="FILE", help="a ModelServerConfig, or a folder of such .pbtxt files"
    )
    group.add_argument(
        "--model_config_file_poll_wait_seconds",
        type=_whole(0, 31_536_000),
        metavar="S",
        help="seconds between looks at that file; 0: at the start alone [0]",
    )
    group.add_argument(
        "--file_system_poll_wait_seconds",
        type=_whole(-1, 31_536_000),
        metavar="S",
        help="seconds between looks at base paths; 0 or less: at the start alone [1]",
    )
    _add_boolean(
        group, "allow_version_labels_for_unavailable_models", "let new labels go to versions that are not served yet"
    )
    _add_boolean(group, "enable_model_warmup", "ask what assets.extra/tf_serving_warmup_requests has first [true]")
    group.add_argument(
        "--num_request_iterations_for_warmup",
        type=_whole(1, 10_000),
        metavar="N",
        help="how often each of these requests is asked [1]",
    )
    _add_boolean(group, "enable_batching", "batch requests by TensorFlow Serving's parameters [false]")
    group.add_argument("--batching_parameters_file", metavar="FILE", help="with it: these parameters")
    _add_boolean(
        group, "enable_per_model_batching_parameters", "with it: batching_params.pbtxt of each version has them [false]"
    )
    group.add_argument("--num_load_threads", type=_whole(0, 1024), metavar="N", help="versions loaded at a time [4]")
    group.add_argument("--max_num_load_retries", type=_whole(0, 1_000_000), metavar="N", help="tries to load again [5]")
    group.add_argument(
        "--load_retry_interval_micros", type=_whole(0, 2**53), metavar="US", help="between these tries [60000000]"
    )


def _add_others(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--monitoring_config_file", type=Path, metavar="FILE", help="a MonitoringConfig: metrics on the port for REST"
    )
    _add_boolean(group, "version", "say which version this is")
    group.add_argument(
        "--install_script", type=Path, metavar="DIR", help="write the script tensorflow_model_server there, and end"
    )


def _add_boolean(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(f"--{name}", nargs="?", const=True, type=_truth, metavar="true|false", help=text)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"{text}: expected true or false")
    return _TRUTHS[text.lower()]


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {low} to {high}")
        return int(text)

    return parse
