"""Numpy records as protobuf messages of one fixed layout, readable by any MCAP tool and by numpy in one go.

Only field types of fixed width are used and every field is always written, so each message of a layout has the same
bytes at the same places: encoding fills a template, and a thousand messages are decoded as one structured array.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from robot.recording.protobuf import (
    Field,
    FieldType,
    Message,
    ProtoFile,
    WireType,
    file_descriptor_set,
    tag,
    varint,
)

PACKAGE = "nova_pi"
STAMP_DTYPE = np.dtype([("capture_ns", "<i8"), ("receive_ns", "<i8"), ("seq", "<i8")])
"""What precedes each record: the times and the sequence number of its ring sample."""

_WIRE_FORMS: dict[str, tuple[FieldType, str]] = {
    "f8": (FieldType.DOUBLE, "<f8"),
    "f4": (FieldType.FLOAT, "<f4"),
    "i8": (FieldType.SFIXED64, "<i8"),
    "u8": (FieldType.FIXED64, "<u8"),
    "i4": (FieldType.SFIXED32, "<i4"),
    "i2": (FieldType.SFIXED32, "<i4"),
    "i1": (FieldType.SFIXED32, "<i4"),
    "u4": (FieldType.FIXED32, "<u4"),
    "u2": (FieldType.FIXED32, "<u4"),
    "u1": (FieldType.FIXED32, "<u4"),
    "b1": (FieldType.BOOL, "u1"),
}


class LayoutError(ValueError):
    """A dtype that has no fixed layout, or messages that do not have the layout that was promised."""


class RecordLayout:
    """How records of a structured ``dtype`` are written as protobuf messages ``nova_pi.NAME``."""

    def __init__(self, name: str, *, dtype: np.dtype) -> None:
        if dtype.names is None:
            raise LayoutError(f"{name}: expected a structured dtype, got {dtype}")
        self.name = name
        self.dtype = dtype
        self.stamped_dtype = np.dtype([*_fields(STAMP_DTYPE), *_fields(dtype)])
        proto_fields, wire_fields, tags = [], [], {}
        for number, field in enumerate(_fields(self.stamped_dtype), start=1):
            field_name, kind, shape = field
            form = _WIRE_FORMS.get(np.dtype(kind).str[1:])
            if form is None:
                raise LayoutError(f"{name}.{field_name}: numpy type {kind} has no fixed-size protobuf form")
            proto_type, wire_kind = form
            count = int(np.prod(shape, dtype=int))
            proto_fields.append(Field(field_name, number, proto_type, repeated=bool(shape)))
            if shape:
                head = tag(number, WireType.LENGTH_DELIMITED) + varint(count * np.dtype(wire_kind).itemsize)
            else:
                head = tag(number, proto_type.wire_type)
            tags[f"_tag_{field_name}"] = head
            wire_fields += [(f"_tag_{field_name}", f"V{len(head)}"), (field_name, wire_kind, shape)]
        self._wire = np.dtype(wire_fields)
        self._template = np.zeros((), self._wire)
        for tag_name, head in tags.items():
            self._template[tag_name] = np.void(head)
        self._is_tag = np.zeros(self._wire.itemsize, bool)
        for tag_name in tags:
            tag_dtype, offset = self._wire.fields[tag_name][:2]  # type: ignore[index]
            self._is_tag[offset : offset + tag_dtype.itemsize] = True
        message = Message(_camel(name), tuple(proto_fields))
        self.schema_name = f"{PACKAGE}.{message.name}"
        self.schema = file_descriptor_set([ProtoFile(f"{PACKAGE}/{name}.proto", PACKAGE, (message,))])

    def encode(self, record: Any, *, capture_ns: int, receive_ns: int, seq: int) -> bytes:
        """One record (scalar of ``dtype``) with its stamps as a message."""
        message = self._template.copy()
        message["capture_ns"], message["receive_ns"], message["seq"] = capture_ns, receive_ns, seq
        for name in self.dtype.names or ():
            message[name] = record[name]
        return message.tobytes()

    def decode(self, messages: Sequence[bytes | memoryview]) -> np.ndarray:
        """Messages as an array (n,) of ``stamped_dtype``. Raises `LayoutError` if one has another layout."""
        size = self._wire.itemsize
        odd = next((len(message) for message in messages if len(message) != size), None)
        if odd is not None:
            raise LayoutError(f"{self.schema_name}: expected messages of {size} bytes, found one of {odd}")
        joined = np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), size)
        template = np.frombuffer(self._template.tobytes(), np.uint8)
        if not np.array_equal(
            joined[:, self._is_tag], np.broadcast_to(template[self._is_tag], (len(messages), self._is_tag.sum()))
        ):
            raise LayoutError(f"{self.schema_name}: the messages do not have the layout that their channel describes")
        wire = joined.reshape(-1).view(self._wire)
        records = np.empty(len(messages), self.stamped_dtype)
        for name in self.stamped_dtype.names or ():
            records[name] = wire[name]
        return records


def dtype_to_text(dtype: np.dtype) -> str:
    """A structured dtype as JSON, for a channel's metadata."""
    return json.dumps([[name, kind, list(shape)] for name, kind, shape in _fields(dtype)])


def dtype_from_text(text: str) -> np.dtype:
    """Inverse of `dtype_to_text`. Raises `LayoutError`."""
    try:
        return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in json.loads(text)])
    except (ValueError, TypeError) as error:
        raise LayoutError(f"expected a record type as [[name, type, shape], ...], got {text[:80]!r}: {error}") from None


def _fields(dtype: np.dtype) -> list[tuple[str, str, tuple[int, ...]]]:
    found = []
    for name in dtype.names or ():
        field = dtype.fields[name][0]  # type: ignore[index]
        found.append((name, field.base.str, field.shape))
    return found


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.replace(".", "_").split("_"))
