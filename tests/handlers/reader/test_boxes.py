"""What becomes of boxes and classes, beyond what theirs do: errors, files, and bugs that are not copied."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pdserver.errors import ConfigError
from pdserver.handlers import reader as r
from tests.handlers.pictures import plain
from tests.handlers.reader.cases import text_map

PARAMS = {"thresh": 0.3, "box_thresh": 0.5, "max_candidates": 100, "unclip_ratio": 1.5}
BOXES = np.array([[1, 0.9, 4, 5, 20, 15], [0, 0.2, 1, 1, 3, 3], [-1, 0, 0, 0, 0, 0]], np.float32)
NAMES = ["background", "cat"]


def read(path: str, flags: int = cv2.IMREAD_COLOR) -> Any:
    return cv2.imread(path, flags)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(NAMES))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "green.png"
    path.write_bytes(plain(0, 255, 0, 40, 30))
    return path


def test_boxes_are_drawn_and_written(labels: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    post = r.RCNNPostprocess(labels, out)
    found = post({"image": str(picture), "boxes": BOXES, "count": np.array([3])})
    assert found == [
        {"category_id": 1, "bbox": [4, 5, 17, 11], "score": pytest.approx(0.9)},
        {"category_id": 0, "bbox": [1, 1, 3, 3], "score": pytest.approx(0.2)},
    ]
    assert json.loads((out / "bbox.json").read_text()) == found
    drawn = read(str(out / "green.png"))
    changed = (drawn != (0, 255, 0)).any(axis=2)
    assert changed[5:17, 4].all(), "the left side of the box"
    assert not changed[25:, 25:].any(), "nothing beyond the box"
    # Boxes of a low score are found, and not drawn.
    assert post({"image": str(picture), "boxes": BOXES[1:2]})[0]["category_id"] == 0
    assert (read(str(out / "green.png")) == (0, 255, 0)).all()


def test_boxes_of_a_resized_picture_are_drawn_where_they_belong(labels: Path, picture: Path, tmp_path: Path) -> None:
    r.RCNNPostprocess(labels, tmp_path / "out", resize_shape=[400, 300])(
        {"image": str(picture), "boxes": np.array([[1, 0.9, 100, 100, 199, 199]], np.float32)}
    )
    changed = (read(str(tmp_path / "out" / "green.png")) != (0, 255, 0)).any(axis=2)
    assert changed[12:20, 10].all()
    assert not changed[25:, 30:].any()


def test_nothing_is_written_unless_it_is_asked_for(labels: Path, tmp_path: Path) -> None:
    assert r.RCNNPostprocess(labels, tmp_path / "out")({"boxes": BOXES}, visualize=False)
    assert not (tmp_path / "out").exists()


def test_classes_of_any_size(picture: Path) -> None:
    """Theirs takes 512×512 only."""
    mask = np.zeros((1, 15, 20), np.int32)
    mask[:, :, 10:] = 1
    r.SegPostprocess(2)({"filename": str(picture), "classes": mask})
    np.testing.assert_array_equal(read(str(picture.with_name("green_png_mask.png")), -1), mask[0])
    colored = read(str(picture.with_name("green_png_result.png")))
    assert colored.shape == (30, 40, 3)
    assert colored[15, 5].tolist() == [0, 0, 0]
    assert colored[15, 35].tolist() == [128, 0, 0]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda i: r.DetectionResize((1, 2, 3)), ValueError, "DetectionResize: target_size="),
        (lambda i: r.RCNNPostprocess(i / "labels.txt", i, [1]), ValueError, "RCNNPostprocess: resize_shape="),
        (lambda i: rcnn(i, boxes=np.zeros((2, 7))), ValueError, r"boxes of shape \[boxes, 6\], got boxes \[2, 7\]"),
        (lambda i: rcnn(i), ValueError, r"expected boxes of shape \[boxes, 6\], got nothing"),
        (lambda i: rcnn(i, boxes=BOXES + 5), ValueError, "labels.txt' names 2 classes, the model found class 6"),
        (lambda i: r.RCNNPostprocess(i / "labels.txt", i)({"boxes": BOXES}), ValueError, 'the path .* as "image"'),
        (lambda i: blaze(i), ValueError, 'BlazeFacePostprocess: .*as "im_shape"'),
        (lambda i: r.SegPostprocess(0), ValueError, "SegPostprocess: class_num=0"),
        (lambda i: r.SegPostprocess(2)({"mask": BOXES}), ValueError, 'expected the path of the picture as "filename"'),
        (lambda i: seg(i), ValueError, "expected the class of each pixel"),
        (lambda i: seg(i, mask=np.zeros((2, 3, 4))), ValueError, r"\[height, width\], got \[2, 3, 4\]"),
        (lambda i: seg(i, mask=np.full((3, 4), 2)), ValueError, "class_num=2: the model found classes 2 to 2"),
        (lambda i: r.DBPostProcess({}), ValueError, r"DBPostProcess: params\['thresh'\]=None: expected a number"),
        (lambda i: r.DBPostProcess(PARAMS)(text_map()[0], [(1, 1)]), TypeError, r"an array \[n, 1, height, width\]"),
        (lambda i: r.DBPostProcess(PARAMS)(text_map(), [(1, 1)]), ValueError, "ratio_list: expected 2 pairs, got 1"),
        (lambda i: crop(np.zeros((3, 2))), TypeError, r"points: expected four corners \[4, 2\], got \[3, 2\]"),
        (lambda i: crop(np.ones((4, 2))), ValueError, "no box in a picture of 20×10"),
        (lambda i: crop(np.array([[30, 1], [40, 1], [40, 9], [30, 9]])), ValueError, "no box in a picture of 20×10"),
        (lambda i: r.OCRReader(char_dict_path="gone.txt"), ValueError, "char_dict_path='gone.txt': expected the file"),
        (lambda i: r.OCRReader(char_type="en").preprocess([1, 2]), ValueError, "img_list=2: expected one picture; for"),
        (lambda i: r.OCRReader(char_type="en").postprocess_ocrv2({"x": 1, "y": 2}), ValueError,
         r"outputs=\['x', 'y'\]: expected 'save_infer_model/scale_0.tmp_1', or one output of any name"),
        (lambda i: r.OCRReader(char_type="en").postprocess_ocrv2({"x": np.zeros((1, 2, 99))}), ValueError,
         "expected as many characters as the model tells apart, but the file makes 37"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_what_was_expected(
    use: Callable[[Path], object], error: type[Exception], message: str, labels: Path, picture: Path
) -> None:
    with pytest.raises(error, match=message):
        use(labels.parent)


def rcnn(folder: Path, **fetched: Any) -> Any:
    return r.RCNNPostprocess(folder / "labels.txt", folder)(fetched, visualize=False)


def blaze(folder: Path) -> Any:
    return r.BlazeFacePostprocess(folder / "labels.txt", folder)({"boxes": BOXES}, visualize=False)


def seg(folder: Path, **fetched: Any) -> Any:
    return r.SegPostprocess(2)({"filename": folder / "green.png", **fetched})


def crop(points: Any) -> Any:
    return r.GetRotateCropImage()(np.zeros((10, 20, 3), np.uint8), points)


def test_pyclipper_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyclipper", None)
    with pytest.raises(ConfigError, match=r"DBPostProcess needs pyclipper: pip install 'pdserver\[reader\]'"):
        r.DBPostProcess(PARAMS)
    assert r.FilterBoxes(1, 1)([], (10, 10)).shape == (0, 4, 2)


def test_threads_share_a_reader_of_boxes() -> None:
    post, maps = r.DBPostProcess(PARAMS), [np.roll(text_map(), shift, axis=3) for shift in range(12)]

    def boxes(given: Any) -> Any:
        return post(given, [(1, 1), (1, 1)])[0].tolist()

    expected = [boxes(given) for given in maps]
    assert all(expected)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(boxes, maps)) == expected


def test_characters_of_other_kinds() -> None:
    """Theirs fails for "en_sensitive", which it says that it takes; means over no characters are no numbers there."""
    reader = r.OCRReader(char_type="en_sensitive")
    chances = np.zeros((2, 3, 95), np.float32)
    chances[0, [0, 2], [1 + 10 + 26 + 2, 1]] = 1
    chances[:, :, 0] = 0.5
    assert reader.postprocess_ocrv2({"any name": chances}) == [("C0", 1.0), ("", 0.0)]


def test_pictures_of_other_heights_keep_their_proportions() -> None:
    """Theirs multiplies by 32 whatever the height is."""
    line = np.zeros((24, 120, 3), np.uint8)
    reader = r.OCRReader(image_shape=[3, 48, 320], char_type="en")
    assert reader.resize_norm_img(line, 5).shape == (3, 48, 320)
    assert (reader.resize_norm_img(line, 5)[:, :, :240] == -1).all()
