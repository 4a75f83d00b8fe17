"""Folders with a model as Paddle's tools leave them, without a manifest: what theirs would be.

A file `model-config.yaml` in such a folder is its config file, as TorchServe calls it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from pdarchiver import manifest as manifests
from pdarchiver import model, modelconfig, signature
from pdarchiver.manifest import Manifest

CONFIG_FILE = "model-config.yaml"


def describe(folder: Path, name: str | None) -> Manifest:
    """The manifest for the model in `folder`. `raw` is complete, as if it had been read.

    Raises PackingError or InvalidModel if there is no model, or its files do not belong together; OSError.
    """
    files = model.find(folder, None, where="")
    described = model.read_signature(files, ", nor a file for each parameter; copy the whole folder")
    config_file = CONFIG_FILE if (folder / CONFIG_FILE).is_file() else None
    if config_file:
        config = modelconfig.read(folder / config_file)
        inputs, outputs = (modelconfig.public_names(config, side, Path(config_file)) for side in ("inputs", "outputs"))
        described = signature.rename(described, inputs, outputs, config_file)
    manifest = Manifest(
        model_name=name,
        serialized_file=files.model.name,
        params_file=files.params.name if files.params else None,
        config_file=config_file,
        signature=described,
    )
    return replace(manifest, raw=json.loads(manifests.dump(manifest)))


def has_separate_parameters(folder: Path) -> bool:
    """Whether each parameter of the model in `folder` has its own file, which Paddle can't load as they are.

    Raises what `describe` raises.
    """
    return model.has_separate_parameters(model.find(folder, None, where=""))


def lay_out(folder: Path, target: Path) -> None:
    """Make the folder `target` with links to all that is in `folder`, and one file of weights if there were many.

    Nothing is written to `folder`. Raises what `describe` raises.
    """
    target.mkdir(mode=0o700)
    try:
        for path in folder.iterdir():
            if path.name == CONFIG_FILE:
                shutil.copyfile(path, target / path.name)  # a link would lead out of the model's folder
            else:
                (target / path.name).symlink_to(path.resolve())
        model.with_one_weights_file(model.find(target, None, where=""), target)
    except BaseException:
        shutil.rmtree(target)
        raise
