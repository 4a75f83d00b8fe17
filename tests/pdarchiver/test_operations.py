"""Models that do more than compute are found, whatever they look like, and nothing else is."""

from __future__ import annotations

import contextlib
import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdarchiver import messages, operations
from pdarchiver.errors import UnsafeModel
from tests import unsafe_models
from tests.pdarchiver import programs
from tests.pdarchiver.test_signature import BOTH, NAMES, model_file

UNSAFE = {
    "save.pdmodel": "save writes a file",
    "save_in_a_loop.pdmodel": "save writes a file",
    "read_file.json": "read_file reads a file",
    "read_file_in_a_loop.json": "read_file reads a file",
    "check_numerics.json": "check_numerics writes",
}


def check(data: bytes) -> None:
    operations.check(io.BytesIO(data))


def refused(data: bytes) -> str:
    with pytest.raises(UnsafeModel) as caught:
        check(data)
    return str(caught.value)


# What is found


def test_the_models_do_what_they_are_refused_for(unsafe: Path) -> None:
    said = {Path(each["model"]).name: each for each in unsafe_models.run(unsafe / name for name in UNSAFE)}
    assert all("outputs" in each for each in said.values()), said
    assert said["read_file.json"]["outputs"][1] == [*unsafe_models.SECRET.encode()]
    assert len(unsafe_models.written(unsafe)) == 3


@pytest.mark.parametrize("name", UNSAFE)
def test_a_model_that_reaches_outside_is_refused(unsafe: Path, name: str) -> None:
    assert f"operation {UNSAFE[name]}" in refused((unsafe / name).read_bytes())


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_computes_passes(models: Path, kind: str, name: str) -> None:
    for path in model_file(models, kind, name).parent.glob(f"{name}.*"):
        check(path.read_bytes())


def test_loops_and_conditions_pass(unsafe: Path) -> None:
    check((unsafe / "loop.json").read_bytes())


# However it is disguised: each of these is a model to Paddle


def with_length(number: int, value: bytes, key: bytes = b"", length: bytes = b"") -> bytes:
    return (key or bytes([number << 3 | 2])) + (length or number_of(len(value))) + value


def number_of(value: int) -> bytes:
    low, rest = value & 0x7F, (value & (1 << 64) - 1) >> 7
    return bytes([low | 0x80]) + number_of(rest) if rest else bytes([low])


def rebuilt(data: bytes, operation: Callable[[bytes], bytes]) -> bytes:
    """A .pdmodel whose operations `save` have what `operation` makes of their type's field."""
    program = messages.decode("ProgramDesc", data)
    blocks = []
    for block in program.blocks:
        ops = []
        for op in block.ops:
            kind = op.type
            op.ClearField("type")
            rest = op.SerializePartialToString()
            ops.append(rest + (operation(kind.encode()) if kind == "save" else with_length(3, kind.encode())))
        block.ClearField("ops")
        blocks.append(block.SerializePartialToString() + b"".join(with_length(4, op) for op in ops))
    program.ClearField("blocks")
    return b"".join(with_length(1, block) for block in blocks) + bytes(program.SerializePartialToString())


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda kind: with_length(3, kind),
    "a key of two bytes": lambda kind: with_length(3, kind, key=b"\x9a\x00"),
    "a key of more than 32 bits": lambda kind: with_length(3, kind, key=b"\x9a\x80\x80\x80\x10"),
    "a length of five bytes": lambda kind: with_length(3, kind, length=b"\x84\x80\x80\x80\x00"),
    "another type before it": lambda kind: with_length(3, b"scale") + with_length(3, kind),
    "a group before it": lambda kind: b"\x7b\x08\x01\x7c" + with_length(3, kind),
}
BEFORE = {"a group that looks like JSON": b"{|", "an unknown number": b"\x78\x01", "white space": b"\x22\x00"}


def as_program(data: bytes) -> list[bytes]:
    found = [rebuilt(data, disguise) for disguise in DISGUISES.values()]
    return found + [start + data for start in BEFORE.values()]


def as_json(data: bytes) -> list[bytes]:
    text = data.decode()
    return [
        text.replace("1.read_file", "1.read\\u005ffile").encode(),
        text.replace('"#": "1.read_file"', '"\\u0023": "\\u0031\\u002eread_file"').encode(),
        text.replace('"#": "1.read_file"', '"#": "1.scale", "#": "1.read_file"').encode(),
        text.replace('"base_code"', '"x\\"": "\\\\", "base\\u005fcode"').encode(),
        b"\xef\xbb\xbf" + data,
        b" " * 100_000 + data,
    ]


