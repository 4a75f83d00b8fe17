"""Text as PaddleOCR serves it: find lines, cut them out, read them in small batches of up to six. Both Ops keep in
`self` what `postprocess` needs."""

# mypy: ignore-errors
# It is as users have it, for libraries that are not here.

import base64
import copy
from typing import Any

import cv2
import numpy as np
from paddle_serving_app.reader import (
    DBPostProcess,
    Div,
    FilterBoxes,
    GetRotateCropImage,
    Normalize,
    OCRReader,
    ResizeByFactor,
    Sequential,
    SortedBoxes,
    Transpose,
)
from paddle_serving_server.web_service import Op, WebService

AT_ONCE = 6


class DetOp(Op):
    def init_op(self) -> None:
        normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.det_preprocess = Sequential([ResizeByFactor(32, 960), Div(255), normalize, Transpose((2, 0, 1))])
        self.filter_func = FilterBoxes(10, 10)
        settings = {"thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.0, "min_size": 3}
        self.post_func = DBPostProcess(settings)

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        ((_, given),) = input_dicts.items()
        data = base64.b64decode(given["image"].encode("utf8"))
        self.raw_im = data
        picture = cv2.imdecode(np.fromstring(data, np.uint8), cv2.IMREAD_COLOR)
        self.ori_h, self.ori_w, _ = picture.shape
        prepared = self.det_preprocess(picture)
        _, self.new_h, self.new_w = prepared.shape
        return {"x": prepared[np.newaxis, :].copy()}, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_dict: Any, data_id: int, log_id: int) -> Any:
        found = fetch_dict["save_infer_model/scale_0.tmp_1"]
        ratios = [float(self.new_h) / self.ori_h, float(self.new_w) / self.ori_w]
        boxes = self.filter_func(self.post_func(found, [ratios])[0], [self.ori_h, self.ori_w])
        return {"dt_boxes": boxes, "image": self.raw_im}, None, ""


class RecOp(Op):
    def init_op(self) -> None:
        self.ocr_reader = OCRReader(char_dict_path="keys.txt")
        self.get_rotate_crop_image = GetRotateCropImage()
        self.sorted_boxes = SortedBoxes()

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        ((_, given),) = input_dicts.items()
        picture = cv2.imdecode(np.frombuffer(given["image"], np.uint8), cv2.IMREAD_COLOR)
        self.dt_list = self.sorted_boxes(given["dt_boxes"])
        boxes = copy.deepcopy(self.dt_list)
        lines = [self.get_rotate_crop_image(picture, box) for box in boxes]
        feeds = []
        for start in range(0, len(lines), AT_ONCE):
            some = lines[start : start + AT_ONCE]
            ratio = max(line.shape[1] / line.shape[0] for line in some)
            feeds.append({"x": np.stack([self.ocr_reader.resize_norm_img(line, ratio) for line in some])})
        return feeds, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:
        read = []
        for batch in [fetch_data] if isinstance(fetch_data, dict) else fetch_data:
            read += self.ocr_reader.postprocess_ocrv2(batch, with_score=True)
        pairs = zip(read, self.dt_list, strict=True)
        return {"result": str([[text, box.tolist()] for text, box in pairs])}, None, ""


class OcrService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Any:
        return RecOp(name="rec", input_ops=[DetOp(name="det", input_ops=[read_op])])


service = OcrService(name="ocr")
service.prepare_pipeline_config("config.yml")
service.run_service()
