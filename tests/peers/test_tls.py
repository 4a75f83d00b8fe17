"""Whom to believe, and what to show, when the files change."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from pdserver.configuration.loading import load_config
from pdserver.errors import ConfigError
from pdserver.peers.tls import TlsToNodes
from tests.security.certificates import authority, signed


def test_an_authority_that_is_taken_out_is_not_believed_any_more(tmp_path: Path) -> None:
    first, second = (authority(tmp_path / name) for name in ("first", "second"))
    file = tmp_path / "ca.pem"
    shutil.copy(first.certificate, file)
    tls = TlsToNodes(load_config({"peers_ca_file": str(file)}, {}))
    assert _believed(tls) == _of(first.certificate)
    file.write_text("-----BEGIN CERTIFICATE-----\nhalf of")
    assert tls.watched.has_changed()
    assert _believed(tls) == _of(first.certificate), "what was right goes on"
    file.write_bytes(first.certificate.read_bytes() + second.certificate.read_bytes())
    assert tls.watched.has_changed()
    assert _believed(tls) == _of(first.certificate) | _of(second.certificate)
    file.write_bytes(second.certificate.read_bytes())
    assert tls.watched.has_changed()
    assert _believed(tls) == _of(second.certificate)


def test_what_can_not_be_used_leaves_all_as_it_was(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    pair = signed(ca, tmp_path / "ca", "node")

    def fails() -> None:
        raise OSError("no")

    given = {"peers_ca_file": str(ca.certificate), "certificate_file": pair.certificate, "private_key_file": pair.key}
    tls = TlsToNodes(load_config({key: str(value) for key, value in given.items()}, {}), fails)
    before = tls.context
    ca.certificate.write_bytes(authority(tmp_path / "other").certificate.read_bytes() + b"\n")
    assert tls.watched.has_changed()
    assert tls.context is before


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    pair = signed(ca, tmp_path / "ca", "node")
    locked = tmp_path / "locked.key"
    words = ["openssl", "pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True)
    config = load_config({"certificate_file": str(pair.certificate), "private_key_file": str(locked)}, {})
    with pytest.raises(ConfigError, match="the key is encrypted: expected one without a password"):
        TlsToNodes(config)


def _believed(tls: TlsToNodes) -> set[bytes]:
    return set(tls.context.get_ca_certs(binary_form=True))


def _of(certificate: Path) -> set[bytes]:
    return {ssl.PEM_cert_to_DER_cert(certificate.read_text())}
