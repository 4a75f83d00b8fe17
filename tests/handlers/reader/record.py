"""Records what the operators of paddle_serving_app 0.9 return, for the tests beside this file to compare with.

    python3.8 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install paddle_serving_app==0.9.0 numpy==1.23.5 opencv-python-headless==3.4.17.61 \
        pillow==9.5.0 pyclipper shapely six sentencepiece
    ENVIRONMENT/bin/python tests/handlers/reader/record.py
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from tests.handlers.reader.cases import FAMILIES, INPUTS, inputs  # noqa: E402

LIBRARIES = ("paddle_serving_app", "numpy", "opencv-python-headless", "pillow", "pyclipper", "shapely")


def operators() -> Any:
    """All of them, also those that the package does not export. Of Paddle, they need no more than names."""
    names = ("paddle", "paddle.fluid", "paddle.fluid.incubate", "paddle.fluid.incubate.data_generator")
    modules = {name: ModuleType(name) for name in names}
    vars(modules["paddle"])["Tensor"] = type("Tensor", (), {})
    vars(modules[names[-1]])["MultiSlotDataGenerator"] = object
    for name in names[1:]:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, modules[name])
    sys.modules.update(modules)
    from paddle_serving_app import reader
    from paddle_serving_app.reader import image_reader, imdb_reader, pptsn_reader

    return SimpleNamespace(
        **{
            **vars(image_reader),
            **vars(reader),
            "IMDBDataset": imdb_reader.IMDBDataset,
            "VideoCenterCrop": pptsn_reader.CenterCrop,
        }
    )


def record(family: str, reader: Any, given: dict[str, Any], versions: str) -> None:
    taken = {name: given[name] for name in INPUTS[family]}
    kept = {"versions": np.array(versions), **{f"input/{name}": value for name, value in taken.items()}}
    for name, case in FAMILIES[family].items():
        with tempfile.TemporaryDirectory() as folder:
            copies = {key: value.copy() for key, value in taken.items()}
            result = case(reader, dict(copies, folder=Path(folder)))
        parts = result if isinstance(result, tuple) else (result,)
        for number, part in enumerate(parts):
            if not isinstance(part, np.ndarray):
                part = np.array(json.dumps(part, ensure_ascii=False))
            kept[f"{name}/{number}"] = part
    path = HERE / "data" / f"{family}.npz"
    np.savez_compressed(path, **kept)
    print(path, path.stat().st_size, "bytes")


def main() -> None:
    installed = [f"{library} {metadata.version(library)}" for library in LIBRARIES]
    versions = ", ".join([f"Python {platform.python_version()}", *installed])
    print(versions)
    reader, given = operators(), inputs()
    for family in FAMILIES:
        record(family, reader, given, versions)


if __name__ == "__main__":
    main()
