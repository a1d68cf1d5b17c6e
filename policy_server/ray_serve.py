"""Past one GPU: the same policy behind Ray Serve, one replica a GPU, which spreads the clients over them.

Ray is an optional extra. Every replica is this project's own server (`create_app`), so clients notice no difference.
"""

from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console

from configs.schema import ConfigError, load_policy
from policy_server.app import ServerSettings, create_app
from policy_server.load import load
from policy_server.metrics import Metrics
from policy_server.worker import Batching, InferenceWorker


@dataclass(frozen=True)
class RayOptions:
    """Serve replicas of a policy with Ray Serve until Ctrl-C."""

    policy: str = "nano"
    """Name of a file in configs/policies, or path to a YAML file."""
    replicas: int = 2
    """Copies of the policy; each takes one GPU where there are GPUs."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """TCP port."""
    max_batch: int = 4
    """Requests that one replica may compute together."""
    api_key: str | None = None
    """Clients must then send 'Authorization: Api-Key KEY'."""


def build_app(options: RayOptions) -> Any:
    """The Ray Serve application: `replicas` deployments of our server. Raises ImportError without Ray."""
    from ray import serve

    gpus = 1 if torch.cuda.is_available() else 0

    def make_server() -> Any:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(1)
        config = load_policy(options.policy)
        policy = load(config, device=device)
        worker = InferenceWorker(policy, seed=config.seed, batching=Batching(most=options.max_batch, wait_s=0.002))
        settings = ServerSettings(api_key=options.api_key)
        return create_app(worker, settings, metrics=Metrics(), on_failure=lambda: None)

    @serve.deployment(
        name="policy",
        num_replicas=options.replicas,
        ray_actor_options={"num_gpus": gpus, "num_cpus": 1},
        max_ongoing_requests=64,
    )
    @serve.ingress(make_server)
    class PolicyReplica:
        """One copy of the policy; its own inference thread."""

    return PolicyReplica.bind()  # type: ignore[attr-defined]


def ray_command(arguments: list[str]) -> int:
    """`launch/serve ray`; the exit code."""
    options = tyro.cli(RayOptions, args=arguments, prog="launch/serve ray")
    console = Console(stderr=True)
    try:
        import ray
        from ray import serve
    except ImportError:
        console.print("launch/serve ray: Ray is not installed: .venv/bin/pip install 'ray[serve]'", style="bold red")
        return 1
    try:
        load_policy(options.policy)
    except ConfigError as error:
        console.print(f"launch/serve ray: {error}", style="bold red", markup=False, soft_wrap=True)
        return 1
    ray.init(include_dashboard=False, ignore_reinit_error=True)
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(build_app(options), blocking=True)
    except KeyboardInterrupt:
        console.print("ending")
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0
