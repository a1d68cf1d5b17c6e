import pytest

from policy_server.training.launcher import missing_processes, share_of_cores

CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
ASKED = ["/env/bin/python", "/env/bin/accelerate", "launch", "--num_processes", "2", "--cpu", "launch/train"]


@pytest.mark.parametrize(
    "asked",
    [ASKED, [*ASKED[:3], "--num_processes=2", "--cpu", "launch/train"], ["accelerate-launch", "--num-processes", "2"]],
)
def test_processes_that_accelerate_leaves_to_mpi_are_missing(asked: list[str]) -> None:
    assert missing_processes(CPU, asked) == 2


@pytest.mark.parametrize(
    ("environment", "parent"),
    [
        ({}, ASKED),
        ({"ACCELERATE_USE_CPU": "False"}, ASKED),
        ({**CPU, "WORLD_SIZE": "2", "RANK": "0"}, ASKED),
        ({**CPU, "OMPI_COMM_WORLD_SIZE": "2"}, ASKED),
        (CPU, ["/bin/bash", "run.sh", "--num_processes", "2"]),
        (CPU, ["accelerate", "launch", "--cpu", "--num_processes", "1", "launch/train"]),
        (CPU, ["accelerate", "launch", "--cpu", "launch/train"]),
    ],
)
def test_nothing_is_missing_where_one_was_asked_for_or_another_launcher_started_all(
    environment: dict[str, str], parent: list[str]
) -> None:
    assert missing_processes(environment, parent) == 0


@pytest.mark.parametrize(
    ("processes", "wanted", "threads"),
    [("1", 2, 2), ("1", 8, 8), ("2", 2, 2), ("2", 8, 4), ("3", 8, 2), ("16", 8, 1), ("2", 1, 1)],
)
def test_processes_of_one_machine_share_its_cores(processes: str, wanted: int, threads: int) -> None:
    assert share_of_cores(wanted, {"LOCAL_WORLD_SIZE": processes}, cores=8) == threads


def test_a_process_that_nothing_launched_takes_the_threads_it_was_told() -> None:
    assert share_of_cores(12, {}, cores=8) == 12
