"""Everything the guard can object to, in one table: event, what is done about it, what the operator reads.

Names and numbers are stable: recordings, result files and the operator's page use them.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum


class GuardEvent(IntEnum):
    """What was wrong with waypoints or with a set-point. ``label`` is the name used in result files."""

    BAD_SHAPE = 0
    NON_FINITE = 1
    EXPIRED = 2
    LATE_WAYPOINT = 3
    JUMP = 4
    JOINT_LIMIT = 5
    WORKSPACE = 6
    TABLE = 7
    UNREACHABLE = 8
    JOINT_SPEED = 9
    JOINT_ACCELERATION = 10
    TCP_SPEED = 11
    GRIPPER_RANGE = 12

    @property
    def label(self) -> str:
        """``joint_limit`` for JOINT_LIMIT, and so on."""
        return self.name.lower()


class Reaction(Enum):
    """What the guard does with the waypoints or the set-point that an event is about."""

    NONE = "does not occur here"
    REFUSED = "the whole chunk is refused"
    TRUNCATED = "the chunk ends before the waypoint"
    DROPPED = "the waypoint is dropped"
    CLIPPED = "the value is clipped to the limit"
    COUNTED = "counted; the follower bounds the motion"
    BRAKED = "the set-point is refused; the arm brakes"


@dataclass(frozen=True)
class EventInfo:
    """Reaction to an event in a chunk of waypoints and in a single set-point, and the sentence for the operator."""

    in_waypoints: Reaction
    in_setpoint: Reaction
    text: str


EVENT_INFO: dict[GuardEvent, EventInfo] = {
    GuardEvent.BAD_SHAPE: EventInfo(
        Reaction.REFUSED,
        Reaction.BRAKED,
        "The command has the wrong shape, type or time order. Check the client's version.",
    ),
    GuardEvent.NON_FINITE: EventInfo(
        Reaction.REFUSED, Reaction.BRAKED, "The command contains NaN or infinity. Check the policy's normalization."
    ),
    GuardEvent.EXPIRED: EventInfo(
        Reaction.REFUSED,
        Reaction.NONE,
        "The chunk had expired before it arrived. The policy or the network is too slow.",
    ),
    GuardEvent.LATE_WAYPOINT: EventInfo(
        Reaction.DROPPED, Reaction.NONE, "Waypoints arrived after their time. The policy or the network is slow."
    ),
    GuardEvent.JUMP: EventInfo(
        Reaction.REFUSED, Reaction.NONE, "The chunk starts too far from where the arm is. Check units and joint order."
    ),
    GuardEvent.JOINT_LIMIT: EventInfo(Reaction.CLIPPED, Reaction.BRAKED, "A joint was asked to pass its limit."),
    GuardEvent.WORKSPACE: EventInfo(
        Reaction.CLIPPED, Reaction.BRAKED, "The tool point was asked to leave the workspace box."
    ),
    GuardEvent.TABLE: EventInfo(
        Reaction.CLIPPED, Reaction.BRAKED, "The tool or the arm was asked to go below the table."
    ),
    GuardEvent.UNREACHABLE: EventInfo(
        Reaction.TRUNCATED, Reaction.NONE, "A waypoint outside the limits has no allowed posture nearby."
    ),
    GuardEvent.JOINT_SPEED: EventInfo(
        Reaction.COUNTED, Reaction.BRAKED, "A joint was asked to move faster than its limit."
    ),
    GuardEvent.JOINT_ACCELERATION: EventInfo(
        Reaction.COUNTED, Reaction.BRAKED, "A joint was asked to accelerate faster than its limit."
    ),
    GuardEvent.TCP_SPEED: EventInfo(
        Reaction.COUNTED, Reaction.BRAKED, "The tool point was asked to move faster than its limit."
    ),
    GuardEvent.GRIPPER_RANGE: EventInfo(
        Reaction.CLIPPED, Reaction.CLIPPED, "The gripper was asked for a position outside 0 (open) to 1 (closed)."
    ),
}


@dataclass(frozen=True)
class Finding:
    """One event, how many waypoints or intervals it concerns, and the figures of the worst of them."""

    event: GuardEvent
    count: int
    detail: str

    def __str__(self) -> str:
        return f"{self.event.label} ({self.count}): {self.detail}"
