"""``python -m robot.cameras --rig RIG --camera NAME``: one camera process."""

import argparse
import logging
import sys

import cv2

from configs.schema import ConfigError, load_rig
from robot.cameras.backend import EXIT_ENDED, CameraError, SourceEndedError
from robot.cameras.worker import CameraWorker
from robot.processes import stop_event_on_signals
from robot.ring import RingBusyError


def main() -> int:
    """0 after a stop that was asked for, `EXIT_ENDED` after a whole replay, else 1 with a line about what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m robot.cameras", description="One camera of a rig, into its ring.")
    parser.add_argument("--rig", default="twin", help="a name in configs/rigs or a path to a YAML file")
    parser.add_argument("--camera", required=True, choices=("exterior", "wrist"))
    parser.add_argument("--recover", action="store_true", help="the camera hung: reset it first, where it can be")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    cv2.setNumThreads(1)
    try:
        with stop_event_on_signals() as stop:
            CameraWorker(arguments.camera, rig=load_rig(arguments.rig)).run(stop, recover=arguments.recover)
    except SourceEndedError as ending:
        print(ending, file=sys.stderr)
        return EXIT_ENDED
    except (CameraError, ConfigError, RingBusyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
