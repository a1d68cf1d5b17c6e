"""A rollout from nothing to results: server, station, lease, episodes, and the one way out."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from rich.console import Console

from configs.schema import RigConfig, TaskConfig, load_rig, load_task
from policy_server.client import SIX_JOINTS_AND_GRIPPER, Continuity, Contract, PolicyClient
from robot.calibration_state import require_calibration
from robot.cameras import require_matching_backends
from robot.clock import seconds_to_ns
from robot.daemon import RobotClient
from robot.daemon.errors import FaultError, MoveRefusedError, RobotdError
from robot.motion.limits import GuardLimits
from robot.motion.violations import pose_violations
from robot.recording.process import recording
from robot.rollout.chunks import ExecutionMode, SchedulerConfig
from robot.rollout.client import EndReason
from robot.rollout.desk_trials import DeskTrials
from robot.rollout.episode import EpisodeRunner, hold_when
from robot.rollout.motion_link import motion_shown
from robot.rollout.observation import ObservationReader
from robot.rollout.pacing import Pacing, PacingSocket
from robot.rollout.policy_link import MotionTap, PolicyIdentity, PolicyLink, connect, identity
from robot.rollout.recorded import RecordedEpisode
from robot.rollout.results import EpisodeResult, RolloutResult
from robot.rollout.scene_gate import SceneGate
from robot.rollout.telemetry import RolloutTelemetry
from robot.rollout.trials import OperatorTrials, Trials, TwinTrials
from robot.state import MachineState
from robot.station import Station

HAND_OVER_NS = 5_000_000
"""Time from a chunk's arrival in the loop until robotd follows it, on top of robotd's own lead."""
BLEND_TICKS = 2
DEFAULT_REPLAN_TICKS = {ExecutionMode.ASYNC: 6, ExecutionMode.SYNC: SIX_JOINTS_AND_GRIPPER.horizon}
SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep the interpreter when the loop's tick is due."""
EXIT_STOPPED = 130
"""What shells give for a program that was stopped by Ctrl-C."""
_LOG = logging.getLogger("rollout")


SLOWEST = 0.1


class OperatorSeat(Enum):
    """Where the operator is asked: about the scene, and whether the task was done."""

    TERMINAL = "terminal"
    CONSOLE = "console"


class PlanError(ValueError):
    """What was asked for is not possible. Says the option, what is allowed and what was given."""


@dataclass(frozen=True)
class RolloutPlan:
    """What to run. ``seconds``: limit of an episode, None for each task's own. Episode i of a task gets seed + i."""

    rig: str
    tasks: tuple[str, ...]
    episodes: int
    server: str
    mode: ExecutionMode
    output: Path
    replan_ticks: int | None = None
    seconds: float | None = None
    seed: int = 0
    api_key: str | None = None
    allow_unknown_contract: bool = False
    allow_other_cameras: bool = False
    assume_ready: bool = False
    continuity: Continuity | None = None
    """How a chunk follows the one before; None as the policy was trained."""
    speed: float = 1.0
    """Share of the policy's own speed: 0.5 gives each action twice its time."""
    motion: bool = False
    """Ask for pictures of predicted motion and compare them with what happens."""
    operator: OperatorSeat = OperatorSeat.TERMINAL
    blind: bool = False
    """Nothing that is shown says which policy acts."""
    paused: bool = False
    """Begin paused: `robot.rollout.pacing` says when to go on."""
    record: Path | None = None
    """Folder into which each episode is recorded, too, None for none."""
    reserve_gib: float = 3.0
    trial: int = 1
    """Number of the first trial, as the operator sees it."""
    trials: int | None = None
    """How many trials the operator is told there will be (default: this rollout's)."""
    reference: Path | None = None
    """Picture (PNG) that the scene must look like before an episode begins; stored by the first that has none."""
    varied: bool = False
    """On a simulated rig: light, colours and cameras of each episode are drawn from its seed."""


@dataclass(frozen=True)
class Progress:
    """What a display may show while episodes run."""

    policy: PolicyIdentity
    total: int
    finished: tuple[EpisodeResult, ...]
    task: str
    seed: int
    runner: EpisodeRunner
    link: PolicyLink


