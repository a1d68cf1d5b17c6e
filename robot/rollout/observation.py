"""One observation, assembled *at a time* instead of from whatever came last.

The reference is the newest exterior frame. The wrist picture is the one captured nearest to it, joints and gripper are
interpolated at its capture time. What is too old or too far apart is rejected with a named reason, so that nothing is
ever inferred from a frozen picture.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from configs.schema import ObservationConfig, RigConfig
from policy_server.client import make_observation
from robot.cameras.exposure import is_as_locked
from robot.clock import seconds_to_ns
from robot.ring import RingError, RingReader, Sample
from robot.rollout.resize import resize_with_pad
from robot.runtime import ring_name

MAX_STATE_GAP_NS = seconds_to_ns(0.1)
"""Joint states further apart than this are not interpolated: the feedback has a hole there."""
MAX_GRIPPER_GAP_NS = seconds_to_ns(0.25)
"""The same for the gripper, which is asked 30 times a second over a slow line and takes 0.7 s from open to closed."""
STATE_HISTORY = 48
"""Newest state records looked at: 0.38 s at the controller's 125 Hz, more than any camera's latency."""


class Rejection(Enum):
    """Why there is no observation at a tick. The value is its name in logs and results."""

    NO_EXTERIOR_FRAME = "no_exterior_frame"
    EXTERIOR_STALE = "exterior_stale"
    NO_WRIST_FRAME = "no_wrist_frame"
    CAMERAS_APART = "cameras_apart"
    NO_STATE = "no_state"
    STATE_GAP = "state_gap"
    CAMERA_SETTINGS = "camera_settings"
    """A camera went back to automatic exposure."""


@dataclass(frozen=True)
class Observation:
    """What the policy acts on, all of it true at ``time_ns``, the capture time of the exterior frame.

    Images are (H, W, 3) uint8 RGB as the cameras gave them, joints (6,) float64 rad, the gripper 0 open to 1 closed.
    ``wrist_skew_ns`` is how much later the wrist picture was captured.
    """

    time_ns: int
    exterior: np.ndarray
    wrist: np.ndarray
    wrist_skew_ns: int
    joints_rad: np.ndarray
    gripper: float

    def request(self, *, prompt: str, height: int, width: int) -> dict[str, Any]:
        """The policy server's keys, with pictures resized (aspect kept, padded) to what the policy sees."""
        return make_observation(
            exterior_image=resize_with_pad(self.exterior, height=height, width=width),
            wrist_image=resize_with_pad(self.wrist, height=height, width=width),
            joint_position_rad=self.joints_rad,
            gripper_position=self.gripper,
            prompt=prompt,
        )


def assemble(
    *,
    now_ns: int,
    exterior: Sample | None,
    wrist: Sample | None,
    states: Sequence[Sample],
    limits: ObservationConfig,
) -> Observation | Rejection:
    """The observation at the exterior frame's capture time, or why there is none.

    ``exterior`` is the newest exterior frame, ``wrist`` the wrist frame nearest to it, ``states`` records of the state
    ring in order of time.
    """
    if exterior is None:
        return Rejection.NO_EXTERIOR_FRAME
    if now_ns - exterior.capture_ns > seconds_to_ns(limits.max_age_s):
        return Rejection.EXTERIOR_STALE
    if wrist is None:
        return Rejection.NO_WRIST_FRAME
    skew_ns = wrist.capture_ns - exterior.capture_ns
    if abs(skew_ns) > seconds_to_ns(limits.max_skew_s):
        return Rejection.CAMERAS_APART
    if not states:
        return Rejection.NO_STATE
    joints_rad = interpolate(
        exterior.capture_ns,
        times_ns=[sample.capture_ns for sample in states],
        values=[sample.value["joints_rad"] for sample in states],
    )
    # The gripper is polled more slowly than the arm and has capture times of its own, repeated until the next answer.
    gripper = interpolate(
        exterior.capture_ns,
        times_ns=[int(sample.value["gripper_capture_ns"]) for sample in states],
        values=[sample.value["gripper"] for sample in states],
        max_gap_ns=MAX_GRIPPER_GAP_NS,
    )
    if joints_rad is None or gripper is None:
        return Rejection.STATE_GAP
    return Observation(
        time_ns=exterior.capture_ns,
        exterior=exterior.value["image"],
        wrist=wrist.value["image"],
        wrist_skew_ns=skew_ns,
        joints_rad=joints_rad,
        gripper=float(np.clip(gripper, 0.0, 1.0)),
    )


