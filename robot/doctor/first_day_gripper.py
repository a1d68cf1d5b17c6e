"""The first day's questions about the gripper: is it the Modbus one, which way is closed, how is it configured."""

from collections.abc import Callable
from dataclasses import dataclass

from configs.schema import RigConfig
from robot.daemon.checks import flange_route, open_gripper, power_flange
from robot.doctor.dialogue import Dialogue
from robot.doctor.first_day import Answer, Answers
from robot.doctor.session import ArmSession, SessionError
from robot.gripper.errors import GripperRefusedError, GripperSilentError
from robot.gripper.flange import FlangeLink, FlangeRoute
from robot.gripper.link import ModbusLink, RegisterLink
from robot.gripper.modbus import Register
from robot.runtime import resolve_device

CONFIGURATION = (Register.INIT_DIRECTION, Register.SLAVE_ID, Register.BAUD, Register.STOP_BITS, Register.PARITY)
"""Known from sister grippers only."""
MOVE_TIMEOUT_S = 6.0


@dataclass(frozen=True)
class Sense:
    """Which per mille means open and which closed, as the rig's file is to say."""

    open_permille: int
    closed_permille: int


def ask(session: ArmSession, dialogue: Dialogue) -> tuple[Answers, Sense | None]:
    """All answers, and the sense if it is other than the file says. Raises `GripperError` when it is not there."""
    rig = session.rig
    flange = flange_route(rig, session.dashboard)
    if flange is not None:
        session.dashboard = power_flange(rig, flange, dashboard=session.dashboard)
    link = _open_link(rig, flange)
    try:
        answers = _configuration(link)
        if isinstance(link, FlangeLink):
            answers["flange_gateway"] = Answer(link.gateway)
    finally:
        link.close()
    return _sense(rig, dialogue, flange=flange, answers=answers)


def _open_link(rig: RigConfig, flange: FlangeRoute | None) -> RegisterLink:
    if flange is not None:
        return flange.open()
    port = resolve_device(rig.name, rig.gripper.port)
    link = ModbusLink(port, baudrate=rig.gripper.baudrate, slave_id=rig.gripper.slave_id)
    try:
        link.read(Register.INIT_STATE)
    except GripperSilentError as error:
        found = link.diagnose(error)
        link.close()
        raise found from None
    return link


def _configuration(link: RegisterLink) -> Answers:
    answers = {}
    for register in CONFIGURATION:
        try:
            answers[f"gripper_{register.name.lower()}"] = Answer(link.read(register))
        except (GripperRefusedError, GripperSilentError):
            answers[f"gripper_{register.name.lower()}"] = Answer("not readable")
    return answers


def _sense(
    rig: RigConfig, dialogue: Dialogue, *, flange: FlangeRoute | None, answers: Answers
) -> tuple[Answers, Sense | None]:
    question = (
        "The jaws are about to close and open, after their initialisation if that is due. Are they empty and free?"
    )
    if not dialogue.agrees(question):
        return answers, None
    with open_gripper(rig, flange=flange) as gripper:
        gripper.initialise(drop_allowed=True)
        gripper.set_target(0.5)
        gripper.wait(timeout_s=MOVE_TIMEOUT_S)
        gripper.set_target(1.0)
        gripper.wait(timeout_s=MOVE_TIMEOUT_S)
        is_closed = _either(dialogue, yes="Are the jaws closed now?", no="Are they wide open?")
        gripper.set_target(0.0)
        gripper.wait(timeout_s=MOVE_TIMEOUT_S)
    low, high = sorted((rig.gripper.open_permille, rig.gripper.closed_permille))
    now_closed = rig.gripper.closed_permille if is_closed else rig.gripper.open_permille
    answers["gripper_low_permille_closes"] = Answer(now_closed == low)
    if is_closed:
        return answers, None
    return answers, Sense(open_permille=low + high - now_closed, closed_permille=now_closed)


def _either(dialogue: Dialogue, *, yes: str, no: str) -> bool:
    checks: tuple[tuple[str, Callable[[], bool]], ...] = ((yes, lambda: True), (no, lambda: False))
    for question, answer in checks:
        if dialogue.agrees(question):
            return answer()
    raise SessionError("expected jaws that close or open fully: free them, and look at the device")
