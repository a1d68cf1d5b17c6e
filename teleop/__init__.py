"""Teleoperation: operator devices, the mapping from a hand to the arm, the collection session, replay."""
