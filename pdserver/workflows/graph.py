"""A workflow → the pipeline that answers its requests.

Each node is a model, asked as by a plain HTTP request. The first nodes are given the request as it came. A node after
one other is given that one's answer as `body`, a node after several all of their answers by their names; both as bytes
without a content type. Source: TorchServe 0.12, DagExecutor.java.
"""

from __future__ import annotations

from pdarchiver.pipeline.graph import Graph, ModelBody, Node, Pipeline, Ref, Source, Type
from pdarchiver.workflow.spec import Workflow, WorkflowNode, node_model

_BODY = "body"


def pipeline_of(workflow: Workflow, name: str) -> Pipeline:
    """`name` is the workflow's. Several nodes from which no other one takes make a JSON object of their answers, those
    that are JSON as JSON."""
    leaves = workflow.leaves
    of_leaves = Type("json") if len(leaves) > 1 else Type("any")
    nodes = {
        node.name: Node(
            node.name,
            ModelBody(node_model(name, node.name), opaque=True),
            _inputs(node),
            {_BODY: of_leaves if node.name in leaves else Type("bytes")},
            timeout_seconds=node.settings.timeout_ms / 1000,
            retry=node.settings.retry_attempts,
        )
        for node in workflow.nodes
    }
    outputs = {leaf: Source((Ref(leaf, _BODY),)) for leaf in leaves}
    return Pipeline(Graph({_BODY: Type("parts")}, nodes, outputs))


def _inputs(node: WorkflowNode) -> dict[str, Source]:
    if len(node.parents) > 1:
        return {parent: Source((Ref(parent, _BODY),)) for parent in node.parents}
    return {_BODY: Source((Ref(node.parents[0] if node.parents else "", _BODY),))}
