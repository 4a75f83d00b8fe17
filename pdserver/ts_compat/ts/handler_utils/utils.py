"""`ts.handler_utils.utils`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.handlers.context import Context


def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: object, message: str, code: int, context: Context
) -> None:
    """Send each request of the batch the next piece of its answer, as `Context.send_intermediate` does.

    `req_id_map`, `message` and `code` are ignored: the context knows the requests and sets the status.
    """
    context.send_intermediate(ret)
