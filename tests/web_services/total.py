"""A model whose output is no row for each row: no two requests may share a run of it, whatever config.yml says."""

from typing import Any

import numpy as np

from pdserver.pipeline_service import Op, WebService


class TotalOp(Op):
    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((_, given),) = input_dicts.items()
        return {"x": np.full((1, 2), float(given["x"]))}, False, None, ""


class TotalService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Op:
        return TotalOp(name="total", input_ops=[read_op])


service = TotalService(name="total")
service.prepare_pipeline_config("config.yml")
service.run_service()
