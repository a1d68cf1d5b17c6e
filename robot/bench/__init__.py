"""Benchmarks of the robot side; `launch/bench` prints them."""
