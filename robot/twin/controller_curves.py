"""The ways that a tool of the simulated arm takes through space: lines, arcs, circles and splines through points.

A curve gives the tool's pose by the share of its length that is done; how fast that goes is the business of
`robot.twin.controller_paths`. What the vendor does not publish is a model here: an arc turns evenly from its start to
its goal whatever the orientation in between, a circle keeps the orientation in which it begins, and a spline is the
natural cubic one over the lengths of its chords.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from math import atan2, pi
from typing import Protocol

import numpy as np

from robot.motion.rotations import Array, make_pose, rotation_from_vector, vector_from_rotation

_SAMPLES_PER_SEGMENT = 96
_FLAT_M = 1e-5
"""Height of a triangle below which its corners count as being on one line."""
_CLOSE_M = 1e-6


class NoCurveError(ValueError):
    """The points do not make such a curve."""


class Curve(Protocol):
    """A way of ``length_m`` on which the tool turns by ``turn_rad`` in all."""

    @property
    def length_m(self) -> float: ...

    @property
    def turn_rad(self) -> float: ...

    def pose(self, share: float) -> Array:
        """Pose (4, 4) of the tool in the base frame when ``share`` (0 to 1) of the length is done."""
        ...


@dataclass(frozen=True)
class Line:
    """Straight, with an even turn, between two poses (4, 4)."""

    start: Array
    goal: Array
    turn: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turn", _turn(self.start, self.goal))

    @property
    def length_m(self) -> float:
        return float(np.linalg.norm(self.goal[:3, 3] - self.start[:3, 3]))

    @property
    def turn_rad(self) -> float:
        return float(np.linalg.norm(self.turn))

    def pose(self, share: float) -> Array:
        """See `Curve.pose`."""
        position = self.start[:3, 3] + share * (self.goal[:3, 3] - self.start[:3, 3])
        return make_pose(position, rotation=self.start[:3, :3] @ rotation_from_vector(share * self.turn))


@dataclass(frozen=True)
class Arc:
    """Round ``center`` (3,) about the unit vector ``axis`` (3,) by ``angle_rad``, turning by ``turn`` on the way."""

    start: Array
    center: Array
    axis: Array
    angle_rad: float
    turn: Array

    @property
    def length_m(self) -> float:
        return self.angle_rad * float(np.linalg.norm(self.start[:3, 3] - self.center))

    @property
    def turn_rad(self) -> float:
        return float(np.linalg.norm(self.turn))

    def pose(self, share: float) -> Array:
        """See `Curve.pose`."""
        spoke = rotation_from_vector(share * self.angle_rad * self.axis) @ (self.start[:3, 3] - self.center)
        rotation = self.start[:3, :3] @ rotation_from_vector(share * self.turn)
        return make_pose(self.center + spoke, rotation=rotation)


def arc_through(start: Array, *, via: Array, goal: Array) -> Arc:
    """The arc from ``start`` over ``via`` to ``goal``, poses (4, 4). `NoCurveError` if they are on one line."""
    center, axis = _circle(start[:3, 3], via[:3, 3], goal[:3, 3])
    first, last = start[:3, 3] - center, goal[:3, 3] - center
    angle_rad = atan2(float(np.cross(first, last) @ axis), float(first @ last)) % (2 * pi)
    return Arc(start, center, axis, angle_rad, _turn(start, goal))


def circles_through(start: Array, *, first: Array, second: Array, count: int) -> Arc:
    """``count`` whole circles from ``start`` over two more poses (4, 4) and back. `NoCurveError` as `arc_through`."""
    center, axis = _circle(start[:3, 3], first[:3, 3], second[:3, 3])
    return Arc(start, center, axis, 2 * pi * count, np.zeros(3))


class Spline:
    """The natural cubic spline through poses (4, 4), turning evenly from each to the next.

    Raises `NoCurveError` when two neighbours are at one place.
    """

    def __init__(self, poses: list[Array]) -> None:
        self._points = np.array([pose[:3, 3] for pose in poses])
        self._rotations = [pose[:3, :3] for pose in poses]
        self._turns = [_turn(before, after) for before, after in pairwise(poses)]
        chords = np.linalg.norm(np.diff(self._points, axis=0), axis=1)
        if len(poses) < 2 or chords.min() < _CLOSE_M:
            raise NoCurveError("expected a spline's points apart from each other, two neighbours are at one place")
        self._knots = np.concatenate([[0.0], np.cumsum(chords)])
        self._bends = _natural_bends(self._knots, self._points)
        fine = np.concatenate(
            [np.linspace(begin, end, _SAMPLES_PER_SEGMENT, endpoint=False) for begin, end in pairwise(self._knots)]
            + [self._knots[-1:]]
        )
        steps = np.linalg.norm(np.diff(self._positions(fine), axis=0), axis=1)
        self._parameters, self._lengths = fine, np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length_m(self) -> float:
        return float(self._lengths[-1])

    @property
    def turn_rad(self) -> float:
        return float(sum(np.linalg.norm(turn) for turn in self._turns))

    def pose(self, share: float) -> Array:
        """See `Curve.pose`."""
        at = float(np.interp(share * self._lengths[-1], self._lengths, self._parameters))
        segment = int(self._segments(np.array([at]))[0])
        within = (at - self._knots[segment]) / (self._knots[segment + 1] - self._knots[segment])
        rotation = self._rotations[segment] @ rotation_from_vector(within * self._turns[segment])
        return make_pose(self._positions(np.array([at]))[0], rotation=rotation)

    def _segments(self, at: Array) -> Array:
        return np.minimum(np.searchsorted(self._knots, at, side="right") - 1, len(self._turns) - 1)

    def _positions(self, at: Array) -> Array:
        """At parameters (n,): (n, 3)."""
        segment = self._segments(at)
        width = (self._knots[segment + 1] - self._knots[segment])[:, None]
        after = (at - self._knots[segment])[:, None] / width
        before = 1.0 - after
        bend = (before**3 - before) * self._bends[segment] + (after**3 - after) * self._bends[segment + 1]
        return np.asarray(before * self._points[segment] + after * self._points[segment + 1] + bend * width**2 / 6.0)


def _natural_bends(knots: Array, points: Array) -> Array:
    """Second derivatives (n, 3) of the natural cubic spline at its knots (n,): the usual tridiagonal system."""
    count = len(knots)
    widths = np.diff(knots)[:, None]
    system, right = np.eye(count), np.zeros_like(points)
    for row in range(1, count - 1):
        system[row, row - 1 : row + 2] = widths[row - 1, 0], 2 * (widths[row - 1, 0] + widths[row, 0]), widths[row, 0]
        slopes = (points[row : row + 2] - points[row - 1 : row + 1]) / widths[row - 1 : row + 1]
        right[row] = 6.0 * (slopes[1] - slopes[0])
    return np.asarray(np.linalg.solve(system, right), dtype=np.float64)


def _circle(first: Array, second: Array, third: Array) -> tuple[Array, Array]:
    """Centre (3,) of the circle through three points, and the unit axis about which it runs from the first to the
    second to the third."""
    to_second, to_third = second - first, third - first
    normal = np.cross(to_second, to_third)
    area2 = float(np.linalg.norm(normal))
    if area2 <= _FLAT_M * max(np.linalg.norm(side) for side in (to_second, to_third, third - second)):
        raise NoCurveError("expected three points that are not on one line")
    across = to_third @ to_third * np.cross(normal, to_second) + to_second @ to_second * np.cross(to_third, normal)
    return first + across / (2 * area2**2), normal / area2


def _turn(start: Array, goal: Array) -> Array:
    """Rotation vector (3,) in ``start``'s own axes that leads to ``goal``."""
    return vector_from_rotation(start[:3, :3].T @ goal[:3, :3])
