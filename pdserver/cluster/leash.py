"""A program of its own: `leash.py PARENT COMMAND…` becomes the command, which is killed when its parent ends.

The parent may be killed itself, and then nothing of it is left to end the command: the kernel does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, *command: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() == parent:  # else it has ended already, and no signal comes
        os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
