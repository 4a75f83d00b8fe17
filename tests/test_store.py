"""Opening archives from a real store, also when many do at once, the file changes, or it is not what it seems."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

from pdarchiver import archive
from pdarchiver.manifest import Manifest
from pdarchiver.reading import Limits
from pdserver.errors import (
    ArchiveUnusable,
    ConfigError,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    PdError,
    Unavailable,
)
from pdserver.store.archives import Store

HANDLER = b"def handle(data, context):\n    return data\n"


def contents(name: str | None = "echo", config: bytes | None = None) -> dict[str, bytes]:
    """The files of an archive with a handler and, perhaps, a model config."""
    files = {"handler.py": HANDLER} | ({"model-config.yaml": config} if config is not None else {})
    model = {"modelName": name, "modelVersion": "1.0", "handler": "handler.py"}
    manifest = {
        "runtime": "python",
        "model": model | ({"configFile": "model-config.yaml"} if config is not None else {}),
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    return {"PDAR-INF/MANIFEST.json": json.dumps(manifest).encode()} | files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as target:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            target.addfile(entry, BytesIO(data))
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def left(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "archives").iterdir())


def test_an_archive_is_unpacked_once_for_all_its_users(folder: Path, run: Path) -> None:
    path = write_zip(folder / "echo.pdar", contents(config=b"batchSize: 4\ntop_k: 3\n"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    store = Store(folder, run)
    first = store.open("echo.pdar")
    (folder / "twin.zip").write_bytes(path.read_bytes())
    second = store.open("twin.zip")
    assert (first.url, second.url, first.digest) == ("echo.pdar", "twin.zip", digest)
    assert first.directory == second.directory == run / "archives" / digest
    assert (first.directory / "handler.py").read_bytes() == HANDLER
    assert stat.S_IMODE(first.directory.stat().st_mode) == stat.S_IMODE((run / "archives").stat().st_mode) == 0o700
    assert (first.name, first.manifest.model_version, first.manifest.handler) == ("echo", "1.0", "handler.py")
    assert first.settings == {"batch_size": 4}
    assert first.model_config == {"batchSize": 4, "top_k": 3}
    store.release(first)
    assert (second.directory / "handler.py").exists()
    store.release(second)
    assert left(run) == []


def test_what_is_loaded_outlives_its_file_and_a_new_file_is_another(folder: Path, run: Path) -> None:
    store = Store(folder, run)
    path = write_zip(folder / "echo.pdar", contents())
    old = store.open("echo.pdar")
    path.unlink()
    write_zip(path, contents(config=b"batchSize: 2"))
    new = store.open("echo.pdar")
    assert old.directory != new.directory
    assert (old.settings, new.settings) == ({}, {"batch_size": 2})
    assert (old.directory / "handler.py").exists()


def test_twenty_at_once_unpack_once(folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(folder / "echo.pdar", contents())
    store = Store(folder, run)
    unpacked: list[object] = []
    unpack = archive.unpack

    def counted(source: BinaryIO, destination: Path, limits: Limits, *, default: Manifest | None) -> Manifest:
        unpacked.append(source)
        return unpack(source, destination, limits, default=default)

    monkeypatch.setattr(archive, "unpack", counted)
    together = threading.Barrier(20)

    def use() -> bool:
        together.wait()
        model = store.open("echo.pdar")
        whole = (model.directory / "handler.py").read_bytes() == HANDLER
        together.wait()
        store.release(model)
        return whole

    with ThreadPoolExecutor(20) as threads:
        assert all(future.result() for future in [threads.submit(use) for _ in range(20)])
    assert len(unpacked) == 1
    assert left(run) == []


def test_open_and_release_may_race(folder: Path, run: Path) -> None:
    write_zip(folder / "echo.pdar", contents())
    store = Store(folder, run)

    def use(_: int) -> bool:
        model = store.open("echo.pdar")
        whole = (model.directory / "handler.py").read_bytes() == HANDLER
        store.release(model)
        return whole

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(200)))
    assert left(run) == []


def test_the_formats_and_folders_are_listed_and_open(folder: Path, run: Path) -> None:
    for name in ("a.pdar", "b.mar", "c.zip"):
        write_zip(folder / name, contents())
    for name in ("d.tar.gz", "e.tgz"):
        write_tar(folder / name, contents())
    write_folder(folder / "f", contents(config=b"batchSize: 3"))
    write_zip(folder / ".hidden.pdar", contents())
    (folder / "notes.txt").write_text("not an archive")
    (folder / "empty").mkdir()
    (folder / "g.pdar").mkdir()
    store = Store(folder, run)
    assert store.names() == ["a.pdar", "b.mar", "c.zip", "d.tar.gz", "e.tgz", "f"]
    models = [store.open(name) for name in store.names()]
    assert {model.name for model in models} == {"echo"}
    assert models[-1].directory == folder / "f"
    assert models[-1].settings == {"batch_size": 3}
    assert models[3].digest == hashlib.sha256((folder / "d.tar.gz").read_bytes()).hexdigest()
    for model in models:
        store.release(model)
    assert (folder / "f" / "handler.py").exists()
    assert left(run) == []


def test_folders_as_paddle_leaves_them_are_listed(folder: Path, run: Path) -> None:
    served = {
        "serving_server": ["serving_server_conf.stream.prototxt"],
        "old": ["__model__"],
        "inference": ["inference.json", "inference.pdiparams", "inference.yml"],
        "static": ["x.pdmodel", "x.pdiparams"],
    }
    others = {"labels": ["labels.json"], "client": ["serving_client_conf.prototxt"], "weights": ["x.pdiparams"]}
    for name, files in {**served, **others}.items():
        write_folder(folder / name, dict.fromkeys(files, b""))
    store = Store(folder, run)
    assert store.names() == sorted(served)
    for name in served:
        with pytest.raises(ArchiveUnusable, match=rf"^{name}: "):
            store.open(name)
    assert left(run) == []


def test_without_a_name_in_the_manifest_the_files_counts(folder: Path, run: Path) -> None:
    write_tar(folder / "my-model.v2.tar.gz", contents(name=None))
    assert Store(folder, run).open("my-model.v2.tar.gz").name == "my_model_v2"


# Names that do not get far


@pytest.mark.catalogue("L20")
@pytest.mark.parametrize(
    ("url", "error", "reason"),
    [
        ("http://127.0.0.1/echo.pdar", Forbidden, "from the model store alone: copy it there"),
        ("file:///etc/passwd", Forbidden, "from the model store alone"),
        ("s3:echo.pdar", Forbidden, "from the model store alone"),
        ("", InvalidRequest, "expected the name of a file in the model store"),
        ("../secret.pdar", InvalidRequest, "expected the name of a file"),
        ("..", InvalidRequest, "expected the name of a file"),
        (".", InvalidRequest, "expected the name of a file"),
        (".hidden.pdar", InvalidRequest, "expected the name of a file"),
        ("sub/echo.pdar", InvalidRequest, "expected the name of a file"),
        ("/etc/passwd", InvalidRequest, "expected the name of a file"),
        ("..\\echo.pdar", InvalidRequest, "expected the name of a file"),
        ("echo.pdar\0.txt", InvalidRequest, "expected the name of a file"),
        ("echo\n.pdar", InvalidRequest, "expected the name of a file"),
        ("\udcff.pdar", InvalidRequest, "expected the name of a file"),
        ("a" * 300, InvalidRequest, "expected the name of a file"),
        ("é" * 200, ArchiveUnusable, "File name too long"),
        ("ecko.pdar", ModelNotFound, "ecko.pdar: not in the model store; did you mean echo.pdar?"),
        ("echo", ModelNotFound, "echo: not in the model store; did you mean echo.pdar?"),
        ("outside.pdar", Forbidden, "a link that leads out of the model store"),
        ("outside", Forbidden, "a link that leads out of the model store"),
        ("loop.pdar", ArchiveUnusable, "loop.pdar: "),
        ("dangling.pdar", ModelNotFound, "not in the model store"),
        ("notes.txt", ArchiveUnusable, "expected .pdar, .mar"),
        ("pipe.pdar", ArchiveUnusable, "not a regular file"),
        ("empty", ArchiveUnusable, "MANIFEST.json"),
    ],
)
def test_other_names_are_refused_and_nothing_is_left(
    folder: Path, run: Path, url: str, error: type[PdError], reason: str
) -> None:
    write_zip(folder / "echo.pdar", contents())
    write_zip(folder.parent / "secret.pdar", contents())
    write_zip(folder / ".hidden.pdar", contents())
    write_folder(folder / "sub", {"echo.pdar": b""})
    (folder / "outside.pdar").symlink_to(folder.parent / "secret.pdar")
    (folder / "outside").symlink_to(folder.parent)
    (folder / "loop.pdar").symlink_to("loop.pdar")
    (folder / "dangling.pdar").symlink_to("gone.pdar")
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.pdar")
    store = Store(folder, run)
    with pytest.raises(error) as caught:
        store.open(url)
    assert type(caught.value) is error
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(folder.parent) not in str(caught.value)
    assert left(run) == []


def test_a_link_within_the_store_is_followed(folder: Path, run: Path) -> None:
    write_zip(folder / "echo-2.pdar", contents())
    (folder / "latest.pdar").symlink_to("echo-2.pdar")
    store = Store(folder, run)
    assert store.names() == ["echo-2.pdar", "latest.pdar"]
    assert store.open("latest.pdar").url == "latest.pdar"


# Archives that are not sound


def test_a_broken_archive_says_why_and_leaves_nothing(folder: Path, run: Path) -> None:
    whole = write_zip(folder / "whole.pdar", contents()).read_bytes()
    (folder / "empty.pdar").write_bytes(b"")
    (folder / "cut.pdar").write_bytes(whole[:-30])
    (folder / "flipped.pdar").write_bytes(whole.replace(b"return data", b"return date"))
    (folder / "text.pdar").write_bytes(b"<html>404</html>")
    write_zip(folder / "bare.pdar", {"handler.py": HANDLER})
    write_zip(folder / "added.pdar", contents() | {"extra.py": b""})
    store = Store(folder, run)
    for name in ("empty", "cut", "flipped", "text", "bare", "added"):
        with pytest.raises(ArchiveUnusable, match=rf"^{name}\.pdar: ['\w]") as caught:
            store.open(f"{name}.pdar")
        assert str(folder) not in str(caught.value)
    assert left(run) == []
    write_zip(folder / "cut.pdar", contents())
    assert store.open("cut.pdar").name == "echo"


def test_of_a_pipeline_with_a_broken_archive_nothing_is_left(folder: Path, run: Path) -> None:
    nodes = "".join(f"  {name}: {{archive: {name}.pdar, opaque: true, inputs: {{x: x}}}}\n" for name in ("a", "b"))
    text = "inputs: {x: bytes}\noutputs: {a: a.body, b: b.body}\nnodes:\n" + nodes
    pipeline = write_folder(folder / "both", {"pipeline.yaml": text.encode(), "b.pdar": b"no archive"})
    write_zip(pipeline / "a.pdar", contents("a"))
    store = Store(folder, run)
    with pytest.raises(ArchiveUnusable, match=r"^both/b\.pdar: "):
        store.open("both")
    assert left(run) == []
    manifest = {"runtime": "python", "model": {"modelName": "b", "modelVersion": "1.0"}, "pipeline": "pipeline.yaml"}
    own = {"pipeline.yaml": text.encode()}
    files = {"files": {path: hashlib.sha256(data).hexdigest() for path, data in own.items()}}
    write_zip(pipeline / "b.pdar", {"PDAR-INF/MANIFEST.json": json.dumps(manifest | files).encode()} | own)
    with pytest.raises(ArchiveUnusable, match=r"both: pipeline\.yaml: b\.pdar is a pipeline itself"):
        store.open("both")
    assert left(run) == []
    write_zip(pipeline / "b.pdar", contents("b"))
    both = store.open("both")
    assert len(left(run)) == 2
    store.release(both)
    assert left(run) == []


PIPELINE = b"""
inputs: {x: bytes}
outputs: {y: b.body}
nodes:
  a: {python: "steps.py:A", inputs: {x: x}, outputs: {x: bytes}}
  b: {archive: echo.pdar, opaque: true, inputs: {x: a.x}}
