"""What the YAML files mean. Every key is checked: an unknown one, a wrong unit or a value out of range is refused with
the file, the path inside it and what is allowed.

`load_rig`, `load_task` and `load_policy` take a name (``twin``) or a path to a YAML file.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.calibrated import with_measured_latencies

CONFIGS = Path(__file__).parent


class ConfigError(ValueError):
    """A configuration file is absent, is no YAML, or does not say what its schema allows."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _is_name(text: str) -> str:
    if not text or not all(c.isalnum() or c in "-_." for c in text):
        raise ValueError("only letters, digits, '-', '_' and '.' are allowed in a name")
    return text


Name = Annotated[str, AfterValidator(_is_name)]
Vector3 = tuple[float, float, float]
Joints = tuple[float, float, float, float, float, float]
JointAngle = Annotated[float, Field(ge=-6.2832, le=6.2832, description="radians")]
JointAngles = tuple[JointAngle, JointAngle, JointAngle, JointAngle, JointAngle, JointAngle]
Port = Annotated[int, Field(ge=1, le=65535)]


class Latency(_Model):
    """A delay and where the figure comes from; never a bare literal in code."""

    seconds: float = Field(ge=0.0, le=0.3)
    source: str = Field(min_length=3, description="calibrated on DATE, vendor figure, assumed, ...")


class Payload(_Model):
    """What hangs on the flange, told to the controller when it is enabled."""

    mass_kg: float = Field(ge=0.0, le=5.0)
    center_of_mass_m: Vector3


class ServoConfig(_Model):
    """The ServoJ stream. The vendor recommends 33 Hz; 125 Hz is one command a feedback packet."""

    rate_hz: float = Field(ge=10.0, le=125.0)
    aheadtime: float = Field(ge=20.0, le=100.0, description="the controller's aheadtime, acts like D")
    gain: float = Field(ge=200.0, le=1000.0, description="the controller's gain, acts like P")


class ArmConfig(_Model):
    """Where the controller answers and how it is set up."""

    host: str
    dashboard_port: Port
    feedback_port: Port
    slow_feedback_port: Port
    alarm_port: Port = 22000
    extra_feedback_port: Port = 30006
    robot_types: tuple[int, ...] = Field(min_length=1)
    payload: Payload
    collision_level: int = Field(ge=0, le=5)
    servo: ServoConfig
    command_latency: Latency


class GripperConfig(_Model):
    """The AG-95: which wire, which registers mean open and closed.

    ``route`` flange reaches it through the arm's tool connector; ``gateways`` are then tried in order (the arm's own
    address after them), and ``port`` is not used.
    """

    route: Literal["usb", "flange"] = "usb"
    port: str = Field(description="serial device, or run:NAME for the twin's")
    gateways: tuple[str, ...] = ("127.0.0.1", "192.168.201.1")
    initialise_when_holding: Literal["ask", "refuse", "allow"] = "ask"
    baudrate: Literal[115200, 57600, 38400, 19200, 9600, 4800]
    slave_id: int = Field(ge=1, le=247)
    open_permille: int = Field(ge=0, le=1000)
    closed_permille: int = Field(ge=0, le=1000)
    force_n: float = Field(ge=45.0, le=160.0)
    poll_rate_hz: float = Field(ge=5.0, le=50.0)
    command_latency: Latency

    @model_validator(mode="after")
    def _has_a_stroke(self) -> Self:
        if abs(self.open_permille - self.closed_permille) < 100:
            raise ValueError("open_permille and closed_permille must differ by at least 100")
        return self


class CameraConfig(_Model):
    """One camera: its backend, the picture it must deliver and how late its pictures are."""

    backend: Literal["twin", "zed", "uvc", "replay"]
    serial: int = Field(ge=0)
    width: int = Field(ge=64, le=2208)
    height: int = Field(ge=64, le=1242)
    fps: Literal[15, 30, 60, 100]
    latency: Latency
    source: str | None = Field(default=None, description="device or recording, for the uvc and replay backends")
    exposure_percent: int | None = Field(default=None, ge=0, le=100, description="zed: locked, of the mode's longest")
    gain_percent: int | None = Field(default=None, ge=0, le=100, description="zed: locked together with the exposure")
    white_balance_k: int | None = Field(default=None, ge=2800, le=6500, multiple_of=100, description="zed: locked")
    svo_directory: str | None = Field(default=None, description="zed: also record SVO2 files into this folder")
    calibration_file: str | None = Field(default=None, description="uvc: SN*.conf, else the one that the ZED SDK keeps")
    replay_loops: bool = Field(default=True, description="replay: start again at the end")

    @model_validator(mode="after")
    def _locks_exposure_and_gain_together(self) -> Self:
        if (self.exposure_percent is None) != (self.gain_percent is None):
            raise ValueError("exposure_percent and gain_percent must be given together; a ZED locks both or none")
        return self


