"""SVO2 files beside our own recordings: unrectified stereo for later, readable with the SDK and an NVIDIA GPU only.

An extra, never the only copy: it stops by itself when the disk runs low, and pictures go on.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from robot.cameras.backend import CameraError
from robot.cameras.zed_sdk import code_name

RESERVE_BYTES = 10 * 1024**3
CHECK_EVERY_S = 2.0
_LOG = logging.getLogger("camera")


class SvoRecording:
    """One SVO2 file for as long as the camera is open. Each grab adds its frame by itself."""

    def __init__(self, name: str, *, directory: Path, serial: int, sl: Any, camera: Any) -> None:
        """Raises `CameraError` when the file can't be begun."""
        self._name = name
        self._camera: Any = camera
        self._next_check_s = 0.0
        directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(directory).free < RESERVE_BYTES:
            raise CameraError(
                f"camera {name}: svo_directory {directory} has less than {RESERVE_BYTES // 1024**3} GiB left. Free "
                "some, or take svo_directory out of the rig's file."
            )
        # The SDK erases a file of the same name, so the name must be new.
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns()}"
        self.path = directory / f"{name}-{serial}-{stamp}.svo2"
        parameters = sl.RecordingParameters(str(self.path), sl.SVO_COMPRESSION_MODE.H265)
        code = camera.enable_recording(parameters)
        if code_name(code) != "SUCCESS":
            raise CameraError(
                f"camera {name}: recording {self.path} gave {code_name(code)}. The encoder may be taken by other "
                "programs; take svo_directory out of the rig's file to go on without."
            )
        _LOG.info("%s: recording %s", name, self.path)

    def check_space(self, now_s: float) -> None:
        """Stop recording when the disk runs low; looked at now and then."""
        if self._camera is None or now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_EVERY_S
        if shutil.disk_usage(self.path.parent).free < RESERVE_BYTES:
            _LOG.error("%s: the disk runs low; %s ends here, pictures go on", self._name, self.path)
            self.stop()

    def stop(self) -> None:
        """Close the file. Stopping twice is fine."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.disable_recording()
