"""What the server needs before it listens on an address that others can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from pdserver.configuration.values import Address

BACKLOG = 2048
"""Connections that may wait to be accepted."""
_TOKENS, _TLS = "tokens", "TLS"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host. Of names, only `localhost` counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def exposures(addresses: Mapping[str, Address], *, tokens: bool) -> Iterator[str]:
    """Why the server should not listen on these addresses, each with the fix. `addresses` is by key."""
    anyway = "keep to 127.0.0.1, or set allow_insecure=true"
    for key, address in addresses.items():
        reached = f"{_shown(key, address)}: others can reach this address"
        lacks = _lacks(address, tokens=tokens)
        if _TOKENS in lacks:
            yield f"{reached}, and nobody needs a token: drop disable_token_authorization, {anyway}"
        if _TLS in lacks:
            yield (
                f"{reached}, and what is sent can be read on the way: set {_tls(key)}, certificate_file and"
                f" private_key_file, {anyway}"
            )


def summary(addresses: Mapping[str, Address], *, tokens: bool) -> str:
    """The same for all addresses, in one line and without a fix. Empty if all is well."""
    by_lack: dict[str, list[str]] = {}
    for key, address in addresses.items():
        if lacks := " and ".join(_lacks(address, tokens=tokens)):
            by_lack.setdefault(lacks, []).append(_shown(key, address))
    return "; ".join(f"others can reach {', '.join(keys)} without {lacks}" for lacks, keys in by_lack.items())


def without_certificate(addresses: Mapping[str, Address]) -> Iterator[str]:
    """Errors for those of the addresses that need a certificate."""
    for key, address in addresses.items():
        if address.tls:
            yield f"{_shown(key, address)}: {_tls(key)} needs certificate_file and private_key_file"


def _lacks(address: Address, *, tokens: bool) -> list[str]:
    """What an address that others can reach lacks."""
    if is_loopback(address.host):
        return []
    return [_TOKENS] * (not tokens) + [_TLS] * (not address.tls)


def _tls(key: str) -> str:
    return "enable_grpc_ssl=true" if "grpc" in key else "https:// in the address"


def _shown(key: str, address: Address) -> str:
    by_host = key in ("grpc_inference_address", "grpc_management_address")
    return f"{key}={address.host if by_host else address}"
