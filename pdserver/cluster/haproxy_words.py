"""The parts of HAProxy's configuration that are the same for every cluster."""

from __future__ import annotations

import json

LIMITS = (
    "    tune.http.maxhdr 128",
    "    tune.h2.fe.max-concurrent-streams 256",
    "    mworker-max-reloads 50",
    "    ssl-default-bind-options ssl-min-ver TLSv1.2",
    "    stats socket unix@haproxy.sock mode 600 level operator",
)

# Idle connections of clients end with an answer and not between two requests, so that no request is lost at a reload.
# A client that leaves ends its request. Keepalives find out that a machine is gone while a request waits for it.
ALL = (
    "    mode http",
    "    load-server-state-from-file global",
    "    timeout connect 3s",
    "    timeout check 10s",
    "    option idle-close-on-response",
    "    option abortonclose",
    "    option srvtcpka",
    "    srvtcpka-idle 5s",
    "    srvtcpka-intvl 2s",
    "    srvtcpka-cnt 3",
    "    retries 3",
    "    option redispatch 1",
    "    retry-on conn-failure",
)
# A node that can't be reached is out at once: it has the fewest connections, so repeated requests would go to it again.
_OUT_AT_ONCE = "    default-server observe layer4 error-limit 1 on-error mark-down"
MODELS = (
    _OUT_AT_ONCE,
    "    balance leastconn",
    "    option httpchk",
    "    http-reuse always",
    "    retry-on conn-failure empty-response",
)


def sequences(id_header: str, start_header: str) -> tuple[str, ...]:
    """How requests find the node with their sequence: by a hash of its name.

    TorchServe's clients may leave it to the server to name a sequence. It gets its name here, since a node can't make
    one whose hash leads to itself. Where the body may name a sequence (the Open Inference Protocol, and all over gRPC),
    requests without the header go to the same node.
    """
    return (
        "    option httpchk",
        "    balance hash var(txn.sequence)",
        "    hash-type consistent sdbm avalanche",
        f"    http-request set-var(txn.sequence) req.hdr({id_header}) if {{ req.hdr({id_header}),length gt 0 }}",
        "    acl named var(txn.sequence) -m found",
        "    acl in_body path_beg -i /v2/",
        "    acl grpc req.hdr(content-type) -m beg application/grpc",
        "    http-request set-var-fmt(txn.opened) ts-seq-%[uuid()] unless named || in_body || grpc",
        "    acl opened var(txn.opened) -m found",
        f"    http-request set-header {id_header} %[var(txn.opened)] if opened",
        f"    http-request set-header {start_header} true if opened",
        f"    http-response set-header {id_header} %[var(txn.opened)] if opened",
        "    http-request set-var(txn.sequence) var(txn.opened) if opened",
        "    http-request set-var(txn.sequence,ifnotset) str(-)",
    )


ANY_NODE = (
    _OUT_AT_ONCE,
    "    balance leastconn",
    "    option httpchk",
    "    http-check send meth GET uri /v2/health/live ver HTTP/1.1 hdr Host localhost",
    "    retry-on conn-failure empty-response",
    "    http-request disable-l7-retry unless METH_GET",  # what it asks for is not known
)


