"""One camera, one process: open, verify, check each frame, publish it into the ring ``camera.NAME``.

``python -m robot.cameras --rig RIG --camera NAME``. Whatever can hang here hangs alone: the 15 Hz client reads the ring
and sees frames grow old. A driver that delivers nothing for `DEAD_AFTER_S` ends the process; one that hangs inside a
call is ended by this process's watchdog thread, or, where the call does not let other threads run, from outside: see
`robot.cameras.keeper`, which also starts it again.
"""

import logging
import os
import threading
import time

from configs.schema import CameraConfig, RigConfig
from robot.cameras.backend import CameraAbsentError, CameraBackend, CameraLabel, check_camera
from robot.cameras.frame import CameraInfo, frame_dtype
from robot.cameras.health import HEALTH_DTYPE, FrameChecker, FrameProblem, health_ring_name
from robot.priority import prefer_this_thread
from robot.ring import Ring
from robot.runtime import ring_name

GRAB_TIMEOUT_S = 0.5
DEAD_AFTER_S = 2.5
"""Before the keeper's limit, so that a driver that still answers can say what is wrong."""
DAMAGED_SHARE = 0.05
"""More damaged frames than this in a window of `REPORT_EVERY_S` are reported as a fault of cable or port."""
REPORT_EVERY_S = 10.0
EXIT_HUNG = 3
_LOG = logging.getLogger("camera")


def make_backend(name: CameraLabel, *, rig: RigConfig) -> CameraBackend:
    """The driver that the rig names for this camera; nothing is opened yet."""
    config = rig.cameras[name]
    match config.backend:
        case "twin":
            from robot.cameras.twin_camera import TwinCamera

            return TwinCamera(name, rig_name=rig.name, config=config)
        case "zed":
            from robot.cameras.zed_camera import ZedCamera

            return ZedCamera(name, config=config)
        case "uvc":
            from robot.cameras.uvc_camera import UvcCamera

            return UvcCamera(name, config=config)
        case "replay":
            from robot.cameras.replay_camera import ReplayCamera

            return ReplayCamera(name, config=config)


class CameraWorker:
    """Runs one camera until told to stop."""

    def __init__(self, name: CameraLabel, *, rig: RigConfig, backend: CameraBackend | None = None) -> None:
        self.name = name
        self._config: CameraConfig = rig.cameras[name]
        self._ring_name = ring_name(rig.name, f"camera.{name}")
        self._health_name = health_ring_name(rig.name, name)
        self._backend = backend or make_backend(name, rig=rig)
        self._last_frame_s = time.monotonic()

    def run(self, stop: threading.Event, *, exit_when_hung: bool = True, recover: bool = False) -> None:
        """Publish frames until ``stop``. Raises `CameraError`; a hung driver ends the whole process.

        ``recover``: the device hung before; reset it first where that is possible.
        """
        if recover:
            self._backend.recover()
        info = self._backend.open()
        prefer_this_thread()
        try:
            check_camera(info, config=self._config)
            self._last_frame_s = time.monotonic()
            if exit_when_hung:
                threading.Thread(target=self._watch, args=(stop,), name="watchdog", daemon=True).start()
            self._publish(info, stop=stop)
        finally:
            self._backend.close()

    def _publish(self, info: CameraInfo, *, stop: threading.Event) -> None:
        dtype = frame_dtype(info.intrinsics.height, info.intrinsics.width)
        checker = FrameChecker(fps=info.fps, sensor_noise=self._backend.sensor_noise)
        slots = max(8, round(info.fps / 4))
        reported_s = time.monotonic()
        with (
            Ring.create(self._ring_name, dtype=dtype, slots=slots, meta=info.to_meta()) as ring,
            Ring.create(self._health_name, dtype=HEALTH_DTYPE, slots=4) as health,
        ):
            _LOG.info("%s: serial %d at %g fps, ready", self.name, info.serial, info.fps)
            while not stop.is_set():
                grab = self._backend.grab(timeout_s=GRAB_TIMEOUT_S)
                now_s = time.monotonic()
                if grab is not None:
                    problem = checker.check(grab)
                    # A frozen or repeated picture is no sign of life.
                    if problem not in (FrameProblem.FROZEN, FrameProblem.NOT_NEWER):
                        self._last_frame_s = now_s
                    if problem is None:
                        slot = ring.begin(capture_ns=grab.capture_ns, receive_ns=grab.receive_ns)
                        slot["image"] = grab.image
                        slot["device_seq"] = grab.device_seq
                        slot["exposure_s"] = grab.exposure_s
                        ring.commit()
                health.write(checker.totals, capture_ns=time.monotonic_ns())
                if now_s - self._last_frame_s > DEAD_AFTER_S:
                    raise CameraAbsentError(
                        f"camera {self.name}: no usable frame for {DEAD_AFTER_S:g} s "
                        f"({_counts(checker) or 'the driver delivers nothing'}). Check its cable and power."
                    )
                if now_s - reported_s > REPORT_EVERY_S:
                    self._report(checker)
                    checker.start_window()
                    reported_s = now_s

    def _report(self, checker: FrameChecker) -> None:
        refused = sum(checker.problems.values())
        if refused > DAMAGED_SHARE * (refused + checker.accepted):
            _LOG.warning(
                "%s: %d of %d frames refused: %s", self.name, refused, refused + checker.accepted, _counts(checker)
            )

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(0.2):
            # Later than the loop's own limit, so that it acts only when the driver call does not come back.
            if time.monotonic() - self._last_frame_s > DEAD_AFTER_S + 2 * GRAB_TIMEOUT_S:
                _LOG.error("%s: the driver hangs; ending the process so that it can be started again", self.name)
                logging.shutdown()
                os._exit(EXIT_HUNG)


def _counts(checker: FrameChecker) -> str:
    return ", ".join(f"{count} {problem.value}" for problem, count in checker.problems.items())
