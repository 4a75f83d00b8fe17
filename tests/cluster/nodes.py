"""Machines of a Ray cluster, several on this one: real raylets, in sessions and folders of their own.

    python -m tests.cluster.nodes

reads a JSON line for each machine that is to join, the variables of its processes, and prints one when it has. The
machines end with its standard input.
It is a process of its own, so that tests need not import Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.running import eventually, free_ports, lives, with_words

OBJECT_STORE_BYTES = 80 * 2**20
"""The smallest that Ray takes is 75 MiB."""


@dataclass(frozen=True)
class Machine:
    node: str
    """Ray's id of it."""
    raylet: int
    """The process id. All that runs on the machine descends from it."""

    def processes(self) -> list[psutil.Process]:
        """The raylet and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = psutil.Process(self.raylet)
            return [process for process in (raylet, *raylet.children(recursive=True)) if lives(process)]
        return []

    def named(self, *words: str) -> list[psutil.Process]:
        """The processes that have all these words in their command line."""
        return with_words(self.processes(), *words)

    def server(self) -> psutil.Process | None:
        """Its pdserver."""
        return next(iter(self.named("-m pdserver", "--foreground")), None)

    def kill(self) -> None:
        """As when the power goes: no process of it says anything any more."""
        stopped: list[psutil.Process] = []
        while new := [each for each in self.processes() if each not in stopped]:
            for process in new:  # what is stopped starts nothing
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            stopped += new
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: not any(map(lives, stopped)))


class Machines:
    """A Ray cluster; the first machine is its head."""

    def __init__(self, *variables: Mapping[str, str]) -> None:
        """`variables` are those of each machine's processes, besides this process's own."""
        self._helper = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.cluster.nodes"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"},
            start_new_session=True,
        )
        self.all: list[Machine] = []
        self.address = ""
        """HOST:PORT of the Ray cluster."""
        for own in variables:
            self._ask(own)
        for _ in variables:
            self._joined()

    host = "127.0.0.1"
    """Where all of them are."""

    @staticmethod
    def ports() -> list[int]:
        """Five free ones of the head."""
        return free_ports(5)

    @staticmethod
    def command(*words: str) -> list[str]:
        """A command line that runs these words on the head."""
        return list(words)

    def add(self) -> Machine:
        self._ask({})
        return self._joined()

    def _ask(self, variables: Mapping[str, str]) -> None:
        assert self._helper.stdin is not None
        self._helper.stdin.write(json.dumps(variables) + "\n")
        self._helper.stdin.flush()

    def _joined(self) -> Machine:
        assert self._helper.stdout is not None
        line = self._helper.stdout.readline()
        assert line, "the machines did not start"
        joined = json.loads(line)
        self.address = joined["address"]
        self.all.append(Machine(joined["node"], joined["raylet"]))
        return self.all[-1]

    @property
    def head(self) -> Machine:
        return self.all[0]

    def of(self, node: str) -> Machine:
        [found] = [machine for machine in self.all if machine.node == node]
        return found

    def named(self, *words: str) -> list[psutil.Process]:
        """As a machine's `named`, of all."""
        return [process for machine in self.all for process in machine.named(*words)]

    def close(self) -> None:
        """Fails when one of their processes is left. Idempotent."""
        if self._helper.returncode is not None:
            return
        family = psutil.Process(self._helper.pid).children(recursive=True)
        assert self._helper.stdin is not None
        self._helper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._helper.wait(60)
        _, left = psutil.wait_procs(family, timeout=60)
        left = [process for process in left if lives(process)]
        names = [" ".join(process.cmdline())[:200] for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._helper.kill()
        self._helper.wait()
        assert self._helper.stdout is not None
        self._helper.stdout.close()
        assert not names, f"left behind: {names}"


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    made = Machines(*[{}] * count)
    try:
        yield made
    finally:
        made.close()


def main() -> None:
    """Speaks on its standard output, which Ray's own words do not reach."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from ray.cluster_utils import Cluster

    cluster = Cluster(shutdown_at_exit=True)
    for line in sys.stdin:
        node = cluster.add_node(
            num_cpus=4,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            env_vars=json.loads(line),
        )
        [raylet] = node.all_processes["raylet"]
        joined = {"node": node.node_id, "raylet": raylet.process.pid, "address": cluster.address}
        answers.write(json.dumps(joined) + "\n")
        answers.flush()
    cluster.shutdown()


if __name__ == "__main__":
    main()
