"""Engines: bare loops on each of them and on what `auto` takes, pictures end to end, loading, memory."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench import engine_models, tables
from bench.engine_loop import EngineLoop
from bench.engine_models import MODELS, EngineModel
from bench.environments import CONVERT
from bench.load import closed_loop
from bench.peers.base import Configuration, Server
from bench.peers.ours import Ours, pack
from bench.processes import proportional_bytes
from bench.results import ScenarioResults
from bench.run import FAILURES, WARM_UP_SECONDS, Run
from bench.scenarios.image import CONFIGURATIONS
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare
from pdserver.handlers.runtime.trial.comparison import Tolerance, compare

_AUTO, _PADDLE = "auto", "paddle"
_ENGINES = (_PADDLE, "onnxruntime", "openvino")
_TURNS = 4
_LOOP_SHARE = 0.2
"""Of a cell's seconds: there are as many loops as models, engines and batch sizes."""
_PICTURES = {engine: Configuration(batch_size=8, workers=2, engine=engine) for engine in (_AUTO, _PADDLE)}
_LOADED, _LOADS = ("image", "rec"), 5
_NAMED, _REMEMBERED = "engine named", "trial remembered"
_MORE_WORKERS = 2
_KEY = "ms"
_SAME = 0.97
"""Two measurements of the same engine may differ by the rest."""


