"""Answers that come later: who waits for a lease is told, by a push, or in place of the reply; and nobody else is."""

import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest
import ringtable
from ringtable import Server, Table
from support import (
    Address,
    Child,
    Flag,
    RawConnection,
    ServerProcess,
    connected,
    figure,
    resp,
    wait_until,
    way_to_a_table,
)

MIB = 1 << 20
BACKLOG_MAX = 32 * MIB
"""`REQUEST_BACKLOG_MAX` in limits.rs."""
WAITERS_PER_CONNECTION_MAX = 4_096
"""`LEASE_WAITERS_PER_CONNECTION_MAX` in limits.rs."""
KEY_SIZE_MAX = 65_535


@pytest.fixture
def holder(address: Address) -> Iterator[RawConnection]:
    """A connection that has leases."""
    with RawConnection(address) as connection:
        yield connection


@pytest.fixture
def waiter(address: Address) -> Iterator[RawConnection]:
    """A connection that speaks version 3 of the protocol."""
    with version_3(address) as connection:
        yield connection


@pytest.fixture
def parked(address: Address) -> Iterator[RawConnection]:
    """A connection that speaks version 2."""
    with RawConnection(address) as connection:
        yield connection


def version_3(address: Address) -> RawConnection:
    connection = RawConnection(address)
    assert connection.command(b"HELLO", b"3")[b"proto"] == 3
    return connection


def has_changed(name: str, before: int) -> bool:
    return figure(name) != before


def wait_for_waiters(count: int) -> None:
    wait_until(lambda: figure("lease_waiters") == count, f"{count} wait")


def lease(connection: RawConnection, key: bytes = b"key") -> int:
    token = connection.command(b"RING.LEASE", key)
    assert token > 0
    return int(token)


def unlease(connection: RawConnection, token: int, key: bytes = b"key") -> None:
    assert connection.command(b"RING.UNLEASE", key, b"%d" % token) == 1


def wait(token: int, ticket: int, key: bytes = b"key") -> bytes:
    """The request."""
    return resp(b"RING.WAIT", key, b"%d" % token, b"%d" % ticket)


def pend(connection: RawConnection, token: int, ticket: int, key: bytes = b"key") -> None:
    """Have a connection of version 3 wait."""
    connection.send(wait(token, ticket, key))
    assert connection.reply() == b"PENDING %d" % ticket


def told(ticket: int) -> tuple[bytes, int, bytes]:
    """The push."""
    return b"ring.answer", ticket, b"OK"


def nothing_comes(connection: RawConnection) -> bool:
    """Whether nothing was on its way to a connection: pushes that were would come before the reply to this."""
    return bool(connection.command(b"ECHO", b"nothing") == b"nothing")


def test_smoke(holder: RawConnection, waiter: RawConnection, parked: RawConnection) -> None:
    token = lease(holder)
    pend(waiter, token, 7)
    parked.send(wait(token, 7))
    wait_for_waiters(2)
    unlease(holder, token)
    assert waiter.reply() == told(7)
    assert parked.reply() == b"OK"
    assert nothing_comes(waiter)
    assert nothing_comes(parked)
    for connection in (waiter, parked):
        connection.send(wait(token, 8))
        assert connection.reply() == b"OK"
    assert figure("lease_waiters") == 0


def test_there_is_nothing_to_wait_for(holder: RawConnection, waiter: RawConnection) -> None:
    """No lease, another key's, an older one of the key, or one that nobody was ever granted."""
    token = lease(holder)
    unlease(holder, token)
    newer = lease(holder)
    for key, wanted in ((b"other", newer), (b"key", token), (b"key", newer + 1)):
        waiter.send(wait(wanted, 1, key))
        assert waiter.reply() == b"OK"
    pend(waiter, newer, 1)
    unlease(holder, newer)
    assert waiter.reply() == told(1)


def test_a_handover_is_an_end(holder: RawConnection, waiter: RawConnection, parked: RawConnection) -> None:
    token = lease(holder)
    pend(waiter, token, 1)
    parked.send(wait(token, 1))
    wait_for_waiters(2)
    assert holder.command(b"RING.HANDOVER", b"key", b"%d" % token, b"UNSTORED", b"value") == 1
    assert waiter.reply() == told(1)
    assert parked.reply() == b"OK"
    assert parked.command(b"RING.LEASE", b"key", b"1", b"AFTER", b"%d" % token) == b"value"


