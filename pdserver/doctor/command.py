"""The command `pdserver doctor`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec

from pdarchiver.usage import Parser
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS
from pdserver.doctor import machine, prediction
from pdserver.doctor.machine import Finding
from pdserver.system.standard_streams import say

_KEYS = frozenset(
    {"state_location"} | {key for key in KEYS if key.endswith(("_address", "_port")) or key.startswith("enable_")}
)
"""Those that say which ports there will be; others may be wrong."""
_USAGE = "pdserver doctor [--json]"
_EPILOG = """\
exit status: 0 all is well, 1 something is wrong, which is said with the fix
"""


def main(argv: Sequence[str], environment: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> int:
    """Returns the exit status. `overrides` are keys of the configuration, and their values.

    Raises ConfigError for addresses and folders that can't be.
    """
    parser = Parser(
        prog="pdserver doctor",
        usage=_USAGE,
        description="Say what this machine and this installation can do, and predict with a tiny model.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    found = parser.parse_args(argv)
    config = load_config(overrides or {}, environment, keys=_KEYS)
    return _tell([*machine.look(config, environment), *prediction.look()], as_json=found.json)


def _tell(findings: Sequence[Finding], *, as_json: bool) -> int:
    wrong = [finding for finding in findings if finding.problem]
    if as_json:
        say(json.dumps({"ok": not wrong, "findings": msgspec.to_builtins(findings)}, indent=2))
        return 1 if wrong else 0
    for finding in findings:
        say(f"{finding.name:<15} {finding.value}")
        if finding.problem:
            say(f"{'':<15} wrong: {finding.problem}")
    say(f"{len(wrong)} of {len(findings)} findings are wrong" if wrong else "all is well")
    return 1 if wrong else 0
