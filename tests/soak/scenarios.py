"""What is done to the server, and the figures of it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import requests

from pdserver.client import Client, ClientError
from pdserver.client.grpc import GrpcClient
from tests.conftest import FIT, fit_file, pack_handler
from tests.running import RunningServer, run_directory, written_mib
from tests.soak.client import Connection, Tally, ask, clients

_WORKERS = 3
_CLIENTS = 16
_KILL_SECONDS = 1.0
_MOST_GROWTH_MIB = 4.0


@dataclass
class Figure:
    """A row of the table. `kept`: whether the promise was."""

    promise: str
    measured: str
    wanted: str
    kept: bool


def _server(folder: Path, **settings: str) -> RunningServer:
    store = folder / "store"
    store.mkdir(parents=True)
    pack_handler(store, "faults", name="echo", config=f"minWorkers: {_WORKERS}\nbatchSize: 8\n")
    pack_handler(store, "faults", name="other", config="minWorkers: 1\n")
    pack_handler(store, "faults", name="guest", config="minWorkers: 1\n").rename(folder / "guest.pdar")
    return RunningServer(folder / "server", store, "all", settings)


@dataclass
class State:
    """What must not grow."""

    descriptors: int
    threads: int
    written_mib: float
    series: int
    folders: int


def _look(server: RunningServer) -> State:
    server.session.close()
    time.sleep(0.5)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    run = run_directory(server.process.pid)
    text = requests.get(f"{server.metrics}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if not line.startswith(("#", "pd_workers"))]  # those are by state
    time.sleep(0.5)
    return State(
        process.num_fds(),
        process.num_threads(),
        written_mib(process.pid),
        len(lines),
        len(list((run / "archives").iterdir())),
    )


def _lag_p99_ms(server: RunningServer) -> float:
    """The bound below which 99 % of the event loop's lags were."""
    text = requests.get(f"{server.metrics}/metrics?name[]=pd_event_loop_lag_seconds_bucket", timeout=10).text
    buckets = [line.split('le="')[1].split('"') for line in text.splitlines() if 'le="' in line]
    counts = [(float(bound), float(rest.split()[-1])) for bound, rest in buckets]
    return 1000 * next(bound for bound, count in counts if count >= 0.99 * counts[-1][1])


