"""Paddle Serving's converter: `python -m pdserver.convert`, with the flags of `paddle_serving_client.convert`.

It does not need Paddle, and reads the models of Paddle 2 and 3. `pd-model-archiver convert` is the same.
"""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path

from pdarchiver import cli
from pdarchiver import convert as converter
from pdserver.system.standard_streams import say


def inference_model_to_serving(
    dirname: str | PathLike[str],
    serving_server: str | PathLike[str] = "serving_server",
    serving_client: str | PathLike[str] = "serving_client",
    model_filename: str | None = None,
    params_filename: str | None = None,
    *,
    show_proto: bool = False,
    feed_alias_names: str | None = None,
    fetch_alias_names: str | None = None,
    encryption: bool = False,
    key_file: str | PathLike[str] | None = None,
    force: bool = False,
) -> tuple[list[str], list[str]]:
    """Write the folders of Paddle Serving for the model in `dirname`, or with `show_proto` only print their prototxt.

    Alias names are separated by commas. With `encryption`, the model's new key is written to `key_file`. `force`
    replaces folders that an earlier call wrote. Returns the model's own names of its inputs and outputs.

    Raises ValueError for `encryption` without `key_file`; pdarchiver.ArchiveError, which says what to change; OSError.
    """
    if encryption != (key_file is not None):
        raise ValueError("encryption=True and key_file belong together: the new key is written to that file")
    options = converter.ConvertOptions(
        dirname=Path(dirname),
        serving_server=Path(serving_server),
        serving_client=Path(serving_client),
        model_filename=model_filename,
        params_filename=params_filename,
        feed_alias_names=None if feed_alias_names is None else feed_alias_names.split(","),
        fetch_alias_names=None if fetch_alias_names is None else fetch_alias_names.split(","),
        key_file=None if key_file is None else Path(key_file),
        force=force,
    )
    if show_proto:
        signature, text = converter.show(options)
        say(text.rstrip("\n"))
    else:
        signature = converter.convert(options)
    return [spec.source for spec in signature.inputs], [spec.source for spec in signature.outputs]


if __name__ == "__main__":
    sys.exit(cli.main(["convert", *sys.argv[1:]]))
