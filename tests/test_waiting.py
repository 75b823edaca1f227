"""Waiting for a value that somebody else computes: the server tells, nobody asks again and again."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ringtable
from ringtable import Table
from support import DEADLINE_S, Child, ServerProcess, Way, wait_until, way_to_a_table

# Over these a server can tell something later.
TOLD = ("lane", "socket", "tcp")
THREADS = 8


@pytest.fixture(params=TOLD)
def way(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[Way]:
    """A way to a table, for clients that a server can tell something later."""
    with way_to_a_table(request.param) as way:
        yield way


def lease(table: Table, key: str) -> int:
    """Take the lease of a key, which nobody has."""
    token = int(str(table.call("RING.LEASE", key)))
    assert token > 0
    return token


def give_back(table: Table, key: str, token: int) -> None:
    assert table.call("RING.UNLEASE", key, token) == 1


def wait_for_waiters(table: Table, count: int) -> None:
    """Wait until the server knows so many that wait."""
    wait_until(lambda: table.stats()["lease_waiters"] == count, f"{count} wait")


def never() -> bytes:
    raise AssertionError("somebody else computes this")


class Waiting(threading.Thread):
    """A thread that wants a value which somebody else computes."""

    def __init__(self, table: Table, key: str, timeout: float | None = None) -> None:
        super().__init__()
        self.table, self.key, self.timeout = table, key, timeout
        self.result: bytes | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.table.get_or_set(self.key, never, timeout=self.timeout)
        except Exception as error:  # the test looks which one it is
            self.result = error

    def outcome(self) -> bytes | Exception | None:
        self.join(DEADLINE_S)
        assert not self.is_alive(), "it waits for ever"
        return self.result


def test_smoke(way: Way, table: Table) -> None:
    token = lease(table, "key")
    with way.connect() as own:
        waiting = Waiting(own, "key")
        wait_for_waiters(table, 1)
        table["key"] = b"made"
        give_back(table, "key", token)
        assert waiting.outcome() == b"made"
    assert table.stats()["lease_waiters"] == 0


def test_nothing_is_asked_while_waiting(table: Table) -> None:
    """Over a lane a client that waits asks the server for nothing, however long that takes."""
    token = lease(table, "key")
    with ringtable.connect() as own:
        waiting = Waiting(own, "key")
        wait_for_waiters(table, 1)
        # What it has sent has been answered by now, and it has looked at the table for the last time before it sleeps.
        before = int(table.stats()["requests"])
        for _ in range(1_000):
            table.incr("others")
        assert int(table.stats()["requests"]) - before <= 1_000 + 2, "it asks while it waits"
        table["key"] = b"made"
        give_back(table, "key", token)
        assert waiting.outcome() == b"made"


def test_threads_wait_at_one_connection_while_another_one_calls(way: Way, table: Table, seed: int) -> None:
    """Each thread gets its own answer, in whatever order these come, and nobody else's call has to wait for that."""
    generator = random.Random(seed)
    keys = [f"key {number}" for number in range(THREADS)]
    tokens = {key: lease(table, key) for key in keys}
    with way.connect() as own:
        waiting = {key: Waiting(own, key) for key in keys}
        wait_for_waiters(table, THREADS)
        generator.shuffle(keys)
        for key in keys:
            for step in range(200):
                own["step"] = b"%d" % step
                assert own["step"] == b"%d" % step
                own.set("posted", b"%d" % step, writes="posted")
            table[key] = key.encode()
            give_back(table, key, tokens[key])
            # Also while it is in the middle of another call.
            own.flush()
            assert waiting.pop(key).outcome() == key.encode()
            assert all(thread.is_alive() for thread in waiting.values())
        assert own["posted"] == b"199"
    assert table.stats()["lease_waiters"] == 0


def test_the_first_that_asks_again_computes_when_there_is_no_value(way: Way, table: Table) -> None:
    token = lease(table, "key")
    computed = []

    def make() -> bytes:
        computed.append(threading.get_ident())
        return b"made"

    with way.connect() as own:
        results: list[bytes] = []
        threads = [threading.Thread(target=lambda: results.append(own.get_or_set("key", make))) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        wait_for_waiters(table, THREADS)
        give_back(table, "key", token)
        for thread in threads:
            thread.join(DEADLINE_S)
        assert results == [b"made"] * THREADS
    assert len(computed) == 1
    wait_until(lambda: table.stats()["leases"] == 0, "the lease is given back")


def test_one_that_gives_up_waits_no_more(way: Way, table: Table) -> None:
    token = lease(table, "key")
    with way.connect() as own:
        patient = Waiting(own, "key")
        hasty = Waiting(own, "key", timeout=0.2)
        assert isinstance(hasty.outcome(), ringtable.Timeout)
        wait_for_waiters(table, 1)
        table["key"] = b"made"
        give_back(table, "key", token)
        assert patient.outcome() == b"made"


def test_a_table_that_is_closed_ends_the_waiting_of_its_threads(way: Way, table: Table) -> None:
    token = lease(table, "key")
    own = way.connect()
    waiting = [Waiting(own, "key") for _ in range(3)]
    wait_for_waiters(table, 3)
    own.close()
    for thread in waiting:
        assert isinstance(thread.outcome(), ringtable.Closed)
    wait_for_waiters(table, 0)
    give_back(table, "key", token)


def test_all_threads_learn_that_the_server_has_gone(ringtable_dir: Path) -> None:
    with ServerProcess() as server, ringtable.connect() as table, ringtable.connect() as own:
        lease(table, "key")
        waiting = [Waiting(own, "key") for _ in range(3)]
        wait_for_waiters(table, 3)
        server.kill()
        for thread in waiting:
            assert isinstance(thread.outcome(), ringtable.ServerGone)


def wait_and_handle(way: Way) -> bytes:
    """Waits, and uses the same table in a signal handler meanwhile."""
    with way.connect() as own:
        signal.signal(signal.SIGUSR1, lambda *_: own.set("handled", b"by the same connection"))
        return own.get_or_set("key", never)


def test_a_signal_handler_may_use_the_table_that_waits(way: Way, table: Table) -> None:
    token = lease(table, "key")
    with Child(wait_and_handle, way) as child:
        wait_for_waiters(table, 1)
        os.kill(child.pid, signal.SIGUSR1)
        wait_until(lambda: "handled" in table, "the handler has run")
        table["key"] = b"made"
        give_back(table, "key", token)
        assert child.result() == b"made"


def fork_while_waiting(way: Way) -> tuple[bytes, bytes | Exception | None]:
    """Has a child of its own while threads wait at its connection."""
    with way.connect() as own:
        waiting = Waiting(own, "key")
        wait_for_waiters(own, 1)
        with Child(lambda: own.get_or_set("another key", lambda: b"a child's")) as child:
            childs = child.result()
        own["key"] = b"made"
        return childs, waiting.outcome()


def test_a_forked_child_does_not_wait_for_its_parent_s_threads(way: Way, table: Table) -> None:
    lease(table, "key")
    with Child(fork_while_waiting, way) as child:
        assert child.result() == (b"a child's", b"made")


def test_many_processes_are_told_at_once(way: Way, table: Table) -> None:
    token = lease(table, "key")

    def wait() -> bytes:
        with way.connect() as own:
            return own.get_or_set("key", never)

    with ExitStack() as stack:
        children = [stack.enter_context(Child(wait)) for _ in range(16)]
        wait_for_waiters(table, 16)
        table["key"] = b"made"
        give_back(table, "key", token)
        assert [child.result() for child in children] == [b"made"] * 16
    assert table.stats()["lease_waiters"] == 0
