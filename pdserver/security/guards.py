"""Builds security from the configuration: the guard of each port, the tokens, the certificate."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.routing import BaseRoute

from pdserver.configuration.server import KEYS, Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.security import listening, token_file
from pdserver.security.access import ANY, OPEN, Need, undeclared
from pdserver.security.guard import Guard
from pdserver.security.hosts import Hosts
from pdserver.security.keyring import Keyring
from pdserver.security.limits import TOKENS, Limits, SharedLimits
from pdserver.security.origins import Cors, Origins
from pdserver.security.restricted import Restriction, over_grpc, over_http
from pdserver.security.routes import Rule, Rules
from pdserver.security.tls import Certificate
from pdserver.system.shared_page import SharedPage

_log = logging.getLogger("pdserver.security")
_OTHER_DESCRIPTORS = 1024
"""Descriptors for workers, models and logs."""
_WITH_PAGES = frozenset({"management", "metrics"})
"""Ports whose pages come from plugins and are trusted. On other ports, a page may be some model's answer."""


class Guards:
    """The guards of one server."""

    def __init__(self, config: Config, state: Path, page: SharedPage | None = None) -> None:
        """Without a configured file, tokens are kept in the folder `state`. The limits hold for all processes together
        that share the page; the one with its first row makes the tokens, and says what is not safe.

        Raises ConfigError if the server would not be safe, or if its tokens or certificate can't be used.
        """
        addresses = config.addresses
        tokens = needs_tokens(config)
        main = page is None or page.number == 0
        if main:
            _refuse(config, addresses, tokens=tokens)
        self._config = config
        buffer_bytes = config.receive_buffer_bytes
        self._limits = Limits(buffer_bytes) if page is None else SharedLimits(buffer_bytes, page)
        self.max_connections = _connections_per_port(config, says=main)
        """The limit of each port."""
        self.receiving = self._limits.receiving
        """The budget of all ports together."""
        self.connections = self._limits.connections
        """Makes the set for the connections of a port, by its name."""
        self._hosts = Hosts([*config.allowed_hosts, *(address.host for address in addresses.values())])
        self.token_file = _token_file(config, state) if tokens else None
        expire_after_seconds = (config.token_expiration_minutes or math.inf) * 60
        self.keyring: Keyring | None = None
        if tokens:
            self.keyring = Keyring(
                config.tokens, self.token_file, expire_after_seconds, self._limits.failures(TOKENS), makes_tokens=main
            )
        http, grpc = over_http(config.http_restricted_api), over_grpc(config.grpc_restricted_protocol)
        self._restricted = {
            **dict.fromkeys(("inference", "oip", "paddle_serving", "tensorflow"), http),
            **dict.fromkeys(("grpc_inference", "oip_grpc", "tensorflow_grpc"), grpc),
        }
        self.certificate = _certificate(config)
        self.cors = Cors(config.cors_allowed_origin, config.cors_allowed_methods, config.cors_allowed_headers)

    def metrics(self, address: Address) -> Need:
        """What a call for the metrics at this address needs."""
        needs = self._config.metrics_token_authorization
        if needs is None:
            needs = not listening.is_loopback(address.host)
        return ANY if needs else OPEN

    def of(self, port: str, routes: Iterable[BaseRoute | Rule] = (), *, restricted_as: str = "") -> Guard:
        """The guard of a port. `routes` are those of an HTTP port, or their rules. What is restricted on another port
        is restricted here, too, if that is named."""
        return self._guard(port, routes, self._restricted.get(restricted_as or port, {}))

    def beside_http(self) -> Guard:
        """The guard of other protocols on a port of HTTP. What is restricted over HTTP is not open to them: they need
        the same header, unless gRPC's restriction of that API names another."""
        restricted = self._restricted["inference"] | self._restricted["grpc_inference"]
        return self._guard("grpc_inference", (), restricted)

    def _guard(self, port: str, routes: Iterable[BaseRoute | Rule], restricted: Mapping[str, Restriction]) -> Guard:
        others = undeclared(port)
        origins = Origins(self.cors, tokens=self.keyring is not None, own_pages=port in _WITH_PAGES)
        rules, failures = Rules(routes, others), self._limits.failures(port)
        return Guard(rules, others, self._hosts, self.keyring, origins, self.cors, restricted, failures)

    async def watch(self) -> None:
        """Put renewed tokens and certificates into force. Runs until it is cancelled."""
        watched = [self.keyring.watched if self.keyring else None, self.certificate and self.certificate.watched]
        await asyncio.gather(*(each.watch() for each in watched if each))


def check(config: Config) -> None:
    """Raises ConfigError where `Guards` would, but makes no tokens. It reads an existing file of tokens."""
    _refuse(config, config.addresses, tokens=needs_tokens(config))
    _certificate(config)
    if config.token_file is not None and config.token_file.exists():
        token_file.tokens(config.token_file, token_file.read(config.token_file))


def needs_tokens(config: Config) -> bool:
    outside = any(not listening.is_loopback(address.host) for address in config.addresses.values())
    off = config.disable_token_authorization
    return bool(outside or config.tokens or config.token_file) if off is None else not off


def _certificate(config: Config) -> Certificate | None:
    if config.certificate_file and config.private_key_file:
        return Certificate(config.certificate_file, config.private_key_file, config.client_ca_file)
    return None


def _refuse(config: Config, addresses: dict[str, Address], *, tokens: bool) -> None:
    problems = [] if config.allow_insecure else list(listening.exposures(addresses, tokens=tokens))
    if config.allow_insecure and (summary := listening.summary(addresses, tokens=tokens)):
        _log.warning("allow_insecure: %s", summary)
    if (config.certificate_file is None) != (config.private_key_file is None):
        problems.append("certificate_file and private_key_file belong together: set both, or neither")
    elif config.certificate_file is None:
        problems += listening.without_certificate(addresses)
        if config.client_ca_file:
            problems.append("client_ca_file needs certificate_file and private_key_file")
    if problems:
        raise ConfigError("\n".join(problems))


def _token_file(config: Config, state: Path) -> Path | None:
    """The configured file. Without any tokens, the file to create."""
    if config.token_file or config.tokens:
        return config.token_file
    address = config.management_address
    return state / f"tokens-{address.host.replace(':', '-')}_{address.port}.json"


def _connections_per_port(config: Config, *, says: bool) -> int:
    """The configured number, or fewer if the system has not enough descriptors. Raises this process's soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = len(config.addresses)
    wanted = config.max_connections * ports + _OTHER_DESCRIPTORS
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, -1) and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible >= wanted:
        return config.max_connections
    each = max(1, (possible - min(_OTHER_DESCRIPTORS, possible // 2)) // ports)
    if says:
        _say_fewer(config.max_connections, possible, each)
    return each


def _say_fewer(wanted: int, possible: int, each: int) -> None:
    # No warning for the default, which is more than most servers need.
    level = logging.INFO if str(wanted) == KEYS["max_connections"].default else logging.WARNING
    _log.log(
        level, "max_connections=%d: this process may have %d open files: each port takes %d connections",
        wanted, possible, each,
    )  # fmt: skip
