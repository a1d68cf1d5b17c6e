"""Numpy records as protobuf: exact both ways, and readable by the official library."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot.recording import foxglove
from robot.recording.layout import LayoutError, RecordLayout, dtype_from_text, dtype_to_text
from robot.recording.records import STEP_DTYPE
from robot.state import STATE_DTYPE

KINDS = ["<f8", "<f4", "<i8", "<u8", "<i4", "<u4", "<i2", "u1", "i1", "?"]
fields = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from([(), (1,), (3,), (2, 3), (20,)])), min_size=1, max_size=20
)


@settings(deadline=None, max_examples=25)
@given(fields, st.data())
def test_any_record_comes_back_as_it_was(parts: list[tuple[str, tuple[int, ...]]], data: st.DataObject) -> None:
    dtype = np.dtype([(f"field_{number}", kind, shape) for number, (kind, shape) in enumerate(parts)])
    records = data.draw(hnp.arrays(dtype, 3))
    layout = RecordLayout("thing", dtype=dtype_from_text(dtype_to_text(dtype)))
    messages = [layout.encode(record, capture_ns=7, receive_ns=8, seq=n) for n, record in enumerate(records)]
    back = layout.decode(messages)
    assert back["seq"].tolist() == [0, 1, 2]
    for name in dtype.names or ():
        np.testing.assert_array_equal(back[name], records[name])


@pytest.mark.parametrize(("name", "dtype"), [("state", STATE_DTYPE), ("steps", STEP_DTYPE)])
def test_the_official_protobuf_library_reads_every_field(name: str, dtype: np.dtype) -> None:
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    pool_module, factory = (import_module(f"google.protobuf.{part}") for part in ("descriptor_pool", "message_factory"))
    layout = RecordLayout(name, dtype=dtype)
    pool = pool_module.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(layout.schema).file:
        pool.Add(file)
    message_type = factory.GetMessageClass(pool.FindMessageTypeByName(layout.schema_name))
    rng = np.random.default_rng(0)
    record = np.frombuffer(rng.integers(0, 127, dtype.itemsize, dtype=np.uint8).tobytes(), dtype)[0]
    message = message_type.FromString(layout.encode(record, capture_ns=-5, receive_ns=6, seq=7))
    assert (message.capture_ns, message.receive_ns, message.seq) == (-5, 6, 7)
    for field in dtype.names or ():
        np.testing.assert_array_equal(np.array(getattr(message, field)), np.asarray(record[field]).ravel().squeeze())


def test_messages_of_another_layout_are_refused() -> None:
    layout = RecordLayout("state", dtype=STATE_DTYPE)
    message = layout.encode(np.zeros((), STATE_DTYPE), capture_ns=0, receive_ns=0, seq=0)
    with pytest.raises(LayoutError, match="expected messages of"):
        layout.decode([message, message[:-1]])
    with pytest.raises(LayoutError, match="do not have the layout"):
        layout.decode([bytes([message[0] ^ 1]) + message[1:]])


def test_a_type_without_a_fixed_size_form_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"thing\.text"):
        RecordLayout("thing", dtype=np.dtype([("text", "S8")]))


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("CompressedImage", foxglove.COMPRESSED_IMAGE),
        ("CameraCalibration", foxglove.CAMERA_CALIBRATION),
        ("Log", foxglove.LOG),
    ],
)
def test_foxglove_schemas_are_those_of_foxglove(name: str, schema: foxglove.Schema) -> None:
    pytest.importorskip("foxglove_schemas_protobuf")
    descriptor_pb2 = import_module("google.protobuf.descriptor_pb2")
    official_type = getattr(import_module(f"foxglove_schemas_protobuf.{name}_pb2"), name)
    official = descriptor_pb2.DescriptorProto()
    official_type.DESCRIPTOR.CopyToProto(official)
    (ours,) = descriptor_pb2.FileDescriptorSet.FromString(schema.data).file[1].message_type

    def shape(message: Any) -> object:
        described = [(field.name, field.number, field.type, field.label, field.type_name) for field in message.field]
        enums = [(enum.name, [(value.name, value.number) for value in enum.value]) for enum in message.enum_type]
        return sorted(described), enums

    assert schema.name == f"foxglove.{name}"
    assert shape(ours) == shape(official)


def test_foxglove_messages_say_what_they_should() -> None:
    pytest.importorskip("foxglove_schemas_protobuf")
    image_type = import_module("foxglove_schemas_protobuf.CompressedImage_pb2").CompressedImage
    image = image_type.FromString(foxglove.compressed_image(b"jpeg!", capture_ns=3_000_000_007, frame_id="wrist"))
    assert (image.data, image.format, image.frame_id) == (b"jpeg!", "jpeg", "wrist")
    assert (image.timestamp.seconds, image.timestamp.nanos) == (3, 7)
    calibration_type = import_module("foxglove_schemas_protobuf.CameraCalibration_pb2").CameraCalibration
    matrix = [500.0, 0.0, 320.0, 0.0, 501.0, 180.0, 0.0, 0.0, 1.0]
    data = foxglove.camera_calibration(matrix, width=640, height=360, capture_ns=1, frame_id="wrist")
    calibration = calibration_type.FromString(data)
    assert list(calibration.K) == matrix
    assert list(calibration.P) == [500.0, 0, 320.0, 0, 0, 501.0, 180.0, 0, 0, 0, 1.0, 0]
    assert (calibration.width, calibration.height) == (640, 360)
    assert foxglove.read_log(foxglove.log("fell", text="{}", capture_ns=1)) == ("fell", "{}")
