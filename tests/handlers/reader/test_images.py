"""Operators on pictures beyond what theirs do: errors, limits, URLs, threads, and one stack with the image handlers."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pdarchiver.manifest import TensorSpec
from pdserver.errors import ArchiveUnusable, ConfigError, Forbidden, InvalidRequest
from pdserver.handlers import reader as r
from pdserver.handlers.vision.image_settings import ImageSettings
from pdserver.handlers.vision.preparation import Preparation
from tests.handlers.pictures import encoded, plain
from tests.handlers.reader.cases import MEAN, STD, smooth
from tests.security.file_server import FileServer, response

PHOTO = smooth(np.random.default_rng(3), 300, 400)
PNG = encoded(PHOTO)
TINY = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: r.Resize("256"), ValueError, "Resize: size='256': expected a length, or a width and a height"),
        (lambda: r.Resize((1, 2, 3)), ValueError, r"Resize: size=\(1, 2, 3\)"),
        (lambda: r.Resize(256, 0), ValueError, "Resize: max_size=0"),
        (lambda: r.CenterCrop((224, 224)), ValueError, "CenterCrop: size=.*expected a length"),
        (lambda: r.ResizeByFactor(0), ValueError, "ResizeByFactor: factor=0"),
        (lambda: r.Div(0), ValueError, "Div: value=0: expected a number other than 0"),
        (lambda: r.Div("x"), ValueError, "Div: value='x'"),
        (lambda: r.Normalize("abc", STD), ValueError, "Normalize: mean='abc': expected a number for each channel"),
        (lambda: r.Normalize(MEAN, [1, 2]), ValueError, r"Normalize: std=\[1, 2\]: expected 3 numbers other than 0"),
        (lambda: r.Normalize(MEAN, [1, 0, 1]), ValueError, "Normalize: std="),
        (lambda: r.Transpose((2, 0)), ValueError, "Transpose: transpose_target="),
        (lambda: r.PadStride(-1), ValueError, "PadStride: stride=-1: expected a length, or 0"),
        (lambda: r.ImageReader([224, 224]), ValueError, "ImageReader: image_shape="),
        (lambda: r.Sequential(r.Div(1)), ValueError, "Sequential: transforms=.*expected a list of operators"),
        (lambda: r.DetectionSequential([3]), ValueError, "DetectionSequential: transforms="),
        (lambda: r.Lambda(3), ValueError, "Lambda: lambd=3: expected a function"),
        (lambda: r.Resize(8)(None), TypeError, r"Resize: expected an array \[height, width, channels\], got NoneType"),
        (lambda: r.BGR2RGB()(TINY[..., 0]), TypeError, r"BGR2RGB: expected .*, got one of shape \[4, 5\]"),
        (lambda: r.Normalize(MEAN, STD, True)(TINY), TypeError, r"channel_first=True: .* 3 channels, got .*\[4, 5, 3"),
        (lambda: r.String2Image()("cat.jpg"), TypeError, "got str; Base64ToImage reads base64, File2Image a path"),
        (lambda: r.CenterCrop(5)(TINY), InvalidRequest, "the image has 5×4 pixels; at least 5×5 are needed"),
        (lambda: r.String2Image()(PNG[:-99]), InvalidRequest, "the PNG image is damaged or incomplete"),
        (lambda: r.Base64ToImage()("not base64!"), InvalidRequest, "expected base64"),
        (lambda: r.Base64ToImage()(b"\xff\xff"), InvalidRequest, "expected base64"),
        (lambda: r.Base64ToImage()("aGVsbG8="), InvalidRequest, "expected a JPEG, PNG, WebP or BMP image, got 5 bytes"),
        (lambda: r.ImageReader().process_image(b""), InvalidRequest, "expected a JPEG"),
        (lambda: r.Resize(512)(np.zeros((1, 60_000, 3), np.uint8)), InvalidRequest, "the image is too narrow: 60000×1"),
        (lambda: r.File2Image()("/nowhere/cat.jpg"), FileNotFoundError, "/nowhere/cat.jpg"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_what_was_expected(
    use: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        use()


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"has no Resise; it has .*Resize"):
        _ = r.Resise


@pytest.mark.parametrize(
    "text", [base64.urlsafe_b64encode(PNG), base64.encodebytes(PNG), b"data:image/png;base64," + base64.b64encode(PNG)]
)
def test_base64_as_clients_write_it(text: bytes) -> None:
    np.testing.assert_array_equal(r.Base64ToImage()(text), PHOTO)
    np.testing.assert_array_equal(r.Base64ToImage()(text.decode()), PHOTO)


def test_what_theirs_does_otherwise() -> None:
    """Theirs takes INTER_NEAREST, which is 0, for no interpolation. It multiplies heights by 32 whatever the factor is,
    and ends the process where nothing is left of them. It returns the picture without what is known of it."""
    nearest = r.Resize((7, 5), interpolation=cv2.INTER_NEAREST)(PHOTO)
    np.testing.assert_array_equal(nearest, cv2.resize(PHOTO, (7, 5), interpolation=cv2.INTER_NEAREST))
    assert r.ResizeByFactor(16)(np.zeros((40, 90, 3), np.uint8)).shape == (16, 64, 3)
    assert r.ResizeByFactor()(np.zeros((1, 9000, 3), np.uint8)).shape == (32, 2400, 3)
    assert r.DetectionSequential([r.DetectionPadStride()])(TINY)[0] is TINY


def test_random_crops_lie_in_the_picture() -> None:
    crops = [r.ImageReader().crop_image(PHOTO, 290, center=False) for _ in range(20)]
    assert {crop.shape for crop in crops} == {(290, 290, 3)}
    assert len({crop.tobytes() for crop in crops}) > 1
    with pytest.raises(InvalidRequest, match="at least 301×301"):
        r.ImageReader().crop_image(PHOTO, 301, center=False)


def test_the_handlers_and_the_operators_are_one_stack() -> None:
    """Bit by bit: what image_classifier makes of a picture, and what object_detector makes of it."""
    spec = TensorSpec("image", "float32", (-1, 3, -1, -1), "image")
    classifier = Preparation(ImageSettings(resize=256), spec, crop=(224, 224))
    np.testing.assert_array_equal(classifier.read(PNG)[0], r.ImageReader().process_image(PNG))
    detector = Preparation(ImageSettings(resize=(320, 280), fit="inside", pad_to_multiple=32), spec)
    array, picture = detector.read(PNG)
    chain = r.DetectionSequential([
        r.DetectionResize([280, 320]), r.DetectionBGR2RGB(), r.DetectionNormalize(MEAN, STD),
        r.DetectionTranspose((2, 0, 1)), r.DetectionPadStride(32),
    ])  # fmt: skip
    img, info = chain(PHOTO)
    np.testing.assert_array_equal(array, img)
    np.testing.assert_array_equal(np.array(picture.scale, np.float32), info["scale_factor"])
    np.testing.assert_array_equal(np.array(picture.resized, np.float32), info["im_shape"])


def test_threads_share_operators() -> None:
    pictures = [smooth(np.random.default_rng(seed), 40 + seed, 60) for seed in range(24)]
    chain = r.Sequential([r.Resize(36), r.CenterCrop(32), r.BGR2RGB(), r.Normalize(MEAN, STD), r.Transpose((2, 0, 1))])
    pairs = r.DetectionSequential([r.DetectionResize(48), r.DetectionDiv(255), r.DetectionTranspose((2, 0, 1))])

    def both(img: Any) -> list[Any]:
        array, info = pairs(img)
        return [chain(img), array, info["im_shape"], info["scale_factor"]]

    expected = [both(img) for img in pictures]
    with ThreadPoolExecutor(4) as threads:
        for found, alone in zip(threads.map(both, pictures), expected, strict=True):
            for one, other in zip(found, alone, strict=True):
                np.testing.assert_array_equal(one, other)


def test_nothing_of_opencv_for_texts() -> None:
    code = "import sys; from pdserver.handlers.reader import SentaReader, Sequential; sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestUrls:
    def test_nowhere_unless_it_is_told_from_where(self) -> None:
        with pytest.raises(ConfigError, match=r'URL2Image fetches nothing .*URL2Image\(allowed_urls="https://'):
            r.URL2Image()
        with pytest.raises(ValueError, match="expected http and https"):
            r.URL2Image("file:///srv/")

    def test_a_picture(self) -> None:
        with FileServer() as server:
            url = server.serve("/cats/1.png?size=s", PNG)
            read = r.URL2Image(f"{server.url}/cats/")
            np.testing.assert_array_equal(read(url), PHOTO)

    @pytest.mark.parametrize(
        ("path", "error", "message"),
        [
            ("/dogs/1.png", Forbidden, "not among the URLs"),
            ("/cats/moved.png", Forbidden, "was redirected: .*not among the URLs"),
            ("/cats/gone.png", ArchiveUnusable, "answered 404"),
            ("/cats/large.png", ArchiveUnusable, r"more than 5,000 bytes \(URL2Image: max_bytes\)"),
            ("/cats/text.png", InvalidRequest, "expected a JPEG"),
            ("/cats/a b.png", InvalidRequest, "expected a picture's URL"),
            ("/cats/hang.png", ArchiveUnusable, r"within 0.3 s \(URL2Image: timeout_seconds\)"),
        ],
    )
    def test_what_is_refused(self, path: str, error: type[Exception], message: str) -> None:
        with FileServer() as server:
            server.serve("/dogs/1.png", plain(1, 2, 3))
            server.serve("/cats/large.png", bytes(6000))
            server.serve("/cats/text.png", b"a cat")
            server.answers["/cats/moved.png"] = lambda sock: sock.sendall(
                response(b"", "302 Found", Location="/dogs/1.png")
            )
            server.answers["/cats/hang.png"] = server.hang
            read = r.URL2Image(f"{server.url}/cats/", timeout_seconds=0.3 if "hang" in path else 30, max_bytes=5000)
            with pytest.raises(error, match=message):
                read(server.url + path)

    def test_a_name_of_a_private_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        private = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
        with pytest.raises(Forbidden, match="which allowed_urls does not name"):
            r.URL2Image("http://pictures.example.com/")("http://pictures.example.com/1.png")


def test_all_of_it_can_be_imported_without_the_libraries_of_the_extra() -> None:
    """As scripts do: `from paddle_serving_app.reader import *`."""
    missing = "import sys; sys.modules.update(dict.fromkeys(['PIL', 'pyclipper', 'tokenizers'])); "
    subprocess.run(
        [sys.executable, "-c", missing + "from pdserver.handlers.reader import *; Sequential, OCRReader"], check=True
    )


def test_a_function_as_an_operator() -> None:
    assert r.Sequential([r.Lambda(lambda img: img + 1), r.Div(2)])(np.ones(3)).tolist() == [1, 1, 1]


def test_operators_of_detection_without_what_is_known() -> None:
    assert r.DetectionResize(8)(PHOTO)[1] is None


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cat.bmp"
    path.write_bytes(encoded(PHOTO, ".bmp"))
    np.testing.assert_array_equal(r.File2Image()(path), PHOTO)
