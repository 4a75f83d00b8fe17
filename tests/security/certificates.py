"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    certificate: Path
    key: Path


def authority(folder: Path) -> Pair:
    folder.mkdir(exist_ok=True)
    pair = Pair(folder / "ca.pem", folder / "ca.key")
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
             "-subj", "/CN=Test CA", "-keyout", str(pair.key), "-out", str(pair.certificate))  # fmt: skip
    return pair


def signed(
    ca: Pair, folder: Path, name: str, *, days: int = 30, subject: str = "localhost", addresses: Sequence[str] = ()
) -> Pair:
    """For `localhost`, 127.0.0.1 and more addresses; with negative days it has expired."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    names = ["DNS:localhost", *(f"IP:{address}" for address in ("127.0.0.1", *addresses))]
    extensions.write_text(f"subjectAltName={','.join(names)}\n")
    _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={subject}",
             "-keyout", str(pair.key), "-out", str(request))  # fmt: skip
    _openssl("x509", "-req", "-in", str(request), "-CA", str(ca.certificate), "-CAkey", str(ca.key), "-CAcreateserial",
             "-days", str(days), "-extfile", str(extensions), "-out", str(pair.certificate))  # fmt: skip
    pair.key.chmod(0o600)
    return pair


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
