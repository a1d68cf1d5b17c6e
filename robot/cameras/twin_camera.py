"""The twin's cameras: a ring of rendered frames stands for the device."""

import time

from configs.schema import CameraConfig
from robot.cameras.backend import CameraAbsentError, Grab, check_camera
from robot.cameras.frame import CameraInfo, frame_from_sample
from robot.ring import RingError, RingReader
from robot.runtime import ring_name

POLL_S = 0.003
OPEN_TIMEOUT_S = 10.0


class TwinCamera:
    """Reads the twin's ring ``twin.camera.NAME``. Capture times are the simulated instants, exact."""

    sensor_noise = True

    def __init__(self, name: str, *, rig_name: str, config: CameraConfig) -> None:
        self._name = name
        self._config = config
        self._ring = ring_name(rig_name, f"twin.camera.{name}")
        self._reader: RingReader | None = None
        self._info: CameraInfo | None = None
        self._last_seq = -1

    def recover(self) -> None:
        """Nothing to reset: a new twin is a new ring."""

    def open(self) -> CameraInfo:
        """Attach to the twin's frames. Raises `CameraAbsentError` when the twin is not running."""
        try:
            self._reader = RingReader.wait(self._ring, timeout_s=OPEN_TIMEOUT_S, with_sample=True)
        except RingError as error:
            raise CameraAbsentError(
                f"camera {self._name}: the twin delivers no pictures ({error}). Start it with launch/twin."
            ) from None
        self._info = CameraInfo.from_meta(self._reader.meta)
        self._last_seq = self._reader.newest_seq - 1
        return self._info

    def grab(self, *, timeout_s: float) -> Grab | None:
        """The next frame after the last one grabbed, skipping to the newest when the reader was slow."""
        deadline = time.monotonic() + timeout_s
        while self._reader is not None and self._info is not None:
            newest = self._reader.newest_seq
            sample = self._reader.read(newest) if newest > self._last_seq else None
            if sample is not None:
                self._last_seq = sample.seq
                frame = frame_from_sample(sample, info=self._info)
                return Grab(frame.image, frame.capture_ns, time.monotonic_ns(), frame.seq, frame.exposure_s)
            if time.monotonic() >= deadline:
                self._follow_restart()
                return None
            time.sleep(POLL_S)
        return None

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.detach()

    def _follow_restart(self) -> None:
        """A twin that was started again, or a camera that was plugged in again, writes a new ring under the same name.

        Raises `WrongCameraError` when it is not the rig's camera any more.
        """
        if self._reader is None or not self._reader.replaced:
            return
        try:
            fresh = RingReader(self._ring)
        except RingError:
            return
        self._reader.detach()
        self._reader, self._last_seq = fresh, -1
        self._info = CameraInfo.from_meta(fresh.meta)
        check_camera(self._info, config=self._config)
