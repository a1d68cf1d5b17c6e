"""Reading MCAP without trusting it: every intact chunk of a file that may be cut off or damaged anywhere.

The index is ignored, since a crash leaves none. A chunk counts only if its length is plausible and its CRC-32 is
right, so that nothing is taken for data that was not recorded. After damage the scan looks for the next intact chunk.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from robot.recording.foxglove import Schema
from robot.recording.mcap_format import CHUNK_HEAD, MAGIC, MESSAGE_HEAD, RECORD_HEAD, Channel, Opcode

_DATA_END_SIZE = 4
_CHUNK_START = re.compile(rb"\x06(?=.{36}\x00{4})", re.DOTALL)
"""An uncompressed chunk: its opcode and, 36 bytes on, the empty name of its compression."""


class McapError(ValueError):
    """A file that is no MCAP file, or whose intact chunks contradict themselves."""


@dataclass(frozen=True)
class Damage:
    """Bytes that could not be read as records."""

    offset: int
    length: int
    text: str


@dataclass
class Messages:
    """Where the messages of one topic are: arrays (n,) of times in ns, sequence numbers, offsets and sizes in bytes."""

    channel: Channel
    log_ns: np.ndarray
    publish_ns: np.ndarray
    sequence: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.log_ns)


@dataclass
class Scan:
    """What `scan` found. ``finished`` tells whether the writer ended the file itself."""

    topics: dict[str, Messages]
    metadata: dict[str, dict[str, str]]
    chunks: int
    finished: bool
    damage: list[Damage]

    @property
    def damaged_inside(self) -> bool:
        """True when something is wrong beyond a missing end."""
        return (self.finished and bool(self.damage)) or len(self.damage) > 1


@dataclass
class _Collector:
    data: memoryview
    rows: dict[str, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)
    channels: dict[str, Channel] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    chunks: int = 0

    def take_chunk(self, start: int, length: int) -> None:
        """The messages of the chunk whose records are at ``start``. Raises `McapError` and then takes none of them."""
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        rows: dict[str, list[tuple[int, int, int, int, int]]] = {}
        position, end = start, start + length
        while position < end:
            opcode, size = _record_head(self.data, position, end=end)
            body = position + RECORD_HEAD.size
            match opcode:
                case Opcode.SCHEMA:
                    number, schema = _schema(self.data[body : body + size])
                    schemas[number] = schema
                case Opcode.CHANNEL:
                    number, channel = _channel(self.data[body : body + size], schemas)
                    channels[number] = channel
                case Opcode.MESSAGE:
                    if size < MESSAGE_HEAD.size:
                        raise McapError(f"a message record of {size} bytes, expected at least {MESSAGE_HEAD.size}")
                    number, sequence, log_ns, publish_ns = MESSAGE_HEAD.unpack_from(self.data, body)
                    if number not in channels:
                        raise McapError(f"a message of channel {number}, which its chunk does not declare")
                    entry = (log_ns, publish_ns, sequence, body + MESSAGE_HEAD.size, size - MESSAGE_HEAD.size)
                    rows.setdefault(channels[number].topic, []).append(entry)
            position = body + size
        self.chunks += 1
        self.channels.update({channel.topic: channel for channel in channels.values()})
        for topic, found in rows.items():
            self.rows.setdefault(topic, []).extend(found)

    def topics(self) -> dict[str, Messages]:
        """Everything taken so far."""
        found = {}
        for topic, rows in self.rows.items():
            columns = np.array(rows, dtype=np.uint64).T
            log_ns, publish_ns, sequence, offset, size = (column.astype(np.int64) for column in columns)
            found[topic] = Messages(self.channels[topic], log_ns, publish_ns, sequence, offset, size)
        return found


def scan(data: memoryview) -> Scan:
    """Everything intact in the bytes of an MCAP file made by `McapWriter`. Never raises for damaged content."""
    found = _Collector(data)
    finished = False
    position = _Position(data)
    for start, opcode, size in position:
        body = start + RECORD_HEAD.size
        try:
            match opcode:
                case Opcode.CHUNK:
                    found.take_chunk(*_intact_records(data, body, size))
                case Opcode.METADATA:
                    name, values = _metadata(data[body : body + size])
                    found.metadata[name] = values
                case Opcode.MESSAGE_INDEX | Opcode.HEADER:
                    _check_lengths(data[body : body + size], opcode)
                case Opcode.DATA_END if size == _DATA_END_SIZE:
                    finished = data[-len(MAGIC) :] == MAGIC
                    position.stop()
                case _:
                    raise McapError(f"a record of kind {opcode} and {size} bytes, which has no place between chunks")
        except (McapError, struct.error, UnicodeDecodeError, OverflowError) as error:
            position.lost(start, str(error))
    damage = position.damage
    if not finished and not damage:
        damage.append(Damage(len(data), 0, "the file ends without its index"))
    return Scan(found.topics(), found.metadata, found.chunks, finished, damage)


class _Position:
    """Walks the records outside chunks; after damage goes on at the next intact chunk."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._next = len(MAGIC)
        self.damage: list[Damage] = []
        if data[: len(MAGIC)] != MAGIC:
            self.damage.append(Damage(0, min(len(MAGIC), len(data)), "the file does not begin like an MCAP file"))

    def stop(self) -> None:
        """Nothing but the index follows."""
        self._next = len(self._data)

    def lost(self, start: int, why: str) -> None:
        """The record at ``start`` is not intact: go on at the next chunk that is."""
        self._next = _next_chunk(self._data, start + 1)
        self.damage.append(Damage(start, self._next - start, why))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        while self._next < len(self._data):
            start = self._next
            try:
                opcode, size = _record_head(self._data, start, end=len(self._data))
            except McapError as error:
                self.lost(start, str(error))
                continue
            self._next = start + RECORD_HEAD.size + size
            yield start, opcode, size


