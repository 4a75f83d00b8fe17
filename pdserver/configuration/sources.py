"""Where archives may come from besides the model store: URLs below the prefixes that the operator allows.

One parser reads a URL, and what it has read is what is compared, connected to and asked for: two readings of one text
are how such lists are got around. It takes less than the standards do (RFC 3986, the WHATWG's) and guesses at nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from pdserver.errors import Forbidden, InvalidRequest
from pdserver.formats.values import shown, takes

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443, "file": 0}
_CHARACTERS = r"A-Za-z0-9._~!$&'()*+:@/-"
_ESCAPE = "%[0-9A-Fa-f]{2}"
_URL = re.compile(
    r"(?P<scheme>https?|file)://(?P<host>[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    rf"(?P<path>/(?:[{_CHARACTERS}]|{_ESCAPE})*)?(?P<query>\?(?:[{_CHARACTERS}=;,?]|{_ESCAPE})*)?"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]+)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_EXPECTED = "expected https://host/path/archive.pdar, http://… or file:///path/archive.pdar"


@dataclass(frozen=True)
class Url:
    """`str(url)` leaves the query out, which may hold a secret."""

    scheme: str
    host: str
    """In lower case, an IPv6 address without brackets; empty for a file."""
    port: int
    path: str
    """As it is asked for, percent escapes and all."""
    query: str
    """With its question mark; or empty."""
    segments: tuple[str, ...]
    """Of the path, decoded; the last one is empty when the path ends with a slash."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def address(self) -> IpAddress | None:
        """The address that the host is written as; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def is_url(text: str) -> bool:
    """Whether `text` begins with a scheme, any scheme: then it is not the name of a file in the store."""
    return _SCHEME.match(text) is not None


def parse_url(text: str) -> Url:
    """Raises ValueError, which says what was expected, for all that is not plainly a URL of a kind known here."""
    found = _URL.fullmatch(text) if len(text) <= 2048 else None
    if found is None:
        raise ValueError(f"{_EXPECTED}, of letters, digits and ._~!$&'()*+:@-, the rest as %XX")
    scheme, path = found["scheme"], found["path"] or "/"
    host = _host(found["host"])
    if (scheme == "file") != (not host) or (scheme == "file" and (found["port"] or not found["path"])):
        raise ValueError(_EXPECTED)
    port = int(found["port"] or _PORTS[scheme])
    if scheme != "file" and not 1 <= port <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    return Url(scheme, host, port, path, found["query"] or "", _segments(path))


@dataclass(frozen=True)
class AllowedUrls:
    """What the key `allowed_urls` says, or another one of this form."""

    prefixes: tuple[Url, ...] = ()
    networks: tuple[IpNetwork, ...] = ()
    """Private addresses that names may stand for."""
    key: str = "allowed_urls"
    """For errors."""

    def check(self, text: str) -> Url:
        """The URL of an archive that a caller names. Raises InvalidRequest for what is none, Forbidden."""
        if not self.prefixes:
            raise Forbidden(
                f"{shown(text)}: archives are loaded from the model store alone: copy it there, name the file; or let"
                " the operator allow its URL (allowed_urls)"
            )
        try:
            url = parse_url(text)
        except ValueError as error:
            raise InvalidRequest(f"url={shown(text)}: {error}") from None
        if url.query:
            raise InvalidRequest(f"url={shown(str(url))}: without a query: it would stand in logs and snapshots")
        self.check_prefix(url)
        return url

    def check_prefix(self, url: Url) -> None:
        """Raises Forbidden for a URL that is below none of the prefixes."""
        if not url.segments[-1] or not any(_is_below(url, prefix) for prefix in self.prefixes):
            raise Forbidden(f"{shown(str(url))}: not among the URLs that the operator allows ({self.key})")

    def may_connect(self, url: Url, address: IpAddress) -> bool:
        """Whether what is at `address` may be asked for `url`: not a private address that nobody named."""
        if is_public(address) or url.address is not None:
            return True  # an address in the URL stands in the prefix as well
        if url.host == "localhost" and address.is_loopback:
            return True
        return any(address in network for network in self.networks)


@takes("URL,…")
def parse_image_urls(text: str) -> AllowedUrls:
    """The same, of pictures that requests name. Raises ValueError."""
    found = replace(parse_allowed_urls(text), key="image_urls")
    if any(prefix.scheme == "file" for prefix in found.prefixes):
        raise ValueError("expected http and https: clients name no files of this machine")
    return found


@takes("URL,…")
def parse_allowed_urls(text: str) -> AllowedUrls:
    """The value of the key: prefixes and networks, separated by commas. Raises ValueError."""
    prefixes: list[Url] = []
    networks: list[IpNetwork] = []
    for item in (item.strip() for item in text.split(",")):
        if not item:
            continue
        if _NETWORK.fullmatch(item):  # before URLs are looked for: to them, fd00: is a scheme
            networks.append(ipaddress.ip_network(item))
            continue
        try:
            prefix = parse_url(item)
        except ValueError:
            prefix = None
        if prefix is None or prefix.query or re.search(r"[*()]", item):
            raise ValueError(
                f"{shown(item)}: expected prefixes such as https://models.example.com/prod/ or file:///srv/models/,"
                " separated by commas; they are no regular expressions"
            )
        prefixes.append(prefix)
    return AllowedUrls(tuple(prefixes), tuple(networks))


def is_public(address: IpAddress) -> bool:
    """Whether the address is one of the internet's: not private, shared, link-local, loopback, multicast, reserved.

    An IPv6 address that stands for an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64) counts as that.
    """
    return all(
        inner.is_global
        and not (
            inner.is_multicast or inner.is_reserved or inner.is_unspecified or getattr(inner, "is_site_local", False)
        )
        for inner in _inside(address)
    )


def _inside(address: IpAddress) -> Sequence[IpAddress]:
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    if address in _NAT64 or int(address) < 2**32:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inner: list[IpAddress] = [address]
    if address.sixtofour:
        inner.append(address.sixtofour)
    if address.teredo:
        inner += address.teredo
    return inner


def _is_below(url: Url, prefix: Url) -> bool:
    """A prefix that ends with a slash stands for what is below it; another one for itself."""
    if (url.scheme, url.host, url.port) != (prefix.scheme, prefix.host, prefix.port):
        return False
    *folder, last = prefix.segments
    if last:
        return url.segments == prefix.segments
    return len(url.segments) > len(folder) and url.segments[: len(folder)] == tuple(folder)


def _host(text: str) -> str:
    if not text:
        return ""
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1]))
    labels = text.lower().split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        # 127.1, 2130706433 and 0x7f.1 are addresses to some, names to others.
        return str(ipaddress.IPv4Address(text))
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"the host {shown(text)} is no name")
    return text.lower()


def _segments(path: str) -> tuple[str, ...]:
    decoded = []
    for segment in path[1:].split("/"):
        try:
            decoded.append(unquote_to_bytes(segment).decode())
        except UnicodeDecodeError:
            raise ValueError(f"{shown(segment)} is not UTF-8") from None
    for segment in decoded[:-1] if not decoded[-1] else decoded:
        if segment in ("", ".", "..") or not segment.isprintable() or re.search(r"[/\\%;]", segment):
            raise ValueError(f"a path with {shown(segment) or 'nothing'} between its slashes")
    return tuple(decoded)
