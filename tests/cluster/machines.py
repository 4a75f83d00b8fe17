"""Machines with addresses of their own: network namespaces on one bridge, with links that can be cut.

    with network(folder, 3) as hosts:
        hosts.join()                                     a Ray cluster; the first one is its head
        hosts[0].run(PDSERVER, "cluster", "start", …)
        with hosts[1].cut(): …                           nobody reaches it, and it reaches nobody

This process is on the bridge as well, so it reaches all of them. They share its disks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.cluster.nodes import OBJECT_STORE_BYTES
from tests.running import BIN, clean_environment, lives, with_words

RAY = str(BIN / "ray")
RAY_PORT = 6379
_START_SECONDS = 60
_NETWORKS = range(1, 250)
_PASSES_ON, _DISABLED = "3", "0"
"""States of a port of the bridge."""
_NETWORK = 0x40000000
"""CLONE_NEWNET."""
_NOBODY = "02:00:00:00:00:01"
_CLEAR_AWAY = """
read -r _
for name in {names}; do
    while pids=$(ip netns pids $name 2>/dev/null); [ -n "$pids" ]; do kill -9 $pids 2>/dev/null; sleep 0.05; done
    ip link delete $name 2>/dev/null
    ip netns delete $name 2>/dev/null
done
ip link delete {bridge} 2>/dev/null
rm -rf {folder}
"""


class Host:
    """One machine. Its processes have a home folder and a network of their own."""

    def __init__(self, name: str, address: str, home: Path) -> None:
        self.name = name
        """Of its network namespace, and of its port of the bridge."""
        self.address = address
        self.home = home
        """Its path is short: Ray's sockets are below it."""
        home.mkdir()

    def command(self, *words: str) -> list[str]:
        """A command line that runs these words here."""
        ray = ["RAY_USAGE_STATS_ENABLED=0", f"RAY_raylet_start_wait_time_s={_START_SECONDS}"]
        home = [f"HOME={self.home}", f"RAY_TMPDIR={self.home}", *ray]
        return ["ip", "netns", "exec", self.name, "env", "-u", "XDG_STATE_HOME", *home, *words]

    def run(self, *words: str, seconds: float = 150.0) -> str:
        """What the command says. It may leave processes running. Fails when its status is not 0."""
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                self.command(*words),
                cwd=self.home,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=seconds,
                check=False,
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, said
        return said

    def start_ray(self, *words: str, **environment: str) -> None:
        """With a folder of its own, else machines that share a disk take the names of one another's sockets."""
        settings = (f"{name}={value}" for name, value in environment.items())
        light = ("--num-cpus=1", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={self.home}/ray")
        self.run("env", *settings, RAY, "start", *words, *light)

    def processes(self) -> list[psutil.Process]:
        """All that run here."""
        found = []
        for pid in _run("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return [process for process in found if lives(process)]

    def named(self, *words: str) -> list[psutil.Process]:
        """Those that have all these words in their command line."""
        return with_words(self.processes(), *words)

    def kill(self) -> None:
        """As when the power goes: what runs here ends, and says no word of it."""
        with self.cut():
            while processes := self.processes():
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(processes, 10)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The connections that this thread makes meanwhile come from here."""
        system = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{self.name}") as here:
            assert system.setns(here.fileno(), _NETWORK) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert system.setns(own.fileno(), _NETWORK) == 0, os.strerror(ctypes.get_errno())

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """What is sent to and from here meanwhile is lost, and nobody is told."""
        _run("bridge", "link", "set", "dev", self.name, "state", _DISABLED)
        try:
            yield
        finally:
            _run("bridge", "link", "set", "dev", self.name, "state", _PASSES_ON)

    @contextlib.contextmanager
    def parted(self, others: Sequence[Host]) -> Iterator[None]:
        """The same, but only for what is sent between here and these others."""
        pairs = [pair for other in others for pair in ((self, other), (other, self))]
        for one, another in pairs:
            words = (another.address, "lladdr", _NOBODY, "nud", "permanent", "dev", "eth0")
            _run("ip", "-n", one.name, "neigh", "replace", *words)
        try:
            yield
        finally:
            for one, another in pairs:
                _run("ip", "-n", one.name, "neigh", "delete", another.address, "dev", "eth0")


class Hosts(list[Host]):
    """Machines that reach one another; the first one is Ray's head."""

    @property
    def address(self) -> str:
        """HOST:PORT of the Ray cluster."""
        return f"{self[0].address}:{RAY_PORT}"

    @property
    def host(self) -> str:
        """The address of the head."""
        return self[0].address

    @staticmethod
    def ports() -> list[int]:
        """Five free ones of the head, which Ray does not give out."""
        return [8080, 8081, 8082, 7070, 7071]

    def command(self, *words: str) -> list[str]:
        """A command line that runs these words on the head."""
        return self[0].command(*words)

    def join(self) -> None:
        """Begin a Ray cluster of all, which takes no programs from others."""
        head, *others = self
        head.run(RAY, "get-auth-token", "--generate")
        head.start_ray("--head", f"--port={RAY_PORT}", "--include-dashboard=false")
        for host in others:
            self.add(host)

    def add(self, host: Host) -> None:
        """Have a machine join, for the first time or again. On a busy machine, Ray sometimes waits in vain for one that
        begins: then it begins anew."""
        shutil.copytree(self[0].home / ".ray", host.home / ".ray", dirs_exist_ok=True)
        for tries_left in (2, 1, 0):
            try:
                host.start_ray(f"--address={self.address}", RAY_AUTH_MODE="token")
                return
            except AssertionError:
                if not tries_left:
                    raise
                host.kill()


@contextlib.contextmanager
def network(count: int) -> Iterator[Hosts]:
    """So many machines, and then nothing of them. Skips the test where this user may not have them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "bridge"))):
        pytest.skip("machines with addresses of their own need root, ip and bridge")
    with _claimed() as number:
        bridge, folder = f"pdt{number:03}", Path(tempfile.mkdtemp(prefix="pdt"))
        hosts = Hosts(
            Host(f"{bridge}-{index}", f"198.18.{number}.{index}", folder / str(index)) for index in range(1, count + 1)
        )
        with _cleared_away(bridge, hosts, folder):
            try:
                _connect(bridge, f"198.18.{number}.254", hosts)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"this system makes no network namespaces and bridges: {error.stderr.strip()}")
            yield hosts


@contextlib.contextmanager
def _claimed() -> Iterator[int]:
    """The number of a network that no other process of tests has, nor has left to be cleared away."""
    for number in _NETWORKS:
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0pdserver-tests-network-{number}")
            except OSError:
                continue
            if not list(Path("/sys/class/net").glob(f"pdt{number:03}*")):
                yield number
                return
    pytest.fail("all networks are taken")


@contextlib.contextmanager
def _cleared_away(bridge: str, hosts: Hosts, folder: Path) -> Iterator[None]:
    """By a process of its own, which also does so when this one is killed."""
    script = _CLEAR_AWAY.format(bridge=bridge, names=" ".join(host.name for host in hosts), folder=folder)
    clearing = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        clearing.communicate(timeout=60)


def _connect(bridge: str, own: str, hosts: Hosts) -> None:
    """Raises CalledProcessError."""
    _run("ip", "link", "add", bridge, "type", "bridge")
    _run("ip", "address", "add", f"{own}/24", "dev", bridge)
    _run("ip", "link", "set", bridge, "up")
    for host in hosts:
        inside = ("ip", "-n", host.name)
        _run("ip", "netns", "add", host.name)
        _run("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _run("ip", "link", "set", host.name, "master", bridge, "up")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "route", "add", "default", "via", own)  # by which Ray finds its machine's address


def _run(*words: str) -> str:
    """Raises CalledProcessError."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
