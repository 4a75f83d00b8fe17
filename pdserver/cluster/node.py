"""A node: the pdserver of one machine, and what the cluster keeps there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from pdarchiver.staging import staged_file
from pdserver.cluster.archives import Archives, NoRoom
from pdserver.cluster.base import Archive, CopyStatus, Holder, NodeStatus, Target
from pdserver.cluster.copies import Copies, Figures
from pdserver.cluster.server_process import ServerProcess
from pdserver.cluster.state import SnapshotFile
from pdserver.configuration.values import Address, address
from pdserver.errors import PdError, Unavailable
from pdserver.peers.base import Addresses, Peers
from pdserver.security.listening import is_loopback
from pdserver.system.devices import gpu_count, memory
from pdserver.system.folders import make_folder
from pdserver.types import ModelRef

_log = logging.getLogger("pdserver.cluster")
LOOPBACK = "127.0.0.1"
_MEASURE_SECONDS = 5.0
_LASTING_SECONDS = 3.0
"""A copy whose workers have been gone for so long has a problem."""
_SOON_SECONDS = 10.0
"""A server that has lived for less has not got far."""
_LONGEST_WAIT_SECONDS = 30.0
STARTING = "the node's server is starting"
_NO_FIGURES = Figures(0, False)
_PORTS = ("inference", "metrics", "grpc_inference", "management", "grpc_management")
"""In the order of their numbers."""


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is told when it begins."""

    node: str
    """Its id."""
    cluster: str = "cluster"
    """The cluster's id: the snapshots of others are not kept."""
    host: str = LOOPBACK
    """By which the other machines reach it."""
    listen: str = ""
    """Where its server listens; "": at `host`."""
    port: int = 0
    """Of inference; the next four are those of metrics, gRPC, management and gRPC management. 0: any that are free."""
    settings: Mapping[str, str] = {}
    """Of its server, by the keys of config.properties. The node sets those of the ports and folders itself."""
    environment: Mapping[str, str] = {}
    """PD_ and TS_ variables of its server, the tokens among them."""
    directory: str = ""
    """The folder where relative paths of the settings begin, if the machine has it."""