def test_a_disguise_does_not_help(unsafe: Path, tmp_path: Path) -> None:
    given = [(".pdmodel", data) for data in as_program((unsafe / "save.pdmodel").read_bytes())]
    given += [(".json", data) for data in as_json((unsafe / "read_file.json").read_bytes())]
    for number, (suffix, data) in enumerate(given):
        (tmp_path / f"{number:02}{suffix}").write_bytes(data)
    said = unsafe_models.run(sorted(tmp_path.iterdir()))
    assert [each for each in said if "outputs" not in each] == [], "Paddle would not run it: no disguise"
    assert len(said) == len(given)
    for suffix, data in given:
        assert ("reads a file" if suffix == ".json" else "save writes a file") in refused(data)


@pytest.mark.parametrize("kind", ["3.mine", "custom_op.mine", "-1.x", "99.x", "onednn_op.conv2d"])
def test_an_operation_of_a_library_is_refused(unsafe: Path, kind: str) -> None:
    data = (unsafe / "plain.json").read_bytes().replace(b"1.scale", kind.encode())
    assert f"{kind!r} is none of Paddle's own" in refused(data)


@pytest.mark.parametrize(
    "kind",
    [
        *("save", "save_combine", "load", "load_combine", "read_file", "check_numerics", "print", "print_grad"),
        *("py_func", "py_layer", "run_program", "fusion_group", "cinn_launch", "ap_variadic", "tensorrt_engine"),
        *("lite_engine", "c_gen_nccl_id", "gen_bkcl_id", "c_comm_init_all", "listen_and_serv", "send", "rpc_call"),
        *("distributed_lookup_table", "pull_sparse_v2", "push_dense", "save_combine_", "sparse_tensor_load"),
    ],
)
def test_what_reaches_outside(unsafe: Path, kind: str) -> None:
    for name in (f"1.{kind}", f"pd_op.{kind}"):
        assert f"operation {kind} " in refused((unsafe / "plain.json").read_bytes().replace(b"1.scale", name.encode()))
    operation = with_length(3, kind.encode())
    assert f"operation {kind} " in refused(with_length(1, with_length(4, operation)))


@pytest.mark.parametrize("kind", ["scale", "share_data", "matmul_v2", "send_u_recv", "c_allreduce_sum", "reload"])
def test_what_does_not(unsafe: Path, kind: str) -> None:
    check((unsafe / "plain.json").read_bytes().replace(b"1.scale", b"1." + kind.encode()))
    check(with_length(1, with_length(4, with_length(3, kind.encode()))))


# Other files, and strangers' bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"save",
        b"\0" * 1_000_000,
        b'{"labels": ["1.save", "#", "3.x"]}\n{"labels": []}\n',
        b"[" * 100_000,
        b'{"a":' * 1_000_000,
        b'{"base_code": "not closed',
        b'{"' + b'\\"' * 100_000,
        b"0,1,0,0\n" * 100_000,
        b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(100_000),
        b"\x93NUMPY\x01\x00" + random.Random(2).randbytes(100_000),
        b"\x80\x02}q\x00(X\x06\x00\x00\x00weight" + random.Random(3).randbytes(100_000),
    ],
)
def test_what_is_no_model_passes(data: bytes) -> None:
    check(data)


@given(st.binary(max_size=500))
def test_strangers_bytes_raise_nothing_else(data: bytes) -> None:
    for start in (b"", b"\x0a\x7f", b'{"base_code": "'):
        with contextlib.suppress(UnsafeModel):
            check(start + data)


@pytest.mark.parametrize("name", ["save.pdmodel", "read_file.json"])
def test_a_mutant_that_still_reaches_outside_to_others_does_so_here(unsafe: Path, name: str) -> None:
    chance = random.Random(name)
    data = (unsafe / name).read_bytes()
    alive = 0
    for _ in range(1500):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant))
            mutant[at : at + chance.choice((0, 1, 1, 2))] = chance.choice((b"", b"\\", b'"', chance.randbytes(1)))
        if {"save", "read_file"} & set(programs.types(bytes(mutant))):
            alive += 1
            refused(bytes(mutant))
    assert alive > 50


