"""Handlers written for TorchServe find `ts` in workers, and in it this server's own classes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pdserver.errors import LoadFailed
from pdserver.types import Reply
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, refusal

EVERY_NAME = """
from ts import __version__
from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.timer import timed
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units
from ts.protocol.otf_message_handler import send_intermediate_predict_response as deprecated
from ts.service import emit_metrics
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.image_segmenter import ImageSegmenter
from ts.torch_handler.object_detector import ObjectDetector
from ts.torch_handler.text_classifier import TextClassifier
from ts.torch_handler.text_handler import TextHandler
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import PredictionException, list_classes_from_module, load_label_mapping, map_class_to_label
from ts.version import __version__ as same
"""
UPPER = """
import logging, os
from abc import ABC
from ts.torch_handler.base_handler import BaseHandler

class Upper(BaseHandler, ABC):
    def __init__(self):
        super(Upper, self).__init__()
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        self.name = self.manifest["model"]["modelName"]
        self.initialized = True

    def preprocess(self, requests):
        return [row.get("data") or row.get("body") for row in requests]

    def inference(self, texts, *args, **kwargs):
        return [text.upper() for text in texts]

    def postprocess(self, texts):
        return [[text, self.initialized] for text in texts]
"""
CLASSES = """
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label

class Classes(BaseHandler):
    def preprocess(self, data):
        return {"x": [row["body"] for row in data]}

    def inference(self, inputs):
        import numpy as np
        return self.model({"x": np.array(inputs["x"], "float32")})

    def postprocess(self, outputs):
        (scores,) = outputs.values()
        return [[label, self.device] for label in map_class_to_label(scores.tolist(), self.mapping)]
"""
ROW = [0.5] * 13


def in_a_worker(source: str, *flags: str, folder: Path = Path("unused")) -> str:
    """What a program prints that has the folders of a worker."""
    from pdserver.handlers.runtime.service import _TORCHSERVE_NAMES

    program = f"import sys; sys.path += [{str(folder)!r}, {_TORCHSERVE_NAMES!r}]\n{source}"
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_is_there_and_is_ours() -> None:
    said = in_a_worker(
        EVERY_NAME
        + """
from pdserver.handlers import base, context, image_classifier, image_segmenter, object_detector, text_classifier
assert Context is context.Context and PredictionException is base.PredictionException
for theirs, ours in [(BaseHandler, base.BaseHandler), (VisionHandler, image_classifier.ImageClassifier),
                     (ImageClassifier, image_classifier.ImageClassifier),
                     (ObjectDetector, object_detector.ObjectDetector),
                     (ImageSegmenter, image_segmenter.ImageSegmenter), (TextHandler, text_classifier.TextClassifier),
                     (TextClassifier, text_classifier.TextClassifier)]:
    assert issubclass(theirs, ours) and issubclass(theirs, BaseHandler), theirs
emit_metrics([Dimension("Level", "Model")])
print(__version__ == same, "torch" in sys.modules, "paddle" in sys.modules)
"""
    )
    assert said.split("\n") == ["[METRICS]Level:Model", "True False False", ""]


def test_nothing_imports_it_unasked() -> None:
    said = in_a_worker("import pdserver.worker.child, pdserver.worker.nursery; print('ts' in sys.modules)")
    assert said == "False\n"


def test_another_ts_goes_before(tmp_path: Path) -> None:
    (tmp_path / "ts").mkdir()
    (tmp_path / "ts" / "__init__.py").write_text("origin = 'theirs'")
    assert in_a_worker("import ts; print(ts.origin)", folder=tmp_path) == "theirs\n"


def test_a_handler_of_its_own_values(load: Load) -> None:
    service = load(None, source=UPPER)
    assert list(map(answer, service.run([json("a"), json("b")]))) == [["A", True], ["B", True]]


def test_a_handler_on_a_paddle_model(load: Load, models: Path) -> None:
    service = load(source=CLASSES, files={"index_to_name.json": b'{"0": ["id", "price"]}'})
    [[prices, device]] = map(answer, service.run([json(ROW)]))
    [expected] = map(answer, load().run([json(ROW)]))
    assert list(prices) == ["price"]
    assert device == "cpu"
    assert prices["price"] == pytest.approx(next(iter(expected.values()))[0])


MOVED = """
import numpy as np
import paddle
from ts.torch_handler.base_handler import BaseHandler

class Moved(BaseHandler):
    def preprocess(self, data):
        return paddle.to_tensor([row["body"] for row in data], "{dtype}")

    def inference(self, data):
        return self.model({given})

    def postprocess(self, outputs):
        (scores,) = outputs.values()
        return scores.tolist()
