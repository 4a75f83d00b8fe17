"""The built-in image_classifier with real models and real images."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from pdserver.errors import ConfigError, LoadFailed
from pdserver.handlers.runtime import labels, ranking
from pdserver.handlers.runtime.service import Service
from pdserver.handlers.vision import exports, paddle_clas
from pdserver.handlers.vision.images import size
from pdserver.types import Part
from tests.handlers.conftest import Load, paddle
from tests.handlers.pictures import plain
from tests.handlers.requests import answer, body, json, npy, refusal, request, tensor

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
GRAY = {"image": {"color": "gray", "resize": [8, 8], "crop": None, "top_k": 10}}
PHOTO = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8), (400, 300))
"""Blue, green, red; smooth, so that lossy formats keep it nearly."""


def encoded(suffix: str, pixels: NDArray[Any] = PHOTO) -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return bytes(data)


PNG = encoded(".png")


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: NDArray[Any] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def digits(models: Path, pixels: NDArray[Any] = PHOTO) -> NDArray[Any]:
    """Probabilities by digit, without any of our code; `pixels` as they come out of OpenCV."""
    gray = cv2.resize(cv2.imdecode(np.frombuffer(encoded(".png", pixels), np.uint8), cv2.IMREAD_GRAYSCALE), (8, 8))
    tensors = paddle.to_tensor((gray / 255).astype(np.float32)[None, None])
    return softmax(paddle.jit.load(str(models / "pir/digits"))(tensors).numpy()[0])


def by_class(outcome: Any) -> NDArray[Any]:
    found = answer(outcome)
    return np.array([found[str(i)] for i in range(len(found))])


def colours(service: Service, data: bytes) -> NDArray[Any]:
    """The channel means that came out of the model `colours`, which is what it got on average."""
    return by_class(service.run([body(data)])[0])


# What an image may come as.


def test_every_way_to_send_an_image(load: Load, models: Path) -> None:
    expected = digits(models)
    gray = cv2.resize(cv2.cvtColor(PHOTO, cv2.COLOR_BGR2GRAY), (8, 8)) / 255
    text = base64.b64encode(PNG)
    wrapped = base64.encodebytes(PNG)
    outcomes = load("pir/digits.json", "image_classifier", config=GRAY).run(
        [
            body(PNG, "image/png"),
            body(PNG, "application/octet-stream"),
            body(PNG, ""),
            request(Part("data", "image/png", PNG)),
            request(Part("picture", "image/png", PNG)),
            request(Part("picture", "image/png", b"other"), Part("data", "image/png", PNG)),
            body(text, "text/plain"),
            body(wrapped, "text/plain"),
            body(text, ""),
            request(Part("data", "", text)),
            request(Part("data", "", b"data:image/png;base64," + text)),
            body(orjson.dumps({"b64": text.decode()}), ""),
            json(text.decode()),
            json({"data": text.decode()}),
            json(gray[None]),
            json({"image": gray[None]}),
            body(npy(gray[None].astype(np.float32))),
            request(tensor("image", gray[None].astype(np.float32))),
        ]
    )
    for outcome in outcomes:
        np.testing.assert_allclose(by_class(outcome), expected, rtol=2e-2)


def test_several_images_in_one_request(load: Load, models: Path) -> None:
    other = encoded(".png", PHOTO[::-1])
    texts = [base64.b64encode(data).decode() for data in (PNG, other)]
    first, listed, form, untyped, last, wrong, broken = load("pir/digits.json", "image_classifier", config=GRAY).run(
        [
            body(other),
            json([texts[0], {"b64": texts[1]}]),
            request(Part("one.png", "image/png", PNG), Part("other.png", "image/png", other)),
            request(Part("one", "", PNG), Part("other", "", texts[1].encode())),
            body(PNG),
            json([texts[0], [1]]),
            json([texts[0], base64.b64encode(PNG[:17]).decode()]),
        ]
    )
    for several in (listed, form, untyped):
        photo, upside_down = answer(several)
        assert photo == pytest.approx(answer(last), rel=1e-4)
        assert upside_down == pytest.approx(answer(first), rel=1e-4)
    assert "at [1]" in refusal(wrong)
    assert refusal(broken) == "invalid: [1]: the PNG image ends within its header"


def test_tensors_with_their_batch_axis_among_images(load: Load, models: Path) -> None:
    rows = np.random.default_rng(4).random((3, 1, 8, 8)).astype(np.float32)
    first, several, last = load("pir/digits.json", "image_classifier", config=GRAY).run(
        [body(PNG), json(rows), body(PNG)]
    )
    expected = softmax(paddle.jit.load(str(models / "pir/digits"))(paddle.to_tensor(rows)).numpy())
    assert answer(first) == answer(last)
    got = [[row[str(i)] for i in range(10)] for row in answer(several)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_formats(load: Load, models: Path, suffix: str) -> None:
    data = encoded(suffix)
    assert size(data)[1:] == (400, 300)
    service = load("pir/digits.json", "image_classifier", config=GRAY)
    good, cut, beheaded = service.run([body(data), body(data[: len(data) // 2]), body(data[:17])])
    np.testing.assert_allclose(by_class(good), digits(models), rtol=5e-2)
    assert refusal(cut).endswith("image is damaged or incomplete")
    assert refusal(beheaded).endswith("image ends within its header")


@pytest.mark.parametrize("quality", [1, 80, 101])
def test_both_kinds_of_webp(quality: int) -> None:
    done, data = cv2.imencode(".webp", PHOTO[:33, :77], [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done
    assert size(bytes(data)) == ("WebP", 77, 33)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a JPEG, PNG, WebP or BMP image, got 0 bytes"),
        (b"GIF89a" + b"\0" * 50, "expected a JPEG, PNG, WebP or BMP image, got 56 bytes"),
        (encoded(".tiff"), "expected a JPEG, PNG, WebP or BMP image"),
        (b"\xff\xd8\xff" + b"\xff" * 100, "the JPEG image ends within its header"),
        (b"RIFF\0\0\0\0WAVEfmt " + b"\0" * 40, "expected a JPEG, PNG, WebP or BMP image"),
    ],
    ids=["empty", "gif", "tiff", "jpeg", "wave"],
)
def test_what_is_no_image_is_refused_alone(load: Load, data: bytes, message: str) -> None:
    before, bad, after = load("pir/digits.json", "image_classifier", config=GRAY).run(
        [body(PNG), body(data), body(PNG)]
    )
    assert refusal(bad).startswith(f"invalid: {message}")
    assert answer(before) == answer(after)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (body(b"!!!!", "text/plain"), "the text is not base64"),
        (body("ключ".encode(), "text/plain"), "the text is not base64"),
        (
            body(base64.b64encode(b"no image"), "text/plain"),
            "JPEG, PNG, WebP or BMP image, got text of 12 characters, the base64 of 8 bytes of something else",
        ),
        (json({"b64": "eHg="}), "got text of 4 characters, the base64 of 2 bytes of something else"),
        (json([base64.b64encode(PNG).decode(), "!!!!"]), "[1]: expected an image; the text is not base64 of one"),
        (body(b"xx"), "expected a JPEG, PNG, WebP or BMP image, got 2 bytes of something else"),
        (body(base64.b64encode(b"no image")), "got 12 bytes of something else"),
        (body(base64.b64encode(b"\xff\xd8\xff\xff")), "the JPEG image ends within its header"),
        (json([[1.0]]), 'input "image": expected float32 of shape [1, 8, 8], got shape [1, 1]'),
        (json({"data": {"data": {"data": 1}}}), 'input "image" is missing'),
        (json(None), 'input "image": expected float32 of shape [1, 8, 8], got null'),
        (json({}), 'expected an image as the body or as a part called "data"'),
        (request(), 'expected an image as the body or as a part called "data", got nothing'),
        (request(Part("a", "image/png", PNG), Part("b", "text/plain", b"c")), 'as a part called "data", got a, b'),
        (request(Part("a", "", PNG), Part("b", "", b"c")), "b: expected a JPEG, PNG, WebP or BMP image, got 1 bytes"),
        (request(Part("a", "", PNG), Part("b", "", npy(np.zeros((1, 8, 8))))), "got something else at b"),
        (body(npy(np.zeros((1, 8, 8)))), "expected float32 of shape [1, 8, 8], got float64"),
    ],
)
def test_what_else_is_refused(load: Load, sent: Any, message: str) -> None:
    (bad,) = load("pir/digits.json", "image_classifier", config=GRAY).run([sent])
    assert refusal(bad).startswith("invalid: ")
    assert message in refusal(bad)


def test_pixels_are_counted_before_they_are_decoded(load: Load) -> None:
    """A PNG of 1 kB that stands for 10 GB of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    service = load("pir/digits.json", "image_classifier", config=GRAY)
    assert refusal(service.run([body(bomb)])[0]) == (
        "invalid: the image has 60000×60000 pixels; at most 100000000 are accepted"
    )
    limited = load("pir/digits.json", "image_classifier", config={"image": {**GRAY["image"], "max_pixels": 119_999}})
    assert "at most 119999" in refusal(limited.run([body(PNG)])[0])


