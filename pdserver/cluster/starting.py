"""Starts a cluster: from the configuration to models that are served."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdserver.cluster import local, record, running
from pdserver.cluster.actors import ray_cluster
from pdserver.cluster.base import NodeView
from pdserver.cluster.node import STARTING
from pdserver.cluster.options import ClusterOptions
from pdserver.cluster.record import Record
from pdserver.configuration.loading import load_config
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.configuration.server import Config
from pdserver.configuration.tokens import Scope
from pdserver.engine.pipeline.signatures import NodeMissing
from pdserver.errors import ConfigError, PdError, Unavailable
from pdserver.security import guards, listening, token_file
from pdserver.security.keyring import Keyring
from pdserver.system.standard_streams import say

_NODES_SECONDS = 180.0
_POLL_SECONDS = 0.1
_PACK = "pd-model-archiver packs its models into archives"
_SAME_PORT = "the cluster's address for predictions serves its clients, too"
_ONE_SERVERS = {
    "model_repository": _PACK,
    "tensorflow_model_config": _PACK,
    "model_snapshot": "load_models names what is served",
    "peers_file": "the cluster writes its own",
    **dict.fromkeys(("oip_address", "paddle_serving_address", "tensorflow_address"), _SAME_PORT),
    **dict.fromkeys(("oip_grpc_address", "tensorflow_grpc_address"), _SAME_PORT),
}
"""Keys that a cluster can't follow, with what to do."""


def start(
    overrides: Mapping[str, str],
    environment: Mapping[str, str],
    found: argparse.Namespace,
    state: Path,
    before: Record | None,
) -> int:
    """`state` is the folder of this user's state, `before` the cluster that was started last. Returns the exit status.
    Raises PdError; then nothing of the cluster is left."""
    config = load_config(overrides, environment, found.pd_config)
    for warning in config.warnings:
        say(f"pdserver: warning: {warning}", error=True)
    _refuse(config)
    _refuse_ports(config, found)
    options = _options(config, state, before, environment, found)
    machines = _machines(found, state, before, environment)
    address = machines.address if machines else found.address or "auto"
    try:
        address = ray_cluster.connect(address)
        _refuse_many_on_loopback(options)
        ray_cluster.begin(options)
    except BaseException:
        if machines:
            local.end(machines)
        raise
    record.write(state, Record(options.cluster, address, machines))
    try:
        return _served(config, found)
    except BaseException:
        try:
            ray_cluster.end(0)
        finally:
            if machines:
                local.end(machines)
        raise


