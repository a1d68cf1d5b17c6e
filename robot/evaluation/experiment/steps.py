"""What is to be run for an experiment at a scale, in order: commands, each with the file that says it is done."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import load_task
from robot.evaluation.experiment.config import CONDITION, Experiment, Scale, Size

ROOT = Path(__file__).resolve().parents[3]
MOST_WORKERS = 4


@dataclass(frozen=True)
class Run:
    """One arm of one seed under one condition."""

    arm: str
    condition: str
    seed: int

    @property
    def label(self) -> str:
        """As the name of a folder."""
        return f"{self.arm}-{slug(self.condition)}-{self.seed}"


@dataclass(frozen=True)
class Step:
    """A command; it is done when the file ``done`` is there."""

    title: str
    command: tuple[str, ...]
    done: Path


@dataclass(frozen=True)
class Layout:
    """Where everything of an experiment goes."""

    folder: Path

    @property
    def shared(self) -> Path:
        """What experiments have in common, beside them."""
        return self.folder.parent / "shared"

    def dataset(self, size: Size) -> Path:
        """All demonstrations of a scale."""
        return Path(size.dataset) if size.dataset else self.shared / f"demonstrations-{size.demonstrations}"

    def flow(self, size: Size) -> Path:
        """Flow images' flow, for all demonstrations."""
        return self.shared / f"flow-{slug(self.dataset(size).name)}"

    def vae(self, experiment: Experiment, size: Size) -> Path:
        """The frozen autoencoder."""
        return self.shared / f"{experiment.vae_recipe}-{size.precompute_steps}-{slug(self.dataset(size).name)}"

    @property
    def logs(self) -> Path:
        """What the commands of runs that go on beside each other print."""
        return self.folder / "logs"

    def manifest(self, data: str, seed: int) -> Path:
        """Which episodes."""
        return self.folder / "subsets" / f"{slug(data)}-{seed}.json"

    def training(self, run: Run, stage: int) -> Path:
        """The folder of a training run; its result is ``result.json`` in there."""
        return self.folder / "runs" / f"{run.label}-{stage}"

    def merged(self, run: Run, stage: int) -> Path:
        """An adapter merged into its base."""
        return self.folder / "runs" / f"{run.label}-{stage}-merged"

    def policy(self, run: Run) -> Path:
        """The configuration under which a finished run is served."""
        return self.folder / "policies" / f"{run.label}.yaml"

    def evaluation(self, run: Run) -> Path:
        """The folder of an evaluation; its result is ``result.json`` in there."""
        return self.folder / "evaluations" / run.label


def slug(text: str) -> str:
    """Text as part of a file's name."""
    return "".join(character if character.isalnum() else "-" for character in text).strip("-")


def runs(experiment: Experiment, scale: Scale) -> list[Run]:
    """Seeds outermost, so that an experiment that is cut short has every arm of the seeds it got through."""
    size = experiment.scales[scale]
    return [
        Run(arm, condition, seed)
        for seed in range(size.seeds)
        for condition in size.conditions
        for arm in experiment.arms
    ]


def shared_steps(experiment: Experiment, scale: Scale, layout: Layout) -> Iterator[Step]:
    """What all arms have in common: demonstrations, their flow, and the autoencoder."""
    size = experiment.scales[scale]
    dataset, flow, vae = layout.dataset(size), layout.flow(size), layout.vae(experiment, size)
    if size.dataset is None:
        result = dataset.with_suffix(".json")
        wanted = ("--episodes", str(size.demonstrations), "--output", str(dataset), "--json", str(result))
        yield Step(f"{size.demonstrations} demonstrations", _launch("demonstrations", *wanted), result)
    common = [f"data.sources.0.path={dataset}", f"data.sources.0.flow={flow}"]
    result = flow / "result.json"
    yield Step(
        "optical flow of all demonstrations",
        _launch("precompute", "--recipe", experiment.vae_recipe, "--json", str(result), *_set(common)),
        result,
    )
    result = vae / "result.json"
    yield Step(
        "autoencoder of flow images",
        _launch(
            *("train", "--recipe", experiment.vae_recipe, "--out", str(vae), "--json", str(result)),
            *("--steps", str(size.precompute_steps), *_set([*common, *_only_batch(size.settings)])),
        ),
        result,
    )


