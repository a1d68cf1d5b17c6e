"""``launch/calibrate``: a job a calibration, each ending in a table that says whether to trust it, and in a report."""

import argparse
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from calibration.board_print import write_pdf, write_svg
from calibration.cell import LiveCell
from calibration.display import CalibrationDisplay, finding_table, history_table, summary_table
from calibration.errors import CalibrationError, StoppedError
from calibration.job_check import run_check
from calibration.job_gripper import run_gripper
from calibration.job_hand_eye import run_hand_eye
from calibration.job_intrinsics import evaluate_intrinsics, run_intrinsics
from calibration.job_latency import run_latency
from calibration.live import live_workbench
from calibration.manual import collect_guided, collect_held_out
from calibration.nominal import setup_for
from calibration.planning import PlanningError
from calibration.report import Chapter, write_report
from calibration.samples import SampleSet
from calibration.store import Store, differences
from calibration.workbench import Outcome, Workbench, conclude
from configs.calibrated import CHECK, hand_eye_name, intrinsics_name
from configs.report import job_console, write_json
from configs.schema import ConfigError, RigConfig, load_rig
from robot.cameras.backend import CameraError, CameraLabel
from robot.charuco import BOARDS
from robot.daemon.errors import RobotdError
from robot.doctor.dialogue import Dialogue, Terminal, Yes
from robot.processes import stop_event_on_signals
from robot.ring import RingBusyError, RingError
from robot.station import StationError
from robot.twin.control import TwinControlError

