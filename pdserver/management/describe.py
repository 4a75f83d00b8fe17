"""A version and its workers in the words of TorchServe's describe call, and why it doesn't serve when it doesn't."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil

from pdserver.configuration.model import MODEL_SETTINGS
from pdserver.configuration.table import Setting
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.lifecycle import SERVING, WorkerState
from pdserver.engine.served import Details, NodeDetails, WorkerDetails
from pdserver.formats.values import milliseconds
from pdserver.types import EngineFigures, EngineTrial, RunningEngine, engine_names

_STATUS = {
    WorkerState.STOPPING: "UNLOADING",
    WorkerState.DEAD: "UNLOADING",
    **dict.fromkeys((WorkerState.NEW, WorkerState.LOADING), "LOADING"),
    **dict.fromkeys(SERVING, "READY"),
    WorkerState.FAILED: "FAILED",
}


def describe(served: ServedVersion, details: Details) -> dict[str, Any]:
    """One element of the answer to `GET /models/{name}`."""
    spec = served.spec
    described: dict[str, Any] = {
        "modelName": spec.name,
        "modelVersion": spec.version,
        "modelUrl": spec.url,
        "runtime": "python",
        "status": served.state.value.upper(),
        "minWorkers": served.min_workers,
        "maxWorkers": served.min_workers if served.max_workers is None else served.max_workers,
        **{row.name: _written(row, getattr(spec, row.field)) for row in MODEL_SETTINGS.values() if row.described},
        "parallelType": "",
        "parallelLevel": 0,
        "useVenv": bool(spec.python),
        "stateful": spec.sequence_batching,
        "maxNumSequence": spec.max_sequences if spec.sequence_batching else 0,
        "maxSequenceJobQueueSize": spec.sequence_queue_size if spec.sequence_batching else 0,
        "loadedAtStartup": details.loaded_at_start,
        "workers": [_worker(worker) for worker in details.workers],
        "jobQueueStatus": {
            "remainingCapacity": spec.queue_size - details.waiting,
            "pendingRequests": details.waiting,
        },
        "workerRestarts": details.restarts,
    }
    if served.interface is not None:
        described |= _engines(served.interface.engines)
    if details.nodes:
        described["nodes"] = list(map(_node, details.nodes))
    if served.contract:
        described["contract"] = served.contract
    if served.last_error:
        described["lastError"] = served.last_error
    return described


def _node(node: NodeDetails) -> dict[str, Any]:
    """A node of a pipeline; the times are means, in milliseconds."""
    totals, statistics = node.totals, node.totals.statistics
    batches = sum(times.count for times in statistics.batches.values())
    seconds = sum(
        times.input_seconds + times.infer_seconds + times.output_seconds for times in statistics.batches.values()
    )
    queue_milliseconds = totals.queue_seconds * 1e3 / totals.succeeded if totals.succeeded else 0
    described: dict[str, Any] = {"node": node.path, "model": node.model, "status": node.state.value.upper()}
    described |= {"workers": node.serving, "minWorkers": node.wanted}
    described |= {"fusedIn": node.fused_in} if node.fused_in else {"pendingRequests": node.waiting}
    described |= {
        "requests": totals.succeeded + totals.failed,
        "failedRequests": totals.failed,
        "meanBatchSize": round(statistics.rows / batches, 2) if batches else 0,
        "meanBatchTime": round(seconds * 1e3 / batches, 3) if batches else 0,
        **_engines([engine for engine in node.engines if engine.node in ("", node.path)]),
    }
    return described if node.fused_in else {**described, "meanQueueTime": round(queue_milliseconds, 3)}


def _engines(engines: Sequence[RunningEngine]) -> dict[str, Any]:
    """What runs the models of a worker, and the trials by which that was chosen."""
    told: dict[str, Any] = {"engine": ", ".join(engine_names(engines))} if engines else {}
    if trials := [_trial(engine, engine.trial) for engine in engines if engine.trial is not None]:
        told["engineTrials"] = trials
    return told


def _trial(engine: RunningEngine, trial: EngineTrial) -> dict[str, Any]:
    """The times are medians, in milliseconds, for each of the batch sizes; a difference is a share of the largest
    number."""
    return {
        **({"model": engine.model} if engine.model else {}),
        "chosen": trial.chosen,
        "remembered": engine.remembered,
        "inputs": trial.inputs,
        "batchSizes": list(trial.sizes),
        "engines": list(map(_figures, trial.figures)),
    }


def _figures(figures: EngineFigures) -> dict[str, Any]:
    told: dict[str, Any] = {"engine": figures.engine}
    if figures.milliseconds:
        told["milliseconds"] = [float(f"{time:.4g}") for time in figures.milliseconds]
    if figures.difference is not None:
        told["difference"] = float(f"{figures.difference:.2g}")
    if figures.out:
        told["out"] = figures.out
    return told


def _written(row: Setting, value: object) -> object:
    """As the setting is written, but whole milliseconds, as TorchServe's clients read them."""
    written = row.parse.write(value)
    return round(written) if row.parse is milliseconds else written


def _worker(worker: WorkerDetails) -> dict[str, Any]:
    started = worker.started
    return {
        "id": "" if worker.id is None else str(worker.id),
        **({"node": worker.node} if worker.node else {}),
        "startTime": started.strftime("%Y-%m-%dT%H:%M:%S.") + f"{started.microsecond // 1000:03d}Z",
        "status": _STATUS[worker.state],
        "memoryUsage": 0 if worker.pid is None else _memory_bytes(worker.pid),
        "pid": worker.pid or 0,
        "gpu": worker.has_device,
        "gpuUsage": "N/A",
        **({"engine": ", ".join(engine_names(worker.engines))} if worker.engines else {}),
    }


def _memory_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
