"""The command `pdserver cluster`: start, status, stop, upgrade."""

from __future__ import annotations

import argparse
from collections.abc import Callable, MutableMapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from pdarchiver.usage import Parser
from pdserver.cluster import local, record
from pdserver.command.running import FINDING
from pdserver.configuration import arguments
from pdserver.configuration.loading import load_config
from pdserver.errors import ConfigError, Unavailable
from pdserver.store.run_directory import state_folder

_USAGE = """\
pdserver cluster start (--local MACHINES | --address HOST:PORT) --model-store FOLDER [--models ARCHIVE …] [FLAG …]
       pdserver cluster status [--json] | upgrade | stop"""
_EPILOG = """\
examples:
  pdserver cluster start --local 3 --model-store model_store --models digits.pdar --copies 2
  curl http://127.0.0.1:8080/predictions/digits -T digit.png
  pdserver cluster status
  pdserver cluster stop

  ray start --head                                  and on the other machines: ray start --address HEAD:6379
  pdserver cluster start --address auto --listen node --model-store model_store

Every key of config.properties has a flag, as with pdserver; addresses are those of the cluster as a whole.

exit status: 0 done, 1 not all of it could be done, 2 wrong use or configuration, 3 with status: not running,
             130 interrupted; the reason is on stderr
"""


def main(argv: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Returns the exit status. Raises PdError."""
    if argv[:1] == [local.MACHINES]:
        from pdserver.cluster.actors import local_machines

        local_machines.run(*map(int, argv[1:]))
        return 0
    found = _parser().parse_args(argv)
    if found.local is not None and found.verb != "start":
        raise ConfigError(f"--local={found.local}: only start begins machines; {found.verb} finds them by itself")
    if found.local is not None and found.address:
        raise ConfigError("--local begins machines of its own: leave out --local, or --address")
    config = load_config(arguments.overrides(found), environment, found.pd_config, keys=FINDING)
    state = state_folder(config.state_location, config.xdg_state_home)
    last = record.read(state)
    own = found.local is not None or (not found.address and last is not None and last.machines is not None)
    local.authenticate(environment, state / "cluster" if own else None)
    environment.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # Ray would print traces of calls that nobody waits for
    try:
        from pdserver.cluster import running, starting  # which need much, and some of it is an extra's
    except ModuleNotFoundError as error:
        raise Unavailable(f"a cluster needs {error.name}: pip install 'pdserver[cluster]'") from None
    if found.verb == "start":
        return starting.start(arguments.overrides(found), environment, found, state, last)
    cluster = running.Running(None if found.address else last, found.address, config.stop_timeout_seconds)
    if found.verb == "status":
        return cluster.status(as_json=found.json)
    return cluster.stop() if found.verb == "stop" else cluster.upgrade()


def _parser() -> Parser:
    parser = Parser(
        prog="pdserver cluster",
        usage=_USAGE,
        description="Machines of a Ray cluster that serve as one.",
        epilog=_EPILOG,
    )
    parser.add_argument("verb", choices=["start", "status", "upgrade", "stop"], help="what to do")
    parser.add_argument("--local", type=_count(1, 16), metavar="MACHINES", help="begin so many machines on this one")
    parser.add_argument("--address", default="", metavar="HOST:PORT", help="the Ray cluster's; auto: it runs here")
    parser.add_argument(
        "--listen",
        type=_listening,
        default="",
        metavar="ADDRESS",
        help="where nodes listen, or `node`: at their machine's address",
    )
    parser.add_argument(
        "--node-port", type=_count(1, 65531), default=0, metavar="PORT", help="the first of a node's five ports"
    )
    parser.add_argument(
        "--copies", type=_count(1, 1_000_000), default=1, metavar="NODES", help="how many nodes serve each of --models"
    )
    parser.add_argument(
        "--entrances",
        type=_entrances,
        default=1,
        metavar="NUMBER",
        help="how many machines have HAProxy; all: each; 0: another load balancer is in front of the nodes; default: 1",
    )
    parser.add_argument("--json", action="store_true", help="with status: for programs")
    parser.add_argument(
        "--pd-config", "--ts-config", type=Path, metavar="FILE", help="config.properties; default: ./config.properties"
    )
    arguments.add_keys(parser)
    return parser


def _entrances(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return _count(0, 1_000_000)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or all") from None


def _listening(text: str) -> str:
    try:
        return text if text in ("", "node", "localhost") else str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected node, which is each machine's own address, or an IP address such as 0.0.0.0"
        ) from None


def _count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {least} to {most}")
        return int(text)

    return parse
