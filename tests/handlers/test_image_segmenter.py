"""The built-in image_segmenter with real models: a pixel's class is its strongest channel, or 3 where it is dark."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
import yaml
from numpy.typing import NDArray

from pdserver.errors import LoadFailed
from pdserver.handlers.runtime.labels import Labels
from pdserver.handlers.vision.class_maps import to_png, to_runs
from pdserver.types import Outcome, Part, Reply
from tests.conftest import Lent
from tests.handlers.conftest import Load
from tests.handlers.pictures import encoded, plain
from tests.handlers.requests import answer, body, json, refusal, request

UNIT = {"mean": [0.0], "std": [1.0]}
"""The model gets numbers from 0 to 1."""
RED, GREEN, BLUE, DARK = range(4)
NAMES = b'{"0": "red", "1": "green", "2": "blue"}'


def flag(width: int = 40, height: int = 20) -> tuple[bytes, NDArray[Any]]:
    """Four rectangles of one colour each as a file, and the class of each pixel."""
    classes = np.full((height, width), DARK)
    classes[: height // 2, : width // 2], classes[: height // 2, width // 2 :] = RED, GREEN
    classes[height // 2 :, : width // 2] = BLUE
    colours = np.array([(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 0)], np.uint8)
    return encoded(colours[classes]), classes


def deploy(*transforms: dict[str, Any]) -> dict[str, bytes]:
    config = {"model": "m.pdmodel", "params": "m.pdiparams", "input_shape": [None, 3, None, None], "output_op": "none"}
    return {"deploy.yaml": yaml.safe_dump({"Deploy": {**config, "transforms": list(transforms)}}).encode()}


def decoded(outcome: Outcome) -> NDArray[Any]:
    found = answer(outcome)
    classes: NDArray[Any] = np.repeat(found["classes"], found["counts"]).reshape(found["size"])
    return classes


def png(outcome: Outcome) -> NDArray[Any]:
    assert isinstance(outcome, Reply), outcome
    assert outcome.content_type == "image/png"
    return np.asarray(cv2.imdecode(np.frombuffer(outcome.body, np.uint8), cv2.IMREAD_UNCHANGED))


def test_run_lengths(load: Load) -> None:
    service = load("pir/segmenter.json", "image_segmenter", config={"image": UNIT}, files={"index_to_name.json": NAMES})
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, :2], pixels[0, 2], pixels[1, 0] = (0, 0, 255), (255, 0, 0), (255, 0, 0)
    (found,) = service.run([body(encoded(pixels))])
    assert answer(found) == {
        "size": [2, 3],
        "classes": [RED, BLUE, DARK],
        "counts": [2, 2, 2],
        "labels": {"0": "red", "2": "blue", "3": "3"},
    }


def test_several_pictures_in_one_request(load: Load) -> None:
    service = load("pir/segmenter.json", "image_segmenter", config={"image": UNIT}, files={"index_to_name.json": NAMES})
    small, large = flag(), flag(60, 30)
    texts = [base64.b64encode(data).decode() for data, _ in (small, large)]
    form = request(*(Part(name, "image/png", data) for name, (data, _) in (("a", small), ("b", large))))
    several, of_form, one, wrong = service.run([json(texts), form, body(large[0]), json([texts[0], "AAAA"])])
    assert [found["size"] for found in answer(several)] == [[20, 40], [30, 60]]
    assert answer(several)[1] == answer(one)
    assert answer(of_form) == answer(several)
    assert "[1]: expected a JPEG" in refusal(wrong)


@pytest.mark.parametrize("model", ["segmenter", "segmenter-scores", "segmenter-half"])
@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [{"type": "Resize", "target_size": [16, 8], "interp": "NEAREST"}],
        [{"type": "ResizeByLong", "long_size": 16}],
        [{"type": "ResizeByShort", "short_size": 32, "max_size": 128}],
        [{"type": "LimitLong", "max_long": 48}],
        [{"type": "Padding", "target_size": [480, 800], "im_padding_value": [255, 255, 255]}],
        [{"type": "Resize", "target_size": [64, 64], "keep_ratio": True}, {"type": "Padding", "target_size": [96, 64]}],
    ],
    ids=["as it is", "stretch", "long", "short", "limit", "pad", "inside, pad"],
)
def test_the_answer_has_the_size_of_the_picture(load: Load, model: str, transforms: list[dict[str, Any]]) -> None:
    normalize = {"type": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}
    service = load(f"pir/{model}.json", "image_segmenter", files=deploy(*transforms, normalize))
    pictures = [flag(), flag(320, 640), flag(40, 20)]
    for outcome, (_, classes) in zip(service.run([body(data) for data, _ in pictures]), pictures, strict=True):
        found = decoded(outcome)
        assert found.shape == classes.shape
        # Interpolation blurs what is between the rectangles, and nothing else.
        inner = np.ones(classes.shape, bool)
        height, width = (length // 2 for length in classes.shape)
        inner[height - height // 4 : height + height // 4] = inner[:, width - width // 4 : width + width // 4] = False
        np.testing.assert_array_equal(found[inner], classes[inner])


def test_scores_are_interpolated_before_the_best_is_chosen(load: Load) -> None:
    config = {"image": {**UNIT, "resize": [2, 1]}}
    pixels = np.zeros((1, 12, 3), np.uint8)
    pixels[:, :6], pixels[:, 6:] = (0, 0, 255), (0, 153, 0)
    (found,) = load("pir/segmenter-scores.json", "image_segmenter", config=config).run([body(encoded(pixels))])
    # Between the centres of the two, at 2.5 and 8.5, red falls from 1 to 0 and green rises from 0 to 0.6.
    ramp = np.clip((np.arange(12) - 2.5) / 6, 0, 1)
    np.testing.assert_array_equal(decoded(found)[0], np.where(ramp * 0.6 > 1 - ramp, GREEN, RED))


def test_png_by_setting_or_header(load: Load) -> None:
    data, classes = flag()

    def asking(accept: str) -> Any:
        return request(Part("body", "image/png", data), headers={"accept": accept})

    config = {"image": UNIT, "segmentation": {"format": "png"}}
    outcomes = load("pir/segmenter.json", "image_segmenter", config=config).run(
        [body(data), body(b"no image"), asking("*/*"), asking("text/html, application/json;q=0.5")]
    )
    assert refusal(outcomes[1]).startswith("invalid: expected a JPEG")
    for outcome in (outcomes[0], outcomes[2]):
        np.testing.assert_array_equal(png(outcome), classes)
    np.testing.assert_array_equal(decoded(outcomes[3]), classes)
    by_default = load("pir/segmenter.json", "image_segmenter", config={"image": UNIT})
    runs, picture = by_default.run([body(data), asking("image/PNG")])
    np.testing.assert_array_equal(png(picture), decoded(runs))


def test_tensors(load: Load) -> None:
    array = np.zeros((3, 2, 2), np.float32)
    array[BLUE, 0] = 1
    (found,) = load("pir/segmenter.json", "image_segmenter").run([json(array)])
    np.testing.assert_array_equal(decoded(found), [[BLUE, BLUE], [DARK, DARK]])


def test_many_classes_make_a_deeper_png() -> None:
    classes = np.array([[0, 65535], [256, 1]], np.uint16)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(to_png(classes), np.uint8), -1), classes)
    assert to_runs(classes, Labels({256: "tree"}))["labels"] == {"0": "0", "1": "1", "256": "tree", "65535": "65535"}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"type": "RandomDistort"}, "RandomDistort is not a known step; known are Resize, ResizeByLong"),
        ({"type": "Resize", "size_divisor": 32}, "Resize: ValueError: size_divisor is not supported"),
        ({"type": "LimitLong", "max_long": 9, "min_long": 3}, "LimitLong: ValueError: min_long is not supported"),
        ({"type": "ResizeByLong"}, "ResizeByLong: KeyError: 'long_size'"),
        ({"type": "Resize", "interp": "RANDOM"}, "image.interpolation: random: expected "),
    ],
)
def test_transforms_that_are_not_known(load: Load, transform: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        load("pir/segmenter.json", "image_segmenter", files=deploy(transform))


def test_outputs_that_are_no_classes(load: Load) -> None:
    service = load("pir/colours.json", "image_segmenter", config={"image": UNIT})
    (refused,) = service.run([body(plain(1, 2, 3))])
    assert refusal(refused).startswith("handler: image_segmenter needs an output of classes, integers of shape")


def test_on_a_server(lent: Lent, models: Path) -> None:
    data, classes = flag()
    server = lent(
        "image_segmenter", "flags", yaml.safe_dump({"image": UNIT}), serialized_file=models / "pir/segmenter.json"
    )
    found = orjson.loads(server.predict("flags", data).content)
    np.testing.assert_array_equal(np.repeat(found["classes"], found["counts"]).reshape(found["size"]), classes)
    reply = server.predict("flags", data, headers={"Accept": "image/png"})
    assert reply.headers["Content-Type"] == "image/png"
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(reply.content, np.uint8), -1), classes)
