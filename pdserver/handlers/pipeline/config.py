"""config.yml of Paddle Serving's Pipeline → what holds for the server and for each Op.

Source of the keys, their defaults and bounds: `ServerYamlConfChecker` in pipeline/pipeline_server.py of
paddle_serving_server 0.9. Each field of a table here is the one place for its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pdserver.configuration.model import MAX_BATCH_SIZE, MAX_WORKERS
from pdserver.configuration.table import Setting, setting, table
from pdserver.errors import ConfigError
from pdserver.formats.values import ValueParser, boolean, listed, nearest, one_of, shown, takes, whole

AUTO, CPU, GPU, TENSORRT = -1, 0, 1, 2
_OTHER_DEVICES = {
    3: "Paddle-Lite is not run here: write 0, Paddle itself runs on ARM's processors",
    4: "Kunlun's devices are not served: write 0 or 1",
    5: "Ascend's devices are not served: write 0 or 1",
    6: "Ascend's devices are not served: write 0 or 1",
}
_LONGEST_MILLISECONDS = 3_600_000


@takes("TEXT")
def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected text")


@takes("NAMES")
def _names(value: object) -> tuple[str, ...]:
    """One name, or a list of them."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError('expected a list of names, such as ["price"]')
    return tuple(names)


@takes("SECTION")
def _section(value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise ValueError("expected keys and values below it, further to the right")


@takes("NUMBERS")
def _devices(value: object) -> tuple[int, ...]:
    """ "" is none, "0" one and "0,1" two."""
    numbers = str(value).split(",") if value != "" else []
    if isinstance(value, bool) or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError('expected the numbers of GPUs, such as "0,1", or "" for the CPU')
    return tuple(dict.fromkeys(map(int, numbers)))


@takes("NUMBER")
def _device_type(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in (AUTO, CPU, GPU, TENSORRT):
        expected = "expected -1, 0, 1 or 2"
        raise ValueError(_OTHER_DEVICES.get(value, expected) if isinstance(value, int) else expected)
    return value


@takes("MILLISECONDS")
def _milliseconds(value: object) -> float:
    """As seconds; 0 for those up to 0, which stand for none."""
    return max(0, whole("milliseconds", -_LONGEST_MILLISECONDS, _LONGEST_MILLISECONDS)(value)) / 1000


@takes("PORT")
def _port(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1024 <= value <= 65535:
        raise ValueError("expected a port from 1024 to 65535")
    return value


@takes("ADDRESSES")
def _no_endpoints(value: object) -> bool:
    if value:
        raise ValueError(
            "no other server is asked here: name the model's folder instead, as local_service_conf: {client_type:"
            " local_predictor, model_config: FOLDER}, and the workers run it"
        )
    return False


@takes("false")
def _no_races(value: object) -> bool:
    if value:
        raise ValueError("an Op waits for all that it takes from: write false")
    return False


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """`op.NAME.local_service_conf`: the model of an Op."""

    model_config: str | None = setting(_text, None, "The folder of the model. An Op without one runs no model.")
    client_type: str = setting(
        one_of("local_predictor", "brpc", "grpc"),
        "local_predictor",
        "The model runs in the worker, whichever it is.",
    )
    fetch_list: tuple[str, ...] = setting(_names, [], "The outputs that `postprocess` gets; by default, all.")
    device_type: int = setting(
        _device_type, AUTO, "-1: GPUs if `devices` names some; 0: CPU; 1: GPU; 2: GPU with TensorRT."
    )
    devices: tuple[int, ...] = setting(_devices, "", "GPUs, such as `0,1`. Workers take them in turn (`deviceIds`).")
    thread_num: int = setting(whole("threads", 1, MAX_WORKERS), 1, "Threads of one worker (`predictor.threads`).")
    mem_optim: bool = setting(boolean, True, "`predictor.memory_optim`: false switches it off.")
    ir_optim: bool = setting(boolean, True, "`predictor.ir_optim`. By default, it is on; there, it was off.")
    use_mkldnn: bool | None = setting(
        boolean, None, "`predictor.onednn`. By default, models with convolutions or many weights use it."
    )
    mkldnn_cache_capacity: int = setting(whole("shapes", 0, 2**20), 0, "`predictor.onednn_cache_shapes`.")
    precision: str = setting(
        one_of("fp32", "fp16", "int8", "bf16"), "fp32", "With `device_type: 2`, TensorRT's: fp32, fp16 or int8."
    )
    min_subgraph_size: int = setting(
        whole("operations", 1, 2**20), 3, "With `device_type: 2`, `predictor.tensorrt.min_graph_size`."
    )

    @property
    def on_gpu(self) -> bool:
        return bool(self.devices) if self.device_type == AUTO else self.device_type != CPU


@dataclass(frozen=True, kw_only=True)
class OpKeys:
    """`op.NAME`."""

    concurrency: int = setting(
        whole("workers", 1, MAX_WORKERS),
        1,
        "Workers. If all Ops have the same number, each runs all of them; else, each Op has its own.",
    )
    timeout_seconds: float = setting(
        _milliseconds,
        -1,
        "Milliseconds for a batch of the Op (`responseTimeout`). If a worker runs all Ops, it is the sum, and all that"
        " have a model need one.",
    )
    batch_size: int = setting(
        whole("requests", 1, MAX_BATCH_SIZE),
        1,
        "Requests that the Op takes together (`batchSize`, the largest of all Ops in a worker).",
    )
    auto_batching_timeout_seconds: float = setting(
        _milliseconds, -1, "Milliseconds that a request waits for others (`maxBatchDelay`); by default, none."
    )
    retry: int = setting(
        whole("tries", 0, 100), 1, "Tries of a request whose batch took too long, if the Op has workers of its own."
    )
    fetch_list: tuple[str, ...] = setting(_names, [], "As below `local_service_conf`, which goes before.")
    local_service_conf: Mapping[str, Any] = setting(_section, {}, "The Op's model.")
    server_endpoints: bool = setting(_no_endpoints, [], "Refused: the model runs in the worker.")
    use_encryption_model: bool = setting(boolean, False, "No effect: the model's folder shows it.")
    encryption_key: str = setting(_text, "", "The file with the key, if the model is encrypted.")


@dataclass(frozen=True, kw_only=True)
class DagKeys:
    """`dag`."""

    enable_prometheus: bool = setting(boolean, False, "Whether metrics are served.")
    prometheus_port: int = setting(_port, 19393, "The port of `metrics_address`.")
    channel_recv_frist_arrive: bool = setting(_no_races, False, "Refused if true.")


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """The top of the file."""

    http_port: int | None = setting(_port, None, "The port of `inference_address`.")
    rpc_port: int | None = setting(_port, None, "`grpc_inference_port`. Without it, the gRPC ports stay closed.")
    build_dag_each_worker: bool = setting(boolean, False, "With true, `worker_num` is the number of workers.")
    worker_num: int = setting(whole("workers", 1, MAX_WORKERS), 1, "No effect unless `build_dag_each_worker` is true.")
    dag: Mapping[str, Any] = setting(_section, {}, "All Ops together.")
    op: Mapping[str, Any] = setting(_section, {}, "Each Op, by its name.")


NO_EFFECT: Mapping[type[Any], Mapping[str, tuple[object, ...]]] = {
    ServerKeys: {"grpc_gateway_port": ()},
    DagKeys: {
        "is_thread_op": (True,),
        "retry": (1,),
        "client_type": ("brpc",),
        "use_profile": (False,),
        "channel_size": (0,),
        "tracer": ({}, {"interval_s": -1}),
    },
    OpKeys: {"client_config": (), "client_type": ("local_predictor",)},
    ModelKeys: {"workdir": ("",), "use_calib": (False,), "mkldnn_op_list": ([],), "mkldnn_bf16_op_list": ([],)},
}
"""Keys that are accepted and do nothing here, with the values that do nothing there, either."""
Keys = TypeVar("Keys", ServerKeys, DagKeys, OpKeys, ModelKeys)


@dataclass(frozen=True)
class OpConfig:
    """What holds for one Op. `model` None: it has none."""

    keys: OpKeys
    model: ModelKeys | None

    @property
    def fetch_list(self) -> tuple[str, ...]:
        return (self.model.fetch_list if self.model else ()) or self.keys.fetch_list


@dataclass(frozen=True)
class ServiceConfig:
    """What holds for a web service."""

    http_port: int | None
    rpc_port: int | None
    metrics_port: int | None
    workers: int
    """If they run all Ops."""
    each_worker: bool
    """Whether they must (`build_dag_each_worker`)."""
    ops: Mapping[str, OpConfig]
    """By name."""
    warnings: tuple[str, ...]


def read(given: object, arguments: Mapping[str, Mapping[str, Any]], where: str) -> ServiceConfig:
    """What `given`, the content of config.yml, says of the Ops named in `arguments`; these are what their constructors
    were given, and go before. `where` names the file.

    Raises ConfigError for an unknown key or Op, and for a value of the wrong type or out of bounds.
    """
    reader = _Reader(where)
    server = reader.read(ServerKeys, {} if given is None else given, "")
    dag = reader.read(DagKeys, server.dag, "dag.")
    if server.http_port is None and server.rpc_port is None:
        raise ConfigError(f"{where}: neither http_port nor rpc_port: say where to serve, such as http_port: 18082")
    for name in server.op:
        if name in arguments:
            continue
        if not arguments.keys() <= server.op.keys():
            raise ConfigError(f"{where}: op.{shown(name)}: there is no such Op{nearest(name, arguments)}; "
                              f"there are {listed(arguments)}")  # fmt: skip
        reader.notes.append(f"op.{shown(name)}: the service has no such Op: left out")
    ops = {name: reader.op(name, server.op.get(name) or {}, own) for name, own in arguments.items()}
    workers = max(op.keys.concurrency for op in ops.values())
    if server.build_dag_each_worker:
        workers = server.worker_num
    elif server.worker_num != 1:
        reader.no_effect.append("worker_num")
    return ServiceConfig(
        server.http_port,
        server.rpc_port,
        dag.prometheus_port if dag.enable_prometheus else None,
        workers,
        server.build_dag_each_worker,
        ops,
        tuple(reader.warnings()),
    )


@dataclass
class _Reader:
    where: str
    no_effect: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self, kind: type[Keys], given: object, place: str) -> Keys:
        """`place` is what comes before a key in errors: "op.uci."."""
        if not isinstance(given, Mapping):
            section = f": {place[:-1]}" if place else ""
            raise ConfigError(f"{self.where}{section}: expected keys and values, found {shown(given)}")
        rows: Mapping[str, Setting] = table(kind, str)
        without: Mapping[str, tuple[object, ...]] = NO_EFFECT[kind]
        values = {}
        for key, value in given.items():
            if key in without:
                if value is not None and value not in without[key]:
                    self.no_effect.append(f"{place}{key}")
            elif key not in rows:
                raise ConfigError(
                    f"{self.where}: {place}{shown(key)}: unknown key{nearest(str(key), [*rows, *without])}"
                )
            elif value is not None:
                values[rows[key].field] = self._parsed(rows[key].parse, value, f"{place}{key}")
        return kind(**values)

    def op(self, name: str, given: object, arguments: Mapping[str, Any]) -> OpConfig:
        place = f"op.{name}."
        if isinstance(given, Mapping):
            given = {**given, **arguments}
        keys = self.read(OpKeys, given, place)
        place += "local_service_conf."
        model = self.read(ModelKeys, keys.local_service_conf, place)
        if model.precision != "fp32" and (model.device_type != TENSORRT or model.precision == "bf16"):
            self.no_effect.append(f"{place}precision")
        if model.client_type != "local_predictor":
            self.notes.append(f"{place}client_type={model.client_type}: the model runs in the worker (local_predictor)")
        return OpConfig(keys, model if model.model_config else None)

    def warnings(self) -> list[str]:
        named = f"keys without effect here (docs/web-service.md): {', '.join(self.no_effect)}"
        return [f"{self.where}: {text}" for text in (*([named] if self.no_effect else []), *self.notes)]

    def _parsed(self, parse: ValueParser[Any, Any], value: object, place: str) -> Any:
        try:
            return parse(value)
        except ValueError as problem:
            raise ConfigError(f"{self.where}: {place}={shown(value)}: {problem}") from None
