"""A picture in base64, classes from a file beside the script's folder, a helper from beside the script, and options
that replace config.yml's. The hook for the answer is as before Paddle Serving 0.7."""

from typing import Any

import numpy as np
from channels import names  # type: ignore[import-untyped]

from pdserver.handlers.reader import Base64ToImage, Sequential, Transpose
from pdserver.pipeline_service import ArgsParser, Op, WebService


class ShadesOp(Op):
    prepare = Sequential([Base64ToImage(), Transpose((2, 0, 1))])

    def init_op(self) -> None:
        with open("classes.txt") as file:
            self.classes = names(file.read())

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((_, input_dict),) = input_dicts.items()
        pictures = [self.prepare(text) for text in input_dict.values()]
        return {"image": np.stack(pictures).astype("float32")}, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_dict: Any, log_id: int) -> Any:  # type: ignore[override]
        best = fetch_dict["means"].argmax(1)
        return {"label": str([self.classes[i] for i in best])}, None, ""


class ShadesService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Op:
        return ShadesOp(name="shades", input_ops=[read_op])


if __name__ == "__main__":
    service = ShadesService(name="shades")
    service.prepare_pipeline_config(yml_dict=ArgsParser().parse_args().conf_dict)
    service.run_service()
