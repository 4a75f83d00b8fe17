"""A request's body: a picture or document in base64 or by its URL, and fields that say what to do with it.

PaddleX checks the fields that it knows and ignores others. Here, others are passed on: a pipeline may know more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.handlers.runtime.base64_text import from_base64
from pdserver.memory_file import Buffer

_Number = int | float
_PDF = b"%PDF-"
PDF, PICTURE = 0, 1
"""`fileType`."""


class _Picture(msgspec.Struct, rename="camel"):
    image: str
    visualize: bool | None = None
    log_id: str | None = None


class _Document(msgspec.Struct, rename="camel"):
    file: str
    file_type: Literal[0, 1] | None = None
    visualize: bool | None = None
    log_id: str | None = None
    use_doc_orientation_classify: bool | None = None
    use_doc_unwarping: bool | None = None
    use_textline_orientation: bool | None = None
    text_det_limit_side_len: int | None = None
    text_det_limit_type: str | None = None
    text_det_thresh: _Number | None = None
    text_det_box_thresh: _Number | None = None
    text_det_unclip_ratio: _Number | None = None
    text_rec_score_thresh: _Number | None = None


class _Ocr(_Document, rename="camel"):
    return_word_box: bool | None = None


class _LayoutParsing(_Document, rename="camel"):
    use_seal_recognition: bool | None = None
    use_table_recognition: bool | None = None
    use_formula_recognition: bool | None = None


class _ImageClassification(_Picture, rename="camel"):
    topk: Annotated[int, msgspec.Meta(gt=0)] | None = None


class _ObjectDetection(_Picture, rename="camel"):
    threshold: _Number | dict[str, _Number] | None = None


class _SemanticSegmentation(_Picture, rename="camel"):
    target_size: int | list[int] | None = None


_FORMS: dict[str, type[_Picture | _Document]] = {
    "ocr": _Ocr,
    "image-classification": _ImageClassification,
    "object-detection": _ObjectDetection,
    "semantic-segmentation": _SemanticSegmentation,
    "layout-parsing": _LayoutParsing,
}
TASKS = frozenset(_FORMS)
"""The paths, and what follows `paddlex/` in the contracts of pipelines."""


class Given(msgspec.Struct, frozen=True, array_like=True):
    """What a body says."""

    fields: bytes
    """All but the picture, as a JSON object; `fileType` is in that of a document."""
    picture: bytes = b""
    """The file's data; empty if there is a URL, and if they are in a memory file."""
    url: str = ""
    is_pdf: bool = False
    log_id: str = ""
    """The client's, if it gives one."""


def read_body(task: str, body: Buffer) -> Given:
    """Raises InvalidRequest, whose text is a JSON list of what is wrong, as PaddleX has it."""
    try:
        fields = strict_json.loads(body)
    except strict_json.InvalidJson as error:
        raise _invalid("json_invalid", [], f"JSON decode error: {error}") from None
    if not isinstance(fields, dict):
        raise _invalid("model_attributes_type", [], "Input should be a valid dictionary")
    form = _FORMS[task]
    try:
        read = msgspec.convert(fields, form, strict=False)
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    source = "file" if isinstance(read, _Document) else "image"
    text = fields.pop(source)
    if text.startswith(("http://", "https://")):
        return _typed(read, fields, Given(b"", url=text))
    picture = _decoded(source, text)
    if not picture:
        raise _invalid("value_error", [source], "it is empty")
    return _typed(read, fields, Given(b"", picture))


def _typed(read: _Picture | _Document, fields: dict[str, Any], given: Given) -> Given:
    """With the type of a document, which the client says, or its first bytes or the end of its URL do."""
    is_pdf = False
    if isinstance(read, _Document):
        looks = given.picture.startswith(_PDF) or given.url.partition("?")[0].lower().endswith(".pdf")
        kind = read.file_type if read.file_type is not None else PDF if looks else PICTURE
        is_pdf = kind == PDF
        fields["fileType"] = kind
    return msgspec.structs.replace(given, fields=msgspec.json.encode(fields), is_pdf=is_pdf, log_id=read.log_id or "")


def _decoded(source: str, text: str) -> bytes:
    try:
        return from_base64(text)
    except InvalidRequest as error:
        raise _invalid("value_error", [source], f"{error}; or a URL that begins with http:// or https://") from None


def _misfit(error: msgspec.ValidationError) -> InvalidRequest:
    problem, _, place = str(error).partition(" - at `$")
    if not place and problem.startswith("Object missing required field `"):
        return _invalid("missing", [problem.split("`")[1]], "Field required")
    return _invalid("value_error", [part for part in place.rstrip("`").split(".") if part], problem)


def _invalid(kind: str, place: list[str], problem: str) -> InvalidRequest:
    """In the form of pydantic's errors, without the input."""
    return InvalidRequest(msgspec.json.encode([{"type": kind, "loc": ["body", *place], "msg": problem}]).decode())