def interpolate(
    t_ns: int, *, times_ns: Sequence[int], values: Sequence[Any], max_gap_ns: int = MAX_STATE_GAP_NS
) -> np.ndarray | None:
    """``values`` (n, ...) at ``t_ns``, linear between the two neighbours in time (``times_ns`` must not decrease).

    The newest value is taken as it is when ``t_ns`` is later by at most ``max_gap_ns``. None when ``t_ns`` lies before
    all of them, too long after them, or in a gap longer than that.
    """
    after = int(np.searchsorted(np.asarray(times_ns), t_ns, side="right"))
    if after == 0:
        return None
    before = after - 1
    if after == len(times_ns):
        late = t_ns - times_ns[before] > max_gap_ns
        return None if late else np.asarray(values[before], dtype=np.float64)
    gap_ns = times_ns[after] - times_ns[before]
    if gap_ns > max_gap_ns:
        return None
    share = (t_ns - times_ns[before]) / gap_ns
    earlier, later = np.asarray(values[before], dtype=np.float64), np.asarray(values[after], dtype=np.float64)
    return earlier + share * (later - earlier)


class ObservationReader:
    """Assembles observations from the rig's rings and counts what it had to reject.

    A camera process that was restarted has a new ring under the same name; the reader attaches to it by itself.
    """

    def __init__(self, rig: RigConfig, *, timeout_s: float = 5.0) -> None:
        """Attach to the rings; `RingError` after ``timeout_s`` if one is absent or stays empty."""
        self._limits = rig.observation
        self._cameras = rig.cameras
        self._names = {part: ring_name(rig.name, part) for part in ("camera.exterior", "camera.wrist", "state")}
        self._readers = {
            part: RingReader.wait(name, timeout_s=timeout_s, with_sample=True) for part, name in self._names.items()
        }
        self.rejections: Counter[Rejection] = Counter()

    def read(self, now_ns: int) -> Observation | Rejection:
        """The observation of the newest exterior frame at ``now_ns``, or why there is none (counted)."""
        exterior = self._readers["camera.exterior"].latest()
        if exterior is None or now_ns - exterior.capture_ns > seconds_to_ns(self._limits.max_age_s):
            self._reattach("camera.exterior")
        wrist = None if exterior is None else self._readers["camera.wrist"].nearest(exterior.capture_ns)
        states = self._readers["state"].last(STATE_HISTORY)
        seen = assemble(now_ns=now_ns, exterior=exterior, wrist=wrist, states=states, limits=self._limits)
        if isinstance(seen, Observation) and not self._exposed_as_locked(exterior, wrist):
            seen = Rejection.CAMERA_SETTINGS
        if isinstance(seen, Rejection):
            self.rejections[seen] += 1
            if seen in (Rejection.NO_WRIST_FRAME, Rejection.CAMERAS_APART):
                self._reattach("camera.wrist")
            elif seen in (Rejection.NO_STATE, Rejection.STATE_GAP):
                self._reattach("state")
        return seen

    def frame_age_ns(self, now_ns: int) -> int:
        """How long ago the newest frame of the camera that is furthest behind was captured."""
        newest = [self._readers[part].latest() for part in ("camera.exterior", "camera.wrist")]
        return max(now_ns - (sample.capture_ns if sample is not None else 0) for sample in newest)

    def state(self) -> Sample | None:
        """The newest record of robotd's state ring."""
        return self._readers["state"].latest()

    def close(self) -> None:
        """Let go of the rings."""
        for reader in self._readers.values():
            reader.detach()

    def _exposed_as_locked(self, exterior: Sample | None, wrist: Sample | None) -> bool:
        pairs = ((exterior, self._cameras["exterior"]), (wrist, self._cameras["wrist"]))
        return all(
            sample is None or is_as_locked(float(sample.value["exposure_s"]), config=config) for sample, config in pairs
        )

    def _reattach(self, part: str) -> None:
        if not self._readers[part].replaced:
            return
        try:
            fresh = RingReader(self._names[part])
        except RingError:
            return  # the writer is being restarted; the next tick looks again
        self._readers[part].detach()
        self._readers[part] = fresh