def test_what_takes_too_long_is_refused(unsafe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_MAX_STEPS", 50)
    for data in ((unsafe / "plain.json").read_bytes(), b"\x20\x01" * 100, b'{"' + b'\\"' * 100):
        assert "too many parts" in refused(data)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_MAX_BYTES", 200_000)
    assert "too large" in refused(b"{" + b" " * 300_000)
    assert "too large" in refused(b" " * 300_000)
    assert "too large" in refused(with_length(1, b" " * 300_000))
    check(b"\0" * 300_000)


# Nothing is forgotten


HARMLESS_TEXTS = """
    UPLO act_method act_type activation activation_type algo ap_type atol attn_dropout_implementation bias_type_str
    candidate_activation cell_activation chunk_scheme code_type combiner compute_dtype cuda_graph_capture_mode curve
    data_format data_layout distribute_update_vars driver dropout1_implementation dropout2_implementation
    dropout_implementation entry entry_config epmap equation fn_name functor_list fuse_activation gate_activation
    interp_method key mask_type_str match_type message_op mkldnn_data_type mode name norm_type normalization
    op_callstack op_device op_namescope op_role_var output_data_type output_dtype output_format padding_algorithm
    padding_mode place pooling_type pooltype quant_types reduce reduce_op reduction regularization_method rng_name rtol
    str_value table_class table_names trans uplo unpooling_type Reduce var_name weight_dtype
    sub_block blocks
"""
"""Attributes that name no file, no address and no code: kinds, formats, variables. `epmap` and its like, of
lookup_table, were the addresses of parameter servers before Paddle 2; nothing reads them any more. Blocks are looked
through as all others are."""
NAMED_LIKE_IT = {
    "barrier": "between devices that c_comm_init has connected",
    "array_read": "an element of a list of tensors",
    "c_sync_comm_stream": "waits for this device",
    "create_double_buffer_reader": "a queue within the process",
    "create_py_reader": "a queue within the process",
    "distributed_fused_lamb_init": "training, on tensors",
    "embedding_grad_add_to": "training, on tensors",
    "graph_send_recv": "a sum over a graph's edges",
    "graph_send_ue_recv": "a sum over a graph's edges",
    "graph_send_uv": "a sum over a graph's edges",
    "p_recv": "between devices that c_comm_init has connected",
    "p_recv_array": "between devices that c_comm_init has connected",
    "p_send": "between devices that c_comm_init has connected",
    "p_send_array": "between devices that c_comm_init has connected",
    "partial_recv": "between devices that c_comm_init has connected",
    "partial_send": "between devices that c_comm_init has connected",
    "recv_v2": "between devices that c_comm_init has connected",
    "send_v2": "between devices that c_comm_init has connected",
    "read": "a queue within the process",
    "read_from_array": "an element of a list of tensors",
    "send_u_recv": "a sum over a graph's edges",
    "send_ue_recv": "a sum over a graph's edges",
    "send_uv": "a sum over a graph's edges",
    "write_to_array": "an element of a list of tensors",
    "array_write": "an element of a list of tensors",
}
SUSPICIOUS = re.compile(
    r"(^|_)(save|load|read|write|file|print|py|python|exec|engine|custom|send|recv|listen|serv|reader|rpc|gen|init|"
    r"barrier|notify|cinn|ap|plugin|dump|store|shm|ipc|jit|lib|dll)(_|$)"
)


def reaches(name: str) -> bool:
    return any(re.fullmatch(rf"({names})(_grad)?_?", name) for names in operations.REACHING)


@pytest.mark.parametrize("registry", ["of .pdmodel", "of PIR"])
def test_every_operation_of_this_paddle_was_looked_at(registry: str) -> None:
    found = {name: set(texts) for name, texts in unsafe_models.operations()[registry].items()}
    assert len(found) > 1000
    harmless = set(HARMLESS_TEXTS.split())
    unknown = {name: texts - harmless for name, texts in found.items() if texts - harmless and not reaches(name)}
    assert unknown == {}, "attributes that may name a file, an address or code"
    named = {name for name in found if SUSPICIOUS.search(name) and not reaches(name)}
    assert {name for name in named if re.sub(r"(_double)?(_grad)*_?$", "", name) not in NAMED_LIKE_IT} == set()


def test_the_documentation_has_what_is_refused() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
    rows = {what: names for names, what in re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE)}
    for names, what in operations.REACHING.items():
        told = re.findall(r"`([^`]+)`", rows[what])
        assert told, what
        assert [name for name in told if not re.fullmatch(names, name.replace("…", "x"))] == []
