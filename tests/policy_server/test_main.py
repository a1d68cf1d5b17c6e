"""The command as a process: start, refuse to start, be killed, end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from configs.schema import load_policy
from policy_server.client import (
    SIX_JOINTS_AND_GRIPPER,
    Backoff,
    PolicyClient,
    PolicyClientError,
)
from policy_server.main import load, main
from policy_server.pi0.checkpoint import save_policy
from policy_server.pi0.policy import Policy

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "policy_server.main", "--policy", "nano-random", *arguments]


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def connected(port: int) -> PolicyClient:
    client = PolicyClient(f"ws://127.0.0.1:{port}", expected=SIX_JOINTS_AND_GRIPPER, connect_timeout_s=PATIENCE_S)
    assert client.reconnect(stop=threading.Event(), backoff=Backoff(longest_s=0.3))
    return client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_with_a_client_connected(
    nano: Policy, tmp_path: Path, number: signal.Signals
) -> None:
    port = a_free_port()
    with serving("--port", str(port), "--json", str(tmp_path / "result.json")) as process:
        client = connected(port)
        client.infer(nano.example(), observation_time_ns=1, timeout_s=PATIENCE_S)
        os.kill(process.pid, number)
        _, log = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        client.close()
    assert "RANDOM WEIGHTS" in log
    assert "Traceback" not in log
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["policy"] == {"name": "nano-random", "trained": False, "digest": result["policy"]["digest"]}
    assert result["requests"]["served"] == 1


def test_a_client_comes_back_after_the_server_was_killed(nano: Policy) -> None:
    port = a_free_port()
    with serving("--port", str(port)) as process:
        client = connected(port)
        before = client.contract
        process.kill()
        process.wait(PATIENCE_S)
        with pytest.raises(PolicyClientError):
            client.infer(nano.example(), observation_time_ns=1)
    with serving("--port", str(port)):
        assert client.reconnect(stop=threading.Event(), backoff=Backoff(longest_s=0.3))
        assert client.contract == before
        assert client.infer(nano.example(), observation_time_ns=2, timeout_s=PATIENCE_S).actions.shape == (15, 7)
        client.close()


def test_a_port_in_use_is_one_clear_line_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    log = capsys.readouterr().err
    assert "Address already in use; is another server running there? Choose another --port" in log
    assert len(log.strip().splitlines()) == 1


def test_wrong_settings_are_named(tmp_path: Path, nano: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    save_policy(nano, tmp_path / "policy")
    (tmp_path / "policy" / "policy.safetensors").unlink()
    (tmp_path / "broken.yaml").write_text(f"name: x\npreset: nano\ncheckpoint: {tmp_path / 'policy'}\n")
    cases = {
        ("--policy", "nope"): "Known policies: nano",
        ("--threads", "0"): "--threads: expected at least 1, found 0",
        ("--device", "toaster"): "--device: expected auto, cpu or cuda",
        ("--port", "99999"): "--port: expected 0 to 65535",
        ("--policy", str(tmp_path / "broken.yaml")): "No such file",
    }
    for arguments, reason in cases.items():
        port = () if "--port" in arguments else ("--port", "0")
        assert main([*arguments, *port]) == 1
        assert reason in capsys.readouterr().err


def test_a_configured_checkpoint_is_loaded_with_its_steps(nano: Policy, tmp_path: Path) -> None:
    save_policy(nano, tmp_path / "policy")
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\npreset: nano\ncheckpoint: {tmp_path / 'policy'}\ninference_steps: 3\nnoise_scale: 0\n"
    )
    policy = load(load_policy(tmp_path / "mine.yaml"), device=torch.device("cpu"))
    assert policy.contract.checkpoint_digest == nano.contract.checkpoint_digest
    assert policy.steps == 3
    assert policy.sampling.noise_scale == 0.0


def test_the_robots_modules_import_without_torch() -> None:
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'safetensors', 'sentencepiece', 'fastapi', 'uvicorn', 'PIL'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import policy_server.wire, policy_server.client, policy_server.contract
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_is_served_and_checked_and_each_request_leaves_a_line(nano: Policy, tmp_path: Path) -> None:
    key, certificate, log = (tmp_path / name for name in ("key.pem", "certificate.pem", "requests.jsonl"))
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command_line = [*made.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command_line, check=True, capture_output=True)
    port = a_free_port()
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with serving("--port", str(port), "--request-log", str(log), *tls):
        client = PolicyClient(f"wss://localhost:{port}", certificate=certificate, connect_timeout_s=PATIENCE_S)
        assert client.reconnect(stop=threading.Event(), backoff=Backoff(longest_s=0.3))
        with pytest.raises(PolicyClientError, match="certificate is not trusted"):
            PolicyClient(f"wss://localhost:{port}").connect()
        client.infer(nano.example(), observation_time_ns=7, timeout_s=PATIENCE_S)
        with pytest.raises(PolicyClientError, match="prompt"):
            client.infer(nano.example() | {"prompt": ""}, observation_time_ns=8, timeout_s=PATIENCE_S)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["served", "refused"]
    assert (lines[0]["observation_time_ns"], lines[0]["request_id"]) == (7, 1)
    assert log.stat().st_size < 1000  # no pictures in it


@pytest.mark.parametrize(
    ("options", "why"),
    [(["--noise-scale", "1.5"], "expected 0 to 1"), (["--noise-scale", "0", "--best-of", "4"], "without noise")],
)
def test_a_spread_of_noise_that_makes_no_sense_is_refused(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--policy", "nano-random", "--port", "0", *options]) == 1
    assert why in capsys.readouterr().err


def test_a_key_without_its_certificate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--tls-key", str(tmp_path / "none.pem")]) == 1
    assert "TLS needs a certificate and its key" in capsys.readouterr().err
