"""Time-stamped waypoints and the immutable path through them.

A `Trajectory` is sampled at the servo rate. `Trajectory.schedule` never shifts a waypoint in time: those that are
already in the past are dropped and counted, the first one accepted replaces everything that was planned from its time
on, and the path before it stays. Joints run along cubic Hermite segments whose slopes are limited (Fritsch and
Carlson 1980): the path and its speed are continuous and it never leaves the range spanned by two neighbouring
waypoints. The one exception is the segment that the arm is in when the future is replaced: its speed is kept, so that
a waypoint behind the arm is overshot a little. The gripper's set-point is that of the newest waypoint due.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array

NEVER_NS = 2**63 - 1
"""Expiry of a path that does not expire."""
MIN_KNOT_GAP_NS = 10_000_000
"""A planned waypoint closer than this before the first accepted one gives way to it: two chunks never agree exactly,
and a step of a milliradian within a millisecond would be asked of the follower as a jerk."""


class WaypointError(ValueError):
    """Arrays that are no waypoints: a wrong shape, a wrong dtype, or times that do not increase."""


@dataclass(frozen=True, eq=False)
class Waypoints:
    """Where the arm shall be at which time.

    ``t_ns`` (n,) int64 monotonic, strictly increasing, n >= 1; ``joints_rad`` (n, 6) float64; ``gripper`` (n,)
    float64, 0 open to 1 closed; ``expiry_ns``: from here on the arm brakes, whatever was planned; ``source_id`` names
    the chunk (0: none). The arrays are copied and made read-only. Values may be anything, NaN included: judging them
    is the guard's work. Raises `WaypointError`.
    """

    t_ns: NDArray[np.int64]
    joints_rad: Array
    gripper: Array
    expiry_ns: int
    source_id: int = 0

    def __post_init__(self) -> None:
        t_ns = _integers(self.t_ns, name="t_ns")
        joints, gripper = _floats(self.joints_rad, name="joints_rad"), _floats(self.gripper, name="gripper")
        if t_ns.ndim != 1 or len(t_ns) == 0:
            raise WaypointError(f"t_ns: expected shape (n,) with n >= 1, got {t_ns.shape}")
        if joints.shape != (len(t_ns), JOINT_COUNT):
            raise WaypointError(f"joints_rad: expected shape ({len(t_ns)}, {JOINT_COUNT}), got {joints.shape}")
        if gripper.shape != (len(t_ns),):
            raise WaypointError(f"gripper: expected shape ({len(t_ns)},), got {gripper.shape}")
        if t_ns[0] < 0 or np.any(t_ns[1:] <= t_ns[:-1]):
            raise WaypointError(f"t_ns: expected strictly increasing monotonic times >= 0, got {t_ns.tolist()}")
        for name, values in (("t_ns", t_ns), ("joints_rad", joints), ("gripper", gripper)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        for name in ("expiry_ns", "source_id"):
            number = _integers(getattr(self, name), name=name)
            if number.ndim != 0 or number < 0:
                raise WaypointError(f"{name}: expected one integer >= 0, got {getattr(self, name)!r}")
            object.__setattr__(self, name, int(number))

    def __len__(self) -> int:
        return len(self.t_ns)


@dataclass(frozen=True, eq=False)
class Setpoint:
    """What the arm shall do at one instant: ``joints_rad`` (6,), ``speed_rad_s`` (6,), ``gripper`` 0 open to 1 closed.

    ``expired``: the waypoints have expired and the target is to stop. ``source_id``: the chunk whose waypoint is
    approached.
    """

    joints_rad: Array
    speed_rad_s: Array
    gripper: float
    expired: bool = False
    source_id: int = 0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A path in time; made by `hold`, extended by `schedule`, read by `sample`. Never changed in place.

    ``late_waypoints`` counts the waypoints that came too late since `hold`.
    """

    expiry_ns: int
    late_waypoints: int
    _t_ns: NDArray[np.int64]
    _joints_rad: Array
    _slopes_rad_s: Array
    _gripper: Array
    _source_id: NDArray[np.int64]

    @classmethod
    def hold(cls, joints_rad: ArrayLike, *, gripper: float, t_ns: int) -> Self:
        """A path that stays at ``joints_rad`` (6,) for ever."""
        joints = _floats(joints_rad, name="joints_rad")
        if joints.shape != (JOINT_COUNT,):
            raise WaypointError(f"joints_rad: expected shape ({JOINT_COUNT},), got {joints.shape}")
        return cls(
            expiry_ns=NEVER_NS,
            late_waypoints=0,
            _t_ns=np.array([t_ns], dtype=np.int64),
            _joints_rad=joints[None],
            _slopes_rad_s=np.zeros((1, JOINT_COUNT)),
            _gripper=np.array([gripper], dtype=np.float64),
            _source_id=np.zeros(1, dtype=np.int64),
        )

    def schedule(self, waypoints: Waypoints, *, now_ns: int) -> "Trajectory":
        """The path from ``now_ns`` on with these waypoints in it.

        Waypoints at or before ``now_ns`` are dropped and counted. When none is left, the plan and its expiry stay as
        they are: late waypoints prolong nothing.
        """
        first = int(np.searchsorted(waypoints.t_ns, now_ns, side="right"))
        late = self.late_waypoints + first
        if first == len(waypoints):
            return replace(self, late_waypoints=late)
        present = self.sample(now_ns)
        kept = (self._t_ns > now_ns) & (self._t_ns < min(int(waypoints.t_ns[first]) - MIN_KNOT_GAP_NS, self.expiry_ns))
        t_ns = np.concatenate([[now_ns], self._t_ns[kept], waypoints.t_ns[first:]])
        joints = np.concatenate([present.joints_rad[None], self._joints_rad[kept], waypoints.joints_rad[first:]])
        slopes = _limited_slopes(t_ns, joints)
        # What is kept keeps its shape too; only the last kept knot may have to turn towards its new neighbour.
        count = 1 + int(np.count_nonzero(kept))
        slopes[0] = present.speed_rad_s
        slopes[1:count] = self._slopes_rad_s[kept]
        if count > 1:
            ahead = (joints[count] - joints[count - 1]) / _seconds(int(t_ns[count] - t_ns[count - 1]))
            slopes[count - 1] = np.clip(slopes[count - 1], np.minimum(0.0, 3 * ahead), np.maximum(0.0, 3 * ahead))
        return Trajectory(
            expiry_ns=waypoints.expiry_ns,
            late_waypoints=late,
            _t_ns=t_ns,
            _joints_rad=joints,
            _slopes_rad_s=slopes,
            _gripper=np.concatenate([[present.gripper], self._gripper[kept], waypoints.gripper[first:]]),
            _source_id=np.concatenate(
                [[0], self._source_id[kept], np.full(len(waypoints) - first, waypoints.source_id, dtype=np.int64)]
            ),
        )

    def sample(self, t_ns: int) -> Setpoint:
        """The set-point at a time. Before the first knot the path stands at that knot, after the last it rests there;
        from the expiry on it rests where it was then, with ``expired`` set."""
        expired = t_ns >= self.expiry_ns
        at_ns = min(t_ns, self.expiry_ns)
        after = int(np.searchsorted(self._t_ns, at_ns, side="right"))
        before = max(after - 1, 0)
        if after in (0, len(self._t_ns)):
            joints = self._joints_rad[before]
            speed = self._slopes_rad_s[before] if after == 0 else np.zeros(JOINT_COUNT)
        else:
            joints, speed = _hermite(
                (at_ns - int(self._t_ns[before])) / int(self._t_ns[after] - self._t_ns[before]),
                duration_s=_seconds(int(self._t_ns[after] - self._t_ns[before])),
                ends=self._joints_rad[before : after + 1],
                slopes=self._slopes_rad_s[before : after + 1],
            )
        ahead = not expired and after < len(self._t_ns)
        return Setpoint(
            joints_rad=joints.copy(),
            speed_rad_s=np.zeros(JOINT_COUNT) if expired else np.array(speed),
            gripper=float(self._gripper[before]),
            expired=expired,
            source_id=int(self._source_id[after]) if ahead else 0,
        )

    def waypoints_left(self, t_ns: int) -> int:
        """How many waypoints are still ahead at a time; 0 once expired."""
        if t_ns >= self.expiry_ns:
            return 0
        return int(np.count_nonzero(self._t_ns[1:] > t_ns))


