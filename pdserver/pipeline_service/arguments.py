"""`python web_service.py --config=config.yml -o op.uci.concurrency=4`: a config.yml, and values that replace its.

Names and flags are those of `ArgsParser` in util.py of paddle_serving_server 0.9.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdserver.errors import ConfigError
from pdserver.formats.safe_yaml import load_yaml
from pdserver.formats.values import shown


class ArgsParser(argparse.ArgumentParser):
    """`parse_args().conf_dict` is what config.yml and the options say, for `prepare_pipeline_config(yml_dict=…)`."""

    def __init__(self) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("-c", "--config", help="configuration file to use")
        self.add_argument("-o", "--opt", nargs="+", help="set configuration options, such as op.uci.concurrency=4")

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        found = super().parse_args(args)
        if found.config is None:
            self.error("name the configuration file: --config config.yml")
        try:
            found.conf_dict = with_options(read_file(found.config), found.opt or ())
        except ConfigError as error:
            self.error(str(error))
        return found


def read_file(path: str) -> Any:
    """The content of a config.yml. Raises ConfigError."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return load_yaml(text, path, aliases=True)


def with_options(config: Any, options: Sequence[str]) -> dict[str, Any]:
    """`config` with the values of `options`, each `key.key=value`, the value as YAML. Raises ConfigError."""
    result: dict[str, Any] = config if isinstance(config, dict) else {}
    for option in options:
        path, equals, text = option.strip().partition("=")
        *sections, last = path.split(".")
        if not equals or not last:
            raise ConfigError(f"-o {shown(option)}: expected KEY=VALUE, such as op.uci.concurrency=4")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"-o {shown(option)}: {name} is a value, with no keys below it")
        section[last] = load_yaml(text.encode(), f"-o {shown(option)}")
    return result
