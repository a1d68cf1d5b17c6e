"""What a rollout shows of itself while it runs: ticks, chunks and predicted motion, in rings that anybody may read.

Writing is a copy into shared memory. The 15 Hz loop waits for no reader, and runs the same without any.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from policy_server.client import SIX_JOINTS_AND_GRIPPER
from robot.job_status import Job, JobStatus
from robot.ring import Ring
from robot.runtime import ring_name

HORIZON = SIX_JOINTS_AND_GRIPPER.horizon
ACTIONS = len(SIX_JOINTS_AND_GRIPPER.action_names)
NO_TIME = 0
MOTION_SIZE_PX = 224
NOTE_BYTES = 160
_TICK_SLOTS = 512
_CHUNK_SLOTS = 64
_MOTION_SLOTS = 16

TICK_DTYPE = np.dtype(
    [
        ("tick", "<u4"),
        ("deadline_ns", "<i8"),
        ("wake_ns", "<i8"),
        ("work_ms", "<f4"),
        ("missed", "<u4"),
        ("observation_ns", "<i8"),
        ("rejection", "S32"),
        ("link", "S32"),
        ("followed_ns", "<i8"),
        ("action", "<f8", (ACTIONS,)),
        ("chunks", "<u4"),
        ("underruns", "<u4"),
        ("holds", "<u4"),
        ("paused", "u1"),
        ("note", f"S{NOTE_BYTES}"),
    ]
)
"""One tick. ``observation_ns`` is `NO_TIME` when there was none and ``rejection`` says why; ``followed_ns`` is the
observation behind the waypoint that robotd follows; ``action`` is what the path commands now, NaN without a path."""
_NO_TICK = np.zeros((), TICK_DTYPE)

CHUNK_DTYPE = np.dtype(
    [
        ("observation_ns", "<i8"),
        ("sent_ns", "<i8"),
        ("received_ns", "<i8"),
        ("first_ns", "<i8"),
        ("period_ns", "<i8"),
        ("policy_ms", "<f4"),
        ("age_ms", "<f4"),
        ("seam_jump_rad", "<f4"),
        ("late", "<u2"),
        ("accepted", "<u2"),
        ("actions", "<f8", (HORIZON, ACTIONS)),
    ]
)
"""One chunk. Action k was due at ``first_ns + k * period_ns``; the first ``late`` of them were dropped; ``age_ms`` is
from the picture to the waypoints' arrival at robotd, NaN when none was sent."""

MOTION_DTYPE = np.dtype(
    [
        ("observation_ns", "<i8"),
        ("sent_ns", "<i8"),
        ("received_ns", "<i8"),
        ("scale_px", "<f4"),
        ("region", "<f4", (4,)),
        ("sent_size", "<f4", (2,)),
        ("image", "u1", (MOTION_SIZE_PX, MOTION_SIZE_PX, 3)),
    ]
)
"""Motion that the policy predicts, in the viewer's colours over what the policy looks at: ``region`` (top, left,
height, width) of the exterior camera's picture brought to ``sent_size`` (height, width), in its pixels. ``scale_px``
is the motion that is drawn fully saturated, in pixels of ``image``, NaN where the server does not say."""


def ticks_ring(rig_name: str) -> str:
    """Ring of `TICK_DTYPE`."""
    return ring_name(rig_name, "rollout.ticks")


def chunks_ring(rig_name: str) -> str:
    """Ring of `CHUNK_DTYPE`."""
    return ring_name(rig_name, "rollout.chunks")


def motion_ring(rig_name: str) -> str:
    """Ring of `MOTION_DTYPE`."""
    return ring_name(rig_name, "rollout.motion")


class Phase(Enum):
    """Where a rollout stands between its start and its end."""

    APPROACH = "going to the start pose"
    SCENE = "setting up the scene"
    RUNNING = "running"
    VERDICT = "judging"


@dataclass(frozen=True, eq=False)
class PredictedMotion:
    """A picture (H, W, 3) uint8 of predicted motion, in the viewer's colours.

    ``scale_width`` is the motion that is drawn fully saturated, as a share of the picture's width; NaN where the server
    does not say. The picture shows ``region`` (top, left, height, width) of a camera picture that was brought to
    ``sent_size`` (height, width), in its pixels.
    """

    image: np.ndarray
    observation_ns: int
    sent_ns: int
    scale_width: float
    region: tuple[float, float, float, float]
    sent_size: tuple[int, int]


class RolloutTelemetry:
    """The writing end; a context manager. Ticks and chunks come from one thread, motion from another.

    Raises `robot.ring.RingBusyError` when another rollout of this rig runs.
    """

    def __init__(self, rig_name: str) -> None:
        self.status = JobStatus(rig_name, Job.ROLLOUT)
        self._content: dict[str, Any] = {}
        self._ticks = Ring.create(ticks_ring(rig_name), dtype=TICK_DTYPE, slots=_TICK_SLOTS)
        self._chunks = Ring.create(chunks_ring(rig_name), dtype=CHUNK_DTYPE, slots=_CHUNK_SLOTS)
        self._motion = Ring.create(motion_ring(rig_name), dtype=MOTION_DTYPE, slots=_MOTION_SLOTS)

    def tell(self, **changes: Any) -> None:
        """Where the rollout stands, for people; what was told before stays unless it is told anew."""
        self._content |= changes
        self.status.publish(self._content)

    def tick(self, fields: Mapping[str, Any]) -> None:
        """One tick: fields of `TICK_DTYPE`, the others zero. Text is cut to what fits."""
        record = self._ticks.begin(capture_ns=int(fields["wake_ns"]))
        record[...] = _NO_TICK
        for name, value in fields.items():
            record[name] = value.encode()[: TICK_DTYPE[name].itemsize] if isinstance(value, str) else value
        self._ticks.commit()

    def chunk(self, fields: Mapping[str, Any]) -> None:
        """One chunk: fields of `CHUNK_DTYPE`."""
        record = self._chunks.begin(capture_ns=int(fields["observation_ns"]))
        for name, value in fields.items():
            record[name] = value
        self._chunks.commit()

    def motion(self, predicted: PredictedMotion) -> None:
        """One picture. Raises ValueError for an image of another shape or type."""
        image = predicted.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"motion image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
        if image.shape[:2] != (MOTION_SIZE_PX, MOTION_SIZE_PX):
            image = cv2.resize(image, (MOTION_SIZE_PX, MOTION_SIZE_PX), interpolation=cv2.INTER_NEAREST)
        record = self._motion.begin(capture_ns=predicted.observation_ns)
        record["observation_ns"], record["sent_ns"] = predicted.observation_ns, predicted.sent_ns
        record["received_ns"] = time.monotonic_ns()
        record["scale_px"] = predicted.scale_width * MOTION_SIZE_PX
        record["region"], record["sent_size"] = predicted.region, predicted.sent_size
        record["image"] = image
        self._motion.commit()

    def close(self) -> None:
        """The rollout is over."""
        self.status.close()
        for ring in (self._ticks, self._chunks, self._motion):
            ring.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