def requests(slow: str, longest: str) -> tuple[str, ...]:
    """How a request finds its backend. What tells the model is the path, in the order of the rules; for gRPC, the
    message's first bytes behind the five of its frame. `txn.version` is not set for the default version.

    A request is sent on when it is here, or as much of it as is kept: else it could not be sent again. A client must
    bring that within `slow`; one that streams may wait with its first message for `longest`.
    """
    return (
        "    http-request del-header pd-forwarded-by",
        "    http-request set-header x-forwarded-for %[src]",
        "    http-request set-header x-forwarded-proto http%[ssl_fc,iif(s,)]",
        "    acl grpc req.hdr(content-type) -m beg application/grpc",
        "    acl by_name path_beg /inference. /org.pytorch.serve.grpc.inference.",
        "    acl tensorflow path_beg /tensorflow.serving.",
        "    acl pipeline path_beg /baidu.paddle_serving.pipeline_serving.",
        "    acl streams path_end /ModelStreamInfer /StreamPredictions2",
        "    acl whole path_beg /inference. /org.pytorch.serve. /tensorflow.serving. /baidu.paddle_serving.",
        f"    http-request wait-for-body time {longest} at-least 1 if grpc streams || grpc !whole",
        f"    http-request wait-for-body time {slow} if !grpc || whole !streams",
        "    acl torchserve path_beg /predictions/ /explanations/",
        "    acl models path_beg -i /v1/models/ /v2/models/",
        "    acl versions path,field(5,/) -m str -i versions",
        "    http-request set-var(txn.name) path,url_dec,field(3,/) if torchserve",
        "    http-request set-var(txn.version) path,url_dec,field(4,/) if torchserve",
        "    http-request set-var(txn.name) path,url_dec,field(4,/),field(1,:) if models",
        "    http-request set-var(txn.version) path,url_dec,field(6,/),field(1,:) if models versions",
        "    http-request set-var(txn.name) path,url_dec,field(3,/) if { path_beg /models/ }",
        "    http-request set-var(txn.name) url_param(model_name),url_dec if { path /invocations }",
        "    http-request set-var(txn.name,ifnotset) url_param(model),url_dec if !grpc",
        "    http-request set-var(txn.version) path,url_dec,field(3,/) if { path,field(4,/) -m str predict }",
        "    http-request set-var(txn.name,ifnotset) path,url_dec,field(2,/) if !grpc",
        "    http-request set-var(txn.name) req.body,bytes(5),protobuf(1) if grpc by_name",
        "    http-request set-var(txn.version) req.body,bytes(5),protobuf(2) if grpc by_name",
        "    http-request set-var(txn.spec) req.body,bytes(5),protobuf(1) if grpc tensorflow",
        "    http-request set-var(txn.name) var(txn.spec),protobuf(1) if grpc tensorflow",
        "    http-request set-var(txn.version) var(txn.spec),protobuf(2),protobuf(1,int64) if grpc tensorflow",
        "    http-request set-var(txn.name) req.body,bytes(5),protobuf(4) if grpc pipeline",
        "    http-request set-var(txn.served) var(txn.name),concat(/,txn.version),map_str(routes)",
        "    http-request set-var(txn.backend) str(http:),concat(,txn.served) if !grpc { var(txn.served) -m found }",
        "    http-request set-var(txn.backend) str(grpc:),concat(,txn.served) if grpc { var(txn.served) -m found }",
        "    use_backend controller if { path_beg -i /v2/repository/ } || { path -m reg -i ^/v[12]/models/?$ }",
        "    use_backend controller_grpc if grpc { path_beg /inference.GRPCInferenceService/Repository }",
        "    use_backend %[var(txn.backend)] if { var(txn.backend),nbsrv gt 0 }",
        "    use_backend any_node_grpc if grpc",
        "    default_backend any_node",
    )


CONTROL = (
    "    http-request set-header x-forwarded-for %[src]",
    "    use_backend controller_grpc if { req.hdr(content-type) -m beg application/grpc }",
    "    default_backend controller",
)


def _failure(status: int, kind: str, said: str) -> str:
    body = json.dumps({"code": status, "type": kind, "message": said}).replace("'", "\\u0027")
    retry = " hdr retry-after 1" if status == 503 else ""
    return f"    http-error status {status} content-type application/json string '{body}'{retry}"


def _grpc_failure(status: int, code: int, said: str) -> str:
    return f'    http-error status {status} hdr grpc-status {code} hdr grpc-message "{said}"'


_UNAVAILABLE = "ServiceUnavailableException"
_TOO_LATE = "RequestTimeoutException"
_INTERNAL = "InternalServerException"
_NO_SERVER = "no server can take this now: try again in a moment"
_BROKEN = "the server ended, or its answer is not HTTP: it may have run the request"
_NO_ANSWER = "no server answered in time"
FAILURES = (
    _failure(408, _TOO_LATE, "the request did not come in time"),
    _failure(500, _INTERNAL, "the load balancer failed"),
    _failure(502, _INTERNAL, _BROKEN),
    _failure(503, _UNAVAILABLE, _NO_SERVER),
    _failure(504, _TOO_LATE, _NO_ANSWER),
)
"""What clients are told when HAProxy itself answers, in TorchServe's words."""
GRPC_FAILURES = (
    _failure(408, _TOO_LATE, "the request did not come in time"),
    _grpc_failure(502, 14, _BROKEN),
    _grpc_failure(503, 14, _NO_SERVER),
    _grpc_failure(504, 4, _NO_ANSWER),
)
"""The same over gRPC: UNAVAILABLE, DEADLINE_EXCEEDED."""
_NO_CONTROLLER = (
    "the cluster's controller can't be reached now, and serving goes on: it comes back, or pdserver cluster status"
    " says why not"
)
NO_CONTROLLER = _failure(503, _UNAVAILABLE, _NO_CONTROLLER)
NO_GRPC_CONTROLLER = _grpc_failure(503, 14, _NO_CONTROLLER)
