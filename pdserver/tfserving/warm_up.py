"""TensorFlow Serving's warm-up records as requests, which each worker answers before it serves.

Source: saved_model_warmup.cc, saved_model_warmup_util.cc and prediction_log.proto. The front end reads the records, in
a thread and one at a time, as it reads clients' requests. So workers need nothing of the protocol, and what clients
could not ask fails alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import fields
from pdserver.dialects.tensorflow import examples_message, predict_message
from pdserver.dialects.tensorflow.examples_json import scores_of
from pdserver.dialects.tensorflow.examples_methods import FORMS
from pdserver.dialects.tensorflow.request import Asked, Form, check_signature
from pdserver.dialects.tensorflow.tensor_proto import FewElements
from pdserver.errors import ArchiveUnusable, InvalidRequest, PdError
from pdserver.formats.tf_records import records
from pdserver.formats.values import shown
from pdserver.store.model import WarmUp
from pdserver.types import Interface, Request

FILE = "assets.extra/tf_serving_warmup_requests"
MOST_RECORDS = 1000
_LOG = "tensorflow.serving.PredictionLog"
_REQUEST = 0x0A
"""How the request begins in the log of each method."""
_MOST_BYTES = 512 * 1024 * 1024
"""Of a tensor whose elements are repeated, and of a context in all examples together."""
_MultiInference = message_class("tensorflow.serving.MultiInferenceRequest")


def of_version(folder: Path, iterations: int) -> WarmUp | None:
    """What the records in a version's folder ask, each so many times; None if it has none."""
    path = folder / FILE
    return partial(_requests, path, iterations) if path.is_file() else None


def _requests(path: Path, iterations: int, spec: ModelSpec, interface: Interface) -> Iterator[Request]:
    """Raises ArchiveUnusable, which says the record's number from 1 on."""
    number = 0
    try:
        for number, record in enumerate(records(path), 1):
            if number > MOST_RECORDS:
                raise ArchiveUnusable(f"{FILE}: more than {MOST_RECORDS} records: leave some out")
            request = read(record, Asked(spec, interface, [], _place(number)))
            for _ in range(iterations if request is not None else 0):
                assert request is not None  # noqa: S101
                yield request
    except OSError as error:
        raise ArchiveUnusable(f"{FILE}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArchiveUnusable(f"{_place(number + 1)}: {error}: write it with tf.io.TFRecordWriter") from None
    except ArchiveUnusable:
        raise
    except PdError as error:
        raise ArchiveUnusable(f"{_place(number)}: {error}") from None


def _place(number: int) -> str:
    return f"{FILE}: record {number}"


def read(record: bytes, asked: Asked) -> Request | None:
    """What a record asks; None if it asks nothing. Raises InvalidRequest and Unsupported."""
    found = None
    for tag, _, place, end in fields(record, _LOG):
        if tag in _LOGS:
            found = tag, place, end  # of several, the last one counts
    if found is None:
        return None
    tag, place, end = found
    log = memoryview(record)[place:end]
    given = [log[place:end] for tag, _, place, end in fields(log, _LOG) if tag == _REQUEST]
    return _LOGS[tag](given[-1] if given else log[:0], asked)


def _predict(data: memoryview, asked: Asked) -> Request:
    message, entries = predict_message.cut(data)
    check_signature(message.model_spec.signature_name)
    inputs = predict_message.cut_inputs(entries)
    if inputs is None:
        message, inputs = predict_message.whole(data)
    try:
        return predict_message.read_inputs(asked, inputs, message.output_filter)
    except FewElements:
        return predict_message.read_filled(asked, data, _MOST_BYTES)


def _examples(name: str, form: Form, data: memoryview, asked: Asked) -> Request:
    rest, given = examples_message.cut(data, name)
    check_signature(decode(message_class(name), rest).model_spec.signature_name)
    return examples_message.read_input(asked, given, form, _MOST_BYTES)


def _multi_inference(data: memoryview, asked: Asked) -> Request | None:
    """The model runs once for all tasks, as it does for clients."""
    rest, given = examples_message.cut(data, _MultiInference.DESCRIPTOR.full_name)
    tasks = decode(_MultiInference, rest).tasks
    forms = [_form_of(task.method_name) for task in tasks]
    for form in forms:
        scores_of(asked.interface, form)
    return examples_message.read_input(asked, given, forms[0], _MOST_BYTES) if forms else None


def _form_of(method: str) -> Form:
    form = FORMS.get(method)
    if form is None:
        raise InvalidRequest(f"Unsupported signature method_name: {shown(method)}")
    return form


def _unsupported(field: str, data: memoryview, asked: Asked) -> Request:
    raise InvalidRequest(
        f"Unsupported log_type for warmup: {field}: only requests of PredictionService can be replayed"
    )


_LOGS: Mapping[int, Callable[[memoryview, Asked], Request | None]] = {
    0x12: partial(_examples, "tensorflow.serving.ClassificationRequest", "classify"),
    0x1A: partial(_examples, "tensorflow.serving.RegressionRequest", "regress"),
    0x22: _multi_inference,
    0x2A: partial(_unsupported, "session_run_log"),
    0x32: _predict,
    0x3A: partial(_unsupported, "predict_streamed_log"),
}
"""How the log of each method begins in a record."""
