"""A server that runs as in a container, of the parts of one that Linux has by itself: unshare(1), mount(8).

It is process 1 of its own, it has no capabilities, and of the file system it can write nothing but its folder.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.running import PDSERVER, RunningServer

UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
NO_CAPABILITIES = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


def needs_namespaces() -> None:
    """Skips the test where this user may not make any."""
    for tool in ("unshare", "setpriv", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing, from Debian's package util-linux or mount")
    done = subprocess.run([*UNSHARE, "mount", "--make-rprivate", "/"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not make namespaces: {done.stderr.strip()}")


class Contained(RunningServer):
    def command(self) -> list[str]:
        """Without --foreground, since a container ends with its first process."""
        folder = shlex.quote(str(self.folder))
        server = shlex.join([*NO_CAPABILITIES, PDSERVER, "--start", "--pd-config", str(self.config)])
        mounts = f"mount --bind {folder} {folder} && mount -o remount,bind,ro / && cd {folder}"
        return [*UNSHARE, "sh", "-c", f"{mounts} && exec {server}"]

    def first(self) -> psutil.Process:
        """The container's process 1, as it is seen from outside."""
        assert self.process is not None
        [first] = psutil.Process(self.process.pid).children()
        return first

    def run(self, *command: str) -> None:
        """As `docker exec` does it."""
        subprocess.run(["nsenter", f"--target={self.first().pid}", "--pid", "--mount", *command], check=True)


def made(folder: Path, store: Path) -> Contained:
    """All that it writes is in its folder."""
    return Contained(folder, store, settings={"state_location": str(folder / "state")})
