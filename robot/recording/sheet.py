"""An episode at a glance: pictures from both cameras over time, and what joints, gripper and timing did."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from robot.clock import NS_PER_S
from robot.recording.check import nearest
from robot.recording.episode import Episode, EpisodeError

COLUMNS = 8
_TILE_WIDTH = 240
_PLOT_HEIGHT = 170
_MARGIN = 12
_LEFT = 62
_BACKGROUND, _INK, _GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))
"""RGB, one a joint."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_sheet(episode: Episode, path: Path) -> None:
    """Write the contact sheet as PNG. Raises `EpisodeError` if there is nothing to show or the file can't be
    written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = cv2.cvtColor(contact_sheet(episode), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), picture):
        raise EpisodeError(f"{path}: the contact sheet could not be written")


def contact_sheet(episode: Episode) -> np.ndarray:
    """Pictures and plots, (H, W, 3) uint8 RGB. Raises `EpisodeError` if neither pictures nor states were recorded."""
    start_ns, end_ns = episode.span_ns()
    width = _LEFT + COLUMNS * (_TILE_WIDTH + 4) + _MARGIN
    request, meta = episode.meta.description.request, episode.meta
    title = f"{episode.id}   {meta.outcome}   {(end_ns - start_ns) / NS_PER_S:.1f} s   {request.prompt}"
    strips = [_caption(title, width=width)]
    marks_ns = np.linspace(start_ns, end_ns, COLUMNS).astype(np.int64)
    strips += [_film(episode, camera, marks_ns, width=width) for camera in episode.cameras]
    strips += _plots(episode, span_ns=(start_ns, end_ns), width=width)
    return np.concatenate(strips)


def _film(episode: Episode, camera: str, marks_ns: np.ndarray, *, width: int) -> np.ndarray:
    times = episode.frame_times(camera)
    images = [episode.image(camera, int(index)) for index in nearest(times.capture_ns, marks_ns)]
    height = round(_TILE_WIDTH * images[0].shape[0] / images[0].shape[1])
    strip = _blank(height + 6, width)
    _write(strip, camera, at=(4, height // 2))
    for column, image in enumerate(images):
        left = _LEFT + column * (_TILE_WIDTH + 4)
        strip[3 : 3 + height, left : left + _TILE_WIDTH] = cv2.resize(
            image, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA
        )
    return strip


def _plots(episode: Episode, *, span_ns: tuple[int, int], width: int) -> list[np.ndarray]:
    state, steps = episode.state, episode.steps
    strips = []
    if len(state):
        t = _seconds(state["capture_ns"], span_ns)
        joints = [(t, state["joints_rad"][:, joint]) for joint in range(6)]
        strips.append(_plot("joints [rad]", joints, span_ns=span_ns, width=width))
        speed = [(t, state["joint_speed_rad_s"][:, joint]) for joint in range(6)]
        strips.append(_plot("speed [rad/s]", speed, span_ns=span_ns, width=width))
        gripper = [(t, state["gripper"]), (t, state["gripper_target"])]
        strips.append(_plot("gripper: is, target", gripper, span_ns=span_ns, width=width))
    if len(steps) > 1:
        t = _seconds(steps["capture_ns"], span_ns)
        gap = np.abs(steps["sent_joints_rad"] - steps["requested_joints_rad"]).max(axis=1)
        strips.append(_plot("sent - requested [rad]", [(t, gap)], span_ns=span_ns, width=width))
        period_ms = np.diff(steps["wake_ns"]) / 1e6
        strips.append(_plot("step period [ms]", [(t[1:], period_ms)], span_ns=span_ns, width=width))
    return strips


def _seconds(times_ns: np.ndarray, span_ns: tuple[int, int]) -> np.ndarray:
    return (times_ns - span_ns[0]) / NS_PER_S


def _plot(
    title: str, curves: Sequence[tuple[np.ndarray, np.ndarray]], *, span_ns: tuple[int, int], width: int
) -> np.ndarray:
    strip = _blank(_PLOT_HEIGHT, width)
    top, bottom, right = 24, _PLOT_HEIGHT - 20, width - _MARGIN
    finite = np.concatenate([values[np.isfinite(values)] for _, values in curves])
    if not len(finite):
        return strip
    low, high = float(finite.min()), float(finite.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    duration_s = max((span_ns[1] - span_ns[0]) / NS_PER_S, 1e-3)
    for share in (0.0, 0.5, 1.0):
        y = round(bottom + share * (top - bottom))
        cv2.line(strip, (_LEFT, y), (right, y), _GRID)
        _write(strip, f"{low + share * (high - low):.3g}", at=(4, y + 4))
    for share in np.linspace(0.0, 1.0, COLUMNS):
        x = round(_LEFT + share * (right - _LEFT))
        cv2.line(strip, (x, top), (x, bottom), _GRID)
        _write(strip, f"{share * duration_s:.1f} s", at=(min(x, right - 40), _PLOT_HEIGHT - 5))
    for index, (t, values) in enumerate(curves):
        shown = np.isfinite(values)
        points = np.stack(
            [
                _LEFT + t[shown] / duration_s * (right - _LEFT),
                bottom + (values[shown] - low) / (high - low) * (top - bottom),
            ],
            axis=1,
        )
        line = np.round(points).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(strip, [line], False, _COLOURS[index % len(_COLOURS)], 1, cv2.LINE_AA)
    _write(strip, title, at=(_LEFT, 16))
    return strip


def _caption(text: str, *, width: int) -> np.ndarray:
    strip = _blank(28, width)
    _write(strip, text, at=(_MARGIN, 19))
    return strip


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _BACKGROUND, np.uint8)


def _write(strip: np.ndarray, text: str, *, at: tuple[int, int]) -> None:
    # OpenCV's fonts are ASCII.
    cv2.putText(strip, text.encode("ascii", "replace").decode(), at, _FONT, 0.42, _INK, 1, cv2.LINE_AA)