samples: [{x: given/x.bin}]
"""


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("pipeline.yaml", ""),
        ("model-config.yaml", ""),
        ("steps.py", "pipeline.yaml: nodes.a.python: "),
        ("echo.pdar", "pipeline.yaml: nodes.b.archive: "),
        ("given/x.bin", "pipeline.yaml: samples[0].x: "),
        ("given", "pipeline.yaml: samples[0].x: "),
    ],
)
def test_links_in_a_pipelines_folder(folder: Path, run: Path, name: str, place: str) -> None:
    files = {"pipeline.yaml": PIPELINE, "model-config.yaml": b"{}", "steps.py": HANDLER + b"\nA = handle\n"}
    pipeline = write_folder(folder / "both", {**files, "given/x.bin": b"x"})
    write_zip(pipeline / "echo.pdar", contents())
    store = Store(folder, run)
    store.release(store.open("both"))
    elsewhere = (pipeline / name).rename(folder.parent / "elsewhere")
    (pipeline / name).symlink_to(elsewhere)
    with pytest.raises(Forbidden) as caught:
        store.open("both")
    assert str(caught.value).startswith(f"both: {place}")
    assert "a link that leads out of the " in str(caught.value)
    assert str(folder.parent) not in str(caught.value)
    (pipeline / name).unlink()
    (pipeline / name).symlink_to(Path(name).name)
    if place:  # a loop; without its own file or its settings, it is another folder
        with pytest.raises(ArchiveUnusable, match=re.escape(f"both: {place}") + ".*a loop of links"):
            store.open("both")
    assert left(run) == []


def test_what_has_no_manifest_is_named_after_its_file(folder: Path, run: Path) -> None:
    """As TorchServe has it; an archive of our own archiver always has one."""
    write_zip(folder / "bare-1.mar", {"handler.py": HANDLER})
    write_tar(folder / "b.tar.gz", {"handler.py": HANDLER})
    (folder / "f").mkdir()
    (folder / "f" / "handler.py").write_bytes(HANDLER)
    store = Store(folder, run)
    models = [store.open(name) for name in ("bare-1.mar", "b.tar.gz", "f")]
    assert [model.name for model in models] == ["bare_1", "b", "f"]
    assert [(model.handler, model.manifest.model_version) for model in models] == [(None, "1.0")] * 3
    assert all((model.directory / "handler.py").read_bytes() == HANDLER for model in models)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b"batch_size: 4", "echo.pdar: model-config.yaml: unknown key batch_size; did you mean batchSize?"),
        (b"batchSize: 0", "echo.pdar: model-config.yaml: batchSize=0: expected a whole number of requests"),
        (b"a: [", "echo.pdar: model-config.yaml:1: "),
    ],
)
def test_a_bad_model_config_makes_the_archive_unusable(folder: Path, run: Path, config: bytes, reason: str) -> None:
    write_zip(folder / "echo.pdar", contents(config=config))
    with pytest.raises(ArchiveUnusable) as caught:
        Store(folder, run).open("echo.pdar")
    assert str(caught.value).startswith(reason)
    assert left(run) == []


def test_a_folders_config_does_not_lead_out_of_it(folder: Path, run: Path) -> None:
    write_folder(folder / "echo", contents(config=b""))
    (folder / "echo" / "model-config.yaml").unlink()
    store = Store(folder, run)
    with pytest.raises(ArchiveUnusable, match=r"model-config\.yaml: cannot be read: No such file"):
        store.open("echo")
    (folder / "echo" / "model-config.yaml").symlink_to("/etc/hostname")
    with pytest.raises(Forbidden, match="a link that leads out of the model's folder"):
        store.open("echo")


def test_a_file_replaced_while_it_is_opened_is_one_or_the_other(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between hashing and unpacking another archive takes the name: what was hashed is what is unpacked."""
    path = write_zip(folder / "echo.pdar", contents(name="first"))
    other = write_zip(folder.parent / "other.pdar", contents(name="second"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    unpack = archive.unpack

    def swap_first(source: BinaryIO, destination: Path, limits: Limits, *, default: Manifest | None) -> Manifest:
        other.replace(path)
        return unpack(source, destination, limits, default=default)

    monkeypatch.setattr(archive, "unpack", swap_first)
    model = Store(folder, run).open("echo.pdar")
    assert (model.name, model.digest) == ("first", digest)


def test_a_file_overwritten_while_it_is_opened_is_refused(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(folder / "echo.pdar", contents(name="first"))
    other = write_zip(folder.parent / "other.pdar", contents(name="other")).read_bytes()
    unpack = archive.unpack

    def overwrite_first(source: BinaryIO, destination: Path, limits: Limits, *, default: Manifest | None) -> Manifest:
        path.write_bytes(other)
        return unpack(source, destination, limits, default=default)

    monkeypatch.setattr(archive, "unpack", overwrite_first)
    store = Store(folder, run)
    with pytest.raises(ArchiveUnusable, match="was changed while it was read: try again"):
        store.open("echo.pdar")
    assert left(run) == []


# The folders around it


def test_what_an_earlier_run_left_is_removed(folder: Path, run: Path) -> None:
    write_folder(run / "archives" / "0123", {"handler.py": b"old"})
    (run / "other").write_text("kept")
    Store(folder, run)
    assert left(run) == []
    assert (run / "other").exists()


def test_a_run_directory_that_cannot_be_used_is_named(folder: Path, run: Path) -> None:
    run.mkdir()
    (run / "archives").symlink_to(folder)
    with pytest.raises(ConfigError, match=r"archives: a link, or another user's folder: remove it"):
        Store(folder, run)
    with pytest.raises(ConfigError, match=r"cannot be made ready for use: Not a directory"):
        Store(folder, Path("/dev/null/run"))


@pytest.mark.parametrize("how", ["one file", "everything"])
def test_what_a_cleaner_removed_is_unpacked_anew(folder: Path, run: Path, how: str) -> None:
    write_zip(folder / "echo.pdar", contents())
    store = Store(folder, run)
    first = store.open("echo.pdar")
    assert store.is_whole(first)
    if how == "one file":
        (first.directory / "handler.py").unlink()
    else:
        shutil.rmtree(run)
    assert not store.is_whole(first)
    second = store.open("echo.pdar", sha256=first.digest)
    assert second == dataclasses.replace(first, pin=first.digest)
    assert store.is_whole(first)
    assert (first.directory / "handler.py").is_file()
    for model in (first, second):
        store.release(model)
    assert left(run) == []


def test_what_a_handler_adds_to_its_folder_stays_and_is_nothing_amiss(folder: Path, run: Path) -> None:
    write_zip(folder / "echo.pdar", contents())
    store = Store(folder, run)
    model = store.open("echo.pdar")
    (model.directory / "cache.bin").write_bytes(b"computed")
    assert store.is_whole(model)
    store.open("echo.pdar")
    assert (model.directory / "cache.bin").is_file()


def test_a_store_or_run_directory_that_is_gone_is_unavailable(folder: Path, run: Path) -> None:
    write_zip(folder / "echo.pdar", contents())
    store = Store(folder, run)
    shutil.rmtree(run)
    run.touch()
    with pytest.raises(Unavailable, match="cannot be unpacked"):
        store.open("echo.pdar")
    (folder / "echo.pdar").unlink()
    folder.rmdir()
    with pytest.raises(Unavailable, match="model store"):
        store.names()


def test_a_pinned_archive_is_one_that_nobody_can_change_any_more(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwritten between the check of its sha256 and its use, and back again before anybody looks."""
    path = write_zip(folder / "echo.pdar", contents(name="first"))
    first, other = path.read_bytes(), write_zip(folder.parent / "other.pdar", contents(name="other")).read_bytes()
    pin = hashlib.sha256(first).hexdigest()
    unpack = archive.unpack

    def overwrite_meanwhile(
        source: BinaryIO, destination: Path, limits: Limits, *, default: Manifest | None
    ) -> Manifest:
        path.write_bytes(other)
        try:
            return unpack(source, destination, limits, default=default)
        finally:
            path.write_bytes(first)

    monkeypatch.setattr(archive, "unpack", overwrite_meanwhile)
    store = Store(folder, run)
    model = store.open("echo.pdar", sha256=pin)
    assert (model.name, model.digest, model.pin) == ("first", pin, pin)
    store.release(model)
    assert left(run) == []
    with pytest.raises(ArchiveUnusable, match=f"its sha256 is {pin}, not {'0' * 64}"):
        store.open("echo.pdar", sha256="0" * 64)
    assert left(run) == []


def test_the_limits_are_the_operators(folder: Path, run: Path) -> None:
    path = write_zip(folder / "echo.pdar", contents())
    size = path.stat().st_size
    for limits, reason in (
        (Limits(packed_bytes=size - 1), f"{size} bytes long; at most {size - 1} are accepted"),
        (Limits(unpacked_bytes=50), "unpacks to more than 50 bytes"),
        (Limits(entries=1), "2 entries; at most 1 are accepted"),
    ):
        with pytest.raises(ArchiveUnusable, match=reason):
            Store(folder, run, limits).open("echo.pdar")
    assert Store(folder, run, Limits(packed_bytes=size, entries=2)).open("echo.pdar").name == "echo"
