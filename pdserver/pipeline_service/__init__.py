"""Paddle Serving's web services with one changed import: `from pdserver.pipeline_service import WebService, Op`.

Where `paddle_serving_app` is not installed, imports behind this one find its operators here. Importing this does not
import Paddle: the workers run the Ops and their models.
"""

from pdserver.handlers.pipeline import old_numpy
from pdserver.handlers.pipeline.failures import CustomException, CustomExceptionCode, ProductErrCode
from pdserver.handlers.pipeline.op import ChannelData, Op, PipelineRequest, PipelineResponse, RequestOp, ResponseOp
from pdserver.pipeline_service.arguments import ArgsParser
from pdserver.pipeline_service.modules import put_app_unless_installed
from pdserver.pipeline_service.service import PipelineServer, WebService

old_numpy.restore()
put_app_unless_installed()

ChannelDataErrcode = CustomExceptionCode
"""Paddle Serving has both names."""

__all__ = [
    "ArgsParser",
    "ChannelData",
    "ChannelDataErrcode",
    "CustomException",
    "CustomExceptionCode",
    "Op",
    "PipelineRequest",
    "PipelineResponse",
    "PipelineServer",
    "ProductErrCode",
    "RequestOp",
    "ResponseOp",
    "WebService",
]
