"""A load balancer of a cluster: HAProxy, as a child process that reads what it is to do from files.

The sockets are this process's own. HAProxy inherits them, so that clients wait and are not refused while it is
replaced, and they are open before it runs. A change is checked before it takes effect, and takes effect without a lost
request: new processes of HAProxy take over, and the old ones answer what they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pdserver.cluster import haproxy, sockets
from pdserver.cluster.base import EntranceView
from pdserver.cluster.haproxy_process import CONFIGURATION, HaproxyProcess, check, write_private
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError, PdError, Unavailable
from pdserver.security import listening
from pdserver.security.watched import Watched
from pdserver.system.folders import make_folder

_log = logging.getLogger("pdserver.cluster")
_LIVED_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
_NOTHING = EntranceView({}, frozenset(), (), "")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where an entrance listens, and how requests get in."""

    addresses: Mapping[str, Address]
    """By the names inference, grpc, management, grpc_management and metrics, or some of them. The last three lead to
    the controller, and may be the same; so may the first two."""
    certificate_file: str = ""
    private_key_file: str = ""
    client_ca_file: str = ""
    """With whose certificates clients prove who they are; empty: they need none."""
    node_ca_file: str = ""
    """Whose certificates the nodes have, if they have any; empty: the system's authorities are believed."""
    options: haproxy.Options = haproxy.Options()


def settings(config: Config, addresses: Mapping[str, Address], *, token: str = "") -> Settings:
    """As one server with this configuration does it, but at these addresses. `token`: see `haproxy.Options`. Raises
    ConfigError if that would not be safe."""
    for name in ("inference", "grpc"):
        for other in ("management", "grpc_management", "metrics"):
            if name in addresses and addresses[name].port and addresses.get(other) == addresses[name]:
                raise ConfigError(f"{other}={addresses[name]}: predictions come in there: choose another port for it")
    by_key = {_key(name): address for name, address in addresses.items()}
    tokens = not config.disable_token_authorization
    problems = [] if config.allow_insecure else list(listening.exposures(by_key, tokens=tokens))
    if not (config.certificate_file and config.private_key_file):
        problems += listening.without_certificate(by_key)
    if problems:
        raise ConfigError("\n".join(problems))
    return Settings(
        addresses=addresses,
        certificate_file=str(config.certificate_file or ""),
        private_key_file=str(config.private_key_file or ""),
        client_ca_file=str(config.client_ca_file or ""),
        node_ca_file=str(config.peers_ca_file or ""),
        options=haproxy.Options(
            sequence_headers=config.sequence_headers,
            token=token,
            slow_client_seconds=config.slow_client_timeout_seconds,
            idle_seconds=config.idle_timeout_seconds,
            most_connections=config.max_connections,
        ),
    )


