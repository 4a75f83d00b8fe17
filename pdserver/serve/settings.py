"""What Paddle Serving's flags say in the terms of this server: keys of the server, and the model's own settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from pdserver.command.addresses import management_address
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.handlers.runtime.engines.precisions import has_instructions

READ_KEYS = frozenset(
    {"inference_address", "management_address", "grpc_inference_port", "grpc_management_port"}
    | {"enable_metrics_api", "max_request_size"}
)
"""The keys that the flags have defaults for. What the operator's configuration says of them holds."""
_MAX_BODY_BYTES = 512 * 1024 * 1024
"""Paddle Serving's default."""
_TRT_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "float16", "int8": "int8"}


class Running(NamedTuple):
    """How the model is to be run."""

    config: dict[str, Any]
    """Its YAML."""
    chosen: str
    """What was chosen for the operator, in a line."""


def addresses(port: int, said: Config) -> tuple[Address, Address]:
    """Where the server with this port predicts, and where it is managed. `said` is the operator's configuration."""
    inference = said.inference_address
    return Address(inference.host, port, inference.tls), management_address(port, said)


def keys(found: argparse.Namespace, port: int, said: Config) -> dict[str, str]:
    """The server's keys that the flags set."""
    inference, management = addresses(port, said)
    overrides = {
        "inference_address": str(inference),
        "management_address": str(management),
        "config_snapshots": "false",  # the command line says what to serve
    }
    if found.enable_prometheus:
        overrides |= {
            "enable_metrics_api": "true",
            "metrics_address": str(Address("localhost", found.prometheus_port)),
        }
    elif "enable_metrics_api" not in said.given:
        overrides["enable_metrics_api"] = "false"
    # gRPC is spoken on the port for predictions; which others it has does not matter, as long as they are free.
    overrides |= {key: "0" for key in ("grpc_inference_port", "grpc_management_port") if key not in said.given}
    if found.max_body_size or "max_request_size" not in said.given:
        overrides["max_request_size"] = str(found.max_body_size or _MAX_BODY_BYTES)
    if found.use_encryption_model:
        overrides["use_encryption_model"] = "true"
    if found.request_cache_size:
        overrides["response_cache_bytes"] = str(found.request_cache_size)
    return overrides


def running(found: argparse.Namespace, cores: int) -> Running:
    """How the flags want the model to be run on a machine with so many cores. Raises ConfigError."""
    gpus = _gpus(found.gpu_ids)
    if found.use_trt and not gpus:
        raise ConfigError("--use_trt: TensorRT runs on GPUs: name them with --gpu_ids, or leave --use_trt out")
    per_gpu, threads = max(found.runtime_thread_num), found.cpu_math_thread_num or 1
    if gpus:
        workers = len(gpus) * max(1, per_gpu)
        why = f"{max(1, per_gpu)} on each of the GPUs {', '.join(map(str, gpus))}"
    else:
        wanted = per_gpu or found.thread
        workers = max(1, min(wanted, cores // threads))
        why = f"{'--runtime_thread_num' if per_gpu else '--thread'} {wanted}; this machine has {cores} CPU cores"
    batch = min(found.batch_infer_size)
    config: dict[str, Any] = {"minWorkers": workers, "batchSize": batch, "predictor": dict(_predictor(found, gpus))}
    if gpus:
        config |= {"deviceType": "gpu", "deviceIds": list(gpus)}
    if found.request_cache_size:
        config["responseCache"] = True
    copies = "a copy" if workers == 1 else f"{workers} copies"
    return Running(config, f"{workers} ({copies} of the model: {why}), up to {batch} requests share a run")


def _predictor(found: argparse.Namespace, gpus: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """The section `predictor` of the model's YAML."""
    if found.cpu_math_thread_num:
        yield "threads", found.cpu_math_thread_num
    if found.mem_optim_off:
        yield "memory_optim", False
    if found.gpu_memory_mb:
        yield "gpu_memory_mb", found.gpu_memory_mb
    lower = None if gpus else _on_cpu(found.precision)
    if not gpus and (found.use_mkl or lower):
        yield "onednn", True
    if lower:
        yield "precision", lower
    if found.use_trt:
        yield (
            "tensorrt",
            {
                "precision": _TRT_PRECISIONS[found.precision],
                "min_graph_size": min(found.min_subgraph_size),
                "workspace_bytes": found.trt_workspace_size,
                "max_batch_size": min(found.batch_infer_size),
            },
        )


def lost_precision(found: argparse.Namespace) -> Iterator[str]:
    """`--precision`, where the model is computed in float32 all the same."""
    if not found.use_trt and found.precision != "fp32" and (_gpus(found.gpu_ids) or not _on_cpu(found.precision)):
        yield f"--precision {found.precision}"


def _on_cpu(precision: str) -> str | None:
    """Its name here, where a model can be computed in it on this CPU. In float16, Paddle Serving computes on GPUs."""
    if precision == "bf16" and has_instructions("bfloat16"):
        return "bfloat16"
    return "int8" if precision == "int8" else None


def _gpus(texts: list[str]) -> tuple[int, ...]:
    """The numbers in all the lists, one list for each model; none for the CPU. Raises ConfigError."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    if set(words) <= {"-1"}:
        return ()
    for word in words:
        if not word.isdecimal() or int(word[:6]) > 1023:
            raise ConfigError(f"--gpu_ids {word}: expected numbers of GPUs, such as 0,1, or -1 for the CPU")
    return tuple(sorted({int(word) for word in words}))
