"""Burns processor time for a while, as a stray program on the robot PC does: ``python -m robot.twin.cpu_hog``."""

import argparse
import time

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Burns processor time.")
    parser.add_argument("--seconds", type=float, required=True)
    end_s = time.monotonic() + parser.parse_args().seconds
    while time.monotonic() < end_s:
        pass
