"""The key front_ends, and the sockets that front ends share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdserver.configuration import values
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import Config
from pdserver.doctor import machine
from pdserver.errors import ConfigError
from pdserver.server.ports import Ports

SERVED_BY_FRONT_ENDS = {"inference", "grpc_inference", "oip", "oip_grpc", "tensorflow", "tensorflow_grpc"}
_GRPC = {"address": "127.0.0.1", "port": "0"}


@pytest.fixture
def stack() -> Iterator[contextlib.AsyncExitStack]:
    found = contextlib.AsyncExitStack()
    yield found
    asyncio.run(found.aclose())


def config(folder: Path, front_ends: str, **more: str) -> Config:
    addresses = {f"{name}_address": "http://127.0.0.1:0" for name in ("inference", "management", "metrics")}
    ports = {f"grpc_{name}_{key}": value for name in ("inference", "management") for key, value in _GRPC.items()}
    return load_config({"model_store": str(folder), **addresses, **ports, "front_ends": front_ends, **more}, {})


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (7, 1), (8, 2), (12, 3), (16, 4), (192, 4)])
def test_auto_follows_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr(values, "core_count", lambda: cores)
    assert values.front_ends("auto") == expected


@pytest.mark.parametrize("text", ["0", "65", "two", "1.5", "-1", "true"])
def test_what_is_no_number_of_front_ends_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=f"front-ends={text}: expected auto, or a number of processes from 1 to 64"):
        config(tmp_path, text)


def test_a_single_process_has_plain_sockets(tmp_path: Path, stack: contextlib.AsyncExitStack) -> None:
    ports = Ports(config(tmp_path, "1"), stack)
    assert ports.of_front_ends == []
    assert set(ports.sockets) == {*ports.addresses}
    shared = [each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for [each] in ports.sockets.values()]
    assert not any(shared)


def test_each_front_end_has_its_own_socket_of_each_port(tmp_path: Path, stack: contextlib.AsyncExitStack) -> None:
    own = {f"{name}_address": "http://127.0.0.1:0" for name in SERVED_BY_FRONT_ENDS if not name.startswith("grpc")}
    ports = Ports(config(tmp_path, "3", **own), stack)
    assert set(ports.sockets) == {"management", "metrics", "grpc_management"}
    assert [set(each) for each in ports.of_front_ends] == [SERVED_BY_FRONT_ENDS] * 3
    for name in SERVED_BY_FRONT_ENDS:
        sockets = [sock for each in ports.of_front_ends for sock in each[name]]
        assert len({sock.fileno() for sock in sockets}) == 3
        [address] = {sock.getsockname() for sock in sockets}
        assert str(address[1]) in ports.addresses[name]


def test_a_port_that_shares_the_inference_ports_address_goes_with_it(
    tmp_path: Path, stack: contextlib.AsyncExitStack
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        one = f"http://127.0.0.1:{sock.getsockname()[1]}"
    ports = Ports(config(tmp_path, "2", inference_address=one, management_address=one, metrics_address=one), stack)
    assert set(ports.sockets) == {"grpc_management"}
    assert ports.joined == {"management": "inference", "metrics": "inference"}


@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_a_second_server_on_the_port_is_refused(
    tmp_path: Path, stack: contextlib.AsyncExitStack, front_ends: str
) -> None:
    port = Ports(config(tmp_path, "2"), stack).of_front_ends[0]["inference"][0].getsockname()[1]
    taken = f"inference_address=http://127.0.0.1:{port}"
    with pytest.raises(ConfigError, match=f"{taken}: Address already in use: stop what uses it, or choose another"):
        Ports(config(tmp_path, front_ends, inference_address=f"http://127.0.0.1:{port}"), stack)


def test_another_program_that_shares_the_port_gets_no_connection(
    tmp_path: Path, stack: contextlib.AsyncExitStack
) -> None:
    """It may bind the port, as gRPC's servers do unless they are told not to; then it waits in vain."""
    front_ends = Ports(config(tmp_path, "2"), stack).of_front_ends
    address = front_ends[0]["inference"][0].getsockname()
    with contextlib.ExitStack() as sockets:
        stranger = sockets.enter_context(socket.socket())
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(address)
        stranger.listen(100)
        stranger.setblocking(False)
        for _ in range(60):
            sockets.enter_context(socket.create_connection(address))
        with pytest.raises(BlockingIOError):
            stranger.accept()
        accepted = [_accepted(each["inference"][0]) for each in front_ends]
    assert sum(accepted) == 60
    assert all(accepted)


def test_connections_go_to_those_front_ends_that_answer(tmp_path: Path, stack: contextlib.AsyncExitStack) -> None:
    ports = Ports(config(tmp_path, "4"), stack)
    address = ports.of_front_ends[0]["inference"][0].getsockname()
    for living in ([0, 3], [2], [0, 1, 2, 3]):
        ports.share(living)
        with contextlib.ExitStack() as clients:
            for _ in range(100):
                clients.enter_context(socket.create_connection(address))
            accepted = [_accepted(each["inference"][0]) for each in ports.of_front_ends]
        assert sum(accepted) == 100
        assert [number for number, count in enumerate(accepted) if count] == living


def _accepted(door: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            door.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize(
    ("front_ends", "said", "problem"),
    [
        ("1", "none apart: the main process answers on all ports", ""),
        ("2", "2 processes", ""),
        ("3", "3 processes", "front_ends=3: 2 cores run no more than 2 at a time: lower it, or set it to auto"),
    ],
)
def test_doctor_says_what_the_cores_are_enough_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front_ends: str, said: str, problem: str
) -> None:
    monkeypatch.setattr(machine, "core_count", lambda: 2)
    [found] = [each for each in machine.look(config(tmp_path, front_ends), {}) if each.name == "front ends"]
    assert (found.value, found.problem) == (said, problem)
