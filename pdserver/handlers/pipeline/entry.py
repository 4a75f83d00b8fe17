"""The handlers that a web service is packed with: the server is told of them by `pdserver.pipeline_service`."""

from __future__ import annotations

from pdserver.handlers.pipeline.service import OpHandler as OpHandler
from pdserver.handlers.pipeline.service import PipelineHandler


class WebServiceHandler(PipelineHandler):
    """The loader takes the class that the handler's file itself defines, unless a name is given."""