def run_rollout(
    plan: RolloutPlan, *, stop: threading.Event, console: Console, on_progress: Callable[[Progress], None]
) -> RolloutResult:
    """Run the plan's episodes; ends early when ``stop`` is set or when an episode had to be aborted.

    Raises `ConfigError`, `CalibrationNotTrustedError`, `BackendMismatchError`, `StationError`, `RobotdError`,
    `PolicyClientError`, `UnknownContractError`, `RecordingError`, `RingError` or `TwinControlError`: in each case
    nothing moves any more.
    """
    rig = load_rig(plan.rig)
    tasks = [load_task(task) for task in plan.tasks]
    scheduling = scheduler_config(rig, plan)
    if plan.blind and plan.motion:
        raise PlanError("--motion shows what the policy expects, which a --blind trial must not: leave one of them out")
    check_start_pose(rig)
    require_calibration(rig)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    motion = MotionTap()
    with _server(plan, motion) as client:
        check_continuity(client, plan.continuity)
        for warning in unfamiliar(client.contract, rig, tasks):
            _LOG.warning("%s", warning)
        policy = identity(client)
        _LOG.info("policy %s at %s", policy.label, plan.server)
        with (
            Station(plan.rig, log_dir=plan.output / "logs") as station,
            RobotClient.connect(rig, name="rollout") as robot,
            PolicyLink(client, prompt=tasks[0].prompt, motion=motion, continuity=plan.continuity) as link,
            RolloutTelemetry(rig.name) as telemetry,
            _trials(rig, plan, console) as trials,
            ExitStack() as exits,
        ):
            pacing = Pacing(paused=plan.paused)
            exits.enter_context(PacingSocket(rig.name, pacing))
            require_matching_backends(
                {} if client.contract is None else client.contract.camera_backends,
                now={name: camera.backend for name, camera in rig.cameras.items()},
                allow_other=plan.allow_other_cameras,
            )
            robot.acquire()
            with stopped_motions(stop):
                enable(robot, stop=stop)
            observations = exits.enter_context(closing(ObservationReader(rig)))
            runner = EpisodeRunner(
                rig=rig,
                rig_argument=plan.rig,
                robot=robot,
                observations=observations,
                link=link,
                trials=trials,
                scheduling=scheduling,
                stop=stop,
                telemetry=telemetry,
                pacing=pacing,
                recorded=_recorded(plan, rig, policy, exits),
            )
            _introduce(telemetry, plan, policy)
            if plan.motion:
                exits.enter_context(motion_shown(link, telemetry, rig_argument=plan.rig, logs=plan.output / "logs"))
            finished: list[EpisodeResult] = []
            for number, (task, seed) in enumerate(_episodes(plan, tasks)):
                if stop.is_set() or station.problem is not None:
                    break
                on_progress(
                    Progress(policy, plan.episodes * len(tasks), tuple(finished), task.name, seed, runner, link)
                )
                telemetry.tell(task=task.name, prompt=task.prompt, seed=seed, number=number + 1)
                with stopped_motions(stop):
                    finished.append(
                        runner.run(
                            task,
                            seed=seed,
                            time_limit_s=plan.seconds or task.time_limit_s,
                            folder=plan.output / f"episode-{number:03d}-{task.name}",
                        )
                    )
                if not finished or not ready_again(finished[-1], trials, robot):
                    break
    return RolloutResult(policy=policy, rig=rig.name, mode=plan.mode.value, episodes=tuple(finished))


def ready_again(last: EpisodeResult, trials: Trials, robot: RobotClient) -> bool:
    """Whether the next episode may begin. After a collision or a fault a person has to look, unless the rig is
    simulated: a machine that is busy elsewhere may starve it into a fault, and that is no reason to end everything."""
    if last.reason not in (EndReason.COLLISION, EndReason.FAULT):
        return not last.reason.aborted
    try:
        return trials.recover(robot)
    except RobotdError as error:
        _LOG.warning("%s; it could not be cleared: %s", last.detail or last.reason.value, error)
        return False


def scheduler_config(rig: RigConfig, plan: RolloutPlan) -> SchedulerConfig:
    """How chunks are carried out on this rig. Raises `PlanError` for a replan interval that does not fit the chunk."""
    interface = SIX_JOINTS_AND_GRIPPER
    replan_ticks = DEFAULT_REPLAN_TICKS[plan.mode] if plan.replan_ticks is None else plan.replan_ticks
    if not 1 <= replan_ticks <= interface.horizon:
        raise PlanError(f"--replan-ticks: expected 1 to {interface.horizon} (a chunk's length), got {replan_ticks}")
    if not SLOWEST <= plan.speed <= 1.0:
        raise PlanError(f"--speed: expected {SLOWEST} to 1 (the policy's own speed), got {plan.speed:g}")
    servo_period_s = 1.0 / rig.arm.servo.rate_hz
    return SchedulerConfig(
        mode=plan.mode,
        fps=interface.fps * plan.speed,
        horizon=interface.horizon,
        replan_ticks=replan_ticks,
        blend_ticks=BLEND_TICKS,
        max_seam_step_rad=rig.limits.max_joint_speed_rad_s / (interface.fps * plan.speed),
        lead_ns=HAND_OVER_NS + seconds_to_ns(servo_period_s + rig.arm.command_latency.seconds),
    )


