"""Parsers of the texts that the server's keys have. Each raises ValueError with what was expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pdserver.configuration.model import MAX_WORKERS
from pdserver.errors import ConfigError
from pdserver.formats.values import (
    YEAR_SECONDS,
    T,
    ValueParser,
    as_number,
    boolean,
    nearest,
    number,
    one_of,
    shown,
    takes,
    whole,
)
from pdserver.system.devices import core_count

LIMIT_NAMES = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
"""getrlimit(2)'s, as bash and Docker call them."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Address:
    """Where a port is opened. `host` is a name or an address, IPv6 without brackets; port 0 lets the system choose."""

    host: str
    port: int
    tls: bool = False

    @property
    def file_name(self) -> str:
        return f"{self.host.replace(':', '-')}_{self.port}"

    @property
    def host_and_port(self) -> str:
        """With brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host_and_port}"


def spelled(parser: ValueParser[object, T]) -> ValueParser[str, T]:
    """For text that spells a number, or true or false."""

    def parse(text: str) -> T:
        truths: Mapping[str, object] = {"true": True, "false": False}
        return parser(truths.get(text.lower(), as_number(text)))

    return ValueParser(parser.takes, parse)


def if_any(parser: ValueParser[str, T]) -> ValueParser[str, T | None]:
    """None for no text."""
    return ValueParser(parser.takes, lambda text: parser(text) if text else None)


def word(*words: str) -> ValueParser[str, str]:
    """One of them, in capitals or not."""
    one = one_of(*words)
    return ValueParser(one.takes, lambda text: one(text.lower()))


name = ValueParser("NAME", str)
truth = spelled(boolean)
seconds = spelled(number("seconds", 0.001, YEAR_SECONDS))
milliseconds = spelled(whole("milliseconds", 1, 2**31 - 1))
minutes = spelled(whole("minutes", 1, 5_256_000))
_workers = spelled(whole("workers", 0, MAX_WORKERS))


@takes("WORKERS")
def workers(text: str) -> int:
    """0: one for each CPU core."""
    return _workers(text) or core_count()


MOST_FRONT_ENDS = 64
_CORES_FOR_EACH, _MOST_FRONT_ENDS_BY_CORES = 4, 4
"""One engine has enough with four, as `python -m bench.simulate` shows."""


def front_ends_by_cores(cores: int) -> int:
    """What `auto` stands for."""
    return min(max(1, cores // _CORES_FOR_EACH), _MOST_FRONT_ENDS_BY_CORES)


@takes("NUMBER|auto")
def front_ends(text: str) -> int:
    if text.lower() == "auto":
        return front_ends_by_cores(core_count())
    number = as_number(text)
    if not isinstance(number, int) or not 1 <= number <= MOST_FRONT_ENDS:
        raise ValueError(f"expected auto, or a number of processes from 1 to {MOST_FRONT_ENDS}")
    return number


@takes("http://HOST:PORT")
def address(text: str) -> Address:
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("expected http://host:port, with a port from 0 to 65535") from None
    if url.scheme == "unix":
        raise ValueError("unix is not served here: write http://host:port, and put a proxy before it")
    if url.scheme not in ("http", "https") or not host or port is None or url.path not in ("", "/"):
        raise ValueError("expected http://host:port")
    if url.query or url.fragment or "@" in url.netloc or not _is_host(host):
        raise ValueError("expected http://host:port, with a host name or an IP address (IPv6 in brackets)")
    return Address(host, port, url.scheme == "https")


@takes("HOST")
def host(text: str) -> str:
    if not _is_host(text):
        raise ValueError("expected a host name or an IP address, and no port: it has a key of its own")
    return text


@takes("PORT")
def port(text: str) -> int:
    number = as_number(text)
    if not isinstance(number, int) or not 0 <= number <= 65535:
        raise ValueError("expected a port from 0 to 65535")
    return number


@takes("HOST,…")
def host_names(text: str) -> tuple[str, ...]:
    """Names, separated by commas; `*.name` for all below it, `*` for all."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name != "*" and not _is_host(name.removeprefix("*.")):
            raise ValueError(f"expected host names without a port, *.example.com or *, not {shown(name)}")
    return names


