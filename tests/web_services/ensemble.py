"""Two models joined, with the lower classes: requests are taken apart and answers packed by the service itself."""

import sys
from typing import Any

import numpy as np

from pdserver.pipeline_service import (
    ChannelDataErrcode,
    CustomException,
    CustomExceptionCode,
    Op,
    PipelineResponse,
    PipelineServer,
    RequestOp,
    ResponseOp,
)


class WordsRequestOp(RequestOp):
    def init_op(self) -> None:
        self.vocabulary = {"bad": 1, "good": 10}

    def unpack_request_package(self, request: Any) -> Any:
        given = {}
        for i, key in enumerate(request.key):
            if key == "words":
                ids = [self.vocabulary.get(word, 0) for word in request.value[i].split()]
                given["ids"] = np.array(ids).reshape(1, 3)
        if not given:
            raise CustomException(CustomExceptionCode.INPUT_PARAMS_ERROR, "there are no words", True)
        return given, request.logid, None, ""


class CombineOp(Op):
    def preprocess(self, input_data: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        both = {name: data["prediction"] for name, data in input_data.items()}
        assert both.keys() == {"bow", "cnn"}
        return {"prediction": sum(both.values()) / 2, "log_id": np.array(log_id)}, False, None, ""


class AnswerOp(ResponseOp):
    def pack_response_package(self, channeldata: Any) -> PipelineResponse:
        response = PipelineResponse()
        response.err_no = channeldata.error_code
        if response.err_no == ChannelDataErrcode.OK.value:
            for name, value in channeldata.parse().items():
                response.value.append(repr(value))
                response.key.append(name)
        else:
            response.err_msg = channeldata.error_info
        return response


read_op = WordsRequestOp()
bow_op = Op(name="bow", input_ops=[read_op], batch_size=2, auto_batching_timeout=None)
cnn_op = Op(name="cnn", input_ops=[read_op], fetch_list=["prediction"], concurrency=1, timeout=-1, retry=1)
combine_op = CombineOp(name="combine", input_ops=[bow_op, cnn_op])
server = PipelineServer("ensemble")
server.set_response_op(AnswerOp(input_ops=[combine_op]))
server.prepare_server(sys.argv[1])
server.run_server()
