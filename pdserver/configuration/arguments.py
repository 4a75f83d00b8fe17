"""The arguments of `pdserver`: what to do, and a flag for each key of the configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdarchiver.usage import Parser
from pdserver import __version__
from pdserver.configuration import values as parse
from pdserver.configuration.server import KEYS
from pdserver.configuration.table import Setting

_IGNORED_FLAGS = {
    "plugins_path": (["--plugins-path", "--ppath"], "plugins are Python packages: docs/operating.md"),
    "cpp_log_config": (["--cpp-log-config"], "there is no C++ backend"),
}
"""TorchServe's, by the key that each would set, with why it has no effect."""
_OTHER_FLAGS = {"disable_token_authorization": ["--dt"]}
_USAGE = """\
pdserver --start --model-store FOLDER [--models ARCHIVE …] [--foreground] [FLAG …]
       pdserver --stop | --status [--json] | --check-config | --print-config | --version"""
EXAMPLE = """\
example:
  pdserver --start --model-store model_store --models digits.pdar
  curl http://127.0.0.1:8080/predictions/digits -T digit.png
  pdserver --stop
"""
_EPILOG = f"""\
{EXAMPLE}
other commands:
  pdserver cluster start --local 3 …          several machines that serve as one
  pdserver serve --model FOLDER --port 9393   start with Paddle Serving's flags
  pdserver tensorflow-model-server …          start with TensorFlow Serving's flags
  pdserver doctor                             say what this machine and installation can do

Every key of config.properties has a flag; docs/configuration.md explains them.

exit status: 0 done, 1 not all of it could be done, 2 wrong use or configuration, 3 with --status: not running,
             130 interrupted; the reason is on stderr
"""


def parser() -> Parser:
    parser = Parser(
        prog="pdserver",
        usage=_USAGE,
        description="Serve PaddlePaddle models: many models, one port, dynamic batching, supervised workers.",
        epilog=_EPILOG,
    )
    _add_commands(parser.add_mutually_exclusive_group())
    parser.add_argument("--foreground", action="store_true", help="start in the foreground, logging to the terminal")
    parser.add_argument("--json", action="store_true", help="with --status: for programs")
    parser.add_argument(
        "--pd-config", "--ts-config", type=Path, metavar="FILE", help="config.properties; default: ./config.properties"
    )
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--life-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--serve-mark", type=Path, help=argparse.SUPPRESS)
    add_keys(parser)
    return parser


def add_keys(parser: Parser) -> None:
    """A flag for each key, for `overrides`."""
    keys = parser.add_argument_group("configuration")
    for key in KEYS.values():
        _add_key(keys, key)
    keys.add_argument(
        *("--no-config-snapshots", "--ncs"),
        dest="config_snapshots",
        action="store_const",
        const="false",
        help="neither write snapshots nor serve from them: --config-snapshots false",
    )
    group = parser.add_argument_group("accepted from TorchServe, without effect")
    for name, (flags, why) in _IGNORED_FLAGS.items():
        group.add_argument(*flags, dest=name, metavar="PATH", help=why)


def _add_commands(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument(
        "--start", action="store_true", help="start in the background and return when ready (the default)"
    )
    group.add_argument(
        "--stop", action="store_true", help="stop the server with this configuration, and wait for its end"
    )
    group.add_argument(
        "--status", action="store_true", help="whether the server with this configuration runs, and what it serves"
    )
    group.add_argument(
        "--check-config",
        action="store_true",
        help="say what a start would find wrong with the configuration and models",
    )
    group.add_argument(
        "--print-config", action="store_true", help="print the value of each key, and where it comes from"
    )
    group.add_argument("-v", "--version", action="version", version=f"pdserver {__version__}")


def _add_key(group: argparse._ArgumentGroup, key: Setting) -> None:
    several: dict[str, Any] = {}
    if key.name == "load_models":
        several = {"nargs": "+"}
    elif key.name in ("model_repository", "load_model", "http_restricted_api", "grpc_restricted_protocol"):
        several = {"action": "append"}
    elif key.parse.takes == parse.truth.takes:
        several = {"nargs": "?", "const": "true"}
    default = f" [{key.default}]" if key.default else ""
    text = (key.help + default).replace("%", "%%")
    flags = [key.flag, *_OTHER_FLAGS.get(key.name, [])]
    group.add_argument(*flags, dest=key.name, metavar=key.parse.takes, help=text, **several)


def overrides(arguments: argparse.Namespace) -> dict[str, str]:
    """What the flags say of keys."""
    given = {key: getattr(arguments, key) for key in (*KEYS, *_IGNORED_FLAGS)}
    return {key: _text(value) for key, value in given.items() if value is not None}


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)
