"""Predictions of TorchServe's workflows: /wfpredict/{workflow}."""

from __future__ import annotations

import asyncio

from pdserver.dialects.base import Body, Decode, Headers, Response
from pdserver.dialects.codec import Codec
from pdserver.dialects.torchserve.errors import error_json
from pdserver.dialects.torchserve.rest import TorchServeDoor, workflow_target
from pdserver.engine.catalogue import Catalogue
from pdserver.errors import Kind, ModelNotFound
from pdserver.formats.values import nearest, shown
from pdserver.types import Failure, Outcome, Request


def is_workflow(catalogue: Catalogue, name: str) -> bool:
    return catalogue.knows(name) and "workflow" in catalogue.model(name).default.spec.manifest


def check_workflow(catalogue: Catalogue, name: str) -> None:
    """Raises ModelNotFound."""
    if not is_workflow(catalogue, name):
        known = [model.name for model in catalogue if is_workflow(catalogue, model.name)]
        raise ModelNotFound(f"Workflow not found: {shown(name)}{nearest(name, known)}")


class WorkflowDoor(TorchServeDoor):
    """A workflow is a model that is asked by another URL, too."""

    def __init__(self, codec: Codec, catalogue: Catalogue) -> None:
        super().__init__(codec, workflow_target)
        self._catalogue = catalogue

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        decode_any = super().prepare(target, headers)
        named = workflow_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            check_workflow(self._catalogue, named.model)
            return decode_any(headers, body, request_id)

        return decode

    def encode(self, request: Request, outcome: Outcome) -> Response:
        if isinstance(outcome, Failure) and outcome.kind is Kind.NOT_FOUND:
            body = error_json(404, "WorkflowNotFoundException", outcome.message)
            return Response(404, b"application/json", body)
        return super().encode(request, outcome)