def _record_head(data: memoryview, position: int, *, end: int) -> tuple[int, int]:
    if position + RECORD_HEAD.size > end:
        raise McapError(f"{end - position} bytes where a record should begin")
    opcode, size = RECORD_HEAD.unpack_from(data, position)
    if position + RECORD_HEAD.size + size > end:
        raise McapError(f"a record of kind {opcode} with {size} bytes, of which {end - position} are there")
    return opcode, size


def _intact_records(data: memoryview, body: int, size: int) -> tuple[int, int]:
    """Offset and length of a chunk's records; raises `McapError` if its checksum or its lengths are wrong."""
    if size < CHUNK_HEAD.size:
        raise McapError(f"a chunk of {size} bytes, expected at least {CHUNK_HEAD.size}")
    _, _, uncompressed, crc, compression, length = CHUNK_HEAD.unpack_from(data, body)
    if compression or length != uncompressed or length != size - CHUNK_HEAD.size:
        raise McapError("a chunk whose lengths contradict each other")
    start = body + CHUNK_HEAD.size
    if zlib.crc32(data[start : start + length]) != crc:
        raise McapError("a chunk whose checksum is wrong")
    return start, length


def _next_chunk(data: memoryview, start: int) -> int:
    """Offset of the first intact chunk at or after ``start``, the end of the data if there is none."""
    for candidate in _CHUNK_START.finditer(data, start):
        position = candidate.start()
        try:
            _, size = _record_head(data, position, end=len(data))
            _intact_records(data, position + RECORD_HEAD.size, size)
        except McapError:
            continue
        return position
    return len(data)


class _Fields:
    """Reads the strings and maps of one record."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        if self._position + length > len(self._data):
            raise McapError(f"expected {length} bytes in a record, {len(self._data) - self._position} are left")
        taken = bytes(self._data[self._position : self._position + length])
        self._position += length
        return taken

    def expect_end(self) -> None:
        """Raises `McapError` unless everything was read."""
        if self._position != len(self._data):
            raise McapError(f"{len(self._data) - self._position} bytes too many in a record")

    def number(self, kind: str) -> int:
        """One little-endian integer of struct format ``kind``."""
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0])

    def text(self) -> str:
        """A string with its length before it."""
        return self.take(self.number("I")).decode()

    def text_map(self) -> dict[str, str]:
        """A map of strings with its size before it."""
        inside = _Fields(memoryview(self.take(self.number("I"))))
        found = {}
        while inside._position < len(inside._data):
            key = inside.text()
            found[key] = inside.text()
        return found


def _schema(data: memoryview) -> tuple[int, Schema]:
    fields = _Fields(data)
    number, name, _encoding = fields.number("H"), fields.text(), fields.text()
    return number, Schema(name, fields.take(fields.number("I")))


def _channel(data: memoryview, schemas: dict[int, Schema]) -> tuple[int, Channel]:
    fields = _Fields(data)
    number, schema_id, topic, _encoding = fields.number("H"), fields.number("H"), fields.text(), fields.text()
    if schema_id not in schemas:
        raise McapError(f"channel {topic!r} has schema {schema_id}, which its chunk does not declare")
    return number, Channel(topic, schemas[schema_id], fields.text_map())


def _metadata(data: memoryview) -> tuple[str, dict[str, str]]:
    fields = _Fields(data)
    name, values = fields.text(), fields.text_map()
    fields.expect_end()
    return name, values


def _check_lengths(data: memoryview, opcode: int) -> None:
    """A length that was damaged would make the walk jump over chunks, so what is inside must agree with it."""
    fields = _Fields(data)
    if opcode == Opcode.MESSAGE_INDEX:
        fields.number("H")
        fields.take(fields.number("I"))
    else:
        fields.text()
        fields.text()
    fields.expect_end()
