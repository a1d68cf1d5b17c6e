"""Predicted and measured motion for the page: every comparison of the last minute, so that it can be scrubbed through.

A message is the length of a JSON text (little-endian uint32), the JSON, and a JPEG of observation, prediction,
measurement and difference side by side.
"""

import asyncio
import json
import math
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from robot.console.pictures import RingFollower
from robot.ring import Sample
from robot.rollout.flow import flow_ring
from robot.rollout.flow_files import four_pictures

KEPT = 120
"""A minute of predictions, each told twice; about 5 MB."""
_JPEG_QUALITY = 88
_POLL_S = 0.04
_LENGTH = struct.Struct("<I")


class FlowFeed:
    """Follows the ring of comparisons. Numbers rise by one a message and never start again."""

    def __init__(self, rig_name: str, *, pool: ThreadPoolExecutor) -> None:
        self._follower = RingFollower(flow_ring(rig_name))
        self._pool = pool
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._number = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        reader, seq = None, -1
        while True:
            await asyncio.sleep(_POLL_S)
            if self._follower.reader is not reader:
                reader, seq = self._follower.reader, -1
            while reader is not None and seq < reader.newest_seq:
                seq = max(seq + 1, reader.newest_seq - reader.slots + 2)
                sample = reader.read(seq)
                if sample is not None:
                    self._number += 1
                    self._kept.append(
                        (self._number, await loop.run_in_executor(self._pool, _message, self._number, sample))
                    )
                    self._changed.set()
                    self._changed = asyncio.Event()

    async def after(self, number: int) -> tuple[int, bytes]:
        """The oldest message kept with a number above ``number``, as soon as there is one."""
        if number > self._number:
            number = 0  # the page has numbers of an earlier console
        while True:
            found = next((kept for kept in self._kept if kept[0] > number), None)
            if found is not None:
                return found
            await self._changed.wait()


def _message(number: int, sample: Sample) -> bytes:
    value = sample.value
    told = {
        "number": number,
        "observation_ms": round(int(value["observation_ns"]) / 1e6, 3),
        "has_measured": bool(value["has_measured"]),
        "image_delay_ms": _number(value["image_delay_ms"]),
        "scale_px": _number(value["scale_px"]),
        "measured_scale_px": _number(value["measured_scale_px"]),
        "endpoint_px": _number(value["endpoint_px"]),
        "angle_deg": _number(value["angle_deg"]),
        "region": [round(float(share), 4) for share in value["region"]],
        "predicted_arrows": np.round(value["predicted_arrows"], 1).tolist(),
        "measured_arrows": np.round(value["measured_arrows"], 1).tolist(),
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    strip = cv2.cvtColor(four_pictures(value, captions=False), cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", strip, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    if not ok:
        raise RuntimeError("the pictures of motion could not be encoded")
    return _LENGTH.pack(len(text)) + text + data.tobytes()


def _number(value: np.ndarray) -> float | None:
    return round(float(value), 2) if math.isfinite(float(value)) else None
