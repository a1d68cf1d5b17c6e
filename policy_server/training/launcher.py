"""`accelerate launch --cpu --num_processes N` as it reads.

accelerate's launcher for processors (commands/launch.py, `simple_launcher`) starts one process and leaves the others to
MPI; without MPI it silently trains with one. Here that one process is replaced by torch's launcher, which starts N.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_STARTED_BY_OTHERS = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def missing_processes(environment: Mapping[str, str], parent: Sequence[str]) -> int:
    """How many processes accelerate was asked for and did not start; 0 when all is as asked. `parent` is the command
    line of the process that started this one."""
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not on_cpu or any(name in environment for name in _STARTED_BY_OTHERS):
        return 0
    if not any(Path(word).name in ("accelerate", "accelerate-launch", "launch.py") for word in parent):
        return 0
    for word, following in zip(parent, [*parent[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        count = value if equals else following
        if name.replace("-", "_") == "__num_processes" and count.isdigit():
            return int(count) if int(count) > 1 else 0
    return 0


def share_of_cores(wanted: int, environment: Mapping[str, str], *, cores: int) -> int:
    """Threads for this process: as many as wanted, but where a launcher started several processes on this machine, no
    more than its share of the cores. Processes that fight over cores were seen to take ten times as long a step."""
    processes = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(wanted, cores // processes)) if processes > 1 else wanted


def start_missing_processes() -> None:
    """Replace this process by as many as accelerate was asked for; returns if there is nothing to do."""
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return
    count = missing_processes(os.environ, parent)
    if count:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        os.execv(sys.executable, [*command, *sys.argv])
