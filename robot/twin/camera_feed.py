"""The twin's two cameras as a process of their own: ``python -m robot.twin.camera_feed --rig NAME_OR_PATH``.

Reads the newest scene that the physics process publishes, draws both pictures at the cameras' rate, and publishes each
into the ring ``twin.camera.NAME`` when the configured latency has passed since the instant that it shows. One process
draws both cameras: they share one scene and one OpenGL context, and the physics has the other core to itself.

The ring stands for the device: what the device is (its serial number and rate) is in the ring's meta, and a camera that
is unplugged, or comes back as another one, closes its ring and opens a new one.
"""

import argparse
import gc
import os
import sys
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from configs.schema import CameraConfig, ConfigError, RigConfig, load_rig
from robot.cameras.exposure import TWIN_EXPOSURE_S
from robot.cameras.frame import CameraInfo, frame_dtype
from robot.clock import NS_PER_S, MonotonicClock, Ticker, seconds_to_ns
from robot.priority import DRAWING_PRIORITY, prefer_this_thread
from robot.processes import stop_event_on_signals
from robot.ring import Ring, RingBusyError, RingError, RingReader, Sample
from robot.twin.optics import AUTO_EXPOSURE_S, CameraName, intrinsics
from robot.twin.render import SceneRenderer
from robot.twin.rings import (
    CameraFault,
    CameraTrouble,
    camera_ring_name,
    scene_ring_name,
    simulated_cameras,
    unpack,
)
from robot.twin.scene import SceneOptions
from robot.twin.scene_state import SceneState

_AUTO_GAIN = 1.7
"""Automatic exposure makes pictures so much brighter, up to white."""
SLOW_DIVISOR = 2
RING_SLOTS = 8
_NOISE_PATTERNS = 16
_MAX_LATE_FRAMES = 128
_ATTACH_TIMEOUT_S = 20.0
_STALE_S = 0.5


class SensorNoise:
    """The least that any sensor has, one bit: two pictures of a resting scene differ, unless the camera is frozen."""

    def __init__(self, height: int, width: int) -> None:
        random = np.random.default_rng(0)
        self._patterns = random.integers(0, 2, (_NOISE_PATTERNS, height, width, 3), dtype=np.uint8)
        self._random = random

    def add(self, image: np.ndarray) -> None:
        """Flip the lowest bits of a picture (H, W, 3) uint8 in place."""
        pattern = self._patterns[self._random.integers(_NOISE_PATTERNS)]
        height, width = image.shape[:2]
        np.bitwise_xor(image, pattern[:height, :width], out=image)


@dataclass(frozen=True)
class Device:
    """What a reader finds at a camera's port: which camera looks through it, and at which rate it delivers."""

    camera: CameraName
    config: CameraConfig
    divisor: int = 1


@dataclass(frozen=True)
class _Picture:
    """A finished picture (H, W, 3) uint8 that is to be published at ``due_ns``."""

    due_ns: int
    capture_ns: int
    image: np.ndarray
    device_seq: int
    exposure_s: float


