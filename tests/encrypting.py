"""Archives of encrypted models, as Paddle Serving's converter leaves them."""

from __future__ import annotations

from pathlib import Path

from pdarchiver import PackOptions, convert, pack
from pdarchiver.convert import ConvertOptions


def encrypted(model: Path, folder: Path, store: Path, name: str, feed: str) -> Path:
    """Pack the model, of one input and one output, which get the names `feed` and scores. `folder` is made. Returns the
    key's file."""
    folder.mkdir()
    convert.convert(
        ConvertOptions(
            dirname=model,
            serving_server=folder / "server",
            serving_client=folder / "client",
            feed_alias_names=[feed],
            fetch_alias_names=["scores"],
            key_file=folder / "key",
        )
    )
    pack(PackOptions(model_name=name, version="1.0", serialized_file=folder / "server", export_path=store))
    return folder / "key"
