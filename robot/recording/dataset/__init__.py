"""LeRobot v3.0 datasets, written and read with pyarrow and PyAV alone."""
