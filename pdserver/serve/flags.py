"""The flags of `python -m paddle_serving_server.serve`, under their names.

Source: python/paddle_serving_server/serve.py of Paddle Serving 0.9.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from pdarchiver.usage import Parser

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_PORT = 9393
DEFAULT_BATCH = 32
_USAGE = """\
pdserver serve [start] --model DIR [DIR …] [--port 9393] [--thread 4] [--name NAME] [FLAG …]
       pdserver serve stop | kill [--port PORT]
       pdserver serve check"""
_EPILOG = """\
examples:
  python -m pdserver.serve --model uci_housing_model --thread 10 --port 9393 --name uci
  pdserver serve stop --port 9393

The server runs in the foreground. stop ends the server on --port, or all that serve and web services have started,
once they have answered what they accepted; kill ends them at once; check is pdserver doctor.

It listens on this machine alone, where Paddle Serving listened on all addresses: the key inference_address lets others
reach it, such as PD_INFERENCE_ADDRESS=http://0.0.0.0:9393 (docs/security.md says what that needs). config.properties
and PD_… variables hold here, too, where no flag says otherwise.
"""
_WITHOUT_VALUE = (
    *("--use_calib", "--gpu_multi_stream", "--use_lite", "--use_xpu", "--use_ascend_cl", "--trt_use_static"),
    *("--use_dist_model", "--dist_master_serving"),
)
_WITH_VALUES = (
    *("--op", "--device", "--product_name", "--container_id", "--dist_carrier_id", "--dist_cfg_file"),
    *("--dist_endpoints", "--dist_nranks", "--dist_subgraph_index", "--dist_worker_serving_endpoints"),
    "--encryption_rpc_port",
)


def parser() -> Parser:
    parser = Parser(
        prog="pdserver serve",
        usage=_USAGE,
        description="Serve models as `python -m paddle_serving_server.serve` does, with its flags.",
        epilog=_EPILOG,
    )
    parser.add_argument("command", nargs="?", choices=("start", "stop", "kill", "check"), default="start")
    _add_places(parser.add_argument_group("models and ports"))
    _add_running(parser.add_argument_group("how the model is run"))
    group = parser.add_argument_group("accepted from Paddle Serving, without effect")
    for flag in _WITHOUT_VALUE:
        group.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in _WITH_VALUES:
        group.add_argument(flag, nargs="+", help=argparse.SUPPRESS)
    group.description = ", ".join((*_WITHOUT_VALUE, *_WITH_VALUES))
    return parser


def without_meaning(found: argparse.Namespace) -> Iterator[str]:
    """The flags that were given and have no effect."""
    for flag in (*_WITHOUT_VALUE, *_WITH_VALUES):
        if getattr(found, flag.removeprefix("--")):
            yield flag


def _add_places(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        nargs="+",
        action="extend",
        type=Path,
        metavar="DIR",
        help="folder of a model, such as serving_server; several run in a row, the outputs of each being the inputs of"
        " the next",
    )
    group.add_argument("--name", help="the model's name; default: the folder's")
    group.add_argument("--port", type=_whole(1, 65535), help=f"the port for predictions [{DEFAULT_PORT}]")
    group.add_argument(
        "--max_body_size",
        type=_whole(1, 2**31 - 1),
        metavar="BYTES",
        help="bytes that a request's body may have [536870912]",
    )
    group.add_argument(
        "--request_cache_size", type=_whole(0, 2**40), metavar="BYTES", default=0, help="bytes of answers to keep [0]"
    )
    group.add_argument(
        "--use_encryption_model",
        action="store_true",
        help="let clients bring the key of an encrypted model (use_key), unless PD_MODEL_KEY or model_key_file has it",
    )
    group.add_argument("--enable_prometheus", action="store_true", help="serve metrics on --prometheus_port")
    group.add_argument("--prometheus_port", type=_whole(1, 65535), default=19393, metavar="PORT", help="[19393]")
    group.add_argument(
        "--workdir", type=Path, metavar="DIR", help="DIR_PORT is for what the server needs; default: its state folder"
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--thread", type=_whole(1, 1024), default=4, metavar="N", help="workers, at most one per CPU core [4]"
    )
    group.add_argument(
        "--runtime_thread_num",
        nargs="+",
        type=_whole(0, 1024),
        default=[0],
        metavar="N",
        help="the same, and on GPUs: workers for each GPU [0: as --thread says; one for each GPU]",
    )
    group.add_argument(
        "--batch_infer_size",
        nargs="+",
        type=_whole(1, 4096),
        default=[DEFAULT_BATCH],
        metavar="N",
        help=f"requests that share a run at most [{DEFAULT_BATCH}]",
    )
    group.add_argument("--gpu_ids", nargs="+", default=[], metavar="IDS", help="GPUs, such as 0,1; -1: the CPU [-1]")
    group.add_argument("--precision", choices=PRECISIONS, default="fp32", type=str.lower)
    group.add_argument("--use_mkl", action="store_true", help="run all operations that it has with oneDNN")
    group.add_argument("--ir_optim", action="store_true", help="optimise the model's graph; it always is")
    group.add_argument("--mem_optim_off", action="store_true", help="do not reuse memory within a run")
    group.add_argument("--cpu_math_thread_num", type=_whole(1, 1024), metavar="N", help="threads of each worker [1]")
    group.add_argument("--gpu_memory_mb", type=_whole(1, 2**20), metavar="MB", help="GPU memory to begin with [100]")
    group.add_argument("--use_trt", action="store_true", help="run parts of the model with TensorRT, on GPUs")
    group.add_argument("--min_subgraph_size", nargs="+", type=_whole(1, 10_000), default=[3], metavar="N", help="[3]")
    group.add_argument("--trt_workspace_size", type=_whole(0, 2**40), default=1 << 25, metavar="BYTES")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {low} to {high}")
        return int(text)

    return parse