def test_who_has_the_lease_may_wait_for_it_too(waiter: RawConnection) -> None:
    """As another thread over the same connection may."""
    token = lease(waiter)
    pend(waiter, token, 1)
    waiter.send(resp(b"RING.UNLEASE", b"key", b"%d" % token))
    assert waiter.reply() == 1
    assert waiter.reply() == told(1)


# Version 3: pushes


def test_pushes_come_between_replies_and_once(holder: RawConnection, waiter: RawConnection) -> None:
    """A client that asks for large and for nested replies all the while gets each as a whole."""
    large = bytes(MIB)
    assert holder.command(b"SET", b"large", large) == b"OK"
    bucket = waiter.command(b"RING.BUCKET", b"large")
    assert bucket == [b"large", large]
    count = 300
    tokens = [lease(holder, b"key %d" % index) for index in range(count)]
    for index, token in enumerate(tokens):
        waiter.send(wait(token, index + 1, b"key %d" % index))
        waiter.send(resp(b"PING"))
    replies = [waiter.reply() for _ in range(2 * count)]
    assert replies == [reply for index in range(count) for reply in (b"PENDING %d" % (index + 1), b"PONG")]

    def give_back() -> None:
        for index, token in enumerate(tokens):
            unlease(holder, token, b"key %d" % index)

    giver = threading.Thread(target=give_back)
    giver.start()
    pushes: Counter[int] = Counter()
    asked = answered = 0
    while pushes.total() < count or answered < asked:
        if asked - answered < 2 and pushes.total() < count:
            waiter.send(resp(b"GET", b"large") if asked % 2 else resp(b"RING.BUCKET", b"large"))
            asked += 1
        reply = waiter.reply()
        if isinstance(reply, tuple):
            assert reply == told(reply[1])
            pushes[reply[1]] += 1
        else:
            assert reply == (large if answered % 2 else bucket)
            answered += 1
    giver.join()
    assert pushes == Counter(range(1, count + 1))
    assert nothing_comes(waiter)


def test_a_ticket_names_one_wait(holder: RawConnection, waiter: RawConnection) -> None:
    token, other = lease(holder), lease(holder, b"other")
    pend(waiter, token, 1)
    pend(waiter, token, 1)
    assert figure("lease_waiters") == 1
    pend(waiter, other, 1, b"other")
    assert figure("lease_waiters") == 1
    unlease(holder, token)
    assert nothing_comes(waiter)
    unlease(holder, other, b"other")
    assert waiter.reply() == told(1)
    assert nothing_comes(waiter)


def test_who_gives_up_is_not_told(holder: RawConnection, waiter: RawConnection, address: Address) -> None:
    token = lease(holder)
    for ticket in (1, 2):
        pend(waiter, token, ticket)
    with version_3(address) as other:
        assert other.command(b"RING.UNWAIT", b"key", b"1") == 0
    assert waiter.command(b"RING.UNWAIT", b"other", b"1") == 0
    assert waiter.command(b"RING.UNWAIT", b"key", b"3") == 0
    assert waiter.command(b"RING.UNWAIT", b"key", b"1") == 1
    assert waiter.command(b"RING.UNWAIT", b"key", b"1") == 0
    assert figure("lease_waiters") == 1
    unlease(holder, token)
    assert waiter.reply() == told(2)
    assert nothing_comes(waiter)
    assert waiter.command(b"RING.UNWAIT", b"key", b"2") == 0


def test_who_goes_back_to_version_2_meanwhile_gets_no_push(holder: RawConnection, waiter: RawConnection) -> None:
    token = lease(holder)
    pend(waiter, token, 1)
    assert dict(zip(*[iter(waiter.command(b"HELLO", b"2"))] * 2, strict=True))[b"proto"] == 2
    unlease(holder, token)
    wait_for_waiters(0)
    assert nothing_comes(waiter)
    # A wait that it is parked for is another one.
    token = lease(holder)
    waiter.send(wait(token, 2) + resp(b"PING"))
    wait_for_waiters(1)
    unlease(holder, token)
    assert waiter.reply() == b"OK"
    assert waiter.reply() == b"PONG"