class Workspace(_Model):
    """The box that the tool point may be in, base frame, metres, and the table under it."""

    lower_m: Vector3
    upper_m: Vector3
    table_height_m: float = Field(ge=-0.5, le=0.5)
    table_clearance_m: float = Field(ge=0.0, le=0.1)

    @model_validator(mode="after")
    def _is_a_box(self) -> Self:
        if any(low >= high for low, high in zip(self.lower_m, self.upper_m, strict=True)):
            raise ValueError(f"lower_m {self.lower_m} must be below upper_m {self.upper_m} in each axis")
        return self


class LimitsConfig(_Model):
    """What the action guard enforces. No job's command line can raise these."""

    joint_lower_rad: JointAngles
    joint_upper_rad: JointAngles
    joint_margin_rad: float = Field(ge=0.0, le=0.5)
    max_joint_speed_rad_s: float = Field(gt=0.0, le=1.7454)
    max_joint_acceleration_rad_s2: float = Field(gt=0.0, le=20.0)
    max_tcp_speed_m_s: float = Field(gt=0.0, le=2.0)
    max_jump_rad: float = Field(gt=0.0, le=1.0)
    max_jump_m: float = Field(gt=0.0, le=0.3)
    approach_speed_rad_s: float = Field(gt=0.0, le=0.6)
    workspace: Workspace

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for joint, (low, high) in enumerate(zip(self.joint_lower_rad, self.joint_upper_rad, strict=True), start=1):
            if high - low <= 2 * self.joint_margin_rad:
                raise ValueError(f"joint {joint}: nothing is left of [{low}, {high}] rad inside the margin")
        return self


class StartPose(_Model):
    """Where every episode begins."""

    joints_rad: JointAngles
    gripper: float = Field(ge=0.0, le=1.0)
    tolerance_rad: float = Field(gt=0.0, le=0.2)


class ObservationConfig(_Model):
    """How observations are put together in time."""

    max_age_s: float = Field(gt=0.0, le=1.0, description="oldest exterior frame that may be acted on")
    max_skew_s: float = Field(gt=0.0, le=0.5, description="largest capture difference between the cameras")


class CommissioningAnswer(_Model):
    """What was found out about this very rig on its first day, where the vendor's documents say nothing sure."""

    value: bool | int | float | str
    unit: str = ""
    measured_on: date


class CameraGuess(_Model):
    """Roughly where a camera is: its left eye, a point that it looks at, and which way is up in its picture; base
    frame for the exterior camera, flange frame for the wrist camera. Calibration plans with it and finds the rest."""

    position_m: Vector3
    looks_at_m: Vector3
    up: Vector3 = (0.0, 0.0, 1.0)


class CalibrationConfig(_Model):
    """How the rig is calibrated, and what a job does about calibrations that are missing or do not hold any more."""

    when_missing: Literal["flag", "refuse"] = "flag"
    when_failed: Literal["flag", "refuse"] = "refuse"
    max_age_days: int = Field(default=90, ge=1, le=3650)
    table_board: str = "a4"
    table_square_m: float | None = Field(default=None, gt=0.005, lt=0.2, description="as the caliper found it")
    table_board_center_m: tuple[float, float] = (0.50, -0.08)
    gripper_board: str = "a4"
    gripper_square_m: float | None = Field(default=None, gt=0.005, lt=0.2, description="as the caliper found it")
    robot_sigma_mm: float = Field(default=0.5, gt=0.0, le=20.0, description="how far the robot's own poses are trusted")
    robot_sigma_deg: float = Field(default=0.05, gt=0.0, le=2.0)
    cameras: dict[Literal["exterior", "wrist"], CameraGuess] = Field(default_factory=dict)


class TwinConfig(_Model):
    """Present on a rig that is simulated: how the twin behaves behind the wires."""

    control_port: Port
    camera_latency_s: float = Field(ge=0.0, le=0.3)
    reply_latency_s: float = Field(ge=0.0, le=0.1)
    power_on_s: float = Field(ge=0.0, le=30.0)


