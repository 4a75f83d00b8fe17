"""Requests over HTTP to a node that lacks the model."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from tests.peers.nodes import Node

NUMBERS = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}]}
GENERAL = {
    "tensor": [{"float_data": [0.5, 1.5], "elem_type": 1, "shape": [1, 2]}],
    "feed_var_names": ["x"],
    "fetch_var_names": ["y"],
}
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "torchserve": ("POST", "/predictions/mirror", b"abc"),
    "torchserve, a version": ("POST", "/predictions/mirror/1.0", b"abc"),
    "torchserve, unknown version": ("POST", "/predictions/mirror/1", b"abc"),
    "torchserve, PUT": ("PUT", "/predictions/mirror", b"abc"),
    "torchserve, no body": ("POST", "/predictions/mirror", b""),
    "explanations": ("POST", "/explanations/mirror", b"abc"),
    "sagemaker": ("POST", "/models/mirror/invoke", b"abc"),
    "invocations": ("POST", "/invocations?model_name=mirror", b"abc"),
    "openapi": ("OPTIONS", "/predictions/mirror", None),
    "oip": ("POST", "/v2/models/only_b/infer", NUMBERS),
    "oip, a version": ("POST", "/v2/models/only_b/versions/1.0/infer", NUMBERS),
    "oip, wrong input": ("POST", "/v2/models/only_b/infer", {"inputs": []}),
    "oip, ready": ("GET", "/v2/models/only_b/ready", None),
    "oip, metadata": ("GET", "/v2/models/only_b", None),
    "oip, HEAD": ("HEAD", "/v2/models/only_b", None),
    "oip, config": ("GET", "/v2/models/only_b/versions/1.0/config", None),
    "generate": ("POST", "/v2/models/only_b/generate", {"x": [1.0, 2.0]}),
    "tensorflow": ("POST", "/v1/models/only_b:predict", {"inputs": {"x": [[0.5, 1.5]]}}),
    "tensorflow, a version": ("POST", "/v1/models/only_b/versions/1:predict", {"inputs": {"x": [[0.5, 1.5]]}}),
    "tensorflow, status": ("GET", "/v1/models/only_b", None),
    "tensorflow, status of a version": ("GET", "/v1/models/only_b/versions/1", None),
    "tensorflow, metadata": ("GET", "/v1/models/only_b/metadata", None),
    "paddle, general": ("POST", "/only_b/GeneralModelService/inference", GENERAL),
    "paddle, pipeline": ("POST", "/only_b/prediction", {"key": ["x"], "value": ["[[1.0, 2.0]]"]}),
    "paddle, another method": ("POST", "/only_b/anything", {"key": ["x"], "value": ["[[1.0, 2.0]]"]}),
}


def asked(node: Node, method: str, path: str, body: Any, **headers: str) -> requests.Response:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    return requests.request(
        method, node.server.inference + path, data=data, headers={"x-request-id": "mine", **headers}, timeout=60
    )


def seen(answer: requests.Response) -> tuple[Any, ...]:
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() != "date"}
    content = re.sub(rb'"profile_time":\[[0-9]+,[0-9]+\]', b"", answer.content)
    return answer.status_code, answer.reason, content, headers


@pytest.mark.parametrize("name", [name for name in REQUESTS if "only_b" in REQUESTS[name][1]])
def test_front_ends_pass_requests_on(nodes: dict[str, Node], name: str) -> None:
    assert seen(asked(nodes["c"], *REQUESTS[name])) == seen(asked(nodes["b"], *REQUESTS[name]))


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_are_those_of_the_node_that_has_the_model(nodes: dict[str, Node], name: str) -> None:
    expected = asked(nodes["b"], *REQUESTS[name])
    assert seen(asked(nodes["a"], *REQUESTS[name])) == seen(expected)
    assert "pd-lacks-model" not in expected.headers
