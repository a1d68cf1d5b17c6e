"""Shared-memory rings: what a reader sees is whole, in order and honest about its age."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from robot.ring import Ring, RingBusyError, RingError, RingReader

DTYPE = np.dtype([("image", "u1", (64, 64, 3)), ("count", "<u8")])


@pytest.fixture
def name() -> str:
    return f"nova-pi.test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def ring(name: str) -> Iterator[Ring]:
    with Ring.create(name, dtype=DTYPE, slots=8, meta={"camera": "exterior"}) as made:
        yield made


def publish(ring: Ring, *, count: int, capture_ns: int) -> None:
    record = ring.begin(capture_ns=capture_ns, receive_ns=capture_ns + 5)
    record["image"] = count % 256
    record["count"] = count
    ring.commit()


def test_an_empty_ring_has_no_latest_sample(ring: Ring) -> None:
    assert RingReader(ring.name).latest() is None


def test_a_reader_gets_the_record_its_times_and_the_meta(ring: Ring) -> None:
    publish(ring, count=7, capture_ns=1_000)
    reader = RingReader(ring.name)
    sample = reader.latest()
    assert sample is not None
    assert (sample.capture_ns, sample.receive_ns, sample.seq, int(sample.value["count"])) == (1_000, 1_005, 0, 7)
    assert reader.meta == {"camera": "exterior"}
    assert reader.dtype == DTYPE


def test_records_may_hold_records(name: str) -> None:
    inner = np.dtype([("position_m", "<f8", (3,)), ("held", "u1")])
    with Ring.create(name, dtype=np.dtype([("objects", inner, (2,)), ("time_s", "<f8")]), slots=2) as ring:
        ring.begin(capture_ns=0)["objects"]["position_m"] = [[1, 2, 3], [4, 5, 6]]
        ring.commit()
        reader = RingReader(name)
        assert reader.dtype == ring.dtype
        sample = reader.latest()
        assert sample is not None
        assert sample.value["objects"]["position_m"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_sample_is_a_private_copy(ring: Ring) -> None:
    publish(ring, count=1, capture_ns=0)
    sample = RingReader(ring.name).latest()
    assert sample is not None
    for count in range(2, 30):
        publish(ring, count=count, capture_ns=count)
    assert np.all(sample.value["image"] == 1)


def test_old_records_are_overwritten_and_the_newest_are_kept_in_order(ring: Ring) -> None:
    for count in range(30):
        publish(ring, count=count, capture_ns=count * 100)
    reader = RingReader(ring.name)
    assert [sample.seq for sample in reader.last(5)] == [25, 26, 27, 28, 29]
    assert reader.read(3) is None
    assert reader.read(30) is None


def test_nearest_and_around_choose_by_capture_time(ring: Ring) -> None:
    for count in range(6):
        publish(ring, count=count, capture_ns=count * 100)
    reader = RingReader(ring.name)
    nearest = reader.nearest(260)
    assert nearest is not None
    assert nearest.seq == 3
    before, after = reader.around(250)
    assert before is not None
    assert after is not None
    assert (before.seq, after.seq) == (2, 3)
    assert reader.around(10_000)[1] is None
    assert [sample.seq for sample in reader.window(100, 300)] == [1, 2, 3]


def test_a_sample_older_than_allowed_is_not_given(ring: Ring) -> None:
    publish(ring, count=1, capture_ns=1_000)
    reader = RingReader(ring.name)
    assert reader.latest(max_age_ns=50, now_ns=1_040) is not None
    assert reader.latest(max_age_ns=50, now_ns=1_060) is None


def test_a_missing_ring_says_so(name: str) -> None:
    with pytest.raises(RingError, match="does not exist: is the process that writes it running"):
        RingReader(name)
    with pytest.raises(RingError, match="waited"):
        RingReader.wait(name, timeout_s=0.05)


def test_a_reader_notices_that_the_writer_ended_and_was_replaced(name: str) -> None:
    first = Ring.create(name, dtype=DTYPE, slots=4)
    reader = RingReader(name)
    assert not reader.closed
    first.unlink()
    assert reader.closed
    assert reader.replaced
    second = Ring.create(name, dtype=DTYPE, slots=4)
    assert reader.replaced
    assert not RingReader(name).replaced
    second.unlink()


def test_a_second_live_writer_is_refused_and_a_dead_one_is_replaced(name: str) -> None:
    program = (
        "import sys, time, numpy as np; from robot.ring import Ring\n"
        f"ring = Ring.create({name!r}, dtype=np.dtype([('x', '<f8')]), slots=4)\n"
        "ring.write(np.array((1.0,), ring.dtype), capture_ns=1)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RingBusyError, match=str(process.pid)):
            Ring.create(name, dtype=DTYPE, slots=4)
        process.kill()
    with Ring.create(name, dtype=DTYPE, slots=4) as ring:
        publish(ring, count=1, capture_ns=1)
        assert RingReader(name).newest_seq == 0


def test_a_reader_never_sees_half_a_record_while_another_process_writes(name: str) -> None:
    program = (
        "import numpy as np, time; from robot.ring import Ring\n"
        "dtype = np.dtype([('image', 'u1', (64, 64, 3)), ('count', '<u8')])\n"
        f"ring = Ring.create({name!r}, dtype=dtype, slots=3)\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 1.5; count = 0\n"
        "while time.monotonic() < end:\n"
        "    record = ring.begin(capture_ns=count); record['image'] = count % 256; record['count'] = count\n"
        "    ring.commit(); count += 1\n"
        "ring.unlink()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = RingReader(name)
        seen = 0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            sample = reader.latest()
            if sample is None:
                continue
            seen += 1
            assert sample.capture_ns == int(sample.value["count"])
            assert np.all(sample.value["image"] == int(sample.value["count"]) % 256)
        process.wait()
    assert seen > 100