class RigConfig(_Model):
    """One robot station."""

    name: Name
    control_rate_hz: Literal[15]
    arm: ArmConfig
    gripper: GripperConfig
    cameras: dict[Literal["exterior", "wrist"], CameraConfig]
    limits: LimitsConfig
    start: StartPose
    observation: ObservationConfig
    twin: TwinConfig | None = None
    calibration: CalibrationConfig = CalibrationConfig()
    commissioning: dict[Name, CommissioningAnswer] = Field(
        default_factory=dict, description="written by launch/doctor commission; for people, and for reports"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        missing = {"exterior", "wrist"} - set(self.cameras)
        if missing:
            raise ValueError(f"cameras: {', '.join(sorted(missing))} is missing; a rig has 'exterior' and 'wrist'")
        low, high, margin = self.limits.joint_lower_rad, self.limits.joint_upper_rad, self.limits.joint_margin_rad
        for joint, (angle, lower, upper) in enumerate(zip(self.start.joints_rad, low, high, strict=True), start=1):
            if not lower + margin <= angle <= upper - margin:
                raise ValueError(f"start.joints_rad: joint {joint} = {angle} rad is outside [{lower}, {upper}] rad")
        simulated = [name for name, camera in self.cameras.items() if camera.backend == "twin"]
        if simulated and self.twin is None:
            raise ValueError(f"cameras {simulated} use the twin backend, but the rig has no 'twin' section")
        return self


class TaskConfig(_Model):
    """One task: what the policy is told and, on the twin, which object must end on the plate."""

    name: Name
    prompt: str = Field(min_length=3, max_length=200)
    target_object: Literal["cup", "can", "tape"]
    time_limit_s: float = Field(gt=0.0, le=600.0)


class PolicyConfig(_Model):
    """One policy for the server: a checkpoint, or a preset with random weights."""

    name: Name
    preset: Literal["nano", "mid", "pi0", "pi05"]
    checkpoint: str | None = Field(default=None, description="a folder, or the name of a repository on the hub")
    seed: int = Field(default=0, ge=0)
    inference_steps: int = Field(default=10, ge=1, le=100)
    noise_scale: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="what the noise that chunks grow from is multiplied by; 0: the observation alone decides the chunk",
    )
    motion_vae: str | None = Field(default=None, description="folder of the motion head's autoencoder")
    tokenizer: str | None = Field(default=None, description="SentencePiece model, which foreign checkpoints lack")
    statistics: str | None = Field(default=None, description="a norm_stats.json instead of a foreign checkpoint's own")
    asset: str | None = Field(default=None, description="which of an openpi checkpoint's assets")
    horizon: int | None = Field(default=None, ge=1, le=200, description="of a foreign checkpoint that does not say")
    relative: bool | None = Field(default=None, description="whether a foreign checkpoint's joints are relative")
    discrete_state: bool = Field(default=True, description="false: a π0.5 trained without its state in the prompt")


_Config = TypeVar("_Config", bound=BaseModel)


def load_rig(name_or_path: str | Path) -> RigConfig:
    """The rig of ``configs/rigs/NAME.yaml`` or of a YAML file, with the latencies that were measured on it.

    Raises `ConfigError`.
    """
    return with_measured_latencies(_load(RigConfig, "rigs", name_or_path))


def load_task(name_or_path: str | Path) -> TaskConfig:
    """The task of ``configs/tasks/NAME.yaml`` or of a YAML file. Raises `ConfigError`."""
    return _load(TaskConfig, "tasks", name_or_path)


def load_policy(name_or_path: str | Path) -> PolicyConfig:
    """The policy of ``configs/policies/NAME.yaml`` or of a YAML file. Raises `ConfigError`."""
    return _load(PolicyConfig, "policies", name_or_path)


def load_config(model: type[_Config], *, kind: str, name_or_path: str | Path) -> _Config:
    """A configuration whose schema another package owns: ``configs/KIND/NAME.yaml`` or a file. Raises `ConfigError`."""
    return _load(model, kind, name_or_path)


def available(kind: str) -> list[str]:
    """Names that can be given for a kind of configuration."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def _load(model: type[_Config], kind: str, name_or_path: str | Path) -> _Config:
    given = str(name_or_path)
    path = Path(given) if "/" in given or given.endswith((".yaml", ".yml")) else CONFIGS / kind / f"{given}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file. Known {kind}: {', '.join(available(kind)) or 'none'}; "
            "or give a path to a YAML file."
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, found {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(path, error, model)) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses the same key twice instead of taking the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _explain(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    lines = [f"{path}: {error.error_count()} setting(s) are not allowed:"]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "(top level)"
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = f"unknown key; allowed here: {', '.join(_allowed_keys(model, problem['loc'][:-1]))}"
        given = problem.get("input")
        shown = f" (given: {given!r})" if isinstance(given, int | float | str | bool) else ""
        lines.append(f"  {where}: {text}{shown}")
    return "\n".join(lines)


def _allowed_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
            options = [option for option in getattr(current, "__args__", ()) if option is not type(None)]
            if len(options) == 1:
                current = options[0]
        elif getattr(current, "__origin__", None) is dict:
            current = current.__args__[1]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
