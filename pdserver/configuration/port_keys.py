# ruff: noqa: RUF009  (the table's rows are made by a function)
"""The keys of the server's ports: where they are opened, who may use them, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pdserver.configuration import values as parse
from pdserver.configuration.table import setting
from pdserver.configuration.values import Address
from pdserver.formats.values import whole


@dataclass(frozen=True, kw_only=True)
class PortKeys:
    inference_address: Address = setting(parse.address, "http://localhost:8080", "The address for predictions.")
    management_address: Address = setting(parse.address, "http://localhost:8081", "The address for management.")
    metrics_address: Address = setting(
        parse.address, "http://localhost:8082", "The address from which Prometheus fetches metrics."
    )
    enable_metrics_api: bool = setting(parse.truth, "true", "Set false to keep the metrics port closed.")
    oip_address: Address | None = setting(
        parse.if_any(parse.address),
        "",
        "A separate address for the Open Inference Protocol, such as `http://127.0.0.1:8000`. `inference_address`"
        " serves it, too.",
    )
    oip_grpc_address: Address | None = setting(
        parse.if_any(parse.address),
        "",
        "The same for gRPC, such as `http://127.0.0.1:8001`. `grpc_inference_port` serves it, too.",
    )
    paddle_serving_address: Address | None = setting(
        parse.if_any(parse.address),
        "",
        "A separate address for clients of Paddle Serving, such as `http://127.0.0.1:9393`: HTTP, brpc's PRPC and gRPC"
        " on one port. `inference_address` serves them, too.",
    )
    tensorflow_address: Address | None = setting(
        parse.if_any(parse.address),
        "",
        "A separate address for TensorFlow Serving's REST API, such as `http://127.0.0.1:8501`. `inference_address`"
        " serves it, too.",
    )
    tensorflow_grpc_address: Address | None = setting(
        parse.if_any(parse.address),
        "",
        "The same for gRPC, such as `http://127.0.0.1:8500`. `grpc_inference_port` serves it, too.",
    )
    enable_grpc: bool = setting(parse.truth, "true", "Set false to keep the gRPC ports closed.")
    grpc_inference_host: str = setting(
        parse.host, "localhost", "The host for gRPC predictions, without a port.", name="grpc_inference_address"
    )
    grpc_inference_port: int = setting(parse.port, "7070", "The port for gRPC predictions.")
    grpc_management_host: str = setting(
        parse.host, "localhost", "The host for gRPC management.", name="grpc_management_address"
    )
    grpc_management_port: int = setting(parse.port, "7071", "The port for gRPC management.")
    grpc_inference_max_connection_age_ms: int | None = setting(
        parse.if_any(parse.milliseconds),
        "",
        "Milliseconds after which a client must connect anew for gRPC predictions, so that load balancers can move it.",
    )
    grpc_inference_max_connection_age_grace_ms: int | None = setting(
        parse.if_any(parse.milliseconds), "", "Milliseconds that calls on such a connection have to end."
    )
    grpc_management_max_connection_age_ms: int | None = setting(
        parse.if_any(parse.milliseconds), "", "The same for gRPC management."
    )
    grpc_management_max_connection_age_grace_ms: int | None = setting(
        parse.if_any(parse.milliseconds), "", "The same for gRPC management."
    )
    grpc_idle_timeout_seconds: float = setting(
        parse.seconds, "600", "Seconds without a call after which a gRPC connection ends."
    )
    allow_insecure: bool = setting(
        parse.truth,
        "false",
        "Set true to allow addresses that others can reach without TLS, and with `disable_token_authorization` also"
        " without tokens.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        parse.host_names,
        "",
        "Names by which clients may call the server, besides its addresses and `localhost`; `*.name`, or `*` for any.",
    )
    disable_token_authorization: bool | None = setting(
        parse.if_any(parse.truth),
        "",
        "Set true to need no tokens. By default, loopback needs none unless there are tokens.",
        flag="--disable-token-auth",
    )
    token_file: Path | None = setting(
        parse.if_any(parse.folder),
        "",
        "The file with the tokens; it is made if it is not there. By default, it is in `state_location`.",
    )
    token_expiration_minutes: int | None = setting(
        parse.if_any(parse.minutes),
        "",
        "Minutes after which tokens that the server makes expire, except the admin's; by default, never.",
        name="token_expiration_min",
    )
    metrics_token_authorization: bool | None = setting(
        parse.if_any(parse.truth),
        "",
        "Set true to need a token for /metrics, too, where there are any. By default, it needs one when others can"
        " reach its port.",
    )
    certificate_file: Path | None = setting(
        parse.if_any(parse.file), "", "The certificate for TLS, and those that vouch for it: PEM."
    )
    private_key_file: Path | None = setting(
        parse.if_any(parse.file), "", "The certificate's private key: PEM, without a password."
    )
    client_ca_file: Path | None = setting(
        parse.if_any(parse.file),
        "",
        "Certificates: PEM. Clients must then show a certificate that these vouch for (mutual TLS).",
    )
    peers_file: Path | None = setting(
        parse.if_any(parse.file),
        "",
        "The file that says which other servers have which models: requests for what this one lacks go there"
        " (docs/peers.md).",
    )
    peers_ca_file: Path | None = setting(
        parse.if_any(parse.file),
        "",
        "Certificates that vouch for those of the servers in peers_file: PEM. By default, the system's.",
    )
    enable_grpc_ssl: bool = setting(parse.truth, "false", "Set true to speak TLS on the gRPC ports.")
    cors_allowed_origin: str = setting(
        parse.origin, "", "The origin whose web pages may use the server from a browser, or `*`."
    )
    cors_allowed_methods: str = setting(parse.header_list, "", "The methods that such pages may use.")
    cors_allowed_headers: str = setting(
        parse.header_list,
        "content-type,authorization",
        "The headers that such pages may send; JSON needs `content-type`.",
    )
    http_restricted_api: Mapping[str, tuple[str, str]] = setting(
        parse.restricted_apis,
        "",
        "As Triton's, `API,API:HEADER=VALUE`: REST calls of these APIs need the header, or a token if there are any.",
    )
    grpc_restricted_protocol: Mapping[str, tuple[str, str]] = setting(
        parse.restricted_apis,
        "",
        "The same over gRPC: `API,API:KEY=VALUE`, and the metadata `triton-grpc-protocol-KEY`.",
    )
    max_connections: int = setting(
        parse.spelled(whole("connections", 1, 1_000_000)),
        "4096",
        "Connections that each port may have at the same time.",
    )
    slow_client_timeout_seconds: float = setting(
        parse.seconds,
        "20",
        "Seconds in which a request's head must come, and in which a client that sends or reads must get on.",
    )
    idle_timeout_seconds: float = setting(
        parse.seconds,
        "75",
        "Seconds without a request after which a connection is closed; more than a load balancer keeps its own.",
    )

    front_ends: int = setting(
        parse.front_ends,
        "auto",
        "Processes that answer on the ports for predictions, at most 64 (docs/front-ends.md). `auto`: one for"
        " every 4 CPU cores, at least 1, at most 4.",
    )

    @property
    def addresses(self) -> dict[str, Address]:
        """Where the ports that are opened are to be, by the keys that say so."""
        wanted = {"inference_address": self.inference_address, "management_address": self.management_address}
        if self.oip_address is not None:
            wanted["oip_address"] = self.oip_address
        if self.paddle_serving_address is not None:
            wanted["paddle_serving_address"] = self.paddle_serving_address
        if self.tensorflow_address is not None:
            wanted["tensorflow_address"] = self.tensorflow_address
        if self.enable_metrics_api:
            wanted["metrics_address"] = self.metrics_address
        if self.enable_grpc:
            tls = self.enable_grpc_ssl
            for key in ("oip_grpc_address", "tensorflow_grpc_address"):
                address: Address | None = getattr(self, key)
                if address is not None:
                    wanted[key] = Address(address.host, address.port, tls or address.tls)
            wanted["grpc_inference_address"] = Address(self.grpc_inference_host, self.grpc_inference_port, tls)
            wanted["grpc_management_address"] = Address(self.grpc_management_host, self.grpc_management_port, tls)
        return wanted
