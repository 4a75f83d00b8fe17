"""A real `pdserver` in a process of its own, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import requests

BIN = Path(sys.executable).parent
PDSERVER = str(BIN / "pdserver")
START_SECONDS = 120.0
PATIENCE_SECONDS = 60.0
"""For what takes a moment: it is looked at until it holds, so only a failure takes that long."""
MANAGEMENT_DISTANCE = 20_000
"""Between the ports of a server that a foreign command line has started and its management's."""


# All are below the ports that the system gives out for connections, and so is the management of foreign servers.
_BLOCKS = range(13_000, 30_000, 100)
_FOREIGN_BLOCKS = range(10_000, 12_700, 20)
_CLAIMED_PORTS = 200


def _own_ports(blocks: range) -> Iterator[int]:
    """Ports by the block, each block this process's alone while it gives them out and for a while: the name of a socket
    claims it, and goes with the process."""
    claims: deque[int] = deque()  # descriptors, which nobody need close in the end
    for block in itertools.cycle(blocks):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0pdserver-tests-ports-{block}")
        except OSError:
            claim.close()
            continue
        claims.append(claim.detach())
        if len(claims) > _CLAIMED_PORTS // blocks.step:
            os.close(claims.popleft())
        yield from range(block, block + blocks.step)


_ports, _foreign_ports = _own_ports(_BLOCKS), _own_ports(_FOREIGN_BLOCKS)


def free_ports(count: int, *, foreign: bool = False) -> list[int]:
    """Different ports that nobody uses now, nor is given by any process of tests for long.

    For `foreign` servers, those of `pdserver serve` and `tensorflow_model_server`, nobody uses the ports of their
    management either.
    """
    if not foreign:
        return list(itertools.islice(filter(_is_free, _ports), count))
    found = (port for port in _foreign_ports if _is_free(port) and _is_free(port + MANAGEMENT_DISTANCE))
    return list(itertools.islice(found, count))


def _is_free(port: int) -> bool:
    try:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def eventually(check: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer of `check`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {check}"
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # whose parent died is init's to reap, in its time
    except psutil.NoSuchProcess:
        return False


def with_words(processes: Iterable[psutil.Process], *words: str) -> list[psutil.Process]:
    """Those that have all these words in their command line."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words):
                found.append(process)
    return found


def open_descriptors(pid: int) -> list[str]:
    """What a process has open, but for its logs: each is opened with its first line, which may be at any time."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return [name for name in found if not name.endswith(".log")]


def written_mib(pid: int) -> float:
    """Memory of its own that a process has written.

    Not what it alone maps ("uss", "pss"): pages of libraries move in and out of that as the kernel drops those of a
    process that has not used them for a while, such as the nursery.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [kib] = re.findall(r"^Private_Dirty: +(\d+) kB$", rollup, re.MULTILINE)
    return int(kib) / 1024


def run_directory(pid: int) -> Path:
    """The folder that a server has while it runs, and keeps locked."""
    [found] = {name for name in open_descriptors(pid) if re.search(r"/run-[^/]+$", name)}
    return Path(found)


class RunningServer:
    """Started in the foreground, with its log in a file; `inference`, `management` and `metrics` are its URLs.

    `grpc_inference` and `grpc_management` are host:port.
    """

    def __init__(
        self, folder: Path, store: Path, models: str = "all", settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        *ports, grpc_inference, grpc_management = free_ports(5)
        self.inference, self.management, self.metrics = (f"http://127.0.0.1:{port}" for port in ports)
        self.grpc_inference, self.grpc_management = f"127.0.0.1:{grpc_inference}", f"127.0.0.1:{grpc_management}"
        self.log_file = folder / "server.log"
        self.snapshots = folder / "logs" / "config" / self.management.removeprefix("http://").replace(":", "_")
        self.settings = {
            "inference_address": self.inference,
            "management_address": self.management,
            "metrics_address": self.metrics,
            "grpc_inference_port": str(grpc_inference),
            "grpc_management_port": str(grpc_management),
            "model_store": str(store),
            "load_models": models,
            **(settings or {}),
        }
        self.config = folder / "config.properties"
        self.config.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        self.session = requests.Session()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def command(self) -> list[str]:
        return [PDSERVER, "--start", "--foreground", "--pd-config", str(self.config)]

    def start(self) -> None:
        """Returns when the server has said that it is ready."""
        environment = clean_environment()
        if "front_ends" in self.settings:
            environment.pop("PD_FRONT_ENDS", None)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )

        def started() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return "Model server started." in self.log()

        eventually(started, START_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status; nothing of the server is left. Idempotent."""
        self.session.close()
        assert self.process is not None
        family = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        assert not alive, f"left behind: {alive}"
        return status

    def insist(self) -> None:
        """Signal until the server ends at once; one that comes within a second is the same signal."""
        process = self.process
        assert process is not None

        def is_heard() -> bool:
            process.send_signal(signal.SIGTERM)
            return "again: ending at once" in self.log()

        eventually(is_heard)
        assert process.wait(PATIENCE_SECONDS) == 0

    def family(self) -> list[psutil.Process]:
        """The nursery and the workers, and the front ends if they are processes of their own."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def before(self) -> list[psutil.Process]:
        """The main process and the front ends: those that clients' data pass through."""
        assert self.process is not None
        return [psutil.Process(self.process.pid), *self.front_ends()]

    def front_ends(self) -> list[psutil.Process]:
        return [each for each in self.family() if _is_front_end(each)]

    def behind(self) -> list[psutil.Process]:
        """The nursery and the workers."""
        return [each for each in self.family() if not _is_front_end(each)]

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logged(self, words: str, times: int = 1) -> None:
        """Waits until the log has these words: what a worker prints goes its own way, and may come after its answer."""
        eventually(lambda: self.log().count(words) >= times)

    # HTTP

    def predict(self, model: str, data: Any = None, **how: Any) -> requests.Response:
        how.setdefault("timeout", PATIENCE_SECONDS)
        return self.session.post(f"{self.inference}/predictions/{model}", data=data, **how)

    def manage(self, method: str, path: str, **how: Any) -> requests.Response:
        how.setdefault("timeout", PATIENCE_SECONDS)
        return self.session.request(method, self.management + path, **how)

    def describe(self, model: str) -> dict[str, Any]:
        described: dict[str, Any] = self.manage("GET", f"/models/{model}").json()[0]
        return described

    def pids(self, model: str) -> set[int]:
        """Of the model's ready workers."""
        return {worker["pid"] for worker in self.describe(model)["workers"] if worker["status"] == "READY"}

    def ping(self) -> requests.Response:
        return self.session.get(f"{self.inference}/ping", timeout=PATIENCE_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of the metrics port."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.session.get(f"{self.metrics}/metrics", timeout=PATIENCE_SECONDS).text
        values = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(values) == 1, f"{name} {labels}: {values}"
        return float(values[0])


def _is_front_end(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # it is just dying
        return "pdserver.server.front_end" in process.cmdline()
    return False


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure a server, but for what `make test FRONT_ENDS=2` says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PD_", "TS_"))}
    count = os.environ.get("FRONT_ENDS")
    return clean | {"PD_FRONT_ENDS": count} if count else clean