def test_a_narrow_image_does_not_grow_without_bounds(load: Load) -> None:
    service = load("pir/colours.json", "image_classifier")
    narrow = encoded(".png", np.zeros((1, 60_000, 3), np.uint8))
    assert refusal(service.run([body(narrow)])[0]).startswith("invalid: the image is too narrow: 60000×1 would become")


# What is made of it.


def test_imagenet_by_default(load: Load) -> None:
    """Shorter side to 256, 224 from the centre, ImageNet's mean and standard deviation, red first."""
    small = cv2.resize(PHOTO, (round(400 * 256 / 300), 256))
    left, top = (small.shape[1] - 224) // 2, 16
    crop = small[top : top + 224, left : left + 224, ::-1] / 255
    expected = ((crop - MEAN) / STD).mean(axis=(0, 1))
    service = load("pir/colours.json", "image_classifier", config={"image": {"softmax": False}})
    np.testing.assert_allclose(colours(service, PNG), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_settings_of_the_models_yaml(load: Load, color: str) -> None:
    settings = {"softmax": False, "resize": None, "crop": [100, 50], "scale": "2/255", "mean": [1, 2, 3], "std": [0.5]}
    crop = PHOTO[125:175, 150:250].astype(np.float64)
    crop = crop if color == "bgr" else crop[:, :, ::-1]
    expected = ((crop * 2 / 255 - [1, 2, 3]) / 0.5).mean(axis=(0, 1))
    service = load("pir/colours.json", "image_classifier", config={"image": {**settings, "color": color}})
    np.testing.assert_allclose(colours(service, PNG), expected, rtol=1e-4)
    assert "at least 100×50 are needed" in refusal(service.run([body(encoded(".png", PHOTO[:40]))])[0])


def test_images_of_different_sizes_do_not_meet(load: Load) -> None:
    config = {"image": {"resize": None, "crop": None, "softmax": False}}
    service = load("pir/colours.json", "image_classifier", config=config)
    files = [body(encoded(".png", PHOTO[:height])) for height in (300, 20, 300, 40)]
    assert service.run(files) == [service.run([one])[0] for one in files]


def test_exif_orientation_is_applied(load: Load) -> None:
    """Orientation 6: the camera was held upright. What is sent as 400×300 is 300 wide and 400 high."""
    jpeg = encoded(".jpg")
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    assert size(turned) == ("JPEG", 400, 300)
    config = {"image": {"resize": None, "crop": [300, 400], "softmax": False}}
    service = load("pir/colours.json", "image_classifier", config=config)
    assert answer(service.run([body(turned)])[0])
    assert "at least 300×400 are needed" in refusal(service.run([body(jpeg)])[0])


INFERENCE_YML = """
Global: {model_name: X}
Hpi:
  a: &id001 [1, 2]
  b: *id001
PreProcess:
  transform_ops:
  - ResizeImage: {size: [160, 80], interpolation: bilinear}
  - CropImage: {size: 64}
  - NormalizeImage: {mean: [0.1, 0.2, 0.3], std: [0.5, 0.5, 0.25], scale: 1.0/255.0, order: '', channel_num: 3}
  - ToCHWImage: null
PostProcess:
  Topk: {topk: 2, label_list: [red, green, blue]}
"""


def test_inference_yml_of_paddleclas(load: Load) -> None:
    crop = cv2.resize(PHOTO, (160, 80))[8:72, 48:112, ::-1] / 255
    means = ((crop - [0.1, 0.2, 0.3]) / [0.5, 0.5, 0.25]).mean(axis=(0, 1))
    files = {"inference.yml": INFERENCE_YML.encode()}
    service = load("pir/colours.json", "image_classifier", config={"image": {"softmax": False}}, files=files)
    found = answer(service.run([body(PNG)])[0])
    expected = dict(zip(["red", "green", "blue"], means.tolist(), strict=True))
    assert list(found) == sorted(expected, key=lambda name: -expected[name])[:2]
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-4)


