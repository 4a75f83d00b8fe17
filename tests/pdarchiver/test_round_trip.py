"""Whatever tree of files is packed comes out as it went in, and packing it twice gives the same bytes."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdarchiver import PackOptions, inspect, pack, unpack, verify
from pdarchiver.manifest import MANIFEST_PATH
from pdarchiver.names import NameSet, path_problem
from pdarchiver.pack import ARCHIVE_FORMATS, ArchiveFormat

names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=4).map("/".join).filter(lambda path: path_problem(path) is None)
contents = st.binary(max_size=300) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.integers(0, 9000))


def is_junk(path: str) -> bool:
    """What packing leaves out on purpose."""
    *folders, name = path.split("/")
    return any(f.startswith(".") or f in ("__pycache__", "__MACOSX") for f in folders) or name in (
        ".DS_Store",
        "Thumbs.db",
    )


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    taken, tree = NameSet(), {}
    for path, data in draw(st.dictionaries(paths, contents, max_size=6)).items():
        reserved = path.partition("/")[0].casefold() in ("pdar-inf", "mar-inf")
        if not is_junk(path) and not reserved and taken.add(path) is None:
            tree[path] = data
    return tree


def write(folder: Path, tree: dict[str, bytes]) -> None:
    folder.mkdir()
    for path, data in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(tree=trees(), archive_format=st.sampled_from(ARCHIVE_FORMATS))
def test_packed_and_unpacked(tree: dict[str, bytes], archive_format: ArchiveFormat) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = []
        for turn in ("first", "second"):
            # Written again in another order, so that nothing depends on the order of a folder's entries.
            write(folder / turn, tree if turn == "first" else dict(reversed(tree.items())))
            options = PackOptions(
                model_name="m",
                version="1",
                extra_files=(f"{folder / turn}/",),
                archive_format=archive_format,
                export_path=folder / f"{turn}-store",
            )
            archives.append(pack(options))
        if archive_format != "no-archive":
            assert archives[0].read_bytes() == archives[1].read_bytes()
        assert verify(archives[1]) == unpack(archives[0], folder / "out")
        out = {
            p.relative_to(folder / "out").as_posix(): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()
        }
        sizes = {entry.path: entry.size_bytes for entry in inspect(archives[0]).entries if not entry.folder}
        assert {path: len(data) for path, data in out.items()} == sizes
        del out[MANIFEST_PATH]
        assert out == tree


@given(first=paths, second=paths)
def test_names_that_may_stand_together_stay_apart_anywhere(first: str, second: str) -> None:
    taken = NameSet()
    assert taken.add(first) is None
    if taken.add(second) is None:
        folded = [unicodedata.normalize("NFC", path.casefold()) for path in (first, second)]
        assert folded[0] != folded[1]
        assert not first.startswith(f"{second}/")
        assert not second.startswith(f"{first}/")


def test_a_name_set_knows_folders() -> None:
    taken = NameSet()
    assert taken.add("a", folder=True) is None
    assert taken.add("a/b/c") is None
    assert taken.add("a/b", folder=True) is None
    assert taken.add("a/b", folder=True) == "a/b"
    assert taken.add("a/b") == "a/b"
    assert taken.add("A/d") == "a"