class HaproxyEntrance:
    """An `Entrance`. `folder` is its own, and holds secrets: the certificate's key, and a token if there is one."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self._settings = settings
        self._process = HaproxyProcess(folder)
        self._sockets: dict[str, socket.socket] = {}
        self._view = _NOTHING
        self._files: Mapping[str, bytes] = {}
        """Those that HAProxy has read."""
        self._changing = asyncio.Lock()
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self.addresses: dict[str, str] = {}
        """HOST:PORT by the names of the settings, with the real port where 0 was asked for."""

    def told(self, machine: str) -> dict[str, str]:
        """Where clients find it, by the names of the settings: URLs, and HOST:PORT of gRPC. `machine` is its machine's
        address, for ports that are open at all of them."""
        found = {name: sockets.where(sock, machine) for name, sock in self._sockets.items()}
        tls = {name: address.tls for name, address in self._settings.addresses.items()}
        return {
            name: where if "grpc" in name else f"{'https' if tls[name] else 'http'}://{where}"
            for name, where in found.items()
        }

    async def open(self) -> None:
        """Answer from now on; 503 until the first `show`. Raises ConfigError when a port can't be opened, or HAProxy is
        missing or refuses the settings; Unavailable when it does not start."""
        try:
            make_folder(self.folder, 0o700)
            self.folder.chmod(0o700)
            opened: dict[Address, socket.socket] = {}
            for name, address in self._settings.addresses.items():
                sock = opened.get(address) if address.port else None
                self._sockets[name] = opened[address] = sock or sockets.listening(_key(name), address)
                self.addresses[name] = sockets.where(self._sockets[name])
            self._files = self._made(self._view)
            await self._write(self._files)
            await self._process.start(self._descriptors)
        except BaseException:
            await self.close(0)
            raise
        self._tasks = [asyncio.create_task(each) for each in (self._keep_running(), self._watch_certificates())]

    async def show(self, view: EntranceView) -> None:
        """As an `Entrance`. Raises ConfigError when HAProxy refuses what comes of it, Unavailable when it takes no
        orders; then what was shown before holds."""
        async with self._changing:
            if self._closed:
                raise Unavailable("the entrance is closed")
            files = self._made(view)
            if files != self._files:
                self._files = {}  # it is not known which ones, should this fail
                await self._write(files)
                await self._process.reload()
            self._files, self._view = files, view

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Accept nothing more, and answer what is there within this time. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._changing:
            if not self._closed:
                self._process.drain()
            self._closed = True
            for sock in self._sockets.values():
                with contextlib.suppress(OSError):  # it may be closed already
                    sock.shutdown(socket.SHUT_RDWR)  # HAProxy has it, too
                sock.close()
        await self._process.end(grace_seconds)

    async def statistics(self) -> bytes:
        """HAProxy's, as CSV with one line for each server. Raises OSError."""
        return await self._process.statistics()

    @property
    def pid(self) -> int:
        """Of HAProxy's master process."""
        return self._process.pid

    @property
    def _descriptors(self) -> tuple[int, ...]:
        return tuple({sock.fileno() for sock in self._sockets.values()})

    async def _write(self, files: Mapping[str, bytes]) -> None:
        """Raises ConfigError when HAProxy refuses them, Unavailable when the disk is full; then those before stay."""
        trial = self.folder / "next"
        try:
            make_folder(trial, 0o700)
            for name, content in files.items():
                write_private(trial / name, content)
        except OSError as error:
            raise Unavailable(f"{trial}: can't be written: {error.strerror}") from None
        await check(trial, self._descriptors)
        for name in files:
            (trial / name).replace(self.folder / name)

    def _made(self, view: EntranceView) -> dict[str, bytes]:
        """The files by their names. Raises ConfigError when a certificate can't be read."""
        settings = self._settings
        options = msgspec.structs.replace(
            settings.options,
            descriptors=_most_descriptors(),
            certificate=bool(settings.certificate_file),
            client_ca=bool(settings.client_ca_file),
        )
        tls = {name: address.tls for name, address in settings.addresses.items()}
        ports = {name: haproxy.Port(sock.fileno(), tls[name]) for name, sock in self._sockets.items()}
        made = haproxy.texts(view, options, ports)
        for node in made.left_out:
            _log.error("node %s gets no requests: its address is none", node)
        files = {CONFIGURATION: made.configuration.encode(), haproxy.ROUTES: made.routes.encode()}
        for name, sources in (
            (haproxy.CERTIFICATE, (settings.certificate_file, settings.private_key_file)),
            (haproxy.CLIENT_CA, (settings.client_ca_file,)),
            (haproxy.NODE_CA, (settings.node_ca_file or ssl.get_default_verify_paths().cafile or "",)),
        ):
            if all(sources):
                files[name] = b"\n".join(map(_read, sources))
        return files

    async def _keep_running(self) -> None:
        """Replace a HAProxy that has ended: at once, and more slowly when it ends again and again."""
        pause_seconds = 0.0
        while True:
            started = time.monotonic()
            await self._process.ended()
            lived = time.monotonic() - started > _LIVED_SECONDS
            pause_seconds = 0.0 if lived else min(max(0.1, pause_seconds * 2), _LONGEST_PAUSE_SECONDS)
            _log.error("HAProxy has ended; it is replaced in %g s", pause_seconds)
            await asyncio.sleep(pause_seconds)
            async with self._changing:
                with contextlib.suppress(PdError, OSError):  # it is tried again
                    await self._process.start(self._descriptors)

    async def _watch_certificates(self) -> None:
        """Put renewed ones into force."""
        settings = self._settings
        names = (settings.certificate_file, settings.private_key_file, settings.client_ca_file, settings.node_ca_file)
        changed = asyncio.Event()
        watched = Watched([Path(name) for name in names if name], changed.set)
        watching = asyncio.create_task(watched.watch())
        try:
            while await changed.wait():
                changed.clear()
                try:
                    await self.show(self._view)
                except PdError as error:
                    _log.error("the certificates that were used before hold: %s", error)
        finally:
            watching.cancel()


def _key(name: str) -> str:
    """Of the configuration, for a port."""
    return "grpc_inference_address" if name == "grpc" else f"{name}_address"


def _most_descriptors() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**20 if hard == resource.RLIM_INFINITY else hard


def _read(name: str) -> bytes:
    """Raises ConfigError."""
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}: name a file with a certificate or key in PEM") from None
