"""``python -m teleop.devices.leader_calibration``: find a leader arm's joint offsets and write its calibration file."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import pi
from pathlib import Path

from configs.schema import ConfigError, load_rig
from teleop.devices.device import DeviceError
from teleop.devices.dynamixel import COUNTS_PER_TURN, DynamixelBus
from teleop.devices.leader import LeaderCalibration, offsets_from_posture


def calibrate(bus: DynamixelBus, *, calibration: LeaderCalibration, posture_rad: Sequence[float]) -> LeaderCalibration:
    """``calibration`` with the offsets that make the present reading mean ``posture_rad`` (6,)."""
    counts = bus.read_positions(calibration.ids)
    offsets = offsets_from_posture(counts, posture_rad=posture_rad, signs=calibration.signs)
    return replace(calibration, offsets_rad=tuple(offsets.tolist()))


def trigger_angle_rad(bus: DynamixelBus, *, id: int) -> float:
    """Angle of the trigger's servo as it stands."""
    (counts,) = bus.read_positions([id])
    return counts * 2.0 * pi / COUNTS_PER_TURN


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask for the postures, read, write. Exit code 1 with one line if the arm does not answer."""
    parser = argparse.ArgumentParser(prog="python -m teleop.devices.leader_calibration", description=__doc__)
    parser.add_argument("--port", required=True, help="serial device of the leader's USB adapter")
    parser.add_argument("--rig", default="twin", help="its start pose is the posture to copy")
    parser.add_argument("--output", required=True, type=Path, help="calibration file to write")
    parser.add_argument("--ids", type=int, nargs=6, default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--signs", type=int, nargs=6, default=[1, 1, 1, 1, 1, 1])
    parser.add_argument("--gripper-id", type=int, default=0, help="servo of the trigger, 0 for none")
    options = parser.parse_args(arguments)
    try:
        posture = load_rig(options.rig).start.joints_rad
        blank = LeaderCalibration(options.port, tuple(options.ids), tuple(options.signs), offsets_rad=(0.0,) * 6)
        bus = DynamixelBus.open(options.port, baudrate=blank.baudrate)
        try:
            input(f"Put the leader arm into the rig's start pose ({posture} rad) and press Enter ")
            calibration = calibrate(bus, calibration=blank, posture_rad=posture)
            if options.gripper_id:
                input("Open the trigger and press Enter ")
                opened = trigger_angle_rad(bus, id=options.gripper_id)
                input("Close the trigger and press Enter ")
                closed = trigger_angle_rad(bus, id=options.gripper_id)
                calibration = replace(
                    calibration, gripper_id=options.gripper_id, gripper_open_rad=opened, gripper_closed_rad=closed
                )
        finally:
            bus.close()
        calibration.save(options.output)
    except (ConfigError, DeviceError, OSError, EOFError) as error:
        print(f"leader_calibration: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: offsets {', '.join(f'{offset:.4f}' for offset in calibration.offsets_rad)} rad")
    return 0


if __name__ == "__main__":
    sys.exit(main())
