"""``python -m robot.console.screenshots FOLDER``: pictures of every page, taken while the twin runs a rollout.

Needs Chromium and the ``playwright`` package (the dev extra). The policy's predicted motion is in the picture when its
checkpoint has a motion head.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from robot.console.jobs import last_line
from robot.policy_process import free_port
from robot.priority import ENVIRONMENT
from robot.processes import Child
from robot.rollout.demo import has_motion_head
from robot.rollout.local_stack import LocalStack

TOKEN = "screenshots-token"
PAGES = ("rollout", "collect", "evaluate", "episodes", "calibrate", "doctor")
DESKTOP, TABLET = (1440, 900), (1024, 768)
READY_S = 30.0
SCENES = 5
# The first has no window to draw, and so leaves more of the processor to the rig.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_SOFTWARE_3D = (
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-accelerated-2d-canvas", "--disable-gpu-rasterization"),
)


def main() -> int:
    """0 when the pictures are there, 1 with one line otherwise."""
    parser = argparse.ArgumentParser(prog="python -m robot.console.screenshots")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--policy", default="nano")
    parser.add_argument(
        "--episodes", type=Path, default=Path("outputs/demonstrations"), help="recorded episodes to show"
    )
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("screenshots: no Chromium here: sudo apt-get install chromium-headless-shell", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    # The browser shares the processor with the twin's drawing, which would otherwise be preferred.
    os.environ[ENVIRONMENT] = "1"
    motion = has_motion_head(options.policy)
    with tempfile.TemporaryDirectory(prefix="nova-pi-pages-") as scratch:
        folder = Path(scratch)
        with LocalStack(folder, policy=options.policy, motion=motion) as stack:
            stack.wait_until_ready()
            port = free_port(0)
            console = Child(
                "console",
                module="robot.console.main",
                args=(
                    *("--rig", str(stack.rig_path), "--port", str(port), "--token", TOKEN, "--no-browser"),
                    *("--server", stack.server_url, "--outputs", str(folder), "--episodes", str(options.episodes)),
                    *("--on-loss", "continue"),
                ),
                log_path=folder / "console.log",
            )
            try:
                _wait(port, console)
                _take(browser, f"http://127.0.0.1:{port}/?token={TOKEN}", options.folder, motion=motion)
            finally:
                console.stop(timeout_s=30.0)
    return 0


def _take(program: str, address: str, folder: Path, *, motion: bool) -> None:
    from playwright.sync_api import sync_playwright  # only this command and the tests need it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *_SOFTWARE_3D])
        page = _open(browser, address, size=DESKTOP, theme="dark")
        for scene in range(SCENES):
            if _runs(page, scene=scene, motion=motion):
                break
        else:
            raise RuntimeError(f"each of {SCENES} rollouts was over before there was much to see of it")
        _picture(page, folder / "rollout.jpg")
        _themed(page, "light")
        _picture(page, folder / "rollout-light.jpg")
        page.set_viewport_size({"width": TABLET[0], "height": TABLET[1]})
        page.wait_for_timeout(1500)
        _picture(page, folder / "rollout-tablet.jpg")
        page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        _themed(page, "dark")
        page.evaluate("shell.operator.command({ command: 'stop_job', job: 'rollout' })")
        _wait_for(page, "!shell.store.now.moving")
        for name in PAGES[1:]:
            page.evaluate("(name) => { location.hash = name; }", name)
            if name == "doctor":
                page.click('[data-action="doctor"]')
                _wait_for(page, "document.querySelectorAll('.dots').length > 3")
            page.wait_for_timeout(2500)
            _picture(page, folder / f"{name}.jpg")
        browser.close()


def _runs(page: Any, *, scene: int, motion: bool) -> bool:
    """Start a rollout; whether it came to chunks, and to motion that was predicted and has happened."""
    _wait_for(page, "shell.operator.operates && shell.store.now.state && !shell.store.now.moving")
    started = page.evaluate(
        "(options) => shell.operator.command({ command: 'start_rollout', ...options })",
        {"task": "cup", "seconds": 60, "motion": motion, "seed": scene},
    )
    if not started["ok"]:
        raise RuntimeError(f"the rollout did not start: {started['detail']}")
    _wait_for(page, "shell.store.now.moving")
    enough = "shell.store.now.rollout?.phase === 'running' && shell.store.chunks.size > 6"
    if motion:
        enough += " && shell.view.flow.entries.filter((one) => one.has_measured).length > 2"
    _wait_for(page, f"({enough}) || !shell.store.now.moving")
    return bool(page.evaluate("Boolean(shell.store.now.moving)"))


def _picture(page: Any, path: Path) -> None:
    page.screenshot(path=str(path), type="jpeg", quality=85)


def _wait_for(page: Any, condition: str) -> None:
    # Ten times a second: left to itself, Playwright has the page drawn anew for each look.
    page.wait_for_function(condition, polling=100)


def _open(browser: Any, address: str, *, size: tuple[int, int], theme: str) -> Any:
    # Playwright's own conditions are evaluated in the page, which its content policy would refuse.
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, bypass_csp=True, color_scheme=theme, reduced_motion="reduce"
    )
    context.set_default_timeout(READY_S * 2e3)
    page = context.new_page()
    page.goto(address)
    _wait_for(page, "window.shell?.store.now != null")
    return page


def _themed(page: Any, theme: str) -> None:
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    page.wait_for_timeout(600)


def _wait(port: int, console: Child) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        if not console.running or time.monotonic() > deadline_s:
            log = console.log_path
            raise RuntimeError(f"the console did not come up: {last_line(log) if log else ''}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
