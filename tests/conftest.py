"""What every test gets: hypothesis without deadlines, and a marker for those that want the machine to themselves."""

from pathlib import Path

import hypothesis
import pytest

# A busy machine is no failure.
hypothesis.settings.register_profile("nova-pi", deadline=None)
hypothesis.settings.load_profile("nova-pi")

TESTS = Path(__file__).parent
REALTIME = tuple(
    TESTS / folder
    for folder in (
        "robot/cameras",
        "robot/daemon",
        "robot/doctor",
        "robot/faults",
        "robot/rollout",
        "robot/twin",
        "teleop",
        "twin",
    )
)
"""Tests with control loops and devices in real time; side by side on two cores they would disturb each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of those folders ``realtime``; the simulated cell inside ``robot/twin`` knows no real time."""
    for item in items:
        if item.path.is_relative_to(TESTS / "robot" / "twin" / "cell"):
            continue
        if any(item.path.is_relative_to(folder) for folder in REALTIME):
            item.add_marker("realtime")