def test_the_models_yaml_goes_over_inference_yml(load: Load) -> None:
    files = {"inference.yml": INFERENCE_YML.encode()}
    service = load("pir/colours.json", "image_classifier", config={"image": {"top_k": 3}}, files=files)
    assert len(answer(service.run([body(PNG)])[0])) == 3


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([], {"resize": None, "crop": None, "scale": 1.0, "mean": [0.0], "std": [1.0]}),
        ([{"ResizeImage": {"resize_short": 256}}], {"resize": 256, "interpolation": "linear", "backend": "cv2"}),
        (
            [{"ResizeImage": {"size": 8, "backend": "PIL", "interpolation": "box"}}],
            {"interpolation": "area", "backend": "pil"},
        ),
        ([{"ResizeImage": {"size": 96, "interpolation": "bicubic"}}], {"resize": [96, 96], "interpolation": "cubic"}),
        ([{"ResizeImage": {"size": [2, 1], "interpolation": "LINEAR"}}], {"resize": [2, 1], "interpolation": "linear"}),
        ([{"CropImage": {"size": 224}}, {"ToCHWImage": None}, "ToCHWImage"], {"crop": 224}),
        ([{"NormalizeImage": None}], {"scale": 1 / 255, "mean": tuple(MEAN), "std": tuple(STD)}),
        ([{"DecodeImage": {"to_rgb": False, "channel_first": False}}], {"color": "bgr"}),
    ],
    ids=str,
)
def test_steps_of_inference_yml(operations: list[Any], expected: dict[str, Any]) -> None:
    settings = paddle_clas.image_settings({"PreProcess": {"transform_ops": operations}}, "inference.yml")
    assert {key: settings[key] for key in expected} == expected


