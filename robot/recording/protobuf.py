"""The little of Protocol Buffers that recordings need: field encoding, and schemas that describe themselves.

Messages here have few fields, most of them of fixed size, so the encoding is a dozen lines and the robot side does
without the protobuf runtime, whose versions exclude each other between packages. The tests read everything written
here back with the official library. Source: protobuf.dev/programming-guides/encoding and descriptor.proto.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum


class ProtobufError(ValueError):
    """Bytes that are no protobuf message."""


class WireType(IntEnum):
    """How the bytes after a tag are counted."""

    VARINT = 0
    FIXED64 = 1
    LENGTH_DELIMITED = 2
    FIXED32 = 5


class FieldType(IntEnum):
    """``FieldDescriptorProto.Type`` values in use."""

    DOUBLE = 1
    FLOAT = 2
    FIXED64 = 6
    FIXED32 = 7
    BOOL = 8
    STRING = 9
    MESSAGE = 11
    BYTES = 12
    ENUM = 14
    SFIXED32 = 15
    SFIXED64 = 16
    INT32 = 5
    INT64 = 3

    @property
    def wire_type(self) -> WireType:
        """How one value of this type is laid out."""
        match self:
            case FieldType.DOUBLE | FieldType.FIXED64 | FieldType.SFIXED64:
                return WireType.FIXED64
            case FieldType.FLOAT | FieldType.FIXED32 | FieldType.SFIXED32:
                return WireType.FIXED32
            case FieldType.BOOL | FieldType.ENUM | FieldType.INT32 | FieldType.INT64:
                return WireType.VARINT
            case FieldType.STRING | FieldType.MESSAGE | FieldType.BYTES:
                return WireType.LENGTH_DELIMITED


@dataclass(frozen=True)
class Field:
    """One field of a message; ``type_name`` is the full name (leading dot) for messages and enums."""

    name: str
    number: int
    type: FieldType
    repeated: bool = False
    type_name: str | None = None


@dataclass(frozen=True)
class EnumType:
    """An enum nested in a message: value names in order, numbered from 0."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """A message type of a package."""

    name: str
    fields: tuple[Field, ...]
    enums: tuple[EnumType, ...] = ()


@dataclass(frozen=True)
class ProtoFile:
    """A proto3 file: its path, package, messages and the paths it imports."""

    path: str
    package: str
    messages: tuple[Message, ...]
    imports: tuple[str, ...] = ()


def varint(value: int) -> bytes:
    """``value`` >= 0 in base 128, least significant group first."""
    if value < 0:
        raise ValueError(f"expected a varint >= 0, got {value}")
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def tag(number: int, wire_type: WireType) -> bytes:
    """What precedes a field's value."""
    return varint(number << 3 | wire_type)


def integer_field(number: int, value: int) -> bytes:
    """A varint field."""
    return tag(number, WireType.VARINT) + varint(value)


def fixed32_field(number: int, value: int) -> bytes:
    """A fixed32 field."""
    return tag(number, WireType.FIXED32) + struct.pack("<I", value)


def bytes_field(number: int, value: bytes | str) -> bytes:
    """A bytes, string or sub-message field."""
    content = value.encode() if isinstance(value, str) else value
    return tag(number, WireType.LENGTH_DELIMITED) + varint(len(content)) + content


def doubles_field(number: int, values: Sequence[float]) -> bytes:
    """A packed repeated double field."""
    return bytes_field(number, struct.pack(f"<{len(values)}d", *values))


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The varint at ``position`` and the position after it. Raises `ProtobufError`."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ProtobufError(f"expected a varint of at most 10 bytes before offset {position}, the message ends or goes on")


def fields_of(data: bytes | memoryview) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: ints for varints, the raw bytes otherwise. Raises `ProtobufError`."""
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == WireType.VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if kind == WireType.LENGTH_DELIMITED:
            length, position = read_varint(data, position)
        elif kind in (WireType.FIXED64, WireType.FIXED32):
            length = 8 if kind == WireType.FIXED64 else 4
        else:
            raise ProtobufError(f"field {number}: wire type {kind} is not in use")
        if position + length > len(data):
            raise ProtobufError(f"field {number}: expected {length} bytes, {len(data) - position} are left")
        yield number, bytes(data[position : position + length])
        position += length


def file_descriptor_set(files: Sequence[ProtoFile]) -> bytes:
    """A serialized ``google.protobuf.FileDescriptorSet``: what an MCAP schema of encoding ``protobuf`` holds."""
    return b"".join(bytes_field(1, _file(file)) for file in files)


def _file(file: ProtoFile) -> bytes:
    return b"".join(
        [
            bytes_field(1, file.path),
            bytes_field(2, file.package),
            *(bytes_field(3, path) for path in file.imports),
            *(bytes_field(4, _message(message)) for message in file.messages),
            bytes_field(12, "proto3"),
        ]
    )


def _message(message: Message) -> bytes:
    return b"".join(
        [
            bytes_field(1, message.name),
            *(bytes_field(2, _field(field)) for field in message.fields),
            *(bytes_field(4, _enum(enum)) for enum in message.enums),
        ]
    )


def _field(field: Field) -> bytes:
    optional, repeated = 1, 3
    described = [
        bytes_field(1, field.name),
        integer_field(3, field.number),
        integer_field(4, repeated if field.repeated else optional),
        integer_field(5, field.type),
    ]
    if field.type_name is not None:
        described.append(bytes_field(6, field.type_name))
    return b"".join(described)


def _enum(enum: EnumType) -> bytes:
    values = [
        bytes_field(2, bytes_field(1, name) + integer_field(2, number)) for number, name in enumerate(enum.values)
    ]
    return bytes_field(1, enum.name) + b"".join(values)
