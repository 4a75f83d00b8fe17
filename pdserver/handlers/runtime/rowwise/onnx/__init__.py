"""The rules of ONNX's operations. Source: ONNX's operator schemas, operator sets 7 to 25."""

from pdserver.handlers.runtime.rowwise.onnx import elementwise, layers, making, picking, pictures, reducing, shaping

ROOMS = (elementwise, layers, making, picking, pictures, reducing, shaping)
"""They enter their rules when they are imported."""