def classifier_settings(path: Path) -> dict[str, Any]:
    config = exports.read(path)
    return paddle_clas.image_settings(config, path.name) | paddle_clas.answers(config, path.name)[0]


PLAIN = "PreProcess: {transform_ops: [NormalizeImage: {mean: [0, 0, 0], std: [1, 1, 1]}]}\n"
"""The model `colours` then gives the picture's red, green and blue, from 0 to 1."""


@pytest.mark.parametrize(
    ("postprocess", "red_green_blue", "expected"),
    [
        ("MultiLabelThreshOutput: {label_list: [r, g, b]}", (255, 51, 204), {"r": 1.0, "b": 0.8}),
        ("MultiLabelThreshOutput: {threshold: 0.1, label_list: [r, g, b]}", (51, 0, 204), {"b": 0.8, "r": 0.2}),
        ("MultiLabelThreshOutput: {threshold: [0.1, 0.1, 0.9]}", (51, 102, 204), {"1": 0.4, "0": 0.2}),
        ("MultiLabelThreshOutput: null", (0, 0, 102), {}),
        (
            "{Topk: {topk: 1}, MultiLabelThreshOutput: null, main_indicator: Topk, SavePreLabel: {}}",
            (0, 0, 255),
            {"2": 1},
        ),
        ("ThreshOutput: {threshold: 0.7, label_list: [r, g, b]}", (0, 51, 204), {"b": 0.8}),
        ("ThreshOutput: {threshold: 0.9, default_label_index: 1, label_list: [r, g, b]}", (0, 51, 204), {"g": 0.2}),
    ],
)
def test_what_postprocess_says_is_answered(
    load: Load, postprocess: str, red_green_blue: tuple[int, int, int], expected: dict[str, float]
) -> None:
    files = {"inference.yml": f"{PLAIN}PostProcess:\n  {postprocess}\n".encode()}
    several = postprocess.startswith("MultiLabel")
    config = {} if several else {"image": {"softmax": False}}  # what this model answers does not add up to 1
    service = load("pir/colours.json", "image_classifier", config=config, files=files)
    found = answer(service.run([body(plain(*red_green_blue))])[0])
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-3)


