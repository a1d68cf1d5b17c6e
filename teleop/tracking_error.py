"""How closely an arm followed a path: as it was, and with the constant lag taken out. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot.clock import NS_PER_S
from robot.motion.kinematics import tool_pose
from robot.motion.rotations import Array
from teleop.path import ReplayPath
from teleop.tracking import TOOL

MAX_LAG_S = 0.5
_LAG_STEP_S = 0.005


@dataclass(frozen=True)
class TrackingError:
    """Distances between where the arm was and where the path said it should be. ``lag_s``: the delay that explains the
    motion best; ``tool_rms_without_lag_m``: what is left with it taken out."""

    joint_rms_rad: float
    joint_max_rad: float
    tool_rms_m: float
    tool_max_m: float
    lag_s: float
    tool_rms_without_lag_m: float


def tracking_error(path: ReplayPath, *, times_ns: NDArray[np.int64], joints_rad: Array) -> TrackingError:
    """``joints_rad`` (m, 6) as measured at ``times_ns`` (m,) of the path's own time."""
    measured_m = tool_pose(joints_rad, tool=TOOL)[:, :3, 3]
    lags_s = np.arange(0.0, MAX_LAG_S + _LAG_STEP_S, _LAG_STEP_S)
    joint_rms = [_rms(_planned(path, times_ns, lag_s=lag_s) - joints_rad) for lag_s in lags_s]
    best = float(lags_s[int(np.argmin(joint_rms))])
    planned = _planned(path, times_ns, lag_s=0.0)
    tool_m = np.linalg.norm(tool_pose(planned, tool=TOOL)[:, :3, 3] - measured_m, axis=1)
    delayed_m = tool_pose(_planned(path, times_ns, lag_s=best), tool=TOOL)[:, :3, 3]
    return TrackingError(
        joint_rms_rad=_rms(planned - joints_rad),
        joint_max_rad=float(np.max(np.abs(planned - joints_rad))),
        tool_rms_m=_rms(tool_m),
        tool_max_m=float(tool_m.max()),
        lag_s=best,
        tool_rms_without_lag_m=_rms(np.linalg.norm(delayed_m - measured_m, axis=1)),
    )


def _planned(path: ReplayPath, times_ns: NDArray[np.int64], *, lag_s: float) -> Array:
    at_ns = times_ns - round(lag_s * NS_PER_S)
    return np.stack([np.interp(at_ns, path.t_ns, path.joints_rad[:, joint]) for joint in range(6)], axis=1)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
