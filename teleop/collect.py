"""The command behind `launch/collect`: teleoperated demonstrations of one task."""

import sys
from dataclasses import dataclass
from math import atan2, radians
from pathlib import Path
from typing import Annotated

import tyro

from configs.report import job_console, write_json
from configs.schema import ConfigError, load_rig
from robot.calibration_state import CalibrationNotTrustedError
from robot.daemon.errors import RobotdError
from robot.processes import stop_event_on_signals
from robot.recording import RecordingError
from robot.recording.pictures import PictureFormat
from robot.ring import RingBusyError, RingError
from robot.rollout.main import set_up_logging
from robot.station import StationError
from robot.twin.control import TwinControlError
from robot.twin.optics import CAMERA_MOUNTS, CameraName
from teleop.devices import DeviceError, DeviceKind
from teleop.devices.keyboard import HELP
from teleop.display import CollectDisplay
from teleop.frames import MappingFrame, view_from_yaw
from teleop.mapping import MappingConfig
from teleop.progress import CollectionError
from teleop.published import PublishedView
from teleop.results import summary_table, to_json
from teleop.session import CollectPlan, SessionView, run_collection

EXPECTED_ERRORS = (
    ConfigError,
    CollectionError,
    DeviceError,
    CalibrationNotTrustedError,
    StationError,
    RobotdError,
    RecordingError,
    RingError,
    RingBusyError,
    TwinControlError,
)
"""What can be wrong from outside. Each says in one line what was expected, what was found and what to do."""
EXIT_STOPPED = 130
_HAS_NO_KEYS = (DeviceKind.BROWSER, DeviceKind.GAMEPAD, DeviceKind.EXPERT)


@dataclass(frozen=True)
class Arguments:
    """Collect teleoperated demonstrations of a task. Ctrl-C at any moment: the arm decelerates and holds, the episode
    is closed and kept, the lease is given back. Called again, it goes on where it stopped."""

    rig: str = "twin"
    """Name of a rig in configs/rigs, or a path to a YAML file."""
    task: str = "cup"
    """Task of configs/tasks, or a path to a YAML file."""
    episodes: int = 30
    """How many good episodes of the task the folder shall hold in the end."""
    device: DeviceKind = DeviceKind.KEYBOARD
    """What the operator holds. drag: the arm itself, led by hand, which then drives the path alone while the cameras
    record. expert: the twin's scripted teacher."""
    output: Path = Path("outputs/demonstrations")
    """Folder of the raw episodes; one rig per folder."""
    port: Path | None = None
    """Device file of the gamepad or SpaceMouse; calibration file of the leader arm."""
    frame: MappingFrame = MappingFrame.BASE
    """Which way forward is: base: the arm's x. tool: the tool's own axes. view: into the picture."""
    view_yaw_deg: float | None = None
    """view: heading that you look along, 0 is the base's x, 90 its y (default on a twin: its exterior camera's)."""
    speed: float = 1.0
    """Share of the top speed, more than 0 and at most 1."""
    seconds: float | None = None
    """Time limit of an episode (default: the task's own)."""
    countdown: float | None = None
    """Seconds between start and recording (default 3, for the expert 0)."""
    operator: str = ""
    """Who demonstrates; kept with each episode."""
    notes: str = ""
    """Kept with each episode."""
    seed: int = 0
    """twin: scene of the first episode; each further one gets the next number."""
    reserve_gib: float = 3.0
    """Free disk space without which no episode is started."""
    pictures: PictureFormat = PictureFormat.JPEG
    """How pictures are recorded. jpeg: each by itself. h264: as a film of key frames and differences, far smaller."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the target is reached, 130 after Ctrl-C or quit, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/collect", config=(tyro.conf.EnumChoicesFromValues,))
    console = job_console()
    set_up_logging()
    try:
        plan = _plan(options)
        keys = "buttons of the device, see the README" if plan.device in _HAS_NO_KEYS else HELP
        published = PublishedView(load_rig(plan.rig).name, task=plan.task, device=plan.device.value)
        with stop_event_on_signals() as stop, CollectDisplay(console, keys=keys) as display, published:

            def show(view: SessionView) -> None:
                display.show(view)
                published.show(view)

            progress, records = run_collection(plan, stop=stop, console=console, on_view=show)
    except EXPECTED_ERRORS as error:
        print(f"launch/collect: {error}", file=sys.stderr)
        return 1
    console.print(summary_table(progress, records))
    if options.json is not None:
        about = {"rig": plan.rig, "task": plan.task, "device": plan.device.value, "operator": plan.operator}
        write_json(options.json, to_json(progress, records, **about))
    if progress.is_complete:
        return 0
    aborted = bool(records) and records[-1].label.startswith("aborted") and records[-1].reason != "operator"
    return 1 if aborted else EXIT_STOPPED


def _plan(options: Arguments) -> CollectPlan:
    countdown_s = options.countdown
    if countdown_s is None:
        countdown_s = 0.0 if options.device is DeviceKind.EXPERT else 3.0
    try:
        view = None
        if options.frame is MappingFrame.VIEW:
            view = view_from_yaw(_view_yaw_rad(options))
        mapping = MappingConfig(frame=options.frame, view=view, speed_scale=options.speed)
    except ValueError as error:
        raise CollectionError(str(error)) from None
    return CollectPlan(
        rig=options.rig,
        task=options.task,
        episodes=options.episodes,
        device=options.device,
        output=options.output.absolute(),
        mapping=mapping,
        device_port=options.port,
        seconds=options.seconds,
        countdown_s=countdown_s,
        operator=options.operator,
        notes=options.notes,
        seed=options.seed,
        reserve_gib=options.reserve_gib,
        pictures=options.pictures,
    )


def _view_yaw_rad(options: Arguments) -> float:
    if options.view_yaw_deg is not None:
        return radians(options.view_yaw_deg)
    if load_rig(options.rig).twin is None:
        raise CollectionError("--frame view: expected --view-yaw-deg, your heading (0: along the base's x)")
    mount = CAMERA_MOUNTS[CameraName.EXTERIOR]
    return atan2(mount.target[1] - mount.position[1], mount.target[0] - mount.position[0])


if __name__ == "__main__":
    sys.exit(main())
