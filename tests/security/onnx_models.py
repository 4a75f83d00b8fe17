"""ONNX models that no exporter writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.onnx_files import FLOAT, Value, attribute, message, model, node, number, text, weights

X: Value = ("x", FLOAT, ["n", 4])
Y: Value = ("y", FLOAT, ["n", 4])
_HUGE = 2**62


def _model(
    *nodes: bytes, initializers: Sequence[bytes] = (), inputs: Sequence[Value] = (X,), outputs: Sequence[Value] = (Y,)
) -> bytes:
    return model(inputs, outputs, nodes, initializers)


def _nested(depth: int) -> bytes:
    """A graph in an attribute of an operation in a graph, and so on."""
    inner = node("Relu", ["x"], ["y"])
    for _ in range(depth):
        inner = node("If", ["x"], ["y"], text(1, "then_branch") + message(6, inner, text(2, "g")) + number(20, 5))
    return _model(inner)


def _tensor(*dims: int) -> bytes:
    """Without any elements."""
    return b"".join(number(1, length) for length in dims) + number(2, FLOAT) + text(8, "w")


def _outside(location: str, **more: str) -> bytes:
    """A weight in a file of its own."""
    entries = {"location": location, **more}
    parts = [message(13, text(1, key), text(2, value)) for key, value in entries.items()]
    return _tensor(4) + b"".join(parts) + number(14, 1)


def _weighted(weight: bytes) -> bytes:
    return _model(node("Mul", ["x", "w"], ["y"]), initializers=[weight])


_CIRCLE = _model(node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"]))
_ROW: Value = ("x", FLOAT, ["n", 3, 8])
_NO_WINDOW = (attribute("kernel_shape", [0]), attribute("strides", [0]))
_DOUBLED = [node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], attribute("axis", 0)) for i in range(60)]
_TILED = [
    part
    for i in range(60)
    for part in (node("Shape", [f"v{i}"], [f"s{i}"]), node("Tile", [f"v{i}", f"s{i}"], [f"v{i + 1}"]))
]
_FIRST = weights("v0", np.arange(1, 5))
_FLAT = node("Flatten", ["x"], ["v0"], attribute("axis", 0))

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a model in ONNX's form"),
    "no graph": (number(1, 8), "it has no graph"),
    "text": (b"hello, this is no model", "not a model in ONNX's form"),
    "cut": (_model(node("Relu", ["x"], ["y"]))[:-9], "not a model in ONNX's form"),
    "a graph of 200 levels": (_nested(200), "cannot load it"),
    "a graph of 20,000 levels": (_nested(20_000), "cannot load it"),
    "a circle": (_CIRCLE, "cannot load it"),
    "of itself": (_model(node("Add", ["x", "y"], ["y"])), "is not among what OpenVINO finds"),
    "of nothing": (_model(node("Relu", ["nowhere"], ["y"])), "nowhere"),
    "an unknown operation": (_model(node("Teleport", ["x"], ["y"])), "Teleport"),
    "weights larger than memory": (_weighted(_tensor(_HUGE, _HUGE, 16)), "cannot load it"),
    "weights of 16 GB": (_weighted(_tensor(2**32)), "cannot load it"),
    "lengths below 0": (_weighted(_tensor(-4)), "cannot load it"),
    "1,000 axes": (_weighted(_tensor(*[1] * 1000)), "cannot load it"),
    "weights in another folder": (_weighted(_outside("../../../etc/passwd")), "it takes weights from"),
    "weights of the system": (_weighted(_outside("/etc/passwd")), "it takes weights from"),
    "weights in memory": (_weighted(_outside("*/_ORT_MEM_ADDR_/*")), "its weights are in"),
    "weights that are not there": (_weighted(_outside("w.bin")), "its weights are in w.bin, which is not in"),
    "weights beyond a file": (_weighted(_outside("model.onnx", offset=str(_HUGE), length="16")), "cannot load it"),
    "a window of nothing": (_model(node("MaxPool", ["x"], ["y"], *_NO_WINDOW), inputs=[_ROW]), "cannot load it"),
}
"""What no engine loads, and what is said of it."""

BOMBS: dict[str, bytes] = {
    "a shape that doubles 60 times": _model(*_DOUBLED, node("Expand", ["x", "v60"], ["y"]), initializers=[_FIRST]),
    "a length that is squared 60 times": _model(_FLAT, *_TILED, node("Identity", ["v60"], ["y"])),
    "an axis more for each operation": _model(
        node("Identity", ["x"], ["v0"]),
        *(node("Unsqueeze", [f"v{i}", "axes"], [f"v{i + 1}"]) for i in range(500)),
        node("Identity", ["v500"], ["y"]),
        initializers=[weights("axes", np.arange(60))],
    ),
    "more operations than models have": _model(*[b"\x0a\x00"] * 300_000, node("Relu", ["x"], ["y"])),
    "a wide operation": _model(node("Teleport", ["x"] * 50_000, ["y"])),
    "twice the same": _model(node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])),
    "the next operator set": model([X], [Y], [node("Relu", ["x"], ["y"])], (), 127),
    "an axis of 2^62": _model(node("Softmax", ["x"], ["y"], attribute("axis", _HUGE))),
}
"""What an engine would load, or work at for ever, and of which nothing is known."""
