"""Refuses a command's wrong arguments in three lines: the error with a suggestion, the usage, and how to get help."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

USAGE_STATUS = 2


class Parser(argparse.ArgumentParser):
    """Accepts only complete flags, not their beginnings. `usage` is the short one."""

    def __init__(self, *, prog: str, usage: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        given = sys.argv[1:] if args is None else args
        flags = [arg for arg in given if arg.startswith("--") and arg != "--" and not self._knows(arg)]
        if flags:  # reported before a missing flag, which the unknown one may stand for
            self.refuse_unknown(flags)
        found, unknown = self.parse_known_args(given, namespace)
        if unknown:
            self.refuse_unknown(unknown)
        return found

    def _knows(self, argument: str) -> bool:
        return argument.partition("=")[0] in self._option_string_actions

    def refuse_unknown(self, arguments: Sequence[str]) -> NoReturn:
        self.error("; ".join(map(self._unknown, arguments)))

    def _unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"{argument}: not expected here"
        flag = argument.partition("=")[0]
        known = {each.replace("_", "-"): each for each in self._option_string_actions if each.startswith("--")}
        close = difflib.get_close_matches(flag.lower().replace("_", "-"), known, n=1)
        return f"{flag}: unknown flag" + (f", did you mean {known[close[0]]}?" if close else "")

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_STATUS, f"{self.prog}: {message}\n{self.format_usage()}{self.prog} --help says more\n")
