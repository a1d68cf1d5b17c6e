"""Children end with their parent, and their last words are shown."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robot.processes import Child, ChildFailedError, stop_event_on_signals


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_fails_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("camera", module="no_such_module", log_path=tmp_path / "camera.log")
    child.process.wait()
    with pytest.raises(ChildFailedError, match=r"camera ended with exit code 1.*no_such_module"):
        child.check()
    child.stop()


def test_stopping_is_sigterm_first_and_is_safe_to_repeat() -> None:
    child = Child("server", module="http.server", args=["--bind", "127.0.0.1", "0"])
    child.check()
    assert child.stop() == -signal.SIGTERM
    assert child.stop() == -signal.SIGTERM


def test_a_child_dies_when_its_parent_is_killed() -> None:
    program = (
        "import time; from robot.processes import Child\n"
        "child = Child('sleeper', module='http.server', args=['--bind', '127.0.0.1', '0'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def test_a_signal_sets_the_event_and_a_second_one_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_event_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGINT) is before
