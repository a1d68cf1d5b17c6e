"""The recorder of a collection: started, checked, connected to, and stopped in order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.schema import RigConfig
from robot.processes import ChildFailedError
from robot.recording import RecorderClient, start_recorder
from robot.recording.commands import socket_path
from robot.ring import RingBusyError
from teleop.progress import CollectionError

_READY_S = 15.0


@contextmanager
def recording(
    rig: RigConfig, *, rig_argument: str, directory: Path, log_path: Path, reserve_gib: float
) -> Iterator[RecorderClient]:
    """A recorder process that writes into ``directory``, with a client connected to it.

    Raises `CollectionError` when it can't start, or when another collector records this rig.
    """
    child = start_recorder(
        rig_argument, directory=directory, log_path=log_path, arguments=("--reserve-gib", f"{reserve_gib:g}")
    )
    try:
        deadline_s = time.monotonic() + _READY_S
        while not socket_path(rig.name).exists() and time.monotonic() < deadline_s and child.running:
            time.sleep(0.02)
        try:
            child.check()
            client = RecorderClient(rig.name)
        except ChildFailedError as error:
            raise CollectionError(f"the recorder could not start: {error}") from None
        except RingBusyError as error:
            raise CollectionError(f"somebody else records rig {rig.name!r} already: {error}") from None
        with client:
            # Another collector's recorder answers on the same socket while ours is still finding out that it may not.
            found = client.status().directory
            if Path(found).absolute() != directory.absolute():
                raise CollectionError(f"rig {rig.name!r} is being recorded into {found} already: stop that first")
            yield client
    finally:
        child.stop()
