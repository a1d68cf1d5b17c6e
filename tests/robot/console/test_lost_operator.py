"""What happens to a rollout when nobody is at the page any more."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.sync.client import connect

from robot.ring import RingReader
from robot.runtime import ring_name
from robot.state import MachineState

pytestmark = pytest.mark.realtime


def machine_state(stack: Any) -> MachineState:
    with RingReader(ring_name(stack.rig.name, "state")) as reader:
        sample = reader.latest()
    assert sample is not None
    return MachineState(int(sample.value["machine_state"]))


def test_the_arm_holds_when_the_operators_page_falls_silent(
    stack: Any, wait_for: Callable[..., Any], unused_port: int
) -> None:
    stack.start_console("strict console", "--on-loss", "hold", "--no-station", port=unused_port)
    headers = {"Authorization": f"Bearer {stack.token}"}
    with connect(f"ws://127.0.0.1:{unused_port}/ws/operator", additional_headers=headers) as page:

        def say(content: dict[str, Any]) -> None:
            page.send(json.dumps({"sent_ms": time.time() * 1e3, **content}))

        def beats_until(look: Callable[[], bool]) -> None:
            def look_and_beat() -> bool:
                say({"kind": "beat"})
                return look()

            wait_for(look_and_beat, what="the policy acts", timeout_s=60.0)

        say({"kind": "take", "name": "Ada"})
        say({"kind": "command", "seq": 1, "command": {"command": "start_rollout", "task": "cup", "seconds": 60}})
        beats_until(lambda: machine_state(stack) is MachineState.STREAMING)
        # From here on the page says nothing, but its connection stays.
        wait_for(lambda: machine_state(stack) is MachineState.HOLDING, what="the arm holds", timeout_s=20.0)
    wait_for(lambda: stack.moving() is None, what="the rollout ends", timeout_s=30.0)