class CameraPort:
    """One camera's place in the rig: the ring that its reader knows, whatever device is behind it just now."""

    def __init__(self, rig: RigConfig, camera: CameraName, *, noise: SensorNoise) -> None:
        self._noise = noise
        self._cameras = simulated_cameras(rig)
        self.camera = camera
        self._ring_name = camera_ring_name(rig, camera)
        self._latency_ns = seconds_to_ns(rig.twin.camera_latency_s if rig.twin else 0.0)
        self._device: Device | None = None
        self._ring: Ring | None = None
        self._frames = 0
        self._frozen: np.ndarray | None = None
        self._waiting: deque[_Picture] = deque(maxlen=_MAX_LATE_FRAMES)
        self._attach(CameraFault.NONE)

    @property
    def configured_fps(self) -> int:
        """What the rig's file says."""
        return self._cameras[self.camera].fps

    def draw(
        self, scene: SceneState, trouble: CameraTrouble, *, capture_ns: int, tick: int, renderer: SceneRenderer
    ) -> None:
        """Take the picture of this tick, if the device takes one; `publish` hands it out when it is due."""
        self._attach(trouble.fault)
        device = self._device
        if device is None or tick % device.divisor != 0:
            return
        self._frames += 1
        image = self._image(scene, trouble.fault, device=device, renderer=renderer)
        is_auto = trouble.fault is CameraFault.AUTO_EXPOSURE
        delay_ns = seconds_to_ns(trouble.delay_s) if trouble.fault is CameraFault.LATE else 0
        self._waiting.append(
            _Picture(
                due_ns=capture_ns + self._latency_ns + delay_ns,
                capture_ns=capture_ns,
                image=image,
                device_seq=self._frames,
                exposure_s=AUTO_EXPOSURE_S if is_auto else TWIN_EXPOSURE_S,
            )
        )

    def publish(self, now_ns: int) -> None:
        """Write every picture that is due."""
        while self._ring is not None and self._waiting and self._waiting[0].due_ns <= now_ns:
            picture = self._waiting.popleft()
            record = self._ring.begin(capture_ns=picture.capture_ns)
            record["image"] = picture.image
            record["device_seq"] = picture.device_seq
            record["exposure_s"] = picture.exposure_s
            self._ring.commit()

    def close(self) -> None:
        """Take the ring away; readers see it closed."""
        ring, self._ring = self._ring, None
        self._device = None
        self._waiting.clear()
        if ring is not None:
            ring.unlink()

    def _attach(self, fault: CameraFault) -> None:
        device = self._device_behind(fault)
        if device == self._device:
            return
        self.close()
        self._device = device
        if device is None:
            return
        config = device.config
        info = CameraInfo(
            name=self.camera.label,
            backend=config.backend,
            serial=config.serial,
            fps=config.fps / device.divisor,
            intrinsics=intrinsics(device.camera, height=config.height, width=config.width),
        )
        dtype = frame_dtype(config.height, config.width)
        self._ring = Ring.create(self._ring_name, dtype=dtype, slots=RING_SLOTS, meta=info.to_meta())

    def _device_behind(self, fault: CameraFault) -> Device | None:
        match fault:
            case CameraFault.UNPLUGGED:
                return None
            case CameraFault.SWAPPED if len(self._cameras) > 1:
                other = next(camera for camera in self._cameras if camera is not self.camera)
                return Device(other, self._cameras[other])
            case CameraFault.SLOW:
                return Device(self.camera, self._cameras[self.camera], divisor=SLOW_DIVISOR)
            case _:
                return Device(self.camera, self._cameras[self.camera])

    def _image(self, scene: SceneState, fault: CameraFault, *, device: Device, renderer: SceneRenderer) -> np.ndarray:
        height, width = device.config.height, device.config.width
        if fault is CameraFault.BLACK:
            return np.zeros((height, width, 3), np.uint8)
        if fault is CameraFault.FROZEN and self._frozen is not None:
            return self._frozen
        image = renderer.render(scene, camera=device.camera, height=height, width=width)
        if fault is CameraFault.AUTO_EXPOSURE:
            image = np.clip(image * _AUTO_GAIN, 0, 255).astype(np.uint8)
        self._noise.add(image)
        self._frozen = image if fault is CameraFault.FROZEN else None
        return image


def run(rig: RigConfig, stop: threading.Event) -> None:
    """Draw and publish until ``stop``, or until the physics process ends. Raises `RingError` if it never appears."""
    # A camera delivers however busy the PC is. Mesa then draws on this thread, not on ordinary ones of its own.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    prefer_this_thread(DRAWING_PRIORITY)
    cameras = simulated_cameras(rig)
    latency_ns = seconds_to_ns(rig.twin.camera_latency_s if rig.twin else 0.0)
    scenes = RingReader.wait(scene_ring_name(rig), timeout_s=_ATTACH_TIMEOUT_S, with_sample=True)
    height, width = (max(getattr(config, side) for config in cameras.values()) for side in ("height", "width"))
    ports: list[CameraPort] = []
    # Pictures are drawn at the fastest camera's rate; a slower one takes every n-th.
    fps = max(config.fps for config in cameras.values())
    clock = MonotonicClock()
    with SceneRenderer(SceneOptions(max_height=height, max_width=width)) as renderer:
        try:
            noise = SensorNoise(height, width)
            ports.extend(CameraPort(rig, camera, noise=noise) for camera in cameras)
            gc.collect()
            gc.freeze()
            ticker = Ticker(NS_PER_S // fps, clock)
            tick = 0
            while not stop.is_set() and not scenes.closed:
                ticker.wait()
                sample = scenes.latest(max_age_ns=seconds_to_ns(_STALE_S))
                if sample is not None:
                    _draw(ports, sample, tick=tick, fps=fps, renderer=renderer)
                    clock.sleep_until_ns(sample.capture_ns + latency_ns)
                    for port in ports:
                        port.publish(clock.now_ns())
                tick += 1
        finally:
            for port in ports:
                port.close()


def _draw(ports: list[CameraPort], sample: Sample, *, tick: int, fps: int, renderer: SceneRenderer) -> None:
    scene, troubles = unpack(sample.value, scene=renderer.scene)
    for port in ports:
        every = max(1, fps // port.configured_fps)
        if tick % every == 0:
            port.draw(scene, troubles[port.camera], capture_ns=sample.capture_ns, tick=tick // every, renderer=renderer)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 after a stop, 1 with one line on an error."""
    parser = argparse.ArgumentParser(description="Draws the twin's cameras.")
    parser.add_argument("--rig", default="twin", help="name of a rig in configs/rigs, or a path to a YAML file")
    options = parser.parse_args(arguments)
    with stop_event_on_signals() as stop:
        try:
            run(load_rig(options.rig), stop)
        except (ConfigError, RingError, RingBusyError) as error:
            print(f"camera feed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
