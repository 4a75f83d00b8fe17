"""Registering by URL: through a real server, from servers that misbehave."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests

from pdserver.configuration.sources import parse_allowed_urls, parse_url
from pdserver.errors import ArchiveUnusable, Forbidden, PdError
from pdserver.store.transfer import Transfer
from tests.conftest import Serve, pack_handler
from tests.running import eventually
from tests.security.file_server import FileServer, response
from tests.security.raw import place
from tests.security.test_bad_archives import good, packed
from tests.security.victim import Victim
from tests.test_snapshots import restart, start_again


def register(victim: Victim, url: str, **given: str) -> Any:
    query = "&".join(f"{name}={value}" for name, value in {"url": url, "initial_workers": "0", **given}.items())
    return victim.ask("POST", f"/models?{query}", port="management")


def unregister(victim: Victim, name: str = "bad") -> None:
    assert victim.ask("DELETE", f"/models/{name}", port="management").status == 200


def test_an_archive_by_url(victim: Victim, elsewhere: FileServer) -> None:
    url = elsewhere.serve("/models/good.pdar", good())
    answer = register(victim, url, sha256=hashlib.sha256(good()).hexdigest())
    assert answer.status == 200, answer.body
    assert victim.server.describe("bad")["modelUrl"] == url
    unregister(victim)
    victim.server.logged(f"downloaded {url}: {len(good()):,} bytes")


def test_a_name_comes_from_the_urls_end(victim: Victim, elsewhere: FileServer) -> None:
    without_name = packed({"model": {"handler": "h.py"}})
    assert register(victim, elsewhere.serve("/models/my-net.mar", without_name)).status == 200
    unregister(victim, "my_net")


def test_through_a_redirect(victim: Victim, elsewhere: FileServer) -> None:
    elsewhere.serve("/models/there.pdar?signature=theirs", good())
    for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"):
        moved = response(b"", status, Location="/models/there.pdar?signature=theirs")
        elsewhere.answers["/models/here.pdar"] = lambda sock, moved=moved: sock.sendall(moved)  # type: ignore[misc]
        assert register(victim, f"{elsewhere.url}/models/here.pdar").status == 200
        unregister(victim)
    assert "theirs" not in victim.server.log()


def test_by_file_url(victim: Victim, store_of_all: Path) -> None:
    more = store_of_all.parent / "more"
    (more / "good.pdar").write_bytes(good())
    assert register(victim, f"file://{more}/good.pdar").status == 200
    unregister(victim)
    (more / "link.pdar").symlink_to(store_of_all / "fit.pdar")
    assert register(victim, f"file://{more}/link.pdar").status == 403
    assert register(victim, f"file://{more}/gone.pdar").status == 404


REFUSED_URLS = [
    ("http://127.0.0.1:1/models/a.pdar", 403, "not among the URLs"),
    ("{elsewhere}/other/a.pdar", 403, "not among the URLs"),
    ("{elsewhere}/models/", 403, "not among the URLs"),
    ("{elsewhere}/models/../other/a.pdar", 400, "between its slashes"),
    ("{elsewhere}/models/%252e%252e/other/a.pdar", 400, "between its slashes"),
    ("{elsewhere}/models/a.pdar%3Fb=c", 400, "without a query"),
    ("{elsewhere}/models/a.txt", 400, "not the name of an archive"),
    ("{elsewhere}/models/gone.pdar", 400, "answered 404"),
    ("http://localhost/a.pdar", 403, "not among the URLs"),
    ("http://user:secret@127.0.0.1/models/a.pdar", 400, "expected https://"),
    ("ftp://127.0.0.1/models/a.pdar", 400, "expected https://"),
    ("s3://bucket/a.pdar", 400, "expected https://"),
    ("file:///etc/passwd", 403, "not among the URLs"),
    ("data:,a", 400, "expected https://"),
]


@pytest.mark.parametrize(("url", "status", "words"), REFUSED_URLS)
def test_urls_that_are_refused(victim: Victim, elsewhere: FileServer, url: str, status: int, words: str) -> None:
    elsewhere.serve("/models/a.txt", good())
    target = "/models?url=" + url.replace("{elsewhere}", elsewhere.url)
    victim.refuses(status, words, "POST", target, port="management")


def redirect(location: str, status: str = "302 Found") -> Callable[[socket.socket], None]:
    return lambda sock: sock.sendall(response(b"", status, Location=location))


def drip(sock: socket.socket) -> None:
    """A byte now and then, for ever: of the head, so that not even the answer's length is known."""
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


