"""The demo's own processes: free ports, and clear words when a part does not start."""

import socket
from pathlib import Path

import pytest

from configs.schema import load_rig
from robot.processes import ChildFailedError
from robot.rollout.local_stack import LocalStack, free_rig


def test_a_port_that_is_taken_is_replaced_and_the_rig_renamed(tmp_path: Path) -> None:
    usual = load_rig("twin")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", usual.arm.feedback_port))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is just as good
        rig = load_rig(free_rig(tmp_path))
    assert rig.arm.feedback_port != usual.arm.feedback_port
    assert rig.name != usual.name
    ports = [rig.arm.dashboard_port, rig.arm.feedback_port, rig.arm.slow_feedback_port, rig.twin.control_port]  # type: ignore[union-attr]
    assert len(set(ports)) == 4
    assert rig.limits == usual.limits


def test_a_policy_that_does_not_exist_ends_with_the_servers_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    pytest.importorskip("torch")
    with LocalStack(tmp_path, policy="nosuchpolicy") as stack:
        with pytest.raises(ChildFailedError, match="the policy server of nosuchpolicy could not start: ") as refusal:
            stack.wait_until_ready()
    assert "nosuchpolicy" in str(refusal.value)
    assert "\n" not in str(refusal.value)