def test_one_label_of_two() -> None:
    chances = np.array([[0.7, 0.3], [0.8, 0.2]], np.float32)
    found = ranking.one(chances, labels.Labels({0: "nobody", 1: "somebody"}), 0.25, 0)
    assert [list(row) for row in found] == [["somebody"], ["nobody"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": [0.5, 0.5]}, "image.threshold: 2 numbers, but the model has 3 classes"),
        ({"threshold": 0.5, "otherwise": 3}, "image.otherwise: 3: the model has 3 classes"),
        ({"otherwise": 0}, "image.*otherwise: 0: needs a threshold"),
    ],
)
def test_thresholds_that_do_not_fit_the_model(load: Load, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        load("pir/colours.json", "image_classifier", config={"image": settings})


@pytest.mark.parametrize(
    ("name", "resampling"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC), ("box", Image.Resampling.BOX)],
)
def test_pictures_are_resized_by_pillow_where_the_file_says_so(load: Load, name: str, resampling: Any) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    step = {"ResizeImage": {"size": [4, 3], "interpolation": name, "backend": "pil"}}
    scale = {"NormalizeImage": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    files = {"inference.yml": yaml.safe_dump({"PreProcess": {"transform_ops": [step, scale]}}).encode()}
    service = load("pir/colours.json", "image_classifier", config={"image": {"softmax": False}}, files=files)
    expected = np.asarray(Image.fromarray(noise[:, :, ::-1]).resize((4, 3), resampling)).mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(colours(service, encoded(".png", noise)), expected, rtol=1e-5)


def test_the_steps_that_other_handlers_take(load: Load) -> None:
    """A picture of 40 by 20 becomes one of 16 by 8 on a ground of 16 by 16."""
    config = {"image": {"resize": [16, 16], "fit": "inside", "crop": None, "pad": [16, 10], "pad_to_multiple": 16,
                        "pad_value": [255], "mean": [0], "std": [1], "softmax": False}}  # fmt: skip
    service = load("pir/colours.json", "image_classifier", config=config)
    np.testing.assert_allclose(colours(service, plain(51, 0, 255)), [0.6, 0.5, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PreProcess: {transform_ops: [{DetResize: {}}]}", "DetResize is not a known step; known are DecodeImage"),
        ("PostProcess: {PersonAttribute: {threshold: 0.5}}", "expected one of Topk, .*found PersonAttribute"),
        ("PostProcess: {Topk: {topk: 1}, ThreshOutput: {}}", "expected one of Topk, .*found Topk, ThreshOutput"),
        ("PostProcess: {MultiLabelThreshOutput: {thresh: 1}}", "MultiLabelThreshOutput: thresh is unknown"),
        ("PreProcess: {transform_ops: [{NormalizeImage: {channel_num: 4}}]}", "channel_num is not 3"),
        (
            "PreProcess: {transform_ops: [{ResizeImage: {size: 9}}, {ResizeImage: {size: 8}}]}",
            "ResizeImage: an earlier step says backend already; pictures take one of each",
        ),
        ("PreProcess: [1]", "expected a list called transform_ops"),
        ("a: [", "inference.yml: not YAML"),
    ],
)
def test_inference_yml_of_something_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "inference.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        classifier_settings(path)


# Labels and probabilities.


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"0": "zero", "3": "three"}, {0: "zero", 1: "1", 3: "three"}),
        ({"0": ["n01", "zero"], "1": ["n02", "one"]}, {0: "zero", 1: "one", 2: "2"}),
        ({"object_type_names": ["zero", "one"]}, {0: "zero", 1: "one"}),
        ({"0": "crane", "1": "dog", "2": "crane"}, {0: "crane (0)", 1: "dog", 2: "crane (2)"}),
    ],
    ids=str,
)
def test_index_to_name(tmp_path: Path, content: Any, names: dict[int, str]) -> None:
    (tmp_path / "index_to_name.json").write_bytes(orjson.dumps(content))
    found = labels.read(tmp_path, ["not", "these"])
    assert {index: found[index] for index in names} == names