def kills(folder: Path, requests_wanted: int) -> list[Figure]:
    """A worker is killed each second, under load."""
    with _server(folder) as server:
        for model in ("echo", "other"):
            warm_up(server, model, min(5_000, requests_wanted // 10))
        before = _look(server)
        tally, bystander, recoveries = Tally(), Tally(), list[float]()
        began = time.monotonic()

        async def play() -> None:
            def more() -> bool:
                return tally.sent < requests_wanted

            await asyncio.gather(
                clients(tally, server.inference, "echo", _CLIENTS, more),
                clients(bystander, server.inference, "other", 1, more),
                _kill_each_second(server, recoveries, more),
            )

        asyncio.run(play())
        seconds = time.monotonic() - began
        retried = server.metric("pd_requests_retried_total", model_name="echo")
        restarts = server.metric("pd_worker_restarts_total", model_name="echo")
        lag = _lag_p99_ms(server)
        until_ready(server, _WORKERS)
        after = _look(server)
    grown = [getattr(after, name) - getattr(before, name) for name in ("descriptors", "threads")]
    growth = (after.written_mib - before.written_mib) * 1e6 / tally.sent
    recoveries.sort()
    p99 = recoveries[min(len(recoveries) - 1, int(0.99 * len(recoveries)))]
    say = f"of {tally.sent:,} requests in {seconds:.0f} s, with {len(recoveries)} workers killed"
    return [
        Figure("lost, a worker killed each second", f"{len(tally.lost)} {say}", "0", not tally.lost),
        Figure("another one's answer", f"{len(tally.wrong)}", "0", not tally.wrong),
        Figure("run once more by the server", f"{retried:.0f}, {restarts:.0f} workers replaced", "", True),
        Figure(
            "requests a second; p50, p99, longest",
            f"{tally.sent / seconds:,.0f}/s; {tally.percentile_ms(0.5):.1f}, {tally.percentile_ms(0.99):.1f},"
            f" {tally.percentile_ms(1):.0f} ms",
            "",
            True,
        ),
        Figure(
            "a killed worker replaced and ready: p50, p99",
            f"{1000 * recoveries[len(recoveries) // 2]:.0f}, {1000 * p99:.0f} ms",
            "p99 ≤ 1 s",
            p99 <= 1,
        ),
        Figure(
            "another model meanwhile: lost; p99",
            f"{len(bystander.lost)} of {bystander.sent:,}; {bystander.percentile_ms(0.99):.1f} ms",
            "0",
            not bystander.lost,
        ),
        Figure("lag of the event loop: p99", f"below {lag:g} ms", "≤ 100 ms", lag <= 100),
        Figure(
            "grown, front end: descriptors, threads",
            ", ".join(map(str, grown)),
            "0, 0",
            max(grown) <= 0,
        ),
        Figure("grown, front end: memory, by a million requests", f"{growth:.1f} MiB", "", True),
    ]


def warm_up(server: RunningServer, model: str, count: int) -> None:
    """What is allocated once for all requests is no growth."""
    tally = Tally()
    asyncio.run(clients(tally, server.inference, model, _CLIENTS, lambda: tally.sent < count))


async def _kill_each_second(server: RunningServer, recoveries: list[float], more: Callable[[], bool]) -> None:
    dice = random.Random(3)
    while more():
        await asyncio.sleep(_KILL_SECONDS)
        pids = await asyncio.to_thread(server.pids, "echo")
        if not pids or not more():
            continue
        victim = dice.choice(sorted(pids))
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        await asyncio.to_thread(until_ready, server, _WORKERS, victim)
        recoveries.append(time.monotonic() - began)


def until_ready(server: RunningServer, count: int, without: int = 0) -> None:
    """Wait until so many workers of "echo" are ready, not counting `without`, which was killed."""
    while len(server.pids("echo") - {without}) < count:
        time.sleep(0.01)


def cycles(folder: Path, count: int) -> list[Figure]:
    """A model is registered, asked and unregistered, again and again, while another one is asked."""
    with _server(folder) as server:
        (folder / "guest.pdar").rename(folder / "store" / "guest.pdar")

        def cycle() -> bool:
            registered = server.manage("POST", "/models?url=guest.pdar&initial_workers=1&synchronous=true").ok
            answered = server.predict("guest", json={}).ok
            return registered and answered and server.manage("DELETE", "/models/guest").ok

        for _ in range(20):
            assert cycle()
        for name in ("other", "nobody"):  # what is measured for the first time is no growth
            server.predict(name, json={})
        before = _look(server)
        failed = 0
        tally = Tally()

        async def play() -> None:
            done = False

            async def register() -> None:
                nonlocal done, failed
                for _ in range(count):
                    failed += not await asyncio.to_thread(cycle)
                done = True

            await asyncio.gather(register(), clients(tally, server.inference, "other", 1, lambda: not done))

        asyncio.run(play())
        after = _look(server)
    grown = [getattr(after, name) - getattr(before, name) for name in ("descriptors", "threads", "series", "folders")]
    return [
        Figure("failed registrations", f"{failed} of {count}", "0", not failed),
        Figure("another model meanwhile: lost", f"{len(tally.lost)} of {tally.sent:,}", "0", not tally.lost),
        Figure(
            "grown: descriptors, threads, series, folders", ", ".join(map(str, grown)), "0, 0, 0, 0", max(grown) <= 0
        ),
        Figure(
            "grown: memory, by a thousand cycles",
            f"{(after.written_mib - before.written_mib) * 1e3 / count:.1f} MiB",
            "",
            True,
        ),
    ]


def runs(folder: Path, requests_wanted: int) -> list[Figure]:
    """A tiny real model is asked over REST and gRPC: neither the server nor the worker may grow by what they answer."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FIT, str(folder)], check=True, capture_output=True)
    weights = np.load(folder / "weights.npz")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "base_handler", "fit", config="batchSize: 8\n", serialized_file=fit_file(folder))
    rows = np.random.default_rng(4).normal(size=(100, 1, 13)).astype(np.float32)
    expected = rows @ weights["w"] + weights["b"]
    with (
        RunningServer(folder / "server", store, "all") as server,
        ThreadPoolExecutor(_CLIENTS) as pool,
    ):
        assert server.process is not None
        pids = (server.process.pid, *server.pids("fit"))

        def ask_often(number: int, count: int) -> tuple[int, int, int]:
            """How many were sent, how many were lost, and how many had another one's answer."""
            lost = wrong = 0
            with GrpcClient(server.grpc_inference) if number % 2 else Client(server.inference) as client:
                for turn in range(count):
                    place = (number + turn) % len(rows)
                    try:
                        [answer] = client.infer("fit", {"x": rows[place]}).values()
                    except ClientError:
                        lost += 1
                    else:
                        wrong += not np.allclose(answer, expected[place], atol=1e-5)
            return count, lost, wrong

        def ask(count: int) -> list[tuple[int, int, int]]:
            return list(pool.map(ask_often, range(_CLIENTS), [count // _CLIENTS] * _CLIENTS))

        def held_mib() -> list[float]:
            return [written_mib(pid) for pid in pids]

        ask(min(10_000, requests_wanted // 2))
        before = held_mib()
        tally = ask(requests_wanted)
        grown = [after - earlier for after, earlier in zip(held_mib(), before, strict=True)]
    sent, lost, wrong = (sum(column) for column in zip(*tally, strict=True))
    return [
        Figure("a real model over REST and gRPC: lost", f"{lost} of {sent:,}", "0", not lost),
        Figure("another one's answer", f"{wrong}", "0", not wrong),
        Figure(
            "grown: memory of the front end, of the worker",
            " MiB, ".join(f"{size:.1f}" for size in grown) + " MiB",
            f"≤ {_MOST_GROWTH_MIB:g} MiB each",
            max(grown) <= _MOST_GROWTH_MIB,
        ),
    ]


def restarts(folder: Path, count: int) -> list[Figure]:
    """The server is stopped under load, and started again."""
    server = _server(folder)
    server.start()
    tally, longest, statuses = Tally(), 0.0, set[int]()

    async def play() -> None:
        nonlocal longest
        done = False

        async def restart() -> None:
            nonlocal done, longest
            for _ in range(count):
                await asyncio.sleep(0.5)
                began = time.monotonic()
                statuses.add(await asyncio.to_thread(server.stop))
                longest = max(longest, time.monotonic() - began)
                server.log_file.unlink()
                await asyncio.to_thread(server.start)
            await asyncio.sleep(0.5)
            done = True

        await asyncio.gather(restart(), clients(tally, server.inference, "echo", _CLIENTS, lambda: not done, new=True))

    asyncio.run(play())
    server.stop()
    return [
        Figure(
            "lost when the server is stopped (SIGTERM)",
            f"{len(tally.lost)} of {tally.sent:,} requests, {count} stops",
            "0",
            not tally.lost,
        ),
        Figure("exit status; longest stop", f"{sorted(statuses)}; {longest:.1f} s", "0; ≤ 25 s", statuses == {0}),
    ]


def murders(folder: Path, count: int) -> list[Figure]:
    """The server is killed under load, with what its handlers have started, and started again."""
    server = _server(folder)
    server.start()
    left, slowest, unserved = 0, 0.0, 0
    for _ in range(count):
        children = [
            server.predict("other", json={"op": "spawn", "escape": escape}).json()["child"] for escape in (0, 1)
        ]
        family = [*server.family(), *map(psutil.Process, children)]
        assert server.process is not None
        server.process.kill()
        began = time.monotonic()
        alive = family
        while alive and time.monotonic() - began < 2:
            alive = [process for process in alive if _lives(process)]
            time.sleep(0.002)
        slowest = max(slowest, time.monotonic() - began)
        left += len(alive)
        server.process.wait()
        server.log_file.unlink()
        server.start()
        unserved += server.predict("echo", json={}).status_code != 200
    server.stop()
    return [
        Figure(
            "processes left after kill -9 of the server",
            f"{left}, {count} times; all gone within {1000 * slowest:.0f} ms",
            "0 within 2 s",
            not left,
        ),
        Figure("not served after the next start", f"{unserved} of {count}", "0", not unserved),
    ]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def overload(folder: Path, seconds: float) -> list[Figure]:
    """One worker, 20 ms for each request, more and more of them; each is worth something for half a second."""
    store = folder / "store"
    store.mkdir(parents=True)
    pack_handler(store, "faults", name="slow", config="minWorkers: 1\n")
    good: dict[float, float] = {}
    refusals: list[float] = []
    with RunningServer(folder / "server", store) as server:
        assert server.process is not None
        held = written_mib(server.process.pid)
        for load in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0):
            good[load] = asyncio.run(_offer(server.inference, load * 50, seconds, refusals))
        grown = written_mib(server.process.pid) - held
    refusals.sort()
    peak = max(good.values())
    rows = ", ".join(f"{load:g}×: {rate:.0f}/s" for load, rate in good.items())
    p99 = 1000 * refusals[int(0.99 * len(refusals))] if refusals else 0.0
    return [
        Figure("answered in time, by load", rows, "", True),
        Figure("at ten times the load, of the peak", f"{good[10.0] / peak:.2f}", "≥ 0.9", good[10.0] >= 0.9 * peak),
        Figure("refused within: p50, p99", f"{1000 * refusals[len(refusals) // 2]:.1f}, {p99:.1f} ms", "", True),
        Figure("grown: memory of the front end", f"{grown:.1f} MiB", "", True),
    ]


async def _offer(url: str, rate: float, seconds: float, refusals: list[float]) -> float:
    """Requests at a constant rate, whatever becomes of them; how many a second were answered within half a second."""
    tally, good, tasks = Tally(), 0, set[asyncio.Task[None]]()
    idle: list[Connection] = []

    async def one(due: float) -> None:
        nonlocal good
        connection = idle.pop() if idle else Connection(url)
        began = time.monotonic()
        headers = "x-request-timeout-ms: 500\r\n"
        status = await ask(tally, connection, "slow", headers, op="sleep", seconds=0.02)
        good += status == 200 and time.monotonic() - due <= 0.5
        if status == 503:
            refusals.append(time.monotonic() - began)
        idle.append(connection)

    started = time.monotonic()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.ensure_future(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    pending: list[Awaitable[None]] = list(tasks)
    await asyncio.gather(*pending)
    for connection in idle:
        connection.close()
    return good / seconds
