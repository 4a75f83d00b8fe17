"""For PyTriton: started with the interpreter of its environment; arguments: the ports for HTTP, gRPC and metrics.

Its functions run in threads of one process. There is only one thread, because Paddle holds the interpreter's lock.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench import OUTPUT
from bench.model import load_from_environment

_SHAPES = {"fit": ((13,), (1,)), "resnet50": ((3, 224, 224), (1000,)), "large": ((-1,), (-1,))}


class Predict:
    """Loads the model in the thread that runs it, because a predictor is bound to its thread."""

    def __init__(self) -> None:
        self._model: Any = None

    @batch
    def __call__(self, x: Any) -> dict[str, Any]:
        if self._model is None:
            self._model = load_from_environment()
        if x.dtype != np.float32:
            answers = self._model.answers([self._model.row(row[0]) for row in x])
            return {OUTPUT: np.array([[answer] for answer in answers], object)}
        return {OUTPUT: self._model.run(x)}


def main() -> None:
    http, grpc, metrics = map(int, sys.argv[1:])
    name = os.environ["BENCH_MODEL"]
    batch_size = int(os.environ["BENCH_BATCH_SIZE"])
    delay = int(os.environ["BENCH_MAX_BATCH_DELAY_MS"]) * 1000
    config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
    if name in _SHAPES:
        given, made = (Tensor(dtype=np.float32, shape=shape) for shape in _SHAPES[name])
    else:
        given, made = (Tensor(dtype=bytes, shape=(1,)) for _ in range(2))
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=Predict(),
            inputs=[Tensor(name="x", dtype=given.dtype, shape=given.shape)],
            outputs=[Tensor(name=OUTPUT, dtype=made.dtype, shape=made.shape)],
            config=ModelConfig(max_batch_size=batch_size, batcher=DynamicBatcher(max_queue_delay_microseconds=delay)),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