def unfamiliar(contract: Contract | None, rig: RigConfig, tasks: Sequence[TaskConfig]) -> list[str]:
    """What the policy will be asked that it has not seen in training, as far as it says: prompts, the start pose."""
    if contract is None:
        return []
    strange = [task.prompt for task in tasks if contract.prompts and task.prompt not in contract.prompts]
    known = ", ".join(f"'{prompt}'" for prompt in contract.prompts)
    found = [f"the policy {contract.policy!r} was not trained on '{prompt}'; it knows {known}" for prompt in strange]
    start = [*rig.start.joints_rad, rig.start.gripper]
    found += [f"the rig's start pose is unfamiliar: {each}" for each in contract.strange_states(start)]
    return found


def check_continuity(client: PolicyClient, continuity: Continuity | None) -> None:
    """Raise `PlanError` when the policy can't follow the chunk before in that way."""
    if continuity not in (None, Continuity.NONE) and not client.can_continue(continuity):
        raise PlanError(f"--continuity {continuity}: the policy at {client.uri} can't do that; choose another, or none")


def check_start_pose(rig: RigConfig) -> None:
    """Raise `MoveRefusedError` when the rig's start pose is outside its own limits."""
    violations = pose_violations(
        np.array(rig.start.joints_rad), limits=GuardLimits.from_config(rig.limits), gripper=rig.start.gripper
    )
    if violations:
        raise MoveRefusedError(
            f"start.joints_rad of rig {rig.name!r} is outside its limits: {'; '.join(map(str, violations))}; "
            "choose another start pose or correct limits.workspace"
        )


def enable(robot: RobotClient, *, stop: threading.Event) -> None:
    """Bring the arm to READY. Raises `FaultError` when a fault is latched: only an operator may acknowledge that."""
    status = robot.status()
    if status.machine_state == MachineState.FAULT:
        raise FaultError(f"{status.fault_text}. Resolve it, acknowledge it, and start again")
    if status.machine_state == MachineState.DISABLED:
        with hold_when(stop, robot):
            robot.enable()


@contextmanager
def stopped_motions(stop: threading.Event) -> Iterator[None]:
    """A motion that ends early because the operator said stop is no error."""
    try:
        yield
    except RobotdError:
        if not stop.is_set():
            raise


def _introduce(telemetry: RolloutTelemetry, plan: RolloutPlan, policy: PolicyIdentity) -> None:
    shown = {"name": policy.name, "trained": policy.trained, "digest": policy.digest[:12]}
    telemetry.tell(
        policy=None if plan.blind else shown,
        total=plan.episodes * len(plan.tasks),
        mode=plan.mode.value,
        speed=plan.speed,
        motion=plan.motion,
        output=str(plan.output),
    )


def _episodes(plan: RolloutPlan, tasks: list[TaskConfig]) -> Iterator[tuple[TaskConfig, int]]:
    for task in tasks:
        for index in range(plan.episodes):
            yield task, plan.seed + index


@contextmanager
def _server(plan: RolloutPlan, motion: MotionTap) -> Iterator[PolicyClient]:
    client = connect(
        plan.server, api_key=plan.api_key, allow_unknown_contract=plan.allow_unknown_contract, motion=motion
    )
    try:
        yield client
    finally:
        client.close()


def _recorded(plan: RolloutPlan, rig: RigConfig, policy: PolicyIdentity, exits: ExitStack) -> RecordedEpisode | None:
    """A recorder that lives as long as ``exits``, if the plan wants one. Raises `RecordingError`."""
    if plan.record is None:
        return None
    logs = plan.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    recorder = exits.enter_context(
        recording(
            rig,
            rig_argument=plan.rig,
            directory=plan.record,
            log_path=logs / "recorder.log",
            reserve_gib=plan.reserve_gib,
        )
    )
    return RecordedEpisode(recorder, directory=plan.record, policy=policy, server=plan.server)


@contextmanager
def _trials(rig: RigConfig, plan: RolloutPlan, console: Console) -> Iterator[Trials]:
    trials: Trials
    gate = None
    if plan.reference is not None:
        gate = SceneGate(rig, reference=plan.reference, seen=plan.output / "scene.png")
    if plan.operator is OperatorSeat.CONSOLE:
        count = plan.trials or plan.episodes * len(plan.tasks)
        trials = DeskTrials(
            rig, trials=count, assume_ready=plan.assume_ready, first=plan.trial, gate=gate, varied=plan.varied
        )
    elif rig.twin:
        trials = TwinTrials(rig, varied=plan.varied)
    else:
        trials = OperatorTrials(console, assume_ready=plan.assume_ready, rubric=plan.blind, gate=gate)
    try:
        yield trials
    finally:
        trials.close()


def exit_code(result: RolloutResult, *, wanted: int, stopped: bool) -> int:
    """0 when every episode was run, `EXIT_STOPPED` after Ctrl-C, 1 otherwise."""
    if stopped or any(episode.reason is EndReason.STOPPED for episode in result.episodes):
        return EXIT_STOPPED
    return 0 if result.completed and len(result.episodes) == wanted else 1
