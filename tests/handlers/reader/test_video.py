"""Operators on videos: decoding, chance, limits and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pdserver.errors import InvalidRequest
from pdserver.handlers import reader as r
from pdserver.handlers.reader import video
from tests.handlers.pictures import plain

FRAMES = [np.full((6, 8, 3), number, np.uint8) for number in range(30)]
VIDEO = {"format": "video", "frames": FRAMES, "frames_len": 30}


def chosen(*args: Any, frames: int = 30, **named: Any) -> list[int]:
    """The numbers of the frames that a Sampler takes."""
    given = {"format": "video", "frames": FRAMES[:frames], "frames_len": frames}
    return [int(img[0, 0, 0]) for img in r.Sampler(*args, **named)(given)["imgs"]]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Five frames, each of one colour."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 16))
    for number in range(5):
        writer.write(np.full((16, 32, 3), (40 * number, 0, 200), np.uint8))
    writer.release()
    return path


def test_a_video_is_decoded(film: Path) -> None:
    found = r.VideoDecoder()({"filename": str(film)})
    assert (found["frames_len"], found["format"], found["backend"]) == (5, "video", "cv2")
    for number, frame in enumerate(found["frames"]):
        assert frame.shape == (16, 32, 3)
        np.testing.assert_allclose(frame[8, 16], (200, 0, 40 * number), atol=8)
    with pytest.raises(InvalidRequest, match="the video has more than 1,500 pixels in all its frames"):
        r.VideoDecoder(max_pixels=1500)({"filename": str(film)})


def test_frames_that_are_files(tmp_path: Path) -> None:
    for number in range(1, 7):
        (tmp_path / f"{number:03}.png").write_bytes(plain(number, 0, 0))
    given = {"format": "frame", "frame_dir": str(tmp_path), "suffix": "{:03}.png", "frames_len": 6}
    imgs = r.Sampler(3, 1, valid_mode=True)(given)["imgs"]
    assert [img[0, 0].tolist() for img in imgs] == [[1, 0, 0], [3, 0, 0], [5, 0, 0]]


@pytest.mark.parametrize(
    ("named", "frames", "count"),
    [({}, 30, 8), ({}, 3, 8), ({"select_left": True}, 30, 4), ({"select_left": True}, 3, 4),
     ({"dense_sample": True}, 30, 4), ({"frame_interval": 2}, 30, 8),
     ({"frame_interval": 3}, 7, 8), ({"frame_interval": 3}, 4, 8)],
)  # fmt: skip
def test_chance_stays_within_the_video(named: dict[str, Any], frames: int, count: int) -> None:
    """Also for videos that are shorter than what is asked for."""
    several = [chosen(4, 1 if count == 4 else 2, frames=frames, **named) for _ in range(20)]
    assert {len(numbers) for numbers in several} == {count}
    assert all(0 <= number < frames for numbers in several for number in numbers)


def test_dense_samples() -> None:
    """Theirs counts the frames of videos from 1 here, and fails at the last one."""
    found = chosen(4, 1, dense_sample=True, valid_mode=True)
    assert found == [0, 16, 2, 18] * 10


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: r.VideoDecoder("pyav"), ValueError, "VideoDecoder: backend='pyav': expected cv2"),
        (lambda: r.VideoDecoder()({"filename": "/nowhere.mp4"}), InvalidRequest, "expected a video that OpenCV"),
        (lambda: r.Sampler(0, 1), ValueError, "Sampler: num_seg=0"),
        (lambda: r.Sampler(1, 1)({"frames_len": 3, "format": "MRI"}), ValueError, "='MRI': expected video or frame"),
        (lambda: r.Scale(18, keep_ratio=True), ValueError, "Scale: keep_ratio=True: expected False where fixed"),
        (lambda: r.Scale(18, backend="PIL"), ValueError, "Scale: backend='PIL': expected pillow or cv2"),
        (lambda: r.TenCrop(9)({"imgs": FRAMES}), InvalidRequest, "the video has 8×6 pixels; at least 9×9 are needed"),
        (lambda: video.CenterCrop(9)({"imgs": FRAMES}), InvalidRequest, "at least 9×9"),
        (lambda: r.Image2Array(data_format="thwc"), ValueError, "Image2Array: data_format='thwc'"),
        (lambda: r.Normalization([1, 2], [1, 0]), ValueError, "Normalization: std="),
        (lambda: r.Normalization([1, 2], [1, 2]), ValueError, "Normalization: tensor_shape=.*a shape of 2 numbers"),
        (lambda: r.Scale(512, False, True, True)({"imgs": [np.zeros((1, 9000, 3))]}), InvalidRequest, "narrow"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_what_was_expected(
    use: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        use()
