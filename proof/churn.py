"""Clients that come and go, in all ways in which one can go: `python -m proof.churn --help`.

Each is a process of its own that connects, calls, and leaves: in order, without a word, killed by itself in the middle
of a large write, with views, a watch, a lease, posted writes. What a connection costs the server has to come back.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cyclopts
import ringtable
from ringtable import Table
from ringtable._cli.signals import interrupt_on_termination
from support import fork

from proof import program

CLIENTS = 2
"""At a time."""

END_S_MAX = 60.0
LARGE_SIZE = 4 << 20


def leave_in_order(table: Table) -> None:
    table.incr("churn")
    table.close()


def leave_without_a_word(table: Table) -> None:
    table["churn key"] = b"value"
    os._exit(0)


def leave_with_all_open(table: Table) -> None:
    table["churn view"] = bytes(100_000)
    things = [table.view("churn view"), iter(table), table.pipeline().incr("churn")]
    if table.transport == "lane":
        things.append(table.watch("churn"))
    table.set("churn key", bytes(1_000), writes="posted")
    table.call("RING.LEASE", f"churn {os.getpid() % 10}")
    os._exit(len(things) and 0)


def die_in_a_large_write(table: Table) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.001 * random.random())
    # Its default is to kill, at whatever instruction that is.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        table["churn large"] = bytes(LARGE_SIZE)


def leave_grandchildren(table: Table) -> None:
    table.incr("churn")
    if os.fork() == 0:
        table.incr("churn")
        os._exit(0)
    os.wait()
    os._exit(0)


def leave_many(table: Table) -> None:
    tables = [Table(table.address) for _ in range(20)]
    for each in tables[:10]:
        each.incr("churn")
        each.close()
    os._exit(0)


WAYS: tuple[Callable[[Table], None], ...] = (
    leave_in_order,
    leave_without_a_word,
    leave_with_all_open,
    die_in_a_large_write,
    leave_grandchildren,
    leave_many,
)


def start(address: str, way: Callable[[Table], None], transport: Any) -> int:
    pid = fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            way(Table(address, transport=transport, timeout=END_S_MAX))
            status = 0
        except ringtable.OutOfMemory:
            # Others fill the table, too.
            status = 0
        finally:
            os._exit(status)
    return pid


app = cyclopts.App(name="proof.churn", help=__doc__, version_flags=[])


@app.default
def churn(
    address: program.Address,
    *,
    seconds: float = 10.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Let clients come and go.

    Args:
        address: The socket of a running server with lanes.
        seconds: For how long.
        seed: Of what is random.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    generator = random.Random(program.begin(seed))
    counts: Counter[str] = Counter()
    found: list[str] = []
    running: dict[int, tuple[str, float]] = {}
    finish = time.monotonic() + seconds
    try:
        while not found and (time.monotonic() < finish or running):
            while len(running) < CLIENTS and time.monotonic() < finish:
                way, transport = generator.choice(WAYS), generator.choice(["lane", "lane", "socket"])
                running[start(address, way, transport)] = (f"{way.__name__} ({transport})", time.monotonic())
            found += reap(running, counts)
            time.sleep(0.002)
    except KeyboardInterrupt:
        pass
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return program.end(dict(counts), found, json_)


def reap(running: dict[int, tuple[str, float]], counts: Counter[str]) -> list[str]:
    """Take leave of those that have ended; return what is wrong with any."""
    found: list[str] = []
    for pid, (name, started) in list(running.items()):
        ended = 0
        with suppress(ChildProcessError):
            ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del running[pid]
            counts[name] += 1
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            if status != 0 and not killed:
                found.append(f"forbidden: a client that was to {name} ended with wait status {status}")
        elif time.monotonic() - started > END_S_MAX:
            found.append(f"forbidden: a client that was to {name} did not end within {END_S_MAX:.0f} s")
    return found


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