def _refuse(config: Config) -> None:
    """What one server can, and a cluster can't."""
    problems = [
        f"{given.where}={given.text}: not for a cluster: {_ONE_SERVERS[key]}"
        for key, given in config.given.items()
        if key in _ONE_SERVERS and given.text
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _refuse_ports(config: Config, found: argparse.Namespace) -> None:
    """More than can be, or than anybody could use; and nodes that would have the same ports."""
    if found.node_port and (found.local or 1) > 1:
        raise ConfigError(
            f"--node-port={found.node_port}: the machines of --local have one address, and their nodes would have the"
            " same ports: leave it out"
        )
    if found.entrances in (0, 1) or (found.local is not None and found.entrances is None):
        return
    if found.local is not None:
        raise ConfigError(
            f"--entrances={found.entrances}: the machines of --local have one address, and entrances have the same"
            " ports: leave it out"
        )
    if listening.is_loopback(config.inference_address.host):
        raise ConfigError(
            f"--entrances: others can't reach inference_address={config.inference_address}: let it have the host"
            " 0.0.0.0, which is each machine's own"
        )


def _refuse_many_on_loopback(options: ClusterOptions) -> None:
    addresses = ray_cluster.addresses()
    if not options.listen and len(addresses) > 1:
        raise ConfigError(
            f"the Ray cluster has {len(addresses)} machines, and nodes on loopback don't reach each other: add"
            " --listen node (or an address that all machines have, such as 0.0.0.0)"
        )


def _machines(
    found: argparse.Namespace, state: Path, before: Record | None, environment: Mapping[str, str]
) -> local.LocalMachines | None:
    """Those of --local."""
    if found.local is None:
        return None
    if before is not None and before.machines is not None and local.process(before.machines) is not None:
        raise Unavailable(
            "a cluster with local machines is running: pdserver cluster stop ends it; a second one needs other"
            " addresses, and with each command a --state-location of its own"
        )
    _say_progress(f"Ray begins {found.local} machines…")
    return local.begin(found.local, state / "cluster", environment)


def _options(
    config: Config,
    state: Path,
    before: Record | None,
    environment: Mapping[str, str],
    found: argparse.Namespace,
) -> ClusterOptions:
    """Raises ConfigError if that would not be safe."""
    outside = bool(found.listen) and not listening.is_loopback(found.listen)
    tokens = guards.needs_tokens(config) or (outside and config.disable_token_authorization is None)
    if outside:
        _check_outside(config, f"--listen={found.listen}", environment, tokens=tokens)
        if found.entrances != 0:
            _check_trust(config)
    settings = {key: given.text for key, given in config.given.items() if key not in ("token_file", *_ONE_SERVERS)}
    said = config.load_models.all or config.load_models.named or not config.config_snapshots
    return ClusterOptions(
        cluster=secrets.token_hex(8) if said or before is None else before.cluster,
        state=str(state),
        directory=str(Path.cwd()),
        settings=settings,
        environment={**_filled_in(settings, environment), **(_tokens(config, state, environment) if tokens else {})},
        listen=found.listen,
        node_port=found.node_port,
        entrances=found.entrances,
    )


def _check_outside(config: Config, flag: str, environment: Mapping[str, str], *, tokens: bool) -> None:
    """As one server checks where it listens, and Ray's own ports. Raises ConfigError."""
    problems = []
    if not tokens and not config.allow_insecure:
        problems.append(
            f"{flag}: others can reach the nodes, and nobody needs a token: drop disable_token_authorization, or set"
            " allow_insecure=true"
        )
    if config.certificate_file is None and not config.allow_insecure:
        problems.append(
            f"{flag}: others can reach the nodes, and what is sent can be read on the way: set certificate_file and"
            " private_key_file, or allow_insecure=true"
        )
    if environment.get("RAY_AUTH_MODE") != "token" and not config.allow_insecure:
        problems.append(
            f"{flag}: whoever reaches Ray's ports can run programs on all machines: begin Ray anew with a token (ray"
            " get-auth-token --generate, and RAY_AUTH_MODE=token), or set allow_insecure=true"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _check_trust(config: Config) -> None:
    """HAProxy checks who signed a node's certificate, and not for which host, so that any certificate of any of the
    system's authorities would do. Raises ConfigError."""
    if config.certificate_file is not None and config.peers_ca_file is None and not config.allow_insecure:
        raise ConfigError(
            f"certificate_file={config.certificate_file}: the entrance must know whose certificates the nodes have: set"
            " peers_ca_file to those that vouch for it, or --entrances 0"
        )


def _filled_in(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the settings take values from."""
    names = {name for text in settings.values() for name in re.findall(r"\$\$([A-Za-z_][A-Za-z0-9_]*)\$\$", text)}
    return {name: environment[name] for name in {*names, "PD_MODEL_KEY"} & environment.keys()}


def _tokens(config: Config, state: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the environment and of the file; without any, new ones in a file. All nodes have the same."""
    texts = {scope: list(filter(None, environment.get(f"PD_{scope.name}_TOKEN", "").split(","))) for scope in Scope}
    file = config.token_file or (None if config.tokens else state / "cluster" / "tokens.json")
    if file is not None:
        Keyring(config.tokens, file)
        for name, entry in token_file.read(file).items():
            texts[Scope(name)].append(entry["key"])
        say(f"{'tokens':<15} {file}")
    return {f"PD_{scope.name}_TOKEN": ",".join(given) for scope, given in texts.items() if given}


def _served(config: Config, found: argparse.Namespace) -> int:
    """Wait for the nodes, and register the models."""
    _await_parts()
    restored = bool(running.told()[0].models)
    if restored:
        _await_restored()
    problems = {model: f"it is not served: {problem}" for model, problem in _registered(config, found.copies)}
    view, addresses = running.told()
    problems |= running.problems(view)
    running.say_served(view, addresses)
    if restored:
        say(
            "The models are those of the last cluster, since nothing else says what to serve; --no-config-snapshots"
            " starts without."
        )
    elif not (view.models or problems):
        say("No models are served yet: name archives with --models, or register them at the management address.")
    for what, problem in problems.items():
        say(f"pdserver: {what}: {problem}", error=True)
    say("Cluster started.")
    return 1 if problems else 0


def _await_parts() -> None:
    """Until each node and entrance has started or told why it can't. Raises Unavailable when no node has."""
    deadline = time.monotonic() + _NODES_SECONDS
    said: set[str] = set()
    count = ray_cluster.count()
    while time.monotonic() < deadline:
        view = running.told()[0]
        nodes = [node for node in view.nodes if _has_started(node)]
        for node in nodes:
            if node.node not in said:
                said.add(node.node)
                _say_progress(f"{len(said)} of {count} nodes…")
        if len(nodes) >= count and not any(map(running.is_starting, view.entrances)):
            break
        time.sleep(_POLL_SECONDS)
    problems = {problem for node in nodes if (problem := running.problem_of(node))}
    if not nodes or all(map(running.problem_of, nodes)):
        raise Unavailable("\n".join(problems) or f"no node has started within {_NODES_SECONDS:.0f} s")


def _has_started(node: NodeView) -> bool:
    """Or told why it can't."""
    return node.unable or (node.status is not None and node.status.problem != STARTING)


def _await_restored() -> None:
    """Until each copy of the last cluster's models serves, or it is said why not."""
    deadline = time.monotonic() + _NODES_SECONDS
    while time.monotonic() < deadline:
        view = running.told()[0]
        waiting = [
            model.wanted.ref
            for model in view.models
            if not model.problem
            and not any(copy.problem for copy in model.copies)
            and sum(copy.ready for copy in model.copies) < model.wanted.copies
        ]
        if not waiting and not view.recovering:
            return
        time.sleep(_POLL_SECONDS)


def _registered(config: Config, copies: int) -> Iterator[tuple[str, str]]:
    """Register what is to be served from the start; pipelines whose models are missing come once more after the rest.
    Yields what can't be, and why."""
    controller = ray_cluster.controller()
    models: Sequence[ModelToLoad] = config.load_models.named
    if config.load_models.all:
        models = [ModelToLoad(name) for name in ray_cluster.answer(controller.names.remote())]
    later: list[tuple[ModelToLoad, NodeMissing]] = []
    while models:
        count, later = len(models), []
        for model in models:
            _say_progress(f"{model.name or model.url} is loaded…")
            given: dict[str, Any] = {"name": model.name, "copies": copies, "synchronous": True}
            try:
                ray_cluster.answer(controller.register.remote(model.url, **given))
            except NodeMissing as error:
                later.append((model, error))
            except PdError as error:
                yield model.name or model.url, str(error)
        models = [model for model, _ in later] if len(later) < count else []
    yield from ((model.name or model.url, str(missing)) for model, missing in later)


def _say_progress(text: str) -> None:
    if sys.stdout.isatty():
        say(text)
