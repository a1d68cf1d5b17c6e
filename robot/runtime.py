"""Where a rig's processes meet on this machine: sockets, the twin's serial port, lock files and shared-memory names."""

import hashlib
import os
import tempfile
from pathlib import Path

RUNTIME_PREFIX = "run:"


def runtime_dir(rig_name: str) -> Path:
    """The private folder of ``rig_name``, made on first use (mode 0700).

    It lies in ``$NOVA_PI_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR``, else the system's temporary folder. Paths are kept
    short because Unix socket names end at 107 bytes.
    """
    base = os.environ.get("NOVA_PI_RUNTIME_DIR") or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    path = Path(base) / f"nova-pi-{os.getuid()}" / rig_name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def ring_name(rig_name: str, part: str) -> str:
    """The shared-memory name of one ring of a rig, such as ``camera.exterior`` or ``state``.

    Rigs in different runtime folders get different names, so two users or two test runs never share a ring.
    """
    owner = hashlib.blake2s(str(runtime_dir(rig_name)).encode(), digest_size=4).hexdigest()
    return f"nova-pi.{owner}.{rig_name}.{part}"


def resolve_device(rig_name: str, device: str) -> str:
    """A device path from a rig file: ``run:NAME`` stands for NAME in the rig's runtime folder (the twin's ports)."""
    if device.startswith(RUNTIME_PREFIX):
        return str(runtime_dir(rig_name) / device.removeprefix(RUNTIME_PREFIX))
    return device