@takes("ORIGIN")
def origin(text: str) -> str:
    """`*`, or what a browser sends as Origin; or nothing."""
    if text not in ("", "*") and not re.fullmatch(r"https?://[A-Za-z0-9_.\[\]:-]+", text):
        raise ValueError("expected * or one origin, such as https://example.com")
    return text


@takes("NAME,…")
def header_list(text: str) -> str:
    """Names of methods or headers, separated by commas; or nothing."""
    if not re.fullmatch(r"[A-Za-z0-9*_, -]*", text):
        raise ValueError("expected names, separated by commas")
    return text


@takes("NAME")
def header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("expected the name of a header: letters, digits, dashes and underscores")
    return text


def _is_host(host: str) -> bool:
    if ":" not in host:
        return re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", host) is not None
    try:
        return ipaddress.IPv6Address(host) is not None
    except ValueError:
        return False


@takes("FOLDER")
def folder(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("expected a folder")
    return _absolute(text)


def _absolute(text: str) -> Path:
    """The working directory may be removed while the server runs, or be gone when it starts."""
    try:
        return Path(text).absolute()
    except FileNotFoundError:
        raise ConfigError(f"{shown(text)}: a relative path, and the working directory is gone: go to another") from None


@takes("PATTERN")
def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression, such as AWS_.*|.*_TOKEN: {error}") from None


@takes("LIMIT=NUMBER,…")
def limits(text: str) -> Mapping[str, int]:
    """`name=value`, separated by commas; none for no text."""
    found: dict[str, int] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        number = as_number(value)
        if name not in LIMIT_NAMES or not isinstance(number, int) or not 0 <= number < 2**63:
            raise ValueError(f"expected such as nofile=4096, and of {', '.join(LIMIT_NAMES)}, not {shown(item)}")
        found[name] = number
    return found


@takes("FILE")
def file(text: str) -> Path:
    if "\0" in text or not Path(text).is_file():
        raise ValueError("no such file")
    return _absolute(text)


@takes("PATH")
def metrics_path(text: str) -> str:
    """Of a URL, or nothing."""
    if text and (not re.fullmatch(r"(/[\w.~-]+)+", text, re.ASCII) or re.match(r"/v1(/|$)", text, re.IGNORECASE)):
        raise ValueError("expected a path such as /monitoring/prometheus/metrics, and not below /v1")
    return text


@takes("PATH")
def existing(text: str) -> Path:
    """A file or a folder."""
    if "\0" in text or not Path(text).exists():
        raise ValueError("no such file")
    return _absolute(text)


@takes("FOLDER")
def existing_folder(text: str) -> Path:
    path = folder(text)
    if not path.exists():
        raise ValueError(f"no such folder: create it (mkdir -p {shown(text)}) or name the right one")
    if not path.is_dir():
        raise ValueError("not a folder: name the folder that holds the models")
    return path


@takes("FOLDER")
def existing_folders(text: str) -> tuple[Path, ...]:
    """Separated by commas."""
    return tuple(existing_folder(item.strip()) for item in text.split(",") if item.strip())


RESTRICTED_APIS = (
    *("health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics"),
    *("trace", "logging"),
)
"""As Triton calls them."""


@takes("API,…:HEADER=VALUE")
def restricted_apis(text: str) -> Mapping[str, tuple[str, str]]:
    """`api,api:header=value`, and more such groups behind commas → the header and its value, by API."""
    found: dict[str, tuple[str, str]] = {}
    group: list[str] = []
    for item in [item.strip() for item in text.split(",") if item.strip()]:
        api, ends, secret = item.partition(":")
        if api not in RESTRICTED_APIS:
            raise ValueError(f"{shown(api)}{nearest(api, RESTRICTED_APIS)}: expected {', '.join(RESTRICTED_APIS)}")
        if api in found or api in group:
            raise ValueError(f"api '{api}' can not be specified in multiple config groups")
        group.append(api)
        if ends:
            header, _, value = secret.partition("=")
            if not _HEADER_NAME.fullmatch(header) or not re.fullmatch(r"[\x21-\x7e]+", value):
                raise ValueError(f"{', '.join(group)}: expected HEADER=VALUE behind the colon")
            if header.lower() == "authorization":
                raise ValueError(f"{', '.join(group)}: expected another header than authorization, which has tokens")
            found |= dict.fromkeys(group, (header.lower(), value))
            group = []
    if group:
        raise ValueError(f"{', '.join(group)}: expected :HEADER=VALUE behind them")
    return found