class NodeAgent:
    """A `Node`. Its server ends with this process, and is replaced when it dies before."""

    def __init__(self, folder: Path, options: NodeOptions, hang_seconds: float = 30.0) -> None:
        """`folder` is the node's own, and is made when it is missing. A server that is silent for `hang_seconds` is
        replaced like one that died. Raises OSError."""
        make_folder(folder, 0o700)
        self._folder = folder.resolve()
        self._options = options
        self._hang_seconds = hang_seconds
        self._archives = Archives(self._folder / "archives")
        self._disk = SnapshotFile(self._folder / "snapshots" / options.cluster)
        self.server = ServerProcess(self._folder, options.environment, options.directory)
        self._copies = Copies(self.server, self._archives)
        self._ports = self._last_ports()
        self.target: Target | None = None
        self._revision = 0
        self._keeping: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._problem = STARTING
        """Why the server does not run."""
        self._no_room: NoRoom | None = None
        """Why the disk took no more."""
        self._faulty_since: dict[ModelRef, float] = {}
        """Since when the server has said that a copy does not serve, in seconds of `time.monotonic`."""

    async def start(self) -> None:
        """Start the server; `status` tells when it could not be started. It is tried again."""
        psutil.cpu_percent()  # the first call only begins the interval
        await asyncio.to_thread(self._forget_other_clusters)
        if not self._has_last_peers():
            await self._show(Peers(self._options.node, {}, ()))
        await self._start_server()
        keepers = (self._keep_running(), self._keep_answering(), self._keep_measuring())
        self._keeping = [asyncio.create_task(keeper) for keeper in keepers]

    async def close(self) -> None:
        """End the server, after it has answered what it took. Idempotent."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self.server.stop()
        await self._copies.close()

    # What a `Node` does

    async def status(self) -> NodeStatus:
        told: Mapping[str, Any] = {}
        problem = self._problem
        try:
            told = await self.server.ask()
        except Unavailable as error:
            problem = problem or str(error)
        size = memory()
        return NodeStatus(
            node=self._options.node,
            host=self._options.host,
            addresses=self._addresses(),
            version=told.get("version", ""),
            revision=self._revision,
            copies=self._copies_told(told),
            memory_bytes=size.total_bytes,
            free_bytes=size.free_bytes,
            gpus=gpu_count(),
            load=psutil.cpu_percent() / 100,
            archives=self._archives.digests(),
            problem=problem or self._room_problem(),
        )

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        try:
            await self._archives.fetch(archive, holder)
        except NoRoom as error:
            self._no_room = error
            raise

    async def apply(self, target: Target) -> NodeStatus:
        async with self._telling:
            if self.target is None or target.revision >= self.target.revision:
                self.target = target
                await self._tell(target)
        return await self.status()

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await self._archives.piece(sha256, offset)

    async def keep(self, revision: int, snapshot: bytes) -> None:
        try:
            await self._disk.keep(revision, snapshot)
        except Unavailable as error:
            self._no_room = NoRoom(str(error), len(snapshot))
            raise

    async def kept(self) -> tuple[int, bytes]:
        return await self._disk.kept()

    async def restart(self) -> None:
        """Raises Unavailable when the server does not start again."""
        async with self._starting:
            await self.server.stop()
            async with self._telling:
                self.target = None
            await self._start_server()
        self.check()

    def check(self) -> None:
        """Raises Unavailable when the server does not start."""
        if self._problem:
            raise Unavailable(self._problem)

    # The server

    async def _keep_running(self) -> None:
        """Replace the server when it dies, and have it serve what it did."""
        wait_seconds = 0.0
        while True:
            born = time.monotonic()
            status = await self.server.wait()
            await asyncio.sleep(wait_seconds)
            async with self._starting:
                if self.server.runs:  # it was restarted on purpose
                    continue
                _log.warning("the node's server has ended with status %d, and is replaced", status)
                await self._start_server()
                async with self._telling:
                    if self.target is not None:
                        await self._tell(self.target)
            lived_seconds = time.monotonic() - born
            soon = lived_seconds < _SOON_SECONDS
            wait_seconds = min(max(1.0, 2 * wait_seconds), _LONGEST_WAIT_SECONDS) if soon else 0.0

    async def _keep_answering(self) -> None:
        """Kill a server that hangs."""
        answered = time.monotonic()
        while True:
            await asyncio.sleep(self._hang_seconds / 10)
            with contextlib.suppress(Unavailable):
                await self.server.ask()
                answered = time.monotonic()
            if self._problem:  # there is none
                answered = time.monotonic()
            if time.monotonic() - answered > self._hang_seconds:
                _log.error("the node's server has not answered for %.0f s, and is killed", self._hang_seconds)
                self.server.signal(signal.SIGKILL)
                answered = time.monotonic()

    async def _start_server(self) -> None:
        """At the ports that it had, or else at others if it may."""
        self._revision, self._problem = 0, self._problem or STARTING
        await self._copies.close()
        problem = ""
        for ports in [self._ports, {}] if self._ports and not self._options.port else [{}]:
            try:
                await self.server.start(self._settings(ports))
            except Unavailable as error:
                problem = str(error)
            else:
                self._problem = ""
                self._remember_ports()
                return
        self._problem = problem
        _log.error("%s", problem)

    def _remember_ports(self) -> None:
        told = self.server.addresses
        self._ports = {name: int(told[name].rpartition(":")[2]) for name in _PORTS if name in told}
        with contextlib.suppress(OSError):  # a full disk: the next server may have others
            self._ports_path.write_bytes(msgspec.json.encode(self._ports))

    @property
    def _ports_path(self) -> Path:
        return self._folder / "ports.json"

    def _last_ports(self) -> dict[str, int]:
        """Those of the last server in this folder: load balancers may know them."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._ports_path.read_bytes(), type=dict[str, int])
        return {}

    def _settings(self, ports: Mapping[str, int]) -> dict[str, str]:
        """Those of the server."""
        options = self._options
        listen = options.listen or options.host
        tls = bool(options.settings.get("certificate_file")) and not is_loopback(listen)
        first = options.port

        def port(name: str) -> int:
            return first + _PORTS.index(name) if first else ports.get(name, 0)

        return {
            "access_log_probes": "false",  # the controller and the entrance ask all the time
            **options.settings,
            "inference_address": str(Address(listen, port("inference"), tls)),
            "metrics_address": str(Address(listen, port("metrics"), tls)),
            "grpc_inference_address": listen,
            "grpc_inference_port": str(port("grpc_inference")),
            "enable_grpc_ssl": str(tls).lower(),
            "management_address": str(Address(listen, port("management"), tls)),
            "grpc_management_address": LOOPBACK,
            "grpc_management_port": str(port("grpc_management")),
            "model_store": str(self._archives.folder),
            "load_models": "",
            "model_control_mode": "none",  # the controller loads and unloads
            "config_snapshots": "false",
            "state_location": str(self._folder / "state"),
            "log_location": str(self._folder / "logs"),
            "peers_file": str(self._peers_path),
        }

    def _addresses(self) -> Addresses:
        """As other machines see them, who may not see where a server that listens everywhere does."""
        told = self.server.addresses

        def url(name: str) -> str:
            return str(dataclasses.replace(address(told[name]), host=self._options.host)) if name in told else ""

        grpc = address(f"http://{told['grpc_inference']}") if "grpc_inference" in told else None
        where = dataclasses.replace(grpc, host=self._options.host).host_and_port if grpc else ""
        if where and url("inference").startswith("https:"):  # then gRPC has TLS, too
            where = f"grpcs://{where}"
        return Addresses(url("inference"), url("management"), url("metrics"), where)

    # What it serves

    async def _tell(self, target: Target) -> None:
        await self._show(target.peers)
        try:
            await self._copies.want(target.copies)
        except PdError as error:  # it has died, and its successor will be told
            _log.warning("the node's server was not told what to serve: %s", error)
            return
        self._revision = target.revision
        await self._remove_unused(target)

    async def _remove_unused(self, target: Target) -> None:
        await self._archives.keep_only(target.archives | {copy.archive.sha256 for copy in target.copies})

    def _copies_told(self, told: Mapping[str, Any]) -> tuple[CopyStatus, ...]:
        """`told` is what the server says of itself; empty: nothing."""
        serving, problems = told.get("models", {}), told.get("problems", {})

        def status(ref: ModelRef) -> CopyStatus:
            figures = self._copies.figures.get(ref, _NO_FIGURES)
            ready = serving.get(str(ref), 0) > 0 and not self._copies.is_other(ref) and self._copies.has(ref)
            problem = self._copies.problems.get(ref, "")
            fault = "" if ready or self._copies.is_changing(ref) else problems.get(str(ref), "")
            problem = self._lasting(ref, fault) or problem
            return CopyStatus(
                ref, ready, problem, figures.memory_bytes, figures.sequences, contract=figures.contract,
                sha256=self._copies.sha256(ref),
            )  # fmt: skip

        known = list(self._copies.known())
        self._faulty_since = {ref: since for ref, since in self._faulty_since.items() if ref in known}
        return tuple(map(status, known))

    def _lasting(self, ref: ModelRef, fault: str) -> str:
        """The fault if it lasts: a worker that has died is replaced in a moment, and its copy had better stay here."""
        now = time.monotonic()
        if not fault:
            self._faulty_since.pop(ref, None)
        elif now - self._faulty_since.setdefault(ref, now) >= _LASTING_SECONDS:
            return fault
        return ""

    async def _keep_measuring(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_SECONDS)
            with contextlib.suppress(PdError):
                await self._copies.measure()
            if not self._telling.locked():  # else it is done then
                await self._remove_what_is_old()

    async def _remove_what_is_old(self) -> None:
        """An archive that came shortly before nobody needed it any more was left at that time."""
        async with self._telling:
            if self.target is not None and self.target.revision == self._revision:
                with contextlib.suppress(OSError):  # it is tried again
                    await self._remove_unused(self.target)

    # The disk

    async def _show(self, peers: Peers) -> None:
        """To the server, which watches the file. A disk that is full leaves the file as it was."""
        try:
            await asyncio.to_thread(self._write_peers, msgspec.json.encode(peers))
        except OSError as error:
            self._no_room = NoRoom(f"{self._peers_path}: can't be written: {error.strerror}", 0)
            _log.error("%s", self._no_room)

    def _has_last_peers(self) -> bool:
        """Whether this node's last server has left what its successor is to pass requests on by, until it is told."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._peers_path.read_bytes(), type=Peers).node == self._options.node
        return False

    def _write_peers(self, content: bytes) -> None:
        with staged_file(self._peers_path) as stage:
            stage.chmod(0o600)
            stage.write_bytes(content)

    def _forget_other_clusters(self) -> None:
        for other in self._folder.glob("snapshots/*"):
            if other.name != self._options.cluster:
                shutil.rmtree(other, ignore_errors=True)
                self._peers_path.unlink(missing_ok=True)

    @property
    def _peers_path(self) -> Path:
        return self._folder / "peers.json"

    def _room_problem(self) -> str:
        """Why the disk took no more, as long as that is so."""
        if self._no_room is not None and shutil.disk_usage(self._archives.folder).free > self._no_room.bytes:
            self._no_room = None
        return str(self._no_room or "")
