"""The flags of `tritonserver` that this server does not have, each with what to do instead.

Source: src/command_line_parser.cc of Triton's server. Flags that both have, such as `--model-repository`, are keys of
`configuration.server`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_REST = "--oip-address http://127.0.0.1:8000, with the host and port that you want"
_GRPC = "--oip-grpc-address http://127.0.0.1:8001, with the host and port that you want"
_METRICS = "--metrics-address http://127.0.0.1:8002, with the host and port that you want"
_LEVEL = "--log-config FILE sets levels, and POST /v2/logging those of a running server"
_COMPLETED = "leave it out: what config.pbtxt does not say comes from the model"
_CERTIFICATE = "--enable-grpc-ssl with --certificate-file and --private-key-file"
_CLIENT_CA = "--client-ca-file, with --enable-grpc-ssl"
_ONE_LISTENER = "leave it out: one listener takes all connections of a port"
_PINGS = "leave it out: --grpc-idle-timeout and --slow-client-timeout say when a connection ends"
_THREADS = "leave it out: workers are processes, as many as instance_group says"
_HEADERS = "leave it out: handlers are given all headers"
_TRACES = "leave it out: no traces are written"
_RATE = "leave it out: nothing limits rates; instance_group says how many requests run at a time"
_MEMORY = "leave it out: Paddle manages the memory of the devices"
_PADDLE = "leave it out: Paddle is the only backend, and a Python package"

ANSWERS = {
    "--id": "--server-id",
    "--http-address": _REST,
    "--http-port": _REST,
    "--allow-http": "leave it out: REST is always served",
    "--reuse-http-port": _ONE_LISTENER,
    "--http-thread-count": _THREADS,
    "--http-header-forward-pattern": _HEADERS,
    "--grpc-address": _GRPC,
    "--grpc-port": _GRPC,
    "--allow-grpc": "--enable-grpc",
    "--reuse-grpc-port": _ONE_LISTENER,
    "--grpc-infer-thread-count": _THREADS,
    "--grpc-infer-allocation-pool-size": "leave it out: nothing is kept for reuse",
    "--grpc-max-response-pool-size": "leave it out: nothing is kept for reuse",
    "--grpc-infer-response-compression-level": "leave it out: answers over gRPC are not compressed",
    "--grpc-header-forward-pattern": _HEADERS,
    "--grpc-use-ssl": _CERTIFICATE,
    "--grpc-use-ssl-mutual": _CLIENT_CA,
    "--grpc-server-cert": _CERTIFICATE,
    "--grpc-server-key": _CERTIFICATE,
    "--grpc-root-cert": _CLIENT_CA,
    "--grpc-keepalive-time": _PINGS,
    "--grpc-keepalive-timeout": _PINGS,
    "--grpc-keepalive-permit-without-calls": _PINGS,
    "--grpc-http2-max-pings-without-data": _PINGS,
    "--grpc-http2-min-recv-ping-interval-without-data": _PINGS,
    "--grpc-http2-max-ping-strikes": _PINGS,
    "--grpc-max-connection-age": "--grpc-inference-max-connection-age-ms",
    "--grpc-max-connection-age-grace": "--grpc-inference-max-connection-age-grace-ms",
    "--metrics-port": _METRICS,
    "--allow-metrics": "--enable-metrics-api",
    "--allow-cpu-metrics": "--disable-system-metrics",
    "--allow-gpu-metrics": "--disable-system-metrics",
    "--metrics-interval-ms": "--metric-time-interval, in seconds",
    "--log-verbose": _LEVEL,
    "--log-info": _LEVEL,
    "--log-warning": _LEVEL,
    "--log-error": _LEVEL,
    "--log-file": "--log-location FOLDER, or --foreground for the terminal",
    "--exit-timeout-secs": "--stop-timeout",
    "--strict-model-config": _COMPLETED,
    "--disable-auto-complete-config": _COMPLETED,
    "--strict-readiness": "leave it out: /v2/health/ready says no while a model is not ready",
    "--model-load-thread-count": "leave it out: models load side by side",
    "--model-load-retry-count": "leave it out: --model-control-mode poll tries again",
    "--model-load-gpu-limit": _MEMORY,
    "--model-namespacing": "leave it out: a name is served once",
    "--response-cache-byte-size": "--response-cache-bytes",
    "--cache-config": "--response-cache-bytes BYTES, where Triton has local,size=BYTES",
    "--cache-directory": "leave it out: the cache is built in, --response-cache-bytes sets its size",
    "--backend-directory": _PADDLE,
    "--backend-config": "leave it out: set it for single models in config.pbtxt or --model-settings",
    "--repoagent-directory": "leave it out: agents are not run",
    "--rate-limit": _RATE,
    "--rate-limit-resource": _RATE,
    "--pinned-memory-pool-byte-size": _MEMORY,
    "--cuda-memory-pool-byte-size": _MEMORY,
    "--cuda-virtual-address-size": _MEMORY,
    "--enable-peer-access": _MEMORY,
    "--min-supported-compute-capability": "leave it out: instance_group names the GPUs",
    "--buffer-manager-thread-count": _THREADS,
    "--host-policy": "leave it out: workers run on the cores that the server may use",
    "--trace-config": _TRACES,
    "--trace-file": _TRACES,
    "--trace-level": _TRACES,
    "--trace-rate": _TRACES,
    "--trace-count": _TRACES,
    "--trace-log-frequency": _TRACES,
}


def answers(arguments: Iterable[str]) -> Iterator[str]:
    """What to do instead, for each of Triton's flags among these arguments."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in ANSWERS:
            yield f"{flag} is Triton's; here: {ANSWERS[flag]}"
