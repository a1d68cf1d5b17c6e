"""The page in a browser: what an operator presses, and what the arm, the files and the other pages then do."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot.recording import Label, list_episodes
from robot.ring import RingReader
from robot.runtime import ring_name
from robot.state import MachineState

playwright_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.realtime
IWER = Path(__file__).parent / "iwer.min.js"
WITHOUT_3D = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
WITH_3D = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-accelerated-2d-canvas", "--disable-gpu-rasterization"),
]
"""Only the headset needs 3-D here, and drawing it on the processor is slow."""
SIZE, SIZE_3D = {"width": 1280, "height": 800}, {"width": 320, "height": 240}
PATIENCE_MS = 60_000
MEAN_COLOURS = """() => shell.view.flow.entries.filter((one) => one.has_measured).map((one) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.drawImage(one.bitmap, 224 + 100, 100, 20, 20, 0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
})"""
"""The colour in the middle of each predicted picture that has been measured."""
EMULATE_A_HEADSET = """;
  window.headset = new IWER.XRDevice(IWER.metaQuest3);
  headset.installRuntime({ forceInstall: true });
  Object.defineProperty(XRPose.prototype, "emulatedPosition", { get: () => false });
"""
"""The emulator calls every position guessed, which a headset does when it has lost sight of the controller."""
RAISE_THE_HAND = """() => {
  const hand = headset.controllers.right;
  let height = 1.0, count = 0;
  window.raising = setInterval(() => {
    hand.position.set(0.2, height += 0.002, -0.3);
    hand.updateButtonValue("squeeze", count++ % 40 < 36 ? 1 : 0);
  }, 50);
}"""
"""Move the right hand up, 4 cm a second, and grip anew every two seconds, as one does when a hiccup ended the grip."""


@pytest.fixture(scope="module")
def browsers(chromium: str) -> Iterator[Callable[[list[str]], Any]]:
    """``browsers(options)``: a browser with these options, started once."""
    with playwright_api.sync_playwright() as playwright:
        started: dict[tuple[str, ...], Any] = {}

        def get(options: list[str]) -> Any:
            key = tuple(options)
            if key not in started:
                started[key] = playwright.chromium.launch(executable_path=chromium, args=options)
            return started[key]

        yield get
        for browser in started.values():
            browser.close()


@pytest.fixture
def open_page(browsers: Callable[[list[str]], Any], stack: Any) -> Iterator[Callable[..., Any]]:
    """``open_page("collect")``: a page of its own, let in, with a script to begin with if given."""
    contexts = []

    def make(name: str, *, script: str = "", options: list[str] = WITHOUT_3D) -> Any:
        # Playwright's own conditions are evaluated in the page, which its content policy would refuse.
        context = browsers(options).new_context(
            viewport=SIZE_3D if options is WITH_3D else SIZE, bypass_csp=True, reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(f"{stack.page}#{name}")
        page.wait_for_selector("#stop")
        wait_on(page, "window.shell?.store.now !== null")
        return page

    yield make
    for context in contexts:
        context.close()
    stack.end_jobs()


def wait_on(page: Any, condition: str) -> None:
    """Until the condition holds in the page. It is looked at ten times a second: Playwright would have the page drawn
    anew for each look, sixty times."""
    page.wait_for_function(condition, polling=100)


def wait_until_operating(page: Any) -> None:
    wait_on(page, "shell.operator.operates && shell.store.now && !shell.store.now.moving")


def machine_state(stack: Any) -> tuple[MachineState, float]:
    """robotd's state now, and how fast the set-point moves."""
    with RingReader(ring_name(stack.rig.name, "state")) as reader:
        sample = reader.latest()
    assert sample is not None
    speed = float(np.abs(sample.value["setpoint_speed_rad_s"]).max())
    return MachineState(int(sample.value["machine_state"])), speed


