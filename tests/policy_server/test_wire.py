import math
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policy_server import wire

GOLDEN_ARRAY = bytes.fromhex(
    "84c40b5f5f6e6461727261795f5fc3c40464617461c40401020304c4056474797065a37c7531c4057368617065920202"
)
GOLDEN_SCALAR = bytes.fromhex("83c40d5f5f6e7067656e657269635f5fc3c40464617461c3c4056474797065a37c6231")

numeric_arrays = hnp.arrays(
    dtype=st.sampled_from([np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
messages = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=8) | numeric_arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def an_array(**changes: object) -> bytes:
    fields = {b"__ndarray__": True, b"data": b"\0" * 4, b"dtype": "|u1", b"shape": [2, 2]}
    return bytes(msgpack.packb(fields | {key.encode(): value for key, value in changes.items()}))


def same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return isinstance(right, dict) and all(same(left[k], right[k]) for k in left) and left.keys() == right.keys()
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and left == right


def test_an_array_has_the_bytes_that_openpi_writes() -> None:
    assert wire.pack(np.array([[1, 2], [3, 4]], dtype=np.uint8)) == GOLDEN_ARRAY


def test_a_numpy_scalar_has_the_bytes_that_openpi_writes() -> None:
    assert wire.pack(np.bool_(True)) == GOLDEN_SCALAR


def test_float64_and_str_scalars_travel_as_pythons_own() -> None:
    assert wire.pack(np.float64(1.5)) == msgpack.packb(1.5)
    assert wire.pack(np.str_("a")) == msgpack.packb("a")


def test_empty_metadata_is_one_byte() -> None:
    assert wire.pack({}) == b"\x80"


@given(messages)
@settings(max_examples=150, deadline=None)
def test_what_is_packed_comes_back(message: object) -> None:
    assert same(message, wire.unpack(wire.pack(message)))


def test_a_non_contiguous_array_is_sent_in_c_order() -> None:
    array = np.arange(12).reshape(3, 4).T
    assert (wire.unpack(wire.pack(array)) == array).all()


def test_arrays_come_back_read_only() -> None:
    array = wire.unpack(wire.pack(np.zeros(3)))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize("value", [np.zeros(2, dtype=complex), np.array([None]), np.zeros(2, dtype="f4,f4"), object()])
def test_what_openpi_refuses_is_not_packed(value: object) -> None:
    with pytest.raises(wire.WireError, match="can't be put on the wire"):
        wire.pack({"x": value})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "incomplete"),
        (b"\xc1", "none"),
        (b"\x01\x02", "none"),
        (b"\x81\x01\x02", "strict_map_key"),
        (b"\xd5\x01ab", "extension"),
        (b"\xdd\x00\xff\xff\xff" * 20, "max_array_len"),
        (msgpack.packb([0] * 5000), "max_array_len"),
        (msgpack.packb({str(key): 0 for key in range(300)}), "max_map_len"),
        (b"\x91" * 3000 + b"\x01", "none"),
        (b"\x91" * 40 + b"\x01", "nesting"),
        (b"\xa1\xff", "none"),
        (an_array(data=b"\0" * 3), "needs 4 bytes"),
        (an_array(data=b"\0" * 5), "needs 4 bytes"),
        (an_array(shape=[2, 3]), "needs 6 bytes"),
        (an_array(shape=[-2, -2]), "non-negative"),
        (an_array(shape=[2.0, 2]), "non-negative"),
        (an_array(shape=[True, 4]), "non-negative"),
        (an_array(shape="22"), "non-negative"),
        (an_array(shape=[1] * 9, data=b"\0"), "at most 8 dimensions"),
        (an_array(shape=[2**63, 0], data=b""), "not possible"),
        (an_array(data="text"), "as bytes"),
        (an_array(data=None), "as bytes"),
        (an_array(dtype="|O"), "expected a dtype"),
        (an_array(dtype="|V4"), "expected a dtype"),
        (an_array(dtype="<c8"), "expected a dtype"),
        (an_array(dtype="f4,f4"), "expected a dtype"),
        (an_array(dtype="<U0"), "expected a dtype"),
        (an_array(dtype=7), "expected a dtype"),
        (an_array(dtype="<m8[zz]", data=b"\0" * 8, shape=[1]), "unknown"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "does not fit"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}), "expected a number"),
    ],
)
def test_malformed_bytes_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match=reason):
        wire.unpack(data)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with suppress(wire.WireError):
        wire.unpack(data)


@given(st.integers(0, len(GOLDEN_ARRAY) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_array_is_a_message_or_a_wire_error(position: int, byte: int) -> None:
    damaged = bytearray(GOLDEN_ARRAY)
    damaged[position] = byte
    with suppress(wire.WireError):
        wire.unpack(bytes(damaged))
