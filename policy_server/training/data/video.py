"""Frames out of mp4 files, at random, decoding only what is needed.

Readers are opened by the process that uses them: a pool that was inherited through a fork opens its own.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from policy_server.training.data.lerobot import DatasetError


class VideoReader:
    """One mp4. The times and key frames of its packets are read at once; pictures are decoded when asked for."""

    def __init__(self, path: Path) -> None:
        """Raises `DatasetError` when the file is absent or no video."""
        self._path = path
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except FileNotFoundError:
            raise DatasetError(f"{path}: the video is missing; export or download the data set again") from None
        except (av.error.FFmpegError, IndexError) as error:
            raise DatasetError(f"{path}: no video that can be read: {error}") from None
        self._stream.thread_type = "NONE"
        packets = [(packet.pts, packet.is_keyframe) for packet in self._container.demux(self._stream)]
        self._times = sorted(pts for pts, _ in packets if pts is not None)
        self._keys = sorted(pts for pts, is_key in packets if pts is not None and is_key)
        self._decoding: Iterator[av.VideoFrame] = iter(())
        self._position: int | None = None
        self._tick_s = float(self._stream.time_base or 0)
        self._half_frame_s = 0.5 / float(self._stream.average_rate or 1)

    @property
    def frame_count(self) -> int:
        """Pictures in the file."""
        return len(self._times)

    def close(self) -> None:
        """Give the file back."""
        self._container.close()

    def frames(self, times_s: Sequence[float]) -> list[np.ndarray]:
        """The pictures nearest to these times, (H, W, 3) uint8 RGB each, in the order asked for.

        Raises `DatasetError` if there is none within half a frame of a time.
        """
        wanted = [self._nearest(time) for time in times_s]
        found = {pts: self._decode(pts) for pts in sorted(set(wanted))}
        return [found[pts] for pts in wanted]

    def _decode(self, pts: int) -> np.ndarray:
        key = self._keys[max(0, bisect_right(self._keys, pts) - 1)] if self._keys else pts
        if self._position is None or self._position >= pts or self._position < key:
            self._container.seek(key, stream=self._stream, backward=True, any_frame=False)
            self._decoding = self._container.decode(self._stream)
        try:
            for frame in self._decoding:
                self._position = frame.pts
                if frame.pts == pts:
                    return frame.to_ndarray(format="rgb24")
                if frame.pts is not None and frame.pts > pts:
                    break
        except av.error.FFmpegError as error:
            raise DatasetError(f"{self._path}: damaged near {pts * self._tick_s:.3f} s: {error}") from None
        raise DatasetError(f"{self._path}: the picture at {pts * self._tick_s:.3f} s can't be decoded")

    def _nearest(self, time_s: float) -> int:
        target = time_s / self._tick_s
        place = bisect_right(self._times, target)
        near = self._times[max(0, place - 1) : place + 1]
        best = min(near, key=lambda pts: abs(pts - target), default=None)
        if best is None or abs(best * self._tick_s - time_s) > self._half_frame_s:
            last_s = self._times[-1] * self._tick_s if self._times else 0.0
            raise DatasetError(
                f"{self._path}: expected a picture at {time_s:.3f} s, but the video has {len(self._times)} pictures, "
                f"the last at {last_s:.3f} s"
            )
        return best


class VideoPool:
    """The readers in use, at most `capacity` of them."""

    def __init__(self, *, capacity: int = 8) -> None:
        self._capacity = capacity
        self._readers: OrderedDict[Path, VideoReader] = OrderedDict()
        self._owner = os.getpid()

    def frames(self, path: Path, times_s: Sequence[float]) -> list[np.ndarray]:
        """See `VideoReader.frames`."""
        if self._owner != os.getpid():  # after a fork, file positions would be shared with the parent
            self._readers, self._owner = OrderedDict(), os.getpid()
        reader = self._readers.pop(path, None) or VideoReader(path)
        self._readers[path] = reader
        if len(self._readers) > self._capacity:
            self._readers.popitem(last=False)[1].close()
        return reader.frames(times_s)

    def __getstate__(self) -> dict[str, int]:
        return {"capacity": self._capacity}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(capacity=state["capacity"])  # type: ignore[misc]
