"""The dataset card: what a person who finds the dataset needs to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robot.recording.dataset.layout import FPS, ActionChoice

_ACTIONS = {
    ActionChoice.JOINTS: "absolute joint angles (rad) and gripper as sent to the robot",
    ActionChoice.REQUESTED_JOINTS: "absolute joint angles (rad) and gripper as requested, before the action guard",
    ActionChoice.MEASURED_JOINTS: "joint angles (rad) and gripper measured one period later",
    ActionChoice.JOINT_DELTA: "joint angles as sent minus the present ones (rad); the gripper is absolute",
    ActionChoice.TCP: "tool point (m) and orientation (quaternion wxyz) in the base frame as sent, and gripper",
}


@dataclass(frozen=True)
class CardFacts:
    """What the card says."""

    rig: str
    action: ActionChoice
    license: str
    tasks: Sequence[str]
    episodes_by_task: Sequence[int]
    frames: int
    cameras: dict[str, dict[str, Any]]
    software: str


def card(facts: CardFacts) -> str:
    """README.md of the dataset, with the front matter that dataset hubs read."""
    episodes = sum(facts.episodes_by_task)
    tasks = "\n".join(
        f"| {task.replace('|', ' ')} | {count} |"
        for task, count in zip(facts.tasks, facts.episodes_by_task, strict=True)
    )
    cameras = "\n".join(
        f"| `observation.images.{name}` | {camera['height']}×{camera['width']} | {camera['backend']} "
        f"| {camera['fx']:.1f}, {camera['fy']:.1f}, {camera['cx']:.1f}, {camera['cy']:.1f} |"
        for name, camera in facts.cameras.items()
    )
    return f"""---
license: {facts.license}
task_categories:
- robotics
tags:
- LeRobot
- dobot
- nova5
configs:
- config_name: default
  data_files: data/*/*.parquet
---

# Demonstrations of rig `{facts.rig}`

{episodes} episodes, {facts.frames} frames, {facts.frames / FPS / 60:.1f} minutes at {FPS} Hz, in LeRobot v3.0 format.
Robot: Dobot Nova 5 with a DH AG-95 gripper. Recorded with Nova π {facts.software}. License: {facts.license}.

| task | episodes |
|---|---|
{tasks}

## Features

* `observation.state` (7): six joint angles in rad and the gripper, 0 open to 1 closed, interpolated at the row's time.
* `action` ({len(facts.action.names)}): {_ACTIONS[facts.action]}; to be reached one period (1/{FPS} s) after the row's
time. * `observation.time_ns`: the row's time, monotonic ns of the recording machine.
* `observation.capture_ns.CAMERA`: when the picture was really taken. `timestamp` is nominal, frame index / {FPS}.

| camera | size | backend | fx, fy, cx, cy |
|---|---|---|---|
{cameras}

Pictures carry no lens distortion. Each row shows the picture captured nearest to it. Statistics in `meta/stats.json`
are exact over all rows and all pixels. Where each episode comes from is in the column `nova/source_id` of
`meta/episodes`.

## Check it with LeRobot

```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("local/{facts.rig}", root="PATH OF THIS FOLDER")
print(len(dataset), dataset[0]["observation.state"], dataset[0]["task"])
```
"""