class Engines:
    name: ClassVar[str] = "engines"

    def measure(self, run: Run) -> None:
        for model in MODELS:
            with _failing(run, model.title):
                CONVERT.build()
                self._loops(run, model)
        with _failing(run, "c=8"):
            CONVERT.build()
            self._pictures(run)
        for name in _LOADED:
            model = next(model for model in MODELS if model.name == name)
            with _failing(run, _loading(model)):
                self._loads(run, model)
        for engine in filter(find_spec, _ENGINES):
            with _failing(run, f"memory, {engine}"):
                self._memory(run, engine)

    def _loops(self, run: Run, model: EngineModel) -> None:
        """All engines' processes have their turns, the model loaded in each."""
        files, folder = engine_models.unpack(model), run.folder(model.name)
        with contextlib.ExitStack() as stack:
            loops: dict[str, EngineLoop] = {}
            for name in (*filter(find_spec, model.engines()), _AUTO):
                loop = EngineLoop(files, name, model.batch_sizes, folder)
                try:
                    loops[name] = stack.enter_context(loop)
                except FAILURES as error:
                    run.record(name, model.title, {}, failure=str(error))
            times: dict[tuple[str, int], list[float]] = {}
            for _ in range(_TURNS):
                for name, loop in loops.items():
                    for size in model.batch_sizes:
                        spent = loop.run(size, run.seconds * _LOOP_SHARE / _TURNS)
                        times.setdefault((name, size), []).extend(spent)
        wrong = {name: _difference(loops, name) for name in loops}
        for (name, size), spent in times.items():
            values = {_KEY: statistics.median(spent) * 1e3}
            run.record(name, _cell(model, size), values, configuration=loops[name].engine, failure=wrong[name])

    def _pictures(self, run: Run) -> None:
        """JPEG in, classes out, beside mosec with Paddle's predictor."""
        mosec = [each for each in CONFIGURATIONS["mosec"] if each.workers == 2]
        configurations = {OURS: tuple(_PICTURES.values()), "mosec": mosec}
        run.closed_loops(prepare("image"), configurations, (8,))

    def _loads(self, run: Run, model: EngineModel) -> None:
        """A worker until it is ready, with the engine named in the settings, and as the remembered trial says."""
        fit, folder = prepare("fit"), run.folder(f"loading {model.name}")
        store = pack(fit, Configuration())
        with Ours().start(fit, Configuration(), folder, {"state_location": str(folder / "state")}) as server:
            auto = _register(server, store, model, _AUTO)
            server.scale(auto, 1)  # the trial
            engine = server.manage("GET", f"/models/{auto}")[0]["engine"]
            names = {_NAMED: _register(server, store, model, engine), _REMEMBERED: auto}
            times: dict[str, list[float]] = {way: [] for way in names}
            for _ in range(_LOADS):
                for way, name in names.items():
                    server.scale(name, 0)
                    times[way].append(server.scale(name, 1))
        for way, spent in times.items():
            run.record(way, _loading(model), {"seconds": statistics.median(spent)}, configuration=engine)

    def _memory(self, run: Run, engine: str) -> None:
        """What further workers of MobileNetV3 add to the memory of all processes, once each has had work."""
        configuration = Configuration(batch_size=8, engine=engine)
        with Ours().start(prepare("image"), configuration, run.folder(f"memory {engine}")) as server:
            sizes = []
            for workers in (1, 1 + _MORE_WORKERS):
                server.scale("image", workers)
                closed_loop(server.target, 8, WARM_UP_SECONDS)
                sizes.append(proportional_bytes(server.processes.all()))
        values = {"mb_per_worker": (sizes[1] - sizes[0]) / _MORE_WORKERS / 1e6}
        run.record(OURS, f"memory, {engine}", values, configuration=engine)

    def report(self, results: ScenarioResults) -> str:
        loads = [
            [model.title, *(_shown(results.median("seconds", _loading(model), way)) for way in (_NAMED, _REMEMBERED))]
            for model in MODELS
            if model.name in _LOADED
        ]
        memory = [[engine, _shown(results.median("mb_per_worker", f"memory, {engine}", OURS))] for engine in _ENGINES]
        return (
            "A run in a bare loop, in ms: one process, one thread, our predictor. The best engine of a model is the "
            "fastest over its batch sizes, of those that are not slower than Paddle for any.\n\n"
            f"{_loops_table(results)}\n"
            "JPEG in, classes out (MobileNetV3-small), beside mosec with Paddle's predictor:\n\n"
            f"{tables.closed_loop_table(results, all_of=OURS)}\n"
            f"{tables.table(['A worker, registered until ready, s', _NAMED, _REMEMBERED], loads)}\n"
            f"{tables.table(['A further worker of MobileNetV3-small', 'MB (Pss)'], memory)}"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        text = "auto's bare loop, to the best engine's"
        found = [Target(model.title, text, _to_best(results, model), "≥", 0.97) for model in MODELS]
        gains = [gain for model in MODELS if (gain := _gain(results, model, _AUTO))]
        mean = _geometric(list(map(_geometric, gains))) if len(gains) == len(MODELS) else None
        found.append(Target("float32", "auto to Paddle with oneDNN, geometric mean", mean, "≥", 1.6))
        least = min((gain for each in gains for gain in each), default=None)
        found.append(Target("float32", "auto to Paddle with oneDNN, the least", least, "≥", _SAME))
        key, case = "requests_per_second", "c=8"
        ours = results.median(key, case, OURS, str(_PICTURES[_AUTO]))
        mosec = results.best(key, case, "mosec")
        found.append(Target(case, "pictures/s, to mosec's best", ratio(ours, mosec and mosec[0]), "≥", 1.8))
        for model in MODELS:
            if model.name in _LOADED:
                named, auto = (results.median("seconds", _loading(model), way) for way in (_NAMED, _REMEMBERED))
                text = f"{_REMEMBERED}, to {_NAMED}"
                found.append(Target(_loading(model), text, ratio(auto, named), "≤", 1.1))
        return found


def _cell(model: EngineModel, size: int) -> str:
    return f"{model.title}, batch {size}"


def _loading(model: EngineModel) -> str:
    return f"loading {model.title}"


def _shown(value: float | None) -> str:
    return "–" if value is None else tables.number(value)


@contextlib.contextmanager
def _failing(run: Run, case: str) -> Iterator[None]:
    """What fails costs its own cells, not the whole round."""
    try:
        yield
    except FAILURES as error:
        run.record("all", case, {}, failure=str(error))


def _difference(loops: dict[str, EngineLoop], name: str) -> str:
    """What is wrong with an engine's answers, by Paddle's. "" for nothing."""
    if _PADDLE not in loops:
        return ""
    reference, given = (dict(np.load(loops[engine].answers)) for engine in (_PADDLE, name))
    return compare(reference, given, Tolerance()).problem


def _register(server: Server, store: Path, model: EngineModel, engine: str) -> str:
    """The name under which the model is served by an engine, without workers so far."""
    archive = engine_models.pack(model, engine)
    shutil.copy(archive, store)
    server.manage("POST", f"/models?url={archive.name}&initial_workers=0")
    return archive.stem


def _time(results: ScenarioResults, model: EngineModel, size: int, server: str) -> float | None:
    return results.median(_KEY, _cell(model, size), server)


def _gain(results: ScenarioResults, model: EngineModel, server: str) -> list[float]:
    """How many times as fast as Paddle it is, for each batch size. Empty if it was not measured."""
    gains = [
        ratio(_time(results, model, size, _PADDLE), _time(results, model, size, server)) for size in model.batch_sizes
    ]
    known = [gain for gain in gains if gain]
    return known if len(known) == len(gains) else []


def _to_best(results: ScenarioResults, model: EngineModel) -> float | None:
    """How `auto` compares with the engine that is the fastest over all batch sizes, of those that are not slower than
    Paddle for any."""
    gains = [gain for engine in _ENGINES if (gain := _gain(results, model, engine)) and min(gain) >= _SAME]
    auto = _gain(results, model, _AUTO)
    return _geometric(auto) / max(map(_geometric, gains)) if auto and gains else None


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _loops_table(results: ScenarioResults) -> str:
    rows = []
    for model in MODELS:
        for size in model.batch_sizes:
            times = {name: _time(results, model, size, name) for name in (*_ENGINES, _AUTO)}
            chosen = {
                cell.configuration
                for cell in results.measurements
                if cell.server == _AUTO and cell.case == _cell(model, size) and cell.configuration
            }
            gain = ratio(times[_PADDLE], times[_AUTO])
            auto = f"{_shown(times[_AUTO])} ({', '.join(sorted(chosen)) or '–'})"
            shown = [_shown(times[name]) for name in _ENGINES]
            rows.append([_cell(model, size), *shown, auto, "–" if gain is None else f"{tables.number(gain)} ×"])
    return tables.table(["", "Paddle", "ONNX Runtime", "OpenVINO", "auto", "auto to Paddle"], rows)
