"""TensorFlow Serving's SSLConfig, which holds PEM texts, as the files that our keys name."""

from __future__ import annotations

from pathlib import Path

from pdserver.dialects.protos import message_class
from pdserver.dialects.protos.text import read
from pdserver.errors import ConfigError

_SslConfig = message_class("tensorflow.serving.SSLConfig")
_BEGIN = "-----BEGIN "


def keys(file: Path, folder: Path) -> dict[str, str]:
    """Write the texts to files in the folder. Returns the keys that name them. Raises ConfigError."""
    config = read(file, _SslConfig, f"--ssl_config_file: {file}")
    wanted = {"server_key": "private_key_file", "server_cert": "certificate_file"}
    if config.client_verify:
        wanted["custom_ca"] = "client_ca_file"
    found = {}
    for field, key in wanted.items():
        text: str = getattr(config, field)
        if _BEGIN not in text:
            why = "client_verify needs it: " if field == "custom_ca" else ""
            raise ConfigError(
                f"--ssl_config_file: {file}: {field}: {why}expected the text of a PEM file, with {_BEGIN}…"
            )
        path = folder / f"{field}.pem"
        path.touch(0o600)
        path.write_text(text)
        found[key] = str(path)
    return found


def has_unused_authority(file: Path) -> bool:
    """Whether the file names an authority of clients that need no certificate."""
    config = read(file, _SslConfig, f"--ssl_config_file: {file}")
    return bool(config.custom_ca) and not config.client_verify
