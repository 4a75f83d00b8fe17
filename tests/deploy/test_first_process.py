"""The server as a container's first process, with a read-only root."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import pack_handler
from tests.deploy.contained import Contained, made, needs_namespaces
from tests.running import eventually
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


@pytest.fixture
def start(tmp_path: Path, store: Path) -> Iterator[Callable[[], Contained]]:
    needs_namespaces()
    pack_handler(store, "chaos")
    server = made(tmp_path / "server", store)

    def started() -> Contained:
        server.start()
        return server

    yield started
    if server.process is not None:
        server.process.kill()
        server.process.wait()


def names_of_children(server: Contained) -> list[str]:
    """With those that have ended and are not reaped yet."""
    return [child.name() for child in server.first().children()]


def test_it_serves_reaps_what_others_leave_behind_and_answers_before_it_ends(
    start: Callable[[], Contained], store: Path
) -> None:
    server = start()
    assert server.predict("chaos", json={"nonce": 7}).json()["nonce"] == 7
    [child] = server.first().children()
    server.run("sh", "-c", "sleep 0.2 & sleep 600 & exit 0")
    eventually(lambda: names_of_children(server) == ["pdserver", "sleep"])  # the first one is gone without a trace
    server.run("sh", "-c", f"! touch {store}/x /x /tmp/x 2>/dev/null")
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{child.pid}/status").read_text()
    answers: list[requests.Response] = []
    begun, go = (str(server.folder / name) for name in ("begun", "go"))
    asked = threading.Thread(
        target=lambda: answers.append(server.predict("chaos", json={"op": "wait_for", "begun": begun, "go": go}))
    )
    asked.start()
    eventually(Path(begun).exists)
    server.first().send_signal(signal.SIGTERM)
    server.logged("SIGTERM: stopping")
    Path(go).touch()
    asked.join()
    assert answers[0].status_code == 200
    assert server.process is not None
    assert server.process.wait(60) == 0
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGKILL, 128 + signal.SIGKILL)])
def test_it_ends_as_the_server_does(start: Callable[[], Contained], number: signal.Signals, status: int) -> None:
    """An orderly stop by way of the first process; a crash of the server itself."""
    server = start()
    first = server.first()
    (first if number == signal.SIGINT else first.children()[0]).send_signal(number)
    assert server.process is not None
    assert server.process.wait(60) == status