def run_steps(experiment: Experiment, scale: Scale, layout: Layout, run: Run, *, cores: int = 1) -> Iterator[Step]:
    """One run on so many cores, from its demonstrations to its evaluation. The policy's configuration must be written
    before the last step; see `served_checkpoint`. Stages that an arm shares with an earlier one are that one's."""
    size = experiment.scales[scale]
    dataset, flow, vae = layout.dataset(size), layout.flow(size), layout.vae(experiment, size)
    start: Path | None = None
    for number, stage in enumerate(experiment.arms[run.arm]):
        data = run.condition if stage.data == CONDITION else stage.data
        manifest = layout.manifest(data, run.seed)
        yield Step(f"demonstrations {data!r}", _subset(experiment, dataset, data, manifest, run.seed), manifest)
        owner = _trained_as(experiment, run, number)
        out = layout.training(owner, number)
        settings = [
            f"data.sources.0.path={dataset}",
            f"data.sources.0.flow={flow}",
            f"data.sources.0.episodes={manifest}",
            f"motion.vae={vae}",
            f"seed={run.seed}",
            *(() if start is None else ("data.keep_normalization=true",)),
            *size.settings,
            *stage.settings,
        ]
        yield Step(
            f"{owner.label}: training {number + 1}",
            _launch(
                *("train", "--recipe", stage.recipe, "--out", str(out), "--json", str(out / "result.json")),
                *("--steps", str(stage.steps[scale]), "--threads", str(cores), *_set(settings)),
                *(() if start is None else ("--init", str(start))),
            ),
            out / "result.json",
        )
        start = out
        if stage.adapter:
            start = layout.merged(owner, number)
            yield Step(
                f"{owner.label}: merging the adapter",
                _launch("finetune", "merge", "--checkpoint", str(out), "--out", str(start), "--json", f"{start}.json"),
                Path(f"{start}.json"),
            )
    evaluation = layout.evaluation(run)
    yield Step(
        f"{run.label}: evaluation",
        _launch(
            *("evaluate", "--policy", f"{run.label}={layout.policy(run)}", "--tasks", *experiment.tasks),
            *("--trials", str(size.starts), "--seed", str(experiment.first_start)),
            *("--latency", str(experiment.latency_s), "--output", str(evaluation)),
            *("--workers", str(min(MOST_WORKERS, cores))),
            *("--json", str(evaluation / "result.json")),
        ),
        evaluation / "result.json",
    )


def last_training(experiment: Experiment, layout: Layout, run: Run) -> Path:
    """The folder of an arm's last training run."""
    last = len(experiment.arms[run.arm]) - 1
    return layout.training(_trained_as(experiment, run, last), last)


def served_checkpoint(experiment: Experiment, layout: Layout, run: Run) -> Path:
    """The folder whose policy is evaluated: the last stage's run, or its merged adapter."""
    last = len(experiment.arms[run.arm]) - 1
    if not experiment.arms[run.arm][last].adapter:
        return last_training(experiment, layout, run)
    return layout.merged(_trained_as(experiment, run, last), last)


def _trained_as(experiment: Experiment, run: Run, number: int) -> Run:
    """The run of the first arm whose stages up to this one are the same, and so are its weights."""
    stages = experiment.arms[run.arm][: number + 1]
    return replace(run, arm=next(arm for arm, its in experiment.arms.items() if its[: number + 1] == stages))


def _subset(experiment: Experiment, dataset: Path, data: str, manifest: Path, seed: int) -> tuple[str, ...]:
    wanted = experiment.data[data]
    command = [sys.executable, "-m", "policy_server.training.subset_command", str(dataset), str(manifest)]
    command += ["--fraction", str(wanted.fraction), "--seed", str(seed)]
    if wanted.most is not None:
        command += ["--most", str(wanted.most)]
    if wanted.tasks:
        command += ["--tasks", *(load_task(task).prompt for task in wanted.tasks)]
    return tuple(command)


def _launch(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(ROOT / "launch" / name), *arguments)


def _set(settings: list[str]) -> list[str]:
    return ["--set", *settings] if settings else []


def _only_batch(settings: tuple[str, ...]) -> list[str]:
    """Of the settings of training runs, what the autoencoder's has a use for."""
    return [setting for setting in settings if setting.startswith("batch=")]
