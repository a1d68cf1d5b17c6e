"""``python -m robot.daemon``."""

import sys

from robot.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
