"""The records of an MCAP file that recordings use, as bytes. Source: mcap.dev/spec, version 0."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from robot.recording.foxglove import Schema

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
CHUNK_HEAD = struct.Struct("<QQQIIQ")
"""A chunk without compression: start and end log time, size, CRC-32, length 0 of the compression's name, size again."""
SCHEMA_ENCODING = MESSAGE_ENCODING = "protobuf"


class Opcode(IntEnum):
    """What a record is."""

    HEADER = 0x01
    FOOTER = 0x02
    SCHEMA = 0x03
    CHANNEL = 0x04
    MESSAGE = 0x05
    CHUNK = 0x06
    MESSAGE_INDEX = 0x07
    CHUNK_INDEX = 0x08
    STATISTICS = 0x0B
    METADATA = 0x0C
    METADATA_INDEX = 0x0D
    SUMMARY_OFFSET = 0x0E
    DATA_END = 0x0F


@dataclass(frozen=True)
class Channel:
    """A stream of messages of one schema; ``metadata`` says what the schema can't, such as the numpy record type."""

    topic: str
    schema: Schema
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Statistics:
    """What the file holds, for readers that want to know before reading."""

    messages: Mapping[int, int]
    start_ns: int
    end_ns: int
    schemas: int
    channels: int
    metadata: int
    chunks: int


def record(opcode: Opcode, content: bytes) -> bytes:
    """One record."""
    return RECORD_HEAD.pack(opcode, len(content)) + content


def text(value: str) -> bytes:
    """A string with its length."""
    encoded = value.encode()
    return struct.pack("<I", len(encoded)) + encoded


def text_map(values: Mapping[str, str]) -> bytes:
    """A map of strings with its length in bytes."""
    content = b"".join(text(key) + text(value) for key, value in values.items())
    return struct.pack("<I", len(content)) + content


def header(library: str) -> bytes:
    """The file's first record; no profile."""
    return record(Opcode.HEADER, text("") + text(library))


def schema(schema_id: int, described: Schema) -> bytes:
    """A schema record."""
    content = struct.pack("<H", schema_id) + text(described.name) + text(SCHEMA_ENCODING)
    return record(Opcode.SCHEMA, content + struct.pack("<I", len(described.data)) + described.data)


def channel(channel_id: int, described: Channel, *, schema_id: int) -> bytes:
    """A channel record."""
    content = struct.pack("<HH", channel_id, schema_id) + text(described.topic) + text(MESSAGE_ENCODING)
    return record(Opcode.CHANNEL, content + text_map(described.metadata))


def message(channel_id: int, data: bytes, *, sequence: int, log_ns: int, publish_ns: int) -> bytes:
    """A message record; the sequence number wraps at 32 bits."""
    head = MESSAGE_HEAD.pack(channel_id, sequence & 0xFFFFFFFF, log_ns, publish_ns)
    return RECORD_HEAD.pack(Opcode.MESSAGE, len(head) + len(data)) + head + data


def chunk(records: bytes, *, start_ns: int, end_ns: int, crc: int) -> bytes:
    """A chunk of records, not compressed."""
    content = CHUNK_HEAD.pack(start_ns, end_ns, len(records), crc, 0, len(records))
    return record(Opcode.CHUNK, content + records)


def message_index(channel_id: int, entries: Iterable[tuple[int, int]]) -> bytes:
    """Where the messages of one channel are in the chunk before: (log time, offset) each."""
    content = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return record(Opcode.MESSAGE_INDEX, struct.pack("<HI", channel_id, len(content)) + content)


def chunk_index(
    *, start_ns: int, end_ns: int, offset: int, length: int, size: int, indexes: Mapping[int, int], index_length: int
) -> bytes:
    """Where a chunk and its message indexes are in the file; ``size`` is that of the records in it."""
    offsets = b"".join(struct.pack("<HQ", *entry) for entry in indexes.items())
    content = struct.pack("<QQQQI", start_ns, end_ns, offset, length, len(offsets)) + offsets
    return record(
        Opcode.CHUNK_INDEX, content + struct.pack("<Q", index_length) + text("") + struct.pack("<QQ", size, size)
    )


def statistics(found: Statistics) -> bytes:
    """A statistics record."""
    counts = b"".join(struct.pack("<HQ", *entry) for entry in found.messages.items())
    content = struct.pack(
        "<QHIIIIQQI",
        sum(found.messages.values()),
        found.schemas,
        found.channels,
        0,
        found.metadata,
        found.chunks,
        found.start_ns,
        found.end_ns,
        len(counts),
    )
    return record(Opcode.STATISTICS, content + counts)


def metadata(name: str, values: Mapping[str, str]) -> bytes:
    """A metadata record."""
    return record(Opcode.METADATA, text(name) + text_map(values))


def metadata_index(name: str, *, offset: int, length: int) -> bytes:
    """Where a metadata record is."""
    return record(Opcode.METADATA_INDEX, struct.pack("<QQ", offset, length) + text(name))


def summary_offset(opcode: Opcode, *, start: int, length: int) -> bytes:
    """Where a group of equal records is in the summary."""
    return record(Opcode.SUMMARY_OFFSET, struct.pack("<BQQ", opcode, start, length))


def data_end(crc: int) -> bytes:
    """The end of the data section, with the CRC-32 of everything before."""
    return record(Opcode.DATA_END, struct.pack("<I", crc))
