"""A server with handlers that do whatever is asked of them, beside a neighbour who must not notice.

What holds after every fault: the neighbour was answered all the time, all workers that are wanted serve, nothing waits,
no process, zombie or descriptor is left over, and the server's own code has logged no traceback.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.running import RunningServer, eventually, open_descriptors

CANARY = "canary"
_CANARY_SECONDS = 0.1
_WORKERS_OWN = re.compile(r"\S+/\S+ worker \d+ \|")


class Canary:
    """Asks the neighbour ten times a second; `complaints` are what was not its own answer."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.model = CANARY
        self.complaints: list[str] = []
        self.asked = 0

    def _ask(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                nonce = f"canary {self.asked}"
                try:
                    answer = session.post(
                        f"{self._server.inference}/predictions/{self.model}", json={"nonce": nonce}, timeout=60
                    )
                except requests.RequestException as error:
                    self.complaints.append(str(error))
                else:
                    if answer.status_code != 200 or answer.json()["nonce"] != nonce:
                        self.complaints.append(f"{answer.status_code} {answer.text}")
                self.asked += 1
                self._stop.wait(_CANARY_SECONDS)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Ward:
    server: RunningServer
    store: Path
    workers: Mapping[str, int]
    """How many each model wants."""
    canary: Canary
    descriptors: int = 0
    logged: int = 0
    """Of the log, what was looked at."""
    nonces: int = field(default=0)

    @property
    def process(self) -> psutil.Process:
        assert self.server.process is not None
        return psutil.Process(self.server.process.pid)

    # Requests

    def ask(self, model: str, op: str = "", *, timeout: float = 30, headers: Any = None, **how: Any) -> Any:
        """The answer. One that is 200 and JSON must have the request's nonce."""
        self.nonces += 1
        nonce = f"nonce {self.nonces} {time.monotonic_ns()}"
        body = {"nonce": nonce, **({"op": op} if op else {}), **how}
        answer = requests.post(
            f"{self.server.inference}/predictions/{model}", json=body, headers=headers, timeout=timeout
        )
        if answer.status_code == 200 and answer.headers["content-type"] == "application/json":
            said = answer.json()
            if isinstance(said, dict) and "nonce" in said:
                assert said["nonce"] == nonce, "another one's answer"
        return answer

    def together(self, model: str, *bodies: dict[str, Any]) -> list[Any]:
        with ThreadPoolExecutor(len(bodies)) as threads:
            return list(threads.map(lambda body: self.ask(model, **body), bodies))

    def ask_for_a_batch(self, model: str) -> int:
        """As many times at once as it waits for; the status of all answers."""
        [status] = {answer.status_code for answer in self.together(model, *[{}] * (8 if model == "batch" else 1))}
        return int(status)

    def register(self, query: str) -> requests.Response:
        return self.server.manage("POST", f"/models?{query}")

    def unregister(self, name: str) -> requests.Response:
        return self.server.manage("DELETE", f"/models/{name}")

    def names(self) -> list[str]:
        return [model["modelName"] for model in self.server.manage("GET", "/models?limit=1000").json()["models"]]

    def pids(self, model: str) -> set[int]:
        return self.server.pids(model)

    # What must hold

    def whole(self) -> bool:
        """Whether all that is wanted serves, and nothing else is there."""
        described = {model: self.server.describe(model) for model in self.workers}
        pids: set[int] = set()
        for model, wanted in self.workers.items():
            ready = {w["pid"] for w in described[model]["workers"] if w["status"] == "READY"}
            if len(ready) != wanted or described[model]["jobQueueStatus"]["pendingRequests"]:
                return False
            pids |= ready
        behind = {process.pid for process in self.server.behind()}
        nursery = {child.pid for child in self.process.children()} & behind - pids
        return len(nursery) == 1 and behind == pids | nursery

    def idle(self) -> bool:
        text = self.server.session.get(f"{self.server.metrics}/metrics?name[]=pd_workers", timeout=60).text
        return not re.search(r'state="(?!ready|busy)[a-z]+",\} [1-9]|model_name="(?!canary)[^}]*"busy",\} [1-9]', text)

    def open_descriptors(self) -> int:
        """Of the server, without those of this side's idle connections."""
        self.server.session.close()
        return sum(len(open_descriptors(process.pid)) for process in self.server.before())

    def check(self) -> None:
        """All of it."""
        eventually(self.whole)
        eventually(self.idle)
        eventually(lambda: self.open_descriptors() <= self.descriptors)
        assert self.canary.complaints == []
        live = self.server.session.get(f"{self.server.inference}/ping", timeout=60)
        assert live.status_code == 200, live.text
        log = self.server.log()
        new, self.logged = log[self.logged :], len(log)
        faults = [line for line in own_lines(new) if "Traceback" in line or "never retrieved" in line]
        assert faults == []


def own_lines(log: str) -> list[str]:
    """Those that no worker has written."""
    return [line for line in log.splitlines() if not _WORKERS_OWN.search(line)]