EXPECTED_ERRORS = (
    ConfigError,
    CalibrationError,
    PlanningError,
    StationError,
    RobotdError,
    CameraError,
    RingError,
    RingBusyError,
    TwinControlError,
    ValueError,
)
"""What can be wrong from outside. Each says in one line what was expected, what was found and what to do."""
EXIT_STOPPED = 130
CAMERAS: tuple[CameraLabel, ...] = ("wrist", "exterior")
JOBS = ("all", "intrinsics", "hand-eye", "latency", "gripper", "check")


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when everything asked for is accepted and in use, 1 otherwise with the reasons, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    console = job_console()
    try:
        match options.job:
            case "boards":
                return _boards(options, console)
            case "show" | "diff" | "rollback":
                return _history(options, console)
            case _:
                return _measure(options, console)
    except StoppedError as error:
        print(f"launch/calibrate: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except EXPECTED_ERRORS as error:
        print(f"launch/calibrate: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch/calibrate",
        description="Calibrate a rig, and prove it. On a lab rig in this order: boards (print, measure the bar), "
        "intrinsics and hand-eye of the wrist camera, the same of the exterior camera, latency, gripper, check. "
        "'all' does it in that order. The arm only moves after a question; Ctrl-C holds it at any moment.",
    )
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    boards = jobs.add_parser("boards", help="write the boards as PDF and SVG")
    boards.add_argument("--output", type=Path, default=Path("outputs/boards"))
    helps = {
        "all": "everything, one after the other",
        "intrinsics": "focal length and centre of a camera",
        "hand-eye": "where a camera is",
        "latency": "how late cameras, arm and gripper are",
        "gripper": "what a gripper command opens",
        "check": "is everything still where it was calibrated?",
    }
    for name, text in helps.items():
        job = jobs.add_parser(name, help=text)
        job.add_argument("--rig", default="twin", help="a name in configs/rigs, or a YAML file (default: twin)")
        job.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file too")
        job.add_argument("--yes", action="store_true", help="answer every question with yes: on a twin only")
        job.add_argument(
            "--report", type=Path, metavar="FILE", help="where the report goes (default: beside the results)"
        )
        job.add_argument("--replace", action="store_true", help="a worse result may replace the present one, unasked")
        job.add_argument("--seed", type=int, default=None, help="twin: how its hands place boards")
        if name in ("intrinsics", "hand-eye"):
            job.add_argument("--camera", choices=CAMERAS, required=True)
            job.add_argument(
                "--manual",
                action="store_true",
                help="intrinsics: hold the board out by hand; hand-eye: guide the arm by hand",
            )
            job.add_argument("--samples", type=Path, metavar="FOLDER", help="use views that were taken before")
        if name in ("all", "intrinsics", "hand-eye"):
            job.add_argument("--views", type=int, default=25, help="how many to take (default: 25; 20 to 40 are good)")
            job.add_argument("--fresh", action="store_true", help="begin anew, also if a run was interrupted")
    for name, text in (
        ("show", "what is in use"),
        ("diff", "what the present version changed"),
        ("rollback", "use the accepted version before the present one"),
    ):
        job = jobs.add_parser(name, help=text)
        job.add_argument("name", nargs=None if name == "rollback" else "?", help="a calibration, as 'show' lists them")
        job.add_argument("--rig", default="twin")
        if name != "show":
            job.add_argument("--version", help="compare with, or go back to, this version")
    return parser


def _boards(options: argparse.Namespace, console: Console) -> int:
    for board in BOARDS.values():
        for write, ending in ((write_pdf, "pdf"), (write_svg, "svg")):
            path = options.output / f"board-{board.name}.{ending}"
            write(board, path)
            console.print(str(path), soft_wrap=True)
    console.print(
        "Print at 100 %, 'actual size'. Measure the bar: 100 mm. Measure a row of squares with a caliper and put the "
        "square into the rig's file (calibration.table_square_m, gripper_square_m). Glue it flat onto a stiff, "
        "matt plate."
    )
    return 0


def _history(options: argparse.Namespace, console: Console) -> int:
    rig = load_rig(options.rig)
    store = Store(rig.name)
    match options.job:
        case "show":
            names = [options.name] if options.name else store.names()
            if not names:
                console.print(f"Nothing is calibrated yet on rig '{rig.name}' ({store.folder}).", soft_wrap=True)
            for name in names:
                console.print(history_table(name, store.current(name), store.versions(name)))
        case "diff":
            for name in [options.name] if options.name else store.names():
                _diff(store, name, options.version, console)
        case "rollback":
            chosen = store.rollback(options.name, options.version)
            console.print(f"{options.name}: version {chosen['id']} of {chosen['made']} is in use again.")
    return 0


def _diff(store: Store, name: str, version: str | None, console: Console) -> None:
    present = store.current(name)
    if present is None:
        raise CalibrationError(
            f"{name}: expected a calibration in use, there is none; there are {', '.join(store.names())}"
        )
    others = [one for one in store.versions(name) if one["id"] != present["id"] and (version in (None, one["id"]))]
    if not others:
        console.print(f"{name}: there is no {'such' if version else 'other'} version to compare with.")
        return
    console.print(f"[bold]{name}[/] {others[-1]['id']} → {present['id']}")
    for what, before, after in differences(others[-1], present):
        console.print(f"  {what}: {before} → {after}", soft_wrap=True, markup=False)


def _measure(options: argparse.Namespace, console: Console) -> int:
    rig = load_rig(options.rig)
    dialogue = _dialogue(rig, options, console)
    made = datetime.now(UTC)
    chapters: list[Chapter] = []
    manual = getattr(options, "manual", False)
    with stop_event_on_signals() as stop, CalibrationDisplay(console) as display:
        try:
            with live_workbench(
                rig,
                rig_argument=options.rig,
                dialogue=dialogue,
                stop=stop,
                on_progress=display.show,
                views=getattr(options, "views", 25),
                fresh=getattr(options, "fresh", False),
                moves=not manual,
                seed=options.seed,
            ) as bench:
                for work in _jobs(options, bench, display, stop):
                    outcome = work()
                    chapter = _concluded(outcome, bench, options, unattended=options.yes)
                    chapters.append(chapter)
                    display.clear()
                    console.print(finding_table(chapter.result, in_use=chapter.in_use))
        finally:
            display.clear()
            if chapters:
                report = (
                    options.report or Store(rig.name).folder / "reports" / f"{made:%Y%m%d-%H%M%S}-{options.job}.html"
                )
                write_report(report, chapters, rig_name=rig.name, made=made)
                console.print(summary_table(rig.name, chapters))
                console.print(f"Report with pictures: {report}", soft_wrap=True)
            if options.json is not None:
                rows = [row for chapter in chapters for row in chapter.result.to_report()]
                wanted = len(_wanted(options))
                ok = len(chapters) == wanted and all(chapter.in_use for chapter in chapters)
                write_json(options.json, {"ok": ok, "results": rows})
    return 0 if len(chapters) == len(_wanted(options)) and all(chapter.in_use for chapter in chapters) else 1


def _dialogue(rig: RigConfig, options: argparse.Namespace, console: Console) -> Dialogue:
    unattended = options.yes or (options.job == "all" and rig.twin is not None)
    options.yes = unattended
    if not unattended:
        return Terminal(console)
    if rig.twin is None:
        raise CalibrationError(
            f"--yes is for twins; rig {rig.name!r} is a real arm: somebody has to look at it and answer"
        )
    return Yes(console)


def _wanted(options: argparse.Namespace) -> list[str]:
    """What the job will conclude."""
    match options.job:
        case "all":
            cameras = [name(camera) for camera in CAMERAS for name in (intrinsics_name, hand_eye_name)]
            return [*cameras, "latency", "gripper", "check"]
        case "intrinsics":
            return [intrinsics_name(options.camera)]
        case "hand-eye":
            return [hand_eye_name(options.camera)]
        case job:
            return [job]


def _jobs(
    options: argparse.Namespace, bench: Workbench, display: CalibrationDisplay, stop: threading.Event
) -> list[Callable[[], Outcome]]:
    """What to run, in order."""
    match options.job:
        case "all":
            shared: dict[CameraLabel, SampleSet] = {}

            def intrinsics(camera: CameraLabel) -> Outcome:
                outcome, shared[camera] = run_intrinsics(bench, camera)
                return outcome

            # One drive a camera serves both: the views are as many-sided as either wants them.
            return [
                lambda: intrinsics("wrist"),
                lambda: run_hand_eye(bench, "wrist", shared["wrist"]),
                lambda: intrinsics("exterior"),
                lambda: run_hand_eye(bench, "exterior", shared["exterior"]),
                lambda: run_latency(bench),
                lambda: run_gripper(bench),
                lambda: run_check(bench),
            ]
        case "intrinsics":
            return [lambda: _intrinsics(options, bench, display, stop)]
        case "hand-eye":
            return [lambda: run_hand_eye(bench, options.camera, _given_views(options, bench, display, stop))]
        case "latency":
            return [lambda: run_latency(bench)]
        case "gripper":
            return [lambda: run_gripper(bench)]
        case _:
            return [lambda: run_check(bench)]


def _intrinsics(
    options: argparse.Namespace, bench: Workbench, display: CalibrationDisplay, stop: threading.Event
) -> Outcome:
    given = _given_views(options, bench, display, stop)
    if given is not None:
        return evaluate_intrinsics(bench, options.camera, given)
    return run_intrinsics(bench, options.camera)[0]


def _given_views(
    options: argparse.Namespace, bench: Workbench, display: CalibrationDisplay, stop: threading.Event
) -> SampleSet | None:
    """Views from a folder or taken by hand; None when the arm is to drive itself."""
    if options.samples is not None:
        return SampleSet.load(options.samples)
    if not options.manual:
        return None
    assert isinstance(bench.cell, LiveCell)
    camera: CameraLabel = options.camera
    setup = setup_for(camera, bench.rig)
    name = intrinsics_name(camera) if options.job == "intrinsics" else hand_eye_name(camera)
    samples = bench.samples(name, camera, setup.board)
    collect = collect_held_out if options.job == "intrinsics" else collect_guided
    bench.dialogue.say(
        f"Hold board '{setup.board.name}' out to the {camera} camera."
        if options.job == "intrinsics"
        else f"Please {setup.instruction}. Then guide the arm by hand from pose to pose; let it rest at each."
    )
    intrinsics, _ = bench.intrinsics(camera)
    collect(
        bench.cell,
        camera,
        samples,
        board=setup.board,
        intrinsics=intrinsics,
        count=bench.views,
        on_progress=display.show_manual,
        should_stop=stop.is_set,
    )
    return samples


def _concluded(outcome: Outcome, bench: Workbench, options: argparse.Namespace, *, unattended: bool) -> Chapter:
    result = outcome.result
    if result.name == CHECK:
        # A failed check must be seen by the jobs too.
        bench.store.use(result)
        remark = "the check passed" if result.accepted else f"the check failed: {'; '.join(result.reasons)}"
        return Chapter(result, result.accepted, remark, outcome.sections)
    in_use, remark = conclude(
        outcome, store=bench.store, dialogue=bench.dialogue, replace=options.replace, unattended=unattended
    )
    return Chapter(result, in_use, remark, outcome.sections)


if __name__ == "__main__":
    sys.exit(main())
