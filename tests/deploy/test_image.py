"""The Dockerfiles: what a linter says, what they promise, and the image itself, where `make image` has made it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS
from tests.deploy.tools import ROOT, Tools
from tests.deploy.tools import tools as tools
from tests.running import eventually, free_ports

DOCKERFILES = ["docker/Dockerfile", "docker/Dockerfile.gpu"]
ROOTFS = ROOT / "build" / "rootfs"
TOKEN = "0123456789" * 4
ENVIRONMENT = {f"PD_{name.upper()}" for name in KEYS} | {
    *("PD_CONFIG_FILE", "PD_INFERENCE_TOKEN", "PD_MANAGEMENT_TOKEN", "PD_ADMIN_TOKEN"),
}


def test_the_linter_finds_nothing(tools: Tools) -> None:
    done = subprocess.run([tools.hadolint, *DOCKERFILES], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_promises(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.search(r"^USER (\d+):\1$", text, re.MULTILINE)  # numbers, for Kubernetes' runAsNonRoot
    assert set(re.findall(r"\b(PD_[A-Z_]+)=", text)) < ENVIRONMENT
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / path).exists() for path in line.split())
    assert "licences.py" in text
    assert re.search(r'^HEALTHCHECK .* CMD \["pdserver", "--status"\]$', text, re.MULTILINE)


def test_the_images_differ_in_what_they_must() -> None:
    """Their last stages: the description, what NVIDIA's container toolkit reads, and whose LAPACK it is."""
    cpu, gpu = ((ROOT / name).read_text().rpartition("\nFROM ")[2].splitlines() for name in DOCKERFILES)
    differ = {line.strip(" \\") for line in {*cpu} ^ {*gpu} if "apt-get install" not in line}
    assert {line.partition("=")[0] for line in differ} == {
        *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "org.opencontainers.image.description"),
    }


def test_the_configuration_of_the_image_is_valid(tmp_path: Path) -> None:
    overrides = {"model_store": str(tmp_path), "log_config": str(ROOT / "docker" / "logging.yaml")}
    config = load_config(overrides, {}, ROOT / "docker" / "config.properties")
    assert config.allow_insecure
    assert config.disable_token_authorization is None  # tokens stay on
    assert "management_address" not in config.given  # on loopback
    assert not config.ignored_keys


def test_the_composition_names_what_there_is() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    server = services["pdserver"]
    assert set(server["environment"]) < ENVIRONMENT
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert (ROOT / "docker" / server["build"]["context"] / server["build"]["dockerfile"]).exists()
    for name, service in services.items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), f"{name} is open to others"
        for volume in service["volumes"]:
            host = re.sub(r"^\$\{\w+:-([^}]*)\}", r"\1", volume).partition(":")[0]
            assert not host.startswith(".") or (ROOT / "docker" / host).exists()


def test_the_steps_are_those_of_the_dockerfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What carries them out without an engine reads them there, and refuses what it does not know."""
    monkeypatch.syspath_prepend(ROOT / "docker")
    dockerfile, rootfs = importlib.import_module("dockerfile"), importlib.import_module("rootfs")
    build, image = dockerfile.read(ROOT / "docker/Dockerfile")
    assert (build.image, build.name, image.image, image.name) == (
        "debian:trixie-slim",
        "build",
        "debian:trixie-slim",
        "",
    )
    assert [step.name for step in build.steps] == ["RUN", "RUN", "COPY", "RUN", "RUN"]
    assert image.last("USER", "") == "10001:10001"
    assert image.command("ENTRYPOINT") + image.command("CMD") == ["pdserver", "--start"]
    assert ("PD_STATE_LOCATION", "/var/lib/pdserver/state") in image.variables()
    with pytest.raises(ValueError, match="ARG: expected one of"):
        dockerfile.read(ROOT / "docker/Dockerfile.gpu")
    sent = {str(path) for path in rootfs.sent(ROOT)}
    assert {"LICENSE", "pyproject.toml", "pdserver/cli.py", "docker/licences.py"} < sent
    assert not any(path.startswith(("tests/", "build/", ".git")) or "__pycache__" in path for path in sent)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of predictions, and the process that waits for the container's first one."""
    if not ROOTFS.exists():
        pytest.skip("make image")
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    variables = {
        "PD_INFERENCE_ADDRESS": f"http://0.0.0.0:{inference}",
        "PD_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{management}",
        "PD_METRICS_ADDRESS": f"http://0.0.0.0:{metrics}",
        "PD_GRPC_INFERENCE_PORT": str(grpc),
        "PD_GRPC_MANAGEMENT_PORT": str(grpc_management),
        "PD_INFERENCE_TOKEN": TOKEN,
    }
    given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    command = [sys.executable, "docker/rootfs.py", "run", *given, "-v", f"{ROOT}/model_store:/models"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "docker/Dockerfile", str(ROOTFS)], cwd=ROOT, stdout=file, stderr=file)

    def started() -> bool:
        assert process.poll() is None, log.read_text()
        return "Model server started." in log.read_text()

    eventually(started)
    yield f"http://127.0.0.1:{inference}", process
    process.kill()
    process.wait()


def test_the_image_serves_without_root_on_a_read_only_root(image: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, process = image
    picture = (ROOT / "examples/digits/seven.png").read_bytes()
    assert requests.post(f"{address}/predictions/digits", picture, timeout=60).status_code == 401
    answer = requests.post(
        f"{address}/predictions/digits", picture, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    assert answer.json()["seven"] > 0.99
    [first] = psutil.Process(process.pid).children()
    assert set(first.uids()) == {10001}
    entered = [
        *("nsenter", f"--target={first.pid}", "--pid", "--mount", "--root", "--wd"),
        *("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"),
    ]
    status = subprocess.run([*entered, "pdserver", "--status", "--json"], env=first.environ(), capture_output=True)
    assert json.loads(status.stdout)["models"] == {"digits/1.0": 1}
    for place in ("/", "/etc", "/opt/pdserver", "/models"):
        assert subprocess.run([*entered, "touch", f"{place}/x"], capture_output=True).returncode != 0
    first.terminate()
    assert process.wait(60) == 0


def test_the_image_has_its_size_and_its_licences() -> None:
    if not ROOTFS.exists():
        pytest.skip("make image")
    files = {(path.lstat().st_ino, path.lstat().st_size) for path in ROOTFS.rglob("*") if not path.is_dir()}
    assert sum(size for _, size in files) < 1e9
    licences = (ROOTFS / "opt/pdserver/licences.txt").read_text()
    assert "pdserver 0" in licences
    assert "paddlepaddle 3" in licences
    assert "Apache License" in (ROOTFS / "usr/share/doc/pdserver/copyright").read_text()
