"""The command behind `launch/nano`: the policy that ships with this project, made from nothing.

Each part is a job of its own that goes on where it stopped, so this one does too.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from policy_server.training.command import guarded
from policy_server.training.recipe import load_recipe
from policy_server.training.ship import ship

ROOT = Path(__file__).resolve().parents[2]
CORRECTIONS = (
    ("outputs/runs/nano-action-only", "outputs/datasets/twin-corrections", "500000"),
    ("outputs/runs/nano-polished", "outputs/datasets/twin-corrections-2", "600000"),
)
"""Which policy is corrected, into which data set, from which seed on: seeds apart from those of demonstrations and
evaluations."""


@dataclass(frozen=True)
class NanoOptions:
    """Make the small policy from nothing: demonstrations in the twin, a first policy, corrections of what it does, the
    base policy, corrections of that, optical flow, the autoencoder of flow images, the motion head's warm-up, joint
    training, the same with an eye on the moments that decide, and the checkpoint with its card. Hours on two cores.
    Called again, it goes on where it stopped."""

    target: Path = Path("outputs/nano")
    """New folder for the checkpoint."""
    demonstrations: int = 1000
    """How many to learn from."""
    corrections: int = 275
    """How often the teacher takes over from the first policy, and again from the base policy."""
    action_only: bool = False
    """Stop before the motion head: a policy that learned from actions alone."""
    ship: Path | None = None
    """Train nothing: make the checkpoint of this run's last step."""
    evaluation: Path | None = None
    """Result file of launch/evaluate for the card."""
    dry_run: bool = False
    """Only print the commands."""
    json: Path | None = None
    """Write the result here."""


def commands(*, demonstrations: int, corrections: int, action_only: bool) -> list[list[str]]:
    """What is to be run, in order."""
    first, second = (
        ["launch/demonstrations", "--lead", leader, "--output", output, "--seed", seed, "--episodes", str(corrections)]
        for leader, output, seed in CORRECTIONS
    )
    found = [
        ["launch/demonstrations", "--episodes", str(demonstrations)],
        ["launch/train", "--recipe", "nano-action-only"],
        first,
        ["launch/train", "--recipe", "nano-corrected"],
        ["launch/train", "--recipe", "nano-polished"],
    ]
    if action_only:
        return found
    return [
        *found,
        second,
        ["launch/precompute", "--recipe", "nano-vae"],
        ["launch/train", "--recipe", "nano-vae"],
        ["launch/train", "--recipe", "nano-warmup"],
        ["launch/train", "--recipe", "nano-joint"],
        ["launch/train", "--recipe", "nano-focused"],
    ]


def run_nano(options: NanoOptions, console: Console) -> dict[str, object]:
    """Run the commands and ship what they made. Raises `subprocess.CalledProcessError` with the first that failed."""
    wanted = commands(
        demonstrations=options.demonstrations, corrections=options.corrections, action_only=options.action_only
    )
    for command in [] if options.ship is not None else wanted:
        console.print(f"[bold]{' '.join(command)}[/]", highlight=False)
        if options.dry_run or _is_done(command):
            continue
        subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=ROOT, check=True)
    if options.dry_run:
        return {"commands": wanted}
    run = options.ship or ROOT / "outputs" / "runs" / load_recipe(wanted[-1][-1]).name
    shipped = ship(run, options.target, commands=[" ".join(c) for c in wanted], evaluation=options.evaluation)
    console.print(f"{shipped.folder}: {shipped.size_bytes / 2**20:.1f} MiB")
    return {"checkpoint": str(shipped.folder), "digest": shipped.digest, "size_bytes": shipped.size_bytes}


def _is_done(command: list[str]) -> bool:
    """The autoencoder is saved once, at its end; it does not go on where it was."""
    return command[-1] == "nano-vae" and command[0] == "launch/train" and (ROOT / "outputs/runs/nano-vae").is_dir()


def nano_main(arguments: list[str] | None = None) -> int:
    """`launch/nano`; the exit code."""
    options = tyro.cli(NanoOptions, args=arguments, prog="launch/nano")
    try:
        return guarded(lambda console: run_nano(options, console), options.json)
    except subprocess.CalledProcessError as error:
        print(f"launch/nano: {' '.join(error.cmd[1:])} ended with exit code {error.returncode}", file=sys.stderr)
        return 1
