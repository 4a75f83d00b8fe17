"""The sources of the server's configuration → one frozen Config. Precedence, highest first:

    command line > environment (PD_<KEY>, then TS_<KEY>, in capitals) > file > default

The file is --pd-config (or --ts-config), else PD_CONFIG_FILE, else TS_CONFIG_FILE, else ./config.properties if there
is one. Relative paths start at the working directory, whoever names them. In a value, `$$NAME$$` stands for the
environment variable NAME.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from pdarchiver.encryption import checked_key
from pdserver.configuration.layers import ignored_in_models
from pdserver.configuration.server import KEYS, Config, Given
from pdserver.configuration.tokens import Scope, Token
from pdserver.configuration.torchserve_keys import IGNORED_KEYS, OTHER_VARIABLES, REFUSED_KEYS
from pdserver.errors import ConfigError
from pdserver.formats.properties import PropertiesError, parse_properties
from pdserver.formats.values import nearest, shown

_MODEL_KEY = "PD_MODEL_KEY"


def load_config(
    overrides: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
    config_file: Path | None = None,
    *,
    keys: AbstractSet[str] | None = None,
) -> Config:
    """The configuration from the command line (`overrides` by key, and `config_file`), the environment and the file.

    With `keys`, only these are looked at, whatever is wrong with others, which have their defaults.

    Raises ConfigError; its text has one line for each problem found: source, key, value, fix.
    """
    problems: list[str] = []
    path = _find_file(environ, config_file)
    in_file, ignored = _from_file(path, problems) if path else ({}, [])
    given = _from_environment(environ)
    given |= {name: Given(KEYS[name].flag, text) for name, text in overrides.items() if name in KEYS}
    if "load_models" in given:
        in_file.pop("model_snapshot", None)
    given |= {name: value for name, value in in_file.items() if name not in given}
    ignored += [name for name in overrides if name in IGNORED_KEYS and name not in ignored]
    if keys is not None:
        problems = []
        values = _parse({name: given[name] for name in keys & given.keys()}, environ, problems)
        _refuse(problems)
        looked_at = {name: value for name, value in given.items() if name in keys}
        return Config(**values, given=looked_at, xdg_state_home=_xdg_state_home(environ))
    values = _parse(given, environ, problems)
    tokens = _tokens(environ, problems)
    model_key = _model_key(environ, problems)
    problems += _contradictions(given, values)
    _refuse(problems)
    if "models" in given:
        ignored += ignored_in_models(_fill_in(given["models"].text, environ))
    warnings = [f"settings that have no meaning here, ignored: {', '.join(map(shown, ignored))}"] if ignored else []
    return Config(
        **values,
        given=given,
        tokens=tokens,
        model_key=model_key,
        config_file=path,
        xdg_state_home=_xdg_state_home(environ),
        notify_socket=environ.get("NOTIFY_SOCKET", ""),
        watchdog_seconds=_watchdog_seconds(environ),
        ignored_keys=tuple(ignored),
        warnings=(*warnings, *_unknown_variables(environ), *_closed_to_json(values)),
    )


def is_given(environ: Mapping[str, str]) -> bool:
    """Whether there is anything to read besides the command line. Raises ConfigError."""
    return _find_file(environ, None) is not None or bool(_from_environment(environ))


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _contradictions(given: Mapping[str, Given], values: Mapping[str, Any]) -> list[str]:
    problems = []
    others = [key for key in ("model_repository", "tensorflow_model_config") if key in given]
    if "model_store" not in given and not any(values.get(key, "unreadable") for key in others):
        problems.append(
            "model_store is not set: use --model-store FOLDER, or model_store=FOLDER in config.properties,"
            " to name the folder that holds the archives"
        )
    if values.get("load_model") and values.get("model_control_mode") != "explicit":
        problems.append(
            f"{given['load_model'].where}={shown(given['load_model'].text)}: this needs model_control_mode=explicit;"
            " in the other modes, all models of the repository are loaded"
        )
    return problems


def _closed_to_json(values: Mapping[str, Any]) -> list[str]:
    headers = [name.strip().lower() for name in values.get("cors_allowed_headers", "*").split(",")]
    if not values.get("cors_allowed_origin") or "content-type" in headers or "*" in headers:
        return []
    return ["cors_allowed_headers lacks content-type: browsers send no JSON from the pages of cors_allowed_origin"]


def _xdg_state_home(environ: Mapping[str, str]) -> Path | None:
    home = Path(environ.get("XDG_STATE_HOME", ""))
    return home if home.is_absolute() else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """As sd_watchdog_enabled(3) reads it. What is not meant for this process, or is no number, counts as nothing."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(text) / 1e6


