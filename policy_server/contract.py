"""What a policy promises about its inputs and outputs, as the server's first frame says it. Needs no torch.

The robot compares `Contract.interface` with what its rig has (`Contract.mismatches`) and refuses any difference.
A stock openpi server sends no contract: `Contract.from_metadata` is None then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

CONTRACT_VERSION = 1

EXTERIOR_IMAGE_KEY = "observation/exterior_image_1_left"
WRIST_IMAGE_KEY = "observation/wrist_image_left"
JOINT_POSITION_KEY = "observation/joint_position"
GRIPPER_POSITION_KEY = "observation/gripper_position"
PROMPT_KEY = "prompt"


class ContractError(ValueError):
    """The metadata holds a contract that can't be read. Says which field, what was expected and what came."""


@dataclass(frozen=True)
class Interface:
    """What robot and policy must agree on before anything moves.

    Units are words: ``rad``, and ``closed_fraction`` for a gripper that is 0 when open and 1 when closed. `fps` is the
    rate in Hz at which the `horizon` actions of a chunk follow each other.
    """

    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    fps: float
    horizon: int
    image_keys: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in ("state", "action"):
            names, units = getattr(self, f"{part}_names"), getattr(self, f"{part}_units")
            if len(names) != len(units):
                raise ContractError(f"contract: {len(names)} {part}_names but {len(units)} {part}_units")
        if self.horizon < 1 or not 0.0 < self.fps < 10_000.0:
            raise ContractError(
                f"contract: expected horizon >= 1 and a positive fps, found {self.horizon} and {self.fps}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Interface":
        """The inverse of `to_json`; raises `ContractError`."""
        return cls(**_read(cls, plain))


_NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "gripper")
_UNITS = ("rad",) * 6 + ("closed_fraction",)

SIX_JOINTS_AND_GRIPPER = Interface(
    state_names=_NAMES,
    state_units=_UNITS,
    action_names=_NAMES,
    action_units=_UNITS,
    fps=15.0,
    horizon=15,
    image_keys=(EXTERIOR_IMAGE_KEY, WRIST_IMAGE_KEY),
)
"""Six joint angles and a gripper, two cameras, chunks of one second at 15 Hz: the interface of this project."""


@dataclass(frozen=True)
class Contract:
    """An interface, and what the checkpoint behind it says about itself.

    `image_size` is (height, width) in pixels: what the policy sees; larger pictures are scaled down by the server.
    `relative_joints` tells how the checkpoint was trained; actions on the wire are absolute either way.
    `camera_backends` maps a camera to the backends that its training pictures came through; a camera that is not named
    there says nothing. `guidance`: on request, a chunk is pulled towards what is left of the previous one. `prompts`
    are the tasks in words that it was trained on, `state_low` and `state_high` the range of states it has seen, in the
    interface's units; empty: not known.
    """

    policy: str
    trained: bool
    interface: Interface
    image_size: tuple[int, int]
    relative_joints: bool
    prefix_conditioning: bool
    motion_image: bool
    normalization_digest: str
    checkpoint_digest: str
    camera_backends: dict[str, list[str]] = field(default_factory=dict)
    guidance: bool = False
    prompts: tuple[str, ...] = ()
    state_low: tuple[float, ...] = ()
    state_high: tuple[float, ...] = ()
    version: int = CONTRACT_VERSION

    def to_metadata(self) -> dict[str, Any]:
        """The flat map that goes under the metadata key ``contract``."""
        own = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "interface"}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
        return plain | self.interface.to_json()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Contract | None":
        """The contract in a server's first frame; None when there is none. Raises `ContractError` if malformed."""
        flat = metadata.get("contract")
        if flat is None:
            return None
        if not isinstance(flat, Mapping):
            raise ContractError(f"contract: expected a map, found {type(flat).__name__}")
        version = flat.get("version")
        if version != CONTRACT_VERSION:
            raise ContractError(
                f"contract: expected version {CONTRACT_VERSION}, the server has {version!r}; update the older side"
            )
        return cls(interface=Interface.from_json(flat), **_read(cls, flat))

    def strange_states(self, state: Sequence[float], *, margin: float = 0.1) -> list[str]:
        """One line for each number of a state that is outside what the policy has seen, by more than `margin` of its
        range. Nothing when the range is not known."""
        found = []
        seen = zip(self.interface.state_names, state, self.state_low, self.state_high, strict=False)
        for name, value, low, high in seen:
            slack = margin * (high - low)
            if not low - slack <= value <= high + slack:
                found.append(f"{name} is {value:.3f}, the policy has seen {low:.3f} to {high:.3f}")
        return found

    def mismatches(self, expected: Interface) -> list[str]:
        """One line for each field in which the policy differs from what the robot expects, naming both sides."""
        return [
            f"{part.name}: the robot has {_listed(mine)}, the policy {self.policy!r} has {_listed(theirs)}"
            for part in fields(Interface)
            if (mine := getattr(expected, part.name)) != (theirs := getattr(self.interface, part.name))
        ]


def _read(kind: type, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass fields of `kind` out of the flat map, checked; unknown keys of a newer peer are left alone."""
    hints = get_type_hints(kind)
    return {
        part.name: _field(part.name, hints[part.name], flat)
        for part in fields(kind)
        if part.name != "interface" and (part.name in flat or part.default_factory is part.default is MISSING)
    }


def _field(name: str, hint: Any, flat: Mapping[str, Any]) -> Any:
    if name not in flat:
        raise ContractError(f"contract: {name} is missing")
    value = flat[name]
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if hint == tuple[int, int] and isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value):
        return tuple(value)
    if hint == tuple[float, ...] and isinstance(value, list) and all(type(v) in (int, float) for v in value):
        return tuple(map(float, value))
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint == dict[str, list[str]] and _is_names_by_name(value):
        return value
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise ContractError(f"contract: {name} = {value!r} is no {getattr(hint, '__name__', hint)}")


def _is_names_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for key, names in value.items()
    )


def _listed(value: Any) -> str:
    return "[" + ", ".join(value) + "]" if isinstance(value, tuple) else str(value)