def drip_data(sock: socket.socket) -> None:
    sock.sendall(response(b"", length=1000))
    for _ in range(1000):
        sock.sendall(b"x")
        time.sleep(0.05)


def endless(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        sock.sendall(bytes(65536))


def chunked(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data


MISBEHAVING: dict[str, tuple[Callable[[socket.socket], None], int, str]] = {
    "500": (lambda s: s.sendall(response(b"", "500 Oh")), 400, "answered 500 Oh"),
    "206": (lambda s: s.sendall(response(good(), "206 Partial Content")), 400, "answered 206"),
    "204": (lambda s: s.sendall(response(b"", "204 No Content")), 400, "answered 204"),
    "not HTTP": (lambda s: s.sendall(b"hello\r\n"), 400, "cannot be downloaded"),
    "nothing": (lambda s: None, 400, "cannot be downloaded"),
    "a huge status": (lambda s: s.sendall(b"HTTP/1.1 99999999999 OK\r\n\r\n"), 400, "cannot be downloaded"),
    "a head of 100 kB in a line": (lambda s: s.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), 400, "cannot be"),
    "a thousand headers": (
        lambda s: s.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000),
        400,
        "cannot be downloaded",
    ),
    "cut short": (lambda s: s.sendall(response(good()[:-9], length=len(good()))), 400, "ended after"),
    "another length": (lambda s: s.sendall(response(good(), length=len(good()) - 9)), 400, "zip"),
    "a negative length": (lambda s: s.sendall(response(good(), length=-5)[:-50]), 400, ""),
    "too long, and says so": (lambda s: s.sendall(response(b"", length=10**12)), 400, "max_archive_size"),
    "too long, and does not say": (endless, 400, "max_archive_size"),
    "gzip": (lambda s: s.sendall(response(good(), Content_Encoding="gzip")), 400, "in the encoding gzip"),
    "chunks cut short": (lambda s: s.sendall(chunked(b"10\r\nabc")), 400, "cannot be downloaded"),
    "chunks of no size": (lambda s: s.sendall(chunked(b"xyz\r\nabc")), 400, "cannot be downloaded"),
    "no archive": (lambda s: s.sendall(response(b"<html>")), 400, "neither a zip"),
    "a head that drips": (drip, 400, "not downloaded within 3 s"),
    "data that drip": (drip_data, 400, "not downloaded within 3 s"),
    "a redirect elsewhere": (redirect("http://127.0.0.1:1/models/a.pdar"), 403, "not among the URLs"),
    "a redirect to the metadata service": (redirect("http://169.254.169.254/latest/a.pdar"), 403, "not among the URLs"),
    "a redirect out of the prefix": (redirect("/other/a.pdar"), 403, "not among the URLs"),
    "a redirect upwards": (redirect("/models/../other/a.pdar"), 403, "not among the URLs"),
    "a redirect to a file": (redirect("file:///etc/passwd"), 403, "redirected to a file"),
    "a redirect to another scheme": (redirect("ftp://127.0.0.1/models/a.pdar"), 400, "expected https://"),
    "a redirect with a user": (redirect("http://a:b@127.0.0.1/models/a.pdar"), 400, "expected https://"),
    "a redirect to nowhere": (redirect(""), 400, "redirected more than 5 times"),
    "a redirect in circles": (redirect("/models/bad.pdar"), 400, "redirected more than 5 times"),
    "a redirect without a place": (lambda s: s.sendall(response(b"", "302 Found")), 400, "redirected more than"),
    "a redirect with a line break": (redirect("/models/a%0d%0ab.pdar"), 400, "between its slashes"),
}


@pytest.mark.parametrize("name", MISBEHAVING)
def test_servers_that_misbehave(victim: Victim, elsewhere: FileServer, name: str) -> None:
    answer, status, words = MISBEHAVING[name]
    elsewhere.answers["/models/bad.pdar"] = answer
    url = f"{elsewhere.url}/models/bad.pdar"
    victim.refuses(status, words, "POST", f"/models?url={url}&initial_workers=0", port="management")


