"""What every job does first: make `.venv`, install what the job needs, and go on inside it.

Standard library only, so that it runs on a machine that has nothing but Python 3.11. The first call of a job installs;
later calls compare one small file and start at once. Everything is pinned by `constraints.txt`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "nova-pi-installed.json"
GL_STAMP = VENV / "nova-pi-gl"
LOCK = ROOT / ".venv.lock"
OLDEST_PYTHON = (3, 11)
GL_PACKAGES = ("libegl1", "libgl1-mesa-dri", "libosmesa6")


def enter(*extras: str, rendering: bool = False) -> None:
    """Return inside `.venv` with the package and ``extras`` installed; ``rendering`` also asks for headless OpenGL.

    Called from outside `.venv`, it installs what is missing and replaces
    this process by the same command inside it.
    Exits with one clear message if Python is too old, the network is needed and absent, or a system library is missing.
    """
    python = VENV / "bin" / "python"
    # What was installed a moment ago is only seen by a new interpreter.
    stale = Path(sys.prefix).resolve() != VENV.resolve()
    if not _is_installed(extras):
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two jobs started at once install once
            if not _is_installed(extras):
                _install(extras)
        stale = True
    if rendering:
        _require_headless_gl()
    if stale:
        os.execv(python, [str(python), *sys.argv])


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _installed_extras() -> set[str]:
    """Extras that `.venv` holds for the present pyproject and constraints; empty if it must be brought up to date."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return set()
    return set(stamp["extras"]) if stamp.get("fingerprint") == _fingerprint() else set()


def _is_installed(extras: tuple[str, ...]) -> bool:
    return {"base", *extras} <= _installed_extras()


def _install(extras: tuple[str, ...]) -> None:
    python = VENV / "bin" / "python"
    if not python.exists():
        _make_venv()
    wanted = sorted({*extras, *_previous_extras()})
    target = f"{ROOT}[{','.join(wanted)}]" if wanted else str(ROOT)
    print(f"Installing Nova π ({', '.join(['robot side', *wanted])}) into {VENV.name}; the first time takes minutes.")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), "-e", target], check=False)
    if done.returncode != 0:
        sys.exit(
            f"Installation failed (pip exit code {done.returncode}; its message is above). "
            f"Check the network or proxy and call the command again; what was downloaded is kept."
        )
    STAMP.write_text(json.dumps({"fingerprint": _fingerprint(), "extras": ["base", *wanted]}))


def _previous_extras() -> set[str]:
    """Extras installed earlier, so that an update keeps them."""
    try:
        return set(json.loads(STAMP.read_text())["extras"]) - {"base"}
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return set()


def _make_venv() -> None:
    interpreter = _find_python()
    if interpreter == sys.executable:
        try:
            venv.create(VENV, with_pip=True)
            return
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit("Python's venv module cannot install pip. On Debian and Ubuntu: sudo apt-get install python3-venv")
    if subprocess.run([interpreter, "-m", "venv", str(VENV)], check=False).returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(f"{interpreter} cannot make a virtual environment. On Debian and Ubuntu install its -venv package.")


def _find_python() -> str:
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return sys.executable
    for minor in (13, 12, 11, 14):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    sys.exit(
        f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed, this is {sys.version.split()[0]}. "
        "Install one (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv) and call the command again."
    )


def _require_headless_gl() -> None:
    """Find the OpenGL back end with which MuJoCo renders without a display, installing Mesa's where we may.

    The answer is kept beside the installation stamp, so that only the first call pays for the probe.
    """
    if os.environ.get("MUJOCO_GL"):
        return
    if not GL_STAMP.exists():
        backend = _probe_gl()
        command = ["apt-get", "install", "-y", "-qq", *GL_PACKAGES]
        if backend is None and os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"Installing headless OpenGL: {' '.join(GL_PACKAGES)}")
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL, env=environment)
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment)
            backend = _probe_gl()
        if backend is None:
            sys.exit(
                "The twin renders its cameras with headless OpenGL, and neither EGL nor OSMesa works here. "
                f"On Debian and Ubuntu: sudo {' '.join(command)}"
            )
        GL_STAMP.write_text(backend)
    os.environ["MUJOCO_GL"] = GL_STAMP.read_text()


def _probe_gl() -> str | None:
    """The first of EGL and OSMesa that gives MuJoCo a context, or None."""
    code = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    for backend in ("egl", "osmesa"):
        environment = {**os.environ, "MUJOCO_GL": backend}
        command = [str(VENV / "bin" / "python"), "-c", code]
        if subprocess.run(command, check=False, capture_output=True, env=environment).returncode == 0:
            return backend
    return None
