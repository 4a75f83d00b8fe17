"""Videos → what PP-TSN takes. These operators hand on a dictionary: `filename` → `frames` → `imgs`.

Pictures are uint8 [height, width, 3], red, green, blue, where paddle_serving_app has Pillow's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.reader.checks import are_numbers, check, is_whole
from pdserver.handlers.reader.images import BGR2RGB, File2Image
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.vision import operations
from pdserver.handlers.vision.image_settings import USUAL_MAX_PIXELS

Results: TypeAlias = dict[str, Any]
_DENSE_FRAMES = 64
"""The frames that a dense sample is taken from."""
_DENSE_STARTS = 10


@dataclass(frozen=True)
class VideoDecoder:
    """The file `filename` → `frames`, their number `frames_len`, and `format` "video". Never a path from a client.

    OpenCV decodes. The arguments after `backend` have a meaning for other backends, and none here.
    """

    backend: Literal["cv2"] = "cv2"
    mode: str = "train"
    sampling_rate: int = 32
    num_seg: int = 8
    num_clips: int = 1
    target_fps: int = 30
    max_pixels: int = 1 << 29
    """Of all frames together, three bytes each."""

    def __post_init__(self) -> None:
        check(self.backend == "cv2", self, "backend", self.backend, "cv2")

    def __call__(self, results: Results) -> Results:
        """Raises InvalidRequest for a file that is no video, and for one of too many pixels."""
        capture = cv2.VideoCapture(str(results["filename"]))
        frames: list[Array] = []
        pixels = 0
        try:
            while (read := capture.read())[0]:
                pixels += read[1].shape[0] * read[1].shape[1]
                if pixels > self.max_pixels:
                    raise InvalidRequest(f"the video has more than {self.max_pixels:,} pixels in all its frames")
                frames.append(BGR2RGB()(read[1]))
        finally:
            capture.release()
        if not frames:
            raise InvalidRequest("expected a video that OpenCV can decode")
        return results | {"format": "video", "backend": "cv2", "frames": frames, "frames_len": len(frames)}


@dataclass(frozen=True)
class Sampler:
    """Some of the frames → `imgs`: `num_seg` segments of the video, and `seg_len` neighbours from each.

    `valid_mode`: always the same ones; otherwise the segments' frames are chosen at random. For `format` "frame", the
    frames are files: `frame_dir` and `suffix`, such as "{:05}.jpg", which are counted from 1. `use_pil` is taken and
    does nothing.
    """

    num_seg: int
    seg_len: int
    frame_interval: int | None = None
    """Between neighbours; the segments then overlap where the video is short."""
    valid_mode: bool = False
    select_left: bool = False
    """One frame from the middle of each segment, which may have a fraction of a frame as its length."""
    dense_sample: bool = False
    """From 64 frames at one place, or at ten with `valid_mode`."""
    linspace_sample: bool = False
    """At equal distances from the first to the last, or from `start_idx` to `end_idx`."""
    use_pil: bool = True

    def __post_init__(self) -> None:
        check(is_whole(self.num_seg), self, "num_seg", self.num_seg, "a number of segments")
        check(is_whole(self.seg_len), self, "seg_len", self.seg_len, "a number of frames")
        interval = self.frame_interval
        check(interval is None or is_whole(interval), self, "frame_interval", interval, "a number of frames")

    def __call__(self, results: Results) -> Results:
        frames = int(results["frames_len"])
        chosen = [i % frames for i in self._indices(frames, results)]
        kind = results.get("format")
        if kind == "video":
            imgs = [results["frames"][i] for i in chosen]
        elif kind == "frame":
            folder, suffix = Path(results["frame_dir"]), results["suffix"]
            imgs = [BGR2RGB()(File2Image()(folder / suffix.format(i + 1))) for i in chosen]
        else:
            raise ValueError(f'Sampler: results["format"]={kind!r}: expected video or frame')
        return results | {"imgs": imgs}

    def _indices(self, frames: int, results: Results) -> list[int]:
        if self.frame_interval is not None:
            starts = self._clips(frames, self.frame_interval)
            return [int(start) + i * self.frame_interval for start in starts for i in range(self.seg_len)]
        if self.linspace_sample:
            places = np.linspace(results.get("start_idx", 0), results.get("end_idx", frames - 1), self.num_seg)
            return [int(place) for place in np.clip(places, 0, frames - 1)]
        if self.select_left:
            return self._left(frames)
        return self._dense(frames) if self.dense_sample else self._segments(frames)

    def _clips(self, frames: int, interval: int) -> Array:
        room = frames - self.seg_len * interval + 1
        if self.valid_mode:
            between = room / self.num_seg
            return (np.arange(self.num_seg) * between + between / 2 if room > 0 else np.zeros(self.num_seg)).astype(int)
        between = room // self.num_seg
        if between > 0:
            return np.arange(self.num_seg) * between + _random(between, self.num_seg)
        if frames > max(self.num_seg, self.seg_len * interval):
            return np.sort(_random(room, self.num_seg))
        return np.around(np.arange(self.num_seg) * (max(0, room) / self.num_seg))

    def _left(self, frames: int) -> list[int]:
        segment = frames / self.num_seg
        if self.valid_mode:
            return [int(segment / 2 + segment * i) if segment > 1 else 0 for i in range(self.num_seg)]
        if frames >= self.num_seg:
            length = frames // self.num_seg
            return [int(i) for i in np.arange(self.num_seg) * length + _random(length, self.num_seg)]
        return [0] * self.num_seg

    def _dense(self, frames: int) -> list[int]:
        last, step = max(0, frames - _DENSE_FRAMES), _DENSE_FRAMES // self.num_seg
        if self.valid_mode:
            starts = np.linspace(0, last, num=_DENSE_STARTS, dtype=int).tolist()
        else:
            starts = _random(max(1, last), 1).tolist()
        return [start + i * step for start in starts for i in range(self.num_seg)]

    def _segments(self, frames: int) -> list[int]:
        length = frames // self.num_seg
        spare = length - self.seg_len
        found: list[int] = []
        for i in range(self.num_seg):
            begin = i * max(1, length)
            if spare >= 0:
                begin += (length - 1) // 2 if self.valid_mode else int(_random(spare + 1, 1)[0])
            found += range(begin, begin + self.seg_len)
        return found


@dataclass(frozen=True)
class Scale:
    """`imgs` resized: the shorter side gets `short_size`, the longer one 4/3 of it with `fixed_ratio`, else the same.

    `keep_ratio`, without `fixed_ratio`: in proportion, with `do_round`. Without `do_round`, the height is multiplied by
    `short_size` ÷ width and the width by `short_size` ÷ height, as in the training of the models. `backend` "pillow"
    needs that library.
    """

    short_size: int
    fixed_ratio: bool = True
    keep_ratio: bool | None = None
    do_round: bool = False
    backend: Literal["pillow", "cv2"] = "pillow"

    def __post_init__(self) -> None:
        check(is_whole(self.short_size), self, "short_size", self.short_size, "a length")
        both = bool(self.fixed_ratio and self.keep_ratio)
        check(not both, self, "keep_ratio", self.keep_ratio, "False where fixed_ratio is True")
        check(self.backend in ("pillow", "cv2"), self, "backend", self.backend, "pillow or cv2")
        self._resizer()

    def __call__(self, results: Results) -> Results:
        return results | {"imgs": [self._scaled(img) for img in results["imgs"]]}

    def _scaled(self, img: Array) -> Array:
        height, width = img.shape[:2]
        new_height, new_width = (max(1, length) for length in self._size(height, width))
        scale = new_height / height, new_width / width
        operations.check_growth(height, width, scale, USUAL_MAX_PIXELS)
        return self._resizer()(img, *scale)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        short = self.short_size
        if not self.fixed_ratio and self.keep_ratio:
            if self.do_round:
                scale = short / min(height, width)
                return int(height * scale + 0.5), int(width * scale + 0.5)
            return int(height * short / width), int(width * short / height)
        long = int(short * 4.0 / 3.0) if self.fixed_ratio else short
        return (long, short) if width <= height else (short, long)

    def _resizer(self) -> operations.Resizer:
        return operations.resizer("pil" if self.backend == "pillow" else "cv2", "linear")


@dataclass(frozen=True)
class CenterCrop:
    """A square of `target_size` from the centre of each of `imgs`; `do_round`: its corner at the nearest pixel."""

    target_size: int
    do_round: bool = True
    backend: str = "pillow"
    """Is taken and does nothing."""

    def __post_init__(self) -> None:
        check(is_whole(self.target_size), self, "target_size", self.target_size, "a length")

    def __call__(self, results: Results) -> Results:
        """Raises InvalidRequest for a smaller picture."""
        size = self.target_size
        cropped = []
        for img in results["imgs"]:
            height, width = img.shape[:2]
            _check_size(img, size)
            top, left = self._corner(height - size), self._corner(width - size)
            cropped.append(img[top : top + size, left : left + size])
        return results | {"imgs": cropped}

    def _corner(self, room: int) -> int:
        return round(room / 2) if self.do_round else room // 2


@dataclass(frozen=True)
class TenCrop:
    """Of all `imgs` the corners top left, top right, bottom left and bottom right, and the middle; each followed by the
    same mirrored."""

    target_size: int

    def __post_init__(self) -> None:
        check(is_whole(self.target_size), self, "target_size", self.target_size, "a length")

    def __call__(self, results: Results) -> Results:
        """Raises InvalidRequest for a smaller picture."""
        imgs, size = results["imgs"], self.target_size
        for img in imgs:
            _check_size(img, size)
        height, width = imgs[0].shape[:2]
        down, right = (height - size) // 4, (width - size) // 4
        cropped: list[Array] = []
        for top, left in ((0, 0), (0, 4 * right), (4 * down, 0), (4 * down, 4 * right), (2 * down, 2 * right)):
            crops = [img[top : top + size, left : left + size] for img in imgs]
            cropped += [*crops, *(crop[:, ::-1] for crop in crops)]
        return results | {"imgs": cropped}


@dataclass(frozen=True)
class Image2Array:
    """`imgs` as one array, float32: `data_format` "tchw" is [pictures, 3, height, width], "cthw" has the first two
    axes the other way round. Without `transpose` [pictures, height, width, 3]."""

    transpose: bool = True
    data_format: Literal["tchw", "cthw"] = "tchw"

    def __post_init__(self) -> None:
        check(self.data_format in ("tchw", "cthw"), self, "data_format", self.data_format, "tchw or cthw")

    def __call__(self, results: Results) -> Results:
        imgs = np.stack(results["imgs"]).astype(np.float32)
        if self.transpose:
            imgs = imgs.transpose((0, 3, 1, 2) if self.data_format == "tchw" else (3, 0, 1, 2))
        return results | {"imgs": imgs}


@dataclass(frozen=True)
class Normalization:
    """`imgs` ÷ 255, minus `mean`, divided by `std` → float32. The two get the shape `tensor_shape` for that.

    `inplace`: `imgs` are pictures [height, width, channels], and are not divided by 255.
    """

    mean: Sequence[float]
    std: Sequence[float]
    tensor_shape: Sequence[int] = (3, 1, 1)
    inplace: bool = False

    def __post_init__(self) -> None:
        check(are_numbers(self.mean), self, "mean", self.mean, "a number for each channel")
        valid = are_numbers(self.std) and len(self.std) == len(self.mean) and all(self.std)
        check(valid, self, "std", self.std, f"{len(self.mean)} numbers other than 0, as many as mean has")
        valid = self.inplace or np.prod(self.tensor_shape) == len(self.mean)
        check(bool(valid), self, "tensor_shape", self.tensor_shape, f"a shape of {len(self.mean)} numbers")

    def __call__(self, results: Results) -> Results:
        shape, scale = ((-1,), 1.0) if self.inplace else (tuple(self.tensor_shape), 255.0)
        mean, std = (np.array(numbers, np.float32).reshape(shape) for numbers in (self.mean, self.std))
        imgs = np.asarray(results["imgs"], np.float32)
        return results | {"imgs": (imgs / np.float32(scale) - mean) / std}


def _random(below: int, count: int) -> Array:
    return np.random.default_rng().integers(0, below, count)


def _check_size(img: Array, size: int) -> None:
    height, width = img.shape[:2]
    if height < size or width < size:
        raise InvalidRequest(f"the video has {width}×{height} pixels; at least {size}×{size} are needed")
