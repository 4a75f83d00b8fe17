"""Pipelines: what a node costs, a page's texts read by three models beside a loop and other servers, and memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from bench import chains, ocr, tables
from bench.load import Target as Request
from bench.load import closed_loop
from bench.page_load import ask_pages, closed_page_loop
from bench.peers.base import Server
from bench.peers.ours import BIN, settings_of, wait_until_loaded
from bench.peers.paddlex import PaddleX
from bench.peers.pages import BentoMl, PagePeer, PageServer, RapidOcr, RayServe, plain_target
from bench.processes import Processes, clean_environment, proportional_bytes
from bench.results import ScenarioResults
from bench.run import FAILURES, WARM_UP_SECONDS, Run
from bench.tables import OURS, Target, ratio

_NODES = (1, 2, 4, 8)
_SPLIT, _FUSED, _AUTO, _FUNCTIONS = "split", "fused", "fuse: auto", "one process"
_FUSE = {_SPLIT: "no", _FUSED: "yes", _AUTO: "auto"}
_MODELS = {_SPLIT: "split{}", _FUSED: "fused{}", _AUTO: "auto{}", _FUNCTIONS: "one{}"}
_CLIENTS = 16
_WORKERS = {"detect": 2, "classify": 1, "recognise": 2, "code": 2}
"""As in examples/ocr: the four nodes in Python have a worker each."""
_PROCESSES = 9
"""All workers of ours."""
_SETTLE_SECONDS, _LEAST_SECONDS = 30.0, 15.0
"""Pages take seconds while sixteen of them share two cores, and Paddle prepares each shape when it comes first."""
_PADDLE, _OPENVINO = "paddle", "openvino"
_OURS = {OURS: "", f"{OURS}, Paddle's engine": _PADDLE}
"""By default, an engine is chosen of those that are installed."""
_LOOP, _OTHER_LOOP = "plain loop", "plain loop, OpenVINO"
_LOOPS = {
    _LOOP: ["--engine", _PADDLE],
    f"{_LOOP}, a page's lines together": ["--engine", _PADDLE, "--together"],
    _OTHER_LOOP: ["--engine", _OPENVINO],
    f"{_OTHER_LOOP}, a page's lines together": ["--engine", _OPENVINO, "--together"],
}
_PAGES = int(os.environ.get("PAGES", "10000"))
"""For memory: `make bench SCENARIO=pipeline PAGES=1000`."""
_READING, _MEMORY = f"c={_CLIENTS}", f"{_PAGES} pages"
_PEERS: tuple[PagePeer, ...] = (RapidOcr(), PaddleX(), RayServe(), BentoMl())
_LIMITS = {
    _LOOP: 1.5,
    _OTHER_LOOP: 1.5,
    **dict.fromkeys((RapidOcr.name, PaddleX.name), 2.0),
    **dict.fromkeys((RayServe.name, BentoMl.name), 1.3),
}
"""How many times as many pages per second ours reads at least."""


class Pipeline:
    name: ClassVar[str] = "pipeline"

    def measure(self, run: Run) -> None:
        self._chains(run)
        made = ocr.prepare()
        self._loops(run, made)
        self._servers(run, made)
        if run.round == 1:
            self._memory(run)

    def _chains(self, run: Run) -> None:
        """Nodes in a row that do nothing, and a handler that calls their functions."""
        folder = run.folder("chains")
        store = folder / "store"
        for count in _NODES:
            for way, fuse in _FUSE.items():
                chains.write_pipeline(store / _MODELS[way].format(count), count, fuse)
            chains.pack_functions(store, folder, count)
        with _serving(folder, store, f"split{_NODES[-1]}", b"x", b"x" + b"." * _NODES[-1]) as server:
            base = server.target
            assert isinstance(base, Request)
            for count in _NODES:
                right = b"x" + b"." * count
                for way, model in _MODELS.items():
                    url = base.url.rpartition("/")[0] + f"/{model.format(count)}"
                    asked = dataclasses.replace(
                        server, target=dataclasses.replace(base, url=url), is_right=right.__eq__, metrics=""
                    )
                    asked.wait_until_right()
                    closed_loop(asked.target, 1, WARM_UP_SECONDS)
                    run.record_closed_loop(asked, OURS, way, 1, f"{count} nodes")

    def _loops(self, run: Run, made: ocr.Ocr) -> None:
        engines = (_PADDLE, *filter(find_spec, (_OPENVINO,)))
        for title, flags in _LOOPS.items():
            if not {*engines}.intersection(flags):
                continue
            for processes in (os.cpu_count() or 1, _PROCESSES):
                rate = _loop_rate(made, flags, processes, max(run.seconds, _LEAST_SECONDS))
                configuration = f"{processes} processes"
                run.record(title, _READING, {"requests_per_second": rate}, configuration=configuration)

    def _servers(self, run: Run, made: ocr.Ocr) -> None:
        for name, engine in _OURS.items():
            try:
                store = ocr.pack(made, engine) if engine else made.store
                with _our_pages(made, store, run.folder(name)) as server:
                    _record_pages(run, server, name)
            except FAILURES as error:
                run.record(name, "start", {}, failure=str(error))
        for peer in _PEERS:
            try:
                peer.build()
                with peer.start(made, _WORKERS, run.folder(peer.name)) as server:
                    _record_pages(run, server, peer.name)
            except FAILURES as error:
                run.record(peer.name, "start", {}, failure=str(error))

    def _memory(self, run: Run) -> None:
        """Of all of our processes, after a tenth of the pages and after all of them."""
        made = ocr.prepare(goods=1)
        with _our_pages(made, made.store, run.folder("memory")) as server:
            sizes = []
            for count in (_PAGES // 10, _PAGES - _PAGES // 10):
                ask_pages(server.target, _CLIENTS, count)
                sizes.append(proportional_bytes(server.processes.all()))
        grown = (sizes[1] - sizes[0]) / (_PAGES - _PAGES // 10)
        values = {"first_mib": sizes[0] / 2**20, "last_mib": sizes[1] / 2**20, "grown_bytes_per_page": grown}
        run.record(OURS, _MEMORY, values)

    def report(self, results: ScenarioResults) -> str:
        rows = []
        for way in _MODELS:
            times = [results.median("p50_ms", f"{count} nodes", OURS, way) for count in _NODES]
            rows.append([way, *("–" if time is None else f"{time * 1e3:,.0f}" for time in times)])
        memory = [results.median(key, _MEMORY, OURS) for key in ("first_mib", "last_mib")]
        first, last = ("–" if value is None else tables.number(value) for value in memory)
        return (
            "Nodes in a row that do next to nothing, p50 of one client in µs:\n\n"
            f"{tables.table(['', *(f'{count} nodes' for count in _NODES)], rows)}\n"
            f"OCR, pages with 19 short texts, {_CLIENTS} clients:\n\n"
            f"{_pages_table(results)}\n"
            f"`{RapidOcr.name}` has a client for each process: asked by several at once, it gives wrong answers.\n"
            f"Memory of all our processes: {first} MiB after {_PAGES // 10:,} pages, {last} MiB after {_PAGES:,}.\n"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        most = f"{_NODES[-1]} nodes"
        split, plain = (results.median("p50_ms", most, OURS, way) for way in (_SPLIT, _FUNCTIONS))
        cost = (split - plain) * 1e3 / _NODES[-1] if split and plain else None
        found = [Target("c=1", f"p50 of {most}, less the same in one process, for each", cost, "≤", 150, "µs")]
        for name, limit in _LIMITS.items():
            best = results.best("requests_per_second", _READING, name)
            for ours in _OURS if name != _OTHER_LOOP else (OURS,):
                rate = results.median("requests_per_second", _READING, ours)
                text = f"{ours}, pages/s to the best of {name}"
                found.append(Target(_READING, text, ratio(rate, best and best[0]), "≥", limit))
        sizes = [results.median(key, _MEMORY, OURS) for key in ("last_mib", "first_mib")]
        return [*found, Target(_MEMORY, "memory, to that after a tenth of them", ratio(*sizes), "≤", 1.05)]


_COLUMNS = {"requests_per_second": "pages/s", "p50_ms": "p50, ms", "p99_ms": "p99, ms"}


def _pages_table(results: ScenarioResults) -> str:
    rows = []
    for server in results.servers():
        for configuration in results.configurations(server):
            values = [results.median(key, _READING, server, configuration) for key in _COLUMNS]
            if any(values):
                shown = ("–" if value is None else tables.number(value) for value in values)
                rows.append([f"{server}, {configuration}", *shown])
    return tables.table(["Server", *_COLUMNS.values()], rows)


def _serving(folder: Path, store: Path, model: str, body: bytes, answer: bytes) -> Server:
    """A server with all that is in the store; `model` is what is asked."""
    properties, addresses = settings_of(store, "all")
    config, file = folder / "config.properties", folder / "request"
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    file.write_bytes(body)
    command = [str(BIN / "pdserver"), "--start", "--foreground", "--pd-config", str(config)]
    target = Request(f"{addresses['inference']}/predictions/{model}", file, "application/octet-stream")
    return Server(Processes(command, folder, clean_environment()), target, answer.__eq__, metrics=addresses["metrics"])


def _our_pages(made: ocr.Ocr, store: Path, folder: Path) -> PageServer:
    server = _serving(folder, store, "ocr", b"", b"")
    assert isinstance(server.target, Request)
    try:
        wait_until_loaded(server)  # a page without texts is an answer, too
    except BaseException:
        server.processes.stop()
        raise
    return PageServer(server.processes, plain_target(server.target.url, made))


def _record_pages(run: Run, server: PageServer, name: str) -> None:
    clients = min(_CLIENTS, server.most_clients)
    done = closed_page_loop(server.target, clients, max(run.seconds, _LEAST_SECONDS), _SETTLE_SECONDS)
    values: Mapping[str, float] = {
        "requests_per_second": done.requests_per_second,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "requests": float(done.requests),
    }
    failure = f"{done.failures} requests failed" if done.failures else "" if done.requests else "nothing was answered"
    run.record(name, _READING, values, configuration=f"{clients} clients", failure=failure)


def _loop_rate(made: ocr.Ocr, flags: list[str], processes: int, seconds: float) -> float:
    """Pages per second of so many processes, which all begin when the last is ready."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.serving.ocr_loop", str(made.models), str(made.folder)]
    command += [*flags, "--seconds", str(seconds)]
    children = [
        subprocess.Popen(command, env=ocr.environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for child in children:
            assert child.stdout
            while (line := child.stdout.readline()) != "ready\n":
                if not line:
                    raise RuntimeError("a loop has ended before it was ready")
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.communicate()[0].splitlines()[-1]) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()
