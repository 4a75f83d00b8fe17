"""A classifier as PaddleClas serves one, with the imports that it has there: the likeliest label of each picture."""

# mypy: ignore-errors
# It is as users have it, for libraries that are not here.

import base64
from typing import Any

import cv2
import numpy as np
from paddle_serving_app.reader import RGB2BGR, CenterCrop, Div, Normalize, Resize, Sequential, Transpose

try:
    from paddle_serving_server_gpu.web_service import Op, WebService
except ImportError:
    from paddle_serving_server.web_service import Op, WebService


class ImagenetOp(Op):
    def init_op(self) -> None:
        steps = [Resize(40), CenterCrop(32), RGB2BGR(), Transpose((2, 0, 1)), Div(255)]
        self.seq = Sequential([*steps, Normalize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], True)])
        with open("imagenet.label") as lines:
            self.labels = {number: line.strip() for number, line in enumerate(lines)}

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        ((_, given),) = input_dicts.items()
        pictures = []
        for key in given:
            data = np.fromstring(base64.b64decode(given[key].encode("utf8")), np.uint8)
            pictures.append(self.seq(cv2.imdecode(data, cv2.IMREAD_COLOR))[np.newaxis, :].copy())
        return {"inputs": np.concatenate(pictures, axis=0)}, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_dict: Any, data_id: int, log_id: int) -> Any:
        scores = fetch_dict["prediction"].tolist()
        labels = [self.labels[each.index(max(each))] for each in scores]
        return {"label": str(labels), "prob": str([max(each) for each in scores])}, None, ""


class ImageService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Any:
        return ImagenetOp(name="imagenet", input_ops=[read_op])


service = ImageService(name="imagenet")
service.prepare_pipeline_config("config.yml")
service.run_service()
