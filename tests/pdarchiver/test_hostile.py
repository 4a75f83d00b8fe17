"""Archives that lie: each is refused, quickly, and nothing is left of it."""

from __future__ import annotations

import gzip
import io
import os
import random
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pdarchiver import Limits, archive
from pdarchiver.errors import ArchiveError, InvalidArchive, InvalidManifest
from tests.pdarchiver.crafting import DEVICE, FIFO, FOLDER, LINK, MANIFEST, SOCKET, Crafted, Item, tar_gz, tar_item

SMALL = Limits(unpacked_bytes=1024**2, entries=100)


class Refuses:
    """Writes an archive and makes sure that no door lets it in, and that the disk is afterwards as it was before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary"
        self.canary.write_text("alive")

    def __call__(self, data: bytes, match: str, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        path = self.folder / "model.pdar"
        path.write_bytes(data)
        began = time.thread_time()
        with pytest.raises((InvalidArchive, InvalidManifest), match=match) as caught:
            archive.unpack(path, self.folder / "out", limits)
        assert time.thread_time() - began < 1, "seconds of the processor, where all but bombs take milliseconds"
        assert str(path) in str(caught.value)
        assert str(caught.value).isprintable()
        with pytest.raises((InvalidArchive, InvalidManifest), match=match):
            archive.verify(path, limits)
        self.check_folder()

    def check_folder(self) -> None:
        assert sorted(path.name for path in self.folder.iterdir()) == ["canary", "model.pdar"]
        assert self.canary.read_text() == "alive"


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    folder = tmp_path / "work"
    folder.mkdir()
    return Refuses(folder)


def test_the_crafted_zip_is_good_when_it_does_not_lie(tmp_path: Path) -> None:
    path = tmp_path / "good.pdar"
    deflated = Item(b"b/", b"", mode=FOLDER), Item(b"b/c.txt", b"x" * 9999, method=8)
    path.write_bytes(Crafted([Item(b"a.txt"), *deflated], comment=b"hello").bytes())
    manifest = archive.unpack(path, tmp_path / "out")
    assert manifest.model_name == "m"
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"content"
    assert (tmp_path / "out" / "b" / "c.txt").read_bytes() == b"x" * 9999


# A1: not an archive at all, or damaged.


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "an empty file"),
        (b"hello, world\n", r"first bytes are b'hell'"),
        (bytes(range(256)) * 40, "neither a zip"),
        (b"PK\x03\x04", "cut short"),
        (b"PK\x05\x06" + bytes(18), "has no PDAR-INF/MANIFEST.json"),
        (b"PK\x05\x06" + b"\xff" * 18, "cut short"),
        (gzip.compress(b"not a tar"), "damaged"),
        (gzip.compress(b""), "damaged"),
        (gzip.compress(bytes(10240)), "damaged|has no"),
        (b"\x1f\x8b", "damaged"),
        (tar_gz([], with_manifest=False), "damaged|has no"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # a gzip file has the time in it
)
def test_not_an_archive(refuses: Refuses, data: bytes, match: str) -> None:
    refuses(data, match)


def good_zip() -> bytes:
    items = [Item(b"handler.py", b"def handle(data, context): ...\n" * 50, method=8), Item(b"data/w.bin", bytes(999))]
    return Crafted(items).bytes()


def good_tar() -> bytes:
    return tar_gz(
        [tar_item("handler.py", b"def handle(data, context): ...\n" * 50), tar_item("data/w.bin", bytes(999))]
    )


@pytest.mark.parametrize("data", [good_zip(), good_tar()], ids=["zip", "tar"])
def test_truncated_anywhere(refuses: Refuses, data: bytes) -> None:
    for part in range(20):
        refuses(data[: len(data) * part // 20], r"model\.pdar: ")


@pytest.mark.parametrize("data", [good_zip(), good_tar()], ids=["zip", "tar"])
def test_flipped_bits(tmp_path: Path, data: bytes) -> None:
    """A flipped bit may hit what nobody reads (a time, an owner); then the files must be the right ones."""
    source = tmp_path / "flipped"
    source.write_bytes(data)
    archive.unpack(source, tmp_path / "good")
    good = contents(tmp_path / "good")
    dice = random.Random(20240601)
    refused = 0
    for turn in range(400):
        flipped = bytearray(data)
        flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        source.write_bytes(flipped)
        out = tmp_path / f"out{turn}"
        try:
            archive.unpack(source, out)
        except ArchiveError:
            refused += 1
            assert not out.exists()
        else:
            assert sorted(contents(out).values()) == sorted(good.values())
    assert refused > 200
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# A2, A3, A9: names.

BAD_NAMES = [
    "../x",
    "..\\x",
    "/etc/x",
    "C:\\x",
    "C:/x",
    "a/../../x",
    "....//x",
    "%2e%2e/x",
    "%2E./x",
    "a/..",
    "..",
    ".",
    "a/./b",
    "./a",
    "a//b",
    "../outevil/x",
    "../.out.01234567.part/x",
    "nul\0byte",
    "new\nline",
    "escape\x1b[2J",
    "right-to-left\u202eyp.exe",
    "line\u2028separator",
    "space /x",
    "dot./x",
    "x ",
    "x.",
    "é" * 150,
    "/".join("d" * 40),
    "/".join(["d" * 200] * 6),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_astray_in_a_zip(refuses: Refuses, name: str) -> None:
    refuses(Crafted([Item(name.encode())]).bytes(), "the name")


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name != "./a" and "\0" not in name])
def test_names_that_lead_astray_in_a_tar(refuses: Refuses, name: str) -> None:
    refuses(tar_gz([tar_item(name)]), "the name")


def test_a_folder_with_a_bad_name(refuses: Refuses) -> None:
    refuses(Crafted([Item(b"../x/", b"", mode=FOLDER)]).bytes(), "the name")
    refuses(Crafted([Item(b"/", b"", mode=FOLDER)]).bytes(), "the name")
    refuses(tar_gz([tar_item("../x", kind=tarfile.DIRTYPE)]), "the name")


def test_names_that_are_not_utf8(refuses: Refuses) -> None:
    refuses(Crafted([Item("é.txt".encode("cp437"), flags=0)]).bytes(), "not UTF-8")
    info, data = tar_item("x")
    raw = tar_gz([(info, data)])
    tar = gzip.decompress(raw).replace(b"x\0", b"\xe9\0", 1)
    header = bytearray(tar[:512])
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    refuses(gzip.compress(bytes(header) + tar[512:]), "the name")


@pytest.mark.parametrize("name", ["模型.py", "дом/файл.txt", "👩‍🔬.txt", ".hidden", "a b.txt", "%41", "nfd-e\u0301"])
def test_names_that_work(tmp_path: Path, name: str) -> None:
    for kind, data in {"zip": Crafted([Item(name.encode())]).bytes(), "tar": tar_gz([tar_item(name)])}.items():
        path = tmp_path / f"{kind}.pdar"
        path.write_bytes(data)
        archive.unpack(path, tmp_path / kind)
        assert (tmp_path / kind / name).read_bytes() == b"content"


# A4: links, devices.


@pytest.mark.parametrize("mode", [LINK, FIFO, DEVICE, SOCKET])
def test_only_files_and_folders_in_a_zip(refuses: Refuses, mode: int) -> None:
    refuses(Crafted([Item(b"link", b"/etc", mode=mode), Item(b"link2/passwd")]).bytes(), "neither a file nor a folder")
    refuses(Crafted([Item(b"link", b"/etc", mode=mode), Item(b"link/passwd")]).bytes(), "neither a file nor a folder")


def test_a_folder_that_is_a_file(refuses: Refuses) -> None:
    refuses(Crafted([Item(b"a/", b"", mode=0o100644)]).bytes(), "neither")
    refuses(Crafted([Item(b"a", b"", mode=FOLDER)]).bytes(), "neither")
    refuses(Crafted([Item(b"a/", b"content", mode=FOLDER)]).bytes(), "sizes contradict")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"?"],
)
def test_only_files_and_folders_in_a_tar(refuses: Refuses, kind: bytes) -> None:
    link = tar_item("link", kind=kind, linkname="../canary")
    refuses(tar_gz([link, tar_item("link/x")]), "neither a file nor a folder")


def test_sparse_files_in_a_tar(refuses: Refuses) -> None:
    info, data = tar_item("hole")
    info.pax_headers = {"GNU.sparse.map": "0,1,1000000000,1", "GNU.sparse.size": "1000000001"}
    refuses(tar_gz([(info, data)]), "neither a file nor a folder")


# A5: bombs.


def test_more_entries_than_the_limit(refuses: Refuses) -> None:
    items = [Item(f"{i}".encode(), b"") for i in range(101)]
    refuses(Crafted(items).bytes(), "102 entries; at most 100", SMALL)
    refuses(tar_gz([tar_item(f"{i}", b"") for i in range(101)]), "more than 100 entries", SMALL)


def test_a_million_entries(refuses: Refuses) -> None:
    """The end record counts to 65,535 at most; it says 1 here, and the directory holds the million."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) * 1_000_000, 0, 0)
    refuses(entry * 1_000_000 + end, "neither a zip")
    data = Crafted([Item(b"x")], end64=entry * 100_000, directory_size=0, count=1).bytes()
    refuses(data, "not where its end record says|larger than")


