"""The Dobot Nova 5 and its AG-95 gripper as data: joint frames, limits, tool geometry. SI units.

The joint frames are those of the vendor's URDF, identical in its V3, V4 and ROS 1 packages. The URDF carries no speed
limits; 100 deg/s for every joint is the figure in circulation and is *unverified on hardware* (read "motion parameters"
in the vendor's software on the real arm).
"""

from dataclasses import dataclass
from math import radians

JOINT_COUNT = 6


@dataclass(frozen=True)
class JointFrame:
    """Fixed transform from the parent link to the joint, whose axis is its own +z.

    ``xyz`` in metres; ``rpy`` in radians, fixed-axis XYZ, so R = Rz(yaw) @ Ry(pitch) @ Rx(roll).
    """

    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float]


JOINT_FRAMES: tuple[JointFrame, ...] = (
    JointFrame((0.0, 0.0, 0.24), (0.0, 0.0, 0.0)),
    JointFrame((0.0, 0.0, 0.0), (-1.57080287682252, 1.53586622836832, 3.14159265358979)),
    JointFrame((-0.399756009268664, -0.0139690033141953, 0.0), (0.0, 0.0, 0.0)),
    JointFrame((-0.329798707647103, -0.0115244277211674, 0.134999532858734), (0.0, 0.0, -1.53586622840712)),
    JointFrame((0.0, -0.12, 0.0), (1.5708, 0.0, 0.0)),
    JointFrame((0.0, 0.088328, 0.0), (-1.5708, 0.0, 0.0)),
)
"""Base to L1, L1 to L2, ... L5 to L6. The origin of L6 is the flange (tool 0), +z pointing out of it."""

JOINT_LOWER_RAD: tuple[float, ...] = (-6.28, -3.14, -2.79, -6.28, -6.28, -6.28)
JOINT_UPPER_RAD: tuple[float, ...] = (6.28, 3.14, 2.79, 6.28, 6.28, 6.28)
MAX_JOINT_SPEED_RAD_S = radians(100.0)
MAX_TCP_SPEED_M_S = 2.0
REACH_M = 0.85
RATED_PAYLOAD_KG = 5.0

# Standard DH parameters derived from the frames; they agree with them to 1.2e-5 m, which is what an analytic inverse
# needs as a starting point.
DH_D_M: tuple[float, ...] = (0.240, 0.0, 0.0, 0.135, 0.120, 0.088328)
DH_A_M: tuple[float, ...] = (0.0, -0.400, -0.330, 0.0, 0.0, 0.0)
DH_ALPHA_RAD: tuple[float, ...] = (radians(90), 0.0, 0.0, radians(90), radians(-90), 0.0)
DH_THETA_OFFSET_RAD: tuple[float, ...] = (0.0, radians(-90), 0.0, radians(-90), 0.0, 0.0)

GRIPPER_STROKE_M = 0.095
GRIPPER_MIN_FORCE_N = 45.0
GRIPPER_MAX_FORCE_N = 160.0
GRIPPER_FULL_STROKE_S = 0.7


def fingertip_height_m(opening_m: float) -> float:
    """Distance from the flange face to the fingertips for a jaw opening in metres, from the vendor's four-bar table.

    H(mm) = -0.00223 s^2 + 0.07328 s + 200.2 with s the opening in mm: the tool point moves about 13 mm over the stroke.
    """
    opening_mm = opening_m * 1e3
    return (-0.00223 * opening_mm**2 + 0.07328 * opening_mm + 200.2) * 1e-3
