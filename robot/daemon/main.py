"""``python -m robot.daemon --rig NAME_OR_PATH``: run robotd until SIGTERM or Ctrl-C, then bring the arm to rest."""

import argparse
import contextlib
import gc
import logging
import sys
import time
from threading import Event

from configs.schema import ConfigError, RigConfig, load_rig
from robot.daemon.checks import open_devices
from robot.daemon.errors import RobotdError
from robot.daemon.lock import RobotdLock, socket_path
from robot.daemon.robotd import Robotd
from robot.daemon.server import CommandServer
from robot.priority import prefer_this_process
from robot.processes import stop_event_on_signals
from robot.ring import RingBusyError

log = logging.getLogger("robotd")

_HEARTBEAT_S = 0.05
_COLLECT_S = 10.0
_SWITCH_INTERVAL_S = 0.0005


def main() -> int:
    """Exit code 0 after an orderly end, 1 when a check at start failed (one line on stderr says which)."""
    parser = argparse.ArgumentParser(prog="robotd", description="The one owner of a rig's arm and gripper.")
    parser.add_argument("--rig", default="twin", help="name in configs/rigs, or path of a YAML file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s robotd %(levelname)s %(message)s")
    prefer_this_process()
    with stop_event_on_signals() as stop:
        try:
            rig = load_rig(arguments.rig)
            with RobotdLock(rig.name):
                _serve(rig, stop=stop)
        except (ConfigError, RobotdError, RingBusyError) as error:
            print(f"robotd: {error}", file=sys.stderr)
            return 1
    return 0


def _serve(rig: RigConfig, *, stop: Event) -> None:
    with contextlib.ExitStack() as cleanup:
        devices = open_devices(rig)
        cleanup.callback(devices.close)
        robotd = Robotd(rig, devices=devices)
        cleanup.callback(robotd.close)
        robotd.start()
        # Closed first, and with it every lease: what moved the arm is told to hold before the devices are let go.
        cleanup.callback(CommandServer(robotd, path=socket_path(rig.name)).close)
        log.info("rig %s: ready, arm %s:%d", rig.name, rig.arm.host, rig.arm.dashboard_port)
        _run(robotd, stop=stop)
        log.info("shutting down: decelerate, hold, release")


def _run(robotd: Robotd, *, stop: Event) -> None:
    # A collection in the middle of a motion would stop the servo thread for milliseconds, so garbage waits for rest.
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    collect_at_s = time.monotonic() + _COLLECT_S
    while not stop.wait(_HEARTBEAT_S):
        robotd.heartbeat()
        if time.monotonic() > collect_at_s and robotd.machine.at_rest:
            gc.collect()
            collect_at_s = time.monotonic() + _COLLECT_S
