"""The OCR example's plain loop as a process: says that it is ready, waits for a line, and says its rate.

`--draw N` draws N pages instead, and writes what it reads on each beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pages
import plain
from numpy.typing import NDArray


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--engine", choices=("paddle", "openvino"), default="paddle")
    parser.add_argument("--draw", type=int)
    parser.add_argument("--goods", type=int)
    arguments = parser.parse_args()
    load = _openvino if arguments.engine == "openvino" else plain.load
    loop = plain.Plain(arguments.models, arguments.together, load)
    if arguments.draw:
        for number in range(arguments.draw):
            page = pages.receipt(number, arguments.goods).encoded(".png")
            (arguments.folder / f"{number}.png").write_bytes(page)
            (arguments.folder / f"{number}.json").write_text(json.dumps(loop.read(page)))
        return
    files = sorted(arguments.folder.glob("*.png"), key=lambda file: int(file.stem))
    bodies = [file.read_bytes() for file in files]
    expected = [json.loads(file.with_suffix(".json").read_bytes())["ocrResults"][0]["prunedResult"] for file in files]
    loop.read(bodies[0])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    for count in itertools.count(1):
        number = count % len(bodies)
        read = loop.read(bodies[number])["ocrResults"][0]["prunedResult"]
        assert read["rec_texts"] == expected[number]["rec_texts"], number
        if (elapsed := time.monotonic() - started) > arguments.seconds:
            print(count / elapsed)
            return


class _OpenVino(plain.Model):
    def __init__(self, request: Any) -> None:
        self._request = request

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        self._request.infer([values])
        return np.array(self._request.get_output_tensor().data)


def _openvino(folder: Path) -> plain.Model:
    """As the server sets OpenVINO up: one thread, and float32."""
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    settings |= {"ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.read_model(str(folder / "inference.pdmodel"), str(folder / "inference.pdiparams"))
    return _OpenVino(core.compile_model(model, "CPU", settings).create_infer_request())


if __name__ == "__main__":
    main()
