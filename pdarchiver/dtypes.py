"""The types of tensors in Paddle's files: what each is called there, and its size."""

from typing import NamedTuple


class Dtype(NamedTuple):
    """One type of elements."""

    name: str
    """numpy's name; "bfloat16" and those of float8 are names that numpy lacks."""
    item_bytes: int
    pir: str
    """In PIR's JSON. Source: schema.h in paddle/fluid/pir/serialize_deserialize."""
    number: int
    """In ProgramDesc and TensorDesc: VarType.Type in paddle/fluid/framework/framework.proto."""
    predictable: bool
    """Whether Paddle's predictor takes and gives it."""
    onnx: int
    """In ONNX: TensorProto.DataType in onnx/onnx.proto."""


_ALL = (
    Dtype("bool", 1, "t_bool", 0, True, 9),
    Dtype("uint8", 1, "t_ui8", 20, True, 2),
    Dtype("int8", 1, "t_i8", 21, True, 3),
    Dtype("int16", 2, "t_i16", 1, False, 5),
    Dtype("int32", 4, "t_i32", 2, True, 6),
    Dtype("int64", 8, "t_i64", 3, True, 7),
    Dtype("float16", 2, "t_f16", 4, True, 10),
    Dtype("bfloat16", 2, "t_bf16", 22, True, 16),
    Dtype("float32", 4, "t_f32", 5, True, 1),
    Dtype("float64", 8, "t_f64", 6, True, 11),
    Dtype("complex64", 8, "t_c64", 23, False, 14),
    Dtype("complex128", 16, "t_c128", 24, False, 15),
    Dtype("float8_e4m3fn", 1, "t_f8e4m3fn", 32, False, 17),
    Dtype("float8_e5m2", 1, "t_f8e5m2", 33, False, 19),
)
DTYPES = frozenset(dtype.name for dtype in _ALL)
PREDICTORS_DTYPES = frozenset(dtype.name for dtype in _ALL if dtype.predictable)
BY_PIR_NAME = {dtype.pir: dtype for dtype in _ALL}
BY_NUMBER = {dtype.number: dtype for dtype in _ALL}
BY_ONNX_NUMBER = {dtype.onnx: dtype for dtype in _ALL}
