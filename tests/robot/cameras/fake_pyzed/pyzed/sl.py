"""Stereolabs' ``pyzed.sl`` as far as a camera driver sees it, with cameras that fail on command.

The cameras and their faults stand in ``world.json`` in the folder named by ``FAKE_ZED_DIR``; it is read again at each
call, so a test changes the world while the driver runs in another process. What was done to a camera is appended to
``journal.txt`` there. Names, signatures and return values follow the SDK's API reference.
"""

import ctypes
import enum
import json
import os
import time
from pathlib import Path

import numpy as np

_PAGE = 97


class ERROR_CODE(enum.Enum):
    CONFIGURATION_FALLBACK = -5
    CORRUPTED_FRAME = -4
    SENSOR_CONFIGURATION_CHANGED = -3
    POTENTIAL_CALIBRATION_ISSUE = -2
    CAMERA_REBOOTING = -1
    SUCCESS = 0
    FAILURE = 1
    CAMERA_NOT_DETECTED = 4
    INVALID_FUNCTION_PARAMETERS = 16
    CAMERA_NOT_INITIALIZED = 18
    INVALID_FUNCTION_CALL = 20


class MODEL(enum.Enum):
    ZED = 0
    ZED_M = 1
    ZED2 = 2
    ZED2i = 3


class CAMERA_STATE(enum.Enum):
    AVAILABLE = 0
    NOT_AVAILABLE = 1


class RESOLUTION(enum.Enum):
    HD2K = (2208, 1242)
    HD1080 = (1920, 1080)
    HD720 = (1280, 720)
    VGA = (672, 376)


class DEPTH_MODE(enum.Enum):
    NONE = 0
    NEURAL = 1


class VIEW(enum.Enum):
    LEFT = 0


class MEM(enum.Enum):
    CPU = 0


class TIME_REFERENCE(enum.Enum):
    IMAGE = 0
    CURRENT = 1


class SVO_COMPRESSION_MODE(enum.Enum):
    LOSSLESS = 0
    H264 = 1
    H265 = 2


class VIDEO_SETTINGS(enum.Enum):
    EXPOSURE = 0
    GAIN = 1
    AEC_AGC = 2
    WHITEBALANCE_TEMPERATURE = 3
    WHITEBALANCE_AUTO = 4


_AUTOMATIC = {"EXPOSURE": 37, "GAIN": 12, "AEC_AGC": 1, "WHITEBALANCE_TEMPERATURE": 4600, "WHITEBALANCE_AUTO": 1}


def _folder() -> Path:
    return Path(os.environ["FAKE_ZED_DIR"])


def _world() -> dict:
    return json.loads((_folder() / "world.json").read_text())


def _note(text: str) -> None:
    with (_folder() / "journal.txt").open("a") as journal:
        journal.write(text + "\n")


class Resolution:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height


class Timestamp:
    def __init__(self, ns: int) -> None:
        self._ns = ns

    def get_nanoseconds(self) -> int:
        return self._ns


class DeviceProperties:
    def __init__(self, serial: int, described: dict) -> None:
        self.serial_number = serial
        self.camera_model = MODEL[described["model"]]
        self.camera_state = CAMERA_STATE.AVAILABLE


class InitParameters:
    def __init__(
        self,
        camera_resolution: RESOLUTION = RESOLUTION.HD720,
        camera_fps: int = 0,
        depth_mode: DEPTH_MODE = DEPTH_MODE.NEURAL,
        sdk_verbose: int = 1,
    ) -> None:
        self.camera_resolution, self.camera_fps, self.depth_mode = camera_resolution, camera_fps, depth_mode
        self.sdk_verbose = sdk_verbose
        self.open_timeout_sec = 5.0
        self.camera_disable_self_calib = False
        self.async_grab_camera_recovery = False
        self.enable_image_validity_check = False
        self.serial = 0

    def set_from_serial_number(self, serial_number: int) -> None:
        self.serial = serial_number


class RuntimeParameters:
    def __init__(self, enable_depth: bool = True) -> None:
        self.enable_depth = enable_depth


class RecordingParameters:
    def __init__(self, video_filename: str, compression_mode: SVO_COMPRESSION_MODE) -> None:
        self.video_filename, self.compression_mode = video_filename, compression_mode


class Mat:
    def __init__(self) -> None:
        self.memory = np.zeros((1, 1, 4), np.uint8)

    def get_data(self, deep_copy: bool = False) -> np.ndarray:
        return self.memory.copy() if deep_copy else self.memory


class _Bag:
    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