"""


@pytest.mark.parametrize("given", ["data", "data.numpy()", "data.tolist()", "{'x': data}", "{'x': data.numpy()}",
                                   "{'x': list(data)}"])  # fmt: skip
def test_the_model_takes_arrays_and_tensors(load: Load, given: str) -> None:
    service = load(source=MOVED.format(dtype="float32", given=given))
    rows = [[0.5] * 13, [0.25] * 13]
    expected = [next(iter(answer(outcome).values())) for outcome in load().run([json(row) for row in rows])]
    np.testing.assert_allclose([answer(outcome) for outcome in service.run([json(row) for row in rows])], expected)


def test_the_model_takes_tensors_of_whole_numbers(load: Load) -> None:
    service = load("pir/bag.json", source=MOVED.format(dtype="int64", given="{'x': data}"))
    [expected] = load("pir/bag.json").run([json([1, 2, 3])])
    np.testing.assert_allclose(answer(service.run([json([1, 2, 3])])[0]), next(iter(answer(expected).values())))


OF_TWO_LENGTHS = "{name: rows[:-1] for name, rows in self.model([*data, data[0][:1]]).items()}"


@pytest.mark.parametrize(
    "inference",
    ["self.model(data)", "self.model({'x': data})", "super().inference(data)", OF_TWO_LENGTHS],
)
def test_numbers_beyond_the_embedding_are_the_requests_fault(load: Load, inference: str) -> None:
    source = MOVED.format(dtype="int64", given="data").replace("self.model(data)", inference)
    good, bad = load("pir/bag.json", source=source).run([json([1, 2, 3]), json([1, 1000, 3])])
    assert refusal(bad).startswith('invalid: input "x": expected whole numbers from 0 to ')
    assert "got 1000 at [0][1]" in refusal(bad)
    assert len(answer(good)) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("'x'", 'the handler gave the model str, expected {"x": array}, or the array alone'),
        ("None", 'the handler gave the model NoneType, expected {"x": array}, or the array alone'),
        ("data, data", 'the handler gave the model 2 arguments, expected {"x": array}, or the array alone'),
        ("x=data", 'the handler gave the model 1 arguments, expected {"x": array}, or the array alone'),
        ("", 'the handler gave the model 0 arguments, expected {"x": array}, or the array alone'),
        ("{0: data}", 'the handler gave the model a dictionary whose keys are no names, expected {"x": array}'),
        ("{'x': 'words'}", 'input "x": expected an array of numbers, got str'),
        ("{'y': data}", 'the model has no input "y"'),
    ],
)
def test_the_model_says_what_it_takes(load: Load, given: str, message: str) -> None:
    service = load(source=MOVED.format(dtype="float32", given=given))
    assert message in refusal(service.run([json(ROW)])[0])


def test_the_handler_that_the_guide_moves(load: Load) -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-torchserve.md").read_text()
    before, after = re.findall(r"```python\n(class Film.*?)```", page, re.DOTALL)
    assert before != after
    imports = "import paddle\nfrom ts.torch_handler.base_handler import BaseHandler\n\n\n"
    config = {"outputs": {"fetch_name_0": "scores"}}
    rows = [json([1, 2, 3]), json([4, 5, 6])]
    expected = [np.argmax(answer(outcome)["scores"]) for outcome in load("pir/bag.json", config=config).run(rows)]
    moved = load("pir/bag.json", source=imports + after, config=config).run(rows)
    assert [answer(outcome) for outcome in moved] == expected


def test_a_model_of_several_inputs_says_what_it_takes(load: Load) -> None:
    source = MOVED.format(dtype="int64", given="data")
    refused = refusal(load("pir/sentiment.json", source=source).run([json([1, 2, 3])])[0])
    assert 'the handler gave the model Tensor, expected {"input_ids": array, "token_type_ids": array, ' in refused


def test_a_classifier_with_topk(load: Load, models: Path) -> None:
    source = (
        "from ts.torch_handler.image_classifier import ImageClassifier\nclass Two(ImageClassifier):\n    topk = 2\n"
    )
    config = {"image": {"color": "gray", "resize": [8, 8], "crop": None}}
    images = np.load(models / "pir" / "digits.npz")["images"]
    for given, labels in ((config, 2), ({"image": {**config["image"], "top_k": 3}}, 3)):
        service = load("pir/digits.json", source=source, config=given)
        [likeliest] = map(answer, service.run([json(images[0].tolist())]))
        assert len(likeliest) == labels


def test_a_vision_handler_gives_the_outputs(load: Load, models: Path) -> None:
    source = "from ts.torch_handler.vision_handler import VisionHandler\nclass Raw(VisionHandler): pass\n"
    config = {"image": {"color": "gray", "resize": [8, 8], "crop": None}}
    known = np.load(models / "pir" / "digits.npz")
    service = load("pir/digits.json", source=source, config=config)
    [outputs] = map(answer, service.run([json(known["images"][0].tolist())]))
    np.testing.assert_allclose(next(iter(outputs.values())), known["scores"][0], rtol=1e-4, atol=1e-5)


def test_a_vision_handlers_image_processing_is_not_overlooked(load: Load) -> None:
    source = (
        "from ts.torch_handler.image_classifier import ImageClassifier\n"
        "class Mine(ImageClassifier):\n    image_processing = staticmethod(lambda image: image)\n"
    )
    with pytest.raises(LoadFailed, match="image_processing is not called here: describe in the section image"):
        load("pir/digits.json", source=source)


def test_micro_batches(load: Load) -> None:
    source = UPPER.replace(
        "        self.initialized = True",
        "        from ts.handler_utils.micro_batching import MicroBatching\n"
        "        self.handle = MicroBatching(self, micro_batch_size=2)\n"
        "        self.handle.parallelism = {'preprocess': 2}",
    ).replace("return [[text, self.initialized] for text in texts]", "return [[text, len(texts)] for text in texts]")
    answers = load(None, source=source).run([json(letter) for letter in "abcde"])
    assert list(map(answer, answers)) == [["A", 2], ["B", 2], ["C", 2], ["D", 2], ["E", 1]]


def test_pieces_of_answers(load: Load) -> None:
    source = (
        "from ts.protocol.otf_message_handler import send_intermediate_predict_response\n"
        "def handle(data, context):\n"
        "    for word in ('one', 'two') if data else ():\n"
        "        send_intermediate_predict_response([word] * len(data), context.request_ids, 'ok', 200, context)\n"
        "    return ['three'] * len(data or [])\n"
    )
    pieces: list[tuple[int, bytes]] = []

    def send(idx: int, piece: Reply) -> None:
        pieces.append((idx, piece.body))

    [last] = load(None, source=source).run([json(1)], send)
    assert pieces == [(0, b"one"), (0, b"two")]
    assert isinstance(last, Reply)
    assert last.body == b"three"


def test_methods_are_timed_where_the_model_asks_for_it(load: Load) -> None:
    source = UPPER.replace("    def inference", "    @timed\n    def inference").replace(
        "import logging, os\n", "import logging, os\nfrom ts.handler_utils.timer import timed\n"
    )
    for config, names in (({}, []), ({"handler": {"profile": True}}, ["ts_handler_inference"])):
        service = load(None, source=source, config=config)
        assert answer(service.run([json("a")])[0]) == ["A", True]
        timed = [one for one in service.take_measured() if one.name.startswith("ts_handler")]
        assert [one.name for one in timed] == names
        assert all((one.unit, one.type) == ("Milliseconds", "gauge") for one in timed)


def test_dimensions_and_types_of_metrics(load: Load) -> None:
    source = (
        "from ts.metrics.dimension import Dimension\n"
        "from ts.metrics.metric_type_enum import MetricTypes\n"
        "from ts.metrics.unit import Units\n"
        "def handle(data, context):\n"
        "    if data:\n"
        "        context.metrics.add_metric('Words', 3, Units().units['count'], 0, [Dimension('Kind', 'long')],\n"
        "                                   MetricTypes.HISTOGRAM)\n"
        "    return data\n"
    )
    service = load(None, source=source)
    service.run([json(1)])
    [measured] = [one for one in service.take_measured() if one.name == "Words"]
    assert (measured.value, measured.unit, measured.type) == (3, "Count", "histogram")
    assert measured.dimensions["Kind"] == "long"


def test_a_prediction_exception(load: Load) -> None:
    source = (
        "from ts.utils.util import PredictionException\n"
        "def handle(data, context):\n"
        "    if data: raise PredictionException('too dark', 422)\n"
    )
    [failed] = load(None, source=source).run([json(1)])
    assert refusal(failed) == "handler: too dark"


MAPPINGS = [
    ('{"0": "cat", "1": "dog"}', {"0": "cat", "1": "dog"}),
    ('{"0": ["n1", "cat"]}', {"0": "cat"}),
    ('{"object_type_names": ["cat", "dog"]}', {"0": "cat", "1": "dog"}),
    (None, None),
]
CLASSIFIED = [
    ("[[0.9, 0.1]]", [{"0": 0.9, "1": 0.1}]),
    ("[[0.9, 0.1]], {'0': 'cat', '1': 'dog'}", [{"cat": 0.9, "dog": 0.1}]),
    ("[[0.9], [0.8]], {'0': 'cat', '1': 'dog'}, [[1], [0]]", [{"dog": 0.9}, {"cat": 0.8}]),
]


def test_label_mappings_and_classes_to_labels(tmp_path: Path) -> None:
    """In one program, since to start one is what takes long."""
    paths = [tmp_path / f"{number}.json" for number in range(len(MAPPINGS))]
    for path, (text, _) in zip(paths, MAPPINGS, strict=True):
        if text is not None:
            path.write_text(text)
    calls = [f"load_label_mapping({str(path)!r})" for path in paths]
    calls += [f"map_class_to_label({given})" for given, _ in CLASSIFIED]
    names = "from ts.utils.util import load_label_mapping, map_class_to_label\n"
    said = in_a_worker(names + "\n".join(f"print({call})" for call in calls))
    assert said.splitlines() == [str(expected) for _, expected in [*MAPPINGS, *CLASSIFIED]]


def test_classes_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("from decimal import Decimal\nclass A: pass\nclass B(A): pass\nclass C: pass\n")
    said = in_a_worker(
        "import some\nfrom ts.utils.util import list_classes_from_module as listed\n"
        "print([c.__name__ for c in listed(some)], [c.__name__ for c in listed(some, some.A)])",
        folder=tmp_path,
    )
    assert said == "['A', 'B', 'C'] ['A', 'B']\n"
