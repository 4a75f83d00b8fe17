"""PP-ShiTu as PaddleClas serves it: detect, embed what was found and the whole picture, look each up in an index, keep
the best of those that overlap. Both Ops keep in `self` what `postprocess` needs. The index is NumPy's."""

# mypy: ignore-errors
# It is as users have it, for libraries that are not here.

import argparse
import base64
import json
from typing import Any

import cv2
import numpy as np
from paddle_serving_app.reader import BGR2RGB, Div, Normalize, RCNNPostprocess, Resize, Sequential, Transpose
from paddle_serving_server.web_service import Op, WebService

SIDE = 64


class DetOp(Op):
    def init_op(self) -> None:
        self.img_preprocess = Sequential([BGR2RGB(), Div(255.0), Resize((SIDE, SIDE)), Transpose((2, 0, 1))])
        self.img_postprocess = RCNNPostprocess("label_list.txt", "output")
        self.threshold = 0.2

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        ((_, given),) = input_dicts.items()
        self.raw_img = []
        fed: dict[str, list[Any]] = {"image": [], "im_shape": [], "scale_factor": []}
        for key in given:
            data = base64.b64decode(given[key].encode("utf8"))
            self.raw_img.append(data)
            picture = cv2.imdecode(np.fromstring(data, np.uint8), cv2.IMREAD_COLOR)
            height, width = picture.shape[:2]
            prepared = self.img_preprocess(picture)
            fed["image"].append(prepared)
            fed["im_shape"].append(np.array(prepared.shape[1:]).reshape(-1))
            fed["scale_factor"].append(np.array([SIDE / float(height), SIDE / float(width)]))
        return {name: np.stack(arrays) for name, arrays in fed.items()}, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_dict: Any, data_id: int, log_id: int) -> Any:
        boxes = self.img_postprocess(fetch_dict, visualize=False)
        boxes.sort(key=lambda box: box["score"], reverse=True)
        boxes = [box for box in boxes[:5] if box["score"] >= self.threshold]
        for box in boxes:
            box["bbox"][2] += box["bbox"][0] - 1
            box["bbox"][3] += box["bbox"][1] - 1
        return {"bbox_result": json.dumps(boxes), "image": self.raw_img}, None, ""


class RecOp(Op):
    def init_op(self) -> None:
        self.seq = Sequential(
            [BGR2RGB(), Resize((32, 32)), Div(255), Normalize([0, 0, 0], [1, 1, 1], False), Transpose((2, 0, 1))]
        )
        self.gallery = np.eye(3, dtype="float32")
        self.id_map = {0: "0 red", 1: "1 green", 2: "2 blue"}
        self.rec_score_thres = 0.5

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:
        ((_, given),) = input_dicts.items()
        raw = given["image"][0] if args.det else base64.b64decode(given["image"].encode("utf8"))
        picture = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        boxes = json.loads(given.get("bbox_result", "[]"))
        boxes.append({"category_id": 0, "score": 1.0, "bbox": [0, 0, picture.shape[1], picture.shape[0]]})
        self.det_boxes = boxes
        crops = []
        for box in boxes:
            left, top, right, bottom = (int(place) for place in box["bbox"])
            crops.append(self.seq(picture[top:bottom, left:right].copy())[np.newaxis, :].copy())
        return {"x": np.concatenate(crops, axis=0)}, False, None, ""

    def search(self, features: Any) -> tuple[Any, Any]:
        scores = features @ self.gallery.T
        return scores.max(axis=1, keepdims=True), scores.argmax(axis=1)[:, None]

    def postprocess(self, input_dicts: Any, fetch_dict: Any, data_id: int, log_id: int) -> Any:
        features = fetch_dict["features"]
        features = np.divide(features, np.sqrt(np.sum(np.square(features), axis=1, keepdims=True)))
        scores, docs = self.search(features)
        results = []
        for i in range(scores.shape[0]):
            if scores[i][0] >= self.rec_score_thres:
                bbox = [int(place) for place in self.det_boxes[i]["bbox"]]
                results.append(
                    {"bbox": bbox, "rec_docs": self.id_map[docs[i][0]].split()[1], "rec_scores": scores[i][0]}
                )
        results.sort(key=lambda found: found["rec_scores"], reverse=True)
        kept: list[Any] = []
        for found in results:
            if all(overlap(found["bbox"], other["bbox"]) < 0.05 for other in kept):
                kept.append(found)
        return {"result": str(kept)}, None, ""


def overlap(one: list[int], other: list[int]) -> float:
    """Of two boxes, the share of their union that is in both."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, wide) * max(0, high)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


class RecognitionService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Any:
        if not args.det:
            return RecOp(name="rec", input_ops=[read_op])
        return RecOp(name="rec", input_ops=[DetOp(name="det", input_ops=[read_op])])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", type=str, default="config.yml")
    parser.add_argument("--det", type=lambda text: text.lower() in ("yes", "true", "1"), default=True)
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    service = RecognitionService(name="recognition")
    service.prepare_pipeline_config(args.config)
    service.run_service()
