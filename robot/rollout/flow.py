"""Predicted motion beside the motion that then happened: a process of its own, next to a rollout with ``--motion``.

``python -m robot.rollout.flow --rig RIG`` reads the predicted pictures and the exterior camera until SIGTERM. For each
prediction it waits until the horizon has passed, matches the frame of the observation with the frame of then (dense
inverse search), and publishes all four pictures in the ring `flow_ring`: at once with the prediction alone, and again
with the measurement. While an episode runs it also writes ``flow.mp4`` and ``flow.jsonl`` into the episode's folder.
"""

import argparse
import json
import math
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from configs.schema import ConfigError, RigConfig, load_rig
from policy_server.client import SIX_JOINTS_AND_GRIPPER
from robot.clock import NS_PER_S, seconds_to_ns
from robot.job_status import Job, read_job
from robot.processes import stop_event_on_signals
from robot.ring import Ring, RingError, RingReader, Sample
from robot.rollout.flow_files import FlowFiles
from robot.rollout.flow_view import arrows, colours, difference, error_picture, from_colours, full_scale_px
from robot.rollout.resize import resize_with_pad
from robot.rollout.telemetry import MOTION_SIZE_PX, motion_ring
from robot.runtime import ring_name

SIZE = MOTION_SIZE_PX
ARROWS = 14
HORIZON_S = SIX_JOINTS_AND_GRIPPER.horizon / SIX_JOINTS_AND_GRIPPER.fps
MAX_FRAME_OFF_S = 0.05
"""A frame further than this from the time wanted is no end of the motion."""
_SLOTS = 64
_POLL_S = 0.01
_GIVE_UP_S = 2.0

FLOW_DTYPE = np.dtype(
    [
        ("observation_ns", "<i8"),
        ("image_delay_ms", "<f4"),
        ("scale_px", "<f4"),
        ("measured_scale_px", "<f4"),
        ("endpoint_px", "<f4"),
        ("angle_deg", "<f4"),
        ("has_measured", "u1"),
        ("region", "<f4", (4,)),
        ("observation", "u1", (SIZE, SIZE, 3)),
        ("predicted", "u1", (SIZE, SIZE, 3)),
        ("measured", "u1", (SIZE, SIZE, 3)),
        ("error", "u1", (SIZE, SIZE, 3)),
        ("predicted_arrows", "<f4", (ARROWS, ARROWS, 2)),
        ("measured_arrows", "<f4", (ARROWS, ARROWS, 2)),
    ]
)
"""One prediction. ``image_delay_ms`` is from the request to the picture; ``scale_px`` (NaN: not told) and
``measured_scale_px`` the motion of full saturation; figures are NaN where they are not known. ``region`` (top, left,
height, width) is what the pictures show, in shares of the exterior camera's height and width; it may reach beyond."""


def flow_ring(rig_name: str) -> str:
    """Ring of `FLOW_DTYPE`; each observation comes twice, without and then with its measurement."""
    return ring_name(rig_name, "rollout.flow")


@dataclass(frozen=True)
class PolicyView:
    """What a policy looks at: ``region`` (top, left, height, width) of a camera's picture that was scaled to fit into
    ``sent_size`` (height, width) and centred on black, in pixels of that."""

    region: tuple[float, ...]
    sent_size: tuple[float, ...]

    def shares(self, *, height: int, width: int) -> tuple[float, float, float, float]:
        """The region in shares of the height and the width of a camera's picture."""
        scale = min(self.sent_size[0] / height, self.sent_size[1] / width)
        inner_height, inner_width = height * scale, width * scale
        top = (self.region[0] - (self.sent_size[0] - inner_height) / 2) / inner_height
        left = (self.region[1] - (self.sent_size[1] - inner_width) / 2) / inner_width
        return top, left, self.region[2] / inner_height, self.region[3] / inner_width

    def of(self, image: np.ndarray) -> np.ndarray:
        """The region of a camera's picture (H, W, 3) uint8, SIZE px a side, black beyond the picture."""
        rows, columns = image.shape[:2]
        top, left, height, width = self.shares(height=rows, width=columns)
        above, before = round(top * rows), round(left * columns)
        shown = np.zeros((max(1, round(height * rows)), max(1, round(width * columns)), 3), np.uint8)
        part = image[max(0, above) : max(0, above + shown.shape[0]), max(0, before) : max(0, before + shown.shape[1])]
        row, column = max(0, -above), max(0, -before)
        shown[row : row + part.shape[0], column : column + part.shape[1]] = part
        return resize_with_pad(shown, height=SIZE, width=SIZE)


