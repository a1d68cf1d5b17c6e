"""The console's channels, spoken to as a page does and as a page should not."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from configs.schema import load_rig
from robot.cameras import frame_dtype
from robot.console.pictures import HEADER
from robot.console.settings import STATIC
from robot.job_status import Job, JobStatus
from robot.operator_desk import OperatorDesk, Question, send_answer
from robot.processes import Child
from robot.ring import Ring
from robot.runtime import ring_name, runtime_dir

pytestmark = pytest.mark.realtime
TOKEN = "a-token-for-tests"
NOT_ADMITTED = 4401


@dataclass
class Server:
    """A console without a rig: rings are written by the tests."""

    port: int
    camera: Ring

    def connect(self, path: str, *, token: str = TOKEN, origin: str | None = None) -> ClientConnection:
        headers = {"Authorization": f"Bearer {token}"}
        from_page = None if origin is None else Origin(origin)
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, additional_headers=headers, origin=from_page, compression=None).__enter__()

    def operator(self) -> tuple[ClientConnection, dict[str, Any]]:
        peer = self.connect("/ws/operator")
        return peer, json.loads(peer.recv(timeout=5.0))

    def show(self, value: int) -> None:
        record = np.zeros((), self.camera.dtype)
        record["image"] = value
        self.camera.write(record, capture_ns=time.monotonic_ns())


def ask(peer: ClientConnection, content: dict[str, Any]) -> dict[str, Any]:
    peer.send(json.dumps(content))
    answer: dict[str, Any] = json.loads(peer.recv(timeout=5.0))
    return answer


def command(seq: int, content: dict[str, Any], *, sent_ms: float | None = None) -> dict[str, Any]:
    return {
        "kind": "command",
        "seq": seq,
        "sent_ms": time.time() * 1e3 if sent_ms is None else sent_ms,
        "command": content,
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("channels")
    patch = pytest.MonkeyPatch()
    patch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rig = load_rig("twin")
    child = Child(
        "console",
        module="robot.console.main",
        args=("--port", str(port), "--token", TOKEN, "--no-station", "--no-browser", "--outputs", str(folder)),
        log_path=folder / "console.log",
    )
    ring = Ring.create(ring_name(rig.name, "camera.exterior"), dtype=frame_dtype(48, 64), slots=4)
    deadline_s = time.monotonic() + 30.0
    try:
        while True:
            child.check()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < deadline_s, "the console did not come up"
                time.sleep(0.05)
        yield Server(port, ring)
    finally:
        child.stop(timeout_s=15.0)
        ring.unlink()
        patch.undo()


def test_a_wrong_token_opens_neither_pages_nor_channels(server: Server) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/about", headers={"Authorization": "Bearer no"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5.0)
    assert refused.value.code == 401
    for path in ("/ws/stop", "/ws/operator", "/ws/telemetry", "/ws/camera/exterior", "/ws/teleop", "/ws/flow"):
        with pytest.raises(ConnectionClosed) as closed:
            server.connect(path, token="wrong-token").recv(timeout=5.0)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == NOT_ADMITTED


def test_another_sites_page_is_not_let_in(server: Server) -> None:
    with pytest.raises(ConnectionClosed, match="another site"):
        server.connect("/ws/stop", origin="http://evil.example").recv(timeout=5.0)


def test_the_second_page_only_watches_until_the_first_one_leaves(server: Server, wait_for: Callable[..., Any]) -> None:
    first, _ = server.operator()
    second, _ = server.operator()
    assert ask(first, {"kind": "take", "name": "Ada"})["operates"]
    refused = ask(second, {"kind": "take", "name": "Bob"})
    assert not refused["operates"]
    assert refused["holder"] == "Ada"
    answer = ask(second, command(1, {"command": "pace", "pace": "pause"}))
    assert not answer["ok"]
    assert "only the operator" in answer["detail"]
    first.close()
    wait_for(lambda: ask(second, {"kind": "take", "name": "Bob"})["operates"], what="the lease is free", timeout_s=5.0)
    second.close()


def test_old_commands_and_unknown_ones_are_refused_and_the_connection_lives(server: Server) -> None:
    peer, _ = server.operator()
    assert ask(peer, {"kind": "take", "name": "Ada"})["operates"]
    answer = ask(peer, command(5, {"command": "pace", "pace": "pause"}))
    assert "no rollout runs" in answer["detail"]
    assert "sequence number" in ask(peer, command(5, {"command": "pace", "pace": "pause"}))["detail"]
    slept = command(6, {"command": "pace", "pace": "pause"}, sent_ms=time.time() * 1e3 - 5000)
    assert "on its way" in ask(peer, slept)["detail"]
    for wrong in (
        {"command": "start_rollout", "task": "../../etc/passwd"},
        {"command": "start_rollout", "task": "cup", "speed": 3.0},
        {"command": "format_disk"},
        {"command": "pace", "pace": "pause", "more": 1},
        17,
    ):
        answer = ask(peer, command(int(time.monotonic() * 1e6), wrong))  # type: ignore[arg-type]
        assert not answer["ok"], wrong
    peer.send("{" * 1000)
    assert json.loads(peer.recv(timeout=5.0))["kind"] == "refused"
    assert ask(peer, {"kind": "beat", "sent_ms": 1.0})["operates"]
    peer.close()


def test_a_huge_message_ends_its_own_connection_only(server: Server) -> None:
    peer, other = server.connect("/ws/operator"), server.connect("/ws/stop")
    peer.recv(timeout=5.0)
    peer.send("x" * 300_000)
    with pytest.raises(ConnectionClosed):
        peer.recv(timeout=5.0)
    assert ask(other, {"ping": 3})["pong"] == 3
    other.close()


def test_stop_is_answered_with_the_reason_when_no_robotd_runs(server: Server) -> None:
    peer = server.connect("/ws/stop")
    answer = ask(peer, {"stop": 1})
    assert answer["stopped"] == 1
    assert "robotd" in answer["problem"]
    peer.close()


def test_pictures_come_when_asked_for_and_only_the_newest(server: Server) -> None:
    peer = server.connect("/ws/camera/exterior")
    peer.send("next")
    time.sleep(0.1)
    server.show(10)
    first = peer.recv(timeout=5.0)
    assert isinstance(first, bytes)
    seq, _, _, width, height = HEADER.unpack_from(first)
    assert (width, height) == (64, 48)
    for value in (20, 30, 40):
        server.show(value)
        time.sleep(0.05)
    with pytest.raises(TimeoutError):
        peer.recv(timeout=0.2)
    peer.send("next")
    newest, *_ = HEADER.unpack_from(peer.recv(timeout=5.0))  # type: ignore[arg-type]
    assert newest == seq + 3
    peer.close()


def test_a_page_that_takes_nothing_keeps_no_other_page_waiting(server: Server) -> None:
    stalled, lively = server.connect("/ws/camera/exterior"), server.connect("/ws/camera/exterior")
    for _ in range(200):
        stalled.send("next")
    for value in range(5):
        lively.send("next")
        time.sleep(0.03)
        server.show(value)
        assert lively.recv(timeout=5.0)
    for peer in (stalled, lively):
        peer.close()


def test_the_hand_of_a_watcher_moves_nothing_and_a_late_one_neither(server: Server) -> None:
    operator, welcome = server.operator()
    assert ask(operator, {"kind": "take", "name": "Ada"})["operates"]
    hand = server.connect("/ws/teleop")
    message = {"seq": 1, "clutch": True, "twist": [0.0] * 6, "sent_ms": 1000.0}
    assert "only the operator" in ask(hand, message | {"key": "guessed"})["detail"]
    assert "start one first" in ask(hand, message | {"key": welcome["key"]})["detail"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(str(runtime_dir("twin") / "operator.sock"))
        collector.settimeout(5.0)
        sent_ms = 1000.0 + (time.time() * 1e3) % 1e6
        assert ask(hand, message | {"key": welcome["key"], "sent_ms": sent_ms})["delivered"]
        taken = json.loads(collector.recv(4096))
        assert set(taken) == {"seq", "clutch", "twist"}
        late = ask(hand, message | {"key": welcome["key"], "sent_ms": sent_ms - 5000.0})
        assert not late["delivered"]
        assert "too old" in late["detail"]
    (runtime_dir("twin") / "operator.sock").unlink()
    for peer in (operator, hand):
        peer.close()


def test_telemetry_tells_what_a_job_says_of_itself_and_nothing_after_it(server: Server) -> None:
    peer = server.connect("/ws/telemetry")

    def told() -> dict[str, Any]:
        peer.send("next")
        content: dict[str, Any] = json.loads(peer.recv(timeout=5.0))
        return content

    with JobStatus("twin", Job.COLLECT) as status:
        status.publish({"progress": "3 of 30"})
        time.sleep(0.25)
        assert told()["collect"]["progress"] == "3 of 30"
    time.sleep(0.25)
    assert told()["collect"] is None
    assert told()["robot"]["state"] is None
    peer.close()


def test_an_answer_reaches_the_job_that_asks_and_an_old_one_does_not(server: Server) -> None:
    found: list[Any] = []
    with OperatorDesk("twin") as desk:
        question = Question("How far?", ("done", "not done"), stages=("reached", "grasped"))
        asking = threading.Thread(target=lambda: found.append(desk.ask(question, stop=threading.Event())))
        asking.start()
        peer = server.connect("/ws/telemetry")
        asked = None
        while not asked:
            peer.send("next")
            asked = json.loads(peer.recv(timeout=5.0))["question"]
        send_answer("twin", {"question": asked["id"] - 1, "option": "done", "stage": 2})
        send_answer("twin", {"question": asked["id"], "option": "maybe", "stage": 2})
        send_answer("twin", {"question": asked["id"], "option": "not done", "stage": 1})
        asking.join(timeout=5.0)
        peer.close()
    assert [(answer.option, answer.stage) for answer in found] == [("not done", 1)]


def test_everything_is_described(server: Server) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/openapi.json", timeout=5.0) as answer:
        described = json.loads(answer.read())
    for path in ("/ws/stop", "/ws/operator", "/ws/camera/{name}", "/api/episodes", "/api/commands/check"):
        assert path in described["paths"]
    assert "StartRollout" in described["components"]["schemas"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in [*STATIC.rglob("*.js"), *STATIC.rglob("*.html"), *STATIC.rglob("*.css")]:
        if path.parent.name == "vendor":
            continue
        text = path.read_text()
        assert "https://" not in text, path
        assert "http://" not in text.replace("http://www.w3.org", ""), path
