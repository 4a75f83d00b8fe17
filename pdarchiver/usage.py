"""What the commands share: how they refuse wrong arguments, how they end, and the date of what they build."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from types import FrameType
from typing import NoReturn

from pdarchiver.errors import ArchiveError, PackingError

USAGE_STATUS = 2


class Parser(argparse.ArgumentParser):
    """Accepts only complete flags, not their beginnings. `usage` is the short one.

    Refuses wrong arguments in three lines: the error with a suggestion, the usage, and how to get help.
    """

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


def run_command(prog: str, work: Callable[[], None]) -> int:
    """Do the command's work. Returns its exit status, after the reason on stderr when it is not 0."""
    try:
        with _terminable():
            work()
            sys.stdout.flush()
    except ArchiveError as error:
        return _failed(prog, str(error))
    except BrokenPipeError:
        # The reader of our output has left. Without this, Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(prog, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        _failed(prog, "interrupted")
        return 128 + signal.SIGINT
    return 0


def _failed(prog: str, problem: str) -> int:
    sys.stderr.write(f"{prog}: error: {problem}\n")
    return 1


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise, as Ctrl-C does, so that half-written files are removed."""

    def leave(signum: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + signum)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_date() -> datetime | None:
    """The date for reproducible builds (reproducible-builds.org/specs/source-date-epoch). Raises PackingError."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise PackingError(f"SOURCE_DATE_EPOCH={epoch[:100]!r}: must be a number of seconds since 1970") from None
