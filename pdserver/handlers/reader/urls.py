"""Pictures by their URL, under the rules that the server has for archives: `allowed_urls`, addresses, redirects."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from pdserver.configuration.sources import parse_allowed_urls, parse_url
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.formats.values import shown
from pdserver.handlers.reader.images import decoded
from pdserver.handlers.vision.images import Pixels
from pdserver.store.transfer import Transfer


@dataclass(frozen=True)
class URL2Image:
    """URL → uint8 [height, width, 3], blue, green, red.

    `allowed_urls` is written as the server's key of that name: prefixes of http and https URLs, and private addresses
    that their hosts may have. A client's URL could otherwise ask for what only this machine can reach.

    Raises ConfigError without `allowed_urls`, ValueError for wrong ones.
    """

    allowed_urls: str = ""
    timeout_seconds: float = 10.0
    """For the whole of a picture."""
    max_bytes: int = 32 << 20
    """Of a picture's file."""

    def __post_init__(self) -> None:
        prefixes = parse_allowed_urls(self.allowed_urls).prefixes
        if not prefixes:
            raise ConfigError(
                "URL2Image fetches nothing unless it is told from where: URL2Image("
                'allowed_urls="https://pictures.example.com/")'
            )
        if any(prefix.scheme == "file" for prefix in prefixes):
            raise ValueError(f"URL2Image: allowed_urls={self.allowed_urls!r}: expected http and https; see File2Image")

    def __call__(self, img_url: str) -> Pixels:
        """Raises InvalidRequest for what is no URL or no picture, Forbidden for a URL, redirect or address that is not
        allowed, ArchiveUnusable for what cannot be downloaded."""
        try:
            url = parse_url(img_url)
        except ValueError:
            raise InvalidRequest(
                f"{shown(img_url)}: expected a picture's URL, such as https://host/path, with special characters as %XX"
            ) from None
        allowed = parse_allowed_urls(self.allowed_urls)
        allowed.check_prefix(url)
        file = BytesIO()
        limits = ("URL2Image: max_bytes", "URL2Image: timeout_seconds")
        Transfer(url, allowed, max_bytes=self.max_bytes, timeout_seconds=self.timeout_seconds, limits=limits).run(file)
        return decoded(file.getvalue())