WHOLE = PolicyView((0.0, 0.0, SIZE, SIZE), (SIZE, SIZE))


class FlowMeter:
    """Dense inverse search (Kroeger et al., ECCV 2016) between two (H, W, 3) uint8 pictures, enlarged twice."""

    def __init__(self) -> None:
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0)

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Where each pixel of ``first`` is in ``second``: (H, W, 2) float32 px."""
        found = self._dis.calc(_enlarged_grey(first), _enlarged_grey(second), None)
        height, width = first.shape[:2]
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA) / 2.0


def _enlarged_grey(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, None, fx=2.0, fy=2.0, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True, eq=False)
class _Prediction:
    observation_ns: int
    due_ns: int
    record: np.ndarray


class FlowComparison:
    """Pairs predictions with frames. Give it each frame and each prediction; take the records that are ready."""

    def __init__(self, *, horizon_s: float = HORIZON_S) -> None:
        self._horizon_ns = seconds_to_ns(horizon_s)
        self._view: PolicyView | None = None
        self._shares = (0.0, 0.0, 1.0, 1.0)
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()
        """What the policy looks at, by the time of capture; whole until the first prediction says what that is."""
        self._waiting: deque[_Prediction] = deque()
        self._meter = FlowMeter()

    def frame(self, image: np.ndarray, *, capture_ns: int) -> None:
        """A picture (H, W, 3) of the exterior camera."""
        if self._view is None:
            self._frames[capture_ns] = image.copy()
        else:
            self._shares = self._view.shares(height=image.shape[0], width=image.shape[1])
            self._frames[capture_ns] = self._view.of(image)
        oldest_ns = capture_ns - self._horizon_ns - seconds_to_ns(_GIVE_UP_S)
        while next(iter(self._frames)) < oldest_ns:
            self._frames.popitem(last=False)

    def predicted(self, sample: Sample) -> np.ndarray:
        """A record of `MOTION_DTYPE` as a record of `FLOW_DTYPE` without its measurement."""
        value = sample.value
        self._look_at(PolicyView(tuple(value["region"].tolist()), tuple(value["sent_size"].tolist())))
        record = np.zeros((), FLOW_DTYPE)
        record["region"] = self._shares
        record["observation_ns"] = observation_ns = int(value["observation_ns"])
        record["image_delay_ms"] = (int(value["received_ns"]) - int(value["sent_ns"])) / 1e6
        record["scale_px"], record["predicted"] = value["scale_px"], value["image"]
        record["measured_scale_px"] = record["endpoint_px"] = record["angle_deg"] = math.nan
        record["observation"] = self._nearest(observation_ns, default=np.zeros((SIZE, SIZE, 3), np.uint8))
        scale_px = float(value["scale_px"])
        predicted = from_colours(value["image"], scale_px=scale_px if math.isfinite(scale_px) else SIZE / ARROWS)
        record["predicted_arrows"] = arrows(predicted, count=ARROWS)
        self._waiting.append(_Prediction(observation_ns, observation_ns + self._horizon_ns, record))
        return record

    def _look_at(self, view: PolicyView) -> None:
        if self._view is None:
            whole, self._frames, self._view = self._frames, OrderedDict(), view
            for capture_ns, image in whole.items():
                self.frame(image, capture_ns=capture_ns)
        elif view != self._view:
            self._view = view
            self._frames.clear()  # they show another part; from the next frame on motion is measured

    def measured(self) -> np.ndarray | None:
        """The next record whose motion has happened, None while there is none."""
        newest_ns = next(reversed(self._frames), 0)
        # Half a frame of patience: the frame of the due time may be the next one.
        if not self._waiting or newest_ns < self._waiting[0].due_ns + seconds_to_ns(MAX_FRAME_OFF_S):
            return None
        prediction = self._waiting.popleft()
        before = self._nearest(prediction.observation_ns, default=None)
        after = self._nearest(prediction.due_ns, default=None)
        if before is None or after is None:
            return self.measured()
        flow = self._meter.flow(before, after)
        record = prediction.record.copy()
        record["has_measured"], record["observation"], record["region"] = 1, before, self._shares
        record["measured"], record["measured_scale_px"] = colours(flow), full_scale_px(flow)
        record["measured_arrows"] = arrows(flow, count=ARROWS)
        scale_px = float(record["scale_px"])
        known = math.isfinite(scale_px)
        predicted = from_colours(record["predicted"], scale_px=scale_px if known else full_scale_px(flow))
        found = difference(predicted, flow)
        # Without its scale a predicted picture tells directions, but no lengths.
        record["endpoint_px"] = math.nan if found.endpoint_px is None or not known else found.endpoint_px
        record["angle_deg"] = math.nan if found.angle_deg is None else found.angle_deg
        record["error"] = error_picture(predicted, flow, scale_px=max(full_scale_px(flow), full_scale_px(predicted)))
        return record

    def _nearest(self, t_ns: int, *, default: np.ndarray | None) -> np.ndarray | None:
        best = min(self._frames, key=lambda frame_ns: abs(frame_ns - t_ns), default=None)
        if best is None or abs(best - t_ns) > seconds_to_ns(MAX_FRAME_OFF_S):
            return default
        return self._frames[best]


def run(rig: RigConfig, *, stop: threading.Event) -> int:
    """Compare until ``stop``; gives how many predictions were measured. Raises `RingError` without a rollout."""
    motion = RingReader.wait(motion_ring(rig.name), timeout_s=5.0)
    camera = RingReader.wait(ring_name(rig.name, "camera.exterior"), timeout_s=5.0, with_sample=True)
    comparison = FlowComparison(horizon_s=HORIZON_S / _speed(rig.name))
    files = FlowFiles()
    frame_seq = motion_seq = -1
    measured = 0
    with Ring.create(flow_ring(rig.name), dtype=FLOW_DTYPE, slots=_SLOTS) as ring:
        while not stop.wait(_POLL_S):
            if camera.replaced:
                camera = _attached(camera)
                frame_seq = -1
            if camera.newest_seq > frame_seq and (sample := camera.latest()) is not None:
                frame_seq = sample.seq
                comparison.frame(sample.value["image"], capture_ns=sample.capture_ns)
            while motion_seq < motion.newest_seq:
                motion_seq += 1
                if (sample := motion.read(motion_seq)) is not None:
                    ring.write(comparison.predicted(sample), capture_ns=sample.capture_ns)
            if (record := comparison.measured()) is not None:
                ring.write(record, capture_ns=int(record["observation_ns"]))
                files.write(record, folder=_episode_folder(rig.name))
                measured += 1
    files.close()
    return measured


def _attached(camera: RingReader) -> RingReader:
    """The camera's new ring, the old one as long as there is none."""
    try:
        return RingReader(camera.name)
    except RingError:
        time.sleep(_POLL_S)
        return camera


def _speed(rig_name: str) -> float:
    report = read_job(rig_name, Job.ROLLOUT)
    return 1.0 if report is None else float(report.content.get("speed", 1.0))


def _episode_folder(rig_name: str) -> Path | None:
    report = read_job(rig_name, Job.ROLLOUT)
    folder = "" if report is None else str(report.content.get("folder", ""))
    return Path(folder) if folder else None


def main() -> int:
    """0 after SIGTERM, 1 with one line if the rollout or the camera is not there."""
    parser = argparse.ArgumentParser(prog="python -m robot.rollout.flow")
    parser.add_argument("--rig", required=True)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    try:
        with stop_event_on_signals() as stop:
            measured = run(load_rig(options.rig), stop=stop)
    except (ConfigError, RingError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"measured": measured, "horizon_ns": int(HORIZON_S * NS_PER_S)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
