"""What tests of adapters share: processes that are forked, and servers that are killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable

import ringtable
from support import DEADLINE_S, raises_server_gone, wait_until

FORK = multiprocessing.get_context("fork")


def in_processes(count: int, work: Callable[[], None]) -> list[int]:
    """Run a function in so many forked processes at once, and return their numbers."""
    processes = [FORK.Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
    return [process.pid or 0 for process in processes]


def kill_server_of(table: ringtable.Table) -> int:
    """Kill the server of a table, wait until clients can notice, and return which process that was."""
    pid: int = table.stats()["process_id"]
    with ringtable.connect(table.address, reconnect=False) as witness:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: raises_server_gone(lambda: witness.get("x")), "the server is dead")
    return pid