def test_one_download_for_all_who_want_it_at_once(victim: Victim, elsewhere: FileServer) -> None:
    everybody_is_here = threading.Event()

    def patient(sock: socket.socket) -> None:
        everybody_is_here.wait(60)
        sock.sendall(response(good()))

    elsewhere.answers["/models/slow.pdar"] = patient
    before = elsewhere.asked.count("/models/slow.pdar")
    with ExitStack() as stack:
        asking = [stack.enter_context(closing(HTTPConnection(*place(victim.server.management)))) for _ in range(20)]
        for connection in asking:
            connection.request("POST", f"/models?url={elsewhere.url}/models/slow.pdar&initial_workers=0")
        eventually(lambda: elsewhere.asked.count("/models/slow.pdar") > before)
        # All are sent, and the server has come to this one, which is the last: none will find the download done.
        with requests.Session() as another:
            assert another.get(f"{victim.server.management}/models", timeout=60).ok
        everybody_is_here.set()
        statuses = sorted(connection.getresponse().status for connection in asking)
    assert statuses == [200] + [409] * 19
    assert elsewhere.asked.count("/models/slow.pdar") == before + 1
    unregister(victim)


def test_nothing_of_the_environment_is_used(victim: Victim, elsewhere: FileServer) -> None:
    register(victim, elsewhere.serve("/models/head.pdar", good()))
    unregister(victim)
    head = elsewhere.heads[-1].lower()
    assert "accept-encoding: identity" in head
    assert not any(word in head for word in ("cookie", "authorization", "referer"))


def test_the_address_that_was_checked_is_connected_to(elsewhere: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is looked up first, and loopback ever after."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    connected: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in next(answers)]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ArchiveUnusable, match="refused"):
        transfer(f"http://rebinding.example.com:{elsewhere.port}/a.pdar").run(BytesIO())
    assert connected == ["93.184.216.34"]
    with pytest.raises(Forbidden, match=r"at a private address \(127\.0\.0\.1\)"):
        transfer(f"http://rebinding.example.com:{elsewhere.port}/a.pdar").run(BytesIO())
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize("host", ["localhost.localdomain", "127.0.0.1.nip.example", "metadata.internal"])
def test_names_of_private_addresses(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    private = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(Forbidden, match="which allowed_urls does not name"):
        transfer(f"http://{host}/a.pdar").run(BytesIO())


def transfer(url: str, allowed: str = "", **limits: float) -> Transfer:
    parsed = parse_url(url)
    prefixes = parse_allowed_urls(allowed or f"{parsed.scheme}://{parsed.host}:{parsed.port}/")
    return Transfer(parsed, prefixes, max_bytes=10**6, timeout_seconds=limits.get("timeout_seconds", 10))


def test_a_download_can_be_stopped(elsewhere: FileServer) -> None:
    elsewhere.answers["/hang.pdar"] = elsewhere.hang
    running = transfer(f"{elsewhere.url}/hang.pdar")
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(running.run, BytesIO())
        eventually(lambda: "/hang.pdar" in elsewhere.asked)
        running.stop(ArchiveUnusable("enough"))
        with pytest.raises(ArchiveUnusable, match="enough"):
            result.result(60)
    stopped = transfer(f"{elsewhere.url}/hang.pdar")
    stopped.stop(ArchiveUnusable("enough"))
    with pytest.raises(PdError, match="enough"):
        stopped.run(BytesIO())


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def test_a_stop_does_not_wait_for_a_download_and_a_restart_downloads_the_same_bytes_or_says_that_they_are_others(
    serve: Serve, store: Path, files: FileServer
) -> None:
    archive = pack_handler(store, "parts")
    url = files.serve("/m/parts.pdar", archive.read_bytes())
    archive.unlink()
    files.answers["/m/hang.pdar"] = files.hang
    server = serve(models="", allowed_urls=f"{files.url}/m/")
    assert server.manage("POST", f"/models?url={url}").status_code == 200
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(server.manage, "POST", f"/models?url={files.url}/m/hang.pdar")
        eventually(lambda: "/m/hang.pdar" in files.asked)
        assert server.stop() == 0
        assert asked.result().status_code == 503

    start_again(server)
    assert server.predict("parts", b"x").json() == {"body": ["bytearray", b"x".hex()]}
    assert files.asked == ["/m/parts.pdar", "/m/hang.pdar", "/m/parts.pdar"]
    files.serve("/m/parts.pdar", good())
    restart(server)
    assert "not the archive that is meant" in json.dumps(server.ping().json()["problems"])
    assert server.predict("parts", b"x").status_code == 404


def test_no_room_is_503_and_nothing_is_left(tmp_path: Path, elsewhere: FileServer) -> None:
    class Full(BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    url = elsewhere.serve("/full.pdar", good())
    with pytest.raises(PdError, match="cannot be stored: No space left"):
        transfer(url).run(Full())
