"""What a snapshot says: which archives are served under which names, with which settings. Pure: models ↔ text.

The JSON is that of TorchServe's `model_snapshot` key, so that either server reads what the other has written;
`handler` is there only when it isn't the archive's own, and `sha256` when the archive must be that one: TorchServe
can say neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pdserver.configuration.layers import parse_settings
from pdserver.configuration.model import MODEL_SETTINGS, PartialSettings
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.errors import ConfigError
from pdserver.formats import strict_json
from pdserver.formats.values import SHA256, shown, takes

# Written: what calls of the management API can set. The rest comes from the archive and the configuration.
_WRITTEN = [row for row in MODEL_SETTINGS.values() if row.parameter]
_OTHERS = frozenset({"defaultVersion", "marName", "handler", "runtimeType", "parallelLevel", "sha256"})
_EXPECTED = 'expected JSON such as {"models": {"digits": {"1.0": {"marName": "digits.pdar", "minWorkers": 1}}}}'


def snapshot_text(name: str, created_ms: int, models: Sequence[ModelToLoad]) -> str:
    """The JSON, on one line. `models` have a name and a version each."""
    by_name: dict[str, dict[str, Any]] = {}
    for model in models:
        assert model.name is not None and model.version is not None  # noqa: S101, PT018
        by_name.setdefault(model.name, {})[model.version] = _entry(model)
    return json.dumps({"name": name, "modelCount": len(models), "created": created_ms, "models": by_name})


def _entry(model: ModelToLoad) -> dict[str, Any]:
    entry: dict[str, Any] = {"defaultVersion": model.default, "marName": model.url, "runtimeType": "python"}
    if model.handler is not None:
        entry["handler"] = model.handler
    if model.sha256 is not None:
        entry["sha256"] = model.sha256
    return entry | {
        row.name: row.parse.write(model.settings[row.field]) for row in _WRITTEN if row.field in model.settings
    }


@takes("JSON")
def snapshot_models(text: str) -> tuple[ModelToLoad, ...]:
    """The models of such JSON; of empty text, none. Raises ValueError with what is wrong."""
    if not text:
        return ()
    try:
        snapshot = strict_json.loads(text.encode(errors="surrogatepass"))
    except strict_json.InvalidJson as error:
        raise ValueError(f"{_EXPECTED}: {error}") from None
    if not isinstance(snapshot, dict) or not isinstance(snapshot.get("models"), dict):
        raise ValueError(_EXPECTED)
    models = tuple(_models(snapshot["models"]))
    if snapshot.get("modelCount", len(models)) not in (len(models), len(snapshot["models"])):
        raise ValueError(f"modelCount is {shown(snapshot['modelCount'])}, but there are {len(models)} models")
    return models


def _models(by_name: dict[str, Any]) -> Iterator[ModelToLoad]:
    for name, versions in by_name.items():
        if not isinstance(versions, dict):
            raise ValueError(f"{_EXPECTED}: {shown(name)} needs versions")
        for version, entry in versions.items():
            where = f"{shown(name)} {shown(version)}"
            if not isinstance(entry, dict) or not isinstance(entry.get("marName"), str):
                raise ValueError(f"{_EXPECTED}: {where} needs a marName")
            handler = entry.get("handler")
            if not isinstance(handler, str | None) or not isinstance(entry.get("defaultVersion", False), bool):
                raise ValueError(f"{where}: handler is a text, defaultVersion true or false")
            sha256 = entry.get("sha256")
            if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
                raise ValueError(f"{where}: sha256 is 64 hexadecimal digits in lower case")
            yield ModelToLoad(
                url=entry["marName"],
                name=name,
                version=version,
                handler=handler,
                settings=_settings(entry, where),
                sha256=sha256,
                default=entry.get("defaultVersion", False),
            )


def _settings(entry: dict[str, Any], where: str) -> PartialSettings:
    values = {key: value for key, value in entry.items() if key not in _OTHERS}
    try:
        return parse_settings(values, where)
    except ConfigError as error:
        raise ValueError(str(error)) from None
