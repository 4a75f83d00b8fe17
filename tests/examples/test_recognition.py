"""The recognition example's gallery and steps. Its README, which the tests run, asks the models in a server."""

from __future__ import annotations

import asyncio
import base64
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette

from examples.recognition import steps
from pdserver.errors import InvalidRequest, Kind, ModelNotFound
from pdserver.types import Failure, Outcome, Reply, Request, Tensor

PACKAGES = str(Path(steps.__file__).parent / "gallery")
SIZE = 4


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README installs it."""
    monkeypatch.syspath_prepend(PACKAGES)


def gallery(folder: Path) -> Any:
    """As each worker has one."""
    from recognition_gallery.index import Gallery

    return Gallery(folder)


def directions(*numbers: int) -> NDArray[np.float32]:
    return np.eye(SIZE, dtype=np.float32)[list(numbers)]


def test_each_worker_sees_a_change_and_a_restart_keeps_it(tmp_path: Path) -> None:
    writer, reader = gallery(tmp_path), gallery(tmp_path)
    assert writer.add(["Luna", "Zebra"], directions(0, 1)) == [0, 1]
    assert reader.nearest(directions(1, 0)) == (["Zebra", "Luna"], [1.0, 1.0])
    assert reader.nearest(directions(2))[1] == [0.0]
    assert writer.add(["星"], directions(2)) == [2]
    assert reader.nearest(directions(2)) == (["星"], [1.0])
    assert reader.remove(2) == "星"
    with pytest.raises(KeyError):
        writer.remove(2)
    restarted = gallery(tmp_path)
    assert restarted.nearest(directions(2))[1] == [0.0]
    assert restarted.add(["Comet"], directions(3)) == [3]  # an id is not given twice
    assert writer.nearest(directions(3, 0)) == (["Comet", "Luna"], [1.0, 1.0])


def test_an_empty_gallery_knows_nothing(tmp_path: Path) -> None:
    empty = gallery(tmp_path)
    with pytest.raises(FileNotFoundError):
        empty.nearest(directions(0))
    assert empty.remove(empty.add(["Luna"], directions(0))[0]) == "Luna"
    assert empty.nearest(directions(0, 1)) == (["", ""], [0.0, 0.0])


def test_vectors_of_another_embedding_are_refused(tmp_path: Path) -> None:
    writer = gallery(tmp_path)
    writer.add(["Luna"], directions(0))
    with pytest.raises(ValueError, match="vectors of 2 numbers, in a gallery of 4: fill it anew"):
        writer.add(["Zebra"], np.ones((1, 2), np.float32))
    assert writer.nearest(directions(0)) == (["Luna"], [1.0])


def test_a_writer_that_ends_halfway_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = gallery(tmp_path), gallery(tmp_path)
    writer.add(["Luna"], directions(0))
    index = sys.modules["recognition_gallery.index"]
    write = index._write

    def break_off(at: str, file: Path, data: bytes) -> None:
        if file.name == at:
            raise OSError("the disk is full")
        write(file, data)

    for broken in ("vector.index", "labels.json", "current.new"):
        monkeypatch.setattr(index, "_write", partial(break_off, broken))
        with pytest.raises(OSError, match="full"):
            writer.add(["Zebra"], directions(1))
        monkeypatch.setattr(index, "_write", write)
        for each in (writer, reader, gallery(tmp_path)):
            assert each.nearest(directions(1, 0)) == (["Luna", "Luna"], [0.0, 1.0])
    assert writer.add(["Zebra"], directions(1)) == [1]
    assert reader.nearest(directions(1)) == (["Zebra"], [1.0])


def test_writers_take_turns_and_readers_never_see_half_a_change(tmp_path: Path) -> None:
    gallery(tmp_path).add(["0"], directions(0))

    def add(writer: int) -> list[int]:
        own = gallery(tmp_path)
        return [entry for i in range(5) for entry in own.add([f"{writer}-{i}"], directions(1))]

    def read() -> list[int]:
        own = gallery(tmp_path)
        seen = []
        for _ in range(200):
            assert own.nearest(directions(0)) == (["0"], [1.0])
            seen.append(len(own.labels))
        return seen

    with ThreadPoolExecutor(6) as threads:
        added = [threads.submit(add, writer) for writer in range(4)]
        seen = [threads.submit(read) for _ in range(2)]
    assert sorted(entry for each in added for entry in each.result()) == list(range(1, 21))
    assert all(each.result() == sorted(each.result()) for each in seen)
    last = gallery(tmp_path)
    last.refresh()
    assert (last.generation, len(last.labels)) == (21, 21)
    assert len(list(tmp_path.iterdir())) == 4  # two generations, `current` and `lock`


class Engine:
    """Answers each request for a vector with `outcome`."""

    def __init__(self) -> None:
        self.outcome: Outcome | Exception = Reply(
            b"", "", tensors=[Tensor("vector", "float32", (1, SIZE), directions(3).tobytes())]
        )

    async def ask(self, request: Request) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_the_calls_change_the_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recognition_gallery import calls

    engine = Engine()
    with pytest.raises(LookupError, match="RECOGNITION_GALLERY"):
        calls.endpoints(engine)
    monkeypatch.setenv("RECOGNITION_GALLERY", str(tmp_path))
    gallery(tmp_path).add(["Luna"], directions(0))
    app = Starlette(routes=[*calls.endpoints(engine)["management"]])

    async def call(method: str, path: str) -> tuple[int, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            answer = await client.request(method, path, content=b"picture")
            return answer.status_code, answer.json()

    def ask(method: str, path: str) -> tuple[int, Any]:
        return asyncio.run(call(method, path))

    assert ask("POST", "/gallery?label=Comet") == (200, {"id": 1, "label": "Comet"})
    assert gallery(tmp_path).nearest(directions(3)) == (["Comet"], [1.0])
    assert ask("GET", "/gallery") == (
        200, {"generation": 2, "entries": [{"id": 0, "label": "Luna"}, {"id": 1, "label": "Comet"}]}
    )  # fmt: skip
    assert ask("DELETE", "/gallery/0") == (200, {"id": 0, "label": "Luna"})
    status, said = ask("DELETE", "/gallery/0")
    assert (status, said["message"]) == (404, "the gallery has no entry 0")
    status, said = ask("POST", "/gallery?label=+")
    assert status == 400
    assert "label=NAME" in said["message"]
    engine.outcome = Failure(Kind.INVALID, "image: not a picture")
    assert ask("POST", "/gallery?label=Comet")[0] == 400
    engine.outcome = ModelNotFound("features is not served")
    assert ask("POST", "/gallery?label=Comet")[0] == 404
    assert ask("GET", "/gallery")[1] == {"generation": 3, "entries": [{"id": 1, "label": "Comet"}]}


def picture(height: int = 64, width: int = 80) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 128, np.uint8)


def test_pictures_come_as_files_and_in_base64_and_a_bad_one_fails_alone() -> None:
    png = cv2.imencode(".png", picture())[1].tobytes()
    images = [png, base64.b64encode(png), b"junk", b"", b"no base64!"]
    one, two, *failed = steps.Decode().handle([{"image": bytearray(image)} for image in images], None)
    for row in (one, two):
        assert isinstance(row, dict)
        assert np.array_equal(row["picture"], picture())
        assert (row["tensor"].shape, row["tensor"].dtype) == ((1, 3, 128, 160), np.float32)
    assert [type(each) for each in failed] == [InvalidRequest] * 3
    [whole] = steps.Whole().handle([{"image": png}], None)
    assert isinstance(whole, dict)
    assert whole["crop"].shape == (1, 3, 32, 32)


def test_boxes_are_what_the_cells_say_in_pixels_of_the_picture() -> None:
    found = np.zeros((1, 5, 32, 40), np.float32)
    found[0, 1:] = 20  # its sides are so far from each cell
    found[0, 0, 10, 20] = 0.9
    found[0, 0, 20, 5] = 0.3
    found[0, 0, 30, 30] = 0.1  # too little
    [row] = steps.Find().handle([{"found": found, "picture": picture(512, 320)}], None)
    # The detector saw 256 × 320: the picture is twice as high. The cell's middle is at 164, 84.
    assert row["boxes"].tolist() == [[144, 128, 184, 208], [24, 288, 64, 368]]
    assert [crop.shape for crop in row["crops"]] == [(1, 3, 32, 32)] * 2
    [row] = steps.Find().handle([{"found": np.zeros_like(found), "picture": picture()}], None)
    assert (row["boxes"].shape, row["crops"]) == ((0, 4), [])


def test_vectors_of_several_requests_are_one_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery(tmp_path).add(["Luna", "Zebra"], directions(0, 1))
    monkeypatch.setenv("RECOGNITION_GALLERY", str(tmp_path))
    search = steps.Search()
    search.initialize(None)
    vectors = [[directions(0), directions(1)], [], [directions(1)]]
    answers = search.handle([{"vectors": each} for each in vectors], None)
    assert [answer["labels"] for answer in answers] == [["Luna", "Zebra"], [], ["Zebra"]]
    assert [answer["alike"].tolist() for answer in answers] == [[1, 1], [], [1]]
    assert search.handle([{"vectors": []}], None)[0]["labels"] == []


def test_the_likeliest_of_boxes_that_overlap_is_chosen() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [80, 80, 90, 90]], np.float32)
    alike = np.array([0.7, 0.9, 0.8, steps.ALIKE - 0.1], np.float32)
    assert [(one["bbox"], one["rec_docs"]) for one in steps.chosen(boxes, ["a", "b", "c", "d"], alike)] == [
        ([1, 1, 11, 11], "b"), ([50, 50, 60, 60], "c")
    ]  # fmt: skip
    assert steps.chosen(np.zeros((0, 4), np.float32), [], np.zeros(0, np.float32)) == []
