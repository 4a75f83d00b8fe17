"""Writes the models of the web services here as folders of Paddle Serving.

    python -m tests.web_services.models FOLDER

uci_housing_model   x: 13 floats → price, the sum of x and 0.5
bow, cnn            ids: 3 numbers → prediction, for bow their sum, for cnn twice that
shades              image: 3 channels of any size → means, of each channel
total               x: 2 floats → total, of all rows together, so that requests must not share a run

and stand-ins for those of PaddleClas and PaddleOCR, each for pictures of any size:

imagenet            inputs → prediction, how much of blue, green and red there is
mainbody            image, im_shape, scale_factor → two boxes for each picture, its left and its right half
features            x → features, the means of the channels
textmap             x → save_infer_model/scale_0.tmp_1, how dark each pixel is
letters             x → save_infer_model/scale_0.tmp_1, at each 8th column blank, the channel that is brightest, or none
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from pdarchiver import model, signature

_SERVING_TYPES = {"int64": 0, "float32": 1}


def linear(weights: list[list[float]], bias: float) -> nn.Layer:
    layer = nn.Linear(len(weights), 1)
    layer.weight.set_value(np.array(weights, np.float32))
    layer.bias.set_value(np.array([bias], np.float32))
    return layer


class Sum(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Of whole numbers, so often over."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.weigh = linear([[times]], 0)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.weigh(ids.astype("float32").sum(1, keepdim=True))


class Means(nn.Layer):  # type: ignore[misc]
    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.adaptive_avg_pool2d(image, 1).flatten(1)


class Total(nn.Layer):  # type: ignore[misc]
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x.sum().reshape([1])


class Shares(Means):
    def forward(self, inputs: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.softmax(super().forward(inputs))


class Halves(nn.Layer):  # type: ignore[misc]
    """Rows of class, score, left, top, right and bottom, in the picture as it was. The score is its share of white."""

    def forward(self, image: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor) -> paddle.Tensor:
        size = im_shape / scale_factor
        height, width = size[:, :1], size[:, 1:]
        zero, score = paddle.zeros_like(height), image.mean([1, 2, 3]).reshape([-1, 1])
        left = paddle.concat([zero, score, zero, zero, width / 2 - 1, height - 1], 1)
        right = paddle.concat([zero + 1, score, width / 2, zero, width - 1, height - 1], 1)
        return paddle.stack([left, right], 1).reshape([-1, 6])


class Darkness(nn.Layer):  # type: ignore[misc]
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.sigmoid(-10 * (x.mean(1, keepdim=True) - 1))


class Letters(nn.Layer):  # type: ignore[misc]
    """Of a line from -1 to 1: what is neither bright in one channel nor in others is blank, as the padding is."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        channels = nn.functional.avg_pool2d(x, (32, 8)).squeeze(2).transpose([0, 2, 1])
        blank = paddle.full_like(channels[:, :, :1], 0.2)
        return nn.functional.softmax(10 * paddle.concat([blank, channels], 2))


def save(folder: Path, layer: nn.Layer, spec: InputSpec | list[InputSpec], alias: str) -> None:
    """With the one output under the name `alias`."""
    folder.mkdir(parents=True)
    layer.eval()
    specs = spec if isinstance(spec, list) else [spec]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=specs, full_graph=True), str(folder / "model"))
    described = signature.read(model.find(folder, None).model).signature
    conf = ""
    for kind, found in (("feed", described.inputs), ("fetch", described.outputs)):
        for each in found:
            name = each.name if kind == "feed" else alias
            shape = "".join(f"  shape: {length}\n" for length in each.shape if length > 0)
            conf += (
                f'{kind}_var {{\n  name: "{each.source}"\n  alias_name: "{name}"\n  is_lod_tensor: false\n'
                f"  {kind}_type: {_SERVING_TYPES[each.dtype]}\n{shape}}}\n"
            )
    (folder / "serving_server_conf.prototxt").write_text(conf)


def main(folder: Path) -> None:
    ids = InputSpec([None, 3], "int64", "ids")
    save(folder / "uci_housing_model", linear([[1.0]] * 13, 0.5), InputSpec([None, 13], "float32", "x"), "price")
    save(folder / "bow", Sum(1), ids, "prediction")
    save(folder / "cnn", Sum(2), ids, "prediction")
    save(folder / "shades", Means(), InputSpec([None, 3, None, None], "float32", "image"), "means")
    save(folder / "total", Total(), InputSpec([None, 2], "float32", "x"), "total")

    def pictures(name: str) -> InputSpec:
        return InputSpec([None, 3, None, None], "float32", name)

    pair = [InputSpec([None, 2], "float32", name) for name in ("im_shape", "scale_factor")]
    save(folder / "imagenet", Shares(), pictures("inputs"), "prediction")
    save(folder / "mainbody", Halves(), [pictures("image"), *pair], "save_infer_model/scale_0.tmp_1")
    save(folder / "features", Means(), pictures("x"), "features")
    save(folder / "textmap", Darkness(), pictures("x"), "save_infer_model/scale_0.tmp_1")
    save(folder / "letters", Letters(), pictures("x"), "save_infer_model/scale_0.tmp_1")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
