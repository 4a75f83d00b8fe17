"""The management API's OpenAPI document."""

from __future__ import annotations

from pdserver.http.openapi import Json, document, operation

Query = dict[str, tuple[str, str]]

_NAME = {"model_name": "The model."}
_WORKFLOW = {"workflow_name": "The workflow."}
_VERSIONED = {**_NAME, "model_version": "Its version."}
_REGISTER = {
    "url": ("string", "Required: the file name of an archive in the model store, or a URL that is allowed."),
    "sha256": ("string", "What the archive's bytes must have, in hexadecimal."),
    "model_name": ("string", "The name to serve it under; the archive's own by default."),
    "handler": ("string", "A handler in place of the archive's."),
    "batch_size": ("integer", "Requests that one call of the handler takes at most."),
    "max_batch_delay": ("integer", "Milliseconds that a request waits for its batch to fill."),
    "initial_workers": ("integer", "Workers to start."),
    "synchronous": ("boolean", "Answer when the workers are ready (true, the default) or at once."),
    "response_timeout": ("integer", "Seconds in which a worker must answer a batch."),
    "startup_timeout": ("integer", "Seconds in which a worker must have loaded the model."),
}
_REGISTER_WORKFLOW = {
    "url": ("string", "Required: the file name of an archive in the workflow store, or a URL that is allowed."),
    "sha256": ("string", "What the archive's bytes must have, in hexadecimal."),
    "workflow_name": ("string", "The name to serve it under; the archive's own by default."),
    "response_timeout": ("integer", "Seconds in which a node's worker must answer a batch."),
    "startup_timeout": ("integer", "Seconds in which a node's worker must have loaded its model."),
}
_SCALE = {
    "min_worker": ("integer", "Workers that are kept running; 1 by default."),
    "max_worker": (
        "integer",
        "The model's maxWorkers from now on, which min_worker may not exceed; as it was by default.",
    ),
    "synchronous": ("boolean", "Answer when it is done, or at once (false, the default)."),
}
_LISTED = {200: "A page of them.", 400: "A bad parameter."}
_PAGING = {
    "limit": ("integer", "How many the answer has; 100 by default and at most."),
    "next_page_token": ("integer", "The token of the page before."),
}


_CLUSTER = {
    "copies": ("integer", "On how many nodes the model is; 1 by default, or as it was."),
    "spread": ("string", "Where copies go: `spread` over as many machines as possible (the default), or `packed`."),
}
"""What a cluster takes besides."""
_REPLACE = {
    "replace": ("boolean", "Take the place of the same version; it serves until this one does. false by default."),
}


def management_api(*, model_api: bool, cluster: bool = False) -> Json:
    """The OpenAPI document. With `model_api`, it includes register and unregister; a `cluster` has no workflows."""
    more = _CLUSTER if cluster else {}
    paths: dict[str, Json] = {
        "/models": {"get": operation("listModels", "List the models.", _LISTED, query=_PAGING)},
        "/models/{model_name}": _of_model(_NAME, "", more),
        "/models/{model_name}/{model_version}": _of_model(_VERSIONED, "Version", more),
        "/models/{model_name}/{model_version}/set-default": {
            "put": operation(
                "setDefault",
                "Make a version the default.",
                {200: "Done.", 404: "No such model or version."},
                path=_VERSIONED,
            )
        },
    }
    if model_api:
        _add_changes(paths, more)
    if not cluster:
        paths |= _workflows(model_api=model_api)
    return document(f"pdserver management API{' of a cluster' if cluster else ''}", paths)


def _add_changes(paths: dict[str, Json], more: Query) -> None:
    """Register and unregister."""
    paths["/models"]["post"] = operation(
        "registerModel",
        "Register an archive of the model store.",
        {
            200: "Registered.",
            202: "Registered; the workers start.",
            400: "A bad parameter or archive.",
            404: "No such archive.",
            409: "The version is registered already.",
            500: "The workers could not be started.",
            **({503: "No node has room for it."} if more else {}),
        },
        query=_REGISTER | more | (_REPLACE if more else {}),
    )
    for path, names in (
        ("/models/{model_name}", _NAME),
        ("/models/{model_name}/{model_version}", _VERSIONED),
    ):
        paths[path]["delete"] = operation(
            "unregister" + ("Version" if names is _VERSIONED else ""),
            "Unregister a model.",
            {200: "Gone.", 403: "The default version, while there are others.", 404: "No such model or version."},
            path=names,
        )


def _workflows(*, model_api: bool) -> dict[str, Json]:
    paths: dict[str, Json] = {
        "/workflows": {"get": operation("listWorkflows", "List the workflows.", _LISTED, query=_PAGING)},
        "/workflows/{workflow_name}": {
            "get": operation(
                "describeWorkflow",
                "Describe a workflow.",
                {200: "Its settings and its nodes.", 400: "A bad parameter.", 404: "No such workflow."},
                path=_WORKFLOW,
            )
        },
    }
    if not model_api:
        return paths
    paths["/workflows"]["post"] = operation(
        "registerWorkflow",
        "Register an archive of the workflow store, and wait until all of its nodes serve.",
        {
            200: "Registered.",
            400: "A bad parameter or archive.",
            404: "No such archive.",
            409: "The name is taken.",
            500: "The workers of a node could not be started.",
        },
        query=_REGISTER_WORKFLOW,
    )
    paths["/workflows/{workflow_name}"]["delete"] = operation(
        "unregisterWorkflow",
        "Unregister a workflow and the models that it brought.",
        {200: "Gone.", 400: "A bad parameter.", 404: "No such workflow."},
        path=_WORKFLOW,
    )
    return paths


def _of_model(names: dict[str, str], suffix: str, more: Query) -> Json:
    return {
        "get": operation(
            "describe" + suffix,
            "Describe a model.",
            {200: "Its versions.", 400: "A bad parameter.", 404: "No such model."},
            path=names,
        ),
        "put": operation(
            "scale" + suffix,
            "Set the number of workers.",
            {200: "Done.", 202: "Begun.", 400: "A bad parameter.", 404: "No such model.", 500: "A worker can't load."},
            path=names,
            query=_SCALE | more,
        ),
    }
