"""YAML from strangers, as `pdarchiver.safe_yaml` reads it, with errors for the server's users."""

from __future__ import annotations

from typing import Any

from pdarchiver import safe_yaml
from pdserver.errors import ConfigError
from pdserver.formats.values import shown


def load_yaml(text: bytes, where: str, *, aliases: bool = False) -> Any:
    """What `safe_yaml.load` reads. `where` names the document in errors. Raises ConfigError for what that refuses."""
    try:
        return safe_yaml.load(text, aliases=aliases)
    except safe_yaml.InvalidYaml as error:
        raise ConfigError(f"{where}{error.place}: {shown(str(error))}") from None
