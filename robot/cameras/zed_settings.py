"""Exposure, gain and white balance of a ZED: locked by value, and read back.

A camera that was unplugged or reset is back on automatic, and pictures of another brightness than the ones that a
policy was trained on look fine to everybody but the policy. Facts from the SDK's API reference: exposure is in percent
of what the frame rate leaves (0 % is 0.17 ms; 100 % is 19.97 ms at 15 and 30 fps, 10.84 ms at 60 fps).
"""

import logging
from typing import Any

from configs.schema import CameraConfig
from robot.cameras.backend import CameraSettingsError
from robot.cameras.zed_sdk import code_name

_SHORTEST_EXPOSURE_S = 0.17e-3
_LONGEST_EXPOSURE_S = {15: 19.97e-3, 30: 19.97e-3, 60: 10.84e-3}
_LOG = logging.getLogger("camera")


def exposure_s(config: CameraConfig) -> float:
    """The locked exposure time in s; NaN when it is automatic, or for a rate whose range the vendor does not give."""
    longest_s = _LONGEST_EXPOSURE_S.get(config.fps)
    if config.exposure_percent is None or longest_s is None:
        return float("nan")
    return _SHORTEST_EXPOSURE_S + config.exposure_percent / 100 * (longest_s - _SHORTEST_EXPOSURE_S)


class LockedSettings:
    """The settings that the rig's file locks, on one open ``sl.Camera``."""

    def __init__(self, name: str, *, config: CameraConfig, sl: Any, camera: Any) -> None:
        self._name = name
        self._camera = camera
        # In this order: a value is taken only after its automatic control is off.
        self._wanted: list[tuple[Any, int]] = []
        settings = sl.VIDEO_SETTINGS
        if config.exposure_percent is not None and config.gain_percent is not None:
            self._wanted += [
                (settings.AEC_AGC, 0),
                (settings.EXPOSURE, config.exposure_percent),
                (settings.GAIN, config.gain_percent),
            ]
        if config.white_balance_k is not None:
            self._wanted += [
                (settings.WHITEBALANCE_AUTO, 0),
                (settings.WHITEBALANCE_TEMPERATURE, config.white_balance_k),
            ]
        if len(self._wanted) < 5:
            _LOG.warning(
                "%s: exposure and white balance are not all locked; set exposure_percent, gain_percent and "
                "white_balance_k in the rig's file so that pictures stay comparable",
                name,
            )

    def apply(self) -> None:
        """Set everything and read it back. Raises `CameraSettingsError`, naming what was set and what is."""
        for setting, value in self._wanted:
            code = self._camera.set_camera_settings(setting, value)
            if code is not None and code_name(code) != "SUCCESS":
                raise CameraSettingsError(
                    f"camera {self._name}: expected {setting.name} to be settable to {value}, setting it gave "
                    f"{code_name(code)}. Check the value in the rig's file, and the camera's firmware."
                )
        wrong = self.differences()
        if wrong:
            raise CameraSettingsError(
                f"camera {self._name}: settings did not hold: {'; '.join(wrong)}. Close other programs that use the "
                "camera, and unplug it and plug it in."
            )

    def differences(self) -> list[str]:
        """What reads back differently from the rig's file, in words; empty when all is as it should be."""
        wrong = []
        for setting, value in self._wanted:
            code, found = self._camera.get_camera_settings(setting)
            if code_name(code) != "SUCCESS":
                wrong.append(f"{setting.name} expected {value}, reading it gave {code_name(code)}")
            elif found != value:
                wrong.append(f"{setting.name} expected {value}, found {found}")
        return wrong
