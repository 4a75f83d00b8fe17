"""Two Ops without models. The first one passes on what it was given, the second one says what has come."""

from typing import Any

from pdserver.pipeline_service import Op, WebService


class FirstOp(Op):
    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((_, given),) = input_dicts.items()
        if given.get("text") == "object":
            given["text"] = object()
        elif given.get("text") == "slow":
            while True:
                pass
        return given, False, None, ""


class SecondOp(Op):
    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((giver, given),) = input_dicts.items()
        if "x" in given:
            given["x"] += 1
        said = {name: f"{type(value).__name__} {value}" for name, value in given.items()}
        return {**said, "from": f"{giver} {log_id}"}, False, None, ""


class PairService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Op:
        return SecondOp("second", [FirstOp("first", [read_op])])


service = PairService("pair")
service.prepare_pipeline_config("config.yml")
service.run_service()
