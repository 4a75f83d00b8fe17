"""TorchServe's API for workflows over REST: register, list, describe, unregister."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.configuration.layers import parse_parameters
from pdserver.errors import InvalidRequest, ModelNotFound
from pdserver.http.asgi import note_change
from pdserver.management.rest import answer, parameters
from pdserver.management.verbs import check_known, page, refuse_s3, sha256_of
from pdserver.security.access import MANAGEMENT
from pdserver.security.routes import Route
from pdserver.workflows.workflows import Registered, Workflows

_REGISTER = frozenset({"url", "workflow_name", "response_timeout", "startup_timeout", "s3_sse_kms", "sha256"})
_NONE = frozenset[str]()


class WorkflowManagement:
    """The routes. Those that register and unregister are there with `enable_model_api` alone, as those of models."""

    def __init__(self, workflows: Workflows, *, enable_model_api: bool) -> None:
        self._workflows = workflows
        self._enable_model_api = enable_model_api

    def routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/workflows", self.list, MANAGEMENT),
            Route("/workflows/{name}", self.describe, MANAGEMENT),
        ]
        if self._enable_model_api:
            routes += [
                Route("/workflows", self.register, MANAGEMENT, ["POST"]),
                Route("/workflows/{name}", self.unregister, MANAGEMENT, ["DELETE"]),
            ]
        return routes

    async def register(self, request: Request) -> Response:
        given = await parameters(request)
        check_known(given, _REGISTER)
        url = given.get("url")
        if not url:
            raise InvalidRequest("Parameter url is required: the file name of an archive in the workflow store.")
        refuse_s3(given)
        workflow = await self._workflows.register(
            url,
            name=given.get("workflow_name") or None,
            sha256=sha256_of(given),
            settings=parse_parameters(given, "request"),
        )
        return _said(request, f"Workflow {workflow.name} has been registered and scaled successfully.")

    async def unregister(self, request: Request) -> Response:
        check_known(await parameters(request), _NONE)
        name = request.path_params["name"]
        try:
            await self._workflows.unregister(name)
        except ModelNotFound as error:
            return _not_found(error)
        return _said(request, f'Workflow "{name}" unregistered')

    async def list(self, request: Request) -> Response:
        listed = [{"workflowName": each.name, "workflowUrl": each.url} for each in self._workflows]
        return answer(page(await parameters(request), "workflows", listed))

    async def describe(self, request: Request) -> Response:
        check_known(await parameters(request), _NONE)
        try:
            return answer([_described(self._workflows.get(request.path_params["name"]))])
        except ModelNotFound as error:
            return _not_found(error)


def _said(request: Request, change: str) -> Response:
    note_change(request, change)
    return answer({"status": change})


def _not_found(error: ModelNotFound) -> Response:
    """As TorchServe words it: in the terms of models, its type would be another."""
    return answer({"code": 404, "type": "WorkflowNotFoundException", "message": str(error)}, 404)


def _described(registered: Registered) -> dict[str, Any]:
    """Source: TorchServe 0.12, DescribeWorkflowResponse.java."""
    workflow = registered.workflow
    settings = workflow.settings
    dag = ", ".join(f"{node}=[{', '.join(following)}]" for node, following in workflow.dag.items())
    return {
        "workflowName": registered.name,
        "workflowUrl": registered.url,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay,
        "workflowDag": f"{{{dag}}}",
    }
