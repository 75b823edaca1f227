"""Values that one process computes while the others wait: leases, and what becomes of them when their holders end."""

import itertools
import os
import random
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import ringtable
from ringtable import Table
from ringtable._ringtable import socket_path
from support import (
    CONNECTIONS,
    DEADLINE_S,
    Child,
    Closing,
    Flag,
    RawConnection,
    ServerProcess,
    Way,
    connect_in,
    wait_until,
    way_to_a_table,
)

PROCESSES = 8
KILLS = 16
LEASES_MAX = 16_384


@pytest.fixture(params=CONNECTIONS)
def way(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[Way]:
    """A way to a table, for clients whose end the server sees."""
    with way_to_a_table(request.param) as way:
        yield way


class Calls(Closing):
    """Who computes: a pipe that each process writes its number to when it begins."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()

    def begin(self, number: int) -> None:
        os.write(self._write_end, bytes([number]))

    def next(self) -> int:
        assert select.select([self._read_end], [], [], DEADLINE_S)[0], "nobody computes"
        return os.read(self._read_end, 1)[0]

    def none_left(self) -> bool:
        return not select.select([self._read_end], [], [], 0)[0]

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)


def lease(table: Table, key: str = "key") -> int:
    return int(str(table.call("RING.LEASE", key)))


def leases(table: Table) -> int:
    return int(table.stats()["leases"])


def waiters(table: Table) -> int:
    return int(table.stats()["lease_waiters"])


def wait_until_free(table: Table, key: str = "key") -> None:
    """Wait until nobody has the lease of a key, and give it back."""
    token = 0

    def granted() -> int:
        nonlocal token
        token = lease(table, key)
        return token

    wait_until(granted, "the lease is free")
    assert table.call("RING.UNLEASE", key, token) == 1


def compute(way: Way, number: int, calls: Calls, go: Flag, result: Callable[[int], bytes]) -> bytes:
    """A process that wants the value, and that waits for `go` if it is the one that computes it."""

    def make() -> bytes:
        calls.begin(number)
        go.wait()
        return result(number)

    with way.connect() as table:
        table.incr("waiting")
        return table.get_or_set("key", make)


def value_of(number: int) -> bytes:
    return b"made by %d" % number


def wait_until_all_want_it(table: Table) -> None:
    wait_until(lambda: table.get("waiting") == b"%d" % PROCESSES, "all processes want the value")


def wait_until_they_wait(way: Way, table: Table) -> None:
    """All but one have been refused by then, as the server counts."""
    wait_until_all_want_it(table)
    if way.options.get("transport") == "rings":
        # Nobody tells them: they ask again and again.
        requests = int(table.stats()["requests"])
        wait_until(lambda: int(table.stats()["requests"]) > requests + 10 * PROCESSES, "they wait")
    else:
        wait_until(lambda: table.stats()["lease_waiters"] == PROCESSES - 1, "they wait")


def test_smoke(table: Table) -> None:
    assert table.get_or_set("key", lambda: b"made") == b"made"
    assert table["key"] == b"made"
    assert table.get_or_set("key", lambda: b"again") == b"made"
    assert leases(table) == 0
    assert table.stats()["leases_granted"] == 1


# Leases themselves


def test_a_lease_is_one_connection_s(way: Way, table: Table) -> None:
    with way.connect() as other:
        token = lease(table)
        assert token > 0
        assert lease(table) == 0
        assert lease(other) == 0
        assert lease(other, "other key") > token
        assert other.call("RING.UNLEASE", "key", token) == 0
        assert table.call("RING.UNLEASE", "key", token + 1) == 0
        assert table.call("RING.UNLEASE", "other key", token) == 0
        assert table.call("RING.UNLEASE", "key", token) == 1
        assert table.call("RING.UNLEASE", "key", token) == 0
        assert lease(other) > token


def test_a_lease_can_be_named_by_its_ticket(table: Table) -> None:
    assert int(str(table.call("RING.LEASE", "key", 7))) > 0
    assert table.call("RING.UNLEASE", "key", "TICKET", 6) == 0
    assert table.call("RING.UNLEASE", "key", "TICKET", 7) == 1
    for command in ("RING.LEASE key 0", "RING.UNLEASE key 0", "RING.UNLEASE key TICKET -1"):
        with pytest.raises(ringtable.NotAnInteger):
            table.call(*command.split())
    with pytest.raises(ringtable.CommandError, match="syntax"):
        table.call("RING.UNLEASE", "key", "NAME", 1)
    with pytest.raises(ringtable.KeyTooLong):
        table.call("RING.LEASE", b"k" * (ringtable.KEY_SIZE_MAX + 1))


def test_a_lease_guards_nothing(way: Way, table: Table) -> None:
    assert lease(table) > 0
    with way.connect() as other:
        other["key"] = b"1"
        assert other.get_or_set("key", lambda: b"made") == b"1"
        other.clear()
    assert lease(table) == 0


def test_leases_end_with_closing(way: Way, table: Table) -> None:
    with way.connect() as other:
        assert lease(other) > 0
        assert lease(other, "other key") > 0
        assert leases(table) == 2
    wait_until(lambda: leases(table) == 0, "the leases of a closed table have ended")
    assert lease(table) > 0


def test_leases_end_with_quit(way: Way, table: Table) -> None:
    with way.connect() as other:
        assert lease(other) > 0
        other.call("QUIT")
        wait_until_free(table)
        assert leases(table) == 0


def test_leases_end_with_a_kill(way: Way, table: Table) -> None:
    def hold() -> None:
        with way.connect() as own:
            assert lease(own) > 0
            held.set()
            signal.pause()

    with Flag() as held, Child(hold) as child:
        held.wait()
        assert lease(table) == 0
        child.kill()
        wait_until_free(table)


def own_sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    found: set[int] = set()
    for path in Path("/proc/self/fd").iterdir():
        # The directory's own descriptor was listed, too, and is closed by now.
        with suppress(FileNotFoundError):
            if os.readlink(path).startswith("socket:"):
                found.add(int(path.name))
    return found


def test_leases_end_when_the_server_ends_the_connection(way: Way, table: Table) -> None:
    def misbehave() -> None:
        before = own_sockets()
        with way.connect() as own:
            assert lease(own) > 0
            # Nonsense in any case; over shared memory the socket is but a sign of life, and stays open on this side.
            os.write(min(own_sockets() - before), b"*nonsense\r\n")
            held.set()
            go.wait()

    with Flag() as held, Flag() as go, Child(misbehave) as child:
        held.wait()
        wait_until_free(table)
        go.set()
        child.result()


def test_leases_of_a_redis_client_end_with_its_connection(ringtable_dir: Path) -> None:
    with way_to_a_table("lane") as way, way.connect() as table:
        with RawConnection(socket_path("default")) as raw:
            assert raw.command(b"RING.LEASE", b"key") > 0
            assert lease(table) == 0
        wait_until_free(table)


def test_a_child_does_not_give_back_what_its_parent_has(way: Way, table: Table) -> None:
    token = lease(table)
    with Child(lambda: table.call("RING.UNLEASE", "key", token)) as child:
        assert child.result() == 0
    assert lease(table) == 0
    assert table.call("RING.UNLEASE", "key", token) == 1


def test_the_limit_of_leases(way: Way, table: Table) -> None:
    with way.connect() as other:
        pipeline = other.pipeline()
        for index in range(LEASES_MAX):
            pipeline.call("RING.LEASE", b"%d" % index)
        assert all(pipeline.execute())
        with pytest.raises(ringtable.CommandError, match=r"LEASES .*16384"):
            lease(table)
        with pytest.raises(ringtable.CommandError, match="LEASES"):
            table.get_or_set("key", lambda: b"made")
        table["key"] = b"1"
        assert table.get_or_set("key", lambda: b"made") == b"1"
        del table["key"]
    wait_until(lambda: leases(table) == 0, "the leases have ended")
    assert table.get_or_set("key", lambda: b"made") == b"made"


# Computing once


def test_a_value_is_computed_once(way: Way, table: Table) -> None:
    with Calls() as calls, Flag() as go, ExitStack() as stack:
        children = [
            stack.enter_context(Child(compute, way, number, calls, go, value_of)) for number in range(PROCESSES)
        ]
        number = calls.next()
        wait_until_all_want_it(table)
        go.set()
        assert [child.result() for child in children] == [value_of(number)] * PROCESSES
        assert calls.none_left()
    wait_until(lambda: leases(table) == 0, "the lease was given back")


def test_another_one_computes_when_the_first_is_killed(way: Way, table: Table) -> None:
    with Calls() as calls, Flag() as go, ExitStack() as stack:
        children = [
            stack.enter_context(Child(compute, way, number, calls, go, value_of)) for number in range(PROCESSES)
        ]
        first = calls.next()
        wait_until_all_want_it(table)
        os.kill(children[first].pid, signal.SIGKILL)
        killed_at = time.perf_counter()
        second = calls.next()
        print(f"another process began {(time.perf_counter() - killed_at) * 1e3:.1f} ms after the kill")
        children.pop(first).kill()
        go.set()
        assert second != first
        assert [child.result() for child in children] == [value_of(second)] * (PROCESSES - 1)
        assert calls.none_left()


def churn(way: Way, begun: Flag) -> None:
    """Want values again and again, and drop some, until killed."""
    with way.connect() as table:
        begun.set()
        for step in itertools.count():
            key = f"key {step % 5}"
            assert table.get_or_set(key, lambda key=key: key.encode()) == key.encode()  # type: ignore[misc]
            table.delete(key)


def test_no_lease_outlives_those_who_are_killed_at_any_moment(way: Way, table: Table, seed: int) -> None:
    generator = random.Random(seed)
    with ExitStack() as stack:
        churning: list[Child] = []
        for _ in range(KILLS):
            begun = stack.enter_context(Flag())
            churning.append(stack.enter_context(Child(churn, way, begun)))
            begun.wait()
            if len(churning) == 4:
                # Not to wait for anything: this is the random moment of its end.
                time.sleep(generator.random() / 100)
                churning.pop(generator.randrange(4)).kill()
        for child in churning:
            child.kill()
    wait_until(lambda: leases(table) == 0, "no lease is left")
    table.clear()
    for key in ("key 0", "key 1", "key 2", "key 3", "key 4"):
        assert table.get_or_set(key, lambda: b"made") == b"made"


def test_an_exception_is_its_caller_s_and_the_next_one_computes(way: Way, table: Table) -> None:
    def fail(number: int) -> bytes:
        raise ValueError(f"of {number}")

    def run(number: int, calls: Calls, go: Flag, result: Callable[[int], bytes]) -> str | bytes:
        try:
            return compute(way, number, calls, go, result)
        except ValueError as error:
            return str(error)

    with Calls() as calls, Flag() as go, Child(run, 0, calls, go, fail) as failing:
        assert calls.next() == 0
        with Child(run, 1, calls, go, value_of) as waiting:
            wait_until(lambda: table.get("waiting") == b"2", "both processes want the value")
            go.set()
            assert failing.result() == "of 0"
            assert calls.next() == 1
            assert waiting.result() == value_of(1)
    assert leases(table) == 0


def test_what_is_no_value_is_not_written(table: Table) -> None:
    for nonsense in (5, "text", None):
        with pytest.raises(TypeError):
            table.get_or_set("key", lambda made=nonsense: made)  # type: ignore[misc]
    assert leases(table) == 0
    assert "key" not in table
    assert table.get_or_set("key", lambda: bytearray(b"made")) == b"made"


# What cannot be written, and what cannot be computed


def fill(table: Table) -> None:
    """Write until there is no room for another value of a few KiB and more."""
    for size in (1 << 20, 64 << 10, 8 << 10, 2 << 10):
        with suppress(ringtable.OutOfMemory):
            for number in itertools.count():
                table[f"{size} {number}"] = bytes(size)


def test_a_value_that_cannot_be_written_is_returned(table: Table) -> None:
    """All who wanted it computed it, one after the other, and each got the error."""
    large = bytes(80 << 20)
    with pytest.warns(RuntimeWarning, match=rf"'key', of {80 << 20} bytes.* no place for.*leases_not_stored"):
        assert table.get_or_set("key", lambda: large) == large
    # It warns once, and counts each.
    assert table.get_or_set("key", lambda: large) == large
    assert (leases(table), table.stats()["leases_not_stored"]) == (0, 2)
    assert "key" not in table
    fits = b"v" * (4 << 20)
    assert table.get_or_set("key", lambda: fits) == fits
    assert table.get_or_set("key", lambda: b"again") == fits


def test_a_value_beyond_all_limits_is_returned(table: Table) -> None:
    # Zeroes that were never touched take no memory.
    huge = bytes(ringtable.VALUE_SIZE_MAX + 1)
    with pytest.warns(RuntimeWarning, match="536870913"):
        assert table.get_or_set("key", lambda: huge) is huge
    assert (leases(table), table.stats()["leases_not_stored"]) == (0, 1)


def test_who_makes_an_error_of_the_warning_gets_it(table: Table) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="no place"):
            table.get_or_set("key", lambda: bytes(80 << 20))
    assert leases(table) == 0


def test_a_value_that_cannot_be_written_is_given_to_those_who_wait(way: Way, table: Table) -> None:
    table["waiting"] = b"0"
    fill(table)
    small, large = 10_000, 1 << 20
    give_to_those_who_wait(way, table, small)
    assert (leases(table), table.stats()["leases_not_stored"]) == (0, 1)
    # There is room for this one again.
    table.delete("waiting")
    table["waiting"] = b"0"
    give_to_those_who_wait(way, table, large)
    assert (leases(table), table.stats()["leases_not_stored"]) == (0, 2)
    # Nothing is a cache here: who comes now computes.
    with pytest.warns(RuntimeWarning):
        assert table.get_or_set("key", lambda: b"n" * large) == b"n" * large
    assert "key" not in table


def give_to_those_who_wait(way: Way, table: Table, size: int) -> None:
    def unwritten(number: int) -> bytes:
        return bytes([number]) * size

    def want(number: int) -> tuple[bytes, int]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = compute(way, number, calls, go, unwritten)
        return value, len(caught)

    with Calls() as calls, Flag() as go, ExitStack() as stack:
        children = [stack.enter_context(Child(want, number)) for number in range(PROCESSES)]
        number = calls.next()
        wait_until_they_wait(way, table)
        go.set()
        results = [child.result() for child in children]
        assert [value for value, _ in results] == [unwritten(number)] * PROCESSES
        assert [caught for _, caught in results] == [int(index == number) for index in range(PROCESSES)]
        assert calls.none_left()


def test_a_lease_that_was_waited_for_may_be_handed_over(way: Way, table: Table) -> None:
    token = lease(table)
    with way.connect() as other:
        assert other.call("RING.LEASE", "key", 1, "AFTER", 0) == -token
        assert other.call("RING.HANDOVER", "key", token, "UNSTORED", b"value") == 0
        assert table.call("RING.HANDOVER", "key", token, "UNSTORED", b"value") == 1
        assert table.call("RING.HANDOVER", "key", token, "UNSTORED", b"value") == 0
        for _ in range(2):
            assert other.call("RING.LEASE", "key", 1, "AFTER", token) == b"value"
        later = lease(other)
        assert later > token
        assert other.call("RING.HANDOVER", "key", later, "FAILED") == 1
        assert table.call("RING.LEASE", "key", 1, "AFTER", token) is None
        assert lease(table) > later
    for command in ("RING.LEASE key 1 AFTER", "RING.LEASE key 1 BEFORE 1", "RING.HANDOVER key 1 FAILED value"):
        with pytest.raises(ringtable.CommandError, match="syntax"):
            table.call(*command.split())
    for command in ("RING.LEASE key 1 AFTER -1", "RING.HANDOVER key 0 FAILED"):
        with pytest.raises(ringtable.NotAnInteger):
            table.call(*command.split())


def failing() -> bytes:
    raise ValueError("no luck")


STALE_IF_ERROR: dict[str, Any] = {"ttl": 0.001, "stale_if_error": timedelta(hours=1)}


def test_an_old_value_will_do_when_computing_fails(table: Table) -> None:
    table.set("key", b"old", ttl=60)
    with pytest.warns(RuntimeWarning, match="old value of 'key'.*ValueError: no luck.*leases_stale_on_error"):
        assert table.get_or_set("key", failing, **STALE_IF_ERROR) == b"old"
    assert table.get_or_set("key", failing, **STALE_IF_ERROR) == b"old"
    assert (leases(table), table.stats()["leases_stale_on_error"]) == (0, 2)
    # Nobody uses it without having tried.
    assert table.get_or_set("key", lambda: b"new", **STALE_IF_ERROR) == b"new"
    assert 3_590 < (table.ttl("key") or 0) <= 3_600.1


def test_an_error_without_an_old_value_that_will_do(table: Table) -> None:
    with pytest.raises(ValueError, match="no luck"):
        table.get_or_set("key", failing, **STALE_IF_ERROR)
    table.set("key", b"old", ttl=60)
    # It is stale for too long already: an hour less the minute that it has left.
    impossible: list[dict[str, Any]] = [{"ttl": 1, "stale": 3_600, "stale_if_error": 60}, {"ttl": 1, "stale": 3_600}]
    for options in impossible:
        with pytest.raises(ValueError, match="no luck"):
            table.get_or_set("key", failing, **options)
    # What ends programs ends this call.
    with pytest.raises(SystemExit):
        table.get_or_set("key", lambda: sys.exit(1), **STALE_IF_ERROR)
    assert (leases(table), table.stats()["leases_stale_on_error"], table["key"]) == (0, 0, b"old")


def test_those_who_wait_get_the_old_value_when_computing_fails(way: Way, table: Table) -> None:
    def want(number: int) -> tuple[bytes, int]:
        def make() -> bytes:
            calls.begin(number)
            go.wait()
            return failing()

        with way.connect() as own, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            own.incr("waiting")
            return own.get_or_set("key", make, **STALE_IF_ERROR), len(caught)

    table.set("key", b"old", ttl=60)
    with Calls() as calls, Flag() as go, ExitStack() as stack:
        children = [stack.enter_context(Child(want, number)) for number in range(PROCESSES)]
        number = calls.next()
        wait_until_they_wait(way, table)
        go.set()
        results = [child.result() for child in children]
        assert results == [(b"old", int(index == number)) for index in range(PROCESSES)]
        assert calls.none_left()
    assert (leases(table), table.stats()["leases_stale_on_error"]) == (0, 1)


def test_an_old_value_will_do_when_waiting_takes_too_long(way: Way, table: Table) -> None:
    token = lease(table)
    table.set("key", b"old", ttl=60)
    with way.connect() as other:
        assert other.get_or_set("key", lambda: b"never", **STALE_IF_ERROR, timeout=1.0) == b"old"
        table.delete("key")
        with pytest.raises(ringtable.Timeout):
            other.get_or_set("key", lambda: b"never", **STALE_IF_ERROR, timeout=0.1)
    assert table.call("RING.UNLEASE", "key", token) == 1


def test_a_table_without_room_for_anything_but_the_old_value(table: Table) -> None:
    table.set("key", b"old", ttl=60)
    fill(table)
    with pytest.warns(RuntimeWarning, match="no place"):
        assert table.get_or_set("key", lambda: bytes(10_000), 0.001, stale=3_600) == bytes(10_000)
    assert table["key"] == b"old"


def test_an_error_of_a_posted_write_does_not_keep_the_lease(way: Way, table: Table) -> None:
    with way.connect() as own:

        def make() -> bytes:
            own.set("large", bytes(80 << 20), writes="posted")
            return b"made"

        # It surfaces at a later request: that of writing the value, or that of giving the lease back.
        with pytest.raises(ringtable.OutOfMemory):
            own.get_or_set("key", make)
        wait_until(lambda: leases(table) == 0, "the lease was given back")


def test_a_wait_that_ends_leaves_the_error_of_a_posted_write_to_a_call(way: Way, table: Table) -> None:
    """The word that nobody waits any more took the error, and was not sent."""
    token = lease(table)
    # Reads in place ask for nothing, where there are some: so the waiting itself meets no error.
    with way.connect() as own, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(own.get_or_set, "key", lambda: b"made", timeout=1.0)
        wait_until(lambda: waiters(table) == 1 or own.transport == "rings", "it waits")
        # Over rings this waits for the error itself.
        posted = error_of(lambda: own.set("large", bytes(80 << 20), writes="posted"))
        errors = [type(error) for error in (posted, waiting.exception(DEADLINE_S), error_of(own.flush))]
        assert errors.count(ringtable.OutOfMemory) == 1, errors
        wait_until(lambda: waiters(table) == 0, "the wait was called off")
    assert table.call("RING.UNLEASE", "key", token) == 1


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_a_wait_that_ends_while_another_thread_has_the_connection_is_called_off(
    server_process: ServerProcess, transport: Literal["lane", "socket"]
) -> None:
    """The word that nobody waits any more was not sent, and the server kept the wait as long as the connection."""
    with Table() as other, Table(transport=transport, reads="server") as own, ThreadPoolExecutor(2) as threads:
        token = lease(other)
        waiting = threads.submit(own.get_or_set, "key", lambda: b"made", timeout=2.0)
        wait_until(lambda: waiters(other) == 1, "it waits")
        server_process.freeze()
        # It has the connection until the server answers.
        counting = threads.submit(own.incr, "count")
        assert isinstance(waiting.exception(DEADLINE_S), ringtable.Timeout)
        server_process.signal(signal.SIGCONT)
        assert counting.result(DEADLINE_S) == 1
        wait_until(lambda: waiters(other) == 0, "the wait was called off")
        assert other.call("RING.UNLEASE", "key", token) == 1


def error_of(call: Callable[[], object]) -> ringtable.Error | None:
    try:
        call()
    except ringtable.Error as error:
        return error
    return None


def ask_for_what_one_computes(asking: Table) -> Callable[[], bytes]:
    """A function to compute the value of "key", which asks for it; the computing is in a `Table` of the same server."""

    def make() -> bytes:
        begun = time.monotonic()
        with pytest.raises(ringtable.Reentrant, match="'key'"):
            asking.get_or_set("key", lambda: b"never", timeout=DEADLINE_S)
        assert time.monotonic() - begun < DEADLINE_S / 2
        return b"value"

    return make


def test_a_thread_does_not_wait_for_itself(way: Way, table: Table) -> None:
    """It waited for ever, or until a time-out that blamed another client."""
    with way.connect() as another:
        for asking in (table, another):
            assert table.get_or_set("key", ask_for_what_one_computes(asking)) == b"value"
            assert leases(table) == 0
            assert table.delete("key") == 1

    # Whoever asks goes on when what it has asked for has failed.
    def ask_and_fail() -> bytes:
        return table.get_or_set("key", lambda: b"never")

    with pytest.raises(ringtable.Reentrant):
        table.get_or_set("key", ask_and_fail)
    assert table.get_or_set("key", lambda: b"value") == b"value"


def test_a_thread_may_compute_one_value_for_another(table: Table) -> None:
    def outer() -> bytes:
        inner = table.get_or_set("inner", ask_for_what_one_computes(table))
        assert table.get_or_set("inner", lambda: b"never") == inner
        return b"outer " + inner

    assert table.get_or_set("key", outer) == b"outer value"
    assert (table["inner"], leases(table)) == (b"value", 0)


def test_who_computes_anew_may_use_the_old_value(table: Table) -> None:
    table.set("key", b"old", ttl=60)
    stale: dict[str, Any] = {"ttl": 0.001, "stale": 3_600}
    made = table.get_or_set("key", lambda: table.get_or_set("key", lambda: b"never", **stale) + b" and new", **stale)
    assert made == b"old and new"


def test_another_thread_waits(table: Table) -> None:
    def make() -> bytes:
        with ThreadPoolExecutor(1) as pool, pytest.raises(ringtable.Timeout, match="lease"):
            pool.submit(table.get_or_set, "key", lambda: b"never", timeout=0.2).result()
        return b"value"

    assert table.get_or_set("key", make) == b"value"


def test_a_child_waits_for_its_parent(way: Way, table: Table) -> None:
    def ask() -> str:
        try:
            table.get_or_set("key", lambda: b"never", timeout=0.2)
        except ringtable.Error as error:
            return type(error).__name__
        return "computed"

    def make() -> bytes:
        with Child(ask) as child:
            return str(child.result()).encode()

    assert table.get_or_set("key", make) == b"Timeout"


def test_greenlets_of_one_thread_do_not_wait_for_each_other(table: Table) -> None:
    """As under gevent: the one that computes goes on only when the one that asks gives way."""
    greenlet = pytest.importorskip("greenlet")
    main = greenlet.getcurrent()

    def make() -> bytes:
        main.switch("computing")
        return b"value"

    computing = greenlet.greenlet(lambda: table.get_or_set("key", make))
    assert computing.switch() == "computing"
    asking = greenlet.greenlet(lambda: table.get_or_set("key", lambda: b"never", timeout=DEADLINE_S))
    with pytest.raises(ringtable.Reentrant, match="another task"):
        asking.switch()
    other = greenlet.greenlet(lambda: table.get_or_set("other", lambda: b"another value"))
    assert other.switch() == b"another value"
    assert computing.switch() == b"value"
    assert table.get_or_set("key", lambda: b"never") == b"value"


def test_threads_of_one_table_compute_once(table: Table) -> None:
    count = 8
    barrier, calls, results = threading.Barrier(count), [], []

    def make() -> bytes:
        calls.append(threading.get_ident())
        wait_until(lambda: table.incr("looked") > 20, "others had time to look")
        return b"made"

    def work() -> None:
        barrier.wait(DEADLINE_S)
        results.append(table.get_or_set("key", make))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert results == [b"made"] * count
    assert len(calls) == 1
    assert leases(table) == 0


def test_who_posts_its_writes_has_written_when_it_gives_the_lease_back(way: Way, table: Table) -> None:
    with way.connect(writes="posted") as posting:
        assert posting.get_or_set("key", lambda: b"made") == b"made"
        assert table["key"] == b"made"


# Waiting


def test_waiting_ends_with_a_timeout(way: Way, table: Table) -> None:
    token = lease(table)
    # Long enough to connect, and to be refused, on a machine that is busy.
    with way.connect(timeout=0.5) as other:
        with pytest.raises(ringtable.Timeout, match=r"0\.5 s.*lease"):
            other.get_or_set("key", lambda: b"made")
        with pytest.raises(ringtable.Timeout, match=r"0\.25 s.*lease"):
            other.get_or_set("key", lambda: b"made", timeout=0.25)
        # That is for waiting for others: the server may take longer to answer.
        for key in range(50):
            assert other.get_or_set(f"key {key}", lambda: b"made", timeout=0) == b"made"
        with pytest.raises(ringtable.Timeout, match=r"within 0 s.*lease"):
            other.get_or_set("key", lambda: b"made", timeout=0)
        assert table.call("RING.UNLEASE", "key", token) == 1
        assert other.get_or_set("key", lambda: b"made") == b"made"


def test_waiting_ends_when_anybody_writes_the_value(way: Way, table: Table) -> None:
    def wait() -> bytes:
        with way.connect() as own:
            own.incr("waiting")
            return own.get_or_set("key", lambda: b"made")

    assert lease(table) > 0
    with Child(wait) as child:
        wait_until(lambda: "waiting" in table, "the child wants the value")
        table["key"] = b"written"
        assert child.result() == b"written"


def test_waiting_ends_with_ctrl_c(way: Way, table: Table) -> None:
    def wait() -> str:
        with way.connect() as own:
            try:
                own.incr("waiting")
                own.get_or_set("key", lambda: b"made")
            except KeyboardInterrupt:
                own["after"] = b"works"
                return "interrupted"
        return "not interrupted"

    token = lease(table)
    with Child(wait) as child:
        wait_until(lambda: "waiting" in table, "the child wants the value")
        os.kill(child.pid, signal.SIGINT)
        assert child.result() == "interrupted"
    assert table["after"] == b"works"
    assert table.call("RING.UNLEASE", "key", token) == 1
    wait_until_free(table)


def test_ctrl_c_while_computing_gives_the_lease_back(way: Way, table: Table) -> None:
    def interrupted() -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
        return b"made"

    def run() -> str:
        with way.connect() as own:
            try:
                own.get_or_set("key", interrupted)
            except KeyboardInterrupt:
                return f"{leases(own)} leases"
        return "not interrupted"

    with Child(run) as child:
        assert child.result() == "0 leases"
    assert "key" not in table


def test_a_lease_that_comes_too_late_is_given_back(ringtable_dir: Path) -> None:
    with ServerProcess() as server, connect_in(0.1) as table:
        server.freeze()
        # The request is on its way, and will be granted when nobody waits for it any more.
        with pytest.raises(ringtable.Timeout):
            table.get_or_set("key", lambda: b"made")
        server.signal(signal.SIGCONT)
        with ringtable.connect() as other:
            wait_until(lambda: other.stats()["leases_granted"] == 1, "the server has granted the lease")
            wait_until_free(other)
            assert other.get_or_set("key", lambda: b"made") == b"made"


def test_waiting_ends_with_the_server(ringtable_dir: Path) -> None:
    def wait() -> str:
        with ringtable.connect() as own:
            own.incr("waiting")
            try:
                own.get_or_set("key", lambda: b"made")
            except ringtable.ServerGone:
                return "gone"
        return "there"

    with ServerProcess() as server, ringtable.connect() as table:
        assert lease(table) > 0
        with Child(wait) as child:
            wait_until(lambda: "waiting" in table, "the child wants the value")
            server.kill()
            assert child.result() == "gone"


# Stale values


def test_a_stale_value_is_used_while_one_process_computes(way: Way, table: Table) -> None:
    ttl, stale = 0.05, 1_000.0

    def refresh(go: Flag, calls: Calls) -> bytes:
        def make() -> bytes:
            calls.begin(0)
            go.wait()
            return b"new"

        with way.connect() as own:
            return own.get_or_set("key", make, ttl, stale=stale)

    assert table.get_or_set("key", lambda: b"old", ttl, stale=stale) == b"old"
    assert table.get_or_set("key", lambda: b"too early", 1.0, stale=0.001) == b"old"
    wait_until(lambda: (table.ttl("key") or 0) < stale, "the value is stale")
    with Flag() as go, Calls() as calls, Child(refresh, go, calls) as child:
        calls.next()
        for _ in range(100):
            assert table.get_or_set("key", lambda: b"not computed", ttl, stale=stale) == b"old"
        go.set()
        assert child.result() == b"new"
    assert table["key"] == b"new"
    assert table.get_or_set("key", lambda: b"too early", 1.0, stale=0.001) == b"new"


def test_a_failure_leaves_the_stale_value(table: Table) -> None:
    def fail() -> bytes:
        raise ValueError("on purpose")

    table.set("key", b"old", ttl=5)
    with pytest.raises(ValueError, match="on purpose"):
        table.get_or_set("key", fail, 1, stale=10)
    assert table["key"] == b"old"
    assert leases(table) == 0
    assert table.get_or_set("key", lambda: b"new", 1, stale=10) == b"new"


def test_what_never_expires_is_never_stale(table: Table) -> None:
    table["key"] = b"old"
    assert table.get_or_set("key", lambda: b"new", 1, stale=10) == b"old"


def test_times_of_values_that_become_stale(table: Table) -> None:
    table.get_or_set("key", lambda: b"made", 10, stale=90)
    assert 99 < (table.ttl("key") or 0) <= 100
    table.get_or_set("plain", lambda: b"made", 10)
    assert 9 < (table.ttl("plain") or 0) <= 10
    table.get_or_set("lasting", lambda: b"made")
    assert table.ttl("lasting") is None


@pytest.mark.parametrize(
    "options",
    [
        {"stale": 1.0},
        {"ttl": 1, "stale": -1.0},
        {"ttl": 1, "stale": float("nan")},
        {"stale_if_error": 1.0},
        {"ttl": 1, "stale_if_error": timedelta(-1)},
        {"ttl": 4e9, "stale": 1, "stale_if_error": 2},
        {"ttl": 0},
        {"timeout": -1},
    ],
)
def test_impossible_times(options: dict[str, Any]) -> None:
    with (
        way_to_a_table("lane") as way,
        way.connect() as table,
        pytest.raises(ringtable.InvalidOption, match=next(reversed(options))),
    ):
        table.get_or_set("key", lambda: b"made", **options)
