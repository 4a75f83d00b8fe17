"""Writes what the documentation takes a reader to have: models of the reader's own, as Paddle's toolkits export them.

    python -m tests.page_models FOLDER

writes FOLDER/exported/ (one of its models is an .onnx), a model as code, FOLDER/net.py, and a picture,
FOLDER/street.jpg: blue above red. For Paddle Serving's users, it writes FOLDER/web_service.py and its model,
FOLDER/uci_housing_model. The models are small and know what the pages show: the detector finds channels in a picture,
the segmenter their places, the classifier the words "good" and "bad".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec

from tests import onnx_files
from tests.handlers.models import Detector, Segmenter, save
from tests.web_services import models as serving

NORMALIZE = {"type": "NormalizeImage", "is_scale": True, "norm_type": "none"}
LABELS = ["car", "bicycle", "person"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]


NET = """import paddle


class Net(paddle.nn.Linear):
    def __init__(self):
        super().__init__(13, 1)
"""


class Opinion(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Scores for good and bad: how often each word is there, six times over."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), 2)
        self.words.weight.set_value(np.eye(len(WORDS), dtype=np.float32)[:, -2:] * 6)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.words(ids).sum(1)


def main(folder: Path) -> None:
    exported = folder / "exported"
    rows = InputSpec([None, 13], "float32", "x")
    picture = InputSpec([None, 3, None, None], "float32", "image")
    beside = [InputSpec([None, 2], "float32", name) for name in ("im_shape", "scale_factor")]
    save(exported / "price/inference", nn.Linear(13, 1), rows)
    save(exported / "street/model", Detector("counted"), picture, *beside)
    save(exported / "road/model", Segmenter(argmax=True), picture)
    save(exported / "film/model", Opinion(), InputSpec([None, None], "int64", "input_ids"))

    onnx_files.linear(exported / "scale.onnx", np.array([[1.0], [2.0]], np.float32))

    detection = {"Preprocess": [NORMALIZE, {"type": "Permute"}], "label_list": LABELS, "draw_threshold": 0.3}
    (exported / "street/infer_cfg.yml").write_text(yaml.safe_dump({"mode": "paddle", "arch": "YOLO", **detection}))
    (exported / "road/index_to_name.json").write_text(json.dumps({"0": "road", "1": "grass", "2": "sky"}))
    (exported / "road/deploy.yaml").write_text(yaml.safe_dump({"Deploy": {"transforms": []}}))
    (exported / "film/index_to_name.json").write_text(json.dumps({"0": "good", "1": "bad"}))
    (exported / "film/vocab.txt").write_text("\n".join(WORDS))

    with np.load(Path(__file__).with_name("torch_weights.npz")) as recorded:
        weights = {name: value for name, value in recorded.items() if not name.startswith("asked.")}
    np.savez(folder / "weights.npz", **weights)

    (folder / "net.py").write_text(NET)
    paddle.save(nn.Linear(13, 1).state_dict(), str(folder / "net.pdparams"))
    (folder / "net.yaml").write_text(yaml.safe_dump({"eager": {"inputs": [{"name": "x", "shape": [-1, 13]}]}}))

    serving.save(folder / "uci_housing_model", serving.linear([[1.0]] * 13, 0.5), rows, "price")
    script = (Path(serving.__file__).parent / "uci.py").read_text()
    (folder / "web_service.py").write_text(
        script.replace("pdserver.pipeline_service", "paddle_serving_server.web_service")
    )

    pixels = np.zeros((80, 64, 3), np.uint8)
    pixels[:32], pixels[32:] = (255, 0, 0), (0, 0, 255)
    cv2.imwrite(str(folder / "street.jpg"), pixels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
