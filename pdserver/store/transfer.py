"""One download, in a thread of its own, from a server that may be hostile.

It connects to the address that was checked, checks each redirect anew, and keeps limits of size and time that a server
cannot stretch by sending little by little. It uses no proxies, cookies or credentials, whatever the environment says.

It is written with http.client, since `requests` would make it longer and weaker. A Session of `requests` reads the
whole body of a redirect into memory, even of one that it does not follow. `requests` and urllib3 parse and rewrite the
URL once more. They trust certifi's authorities instead of the system's. And to choose the address, and to be able to
stop while connecting, one has to override a private method of urllib3.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from typing import BinaryIO
from urllib.parse import urljoin

from pdserver.configuration.sources import AllowedUrls, Url, parse_url
from pdserver.errors import ArchiveUnusable, Forbidden, PdError, Unavailable
from pdserver.formats.values import shown

_log = logging.getLogger("pdserver.downloads")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 60.0
_CHUNK_BYTES = 256 * 1024
_PROGRESS_SECONDS = 5.0


class Transfer:
    """`run` may be called once; `stop` ends it, from any thread."""

    def __init__(
        self,
        url: Url,
        allowed: AllowedUrls,
        *,
        max_bytes: int,
        timeout_seconds: float,
        limits: tuple[str, str] = ("max_archive_size", "download_timeout"),
    ) -> None:
        """`limits`: what errors call `max_bytes` and `timeout_seconds`."""
        self._url = url
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._limits = limits
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._stopped: PdError | None = None
        """Why `stop` was called. The lock guards this and the socket."""

    def run(self, file: BinaryIO) -> None:
        """Write what is at the URL to `file`.

        Raises ArchiveUnusable for what cannot be downloaded, Forbidden for an address or a redirect that is not
        allowed, Unavailable when there is no room for it.
        """
        late = f"{self._url}: not downloaded within {self._timeout_seconds:g} s ({self._limits[1]})"
        timer = threading.Timer(self._timeout_seconds, self.stop, [ArchiveUnusable(late)])
        timer.daemon = True
        timer.start()
        try:
            with contextlib.closing(self._answer()) as answer:
                self._receive(answer, file)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._stopped or ArchiveUnusable(f"{self._url}: cannot be downloaded: {_reason(error)}") from None
        finally:
            timer.cancel()
            with self._lock:
                if self._sock is not None:
                    self._sock.close()
                    self._sock = None

    def stop(self, why: PdError) -> None:
        """Make `run` raise `why`. The socket's own timeout would not do: a byte now and then puts it off for ever."""
        with self._lock:
            self._stopped = self._stopped or why
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # the TLS state belongs to the other thread

    def _answer(self) -> http.client.HTTPResponse:
        """The answer that is the archive, after redirects."""
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._ask(url)
            if response.status not in _REDIRECTS:
                break
            with contextlib.closing(response):
                url = self._redirected(url, response.getheader("Location", ""))
        else:
            raise ArchiveUnusable(f"{self._url}: was redirected more than {_MAX_REDIRECTS} times")
        if response.status != 200:
            response.close()
            raise ArchiveUnusable(f"{url}: answered {response.status} {shown(response.reason)}")
        return response

    def _redirected(self, url: Url, location: str) -> Url:
        try:
            # `parse_url` alone decides what a URL means, so it reads what urljoin made as well.
            found = parse_url(urljoin(str(url), location))
        except ValueError as error:
            raise ArchiveUnusable(f"{url}: was redirected to {shown(location)}: {error}") from None
        if found.scheme == "file":
            raise Forbidden(f"{url}: was redirected to a file")
        try:
            self._allowed.check_prefix(found)
        except Forbidden as error:
            raise Forbidden(f"{url}: was redirected: {error}") from None
        return found

    def _ask(self, url: Url) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(url.host, url.port)
        connection.default_port = 443 if url.scheme == "https" else 80
        connection.sock = self._connect(url)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "pdserver"}
        connection.request("GET", url.path + url.query, headers=headers)
        return connection.getresponse()

    def _connect(self, url: Url) -> socket.socket:
        sock = _connected(url, self._addresses(url))
        self._hold(sock)
        if url.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(
                sock, server_hostname=url.host, do_handshake_on_connect=False
            )
            self._hold(sock)
            sock.do_handshake()
        sock.settimeout(_SILENT_SECONDS)
        return sock

    def _hold(self, sock: socket.socket) -> None:
        """Note the socket that `stop` has to shut down. Raises ConnectionAbortedError after a stop."""
        with self._lock:
            if self._stopped:
                sock.close()
                raise ConnectionAbortedError
            self._sock = sock

    def _addresses(self, url: Url) -> list[str]:
        """The host's addresses that may be connected to. Raises Forbidden when there are none."""
        found = {str(info[4][0]) for info in socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)}
        allowed = [text for text in sorted(found) if self._allowed.may_connect(url, ipaddress.ip_address(text))]
        if not allowed:
            raise Forbidden(
                f"{url}: {url.host} is at a private address ({', '.join(sorted(found))}), which"
                f" {self._allowed.key} does not name: add the address to it, if that is meant"
            )
        return allowed

    def _receive(self, response: http.client.HTTPResponse, file: BinaryIO) -> None:
        encoding = response.getheader("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise ArchiveUnusable(f"{self._url}: came in the encoding {shown(encoding)}, which was not asked for")
        expected = response.length
        self._check_size(expected or 0)
        of = f" of {expected:,}" if expected is not None else ""
        _log.info("downloading %s%s", self._url, f": {expected:,} bytes" if expected is not None else "")
        started = told = time.monotonic()
        received = 0
        while data := response.read1(_CHUNK_BYTES):
            received += len(data)
            self._check_size(received)
            try:
                file.write(data)
            except OSError as error:
                raise Unavailable(f"{self._url}: cannot be stored: {error.strerror}") from None
            if time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                _log.info("downloading %s: %s%s bytes", self._url, f"{received:,}", of)
        if response.length or self._stopped:
            raise ConnectionAbortedError(f"ended after {received:,}{of} bytes")
        _log.info("downloaded %s: %s bytes in %.1f s", self._url, f"{received:,}", time.monotonic() - started)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ArchiveUnusable(f"{self._url}: more than {self._max_bytes:,} bytes ({self._limits[0]})")


def _connected(url: Url, addresses: list[str]) -> socket.socket:
    """A connection to the first address that answers. Raises OSError."""
    problem = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, url.port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            problem = error
    raise problem


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"silent for {_SILENT_SECONDS:g} s, or not connected within {_CONNECT_SECONDS:g} s"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(text) or type(error).__name__
