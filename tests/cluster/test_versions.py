"""A cluster of two machines, of which each has an installation of pdserver of its own: two versions of it serve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.installed import Installation, add_fields, release
from tests.cluster.load import Load, loaded
from tests.cluster.running import SOON_SECONDS, RunningCluster
from tests.running import eventually
from tests.without_paddle import no_paddle

pytestmark = pytest.mark.timeout(600)
DONE = "All nodes run what is installed now."
OLD, NEW, BROKEN = "1.0.0", "1.1.0", "1.1.1"
MESSAGES = ("pdserver/cluster/base.py", "pdserver/cluster/options.py", "pdserver/cluster/state.py")


class Releases(NamedTuple):
    old: Path
    new: Path
    """Its messages and snapshots have fields that `old` does not know."""
    broken: Path
    """Needs what is not installed."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    folder = tmp_path_factory.mktemp("releases")
    made = Releases(*(release(folder, version) for version in (OLD, NEW, BROKEN)))
    for module in MESSAGES:
        add_fields(made.new / module)
    (made.broken / "pdserver/cluster/node.py").write_text("import not_installed\n")
    return made


class TwoMachines(NamedTuple):
    cluster: RunningCluster
    installed: list[Installation]
    """Those of the machines, in the order of the nodes' ids, in which they are upgraded."""
    of_commands: Installation

    def install(self, first: Path, second: Path) -> None:
        for own, version in zip((*self.installed, self.of_commands), (first, second, second), strict=True):
            own.install(version)

    def runs(self, version: str) -> bool:
        """Whether the controller and the nodes run this version, and serve."""
        status = self.cluster.status()
        runs = [status["version"], *(node["status"]["version"] for node in status["nodes"] if node["status"])]
        ready = [copy["ready"] for model in status["models"] for copy in model["copies"]]
        return runs == [version] * 3 and ready == [True] * 2

    def upgrade(self, words: str) -> str:
        """Run the command until it says this, and return all that it has said then. On a busy machine, a node may be
        silent for too long, and it ends there."""

        def said() -> str:
            done = self.cluster.command("upgrade", seconds=400)
            return done.stdout + done.stderr if words in done.stdout + done.stderr else ""

        found: str = eventually(said, SOON_SECONDS)
        return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[TwoMachines]:
    """The old version is installed on both, and serves a model with a copy on each."""
    folder = tmp_path_factory.mktemp("cluster")
    *installed, of_commands = (Installation(folder / name, releases.old) for name in ("a", "b", "commands"))
    (folder / "site").mkdir()
    with no_paddle(folder / "site"), pytest.MonkeyPatch.context() as patch:
        path = os.environ["PYTHONPATH"]
        patch.setenv("PYTHONPATH", f"{of_commands.path}{os.pathsep}{path}")
        variables = [{"PYTHONPATH": f"{own.path}{os.pathsep}{path}"} for own in installed]
        cluster = RunningCluster(folder, variables)
        try:
            cluster.start()
            wish = {"url": cluster.pack("m", 3).name, "copies": "2", "synchronous": "false"}
            assert cluster.manage("POST", "/models", params=wish).status_code == 202
            order = sorted(range(2), key=lambda number: cluster.machines.all[number].node)
            made = TwoMachines(cluster, [installed[number] for number in order], of_commands)
            eventually(lambda: made.runs(OLD), SOON_SECONDS)
            yield made
        finally:
            cluster.close()


@pytest.fixture
def load(machines: TwoMachines) -> Iterator[Load]:
    """On the entrance, until the end of a test. Nothing of it may be lost."""
    with loaded([machines.cluster.inference, machines.cluster.grpc], "m", [3], clients=2) as load:
        yield load
        more = load.count() + 20
        eventually(lambda: load.count() > more, SOON_SECONDS)
        account = load.stop()
        assert (account.wrong, account.lost) == ([], 0), str(account)


@pytest.mark.usefixtures("load")
def test_an_upgrade_ends_where_the_new_version_can_not_start_and_goes_on_once_it_can(
    machines: TwoMachines, releases: Releases
) -> None:
    machines.install(releases.broken, releases.new)
    said = machines.upgrade("did not come back: pdserver does not start there: ModuleNotFoundError: No module named")
    assert "Traceback" not in said
    eventually(lambda: "No module named 'not_installed'" in str(machines.cluster.status()["problems"]), SOON_SECONDS)
    machines.install(releases.new, releases.new)
    machines.upgrade(DONE)
    eventually(lambda: machines.runs(NEW), SOON_SECONDS)


@pytest.mark.usefixtures("load")
def test_the_older_version_serves_on_what_the_newer_one_has_left(machines: TwoMachines, releases: Releases) -> None:
    machines.install(releases.old, releases.old)
    machines.upgrade(DONE)
    eventually(lambda: machines.runs(OLD), SOON_SECONDS)
