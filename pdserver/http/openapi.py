"""OpenAPI 3.0 documents, built from a short description of each route."""

from __future__ import annotations

from typing import Any

from pdserver import __version__

Json = dict[str, Any]

ERROR_SCHEMA: Json = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status."},
        "type": {"type": "string", "description": "The kind of error."},
        "message": {"type": "string", "description": "What was wrong, and what is expected."},
    },
}


def document(title: str, paths: dict[str, Json]) -> Json:
    return {
        "openapi": "3.0.1",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR_SCHEMA}},
    }


def operation(
    operation_id: str,
    summary: str,
    responses: dict[int, str],
    *,
    path: dict[str, str] | None = None,
    query: dict[str, tuple[str, str]] | None = None,
    body: Json | None = None,
) -> Json:
    """`path` maps a path parameter to its description, `query` a query parameter to its type and description."""
    parameters = [
        {"in": "path", "name": name, "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in (path or {}).items()
    ]
    parameters += [
        {"in": "query", "name": name, "required": False, "description": text, "schema": {"type": kind}}
        for name, (kind, text) in (query or {}).items()
    ]
    result: Json = {"operationId": operation_id, "summary": summary, "parameters": parameters}
    if body is not None:
        result["requestBody"] = {"content": body}
    result["responses"] = {str(status): _response(status, text) for status, text in responses.items()}
    return result


def _response(status: int, text: str) -> Json:
    if status < 400:
        return {"description": text}
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
