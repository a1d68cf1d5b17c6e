"""A recording as a camera: for rehearsing on the pictures of another day, without a camera."""

from collections.abc import Iterator
from pathlib import Path

from configs.schema import CameraConfig
from robot.cameras.backend import CameraError, Grab, SourceEndedError
from robot.cameras.frame import CameraInfo
from robot.cameras.replay_sources import Picture, Recording, open_recording
from robot.clock import NS_PER_S, Clock, MonotonicClock, seconds_to_ns


class ReplayCamera:
    """Plays ``source`` of the rig's file at its own rate, again and again or once; never faster.

    A machine that can't keep up plays it slower: no picture is left out. Capture times are as if it happened now.
    """

    # A video encoder turns the noise of a resting scene into equal pictures.
    sensor_noise = False

    def __init__(self, name: str, *, config: CameraConfig, clock: Clock | None = None) -> None:
        self._name = name
        self._config = config
        self._clock = clock or MonotonicClock()
        self._latency_ns = seconds_to_ns(config.latency.seconds)
        self._recording: Recording | None = None
        self._pictures: Iterator[Picture] = iter(())
        self._next: Picture | None = None
        self._start_ns = 0
        self._due_ns = 0
        self._period_ns = 0
        self._seq = 0

    def recover(self) -> None:
        """Nothing can hang here."""

    def open(self) -> CameraInfo:
        """Open the recording. Raises `CameraError`."""
        if self._config.source is None:
            raise CameraError(
                f"camera {self._name}: the replay backend needs 'source' in the rig's file: a video, a folder of "
                "pictures or a recorded episode"
            )
        path = Path(self._config.source).expanduser()
        self._recording = open_recording(path, name=self._name, config=self._config)
        self._period_ns = round(NS_PER_S / self._recording.info.fps)
        self._pictures = self._recording.pictures()
        self._next = next(self._pictures, None)
        self._start_ns = self._clock.now_ns()
        return self._recording.info

    def grab(self, *, timeout_s: float) -> Grab | None:
        """The next picture when it is due. Raises `SourceEndedError` at the end of a recording that does not repeat."""
        assert self._recording is not None
        picture = self._next or self._begin_again()
        due_ns = self._start_ns + picture.offset_ns
        now_ns = self._clock.now_ns()
        if due_ns > now_ns + seconds_to_ns(timeout_s):
            self._clock.sleep_until_ns(now_ns + seconds_to_ns(timeout_s))
            return None
        if due_ns + self._period_ns < now_ns:
            self._start_ns += now_ns - due_ns
            due_ns = now_ns
        self._clock.sleep_until_ns(due_ns)
        image = picture.load()
        lens = self._recording.info.intrinsics
        if image.shape[:2] != (lens.height, lens.width):
            raise CameraError(
                f"camera {self._name}: expected every picture to be {lens.width}x{lens.height} like the first, number "
                f"{self._seq} is {image.shape[1]}x{image.shape[0]}"
            )
        self._due_ns = due_ns
        self._next = next(self._pictures, None)
        self._seq += 1
        receive_ns = self._clock.now_ns()
        return Grab(image, receive_ns - self._latency_ns, receive_ns, self._seq - 1, float("nan"))

    def close(self) -> None:
        self._pictures, self._next = iter(()), None

    def _begin_again(self) -> Picture:
        assert self._recording is not None
        if not self._config.replay_loops:
            raise SourceEndedError(f"camera {self._name}: {self._config.source} is over after {self._seq} pictures")
        self._pictures = self._recording.pictures()
        picture = next(self._pictures, None)
        if picture is None:
            raise CameraError(f"camera {self._name}: {self._config.source} holds no picture")
        self._start_ns = self._due_ns + self._period_ns
        self._next = picture
        return picture
