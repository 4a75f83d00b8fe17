"""The server's certificate, and its renewal while the server runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from pdserver.errors import ConfigError
from pdserver.security.token_file import read_private
from pdserver.security.watched import Watched

_log = logging.getLogger("pdserver.security")
_MAX_BYTES = 1024 * 1024
HANDSHAKE_SECONDS = 10.0
"""Time for a client's TLS handshake."""
_EXPIRED, _NOT_YET_VALID = 10, 9
"""OpenSSL's verify codes X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID."""


class Certificate:
    """A certificate, its private key, and perhaps the authority whose certificates clients must show: all PEM files."""

    def __init__(self, certificate: Path, private_key: Path, client_ca: Path | None) -> None:
        """Raises ConfigError if the files can't be used."""
        self._certificate = certificate
        self._private_key = private_key
        self._client_ca = client_ca
        self._check()
        self.context, self.http2_context = _context("http/1.1"), _context("h2")
        self._shared_context = _context("http/1.1", "h2")
        """A renewal changes these contexts in place. Open connections keep their old certificate."""
        for context in self._contexts():
            if client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
            self._load_into(context)
        self.watched = Watched([certificate, private_key, *([client_ca] if client_ca else [])], self._renew)

    def _contexts(self) -> tuple[ssl.SSLContext, ...]:
        return self.context, self.http2_context, self._shared_context

    def context_for(self, *, with_http2: bool) -> ssl.SSLContext:
        """For a port of HTTP/1.1, perhaps with HTTP/2. A client that knows both, such as a browser, gets HTTP/1.1;
        those of gRPC know HTTP/2 only."""
        return self._shared_context if with_http2 else self.context

    def _check(self) -> None:
        """Check the files in a separate context, so that a bad file never gets into the ones in use."""
        for path in (self._certificate, self._client_ca):
            try:
                if path is not None:
                    path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        read_private(self._private_key, "private_key_file", _MAX_BYTES)
        trial = _context("http/1.1")
        self._load_into(trial)
        until = self._valid_until(trial)
        _log.info("certificate_file=%s is valid until %s", self._certificate, until)

    def _load_into(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._certificate, self._private_key, password=self._no_password)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConfigError(
                f"certificate_file={self._certificate}, private_key_file={self._private_key}: {reason}:"
                " expected a certificate and the key that belongs to it, both PEM"
            ) from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(f"client_ca_file={self._client_ca}: {error}: expected certificates, PEM") from None

    def _no_password(self) -> str:
        raise ConfigError(
            f"private_key_file={self._private_key}: the key is encrypted:"
            f" openssl pkey -in {self._private_key} -out FILE writes it without a password"
        )

    def _valid_until(self, context: ssl.SSLContext) -> str:
        """The end of the certificate's validity, for a client that trusts it. Raises ConfigError if it is not valid
        now."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(self._certificate)
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = client.wrap_bio(to_client, to_server)
        ours = context.wrap_bio(to_server, to_client, server_side=True)
        try:
            for side in (theirs, ours) * 3:
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
            return str((theirs.getpeercert() or {}).get("notAfter"))
        except ssl.SSLCertVerificationError as error:
            what = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}.get(error.verify_code)
            raise ConfigError(
                f"certificate_file={self._certificate}: {what or error.verify_message}: renew it"
            ) from None
        except ssl.SSLError as error:
            raise ConfigError(f"certificate_file={self._certificate}: {error.reason}: create a new one") from None

    def _renew(self) -> None:
        try:
            self._check()
            for context in self._contexts():
                self._load_into(context)
        except ConfigError as error:
            _log.error("%s; the certificate that there was stays in use", error)
        else:
            _log.info("certificate_file=%s has changed, and is in use", self._certificate)


def _context(*protocols: str) -> ssl.SSLContext:
    """The first of the protocols that a client knows is spoken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(protocols)
    return context
