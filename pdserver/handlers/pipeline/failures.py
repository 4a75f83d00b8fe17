"""How a request fails in Pipeline: with a number that its clients know, and a text.

Source of the numbers: `CustomExceptionCode` in pipeline/error_catch.py of paddle_serving_server 0.9.
"""

from __future__ import annotations

import enum


class CustomExceptionCode(enum.Enum):
    """Why a request has no answer. Numbers from 50 to 99 are the user's own."""

    OK = 0
    PRODUCT_ERROR = 50
    NOT_IMPLEMENTED = 3000
    CLOSED_ERROR = 3001
    NO_SERVICE = 3002
    INIT_ERROR = 3003
    CONF_ERROR = 4000
    INPUT_PARAMS_ERROR = 5000
    TIMEOUT = 6000
    TYPE_ERROR = 7000
    RPC_PACKAGE_ERROR = 8000
    CLIENT_ERROR = 9000
    UNKNOW = 10000


class ProductErrCode(enum.Enum):
    """Without members, to be subclassed with the user's own numbers, from 51 to 99."""


class OpFailed(Exception):
    """One request fails with this number and text."""

    def __init__(self, code: CustomExceptionCode | int, message: str) -> None:
        super().__init__(message)
        self.number = code if isinstance(code, int) else code.value


class CustomException(OpFailed):
    """What a user's Op raises to fail a request in its own words."""

    def __init__(self, code: enum.Enum, message: str, is_sent_to_user: bool = True) -> None:
        """`is_sent_to_user` is accepted as there, where a false one ends the whole server."""
        super().__init__(int(code.value), message)


def raise_product_error(number: object, text: object) -> None:
    """Raise OpFailed for what a user's hook returned as its error: a number or a member of an enum; None and 0 are no
    error."""
    if isinstance(number, enum.Enum):
        number = number.value
    if number is None or number == 0:
        return
    if not isinstance(number, int):
        raise OpFailed(CustomExceptionCode.TYPE_ERROR, f"prod_errcode={number!r}: expected a whole number or None")
    raise OpFailed(number, str(text))
