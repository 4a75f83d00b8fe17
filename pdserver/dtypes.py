"""The dtypes of tensors, and the datatypes that the Open Inference Protocol calls them.

It imports nothing: clients use it, too. What Paddle's files call them is in `pdarchiver.dtypes`.
"""

BYTES = "bytes"
"""Elements of any length."""
BFLOAT16 = "bfloat16"
"""A dtype that numpy lacks. Arrays hold it as float32, tensors as the upper halves of those."""
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    BFLOAT16: "BF16",
    "float32": "FP32",
    "float64": "FP64",
    BYTES: "BYTES",
}
"""dtype → datatype. Source: https://github.com/kserve/open-inference-protocol."""
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
NUMPYS = tuple(dtype for dtype in DATATYPES if dtype not in (BFLOAT16, BYTES))
"""The dtypes that numpy has under the same name."""