def _parse(given: Mapping[str, Given], environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The values by Config's fields, in the table's order."""
    values: dict[str, Any] = {}
    for key in KEYS.values():
        if key.name in given:
            where, text = given[key.name]
            try:
                values[key.field] = key.parse(_fill_in(text, environ).strip())
            except ValueError as problem:
                problems.append(f"{where}={shown(text)}: {problem}")
    return values


def _fill_in(text: str, environ: Mapping[str, str]) -> str:
    """`text` with each `$$NAME$$` replaced by that environment variable."""

    def replace(match: re.Match[str]) -> str:
        if match.group(1) not in environ:
            raise ValueError(f"the environment variable {match.group(1)} is not set")
        return environ[match.group(1)]

    return re.sub(r"\$\$([A-Za-z_][A-Za-z0-9_]*)\$\$", replace, text)


def _find_file(environ: Mapping[str, str], config_file: Path | None) -> Path | None:
    if config_file:
        path, where = config_file, "--pd-config"
    elif variable := next((name for name in ("PD_CONFIG_FILE", "TS_CONFIG_FILE") if environ.get(name)), None):
        path, where = Path(environ[variable]), f"environment variable {variable}"
    else:
        path = Path("config.properties")
        return path if path.is_file() else None
    if not path.is_file():
        reason = "a folder, not a file" if path.is_dir() else "no such file"
        raise ConfigError(f"{where}={shown(str(path))}: {reason}: name a config.properties file")
    return path


def _from_file(path: Path, problems: list[str]) -> tuple[dict[str, Given], list[str]]:
    """What the file gives, by key, and the keys in it that are ignored."""
    try:
        entries = parse_properties(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except PropertiesError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    given: dict[str, Given] = {}
    lines: dict[str, int] = {}
    for line, key, text, has_sign in entries:
        where = f"{path}:{line}: {shown(key)}"
        if key in lines:
            problems.append(f"{where}: given twice, first on line {lines[key]}: keep one")
        elif key in KEYS:
            given[key] = Given(where, text)
        elif key in REFUSED_KEYS:
            problems.append(f"{where}: not known here: {REFUSED_KEYS[key]}")
        elif key not in IGNORED_KEYS:
            fix = nearest(key, KEYS) or (": remove it" if has_sign else ": expected key=value, or # before a comment")
            problems.append(f"{where}: unknown key{fix}")
        lines.setdefault(key, line)
    return given, [key for key in lines if key in IGNORED_KEYS]


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name in KEYS:
        for variable in (f"PD_{name.upper()}", f"TS_{name.upper()}", OTHER_VARIABLES.get(name, "")):
            if environ.get(variable):
                given[name] = Given(f"environment variable {variable}", environ[variable])
                break
    return given


def _tokens(environ: Mapping[str, str], problems: list[str]) -> tuple[Token, ...]:
    """Those of the environment, for each scope one or more, separated by commas; no file or argument shows them."""
    tokens: list[Token] = []
    for scope in Scope:
        for text in filter(None, environ.get(_token_variable(scope), "").split(",")):
            try:
                tokens.append(Token.of(text.strip(), scope))
            except ValueError as problem:
                problems.append(f"environment variable {_token_variable(scope)}: {problem}")
    return tuple(tokens)


def _model_key(environ: Mapping[str, str], problems: list[str]) -> bytes:
    """The key of encrypted models, in base64. Errors don't show it."""
    text = environ.get(_MODEL_KEY, "")
    try:
        return checked_key(base64.b64decode(text, validate=True)) if text else b""
    except ValueError as problem:
        problems.append(f"environment variable {_MODEL_KEY}: base64 of a key is expected: {problem}")
        return b""


def _token_variable(scope: Scope) -> str:
    return f"PD_{scope.name}_TOKEN"


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each PD_ variable that looks like a misspelt key; others may own the prefix, so not for the rest."""
    known = {f"PD_{name.upper()}" for name in KEYS} | {"PD_CONFIG_FILE", _MODEL_KEY, *map(_token_variable, Scope)}
    unknown = sorted(name for name in environ if name.startswith("PD_") and name not in known)
    return [
        f"environment variable {shown(name)}: not a key{meant}"
        for name in unknown
        if (meant := nearest(name, known, cutoff=0.9))
    ]