# Version 2: parked


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "one by one"])
def test_nothing_behind_is_executed(holder: RawConnection, parked: RawConnection, apart: bool) -> None:
    """What stands behind the wait, in the same piece or another one, waits, and is executed in its order."""
    token = lease(holder)
    behind = [resp(b"SET", b"behind", b"1"), resp(b"INCR", b"behind"), wait(token + 1, 2), resp(b"GET", b"behind")]
    before = resp(b"SET", b"before", b"1")
    if apart:
        parked.send(before + wait(token, 1))
        wait_for_waiters(1)
        for index, request in enumerate(behind):
            parked.send(request)
            wait_until(lambda: figure("memory_waiting_requests") > 0, f"request {index} has come")
    else:
        parked.send(before + wait(token, 1) + b"".join(behind))
    assert parked.reply() == b"OK"
    wait_for_waiters(1)
    # What can be executed is, in many turns of the worker's: each of these is one at least.
    for _ in range(100):
        assert holder.command(b"GET", b"before") == b"1"
        assert holder.command(b"GET", b"behind") is None
    unlease(holder, token)
    assert [parked.reply() for _ in range(1 + len(behind))] == [b"OK", b"OK", 2, b"OK", b"2"]
    assert figure("memory_waiting_requests") == 0


def test_much_may_wait_behind(holder: RawConnection, parked: RawConnection) -> None:
    token = lease(holder)
    parked.send(wait(token, 1))
    wait_for_waiters(1)
    parked.send(resp(b"INCR", b"count") * 100_000)
    wait_until(lambda: figure("memory_waiting_requests") > MIB, "they have come")
    assert holder.command(b"GET", b"count") is None
    unlease(holder, token)
    assert parked.reply() == b"OK"
    assert [parked.reply() for _ in range(100_000)] == list(range(1, 100_001))