def test_too_much_in_total(refuses: Refuses) -> None:
    items = [Item(f"{i}".encode(), random.Random(i).randbytes(300_000)) for i in range(4)]
    refuses(Crafted(items).bytes(), "unpacks to more than 1048576 bytes", SMALL)
    refuses(tar_gz([tar_item(item.name.decode(), item.data) for item in items]), "more than 1048576 bytes", SMALL)


def test_too_much_for_its_size(refuses: Refuses) -> None:
    refuses(Crafted([Item(b"zeros", bytes(3_000_000), method=8)]).bytes(), "'zeros' unpacks to more than 200 times")
    refuses(tar_gz([tar_item("zeros", bytes(30_000_000))]), "the archive unpacks to more than 200 times")


def test_a_deflate_bomb_behind_a_small_size(refuses: Refuses) -> None:
    """The stream holds 200 MB, the headers say 1000 bytes: reading stops at the 1001st."""
    deflater = zlib.compressobj(1, wbits=-15)
    packed = b"".join(deflater.compress(bytes(10**7)) for _ in range(20)) + deflater.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = Crafted([Item(b"bomb", bytes(1000), method=8, packed=packed)]).bytes()
    refuses(data, "'bomb' is not of the size that the archive says, 1000 bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_overlapping_entries(refuses: Refuses) -> None:
    """Fifield's better bomb: many directory entries for the same data."""
    kernel = Item(b"0", b"x" * 1000)
    others = [Item(b"0", b"x" * 1000, header_at=0, packed=b"", packed_size=1000) for _ in range(3)]
    refuses(Crafted([kernel, *others]).bytes(), "overlaps")
    inner = Crafted([Item(b"inner")], with_manifest=False).bytes()
    quoted = Item(b"outer", inner)
    data = Crafted([quoted, Item(b"inner", header_at=30 + 5)]).bytes()
    refuses(data, "overlaps")


def test_a_file_larger_than_it_says(refuses: Refuses) -> None:
    refuses(
        Crafted([Item(b"big", b"x" * 100_000, size=10, packed_size=10, crc=zlib.crc32(b"x" * 10))]).bytes(), "overlaps"
    )


def test_a_tar_header_that_wants_memory(refuses: Refuses) -> None:
    """A long name of 3 GB is announced: tarfile would read it into memory whole."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 * 1024**3
    refuses(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)), "longer than 1 MiB")


def test_endless_zeros_behind_a_tar(refuses: Refuses) -> None:
    tail = gzip.compress(random.Random(1).randbytes(20_000)) + gzip.compress(bytes(4 * 1024**2))
    refuses(good_tar() + tail, "something stands where", SMALL)
    refuses(
        good_tar() + gzip.compress(bytes(4 * 1024**2)),
        "unpacks to more than",
        Limits(unpacked_bytes=1024**2, ratio=10**9),
    )


# A6: sizes and checksums.


def test_sizes_and_checksums_that_lie(refuses: Refuses) -> None:
    refuses(Crafted([Item(b"a", crc=1)]).bytes(), r"does not fit its checksum \(CRC\)")
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, crc=1)]).bytes(), r"does not fit its checksum \(CRC\)")
    refuses(Crafted([Item(b"a", size=5)]).bytes(), "sizes contradict each other")
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, size=98)]).bytes(), "not of the size")
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, size=100)]).bytes(), "not of the size")
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, packed=b"\xff" * 20)]).bytes(), "'a' is damaged")
    deflater = zlib.compressobj(wbits=-15)
    whole = deflater.compress(b"x" * 99) + deflater.flush()
    refuses(
        Crafted([Item(b"a", b"x" * 99, method=8, packed=whole + b"hidden")]).bytes(), "does not end where it should"
    )
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, packed=whole + bytes(600_000))]).bytes(), "'a' is damaged")
    refuses(Crafted([Item(b"a", b"x" * 99, method=8, packed=whole[:-1])]).bytes(), "does not end where it should|size")


def test_descriptors(refuses: Refuses, tmp_path: Path) -> None:
    crc = zlib.crc32(b"content")
    streamed = {"flags": 0x0808, "local_sizes": (0, 0, 0)}
    for descriptor in (
        struct.pack("<4sIII", b"PK\x07\x08", crc, 7, 7),
        struct.pack("<III", crc, 7, 7),
        struct.pack("<4sIQQ", b"PK\x07\x08", crc, 7, 7),
        struct.pack("<IQQ", crc, 7, 7),
    ):
        item = Item(b"a", **streamed, descriptor=descriptor)  # type: ignore[arg-type]
        path = tmp_path / "streamed.pdar"
        path.write_bytes(Crafted([item]).bytes())
        assert archive.verify(path).model_name == "m"
    no_descriptor = Item(b"a", **streamed)  # type: ignore[arg-type]
    refuses(Crafted([no_descriptor]).bytes(), "has no descriptor")
    wrong = Item(b"a", **streamed, descriptor=struct.pack("<4sIII", b"PK\x07\x08", crc, 7, 8))  # type: ignore[arg-type]
    refuses(Crafted([wrong]).bytes(), "has no descriptor")
    refuses(Crafted([Item(b"a", local_sizes=(0, 0, 0))]).bytes(), "contradicts the directory")


# A7: two stories in one file.


@pytest.mark.parametrize(
    ("crafted", "match"),
    [
        (Crafted([Item(b"handler.py", local_name=b"hendler.py")]), "contradicts the directory"),
        (Crafted([Item(b"a", local_flags=0)]), "contradicts the directory"),
        (Crafted([Item(b"a", local_method=8)]), "contradicts the directory"),
        (Crafted([Item(b"a", local_sizes=(1, 7, 7))]), "contradicts the directory"),
        (Crafted([Item(b"a", header_at=1)]), "overlaps another entry, or has unknown bytes"),
        (Crafted([Item(b"a", header_at=2**31)]), "overlaps another entry, or has unknown bytes"),
        (Crafted([Item(b"a")], after=b"more"), "something behind its end"),
        (Crafted([Item(b"a")], after=bytes(100_000)), "something behind its end"),
        (Crafted([Item(b"a")], comment=b"PK\x05\x06" + bytes(16) + b"\0\0"), "several ends"),
        (Crafted([Item(b"a")], before_directory=b"gap"), "unknown bytes before the zip's directory"),
        (Crafted([Item(b"a")], before=b"PK\x03\x04prefix"), "not where its end record says"),
        (Crafted([Item(b"a")], before=b"PK\x03\x04prefix", shift=10), "unknown bytes before it"),
        (Crafted([Item(b"a")], count=1), "more entries than the archive says"),
        (Crafted([Item(b"a")], count=3), "damaged|cut short"),
        (Crafted([Item(b"a")], count_here=1), "several parts"),
        (Crafted([Item(b"a")], disk=1), "several parts"),
        (Crafted([Item(b"a", disk=1)]), "directory is damaged"),
        (Crafted([Item(b"a")], directory_size=10), "not where its end record says"),
        (Crafted([Item(b"a")], directory_at=0), "not where its end record says"),
        (Crafted([Item(b"a", central_extra=b"\x01\x00\xff\xff")]), "extra fields are damaged"),
        (Crafted([Item(b"a", size=2**32 - 1)]), "no ZIP64 sizes"),
        (Crafted([Item(b"a", local_sizes=(0, 2**32 - 1, 2**32 - 1))]), "no ZIP64 sizes"),
    ],
)
def test_contradictions(refuses: Refuses, crafted: Crafted, match: str) -> None:
    refuses(crafted.bytes(), match)


def test_an_exe_with_a_zip_behind_it(refuses: Refuses) -> None:
    refuses(b"MZ" + good_zip(), "neither a zip")
    refuses(b"#!/bin/sh\n" + good_zip(), "neither a zip")


def test_two_zips_in_a_row(refuses: Refuses) -> None:
    refuses(good_zip() + good_zip(), "not where its end record says|several ends")


def end64(record_at: int, count: int, size: int, start: int, **lies: int) -> bytes:
    """A ZIP64 end record at `record_at`, and its locator."""
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\x06\x06", lies.get("length", 44), 45, 45, 0, 0, lies.get("here", count), count, size, start
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, lies.get("located", record_at), lies.get("disks", 1))
    return record + locator


@pytest.mark.parametrize(
    ("lies", "shorts", "match"),
    [
        ({}, {}, None),
        ({}, {"count": 0xFFFF, "directory_size": 0xFFFFFFFF, "directory_at": 0xFFFFFFFF}, None),
        ({"located": 3}, {}, "not where its locator says"),
        ({"disks": 2}, {}, "not where its locator says"),
        ({"length": 45}, {}, "ZIP64 end record is damaged"),
        ({"here": 1}, {}, "ZIP64 end record is damaged"),
        ({"count": 7}, {}, "contradict each other"),
        ({"size": 7}, {}, "contradict each other"),
        ({"start": 7}, {"directory_at": 0xFFFFFFFF}, "not where its end record says"),
        ({"count": 10**6}, {"count": 0xFFFF}, "1000000 entries; at most 10000"),
        ({"size": 2**40}, {"directory_size": 0xFFFFFFFF}, "larger than its entries can need|not where"),
    ],
)
def test_zip64_end_records(refuses: Refuses, lies: dict[str, int], shorts: dict[str, int], match: str | None) -> None:
    plain = Crafted([Item(b"a")]).bytes()
    _, _, _, _, count, size, start, _ = struct.unpack("<4s4H2IH", plain[-22:])
    values = {"count": count, "size": size, "start": start} | lies
    record = end64(start + size, **values)
    data = Crafted([Item(b"a")], end64=record, **shorts).bytes()  # type: ignore[arg-type]
    if match is not None:
        refuses(data, match)
        return
    path = refuses.folder / "model.pdar"
    path.write_bytes(data)
    assert archive.verify(path).model_name == "m"
    assert zipfile.ZipFile(path).namelist() == ["a", "MAR-INF/MANIFEST.json"]


def test_zip64_sizes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.pdar"
    with zipfile.ZipFile(path, "w") as archive_file:
        with archive_file.open("wide.bin", "w", force_zip64=True) as file:
            file.write(b"content")
        archive_file.writestr("MAR-INF/MANIFEST.json", MANIFEST)
    archive.unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "wide.bin").read_bytes() == b"content"


# A8: names that exclude each other.


@pytest.mark.parametrize(
    "names",
    [
        ("a.py", "a.py"),
        ("A.py", "a.py"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A/x", "a/y"),
        ("a/b/c", "a/B/d"),
        ("d/", "d/"),
        ("d/", "d"),
        ("d", "d/"),
    ],
)
def test_names_that_exclude_each_other(refuses: Refuses, names: tuple[str, str]) -> None:
    items = [Item(name.encode(), b"", mode=FOLDER if name.endswith("/") else 0o100644) for name in names]
    refuses(Crafted(items).bytes(), "exclude each other")
    kinds = [tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE for name in names]
    members = [tar_item(name.rstrip("/"), kind=kind) for name, kind in zip(names, kinds, strict=True)]
    refuses(tar_gz(members), "exclude each other")


# A10: methods and encryption.


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 95, 98, 99])
def test_other_methods(refuses: Refuses, method: int) -> None:
    refuses(Crafted([Item(b"a", method=method)]).bytes(), f"packed by method {method}")


@pytest.mark.parametrize("flags", [0x0001, 0x0041, 0x0801])
def test_encryption(refuses: Refuses, flags: int) -> None:
    refuses(Crafted([Item(b"a", flags=flags)]).bytes(), "'a' is encrypted")


@pytest.mark.parametrize("flags", [0x0010, 0x0020, 0x2000])
def test_other_flags(refuses: Refuses, flags: int) -> None:
    refuses(Crafted([Item(b"a", flags=flags)]).bytes(), "only stored and deflated are read")


# The manifest inside.


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object"),
        (b'{"model": {"handler": "../h.py"}}', "/model/handler"),
        (b'{"model": {"handler": "gone.py"}}', r"not in the archive: gone\.py"),
        (b'{"files": {}}', "files were added after packing"),
    ],
)
def test_bad_manifests(refuses: Refuses, manifest: bytes, match: str) -> None:
    items = [Item(b"a"), Item(b"PDAR-INF/MANIFEST.json", manifest)]
    refuses(Crafted(items, with_manifest=False).bytes(), match)


def test_a_manifest_that_is_too_long(refuses: Refuses) -> None:
    long = Item(b"PDAR-INF/MANIFEST.json", b" " * (16 * 1024**2 + 1))
    refuses(Crafted([long], with_manifest=False).bytes(), "longer than 16777216 bytes")


# What is not a file, and disks that do not want it.


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo])
def test_sources_without_an_end(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model.pdar")
    with pytest.raises(InvalidArchive, match="not a regular file"):
        archive.unpack(tmp_path / "model.pdar", tmp_path / "out")


def test_an_existing_destination_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pdar"
    path.write_bytes(good_zip())
    for destination in (tmp_path / "folder", tmp_path / "dangling"):
        if destination.name == "folder":
            destination.mkdir()
        else:
            destination.symlink_to("nowhere")
        with pytest.raises(FileExistsError):
            archive.unpack(path, destination)
    assert list((tmp_path / "folder").iterdir()) == []


def test_more_than_the_disk_has(tmp_path: Path) -> None:
    """A petabyte is announced, with limits that would allow it."""
    wide = struct.pack("<HHQ", 1, 8, 2**50)
    huge = Item(b"huge", b"x", 8, size=2**32 - 1, central_extra=wide, local_extra=wide)
    path = tmp_path / "model.pdar"
    path.write_bytes(Crafted([huge]).bytes())
    limits = Limits(unpacked_bytes=2**60, ratio_from_bytes=2**60)
    with pytest.raises(OSError, match="are free"):
        archive.unpack(path, tmp_path / "out", limits)
    assert [item.name for item in tmp_path.iterdir()] == ["model.pdar"]


_UNPACK_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from pdarchiver.archive import unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pdar"
    path.write_bytes(Crafted([Item(b"large", bytes(200_000))]).bytes())
    command = [sys.executable, "-c", _UNPACK_UNDER_A_LIMIT, str(path), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "File too large\n"
    assert [item.name for item in tmp_path.iterdir()] == ["model.pdar"]


def test_links_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "MAR-INF" / "MANIFEST.json").write_bytes(MANIFEST)
    assert archive.verify(folder).model_name == "m"
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidArchive, match="neither a file nor a folder"):
        archive.verify(folder)


def test_modes_in_the_archive_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "model.pdar"
    path.write_bytes(Crafted([Item(b"run", mode=0o106777), Item(b"d/", b"", mode=0o040000), Item(b"d/x")]).bytes())
    archive.unpack(path, tmp_path / "out")
    modes = {
        item.relative_to(tmp_path).as_posix(): item.stat().st_mode & 0o7777 for item in tmp_path.rglob("out*/**/*")
    }
    assert modes["out/run"] == modes["out/d/x"] == 0o600
    assert (tmp_path / "out").stat().st_mode & 0o7777 == modes["out/d"] == 0o700


def test_a_tar_damaged_in_the_middle_is_not_a_short_tar(refuses: Refuses) -> None:
    tar = bytearray(gzip.decompress(good_tar()))
    second = tar.index(b"data/w.bin")
    tar[second] ^= 1
    refuses(gzip.compress(bytes(tar)), "damaged")


def test_bytes_from_an_open_file(tmp_path: Path) -> None:
    data = good_zip()
    archive.unpack(io.BytesIO(data), tmp_path / "out")
    with pytest.raises(InvalidArchive, match=r"^archive: "):
        archive.unpack(io.BytesIO(data[:-1]), tmp_path / "out2")
