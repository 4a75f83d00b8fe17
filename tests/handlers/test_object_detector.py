"""The built-in object_detector with real models that find colours: a box for each channel of a mean above 0.1."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from pdserver.errors import ConfigError, LoadFailed
from pdserver.types import Outcome, Part
from tests.conftest import Lent
from tests.handlers.conftest import Load
from tests.handlers.pictures import plain
from tests.handlers.requests import answer, body, json, npy, refusal, request, tensor

UNIT = {"mean": [0.0], "std": [1.0]}
"""Means of channels are numbers from 0 to 1."""
NAMES = ["red", "green", "blue"]
UNIT_STEP = {"type": "NormalizeImage", "is_scale": True, "norm_type": "none", "mean": [9, 9, 9], "std": [9, 9, 9]}
INFER_CFG = {
    "mode": "paddle",
    "draw_threshold": 0.3,
    "arch": "YOLO",
    "Preprocess": [
        {"type": "Resize", "target_size": [32, 32], "keep_ratio": False, "interp": 2},
        UNIT_STEP,
        {"type": "Permute"},
    ],
    "label_list": NAMES,
}


def infer_cfg(*steps: dict[str, Any], **changes: Any) -> dict[str, bytes]:
    config = INFER_CFG | ({"Preprocess": list(steps)} if steps else {}) | changes
    return {"infer_cfg.yml": yaml.safe_dump(config).encode()}


def boxes(outcome: Outcome) -> list[tuple[str, float, list[float]]]:
    found = []
    for item in answer(outcome):
        score = item.pop("score")
        ((label, box),) = item.items()
        found.append((label, round(score, 3), [round(number, 2) for number in box]))
    return found


def test_an_export_with_pictures_of_many_sizes(load: Load) -> None:
    service = load("pir/detector.json", "object_detector", files=infer_cfg())
    outcomes = service.run(
        [
            body(plain(255, 102, 0)),
            body(plain(0, 0, 0, 7, 9)),
            body(plain(102, 204, 255, 640, 480), "image/png"),
            body(plain(51, 255, 51, 1, 3)),
        ]
    )
    assert [boxes(outcome) for outcome in outcomes] == [
        [("red", 1.0, [0, 0, 40, 10]), ("green", 0.4, [0, 0, 40, 10])],
        [],
        [("blue", 1.0, [0, 0, 640, 240]), ("green", 0.8, [0, 0, 640, 240]), ("red", 0.4, [0, 0, 640, 240])],
        [("green", 1.0, [0, 0, 1, 1.5])],
    ]


def test_keeping_the_ratio_with_padding(load: Load) -> None:
    resize = {"type": "Resize", "target_size": [40, 64], "keep_ratio": True}
    normalize = {"type": "NormalizeImage", "is_scale": True, "mean": [0, 0, 0], "std": [1, 1, 1]}
    files = infer_cfg(resize, normalize, {"type": "Permute"}, {"type": "PadStride", "stride": 32}, draw_threshold=0.01)
    service = load("pir/detector.json", "object_detector", files=files)
    wide, high, square = service.run([body(plain(255, 0, 0, *size)) for size in ((100, 50), (50, 200), (20, 20))])
    # 64×32 and no padding; 16×64 on a canvas of 32×64; 40×40 on one of 64×64.
    assert boxes(wide) == [("red", 1.0, [0, 0, 100, 25])]
    assert boxes(high) == [("red", 0.5, [0, 0, 50, 100])]
    assert boxes(square) == [("red", 0.391, [0, 0, 20, 10])]


def test_padding_with_a_value(load: Load) -> None:
    pad = {"type": "Pad", "size": [20, 80], "fill_value": [51.0, 0.0, 255.0]}
    service = load("pir/detector.json", "object_detector", files=infer_cfg(pad, UNIT_STEP))
    (found,), (too_wide,) = service.run([body(plain(255, 0, 0))]), service.run([body(plain(1, 1, 1, 81))])
    assert boxes(found) == [("red", 0.6, [0, 0, 40, 10]), ("blue", 0.5, [0, 0, 40, 10])]
    assert refusal(too_wide) == "invalid: the image has 81×20 pixels; at most 80×20 are taken"


@pytest.mark.parametrize("model", ["counted-boxes", "one-boxes", "rows-boxes"])
def test_models_of_the_image_alone_without_any_export(load: Load, model: str) -> None:
    config = {"image": {"resize": [16, 8], **UNIT}, "detection": {"threshold": 0.35}}
    names = b'{"0": "R", "1": "G", "2": "B"}'
    service = load(f"pir/{model}.json", "object_detector", config=config, files={"index_to_name.json": names})
    outcomes = service.run([body(plain(255, 102, 0)), body(plain(0, 0, 0)), body(plain(80, 204, 255, 640, 480))])
    assert [boxes(outcome) for outcome in outcomes] == [
        [("R", 1.0, [0, 0, 40, 10]), ("G", 0.4, [0, 0, 40, 10])],
        [],
        [("B", 1.0, [0, 0, 640, 240]), ("G", 0.8, [0, 0, 640, 240])],
    ]


def test_coordinates_as_the_model_has_them(load: Load) -> None:
    config = {"image": {"resize": [16, 8], **UNIT}, "detection": {"coordinates": "image"}}
    (found,) = load("pir/counted-boxes.json", "object_detector", config=config).run([body(plain(255, 0, 0))])
    assert boxes(found) == [("0", 1.0, [0, 0, 16, 4])]


def test_a_fixed_batch_and_size_that_the_model_itself_says(load: Load) -> None:
    service = load("pir/box-pairs.json", "object_detector", config={"image": UNIT})
    outcomes = service.run([body(plain(255, 0, 0)), body(plain(255, 255, 0)), body(plain(0, 255, 0))])
    assert [[label for label, *_ in boxes(outcome)] for outcome in outcomes] == [["0"], ["0", "1"], ["1"]]
    assert boxes(outcomes[2]) == [("1", 1.0, [0, 0, 40, 10])]


def test_the_other_ways_to_send_a_picture(load: Load) -> None:
    png = plain(255, 0, 0)
    array = np.zeros((3, 8, 16), np.float32)
    array[2] = 0.6
    service = load("pir/detector.json", "object_detector", files=infer_cfg())
    outcomes = service.run(
        [
            request(Part("data", "image/png", png)),
            body(base64.b64encode(png), "text/plain"),
            json({"data": base64.b64encode(png).decode()}),
            json(array),
            body(npy(array[None])),
            request(tensor("image", array)),
            json(np.stack([array, array])),
            json({"im_shape": [1, 1]}),
            body(b"no image"),
        ]
    )
    assert [boxes(outcome) for outcome in outcomes[:3]] == [[("red", 1.0, [0, 0, 40, 10])]] * 3
    assert [boxes(outcome) for outcome in outcomes[3:6]] == [[("blue", 0.6, [0, 0, 16, 4])]] * 3
    assert [refusal(outcome) for outcome in outcomes[6:]] == [
        "invalid: expected one image, got 2",
        'invalid: input "image": expected float32 of shape [3, any, any], got shape [2]',
        "invalid: expected a JPEG, PNG, WebP or BMP image, got 8 bytes of something else",
    ]


@pytest.mark.parametrize(
    ("model", "files", "config", "message"),
    [
        ("linear", {}, {}, r"expected a model with one float input \[n, channels, height, width\]"),
        ("digits", {}, {}, r"settings make \[3, 8, 8\] .* takes \[1, 8, 8\].* {color: gray, resize: \[8, 8\]}"),
        ("digits", {}, {"image": {"color": "gray", "pad": [8, 16]}}, r"the settings make \[1, 16, 8\]"),
        ("detector", {}, {"image": {"crop": 8}}, "image.crop: unknown setting"),
        ("digits", {}, {"image": {"color": "gray"}}, r"needs an output of boxes, \[boxes, 6\] or \[n, boxes, 6\]"),
        ("colours", {}, {}, r"needs an output of boxes, .* this model's outputs are fetch_name_0 float32\[-1, 3\]"),
        ("detector", {}, {"inputs": {"im_shape": "shape"}}, 'does not know what the input "shape float32'),
        ("detector", {}, {"detection": {"treshold": 1}}, "detection.treshold: unknown setting; did you mean threshold"),
        ("detector", {}, {"detection": {"threshold": 2}}, "detection.threshold: 2: Expected `float` <= 1"),
        ("detector", {}, {"image": {"resize": [0, 8]}}, r"image.resize: \(0, 8\): expected lengths from 1"),
        ("detector", {}, {"image": {"pad_value": [1, 2]}}, r"image.pad_value: \[1.0, 2.0\]: expected one number"),
        ("detector", {"infer_cfg.yml": b"a: *b"}, {}, "infer_cfg.yml: not YAML"),
        ("detector", {"inference.yml": b"{}"}, {}, "inference.yml: expected a list of steps called Preprocess"),
        ("detector", infer_cfg({"type": "Mosaic"}), {}, "Mosaic is not a known step; known are Resize, Norm"),
        ("detector", infer_cfg({"type": "Resize"}), {}, "Resize: KeyError: 'target_size'"),
        ("detector", infer_cfg({"type": "Resize", "target_size": 8}, {"type": "Resize", "target_size": 9}), {},
         "Resize: an earlier step says fit already"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded(
    load: Load, model: str, files: dict[str, bytes], config: dict[str, Any], message: str
) -> None:
    with pytest.raises((LoadFailed, ConfigError), match=message):
        load(f"pir/{model}.json", "object_detector", files=files, config=config)


def test_an_exported_folder_on_a_server(lent: Lent, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ppyoloe"
    folder.mkdir()
    shutil.copy(models / "pir/detector.json", folder / "model.json")
    (folder / "infer_cfg.yml").write_bytes(infer_cfg()["infer_cfg.yml"])
    server = lent("object_detector", "colours", serialized_file=folder)
    reply = server.predict("colours", plain(0, 255, 0), headers={"Content-Type": "image/png"})
    assert orjson.loads(reply.content) == [{"green": [0, 0, 40, 10], "score": 1}]
