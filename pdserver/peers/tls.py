"""TLS to the other servers of a set: whom to believe, and what to show to those that ask."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable

from pdserver.configuration.server import Config
from pdserver.errors import ConfigError
from pdserver.security.watched import Watched

_log = logging.getLogger("pdserver.peers")


class TlsToNodes:
    """Nodes must show a certificate for their host, and are shown the server's own if they ask.

    A renewal of the files makes another `context`, once `watched` has looked: ask for it anew for each connection.
    Those that are open go on.
    """

    def __init__(self, config: Config, on_renewal: Callable[[], None] = lambda: None) -> None:
        """`on_renewal` may raise OSError. Raises ConfigError when the files can't be used."""
        self._on_renewal = on_renewal
        self._authorities = config.peers_ca_file
        self._certificate, self._private_key = config.certificate_file, config.private_key_file
        self.context = self._made()
        files = (self._authorities, self._certificate, self._private_key)
        self.watched = Watched([path for path in files if path is not None], self._renew)

    @property
    def authorities(self) -> bytes:
        """Those that are believed, PEM."""
        return "".join(map(ssl.DER_cert_to_PEM_cert, self.context.get_ca_certs(binary_form=True))).encode()

    @property
    def own(self) -> list[bytes]:
        """The key and the certificate that are shown, PEM; nothing if there is none. Raises OSError."""
        return [path.read_bytes() for path in (self._private_key, self._certificate) if path is not None]

    def _made(self) -> ssl.SSLContext:
        """As the files are now. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self._authorities)
        except OSError as error:  # SSLError, too
            raise ConfigError(f"peers_ca_file={self._authorities}: {error}: expected certificates, PEM") from None
        try:
            if self._certificate is not None and self._private_key is not None:
                context.load_cert_chain(self._certificate, self._private_key, password=self._no_password)
        except OSError as error:
            raise ConfigError(
                f"certificate_file={self._certificate}, private_key_file={self._private_key}: {error}: expected a"
                " certificate and the key that belongs to it, both PEM"
            ) from None
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _no_password(self) -> str:
        """Without it, a terminal would be asked for one, while all else waits."""
        raise ConfigError(
            f"private_key_file={self._private_key}: the key is encrypted: expected one without a password"
        )

    def _renew(self) -> None:
        before = self.context
        try:
            self.context = self._made()
            self._on_renewal()
        except (ConfigError, OSError) as error:
            self.context = before
            _log.error("what nodes are shown, and who vouches for them, stays as it was: %s", error)
        else:
            _log.info("what nodes are shown, and who vouches for them, has changed, and is in use")
