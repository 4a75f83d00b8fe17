"""What the server must have before it listens where others can reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from pdserver.config_values import Address

BACKLOG = 2048
"""Connections that wait to be taken in."""


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
        if is_loopback(address.host):
            continue
        if not tokens:
            yield f"{reached}, and nobody needs a token: drop disable_token_authorization, {anyway}"
        if not address.tls:
            yield (
                f"{reached}, and what is sent can be read on the way: set {_tls(key)}, certificate_file and"
                f" private_key_file, {anyway}"
            )


def without_certificate(addresses: Mapping[str, Address]) -> Iterator[str]:
    """Of these addresses, which want a certificate."""
    for key, address in addresses.items():
        if address.tls:
            yield f"{_shown(key, address)}: {_tls(key)} needs certificate_file and private_key_file"


def _tls(key: str) -> str:
    return "enable_grpc_ssl=true" if "grpc" in key else "https:// in the address"


def _shown(key: str, address: Address) -> str:
    by_host = key in ("grpc_inference_address", "grpc_management_address")
    return f"{key}={address.host if by_host else address}"
