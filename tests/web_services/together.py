"""Says how many rows each run of the model had. One request is a product's error, one raises, one has several small
batches, one goes past the model."""

from enum import Enum
from typing import Any

import numpy as np

from pdserver.pipeline_service import Op, WebService


class Refused(Enum):
    NEGATIVE = 51


class TogetherOp(Op):
    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((_, given),) = input_dicts.items()
        text = given["x"]
        if text == "past":
            return {"price": np.zeros(1)}, True, None, ""
        if text.startswith("-"):
            return None, False, Refused.NEGATIVE, f"{text} is negative"
        if text == "odd":
            return {"y": np.ones((1, 13))}, False, None, ""
        batches = [{"x": np.full((len(rows), 13), float(rows[0]))} for rows in text.split(";")]
        return batches if ";" in text else batches[0], False, None, ""

    def process(self, feed_batch: Any, typical_logid: int = 0) -> Any:
        fetched, number, text = super().process(feed_batch, typical_logid)
        fetched["together"] = np.full_like(fetched["price"], len(fetched["price"]))
        return fetched, number, text

    def postprocess(self, input_dicts: Any, fetch_data: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        if isinstance(fetch_data, list):
            return {"prices": str([data["price"].ravel().tolist() for data in fetch_data])}, None, ""
        return fetch_data, None, ""


class TogetherService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Op:
        return TogetherOp(name="together", input_ops=[read_op])


service = TogetherService(name="together")
service.prepare_pipeline_config("config.yml")
service.run_service()