def test_who_sends_too_much_behind_is_told(address: Address, holder: RawConnection) -> None:
    token = lease(holder)
    with closing(connected(address)) as connection, connection.makefile("rb") as replies:
        connection.sendall(wait(token, 1) + resp(b"PING") * (BACKLOG_MAX // 14 - 100_000))
        wait_until(lambda: figure("memory_waiting_requests") > BACKLOG_MAX - 2 * MIB, "they have come")
        sent = 0
        # A piece goes when the one before has come: what is sent to a closed connection would be an error here.
        while not select.select([connection], [], [], 0)[0]:
            assert sent < 4 * MIB
            before = figure("memory_waiting_requests")
            assert before <= BACKLOG_MAX
            connection.sendall(resp(b"PING") * (64 * 1_024 // 14 + 1))
            wait_until(partial(has_changed, "memory_waiting_requests", before), "it has come")
        assert replies.read().startswith(b"-BACKLOG too many bytes of requests wait behind one whose answer is yet to")
    wait_for_waiters(0)
    assert figure("memory_waiting_requests") == 0
    # Nobody is told in its stead.
    unlease(holder, token)
    assert nothing_comes(holder)


def test_one_wait_after_the_other(holder: RawConnection, parked: RawConnection) -> None:
    """With the same ticket, too, all of them sent at once."""
    tokens = [lease(holder, b"key %d" % index) for index in range(20)]
    parked.send(b"".join(wait(token, 1, b"key %d" % index) for index, token in enumerate(tokens)))
    for index, token in enumerate(tokens):
        wait_for_waiters(1)
        unlease(holder, token, b"key %d" % index)
        assert parked.reply() == b"OK"
    assert nothing_comes(parked)


def test_between_replies_that_are_not_read(holder: RawConnection, parked: RawConnection) -> None:
    """A connection may be parked, and full of replies: either holds it up."""
    large = bytes(8 * MIB)
    assert holder.command(b"SET", b"large", large) == b"OK"
    token = lease(holder)
    parked.send(resp(b"GET", b"large") + wait(token, 1) + resp(b"GET", b"large") + resp(b"PING"))
    assert parked.reply() == large
    wait_for_waiters(1)
    unlease(holder, token)
    assert [parked.reply() for _ in range(3)] == [b"OK", large, b"PONG"]


# The end of one side


def hold(address: Address, keys: list[bytes], tokens: int, holds: Flag, end: Flag) -> None:
    """A process that has leases until it is killed, and writes their tokens into a pipe."""
    with RawConnection(address) as connection:
        os.write(tokens, b"".join(lease(connection, key).to_bytes(8, "little") for key in keys))
        holds.set()
        end.wait()


@pytest.mark.parametrize("count", [1, 100])
def test_a_holder_that_is_killed(address: Address, waiter: RawConnection, parked: RawConnection, count: int) -> None:
    keys = [b"key %d" % index for index in range(count)]
    read_end, write_end = os.pipe()
    with Flag() as holds, Flag() as end, Child(hold, address, keys, write_end, holds, end) as child:
        os.close(write_end)
        holds.wait()
        with open(read_end, "rb") as pipe:
            tokens = [int.from_bytes(pipe.read(8), "little") for _ in keys]
        for index, (key, token) in enumerate(zip(keys, tokens, strict=True)):
            pend(waiter, token, index + 1, key)
        parked.send(wait(tokens[-1], 1, keys[-1]))
        wait_for_waiters(count + 1)
        child.kill()
        assert sorted(waiter.reply() for _ in keys) == [told(index + 1) for index in range(count)]
        assert parked.reply() == b"OK"
    assert nothing_comes(waiter)
    assert figure("leases") == figure("lease_waiters") == 0


def wait_in_vain(address: Address, tokens: list[int], end: Flag) -> None:
    """A process that waits until it is killed, in both versions, some of it with requests behind."""
    with ExitStack() as stack:
        waiter, parked, busy = version_3(address), RawConnection(address), RawConnection(address)
        for connection in (waiter, parked, busy):
            stack.enter_context(connection)
        for index, token in enumerate(tokens):
            pend(waiter, token, index + 1, b"key %d" % index)
        parked.send(wait(tokens[0], 1, b"key 0"))
        busy.send(wait(tokens[0], 1, b"key 0") + resp(b"SET", b"behind", b"value") * 10_000)
        end.wait()


def test_a_waiter_that_is_killed(address: Address, holder: RawConnection) -> None:
    tokens = [lease(holder, b"key %d" % index) for index in range(100)]
    with Flag() as end, Child(wait_in_vain, address, tokens, end) as child:
        wait_for_waiters(102)
        wait_until(lambda: figure("memory_waiting_requests") > 0, "some of it has come")
        child.kill()
        wait_for_waiters(0)
        # The holder is there still, and who asks.
        wait_until(lambda: figure("clients") == 2, "its connections have ended")
    assert figure("memory_waiting_requests") == 0
    for index, token in enumerate(tokens):
        unlease(holder, token, b"key %d" % index)
    assert holder.command(b"GET", b"behind") is None


def test_a_parked_client_that_closes_its_side(address: Address, holder: RawConnection) -> None:
    """It is taken for gone, before and after its wait has begun: over TCP nothing tells the two apart."""
    token = lease(holder)
    for early in (False, True):
        with closing(connected(address)) as connection:
            connection.sendall(resp(b"PING") + wait(token, 1) + resp(b"SET", b"behind", b"value"))
            if not early:
                wait_for_waiters(1)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as replies:
                assert replies.read() == b"+PONG\r\n"
    wait_for_waiters(0)
    unlease(holder, token)
    assert holder.command(b"GET", b"behind") is None


def test_the_server_stops(server: Server, holder: RawConnection, waiter: RawConnection, parked: RawConnection) -> None:
    token = lease(holder)
    pend(waiter, token, 1)
    parked.send(wait(token, 1) + resp(b"SET", b"behind", b"value") * 10_000)
    wait_for_waiters(2)
    server.stop()
    assert waiter.is_closed()
    assert parked.is_closed()


def test_who_waits_costs_nothing(server_process: ServerProcess) -> None:
    """In so short a window a single timer weighs a lot: this finds a thread that spins, and no less."""
    address = str(ringtable._ringtable.socket_path("default"))
    with RawConnection(address) as holder, version_3(address) as waiter, RawConnection(address) as parked:
        token = lease(holder)
        pend(waiter, token, 1)
        parked.send(wait(token, 1))
        wait_for_waiters(2)
        parked.send(resp(b"PING") * 10_000)
        wait_until(lambda: figure("memory_waiting_requests") > 0, "they have come")
        before, start = server_process.cpu_s(), time.monotonic()
        # Not to wait for anything: this is the window that is measured.
        time.sleep(0.5)
        assert (server_process.cpu_s() - before) / (time.monotonic() - start) < 0.1
        unlease(holder, token)
        assert waiter.reply() == told(1)
        assert parked.reply() == b"OK"
        assert [parked.reply() for _ in range(10_000)] == [b"PONG"] * 10_000


# Writes


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([b"SET", b"key", b"value"], b"value"),
        ([b"SET", b"key", bytes(MIB)], bytes(MIB)),
        ([b"INCR", b"key"], b"1"),
        ([b"RING.INCR", b"key", b"5"], b"5"),
    ],
    ids=["SET", "large", "INCR", "RING.INCR"],
)
def test_a_write_tells(
    holder: RawConnection, waiter: RawConnection, parked: RawConnection, words: list[bytes], value: bytes
) -> None:
    """Not one of another key; and the lease stays."""
    token = lease(holder)
    pend(waiter, token, 1)
    parked.send(wait(token, 1))
    wait_for_waiters(2)
    name, key, *rest = words
    assert holder.command(name, b"other", *rest) in (b"OK", 1, 5)
    assert figure("lease_waiters") == 2
    assert holder.command(name, key, *rest) in (b"OK", 1, 5)
    assert waiter.reply() == told(1)
    assert parked.reply() == b"OK"
    # What is told is there.
    assert waiter.command(b"GET", b"key") == value
    assert figure("leases") == 1
    # A connection that waits now waits for what comes next.
    pend(waiter, token, 1)
    unlease(holder, token)
    assert waiter.reply() == told(1)


@pytest.mark.parametrize(
    "words", [[b"SET", b"key", b"5", b"XX"], [b"EXPIRE", b"key", b"9"], [b"INCR", b"text"]], ids=str
)
def test_a_write_that_is_refused_tells_nobody(holder: RawConnection, waiter: RawConnection, words: list[bytes]) -> None:
    key = words[1]
    holder.command(b"SET", b"text", b"no number")
    token = lease(holder, key)
    assert waiter.command(b"RING.WAIT", key, b"%d" % token, b"1") == b"PENDING 1"
    assert holder.command(*words) in (None, 0) or key == b"text"
    assert waiter.command(b"RING.UNWAIT", key, b"1") == 1, "it waits no more"


@pytest.mark.parametrize("name", ["lane", "shared rings", "socket", "tcp", "udp"])
def test_a_write_tells_whatever_its_way(name: str) -> None:
    """Also one that a pipeline posts."""
    with way_to_a_table(name) as way, way.connect() as table:
        path = str(ringtable._ringtable.socket_path("default"))
        with RawConnection(path) as holder, version_3(path) as waiter:
            token = lease(holder)
            for ticket in range(1, 20):
                pend(waiter, token, ticket)
                if ticket % 2:
                    table["key"] = b"value %d" % ticket
                else:
                    with table.pipeline() as pipeline:
                        pipeline.set("key", b"value %d" % ticket)
                assert waiter.reply() == told(ticket)
                assert waiter.command(b"GET", b"key") == b"value %d" % ticket


# Many


def test_many_are_told_and_others_have_their_turns(server: Server, table_beside: Table) -> None:
    """Two thousand waits for one key over many connections, at both workers."""
    connections, tickets = 50, 40
    with ExitStack() as stack:
        holder = stack.enter_context(RawConnection(server.path))
        waiters = [stack.enter_context(version_3(server.path)) for _ in range(connections)]
        token = lease(holder)
        for connection in waiters:
            connection.send(b"".join(wait(token, ticket) for ticket in range(1, tickets + 1)))
        for connection in waiters:
            assert [connection.reply() for _ in range(tickets)] == [b"PENDING %d" % (i + 1) for i in range(tickets)]
        assert figure("lease_waiters") == connections * tickets
        done = threading.Event()
        calls: list[bytes] = []

        def call() -> None:
            while not done.is_set() or not calls:
                table_beside["other"] = b"value"
                calls.append(table_beside["other"])

        caller = threading.Thread(target=call)
        caller.start()
        try:
            wait_until(lambda: calls, "the calls have begun")
            unlease(holder, token)
            for connection in waiters:
                replies = [connection.reply() for _ in range(tickets)]
                assert sorted(replies) == [told(ticket) for ticket in range(1, tickets + 1)]
        finally:
            done.set()
            caller.join()
        assert set(calls) == {b"value"}
        assert all(nothing_comes(connection) for connection in waiters)
    assert figure("lease_waiters") == 0


@pytest.fixture
def table_beside(server: Server) -> Iterator[Table]:
    """A client that has nothing to do with leases."""
    with ringtable.connect() as table:
        yield table


def test_a_connection_waits_for_so_much_and_no_more(holder: RawConnection, waiter: RawConnection) -> None:
    token = lease(holder)
    count = WAITERS_PER_CONNECTION_MAX
    waiter.send(b"".join(wait(token, ticket) for ticket in range(1, count + 2)))
    assert [waiter.reply() for _ in range(count)] == [b"PENDING %d" % (index + 1) for index in range(count)]
    refused = waiter.reply()
    assert isinstance(refused, Exception)
    assert str(refused).startswith(f"LEASES {count} calls wait for others, {count} of them over this connection")
    unlease(holder, token)
    assert sorted(waiter.reply() for _ in range(count)) == [told(index + 1) for index in range(count)]
    assert nothing_comes(waiter)


# Refusals


@pytest.mark.parametrize("name", ["shared rings", "sharded rings", "udp"])
def test_who_cannot_be_told_is_refused(name: str) -> None:
    reason = "needs a connection, and there is none over UDP" if name == "udp" else "needs a lane or a socket"
    with way_to_a_table(name) as way, way.connect() as table:
        with pytest.raises(ringtable.CommandError, match=reason):
            table.call("RING.WAIT", "key", 1, 1)
        if name != "udp":
            token = int(str(table.call("RING.LEASE", "key")))
            with pytest.raises(ringtable.CommandError, match=reason):
                table.call("RING.WAIT", "key", token, 1)
            assert table.call("RING.UNWAIT", "key", 1) == 0
        assert table.stats()["lease_waiters"] == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([b"RING.WAIT", b"key", b"1"], "ERR wrong number of arguments for 'ring.wait' command"),
        ([b"RING.WAIT", b"key", b"1", b"1", b"1"], "ERR wrong number of arguments for 'ring.wait' command"),
        ([b"RING.UNWAIT", b"key"], "ERR wrong number of arguments for 'ring.unwait' command"),
        ([b"RING.UNWAIT", b"key", b"1", b"1"], "ERR wrong number of arguments for 'ring.unwait' command"),
        ([b"RING.WAIT", b"key", b"token", b"1"], "ERR value is not an integer or out of range: 'token'"),
        ([b"RING.WAIT", b"key", b"1", b"ticket"], "ERR value is not an integer or out of range: 'ticket'"),
        ([b"RING.WAIT", b"key", b"0", b"1"], "ERR value is not an integer or out of range: '0'"),
        ([b"RING.WAIT", b"key", b"1", b"0"], "ERR value is not an integer or out of range: '0'"),
        ([b"RING.WAIT", b"key", b"1", b"-1"], "ERR value is not an integer or out of range: '-1'"),
        ([b"RING.UNWAIT", b"key", b"0"], "ERR value is not an integer or out of range: '0'"),
        ([b"RING.UNWAIT", b"key", b"9223372036854775808"], "ERR value is not an integer or out of range"),
        ([b"RING.WAIT", bytes(KEY_SIZE_MAX + 1), b"1", b"1"], "KEYTOOLONG"),
    ],
    ids=lambda value: None if isinstance(value, str) else b" ".join(value)[:30].decode(),
)
def test_what_makes_no_sense_is_refused(waiter: RawConnection, words: list[bytes], reason: str) -> None:
    reply = waiter.command(*words)
    assert isinstance(reply, Exception)
    assert str(reply).startswith(reason)
    assert nothing_comes(waiter)


def test_nothing_waits_between_multi_and_exec(holder: RawConnection, parked: RawConnection) -> None:
    token = lease(holder)
    parked.send(resp(b"MULTI") + wait(token, 1) + resp(b"EXEC") + resp(b"PING"))
    replies = [parked.reply() for _ in range(4)]
    assert all(isinstance(reply, Exception) for reply in replies[:3])
    assert replies[3] == b"PONG"
    assert figure("lease_waiters") == 0
