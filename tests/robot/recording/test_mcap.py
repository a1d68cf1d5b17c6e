"""The recording file: standard for everybody, and never taken for more than what was written."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader

from robot.recording.foxglove import Schema
from robot.recording.mcap_format import Channel
from robot.recording.mcap_scan import Scan, scan
from robot.recording.mcap_writer import McapWriter

TINY = Schema("nova_pi.Tiny", b"\x0a")
EVENTS, NOTES = Channel("/events", TINY), Channel("/notes", TINY, {"kind": "note"})
Message = tuple[str, int, int, int, bytes]


def messages_of(found: Scan, data: bytes) -> set[Message]:
    return {
        (topic, int(seq), int(log_ns), int(publish_ns), data[int(offset) : int(offset) + int(size)])
        for topic, messages in found.topics.items()
        for seq, log_ns, publish_ns, offset, size in zip(
            messages.sequence, messages.log_ns, messages.publish_ns, messages.offset, messages.size, strict=True
        )
    }


def write(file: io.FileIO, *, chunks: int = 4, per_chunk: int = 3, finish: bool = True) -> McapWriter:
    writer = McapWriter(file)
    writer.add_metadata("about", {"who": "me"})
    for number in range(chunks * per_chunk):
        channel = EVENTS if number % 2 else NOTES
        data = f"number {number}".encode()
        writer.add(channel, data, sequence=number, log_ns=1000 + number, publish_ns=number)
        if number % per_chunk == per_chunk - 1:
            writer.flush_chunk()
    if finish:
        writer.finish()
    return writer


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("mcap") / "healthy.mcap"
    with path.open("wb", buffering=0) as file:
        write(file)
    return path.read_bytes()


def test_the_official_reader_finds_everything_by_index_and_by_reading_through(healthy: bytes) -> None:
    reader = make_reader(io.BytesIO(healthy), validate_crcs=True)
    summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 12
    assert len(summary.chunk_indexes) == 4
    found = [(channel.topic, message.sequence) for _, channel, message in reader.iter_messages()]
    assert found == [("/events" if number % 2 else "/notes", number) for number in range(12)]
    late = [message.log_time for _, _, message in reader.iter_messages(topics=["/events"], starting_at=1008)]
    assert late == [1009, 1011]
    assert [record.metadata for record in reader.iter_metadata()] == [{"who": "me"}]


def test_a_scan_finds_what_was_written(healthy: bytes) -> None:
    found = scan(memoryview(healthy))
    assert found.finished
    assert found.damage == []
    assert found.metadata == {"about": {"who": "me"}}
    assert len(messages_of(found, healthy)) == 12
    assert found.topics["/notes"].channel.metadata == {"kind": "note"}


def test_whatever_byte_is_flipped_only_messages_that_were_written_are_found(healthy: bytes) -> None:
    written = messages_of(scan(memoryview(healthy)), healthy)
    rng = np.random.default_rng(3)
    for position in range(len(healthy)):
        damaged = bytearray(healthy)
        damaged[position] ^= 1 << int(rng.integers(8))
        found = messages_of(scan(memoryview(damaged)), bytes(damaged))
        assert found <= written, f"byte {position}"
        assert len(found) >= len(written) - 3, f"byte {position}: more than its own chunk is lost"


def test_wherever_the_file_is_cut_every_whole_chunk_before_is_found(healthy: bytes) -> None:
    written = messages_of(scan(memoryview(healthy)), healthy)
    summary = make_reader(io.BytesIO(healthy)).get_summary()
    assert summary is not None
    ends = [chunk.chunk_start_offset + chunk.chunk_length for chunk in summary.chunk_indexes]
    for length in range(len(healthy)):
        found = scan(memoryview(healthy[:length]))
        recovered = messages_of(found, healthy[:length])
        assert recovered <= written
        assert len(recovered) == 3 * sum(end <= length for end in ends)
        assert not found.finished
        assert found.damage


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400), st.integers(0, 2000), st.integers(0, 200))
def test_garbage_anywhere_is_survived(healthy: bytes, garbage: bytes, position: int, removed: int) -> None:
    written = messages_of(scan(memoryview(healthy)), healthy)
    damaged = healthy[:position] + garbage + healthy[position + removed :]
    assert messages_of(scan(memoryview(damaged)), damaged) <= written


class FullDisk(io.FileIO):
    """A file on a disk with room for ``room`` bytes, which are written before the error, as real disks do."""

    room = 0

    def write(self, data: object) -> int:
        content = bytes(data)
        fits = max(0, self.room - self.tell())
        if fits == 0 and content:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content[:fits])


@pytest.mark.parametrize("somebody_makes_room", [False, True])
def test_a_disk_that_fills_up_at_any_point_leaves_a_finished_file(
    tmp_path: Path, healthy: bytes, somebody_makes_room: bool
) -> None:
    written = messages_of(scan(memoryview(healthy)), healthy)
    for room in range(500, len(healthy), 23):
        path = tmp_path / f"{room}.mcap"
        with FullDisk(path, "w") as file:
            file.room = room
            writer = McapWriter(file)
            for number in range(12):
                channel = EVENTS if number % 2 else NOTES
                data = f"number {number}".encode()
                writer.add(channel, data, sequence=number, log_ns=1000 + number, publish_ns=number)
                if number % 3 == 2:
                    try:
                        writer.flush_chunk()
                    except OSError:
                        break
            if somebody_makes_room:
                file.room = 1 << 20
            writer.finish()
        data = path.read_bytes()
        found = scan(memoryview(data))
        assert found.finished, room
        assert found.damage == []
        assert messages_of(found, data) <= written
        reader = make_reader(io.BytesIO(data), validate_crcs=True)
        assert sum(1 for _ in reader.iter_messages()) == len(messages_of(found, data))
