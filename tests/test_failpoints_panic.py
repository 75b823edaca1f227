"""A thread of the server panics at a step of a protocol: the server ends in order, and entirely."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import ringtable
from failpoint_callers import ways
from failpoints import OPTIONS, arm, needs_failpoints
from ringtable import Server, Table
from support import CALL_S_MAX, DEADLINE_S, Child, Flag, own_ringtable_memory

pytestmark = needs_failpoints


# Where a thread of the server panics, and the topology in which it comes by there.
PANICS = {
    "request.executed": "lanes",
    "put.linked": "lanes",
    "event.begun": "lanes",
    "join.passed": "lanes",
    "end.noticed": "lanes",
    "accept.accepted": "lanes",
    "accept.taken": "lanes",
    "queue.taken": "shared",
    "cast.claimed": "shared",
    "cast.written": "sharded",
}


def incr_for_ever(table: Table) -> None:
    while True:
        table.incr("count")


def serve_until_panic(topology: str, point: str, nth: int, ready: Flag, begin: Flag) -> list[object]:
    """Run a server that panics when it passes a point for the `nth` time, and tell what is left of it."""
    server = Server(**OPTIONS | {"topology": topology})
    ready.set()
    begin.wait()
    arm(point, "panic", nth)
    with pytest.raises(ringtable.ServerFailed, match="has panicked, which is a fault of ringtable's") as waited:
        server.wait(DEADLINE_S)
    with pytest.raises(ringtable.ServerFailed):
        server.stop()
    threads = [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]
    return [
        "a failpoint says so" in str(waited.value),
        server.running,
        [name for name in threads if name.startswith("ringtable")],
        os.listdir(os.environ["RINGTABLE_DIR"]),
        [line for line in own_ringtable_memory() if "ringtable-table" in line],
    ]


ENDED_IN_ORDER: list[object] = [True, False, [], [], []]


@pytest.mark.parametrize(("point", "topology"), PANICS.items())
def test_a_panic_ends_the_server(point: str, topology: str) -> None:
    """In order and entirely: clients of all its workers are told, waits end, nothing is left, the name is free."""

    with Flag() as ready, Flag() as begin, Child(serve_until_panic, topology, point, 1, ready, begin) as child:
        ready.wait()
        with ExitStack() as stack:
            tables = [stack.enter_context(Table(transport=way)) for way in ("auto", "auto", "socket", "socket")]
            watch = stack.enter_context(tables[0].watch())
            begin.set()
            while True:
                with suppress(ringtable.ServerGone, ringtable.TableNotFound), ringtable.connect() as table:
                    table["key"] = b"value"
                    table.delete("key")
                    continue
                break
            for table in tables:
                start = time.monotonic()
                with pytest.raises(ringtable.ServerGone):
                    incr_for_ever(table)
                assert time.monotonic() - start < CALL_S_MAX
            with pytest.raises(ringtable.ServerGone):
                for _ in watch:
                    pass
        assert child.result() == ENDED_IN_ORDER
    with Server(**OPTIONS), ringtable.connect() as table:
        assert "key" not in table


def come_and_go_until_gone(name: bytes, seed: float) -> None:
    """Connect, call, watch and leave in all ways, until there is no server any more."""
    generator = random.Random(seed)
    with suppress(ringtable.ServerGone, ringtable.TableNotFound):
        for number in itertools.count():
            with Table(**generator.choice(ways("lanes") if generator.random() < 0.2 else [{}])) as table:
                for _ in range(generator.randrange(20)):
                    key, value = b"%b %d" % (name, number), b"%d" % number * generator.choice([1, 100, 50_000])
                    table[key] = value
                    assert table[key] == value
                    table.incr("count")
                if table.transport == "lane" and generator.random() < 0.3:
                    with table.watch() as watch:
                        table[name] = b"watched"
                        next(watch)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_a_panic_at_any_instant(rounds: int, seed: int) -> None:
    """While clients come and go: nobody hangs, and each server has ended so that the next one can start."""
    generator = random.Random(seed)
    for _ in range(rounds):
        point, topology = generator.choice(list(PANICS.items()))
        nth = generator.randrange(1, 40)
        print(point, topology, nth)
        with ExitStack() as stack:
            ready, begin = stack.enter_context(Flag()), stack.enter_context(Flag())
            server = stack.enter_context(Child(serve_until_panic, topology, point, nth, ready, begin))
            ready.wait()
            clients = [
                stack.enter_context(Child(come_and_go_until_gone, b"client %d" % number, generator.random()))
                for number in range(4)
            ]
            begin.set()
            for client in clients:
                client.result()
            assert server.result() == ENDED_IN_ORDER, "forbidden: it has not ended in order"


@pytest.mark.parametrize("point", ["put.linked", "accept.accepted"])
def test_a_panic_is_told_by_the_command(point: str) -> None:
    """`ringtable server` ends with status 1, and says why."""
    script = f"""
        import sys
        from ringtable._cli import main
        from ringtable._ringtable import arm_failpoint

        arm_failpoint({point!r}, "panic", 1)
        sys.argv[1:] = ["server", "--max-memory", "64MiB"]
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert "ready" in server.stdout.readline()
        with pytest.raises(ringtable.ServerGone), ringtable.connect() as table:
            table["key"] = b"value"
        errors = server.communicate(timeout=DEADLINE_S)[1]
        assert server.returncode == 1
        assert "ringtable: the server has ended: " in errors.splitlines()[-1]
        assert os.listdir(os.environ["RINGTABLE_DIR"]) == []
