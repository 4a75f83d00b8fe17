"""Modules with Paddle Serving's names and what this server has of them.

`paddle_serving_app` is there as soon as `pdserver.pipeline_service` is imported, unless it is installed. The whole of
Paddle Serving is there with `pdserver.compat`, installed or not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pdserver.formats.values import nearest
from pdserver.handlers import reader
from pdserver.handlers.pipeline.local_predictor import LocalPredictor

APP = "paddle_serving_app"
_READERS = ("reader", "reader.image_reader", "reader.imdb_reader", "reader.chinese_bert_reader")


def put_app() -> None:
    """Put `paddle_serving_app` in place: the operators, and the predictor."""
    for name in (APP, *(f"{APP}.{below}" for below in _READERS)):
        put(name, reader.__all__, lambda wanted: getattr(reader, wanted))
    put(f"{APP}.local_predict", ["LocalPredictor"], lambda _: LocalPredictor)


def put_app_unless_installed() -> None:
    if APP not in sys.modules and find_spec(APP) is None:
        put_app()


def put(name: str, public: Iterable[str], get: Callable[[str], Any], more: Callable[[str], Any] | None = None) -> None:
    """Put a module in place. `get` gives what is called so, of the `public` names; `more` gives others, or None."""
    known = list(public)

    def find(wanted: str) -> Any:
        if wanted in known:
            return get(wanted)
        found = None if more is None else more(wanted)
        if found is None:
            raise AttributeError(f"{name} has no {wanted} here{nearest(wanted, known)} (docs/web-service.md)")
        return found

    module = ModuleType(name, f"What pdserver has of Paddle Serving's {name}.")
    # A module with a path is a package, so that modules below it can be imported.
    vars(module).update(__path__=[], __all__=known, __getattr__=find)
    sys.modules[name] = module
    above, _, last = name.rpartition(".")
    if above:
        setattr(sys.modules[above], last, module)
