"""The command behind `launch/serve`: read a policy's configuration, load it, serve it until a signal comes.

``inspect``, ``convert`` and ``ray`` are jobs of their own, see `COMMANDS`.
"""

import json
import logging
import signal
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import uvicorn
from rich.console import Console
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table

from configs.allocator import keep_freed_memory
from configs.schema import ConfigError, PolicyConfig, load_policy
from policy_server.app import ServerSettings, create_app
from policy_server.checkpoint_commands import convert_command, inspect_command, load_progress
from policy_server.load import load, load_motion_view
from policy_server.metrics import Metrics, Outcome
from policy_server.motion.files import MotionFileError
from policy_server.motion.vae import VaeError
from policy_server.pi0 import checkpoint
from policy_server.pi0.config import ModelConfigError
from policy_server.pi0.continuity import GuidanceForm
from policy_server.pi0.loading import Precision
from policy_server.pi0.policy import Policy, Sampling
from policy_server.ray_serve import ray_command
from policy_server.request_log import RequestLog
from policy_server.worker import Batching, InferenceWorker

COMMANDS = {"inspect": inspect_command, "convert": convert_command, "ray": ray_command}
DESCRIPTION = (
    "Serve a policy over openpi's websocket protocol. Ctrl-C or SIGTERM ends it. Also: `launch/serve inspect PATH` "
    "says what a checkpoint is, `launch/serve convert SOURCE TARGET` writes it in another layout, `launch/serve ray` "
    "serves replicas with Ray Serve; each has its own --help."
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHUTDOWN_TIMEOUT_S = 3
UNACKNOWLEDGED_TIMEOUT_MS = 30_000


class StartError(RuntimeError):
    """The server can't start. One line: what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Options:
    """Serve a policy over openpi's websocket protocol. Ctrl-C or SIGTERM ends it."""

    policy: str = "nano"
    """Name of a file in configs/policies, or path to a YAML file."""
    checkpoint: str | None = None
    """Another checkpoint than the configuration's: a folder (ours, a training run's, openpi's, LeRobot's) or a name
    on the hub."""
    motion: bool = False
    """Keep the motion head, and send motion images to clients that ask for them."""
    precision: Precision = Precision.STORED
    """What weights are kept in; stored: as in the file."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    api_key: str | None = None
    """Clients must then send 'Authorization: Api-Key KEY'."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: cuda where there is one."""
    threads: int = 1
    """Processor threads that the model may use."""
    seed: int = 0
    """Starts the noise that chunks grow from."""
    noise_scale: float | None = None
    """What that noise is multiplied by, 0 to 1; 0: the observation alone decides the chunk, and one follows smoothly
    from the other (default: the policy's configuration says; 1 is as in training)."""
    deterministic: bool = False
    """The same observation gives the same actions, whatever else is served: one at a time, the noise from --seed or
    from the request's own seed."""
    plain: bool = False
    """Without the lean path: slower, for comparison."""
    cuda_graphs: bool = True
    """On a GPU, run the whole model as one CUDA graph for each shape; each is checked against the eager answer."""
    best_of: int = 1
    """Sample so many chunks when something is left of the previous one, and take the most coherent."""
    guidance: GuidanceForm = GuidanceForm.GRADIENT_FREE
    """How chunks are pulled towards the previous one when a client asks for it."""
    max_batch: int = 4
    """Requests that may be computed together."""
    batch_wait_ms: float = 2.0
    """How long a request may wait for others to be computed with, while others are connected."""
    max_message_mib: int = 16
    """Larger requests are refused."""
    max_waiting: int = 8
    """Requests of all clients that may wait for the model."""
    max_wait_s: float = 2.0
    """A request that has waited longer is refused instead of computed."""
    max_connections: int = 64
    """Clients at a time."""
    tls_certificate: Path | None = None
    """Serve wss:// with this certificate (PEM)."""
    tls_key: Path | None = None
    """The certificate's private key (PEM)."""
    request_log: Path | None = None
    """Append one line of JSON for each request; never pictures or prompts."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """At the end, write what was served to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 after a clean end, 1 if the server could not start or its policy could not run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    options = tyro.cli(Options, args=arguments, prog="launch/serve", description=DESCRIPTION)
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)], force=True
    )
    try:
        return serve(options, console=console)
    except (StartError, ConfigError, ModelConfigError, checkpoint.CheckpointError, MotionFileError, VaeError) as error:
        console.print(f"launch/serve: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1


def serve(options: Options, *, console: Console) -> int:
    """Listen, load, serve. Raises `StartError` and the errors of configuration and checkpoint."""
    torch.set_num_threads(_at_least("--threads", options.threads, 1))
    settings = ServerSettings(
        api_key=options.api_key or None,
        max_connections=_at_least("--max-connections", options.max_connections, 1),
        fixed_seed=options.seed if options.deterministic else None,
    )
    config = load_policy(options.policy)
    if options.checkpoint is not None:
        config = config.model_copy(update={"checkpoint": options.checkpoint})
    listener = _bind(options.host, options.port)
    with listener, closing(RequestLog(options.request_log)) as request_log:
        device = _device(options.device)
        policy = _load(config, options, device=device, console=console)
        keep_freed_memory()
        worker = _worker(config, policy, options, device=device)
        metrics = Metrics()
        if device.type == "cuda":
            metrics.show_gpu_memory(lambda: float(torch.cuda.memory_allocated(device)))
        failed: list[bool] = []

        def on_failure() -> None:
            failed.append(True)
            server.should_exit = True

        app = create_app(worker, settings, metrics=metrics, on_failure=on_failure, request_log=request_log)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                ws_max_size=_at_least("--max-message-mib", options.max_message_mib, 1) << 20,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
                log_config=None,
                log_level="warning",
                **_tls(options),
            )
        )
        scheme = "ws" if options.tls_certificate is None else "wss"
        _announce(console, policy, address=f"{scheme}://{options.host}:{listener.getsockname()[1]}", worker=worker)
        _warn_if_open(console, options)
        # uvicorn hands a signal on after its clean shutdown; that must not kill the process a second time.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])
    if options.json_file is not None:
        _write_result(options.json_file, policy, metrics)
    if failed:
        console.print("launch/serve: the policy could not run; see the log above", style="bold red")
    return 1 if failed else 0


