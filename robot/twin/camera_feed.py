"""The twin's two cameras as a process of their own: ``python -m robot.twin.camera_feed --rig NAME_OR_PATH``.

Reads the newest scene that the physics process publishes, draws both pictures at the cameras' rate, and publishes each
into the ring ``twin.camera.NAME`` when the configured latency has passed since the instant that it shows. One process
draws both cameras: they share one scene and one OpenGL context, and the physics has the other core to itself.
"""

import argparse
import gc
import sys
import threading
from dataclasses import dataclass

import numpy as np

from configs.schema import CameraConfig, ConfigError, RigConfig, load_rig
from robot.cameras.frame import CameraInfo, frame_dtype
from robot.clock import NS_PER_S, MonotonicClock, Ticker, seconds_to_ns
from robot.processes import stop_event_on_signals
from robot.ring import Ring, RingBusyError, RingError, RingReader, Sample
from robot.twin.optics import CameraName, intrinsics
from robot.twin.render import SceneRenderer
from robot.twin.rings import CameraFault, camera_ring_name, scene_ring_name, simulated_cameras, unpack
from robot.twin.scene import SceneOptions

EXPOSURE_S = 0.008
"""What the frames say: the twin's pictures are sharp, as if the exposure were short."""
RING_SLOTS = 8
_ATTACH_TIMEOUT_S = 20.0
_STALE_S = 0.5


@dataclass
class _Feed:
    """One camera's output."""

    camera: CameraName
    config: CameraConfig
    ring: Ring
    frames: int = 0
    picture: np.ndarray | None = None

    def publish(self, capture_ns: int) -> None:
        """Write the present picture."""
        record = self.ring.begin(capture_ns=capture_ns)
        record["image"] = self.picture
        record["device_seq"] = self.frames
        record["exposure_s"] = EXPOSURE_S
        self.ring.commit()


def run(rig: RigConfig, stop: threading.Event) -> None:
    """Draw and publish until ``stop``, or until the physics process ends. Raises `RingError` if it never appears."""
    cameras = simulated_cameras(rig)
    latency_ns = seconds_to_ns(rig.twin.camera_latency_s if rig.twin else 0.0)
    scenes = RingReader.wait(scene_ring_name(rig), timeout_s=_ATTACH_TIMEOUT_S, with_sample=True)
    height, width = (max(getattr(config, side) for config in cameras.values()) for side in ("height", "width"))
    feeds: list[_Feed] = []
    # Pictures are drawn at the fastest camera's rate; a slower one takes every n-th.
    fps = max(config.fps for config in cameras.values())
    clock = MonotonicClock()
    with SceneRenderer(SceneOptions(max_height=height, max_width=width)) as renderer:
        try:
            feeds.extend(_open_feed(rig, camera, config) for camera, config in cameras.items())
            gc.collect()
            gc.freeze()
            ticker = Ticker(NS_PER_S // fps, clock)
            tick = 0
            while not stop.is_set() and not scenes.closed:
                ticker.wait()
                sample = scenes.latest(max_age_ns=seconds_to_ns(_STALE_S))
                if sample is not None:
                    due = [feed for feed in feeds if tick % max(1, fps // feed.config.fps) == 0]
                    _draw_and_publish(due, sample, renderer=renderer, latency_ns=latency_ns, clock=clock)
                tick += 1
        finally:
            for feed in feeds:
                feed.ring.unlink()


def _open_feed(rig: RigConfig, camera: CameraName, config: CameraConfig) -> _Feed:
    info = CameraInfo(
        name=camera.label,
        backend=config.backend,
        serial=config.serial,
        fps=float(config.fps),
        intrinsics=intrinsics(camera, height=config.height, width=config.width),
    )
    ring = Ring.create(
        camera_ring_name(rig, camera),
        dtype=frame_dtype(config.height, config.width),
        slots=RING_SLOTS,
        meta=info.to_meta(),
    )
    return _Feed(camera=camera, config=config, ring=ring)


def _draw_and_publish(
    feeds: list[_Feed], sample: Sample, *, renderer: SceneRenderer, latency_ns: int, clock: MonotonicClock
) -> None:
    scene, faults = unpack(sample.value, scene=renderer.scene)
    drawn = []
    for feed in feeds:
        feed.frames += 1  # the device counts what it exposes, so a stopped camera leaves a gap
        if faults[feed.camera] is CameraFault.STOPPED:
            continue
        if feed.picture is None or faults[feed.camera] is not CameraFault.FROZEN:
            size = feed.config
            feed.picture = renderer.render(scene, camera=feed.camera, height=size.height, width=size.width)
        drawn.append(feed)
    clock.sleep_until_ns(sample.capture_ns + latency_ns)
    for feed in drawn:
        feed.publish(sample.capture_ns)


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
