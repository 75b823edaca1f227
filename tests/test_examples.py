"""The programs in `examples/` end well, also when the table's server, or a worker, is killed in the middle.

Those for gunicorn are in `test_gunicorn.py`.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ringtable
from support import PROGRAM_S_MAX, ServerProcess, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"

# As the examples have them.
WORKERS, BATCHES, JOBS = 4, 24, 40
SECONDS_MIN = (JOBS - 25) / 25
"""What the limiter of the job runner makes of it: 25 at once, and 25 in each second from then on."""


@contextmanager
def running(example: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            # Else it has ended.
            program.kill()


def words(program: subprocess.Popen[str]) -> str:
    """What a program has said that ends well."""
    output, errors = program.communicate(timeout=PROGRAM_S_MAX)
    assert (program.returncode, errors) == (0, ""), output + errors
    return output


@pytest.mark.parametrize("example", ["shared_counters.py", "prefork_cache.py"])
def test_smoke(example: str) -> None:
    with running(example) as program:
        assert words(program)


def test_no_request_notices_that_the_server_is_killed_or_upgraded() -> None:
    with running("unnoticed_restarts.py", "--rounds", "2") as program:
        said = words(program)
    assert "2 servers were killed, and 2 upgraded" in said
    answered, counted = re.findall(r"(\d+) requests answered, 0 failed, (\d+) visits counted", said)[0]
    assert int(answered) == int(counted) > 0


def loaded(text: str) -> list[tuple[str, str, float, int]]:
    """The lines of the data loader: how workers were started, whose the arrays are, memory by data, batches decoded."""
    rows = re.findall(r"^(\w+) +(the table's|each worker's own) +[\d.]+ +([\d.]+)x +(\d+)$", text, re.MULTILINE)
    return [(method, whose, float(times), int(decoded)) for method, whose, times, decoded in rows]


@pytest.mark.slow
def test_arrays_of_all_workers_take_the_memory_of_one() -> None:
    with running("data_loader.py") as program:
        rows = loaded(words(program))
    assert [row[:2] for row in rows] == [
        (method, whose) for method in ("spawn", "forkserver") for whose in ("the table's", "each worker's own")
    ]
    for _, whose, times, decoded in rows:
        if whose == "the table's":
            assert 0.9 <= times <= 1.1
            assert decoded == BATCHES
        else:
            assert times >= WORKERS - 0.1
            assert decoded == WORKERS * BATCHES


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_data_loader_goes_on_when_the_server_is_killed(method: str) -> None:
    """This process is to decode one of the batches, so that nobody has all of them before the server is killed."""
    with ExitStack() as stack:
        first = stack.enter_context(ServerProcess())
        table: ringtable.Table[Any] = stack.enter_context(ringtable.connect(codec="pickle"))
        looking = stack.enter_context(ringtable.connect())
        programs: list[subprocess.Popen[str]] = []

        def decode() -> None:
            programs.append(stack.enter_context(running("data_loader.py", "--name", "default", "--methods", method)))
            wait_until(lambda: looking.stats()["entries"] >= BATCHES // 2, "the workers load", PROGRAM_S_MAX)
            first.kill()

        with suppress(ringtable.ServerGone):
            table.get_or_set("batch 7", decode)
        table.close()
        looking.close()
        (_, _, _, decoded), _ = loaded(words(programs[0]))
        # Half of them were decoded by then, and all of them again.
        assert decoded >= BATCHES + BATCHES // 2


def jobs_done(text: str) -> tuple[int, float]:
    """How often one was begun, and how many seconds it took."""
    found = re.search(rf"^{JOBS} jobs are done, begun (\d+) times, in ([\d.]+) s$", text, re.MULTILINE)
    assert found, text
    return int(found[1]), float(found[2])


def test_each_job_is_done_once_and_within_the_limit() -> None:
    with running("job_runner.py") as program:
        begun, seconds = jobs_done(words(program))
    assert begun == JOBS
    assert seconds >= SECONDS_MIN


def test_jobs_are_done_though_a_worker_and_the_server_are_killed() -> None:
    """This process has the lock of one of the jobs, so that they are not all done before the server is killed."""
    with (
        ServerProcess() as first,
        ringtable.connect(codec="json") as table,
        running("job_runner.py", "--name", "default") as program,
    ):
        results = table.namespace("result:")
        lock = table.lock("job:report 7")
        lock.acquire()
        wait_until(lambda: len(results) >= 5, "the workers are at work", PROGRAM_S_MAX)
        _, result = results.popitem()
        os.kill(int(result["by"]), signal.SIGKILL)
        wait_until(lambda: len(results) >= JOBS // 2, "others go on", PROGRAM_S_MAX)
        first.kill()
        table.close()
        output = words(program)
        assert "the server has gone" in output
        begun, _ = jobs_done(output)
        # What was running when the server was killed was begun before that.
        assert JOBS - WORKERS <= begun <= JOBS