class Camera:
    def __init__(self) -> None:
        self._serial: int | None = None

    @staticmethod
    def get_device_list() -> list[DeviceProperties]:
        cameras = _world()["cameras"].items()
        return [DeviceProperties(int(serial), camera) for serial, camera in cameras if not camera.get("unplugged")]

    @staticmethod
    def reboot(sn: int, full_reboot: bool = True) -> ERROR_CODE:
        world = _world()
        camera = world["cameras"].get(str(sn))
        if camera is None:
            return ERROR_CODE.CAMERA_NOT_DETECTED
        _note(f"reboot {camera['model']} {sn}")
        camera.pop("hang_at", None)
        (_folder() / "world.json").write_text(json.dumps(world))
        return ERROR_CODE.SUCCESS

    def open(self, parameters: InitParameters) -> ERROR_CODE:
        camera = _world()["cameras"].get(str(parameters.serial))
        if camera is None or camera.get("unplugged"):
            return ERROR_CODE.CAMERA_NOT_DETECTED
        assert parameters.depth_mode is DEPTH_MODE.NONE, "depth costs GPU time"
        assert parameters.camera_disable_self_calib, "self-calibration changes the intrinsics"
        assert parameters.async_grab_camera_recovery
        self._asked = parameters.serial
        self._serial = camera.get("swapped_with", parameters.serial)
        self._size, self._fps = parameters.camera_resolution.value, parameters.camera_fps
        code = ERROR_CODE.SUCCESS
        if "falls_back" in camera:
            self._size, self._fps = RESOLUTION.VGA.value, 15
            code = ERROR_CODE[camera["falls_back"]]
        self._settings = dict(_AUTOMATIC)  # a camera that was plugged in again has forgotten everything
        self._count = self._dropped = 0
        self._noise = np.random.default_rng(self._serial).integers(0, 256, (*self._size[::-1], 4), dtype=np.uint8)
        _note(f"open {parameters.serial}")
        return code

    def close(self) -> None:
        _note("close")
        self._serial = None

    def get_camera_information(self) -> _Bag:
        width, height = self._size
        lens = _Bag(fx=0.55 * width, fy=0.55 * width, cx=width / 2 - 0.5, cy=height / 2 - 0.5)
        configuration = _Bag(
            resolution=Resolution(width, height), fps=self._fps, calibration_parameters=_Bag(left_cam=lens)
        )
        return _Bag(serial_number=self._serial, camera_configuration=configuration)

    def set_camera_settings(self, settings: VIDEO_SETTINGS, value: int = -1) -> ERROR_CODE:
        _note(f"set {settings.name} {value}")
        if _world()["cameras"][str(self._asked)].get("ignores_settings"):
            return ERROR_CODE.SUCCESS
        if settings.name in ("EXPOSURE", "GAIN") and self._settings["AEC_AGC"]:
            return ERROR_CODE.SUCCESS  # automatic control goes on
        self._settings[settings.name] = value
        return ERROR_CODE.SUCCESS

    def get_camera_settings(self, setting: VIDEO_SETTINGS) -> tuple[ERROR_CODE, int]:
        return ERROR_CODE.SUCCESS, self._settings[setting.name]

    def enable_recording(self, record: RecordingParameters) -> ERROR_CODE:
        Path(record.video_filename).write_bytes(b"SVO2")
        _note(f"record {record.video_filename} {record.compression_mode.name}")
        return ERROR_CODE.SUCCESS

    def disable_recording(self) -> None:
        _note("stop recording")

    def grab(self, py_runtime: RuntimeParameters | None = None) -> ERROR_CODE:
        if self._serial is None:
            return ERROR_CODE.CAMERA_NOT_INITIALIZED
        camera = _world()["cameras"][str(self._asked)]
        if camera.get("unplugged"):
            return ERROR_CODE.CAMERA_NOT_DETECTED
        self._count += 1
        if self._count >= camera.get("hang_at", np.inf):
            if camera.get("hang_takes_everything"):
                while True:
                    ctypes.PyDLL(None).pause()  # as a library call that does not let other threads run
            time.sleep(3600)
        if self._count in camera.get("resets_at", ()):
            self._settings = dict(_AUTOMATIC)
            return ERROR_CODE.CAMERA_REBOOTING
        if self._count in camera.get("forgets_at", ()):
            self._settings = dict(_AUTOMATIC)
        time.sleep(1 / self._fps)
        self._stamp_ns = time.time_ns() + camera.get("clock_ahead_ns", 0)
        if self._count in camera.get("drops_at", ()):
            self._dropped += 3
        return ERROR_CODE[camera.get("grabs_with", "SUCCESS")]

    def retrieve_image(self, py_mat: Mat, view: VIEW, mem: MEM = MEM.CPU) -> ERROR_CODE:
        camera = _world()["cameras"][str(self._asked)]
        if py_mat.memory.shape != self._noise.shape:
            py_mat.memory = np.zeros_like(self._noise)
        if camera.get("black"):
            py_mat.memory[:] = 0
        elif not camera.get("frozen"):
            py_mat.memory[:] = np.roll(self._noise, _PAGE * self._count, axis=1)
        return ERROR_CODE.SUCCESS

    def get_timestamp(self, time_reference: TIME_REFERENCE) -> Timestamp:
        assert time_reference is TIME_REFERENCE.IMAGE, "CURRENT is not when the picture came"
        return Timestamp(self._stamp_ns)

    def get_frame_dropped_count(self) -> int:
        return self._dropped
