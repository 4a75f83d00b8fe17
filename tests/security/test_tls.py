"""TLS on every port: spoken, mutual, renewed, and refused when it would be none."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pdserver.errors import ConfigError
from pdserver.prpc.errors import Errno
from pdserver.security.tls import Certificate
from tests.conftest import pack_handler
from tests.prpc_client import Prpc
from tests.running import RunningServer, eventually, free_ports
from tests.security.certificates import Pair, authority, signed
from tests.security.raw import connect, read_all


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return authority(tmp_path_factory.mktemp("ca"))


class Tls:
    """A server that speaks TLS on all ports, and wants to see its clients' certificates."""

    def __init__(self, folder: Path, ca: Pair) -> None:
        self.ca = ca
        self.pair = signed(ca, folder, "server")
        self.client = signed(ca, folder, "client", subject="client")
        store = folder / "store"
        store.mkdir()
        pack_handler(store, "chaos")
        inference, management, metrics = free_ports(3)
        self.urls = [f"https://127.0.0.1:{port}" for port in (inference, management, metrics)]
        self.server = RunningServer(
            folder / "server",
            store,
            settings={
                "inference_address": self.urls[0],
                "management_address": self.urls[1],
                "metrics_address": self.urls[2],
                "certificate_file": str(self.pair.certificate),
                "private_key_file": str(self.pair.key),
                "client_ca_file": str(ca.certificate),
                "enable_grpc_ssl": "true",
                "disable_system_metrics": "true",
            },
        )

    def get(self, url: str, *, certificate: bool = True) -> requests.Response:
        pair = (str(self.client.certificate), str(self.client.key)) if certificate else None
        return requests.get(url, verify=str(self.ca.certificate), cert=pair, timeout=60)

    def serial(self, url: str) -> str:
        """Of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=self.ca.certificate)
        context.load_cert_chain(self.client.certificate, self.client.key)
        host, _, port = url.partition("://")[2].rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout=60)
        with context.wrap_socket(sock, server_hostname=host) as tls:
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
            return str((tls.getpeercert() or {})["serialNumber"])


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, ca: Pair) -> Iterator[Tls]:
    tls = Tls(tmp_path_factory.mktemp("tls"), ca)
    with tls.server:
        yield tls
    assert "Traceback" not in tls.server.log()


def test_every_port_speaks_it(tls: Tls) -> None:
    inference, management, metrics = tls.urls
    assert tls.get(f"{inference}/ping").status_code == 200
    assert tls.get(f"{inference}/predictions/chaos").status_code == 200
    assert "chaos" in tls.get(f"{management}/models").text
    assert tls.get(f"{metrics}/metrics").status_code == 200
    assert f"inference       {inference}" in tls.server.log()


@pytest.mark.parametrize("port", ["grpc_inference", "grpc_management"])
def test_grpc_speaks_it(tls: Tls, port: str) -> None:
    def health(credentials: grpc.ChannelCredentials) -> int:
        with grpc.secure_channel(getattr(tls.server, port), credentials) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)

    root = tls.ca.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(root, tls.client.key.read_bytes(), tls.client.certificate.read_bytes())
    assert health(known) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError):
        health(grpc.ssl_channel_credentials(root))
    with grpc.insecure_channel(getattr(tls.server, port)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Check(health_pb2.HealthCheckRequest(), timeout=60)


def test_grpc_has_to_be_negotiated(tls: Tls) -> None:
    """RFC 9113, 3.2: else a client of another protocol could be made to speak to this port."""
    for protocols in (["h2"], [], ["http/1.1"]):
        is_spoken = "h2" in protocols
        context = ssl.create_default_context(cafile=tls.ca.certificate)
        context.load_cert_chain(tls.client.certificate, tls.client.key)
        if protocols:
            context.set_alpn_protocols(protocols)
        with (
            connect(f"http://{tls.server.grpc_inference}") as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as spoken,
        ):
            spoken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
            said = spoken.recv(65536)
            while is_spoken and b"\0\0\0\4\1" not in said:
                said += spoken.recv(65536)
            while not is_spoken and (more := spoken.recv(65536)):
                said += more
            assert (b"ALPN" in said) != is_spoken


def test_the_inference_port_speaks_all_of_its_protocols_over_tls(tls: Tls) -> None:
    """Clients that know HTTP/2 and HTTP/1.1, such as browsers, get HTTP/1.1."""
    root = tls.ca.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(root, tls.client.key.read_bytes(), tls.client.certificate.read_bytes())
    with grpc.secure_channel(tls.urls[0].removeprefix("https://"), known) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    context = ssl.create_default_context(cafile=tls.ca.certificate)
    context.load_cert_chain(tls.client.certificate, tls.client.key)
    with context.wrap_socket(connect(tls.urls[0]), server_hostname="127.0.0.1") as sock, Prpc("", sock) as client:
        assert client.call("nowhere/x").errno == Errno.ENOSERVICE
        assert client.call("GRPCInferenceService/ServerLive").errno == 0
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(connect(tls.urls[0]), server_hostname="127.0.0.1") as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
        sock.sendall(b"P")
        sock.sendall(b"OST /ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_who_shows_no_certificate_is_not_let_in(tls: Tls, tmp_path: Path) -> None:
    for url in tls.urls:
        with pytest.raises(requests.ConnectionError):
            tls.get(f"{url}/ping", certificate=False)
    stranger = signed(authority(tmp_path / "other"), tmp_path, "stranger")
    with pytest.raises(requests.ConnectionError):
        requests.get(
            f"{tls.urls[0]}/ping",
            verify=str(tls.ca.certificate),
            cert=(str(stranger.certificate), str(stranger.key)),
            timeout=60,
        )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_not_spoken(tls: Tls, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with connect(tls.urls[0]) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)


@pytest.mark.parametrize(
    "data", [b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0"]
)
def test_what_is_not_tls_is_hung_up_on(tls: Tls, data: bytes) -> None:
    with connect(tls.urls[0]) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200" not in read_all(sock)
    assert tls.get(f"{tls.urls[0]}/ping").status_code == 200


def test_bad_requests_are_answered_over_tls(tls: Tls) -> None:
    context = ssl.create_default_context(cafile=tls.ca.certificate)
    context.load_cert_chain(tls.client.certificate, tls.client.key)
    with connect(tls.urls[0]) as sock, context.wrap_socket(sock, server_hostname="localhost") as wrapped:
        wrapped.sendall(b"nonsense\r\n\r\n")
        assert wrapped.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_renewed_certificate_is_used_and_a_bad_one_is_not(tls: Tls, tmp_path: Path) -> None:
    before = tls.serial(tls.urls[0])
    shutil.copy(tls.ca.key, tls.pair.key)  # does not fit the certificate
    tls.server.logged("the certificate that there was stays in use")
    assert tls.serial(tls.urls[0]) == before
    new = signed(tls.ca, tmp_path, "new")
    shutil.copy(new.key, tls.pair.key)
    shutil.copy(new.certificate, tls.pair.certificate)
    urls = [*tls.urls, f"https://{tls.server.grpc_inference}"]
    eventually(lambda: before not in map(tls.serial, urls))
    assert len(set(map(tls.serial, urls))) == 1
    tls.server.logged("is in use")


# Refused


@pytest.fixture
def pair(ca: Pair, tmp_path: Path) -> Pair:
    return signed(ca, tmp_path, "pair")


def problem(certificate: Path, key: Path, client_ca: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Certificate(certificate, key, client_ca)
    return str(caught.value)


def test_a_key_that_does_not_fit(pair: Pair, ca: Pair, tmp_path: Path) -> None:
    other = signed(ca, tmp_path, "other")
    assert "expected a certificate and the key that belongs to it" in problem(pair.certificate, other.key)


def test_a_certificate_that_has_expired(ca: Pair, tmp_path: Path) -> None:
    old = signed(ca, tmp_path, "old", days=-1)
    assert "has expired: renew it" in problem(*old)


def test_files_that_are_none(pair: Pair, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    text.chmod(0o600)
    assert "expected a certificate" in problem(text, pair.key)
    assert "expected a certificate" in problem(pair.certificate, text)
    assert "client_ca_file" in problem(pair.certificate, pair.key, text)


def test_a_key_that_everybody_may_read(pair: Pair) -> None:
    pair.key.chmod(0o644)
    assert f"everybody on this machine may use it: chmod o= {pair.key}" in problem(*pair)


def test_a_key_with_a_password(pair: Pair, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    locked.chmod(0o600)
    assert "the key is encrypted: openssl pkey -in" in problem(pair.certificate, locked)


def test_a_keystore_becomes_pem_as_the_documentation_says(pair: Pair, tmp_path: Path) -> None:
    keystore, both = tmp_path / "keystore.p12", tmp_path / "server.pem"
    make = ["openssl", "pkcs12", "-export", "-inkey", pair.key, "-in", pair.certificate, "-out", keystore]
    subprocess.run([*map(str, make), "-passout", "pass:changeit"], check=True, capture_output=True)
    convert = ["openssl", "pkcs12", "-in", keystore, "-nodes", "-out", both, "-passin", "pass:changeit"]
    subprocess.run(list(map(str, convert)), check=True, capture_output=True)
    both.chmod(0o600)
    assert Certificate(both, both, None).context.get_ca_certs() == []
