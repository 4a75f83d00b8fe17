"""What the server must have before it listens where others can reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from pdserver.configuration.values import Address

BACKLOG = 2048
"""Connections that wait to be taken in."""
_TOKENS, _TLS = "tokens", "TLS"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. Of names, `localhost` alone is known to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def exposures(addresses: Mapping[str, Address], *, tokens: bool) -> Iterator[str]:
    """Why these addresses, by the key that sets each, had better not be listened on; each with the fix."""
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
    """The same of all of them, in one line and without a fix; empty when there is nothing to say."""
    by_lack: dict[str, list[str]] = {}
    for key, address in addresses.items():
        if lacks := " and ".join(_lacks(address, tokens=tokens)):
            by_lack.setdefault(lacks, []).append(_shown(key, address))
    return "; ".join(f"others can reach {', '.join(keys)} without {lacks}" for lacks, keys in by_lack.items())


def without_certificate(addresses: Mapping[str, Address]) -> Iterator[str]:
    """Of these addresses, which want a certificate."""
    for key, address in addresses.items():
        if address.tls:
            yield f"{_shown(key, address)}: {_tls(key)} needs certificate_file and private_key_file"


def _lacks(address: Address, *, tokens: bool) -> list[str]:
    """What an address that others can reach had better have."""
    if is_loopback(address.host):
        return []
    return [_TOKENS] * (not tokens) + [_TLS] * (not address.tls)


def _tls(key: str) -> str:
    return "enable_grpc_ssl=true" if "grpc" in key else "https:// in the address"


def _shown(key: str, address: Address) -> str:
    by_host = key in ("grpc_inference_address", "grpc_management_address")
    return f"{key}={address.host if by_host else address}"
