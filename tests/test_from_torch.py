"""The ways from PyTorch to Paddle that docs/convert.md shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pdserver.convert import inference_model_to_serving
from tests.conftest import Lent, run_script

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).with_name("torch_weights.npz")
"""The weights of the page's network, as PyTorch 2.13 had them, with an input and PyTorch's own output for it."""
PACKAGES = ("torch==2.13.0", "onnx==1.16.2", "x2paddle==1.6.0", "paddlepaddle==3.3.1", "six", "requests")
CHECK = """
recorded = np.load(sys.argv[1])
found = net(paddle.to_tensor(recorded["asked.x"])).numpy()
assert np.abs(found - recorded["asked.y"]).max() < 1e-5, found
"""


def test_weights_that_are_carried_over_give_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "convert.md").read_text()
    [script] = re.findall(r"^\$ cat > carry\.py <<'END'\n(.*?)^> END\n", page, re.MULTILINE | re.DOTALL)
    shutil.copy(RECORDED, "weights.npz")
    run_script("-c", "import sys\n" + re.sub(r"^> ", "", script, flags=re.MULTILINE) + CHECK, RECORDED)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch_networks.py writes."""
    environment = ROOT / "build" / "x2paddle"
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"x2paddle can't be installed: {done.stderr[-500:]}")
        (environment / "installed").touch()
    folder = tmp_path_factory.mktemp("torch")
    command = [str(python), "-W", "ignore", str(ROOT / "tests" / "torch_networks.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return folder


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["resnet18", "bert"])
def test_what_x2paddle_converts_is_served(converted: Path, name: str, lent: Lent, tmp_path: Path) -> None:
    recorded = dict(np.load(converted / f"{name}.npz"))
    scores = recorded.pop("scores")
    inference_model_to_serving(
        converted / name / "inference_model",
        tmp_path / "server",
        tmp_path / "client",
        feed_alias_names=",".join(recorded),
        fetch_alias_names="scores",
    )
    server = lent("base_handler", name, serialized_file=tmp_path / "server")
    for row, expected in enumerate(scores):
        answer = server.predict(name, json={key: value[row].tolist() for key, value in recorded.items()})
        assert answer.status_code == 200, answer.text
        assert np.allclose(answer.json()["scores"], expected, atol=1e-5)
