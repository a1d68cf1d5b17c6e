"""``launch/doctor``: the report of a rig, the way back after an alarm, and the first day on a real arm."""

import argparse
import sys
from datetime import date
from pathlib import Path

from rich.console import Console

from configs.report import job_console, write_json
from configs.schema import ConfigError, RigConfig, load_rig
from robot.arm.errors import ArmError
from robot.doctor.check import is_healthy, report, table
from robot.doctor.commission import Finding, Outcome, commission
from robot.doctor.dialogue import Dialogue, Terminal, Yes
from robot.doctor.examine import examine
from robot.doctor.recover import Step, recover
from robot.doctor.rig_file import source_of, with_answers, write_copy
from robot.doctor.session import ArmSession, SessionError


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when nothing is red, the arm is enabled again, or every question was answered or declined."""
    options = _parser().parse_args(arguments)
    console = job_console()
    try:
        rig = load_rig(options.rig)
        match options.job:
            case "recover":
                return _recover(rig, options, console)
            case "commission":
                return _commission(rig, options, console)
            case _:
                return _check(rig, options, console)
    except (ConfigError, SessionError, ArmError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("doctor: interrupted; nothing is sent to the arm any more", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch/doctor",
        description="check: what is installed, plugged in, calibrated and healthy, and what to do about the rest "
        "(moves nothing, and works beside a running robotd). recover: back to an enabled arm after an emergency stop "
        "or an alarm, one question at a step. commission: the first day on a real arm; each thing that the vendor's "
        "documents leave open is tried at low speed, and the answers go into a copy of the rig's file.",
    )
    parser.add_argument("job", nargs="?", choices=("check", "recover", "commission"), default="check")
    parser.add_argument("--rig", default="twin", help="a name in configs/rigs, or a YAML file (default: twin)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file too")
    parser.add_argument("--yes", action="store_true", help="answer every question with yes: on a twin only")
    parser.add_argument("--output", type=Path, metavar="FILE", help="commission: where the copy of the rig's file goes")
    return parser


def _check(rig: RigConfig, options: argparse.Namespace, console: Console) -> int:
    with console.status("looking") as status:
        checks = examine(rig, today=date.today(), on_step=lambda step: status.update(f"looking at {step}"))
    console.print(table(f"Rig '{rig.name}'", checks))
    if options.json is not None:
        write_json(options.json, report(checks))
    return 0 if is_healthy(checks) else 1


def _dialogue(rig: RigConfig, options: argparse.Namespace, console: Console) -> Dialogue:
    if not options.yes:
        return Terminal(console)
    if rig.twin is None:
        raise SessionError(f"--yes is for twins; rig {rig.name!r} is a real arm: somebody has to look at it and answer")
    return Yes(console)


def _recover(rig: RigConfig, options: argparse.Namespace, console: Console) -> int:
    dialogue = _dialogue(rig, options, console)
    steps: list[Step] = []
    problem = ""
    try:
        with ArmSession(rig) as session:
            for step in recover(session, dialogue):
                steps.append(step)
                console.print(f"[green]●[/] {step.name}: mode {step.mode}")
    except (SessionError, ArmError) as error:
        problem = str(error)
    if options.json is not None:
        listed = [{"name": step.name, "mode": step.mode} for step in steps]
        write_json(options.json, {"ok": not problem, "steps": listed, "problem": problem})
    if problem:
        print(f"doctor: {problem}", file=sys.stderr)
        return 1
    console.print("The arm is enabled and at rest.")
    return 0


def _commission(rig: RigConfig, options: argparse.Namespace, console: Console) -> int:
    dialogue = _dialogue(rig, options, console)
    today = date.today()
    source = source_of(options.rig)
    target = options.output or Path("outputs/commission") / f"{rig.name}-{today}.yaml"
    findings: list[Finding] = []
    try:
        with ArmSession(rig) as session:
            for finding in commission(session, dialogue):
                findings.append(finding)
                _show(finding, console)
    finally:
        if findings:
            _write(source, target, findings, today=today)
            console.print(f"The answers are in {target}; {source} is as it was. Compare, then copy over what you want.")
    if options.json is not None:
        write_json(options.json, _result(findings, target))
    return 0 if all(finding.outcome is not Outcome.FAILED for finding in findings) else 1


def _show(finding: Finding, console: Console) -> None:
    colour = {Outcome.ANSWERED: "green", Outcome.DECLINED: "yellow", Outcome.FAILED: "red"}[finding.outcome]
    told = finding.problem or ", ".join(
        f"{name} = {answer.value}{' ' if answer.unit else ''}{answer.unit}" for name, answer in finding.answers.items()
    )
    console.print(f"[{colour}]●[/] {finding.name}: {told or finding.outcome.value}", soft_wrap=True)


def _write(source: Path, target: Path, findings: list[Finding], *, today: date) -> None:
    answers = {name: answer for finding in findings for name, answer in finding.answers.items()}
    settings = {key: value for finding in findings for key, value in finding.settings.items()}
    text = with_answers(source.read_text(encoding="utf-8"), answers, settings=settings, measured_on=today)
    write_copy(source, target, text=text)


def _result(findings: list[Finding], target: Path) -> dict[str, object]:
    return {
        "ok": all(finding.outcome is not Outcome.FAILED for finding in findings),
        "rig_file": str(target),
        "questions": [
            {
                "name": finding.name,
                "outcome": finding.outcome.value,
                "answers": {name: {"value": a.value, "unit": a.unit} for name, a in finding.answers.items()},
                "problem": finding.problem,
            }
            for finding in findings
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