@pytest.mark.parametrize("content", [b"[1]", b'{"a": "b"}', b'{"0": 1}', b'{"0": []}', b"{", b'"x"'])
def test_index_to_name_of_another_shape(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index_to_name.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"index_to_name\.json: line 1: .*expected \{\"0\": \"name\"\}"):
        labels.read(tmp_path, None)


def test_label_list_txt(load: Load) -> None:
    names = "".join(f"数字 {i}\n" for i in range(10)).encode()
    (outcome,) = load("pir/digits.json", "image_classifier", config=GRAY, files={"label_list.txt": names}).run(
        [body(PNG)]
    )
    assert set(answer(outcome)) == {f"数字 {i}" for i in range(10)}


def test_the_likeliest_first_and_never_more_than_there_are(load: Load, models: Path) -> None:
    names = {str(i): f"digit {i}" for i in range(10)}
    files = {"index_to_name.json": orjson.dumps(names)}
    expected = digits(models)
    order = [f"digit {i}" for i in np.argsort(-expected)]
    for top_k, count in ((1, 1), (5, 5), (50, 10)):
        config = {"image": {**GRAY["image"], "top_k": top_k}}
        service = load("pir/digits.json", "image_classifier", config=config, files=files)
        assert list(answer(service.run([body(PNG)])[0])) == order[:count]


def test_probabilities_are_not_made_of_probabilities(load: Load) -> None:
    """`likely` ends with a softmax of its own."""
    found = {
        name: by_class(load("pir/likely.json", "image_classifier", config=config).run([body(PNG)])[0])
        for name, config in {
            "auto": GRAY,
            "never": {"image": {**GRAY["image"], "softmax": False}},
            "always": {"image": {**GRAY["image"], "softmax": True}},
        }.items()
    }
    np.testing.assert_array_equal(found["auto"], found["never"])
    np.testing.assert_allclose(found["always"], softmax(found["never"]), rtol=1e-4)
    assert found["auto"].sum() == pytest.approx(1, abs=1e-5)


# What is wrong with a model is said when it is loaded.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resise": 3}, r"image.resise: unknown setting; did you mean resize\?"),
        ({"resize": "big"}, "image.resize: big: Expected"),
        ({"resize": [8, 8, 8]}, "image.resize: .* of length 2, got 3"),
        ({"resize": 0}, "image.resize: 0: expected lengths from 1 to 65536"),
        ({"crop": [8, -1]}, "image.crop: .*expected lengths from 1 to 65536"),
        ({"color": "grey"}, "image.color: grey: "),
        ({"mean": [1, 2]}, r"image.mean: \[1.0, 2.0\]: expected 3 numbers, because image.color is rgb"),
        ({"std": [0]}, "image.std: 0 is not possible"),
        ({"scale": "1/0"}, "image.scale: 1/0: expected a number or a fraction"),
        ({"top_k": 0}, "image.top_k: 0: Expected `int` >= 1"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(load: Load, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        load("pir/colours.json", "image_classifier", config={"image": settings})


def test_settings_that_do_not_fit_the_model(load: Load) -> None:
    with pytest.raises(LoadFailed) as caught:
        load("pir/digits.json", "image_classifier")
    assert str(caught.value) == (
        'image: the settings make [3, 224, 224] (channels, height, width), the input "image" takes [1, 8, 8]; '
        "in the model's config file, set image: {color: gray, resize: [8, 8], crop: null}"
    )


def test_a_model_that_takes_no_images(load: Load) -> None:
    with pytest.raises(LoadFailed, match=r"expected a model with one float input .*x float32\[-1, 13\]"):
        load("pir/linear.json", "image_classifier")


def test_an_image_of_the_wrong_size_where_none_is_resized(load: Load) -> None:
    config = {"image": {"color": "gray", "resize": None, "crop": None}}
    service = load("pir/digits.json", "image_classifier", config=config)
    good, bad = service.run([body(encoded(".png", PHOTO[:8, :8])), body(PNG)])
    assert answer(good)
    assert refusal(bad) == "invalid: expected an image of height and width [8, 8], got [300, 400]"
