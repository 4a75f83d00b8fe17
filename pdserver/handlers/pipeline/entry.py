"""The handler that a web service is packed with: what `pdserver.pipeline_service` describes to the server names it."""

from __future__ import annotations

from pdserver.handlers.pipeline.service import PipelineHandler


class WebServiceHandler(PipelineHandler):
    """The loader takes the class that the handler's file itself defines."""