def _load(config: PolicyConfig, options: Options, *, device: torch.device, console: Console) -> Policy:
    if options.deterministic:
        torch.use_deterministic_algorithms(mode=True)
    noise_scale = config.noise_scale if options.noise_scale is None else options.noise_scale
    if not 0.0 <= noise_scale <= 1.0:
        raise StartError(f"--noise-scale: expected 0 to 1, got {noise_scale:g}")
    if noise_scale == 0.0 and options.best_of > 1:
        raise StartError("--best-of: without noise all chunks are the same; give --noise-scale 1, or leave it out")
    sampling = Sampling(
        steps=config.inference_steps,
        lean=not options.plain,
        guidance=options.guidance,
        cuda_graphs=options.cuda_graphs,
        best_of=_at_least("--best-of", options.best_of, 1),
        noise_scale=noise_scale,
    )
    with load_progress(console) as on_bytes:
        return load(config, device=device, sampling=sampling, precision=options.precision, on_bytes=on_bytes)


def _worker(config: PolicyConfig, policy: Policy, options: Options, *, device: torch.device) -> InferenceWorker:
    if options.motion and options.plain:
        raise StartError("--motion: motion images are made from what the lean path keeps; leave --plain out")
    most = 1 if options.deterministic else _at_least("--max-batch", options.max_batch, 1)
    return InferenceWorker(
        policy,
        seed=options.seed,
        max_waiting=_at_least("--max-waiting", options.max_waiting, 1),
        max_wait_s=options.max_wait_s,
        batching=Batching(most=most, wait_s=max(0.0, options.batch_wait_ms) / 1e3),
        painter=load_motion_view(config, policy, device=device) if options.motion else None,
    )


def _tls(options: Options) -> dict[str, Any]:
    if options.tls_certificate is None and options.tls_key is None:
        return {}
    for name, path in (("--tls-certificate", options.tls_certificate), ("--tls-key", options.tls_key)):
        if path is None or not path.is_file():
            raise StartError(f"{name}: expected a PEM file, found {path}; TLS needs a certificate and its key")
    return {"ssl_certfile": str(options.tls_certificate), "ssl_keyfile": str(options.tls_key)}


def _warn_if_open(console: Console, options: Options) -> None:
    if options.host not in LOOPBACK and not options.api_key:
        warning = f"Listening on {options.host} without --api-key: whoever reaches this port can use the policy."
        console.print(Panel(warning, title="OPEN TO THE NETWORK", style="bold yellow", expand=False))


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise StartError(f"--port: expected 0 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartError(f"--host {host}: this is no address to listen on: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by each connection: the kernel ends one whose peer takes nothing, even after the server let go of it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_TIMEOUT_MS)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise StartError(
            f"can't listen on {host}:{port}: {error.strerror}; is another server running there? Choose another --port"
        ) from None
    return listener


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StartError(f"--device: expected auto, cpu or cuda, found {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StartError(f"--device {name}: no CUDA device was found; use --device cpu")
    return device


def _at_least(option: str, value: int, lowest: int) -> int:
    if value < lowest:
        raise StartError(f"{option}: expected at least {lowest}, found {value}")
    return value


def _announce(console: Console, policy: Policy, *, address: str, worker: InferenceWorker) -> None:
    contract = policy.contract
    table = Table(show_header=False, box=None)
    for name, value in (
        ("policy", contract.policy),
        ("address", address),
        ("device", str(policy.device)),
        ("parameters", f"{sum(p.numel() for p in policy.model.parameters()) / 1e6:.2f} M"),
        ("checkpoint", contract.checkpoint_digest[:16]),
        (
            "actions",
            f"{contract.interface.horizon} x {len(contract.interface.action_names)} at {contract.interface.fps:g} Hz",
        ),
        ("images", f"{len(contract.interface.image_keys)} of {contract.image_size[0]} x {contract.image_size[1]} px"),
        ("motion images", "for clients that ask" if worker.paints else "no (--motion)"),
    ):
        table.add_row(name, value)
    console.print(Panel(table, title="policy server", expand=False))
    if not contract.trained:
        warning = "RANDOM WEIGHTS. This policy has learned nothing: its actions are small and mean nothing."
        console.print(Panel(warning, title="NOT TRAINED", style="bold yellow", expand=False))


def _write_result(path: Path, policy: Policy, metrics: Metrics) -> None:
    contract = policy.contract
    result = {
        "policy": {"name": contract.policy, "trained": contract.trained, "digest": contract.checkpoint_digest},
        "requests": {outcome.value: metrics.requests_with(outcome) for outcome in Outcome},
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