def test_a_rollout_shows_predicted_and_measured_motion_and_stop_brakes_the_arm(
    stack: Any, open_page: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    page = open_page("rollout")
    wait_until_operating(page)
    page.wait_for_selector('.camera[data-camera="exterior"]:not(.stale)')
    page.get_by_label("Show predicted motion").check()
    page.click('[data-action="start"]')
    wait_on(page, "shell.store.now.rollout?.phase === 'running'")
    wait_on(page, "shell.view.flow.entries.filter((one) => one.has_measured).length >= 3")
    predicted = page.evaluate(MEAN_COLOURS)
    assert len({tuple(colour) for colour in predicted}) == len(predicted), "each prediction is a picture of its own"
    assert not page.is_hidden(".flow-pictures")
    assert page.evaluate("shell.store.chunks.size") >= 2
    assert page.evaluate("shell.store.path.length") == 15

    wait_for(lambda: machine_state(stack)[1] > 0.01, what="the arm moves")
    box = page.locator("#stop").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    pressed_s = time.monotonic()
    page.mouse.down()
    wait_for(lambda: machine_state(stack)[0] is MachineState.HOLDING, what="the arm holds", timeout_s=5.0)
    print(f"STOP: holding {1e3 * (time.monotonic() - pressed_s):.0f} ms after the press")
    page.mouse.up()
    wait_on(page, "!shell.store.now.moving")
    films = list((stack.folder / "outputs").glob("console-rollout-*/episode-*/flow.mp4"))
    assert films, "predicted and measured motion are kept with the episode"
    lines = films[0].with_name("flow.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["measured_scale_px"] > 0


def test_the_space_bar_stops_and_a_second_page_only_watches(
    stack: Any, open_page: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    first, second = open_page("rollout"), open_page("rollout")
    wait_until_operating(first)
    wait_on(second, "document.querySelector('[data-action=start]').disabled && !shell.operator.operates")
    refused = second.evaluate("shell.operator.command({ command: 'start_rollout', task: 'cup' })")
    assert not refused["ok"]
    assert "only the operator" in refused["detail"]
    first.click('[data-action="start"]')
    wait_for(lambda: machine_state(stack)[0] is MachineState.STREAMING, what="the policy acts")
    second.keyboard.press("Space")
    wait_for(lambda: machine_state(stack)[0] is MachineState.HOLDING, what="the arm holds", timeout_s=5.0)
    wait_on(first, "!shell.store.now.moving")


def start_episode(page: Any) -> np.ndarray:
    """Start a collection of one episode and its recording by keyboard; gives where the tool then is, (3,) m."""
    wait_until_operating(page)
    started = page.evaluate(
        "shell.operator.command({ command: 'start_collect', task: 'cup', episodes: 1, seconds: 300 })"
    )
    assert started["ok"], started
    wait_on(page, "shell.store.now.collect?.activity.startsWith('set up the scene')")
    page.keyboard.press("Enter")
    wait_on(page, "shell.store.now.collect?.recording")
    return tool_m(page)


def tool_m(page: Any) -> np.ndarray:
    return np.array(page.evaluate("shell.store.now.state.tcp_m"))


@pytest.mark.slow
def test_a_headset_moves_the_arm_while_it_grips(
    stack: Any, open_page: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    page = open_page("collect", script=IWER.read_text() + EMULATE_A_HEADSET, options=WITH_3D)
    before = start_episode(page)
    page.click('[data-action="vr"]')
    wait_on(page, "shell.view.hand.headset?.pose")
    page.evaluate(RAISE_THE_HAND)
    wait_for(lambda: tool_m(page)[2] - before[2] > 0.005, what="the tool goes up with the hand", timeout_s=60.0)
    page.evaluate("clearInterval(raising); headset.controllers.right.updateButtonValue('squeeze', 0)")
    wait_on(page, "!shell.view.hand.clutch")
    page.evaluate("shell.view.headset.session.end()")
    page.keyboard.press("Digit3")
    wait_for(lambda: not page.evaluate("shell.store.now.collect?.recording ?? false"), what="the episode is over")
    page.evaluate("shell.operator.command({ command: 'stop_job', job: 'collect' })")
    wait_on(page, "!shell.store.now.moving")


@pytest.mark.slow
def test_an_episode_is_recorded_and_labelled_by_keyboard(
    stack: Any, open_page: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    page = open_page("collect")
    before = start_episode(page)
    page.keyboard.down("Shift")
    page.keyboard.down("KeyW")
    wait_for(lambda: np.linalg.norm(tool_m(page) - before) > 0.01, what="the arm follows the keyboard")
    page.keyboard.up("KeyW")
    page.keyboard.up("Shift")
    page.keyboard.press("Digit1")
    wait_on(page, "!shell.store.now.moving")
    newest = list_episodes(stack.folder / "episodes").episodes[-1]
    assert newest.outcome.label is Label.SUCCESS
    page.evaluate("location.hash = 'episodes'")
    page.wait_for_selector(f'[data-episode="{newest.id}"]')
    wait_on(page, "document.querySelector('[data-label=success]')?.getAttribute('aria-pressed') === 'true'")
    wait_on(page, "document.querySelector('.camera img')?.naturalWidth > 0")
    page.click("[data-label=failure]")
    wait_for(
        lambda: list_episodes(stack.folder / "episodes").episodes[-1].outcome.label is Label.FAILURE,
        what="the label is written",
    )


@pytest.mark.slow
def test_a_blind_trial_shows_a_number_and_keeps_the_verdict(stack: Any, open_page: Callable[..., Any]) -> None:
    page = open_page("evaluate")
    wait_until_operating(page)
    answer = page.evaluate("shell.operator.command({ command: 'start_evaluate', task: 'cup', trials: 1, seconds: 2 })")
    assert answer["ok"], answer
    page.wait_for_selector('[data-option="ready"]')
    assert "Trial 1 of 1" in page.inner_text("main")
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-stage="3"]')
    assert "swaying" not in page.content()
    page.keyboard.press("Digit3")
    page.keyboard.press("Enter")
    wait_on(page, "!shell.store.now.moving")
    result = json.loads(next((stack.folder / "outputs").glob("console-evaluate-*/episode-*/episode.json")).read_text())
    assert result["success"]
    assert result["progress"] == "lifted"


@pytest.mark.slow
def test_a_camera_that_dies_turns_grey_until_it_is_back(stack: Any, open_page: Callable[..., Any]) -> None:
    page = open_page("evaluate")
    page.wait_for_selector('.camera[data-camera="wrist"]:not(.stale)')
    with RingReader(ring_name(stack.rig.name, "camera.wrist")) as reader:
        os.kill(reader.writer_pid, signal.SIGKILL)
    page.wait_for_selector('.camera[data-camera="wrist"].stale')
    assert "Old picture" in page.inner_text('.camera[data-camera="wrist"] .lost')
    page.wait_for_selector('.camera[data-camera="wrist"]:not(.stale)')
