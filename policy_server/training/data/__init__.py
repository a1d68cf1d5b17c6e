"""LeRobot v3 data sets as training samples, without lerobot."""
