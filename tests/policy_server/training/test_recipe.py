from pathlib import Path

import pytest

from configs.schema import ConfigError
from policy_server.training.checkpoints import RunError
from policy_server.training.plan import build_on_meta, check_memory, count_parts, make_plan
from policy_server.training.recipe import Recipe, Sharding, Stage, available_recipes, load_recipe
from policy_server.training.setup import policy_dimensions

GB = 10**9


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_in_the_repository_is_valid_and_can_be_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever data sets this machine happens to have
    recipe = load_recipe(name)
    assert recipe.name == name
    plan = make_plan(recipe)
    assert plan.trainable > 0
    assert recipe.data.horizon == recipe.data.fps, "a chunk and a motion pair span one second of the data set's rate"


@pytest.mark.parametrize(
    ("name", "stage", "steps", "batch", "peak"),
    [
        ("pi0-warmup", Stage.WARMUP, 40_000, 128, 1e-4),
        ("pi0-joint", Stage.JOINT, 100_000, 128, 5e-5),
        ("pi0-libero", Stage.FINETUNE, 30_000, 32, 5e-5),
        ("pi0-robotwin", Stage.FINETUNE, 60_000, 32, 5e-5),
        ("pi0-lora", Stage.FINETUNE, 30_000, 32, 5e-5),
    ],
)
def test_the_papers_stages_have_the_papers_numbers(
    name: str, stage: Stage, steps: int, batch: int, peak: float
) -> None:
    recipe = load_recipe(name)
    assert (recipe.stage, recipe.steps, recipe.batch) == (stage, steps, batch)
    assert recipe.optimizer.learning_rate == peak
    assert recipe.motion.weight == 1.0


def test_the_full_size_joint_plan_counts_each_part() -> None:
    parts = make_plan(load_recipe("pi0-joint")).to_json()["parameters"]
    assert {
        name: round(parts[name]["total"] / 1e6) for name in ("vision", "trunk", "action_expert", "motion_head")
    } == {
        "vision": 415,
        "trunk": 2509,
        "action_expert": 315,
        "motion_head": 408,
    }
    assert parts["frozen"] == 0


def test_sharding_over_a_node_makes_full_training_fit_smaller_cards() -> None:
    whole, sharded = (make_plan(load_recipe("pi0-joint").override([f"sharding={kind}"])) for kind in Sharding)
    assert sharded.parts == whole.parts
    assert sharded.state_gib < 0.5 * whole.state_gib
    fits = [{card.card_gb for card in plan.cards if card.micro_batch} for plan in (whole, sharded)]
    assert fits[0] < fits[1]


def test_warm_up_trains_the_motion_head_alone_at_full_size() -> None:
    parts = make_plan(load_recipe("pi0-warmup")).parts
    assert [name for name, part in parts.items() if part.trainable] == ["motion_head"]


def test_action_only_training_freezes_what_no_loss_reaches() -> None:
    recipe = load_recipe("nano-action-only")
    model = build_on_meta(recipe, policy_dimensions(recipe))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    last = policy_dimensions(recipe).trunk.depth - 1
    assert frozen
    assert all(f".language_model.layers.{last}." in name or ".language_model.norm." in name for name in frozen)
    assert not any("k_proj" in name or "v_proj" in name for name in frozen)
    assert "motion_head" not in count_parts(model)


def test_lora_fits_a_24_gb_card_and_full_training_does_not() -> None:
    check_memory(load_recipe("pi0-lora"), card_bytes=24 * GB, devices=1)
    with pytest.raises(RunError, match="lower micro_batch"):
        check_memory(load_recipe("pi0-joint"), card_bytes=24 * GB, devices=8)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("motion.weight=-1", "greater than or equal to 0"),
        ("motion.encoding=rainbow", "hsv_fixed64"),
        ("optimizer.learing_rate=1", "learing_rate"),
        ("stage=warmup motion.train=off", "can't be off"),
        ("motion.vae=null", "motion.vae is missing"),
        ("lora={}", "lora is for the stages finetune and action-only"),
        ("micro_batch=3", "no multiple of micro_batch 3"),
        ("prefix_conditioning={probability: 0.5, longest: 5}", "shorter than data.horizon"),
        ("data.sources.0.latents=x", "use flow instead"),
        ("nonsense", "expected section.key=value"),
        ("data.sources.9.path=x", "there is no '9'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_with_the_reason(recipe: Recipe, setting: str, message: str) -> None:
    settings = setting.split(" ") if setting.startswith("stage") else [setting]
    with pytest.raises(ConfigError, match=message):
        recipe.override(settings)


def test_a_recipe_is_the_same_after_writing_and_reading(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_yaml_reads_off_as_false_and_the_head_is_off_all_the_same(recipe: Recipe) -> None:
    assert not recipe.override(["motion.train=off"]).has_motion


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="nano-joint"):
        load_recipe("nano-jiont")


def test_a_recipe_has_what_it_extends_but_for_what_it_says_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: nano-action-only\nname: mine\noptimizer: {learning_rate: 2.0e-4}\n")
    mine, base = load_recipe(path), load_recipe("nano-action-only")
    assert mine.optimizer.learning_rate == 2e-4
    assert mine.model_copy(update={"name": base.name, "optimizer": base.optimizer}) == base
    assert mine.optimizer.model_copy(update={"learning_rate": base.optimizer.learning_rate}) == base.optimizer


def test_extending_what_does_not_exist_lists_what_does(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: _nono\nname: mine\n")
    with pytest.raises(ConfigError, match=r"no recipe '_nono'.*_nano"):
        load_recipe(tmp_path / "mine.yaml")


def test_bases_are_no_recipes() -> None:
    assert not any(name.startswith("_") for name in available_recipes())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.views={height: 144, width: 256, cuts: {nobody: [0, 0, 9, 9]}}", "no source fills nobody"),
        (
            "data.views={height: 144, width: 256, cuts: {observation/wrist_image_left: [100, 0, 96, 96]}}",
            "is not inside pictures of 144 x 256 px",
        ),
    ],
)
def test_views_that_fit_nothing_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("nano-action-only").override([setting])