def _limited_slopes(t_ns: NDArray[np.int64], joints: Array) -> Array:
    """Slopes (m, 6) in rad/s at the knots: three-point differences, at most 3 times the flatter neighbouring secant
    and 0 at a turning point (then each cubic is monotone), 0 at both ends."""
    slopes = np.zeros_like(joints)
    steps = (np.diff(t_ns) * 1e-9)[:, None]
    # Values near the end of the float range may overflow here; the follower takes what is not finite for a stop.
    with np.errstate(over="ignore", invalid="ignore"):
        secants = np.diff(joints, axis=0) / steps
        left, right = secants[:-1], secants[1:]
        mean = (left * steps[1:] + right * steps[:-1]) / (steps[1:] + steps[:-1])
        bound = 3 * np.minimum(np.abs(left), np.abs(right))
        slopes[1:-1] = np.where(np.sign(left) * np.sign(right) <= 0, 0.0, np.clip(mean, -bound, bound))
    return slopes


def _hermite(u: float, *, duration_s: float, ends: Array, slopes: Array) -> tuple[Array, Array]:
    """Position and speed (6,) at the share ``u`` in [0, 1] of a cubic segment with given ends (2, 6) and slopes (2,
    6)."""
    weights = np.array([1 + u * u * (2 * u - 3), u * u * (3 - 2 * u)])
    slope_weights = np.array([u * (1 - u) ** 2, -u * u * (1 - u)])
    with np.errstate(over="ignore", invalid="ignore"):
        joints = weights @ ends + duration_s * (slope_weights @ slopes)
        speed = 6 * u * (1 - u) / duration_s * (ends[1] - ends[0])
        speed = speed + np.array([(1 - u) * (1 - 3 * u), u * (3 * u - 2)]) @ slopes
    return joints, speed


def _seconds(duration_ns: int) -> float:
    return duration_ns * 1e-9


def _integers(values: Any, *, name: str) -> NDArray[np.int64]:
    """A copy as int64. Floats are refused: at monotonic nanoseconds they have lost their last digits."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise WaypointError(f"{name}: expected integers (monotonic nanoseconds or an id), got dtype {array.dtype}")
    if array.size and int(array.max()) > NEVER_NS:
        raise WaypointError(f"{name}: expected values below 2**63, got {array.max()}")
    return array.astype(np.int64)


def _floats(values: Any, *, name: str) -> Array:
    """A copy as float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise WaypointError(f"{name}: expected a rectangular array of numbers ({error})") from None
    if array.dtype.kind not in "fiu":
        raise WaypointError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)
