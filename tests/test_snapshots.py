"""The registered models survive a restart, whatever happened while they were written down."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from pdserver.configuration import arguments
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.configuration.snapshot_text import snapshot_models, snapshot_text
from pdserver.formats.properties import parse_properties
from pdserver.management import snapshot
from pdserver.management.snapshot import Snapshots, read_last_snapshot, write_snapshot
from tests.conftest import Serve, pack_handler
from tests.grpc_client import Client
from tests.running import PDSERVER, RunningServer, eventually, free_ports
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")

DIGITS = ModelToLoad(
    url="digits.pdar",
    name="digits",
    version="1.0",
    handler="image_classifier",
    settings={
        "min_workers": 1,
        "max_workers": 2,
        "batch_size": 8,
        "max_batch_delay_seconds": 0.0125,
        "response_timeout_seconds": 1.5,
        "startup_timeout_seconds": 60.0,
    },
    default=True,
)
PRICES = ModelToLoad(url='pri"ces\\é.pdar', name="prices", version="2.0", settings={"min_workers": 0})
OPERATIONS = ("mkdir", "open", "write", "fsync", "close", "rename", "unlink")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The text


def test_models_are_read_back_as_they_were_written() -> None:
    text = snapshot_text("x", 1, [DIGITS, PRICES])
    assert snapshot_models(text) == (DIGITS, PRICES)
    entry = json.loads(text)["models"]["digits"]["1.0"]
    assert entry["maxBatchDelay"] == 12.5
    assert repr(entry["startupTimeout"]) == "60", "a whole number, as TorchServe's parser wants"


def test_a_snapshot_of_torchserve_is_read() -> None:
    text = (
        '{"name": "20200102030405678-snapshot.cfg", "modelCount": 1, "created": 1577934245678, "models": {"noop": '
        '{"1.0": {"defaultVersion": true, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 4, '
        '"maxBatchDelay": 100, "responseTimeout": 120, "startupTimeout": 120, "runtimeType": "python"}}}}'
    )
    [model] = snapshot_models(text)
    assert (model.url, model.name, model.version, model.default) == ("noop.mar", "noop", "1.0", True)
    assert (model.settings["batch_size"], model.settings["max_batch_delay_seconds"]) == (4, 0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected JSON"),
        ('{"models": {"a": 1}}', "a needs versions"),
        ('{"models": {"a": {"1": {}}}}', "a 1 needs a marName"),
        ('{"models": {"a": {"1": {"marName": "a.mar", "minWorkers": -1}}}}', "minWorkers=-1: expected a whole number"),
        ('{"models": {"a": {"1": {"marName": "a.mar", "minWorker": 1}}}}', "did you mean minWorkers"),
        ('{"models": {"a": {"1": {"marName": "a.mar"}, "1": {"marName": "b.mar"}}}}', "given twice"),
        ('{"modelCount": 3, "models": {"a": {"1": {"marName": "a.mar"}}}}', "modelCount is 3, but there are 1"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        snapshot_models(text)


# The files


def test_the_newest_is_read_and_the_last_ten_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a snapshot")
    (tmp_path / ".20200101000000000-snapshot.cfg.unfinished").write_text("of a server that was killed")
    paths = [write_snapshot(tmp_path, "snapshot", [PRICES] * (n % 2)) for n in range(12)]
    assert read_last_snapshot(tmp_path) == (PRICES,)
    assert files(tmp_path) == sorted([path.name for path in paths[2:]] + ["notes.txt"])
    assert [entry.key for entry in parse_properties(paths[-1].read_bytes())] == ["model_snapshot"]


def test_a_clock_that_was_put_back_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "29991231235959999-snapshot.cfg").write_text("model_snapshot={}\n")
    write_snapshot(tmp_path, "snapshot", [DIGITS])
    assert read_last_snapshot(tmp_path) == (DIGITS,)


def test_without_a_snapshot_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_last_snapshot(tmp_path / "nowhere") is None
    assert read_last_snapshot(tmp_path) is None


SOUND = "model_snapshot=" + snapshot_text("x", 1, [DIGITS])


@pytest.mark.catalogue("S5")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        SOUND[:-20].encode(),
        os.urandom(4096),
        b"model_snapshot=\n",
        b"inference_address=http://127.0.0.1:8080\n",
        f"{SOUND}\n{SOUND}\n".encode(),
        b"model_snapshot=" + b" " * (16 << 20) + b"{}",
        None,
    ],
    ids=["empty", "truncated", "random", "no models", "another file", "twice", "huge", "link"],
)
def test_a_broken_snapshot_gives_way_to_the_one_before(
    data: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_snapshot(tmp_path, "snapshot", [PRICES])
    broken = tmp_path / "29991231235959999-snapshot.cfg"
    if data is None:
        (tmp_path / "elsewhere").write_text(SOUND)
        broken.symlink_to(tmp_path / "elsewhere")
    else:
        broken.write_bytes(data)
    assert read_last_snapshot(tmp_path) == (PRICES,)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert str(broken) in record.getMessage()


class FailAt:
    """Lets the n-th call of any of os's functions that writing uses fail, and counts them."""

    def __init__(self, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.failed = ""
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name), n))

    def _failing(self, name: str, real: Callable[..., Any], n: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == n:
                self.failed = name
                if name == "close":
                    real(*arguments)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call


@pytest.mark.catalogue("S1")
def test_after_any_failure_the_old_snapshot_is_read_or_the_new_one(tmp_path: Path) -> None:
    failed = []
    for n in range(1, 100):
        folder = tmp_path / str(n)
        for _ in range(10):
            write_snapshot(folder, "snapshot", [PRICES])
        with pytest.MonkeyPatch.context() as monkeypatch:
            fail = FailAt(n, monkeypatch)
            raised = False
            try:
                write_snapshot(folder, "snapshot", [DIGITS])
            except OSError:
                raised = True
        written = read_last_snapshot(folder)
        assert written in ((PRICES,), (DIGITS,)), fail.failed
        assert raised or written == (DIGITS,), fail.failed
        if not fail.failed:
            break
        failed.append(fail.failed)
        write_snapshot(folder, "snapshot", [DIGITS])
        assert read_last_snapshot(folder) == (DIGITS,), "the next one is written"
        assert len(files(folder)) <= 11
        assert not [name for name in files(folder) if name.startswith(".")]
    assert failed == ["mkdir", "open", "write", "fsync", "close", "rename", "open", "fsync", "close", "unlink"]


@pytest.mark.catalogue("S4")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the order of system calls")
def test_the_file_is_on_disk_before_it_has_its_name(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pdserver.management.snapshot import write_snapshot;"
        f"write_snapshot(Path({str(tmp_path / 'config')!r}), 'snapshot', [])"
    )
    trace = subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=write,fsync,rename", str(Path(PDSERVER).parent / "python"), "-c", code],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    calls = re.findall(r"(write|fsync|rename)\([^\n]*/config([/>])", trace)
    assert calls == [("write", "/"), ("fsync", "/"), ("rename", "/"), ("fsync", ">")]


# When they are written


class Disk:
    """Counts the snapshots that are written, each slowly; `full`: none can be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[list[ModelToLoad]] = []
        self.full = False
        self.go = threading.Event()
        monkeypatch.setattr(snapshot, "write_snapshot", self.write)

    def write(self, folder: Path, kind: str, models: Sequence[ModelToLoad]) -> None:
        self.go.wait(60)
        self.written.append(list(models))
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_one_write_serves_all_who_wait_for_it_and_nobody_too_early(disk: Disk, tmp_path: Path) -> None:
    models: list[ModelToLoad] = []
    seen: list[int] = []

    async def change(snapshots: Snapshots, number: int) -> None:
        models.append(ModelToLoad(str(number)))
        snapshots.changed()
        assert await snapshots.keep() == ""
        assert models[number] in disk.written[-1]
        seen.append(number)

    async def play() -> None:
        snapshots = Snapshots(tmp_path, lambda: models)
        disk.go.set()
        await snapshots.begin()
        disk.go.clear()
        changes = [asyncio.create_task(change(snapshots, 0))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first is being written
        changes += [asyncio.create_task(change(snapshots, number)) for number in range(1, 50)]
        await asyncio.sleep(0)
        assert not seen
        disk.go.set()
        await asyncio.gather(*changes)
        await snapshots.close()

    asyncio.run(play())
    assert len(seen) == 50
    assert [len(written) for written in disk.written] in ([0, 1, 50], [0, 50])


def test_who_waits_in_vain_is_told_why(disk: Disk, tmp_path: Path) -> None:
    models: list[ModelToLoad] = []
    disk.go.set()

    async def play() -> None:
        snapshots = Snapshots(tmp_path, lambda: models)
        models.append(DIGITS)
        snapshots.changed()
        assert await snapshots.keep() == "the server is still starting"
        assert not disk.written
        await snapshots.begin()
        models.append(PRICES)
        disk.full = True
        assert set(await asyncio.gather(snapshots.keep(), snapshots.keep())) == {"No space left on device"}
        disk.full = False
        assert await snapshots.keep() == ""
        await snapshots.close()

    asyncio.run(play())
    assert [len(written) for written in disk.written] == [1, 2, 2]


# A server


def restart(server: RunningServer) -> None:
    server.stop()
    start_again(server)


def start_again(server: RunningServer) -> None:
    server.log_file.unlink()
    server.start()


def killed(server: RunningServer) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    server.session.close()


def configure(server: RunningServer, **settings: str) -> None:
    """For the next start; the keys that are not named stay as they are."""
    server.settings |= settings
    server.config.write_text("".join(f"{key}={value}\n" for key, value in server.settings.items()))


def models(server: RunningServer) -> list[str]:
    return [model["modelName"] for model in server.manage("GET", "/models").json()["models"]]


def snapshots(server: RunningServer) -> list[tuple[ModelToLoad, ...]]:
    paths = sorted(server.snapshots.glob("*.cfg"))
    return [snapshot_models(parse_properties(path.read_bytes())[0].value) for path in paths]


def test_what_was_registered_is_served_again_as_it_was(serve: Serve, store: Path) -> None:
    pack_handler(store, "chaos")
    pack_handler(store, "parts", name="two", version="2.0").rename(store / "two-2.pdar")
    pack_handler(store, "mirror", name="two", version="1.0")
    server = serve(models="")
    assert models(server) == []
    register = "/models?url=chaos.pdar&model_name=a&initial_workers=1&batch_size=3&max_batch_delay=7&synchronous=true"
    assert server.manage("POST", register).ok
    for archive in ("two.pdar", "two-2.pdar"):
        assert server.manage("POST", f"/models?url={archive}&initial_workers=1&synchronous=true").ok
    assert server.manage("PUT", "/models/two/2.0/set-default").ok
    assert server.manage("PUT", "/models/two/1.0?min_worker=2&max_worker=3").ok
    assert server.manage("POST", "/models?url=chaos.pdar&model_name=gone&synchronous=true").ok
    assert server.manage("DELETE", "/models/gone").ok

    restart(server)
    assert models(server) == ["a", "two"]
    described = server.describe("a")
    assert (described["modelUrl"], described["batchSize"], described["maxBatchDelay"]) == ("chaos.pdar", 3, 7)
    assert server.describe("two")["modelVersion"] == "2.0"
    one = server.describe("two/1.0")
    assert (one["minWorkers"], one["maxWorkers"]) == (2, 3)
    assert server.manage("PUT", "/models/two/1.0?min_worker=4").status_code == 400, "the limit was kept"
    assert server.manage("PUT", "/models/a?min_worker=2&synchronous=true").ok, "nobody has said that one is the most"
    assert server.predict("a", json={"nonce": 1}).json()["nonce"] == 1
    eventually(lambda: re.search(r"-(shutdown|snapshot)\.cfg", server.log()))  # where it has the models from


def test_what_was_answered_is_on_disk(serve: Serve, store: Path) -> None:
    for version in ("1.0", "2.0"):
        pack_handler(store, "mirror", name="two", version=version).rename(store / f"two-{version}.pdar")
    server = serve(models="")

    def written_after(method: str, path: str) -> dict[str | None, tuple[Any, bool]]:
        """Version → workers, whether it is the default: what is on disk when the call is answered."""
        answer = server.manage(method, path)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            return {model.version: (model.settings["min_workers"], model.default) for model in snapshots(server)[-1]}
        finally:
            server.process.send_signal(signal.SIGCONT)
            assert answer.status_code in (200, 202), answer.text

    register = "/models?url=two-{}.pdar&initial_workers=0&synchronous={}"
    assert written_after("POST", register.format("1.0", "true")) == {"1.0": (0, True)}
    assert [len(written) for written in snapshots(server)] == [0, 1]
    assert written_after("POST", register.format("2.0", "false")) == {"1.0": (0, True), "2.0": (0, False)}
    assert written_after("PUT", "/models/two/2.0/set-default") == {"1.0": (0, False), "2.0": (0, True)}
    assert written_after("PUT", "/models/two?min_worker=1") == {"1.0": (0, False), "2.0": (1, True)}
    assert written_after("DELETE", "/models/two/1.0") == {"2.0": (1, True)}
    assert server.manage("PUT", "/models/two?batch_size=7").ok
    killed(server)
    start_again(server)
    described = server.describe("two")
    assert (described["modelVersion"], described["minWorkers"], described["batchSize"]) == ("2.0", 1, 7)


def test_what_goes_before_what(serve: Serve, store: Path) -> None:
    """The snapshot, and what the operator says: one server, started again with other settings."""
    pack_handler(store, "chaos")
    pack_handler(store, "parts")
    server = serve(models="chaos.pdar", restore_snapshot="true")
    assert models(server) == ["chaos"]
    server.logged("there is no snapshot")
    assert server.manage("POST", "/models?url=parts.pdar&synchronous=true").ok
    assert server.manage("DELETE", "/models/chaos").ok
    restart(server)
    assert models(server) == ["parts"], "restore_snapshot: the snapshot goes before load_models"

    server.stop()
    configure(server, restore_snapshot="false")
    start_again(server)
    assert models(server) == ["chaos"], "a snapshot never overrides what the operator says"
    assert server.manage("POST", "/models?url=parts.pdar&synchronous=true").ok

    server.stop()
    before = files(server.snapshots)
    assert {model.name for model in snapshots(server)[-1]} == {"chaos", "parts"}
    configure(server, load_models="", config_snapshots="false")
    start_again(server)
    assert models(server) == [], "without snapshots none is read"
    assert server.manage("POST", "/models?url=chaos.pdar&synchronous=true").ok

    server.stop()
    assert files(server.snapshots) == before, "nor written"
    configure(server, config_snapshots="true", management_address=f"http://127.0.0.1:{free_ports(1)[0]}")
    start_again(server)
    assert requests.get(f"{server.settings['management_address']}/models", timeout=60).json()["models"] == []
    server.stop()
    assert files(server.snapshots) == before, "snapshots belong to a management address"


def test_a_snapshot_is_a_configuration_file(serve: Serve, store: Path, tmp_path: Path) -> None:
    pack_handler(store, "chaos")
    written = write_snapshot(tmp_path / "elsewhere", "startup", [ModelToLoad("chaos.pdar", "mine", "1.0")])
    settings = dict(line.split("=", 1) for line in written.read_text().splitlines() if not line.startswith("#"))
    assert settings.keys() == {"model_snapshot"}
    assert models(serve(models="", **settings)) == ["mine"]


@pytest.mark.catalogue("S6")
def test_one_archive_that_is_gone_does_not_stop_the_others_and_is_not_forgotten(serve: Serve, store: Path) -> None:
    for name in ("a", "b", "c"):
        pack_handler(store, "chaos", name=name)
    pack_handler(store, "mirror", name="d")
    server = serve(models="all")
    pack_handler(store, "mirror", name="d", version="2.0")  # an update under the same file name
    assert server.manage("POST", "/models?url=d.pdar&synchronous=true").ok
    server.logged("d/1.0 was registered from d.pdar, which holds d/2.0 now")
    assert server.manage("PUT", "/models/d/2.0/set-default").ok

    server.stop()
    configure(server, load_models="")
    (store / "b.pdar").rename(store.parent / "b.pdar")
    (store / "c.pdar").write_bytes(b"not an archive")
    start_again(server)
    assert models(server) == ["a", "d"]
    assert server.ping().status_code == 503
    problems = server.ping().json()["problems"]
    assert problems.keys() == {"b/1.0", "c/1.0", "d/1.0"}
    assert "d.pdar holds version 2.0, not 1.0" in problems["d/1.0"]
    for words in ("b.pdar", "c.pdar", "d.pdar holds version 2.0, not 1.0"):
        server.logged(words)
    assert server.describe("d")["modelVersion"] == "2.0"
    assert server.predict("d", json=1).status_code == 200, "a version whose file was replaced takes no other along"

    (store.parent / "b.pdar").rename(store / "b.pdar")
    restart(server)
    assert models(server) == ["a", "b", "d"], "it was kept in mind while it was not there"
    assert server.manage("DELETE", "/models/c").ok
    assert server.manage("DELETE", "/models/c").status_code == 404
    assert server.manage("DELETE", "/models/d/1.0").ok
    assert server.manage("DELETE", "/models/d/1.0").status_code == 404
    assert server.ping().ok
    kept = [(model.name, model.version) for model in snapshots(server)[-1]]
    assert kept == [("a", "1.0"), ("b", "1.0"), ("d", "2.0")], "what was given up is forgotten"


def test_a_disk_that_is_full_is_logged_and_the_server_serves(serve: Serve, store: Path) -> None:
    pack_handler(store, "broken_load")
    pack_handler(store, "chaos")
    server = serve(models="")
    assert not server.manage("POST", "/models?url=broken_load.pdar&synchronous=true").ok
    folder = server.snapshots
    before = files(folder)
    shutil.move(folder, folder.with_name("kept"))
    folder.write_text("a file where the folder was")
    words = ". This is not on disk, and a server that is killed forgets it: "
    answer = server.manage("POST", "/models?url=chaos.pdar&synchronous=true")
    assert answer.status_code == 200, "it is served all the same"
    assert words in answer.json()["status"]
    assert words in server.manage("PUT", "/models/chaos?min_worker=1").json()["status"]
    with Client(server) as client:
        assert words in client.manage("SetDefault", model_name="chaos", model_version="1.0")
    server.logged("no snapshot could be written")
    assert server.predict("chaos", json={"nonce": 1}).ok
    folder.unlink()
    shutil.move(folder.with_name("kept"), folder)
    server.stop()
    assert len(files(folder)) == len(before) + 1, "what failed is written at the end"
    assert [model.name for model in snapshots(server)[-1]] == ["chaos"]
    names = {model.name for written in snapshots(server) for model in written}
    assert names == {"chaos"}, "a model that cannot be registered leaves no trace"


@pytest.mark.parametrize("flag", ["--ncs", "--no-config-snapshots"])
def test_torchserves_flags_switch_them_off(flag: str) -> None:
    assert arguments.overrides(arguments.parser().parse_args(["--start", flag])) == {"config_snapshots": "false"}
