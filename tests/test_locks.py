"""Locks, semaphores and barriers: in the order of asking, or all together; freed by death, lost never in silence."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Literal

import pytest
import ringtable
from ringtable import LockLost, NotOwned, Reentrant, ServerGone, Table, Timeout
from support import (
    CALL_S_MAX,
    CONNECTIONS,
    DEADLINE_S,
    Address,
    Child,
    Flag,
    RawConnection,
    ServerProcess,
    Successors,
    connect_in,
    figure,
    freeze,
    patiently,
    resp,
    wait_until,
)

from proof.locks import Found, run_batch


@pytest.fixture
def other(table: Table) -> Iterator[Table]:
    """Another connection to the same server."""
    with ringtable.Table(table.address, transport=table.requested_transport) as other:
        yield other


def wait_for_waiters(table: Table, count: int) -> None:
    """Wait until so many are in queues; over rings nobody is."""
    if table.transport != "rings":
        wait_until(lambda: figure("lease_waiters") == count, f"{count} wait")


def test_smoke(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        lock = table.lock("report")
        assert lock.acquire()
        assert lock.locked()
        assert lock.owned()
        assert not other.lock("report").acquire(blocking=False)
        assert not other.lock("report").owned()
        lock.release()
        assert lock.token is None
        assert not lock.locked()
        with other.lock("report") as theirs:
            assert theirs.token is not None


@pytest.mark.parametrize("way", CONNECTIONS, indirect=True)
def test_one_at_a_time_over_each_transport(table: Table, other: Table) -> None:
    mine, theirs = table.lock("x"), other.lock("x", timeout=0.25)
    assert mine.acquire()
    token = mine.token
    assert token is not None
    assert not theirs.acquire(blocking=False)
    assert not theirs.acquire()
    with pytest.raises(Timeout, match=r"lock 'x' was not free within 0.25 s"), theirs:
        pass
    got: list[int | None] = []

    def wait() -> None:
        with other.lock("x") as lock:
            got.append(lock.token)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for_waiters(table, 1)
    assert not got
    mine.release()
    waiting.join()
    assert got[0] is not None
    assert got[0] > token
    wait_for_waiters(table, 0)


def test_there_are_none_over_udp() -> None:
    with Successors(udp=True) as servers, Table(servers.address) as table:
        lock, barrier = table.lock("x"), table.barrier("b", 2)
        calls: list[Callable[[], object]] = [lock.acquire, lock.locked, barrier.wait, lambda: barrier.n_waiting]
        for call in (*calls, table.event("e").wait):
            with pytest.raises(ringtable.InvalidOption, match="lasts as long as a connection"):
                call()


def test_the_order_of_asking(server: ringtable.Server) -> None:
    """Threads of one connection exclude each other, too, and come in the order in which they have asked."""
    with Table() as table:
        order: list[int] = []

        def wait(number: int) -> None:
            with table.lock("x"):
                order.append(number)

        threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
        with table.lock("x"):
            for number, thread in enumerate(threads):
                thread.start()
                wait_for_waiters(table, number + 1)
            assert not order
        for thread in threads:
            thread.join()
        assert order == list(range(8))


def test_a_dead_owner_s_lock_is_the_next_one_s(server_process: ServerProcess) -> None:
    """By an event: who waits has no time-out, and looks at nothing. One that is stopped keeps it."""
    with Table() as table, Flag() as has_it, Flag() as never:

        def own() -> None:
            with Table() as theirs:
                assert theirs.lock("x").acquire()
                has_it.set()
                never.wait()

        with Child(own) as owner:
            has_it.wait()
            freeze(owner.pid)
            lock = table.lock("x")
            assert not lock.acquire(timeout=0.05)
            killer = threading.Thread(target=owner.kill)

            def wait() -> None:
                with lock:
                    pass

            waiting = threading.Thread(target=wait)
            waiting.start()
            wait_for_waiters(table, 1)
            killer.start()
            waiting.join()
            killer.join()
        assert not lock.locked()


def test_a_dead_waiter_is_nobody_to_wait_for(server_process: ServerProcess) -> None:
    with Table() as table, ExitStack() as stack:
        lock = table.lock("x")
        assert lock.acquire()

        def wait() -> None:
            with Table() as theirs:
                theirs.lock("x").acquire()

        dying = stack.enter_context(Child(wait))
        wait_for_waiters(table, 1)
        living = stack.enter_context(Child(wait))
        wait_for_waiters(table, 2)
        dying.kill()
        lock.release()
        living.result()


def test_a_time_to_live_ends_it_and_its_owner_is_told(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        lock = table.lock("x", ttl=0.05)
        assert lock.acquire()
        # An event of the server's ends this wait, and no look of ours.
        with other.lock("x"):
            assert not lock.owned()
            with pytest.raises(LockLost, match=r"time to live \(0.05 s"):
                lock.extend(60)
            assert lock.token is None
        with pytest.raises(LockLost), table.lock("x", ttl=0.001) as lost:
            wait_until(lambda: not lost.owned(), "it is over")

        # What it raises does not hide what was raised.
        def fail() -> None:
            with table.lock("x", ttl=0.001) as lost:
                wait_until(lambda: not lost.owned(), "it is over")
                raise KeyError("the body")

        with pytest.raises(LockLost) as told:
            fail()
        assert isinstance(told.value.__context__, KeyError)
        with table.lock("x", ttl=60) as kept:
            kept.extend()
            kept.extend(3_600)
            assert kept.owned()


def test_the_server_s_death_is_a_loss(ringtable_dir: object) -> None:
    with Successors() as servers, Table() as table, Table(reconnect=False) as fixed:
        lock, theirs = table.lock("x"), fixed.lock("y")
        assert lock.acquire()
        assert theirs.acquire()
        servers.replace()
        for one in (lock, theirs):
            with pytest.raises(LockLost, match="connection that had it has ended"):
                one.release()
        with pytest.raises(ServerGone):
            theirs.acquire()


def test_a_wait_goes_on_at_the_next_server(ringtable_dir: object) -> None:
    """What the old one would have granted has died with it."""
    with Successors() as servers, Table() as table, Table() as other:
        assert other.lock("x").acquire()
        got: list[bool] = []

        def wait() -> None:
            while not got:
                try:
                    got.append(table.lock("x").acquire())
                except ServerGone:
                    # In the moment without any server.
                    continue

        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_for_waiters(table, 1)
        servers.replace()
        waiting.join()
        assert got == [True]


@pytest.mark.slow
def test_waiting_for_others_uses_up_no_time_that_there_is_for_a_server(ringtable_dir: object) -> None:
    with Successors() as servers, Table(timeout=CALL_S_MAX) as table, Table() as other:
        assert other.lock("x").acquire()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(table.lock("x").acquire)
            wait_for_waiters(table, 1)
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() > begun + CALL_S_MAX, "longer than a call may take")
            servers.replace()
            assert waiting.result()


def test_mistakes_are_told_in_plain_words(server: ringtable.Server) -> None:
    with Table() as table:
        lock = table.lock("x")
        with pytest.raises(NotOwned, match="not held over this connection: there is nothing to release"):
            lock.release()
        with lock:
            for one in (lock, table.lock("x"), table.namespace("").lock("x")):
                with pytest.raises(Reentrant, match="has the lock 'x' already"):
                    one.acquire()
            assert not lock.acquire(blocking=False)
            assert not lock.acquire(timeout=0.001)
            with pytest.raises(ringtable.InvalidOption, match=r"timeout is -0\.5; .*, -1 for ever, or None"):
                lock.acquire(timeout=-0.5)
            errors: list[BaseException] = []

            def release() -> None:
                try:
                    lock.release()
                except NotOwned as error:
                    errors.append(error)

            thread = threading.Thread(target=release)
            thread.start()
            thread.join()
            assert "acquired by another thread" in str(errors[0])
            with pytest.raises(ringtable.InvalidOption, match="has no ttl"):
                lock.extend()
        with pytest.raises(ringtable.InvalidOption, match="does not block"):
            lock.acquire(blocking=False, timeout=1)
        for wrong in ({"timeout": -2}, {"ttl": 0}, {"ttl": float("nan")}):
            with pytest.raises(ringtable.InvalidOption):
                table.lock("x", **wrong)
        with pytest.raises(ringtable.KeyTooLong):
            table.lock(b"x" * 65_535)
        with pytest.raises(TypeError):
            table.lock(7)  # type: ignore[arg-type]


def test_a_child_has_none_of_its_parent_s(server_process: ServerProcess) -> None:
    with Table() as table:
        lock = table.lock("x")
        assert lock.acquire()

        def look() -> str:
            assert lock.token is None
            assert not lock.owned()
            assert not lock.acquire(blocking=False)
            with pytest.raises(NotOwned) as told:
                lock.release()
            return str(told.value)

        with Child(look) as child:
            assert "process that this one was forked from" in child.result()
        assert lock.owned()
        lock.release()


def test_several_objects_of_a_name_are_one_lock(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        assert table.lock("x", reentrant=True).acquire()
        again = table.lock("x", reentrant=True)
        with again:
            assert again.owned()
            assert again.token == table.lock("x").token
        table.lock("x").release()
        assert not again.owned()
        with other.lock("x"):
            pass


def test_who_has_lost_a_lock_may_acquire_it_anew(ringtable_dir: object) -> None:
    with Successors() as servers, Table(timeout=CALL_S_MAX) as table:
        assert table.lock("x").acquire()
        servers.replace()
        assert table.lock("x").acquire()
        assert table.lock("x").owned()


def test_locks_that_end_by_themselves_are_not_remembered_for_ever(server: ringtable.Server) -> None:
    with Table() as table:
        assert all(table.lock(f"ended {number}", ttl=0.001).acquire() for number in range(1_024))
        wait_until(lambda: not table.lock("ended 1023").locked(), "the last one has ended")
        assert table.lock("one more").acquire()
        with pytest.raises(NotOwned):
            table.lock("ended 0").release()
        table.lock("one more").release()


def test_reentrant(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        lock = table.lock("x", reentrant=True, ttl=60)
        with lock, lock:
            token = lock.token
            assert lock.acquire(blocking=False)
            lock.release()
            assert lock.token == token
            assert not other.lock("x").acquire(blocking=False)
        assert not lock.locked()
        # The outer block learns that it was lost when the inner one asks.
        lost = table.lock("y", reentrant=True, ttl=0.001)
        assert lost.acquire()
        wait_until(lambda: not lost.locked(), "it is over")
        with pytest.raises(LockLost):
            lost.acquire()


def test_an_interrupted_wait_leaves_nothing(server_process: ServerProcess) -> None:
    """Neither a place in the queue, nor the lock that it is granted in that very moment."""
    with Table() as table, Flag() as begun, Flag() as interrupted, Flag() as seen:
        lock = table.lock("x")

        def wait() -> bool:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with Table() as theirs:
                begun.set()
                with pytest.raises(KeyboardInterrupt):
                    theirs.lock("x").acquire()
                # The connection is in order, and goes on.
                taken = theirs.lock("x").acquire(blocking=False)
                interrupted.set()
                seen.wait()
                return taken

        assert lock.acquire()
        with Child(wait) as child:
            begun.wait()
            wait_for_waiters(table, 1)
            os.kill(child.pid, signal.SIGINT)
            interrupted.wait()
            wait_for_waiters(table, 0)
            lock.release()
            assert not lock.locked()
            seen.set()
            assert not child.result()


def test_a_wait_that_ends_while_another_thread_has_the_connection_leaves_nothing(server_process: ServerProcess) -> None:
    """The word that the lock is not wanted was thrown away: it was granted to one that had given up."""
    with Table() as other, Table(reads="server") as own, ThreadPoolExecutor(2) as threads:
        held = other.lock("x")
        assert held.acquire()
        waiting = threads.submit(own.lock("x").acquire, timeout=6.0)
        wait_for_waiters(other, 1)
        server_process.freeze()
        # It has the connection until the server answers.
        counting = threads.submit(own.incr, "count")
        # Its own time, and that for which it waits for the connection.
        assert not waiting.result(DEADLINE_S)
        server_process.signal(signal.SIGCONT)
        assert counting.result(DEADLINE_S) == 1
        held.release()
        assert other.lock("x").acquire(timeout=DEADLINE_S)


def test_who_speaks_version_2_is_parked(address: Address) -> None:
    """It gets no reply before it has the lock; one that speaks version 3 a push."""
    with RawConnection(address) as owner, RawConnection(address) as parked, RawConnection(address) as told:
        assert told.command(b"HELLO", b"3")[b"proto"] == 3
        token = owner.command(b"RING.LOCK", b"x", b"1", b"1")
        assert owner.command(b"RING.LOCK", b"x", b"2", b"1") == 0
        parked.send(resp(b"RING.LOCK", b"x", b"7", b"1", b"WAIT"))
        wait_until(lambda: figure("lease_waiters") == 1, "one waits")
        assert told.command(b"RING.LOCK", b"x", b"8", b"1", b"PX", b"60000", b"WAIT") == b"PENDING 8"
        assert owner.command(b"RING.UNLOCK", b"x", b"%d" % token) == 1
        second = parked.reply()
        assert second > token
        assert owner.command(b"RING.LOCKED", b"x") == 1
        assert owner.command(b"RING.LOCKED", b"x", b"%d" % second) == 0
        assert owner.command(b"RING.EXTEND", b"x", b"%d" % second, b"1000") == 0
        parked.close()
        kind, ticket, third = told.reply()
        assert (kind, ticket) == (b"ring.answer", 8)
        assert third > second
        assert told.command(b"RING.UNLOCK", b"x", b"TICKET", b"8") == 1
        for wrong in ((b"x", b"0", b"1"), (b"x", b"1", b"0"), (b"x", b"1", b"16385"), (b"x", b"1", b"1", b"PX")):
            assert isinstance(owner.command(b"RING.LOCK", *wrong), Exception)


def test_what_is_random_in_short(server: ringtable.Server, seed: int) -> None:
    """`python -m proof.locks` in short: see there for what is checked."""
    found = Found(seed)
    with Table() as table:
        for batch in range(3):
            run_batch(table, batch, Random(seed + batch), found)
    assert found.kills == 18


def test_semaphores(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        mine, theirs = table.semaphore("gpu", 2), other.semaphore("gpu", 2)
        assert mine.acquire()
        assert mine.acquire()
        assert (mine.holders(), mine.locked()) == (2, True)
        assert not theirs.acquire(timeout=0.01)
        # Any thread of the process may release.
        releasing = threading.Thread(target=mine.release)
        releasing.start()
        assert theirs.acquire()
        releasing.join()
        with pytest.raises(ringtable.CommandError, match="has 2 permits now, and 3 were asked for"):
            table.semaphore("gpu", 3).acquire()
        mine.release()
        with pytest.raises(NotOwned):
            mine.release()
        # A thread renews and gives back its own, whoever has acquired after it.
        assert mine.acquire()
        own, acquiring = mine.token, threading.Thread(target=mine.acquire)
        theirs.release()
        acquiring.start()
        acquiring.join()
        assert (mine.holders(), mine.token) == (2, own)
        mine.release()
        assert mine.token not in (own, None)
        mine.release()
        assert theirs.acquire()
        # A lock of that name is another thing.
        assert table.lock("gpu").acquire(blocking=False)
        assert other.semaphore("gpu", 2).acquire(blocking=False)
        other.close()
        wait_until(lambda: mine.holders() == 0, "what a connection had has ended with it")


@pytest.mark.parametrize("way", CONNECTIONS, indirect=True)
def test_events(table: Table, other: Table) -> None:
    event, theirs = table.event("ready"), other.event("ready")
    assert not event.is_set()
    assert not event.wait(0.01)
    waiting = threading.Thread(target=theirs.wait)
    waiting.start()
    wait_for_waiters(table, 1)
    event.set()
    waiting.join()
    assert theirs.wait()
    assert theirs.is_set()
    event.clear()
    assert not theirs.is_set()
    wait_for_waiters(table, 0)


@pytest.mark.parametrize("way", CONNECTIONS, indirect=True)
def test_barriers(table: Table, other: Table) -> None:
    """Over each transport: all pass together, again and again, and what is done to keys has nothing to do with it."""
    mine, theirs = table.barrier("start", 3), other.barrier("start", 3)
    with ThreadPoolExecutor(2) as threads:
        for timeout in (None, DEADLINE_S) * 5:
            waiting = [threads.submit(barrier.wait, timeout) for barrier in (mine, theirs)]
            wait_until(lambda: mine.n_waiting == 2, "two wait")
            table.clear()
            assert table.namespace("my ").barrier("start", 3).n_waiting == 0
            assert theirs.wait(0) == 0
            assert {one.result() for one in waiting} == {1, 2}
    with pytest.raises(Timeout, match=r"not all 3 parties came to the barrier 'start' within 0.01 s"):
        mine.wait(0.01)
    assert (mine.n_waiting, figure("lease_waiters"), len(table)) == (0, 0, 0)


def test_many_parties_pass(server: ringtable.Server) -> None:
    """Each costs as much as it does among few."""
    with ExitStack() as stack, ThreadPoolExecutor(400) as threads:
        tables = [stack.enter_context(Table(transport="socket")) for _ in range(4)]
        barriers = [tables[number % 4].barrier("start", 400) for number in range(400)]
        for _ in range(2):
            waiting = [threads.submit(barrier.wait, DEADLINE_S) for barrier in barriers]
            assert sorted(one.result() for one in waiting) == list(range(400))


def test_parties_by_each_protocol(address: Address) -> None:
    """One that speaks version 3 gets a push, one that speaks version 2 is parked, and one may ask again and again."""
    with ExitStack() as stack:
        told, parked, asking, last = (stack.enter_context(RawConnection(address)) for _ in range(4))
        assert told.command(b"HELLO", b"3")[b"proto"] == 3
        assert told.command(b"RING.BARRIER", b"x", b"4", b"8", b"WAIT") == b"PENDING 8"
        assert told.command(b"RING.BARRIER", b"x", b"4", b"8", b"WAIT") == b"PENDING 8"
        assert [asking.command(b"RING.BARRIER", b"x", b"4", b"7") for _ in range(3)] == [-1] * 3
        parked.send(resp(b"RING.BARRIER", b"x", b"4", b"8", b"WAIT"))
        wait_until(lambda: last.command(b"RING.BARRIER", b"x") == 3, "three wait")
        assert last.command(b"RING.BARRIER", b"x", b"4", b"8") == 0
        assert (told.reply(), parked.reply()) == ((b"ring.answer", 8, 3), 1)
        assert asking.command(b"RING.BARRIER", b"x", b"4", b"7") == 2
        # It has its answer, and comes once more with that ticket.
        assert asking.command(b"RING.BARRIER", b"x", b"LEAVE", b"7") is None
        assert asking.command(b"RING.BARRIER", b"x", b"2", b"7") == -1
        assert last.command(b"RING.BARRIER", b"x", b"2", b"8") == 0
        assert asking.command(b"RING.BARRIER", b"x", b"LEAVE", b"7") == 1
        assert asking.command(b"RING.BARRIER", b"x", b"2", b"7") == -1
        assert asking.command(b"RING.BARRIER", b"y", b"LEAVE", b"7") is None
        assert asking.command(b"RING.BARRIER", b"x", b"LEAVE", b"7") == -1
        assert last.command(b"RING.BARRIER", b"x") == 0
        for wrong in ((b"0", b"1"), (b"1", b"0"), (b"16385", b"1"), (b"1", b"1", b"PX"), (b"LEAVE",), (b"LEAVE", b"x")):
            assert isinstance(last.command(b"RING.BARRIER", b"x", *wrong), Exception)


def sends_in_the_background() -> bool:
    """Whether this process has a thread that sends what a call has left."""
    names = []
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            names.append(name.read_text())
    return any(name.startswith("ringtable-sende") for name in names)


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_what_a_call_could_not_send_goes_without_another_call(
    server_process: ServerProcess, transport: Literal["lane", "socket"]
) -> None:
    """It went with the next call of its process, which may never come: nobody else got the lock."""
    with Table() as other, connect_in(0.2, transport=transport) as mine:
        lock = mine.lock("x")
        assert patiently(lambda: lock.acquire(timeout=DEADLINE_S))
        server_process.freeze()
        with pytest.raises(Timeout):
            mine["large"] = bytes(1 << 20)
        with pytest.raises(Timeout):
            lock.release()
        wait_until(sends_in_the_background, "a thread sends what is left")
        server_process.signal(signal.SIGCONT)
        assert other.lock("x").acquire(timeout=DEADLINE_S)
        assert other["large"] == bytes(1 << 20)
        wait_until(lambda: not sends_in_the_background(), "all has gone")
        # It keeps no connection that its process gives up, closed or not.
        for end in (Table.close, lambda table: None):
            ending = connect_in(0.2, transport=transport)
            server_process.freeze()
            with pytest.raises(Timeout):
                ending["late"] = bytes(1 << 20)
            wait_until(sends_in_the_background, "a thread sends what is left")
            end(ending)
            del ending
            wait_until(lambda: not sends_in_the_background(), "there is nobody to send for")
            server_process.signal(signal.SIGCONT)


def test_a_dead_party_counts_no_more(server_process: ServerProcess) -> None:
    """Nor does one that is interrupted, whose connection goes on."""
    with Table() as table, ExitStack() as stack, Flag() as seen:

        def come() -> int:
            with Table() as theirs:
                return theirs.barrier("start", 2).wait()

        def come_until_interrupted() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with Table() as theirs:
                with pytest.raises(KeyboardInterrupt):
                    theirs.barrier("start", 2).wait()
                seen.wait()

        barrier = table.barrier("start", 2)
        for function, number in ((come, signal.SIGKILL), (come_until_interrupted, signal.SIGINT)):
            child = stack.enter_context(Child(function))
            wait_until(lambda: barrier.n_waiting == 1, "one waits")
            if number == signal.SIGKILL:
                child.kill()
            else:
                os.kill(child.pid, number)
            wait_until(lambda: barrier.n_waiting == 0, "it counts no more")
            with pytest.raises(Timeout):
                barrier.wait(0)
        seen.set()
        child.result()
        living = stack.enter_context(Child(come))
        assert {barrier.wait(), living.result()} == {0, 1}


def test_a_stopped_server_ends_each_wait_with_a_limit(server_process: ServerProcess) -> None:
    """The party is told that it may be counted, and counts no more when the server goes on."""
    with (
        Table() as table,
        connect_in(3, reconnect=False) as mine,
        connect_in(3, reconnect=False) as theirs,
        ThreadPoolExecutor(1) as threads,
    ):
        early, late, barrier = mine.barrier("start", 3), theirs.barrier("start", 3), table.barrier("start", 3)

        def wait_until_silent() -> None:
            # It may come to the end of its time before the server is stopped.
            while True:
                with suppress(Timeout):
                    early.wait(0.5)

        waiting = threads.submit(wait_until_silent)
        wait_until(lambda: barrier.n_waiting == 1, "one waits")
        server_process.freeze()
        for wait in (lambda: late.wait(0.01), waiting.result):
            with pytest.raises(LockLost, match=r"no answer within 3 s .* may be counted, .* may have passed"):
                wait()
        server_process.signal(signal.SIGCONT)
        wait_until(lambda: barrier.n_waiting == 0, "both are let wait no more")
        # The connections are in order, and go on.
        assert (patiently(lambda: early.n_waiting), patiently(lambda: late.n_waiting)) == (0, 0)
        again = threads.submit(barrier.wait)
        wait_for_waiters(table, 1)
        with pytest.raises(Timeout):
            table.barrier("start", 3).wait(0)
        assert barrier.n_waiting == 1
        server_process.kill()
        with pytest.raises(ServerGone):
            again.result()


def test_a_party_passes_or_counts_no_more(server_process: ServerProcess, seed: int) -> None:
    """Those who come to the end of their time in the moment in which the others come, and while the server stands."""
    with Table() as one, Table(transport="socket") as other, ThreadPoolExecutor(4) as threads:

        def come(table: Table, generator: Random) -> list[int]:
            barrier, arrivals = table.barrier("start", 2), []
            for _ in range(200):
                with suppress(Timeout):
                    arrivals.append(barrier.wait(generator.random() / 500))
            return arrivals

        coming = [threads.submit(come, table, Random(seed + place)) for place, table in enumerate((one, other) * 2)]
        while not all(party.done() for party in coming):
            freeze(server_process.pid)
            server_process.signal(signal.SIGCONT)
            one.stats()
        arrivals = [arrival for party in coming for arrival in party.result()]
        assert set(arrivals) == {0, 1}
        assert arrivals.count(0) == arrivals.count(1)
        assert one.barrier("start", 2).n_waiting == 0


def test_a_party_does_not_outlive_its_server(ringtable_dir: object) -> None:
    """One that came to the next server by itself could wait for those that have passed at the first one."""
    with Successors() as servers, Table() as table, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(table.barrier("start", 2).wait)
        wait_for_waiters(table, 1)
        servers.replace()
        with pytest.raises(ServerGone):
            waiting.result()
        assert table.barrier("start", 2).n_waiting == 0


def test_what_parties_and_permits_have_to_agree_on(server: ringtable.Server) -> None:
    with Table() as table, ThreadPoolExecutor(1) as threads:
        for wrong in (0, 16_385):
            with pytest.raises(ringtable.InvalidOption, match=f"parties is {wrong}; allowed .* from 1 to 16384"):
                table.barrier("start", wrong)
            with pytest.raises(ringtable.InvalidOption, match=f"count is {wrong}; allowed .* from 1 to 16384"):
                table.semaphore("gpu", wrong)
        with pytest.raises(ringtable.KeyTooLong, match="barrier has 65535 bytes, at most 65527 are allowed"):
            table.barrier(b"x" * 65_535, 2)
        waiting = threads.submit(table.barrier("start", 2).wait)
        wait_for_waiters(table, 1)
        with pytest.raises(ringtable.CommandError, match="'start' has 2 parties now, and 3 were asked for"):
            table.barrier("start", 3).wait(timeout=0.01)
        assert {table.barrier("start", 2).wait(), waiting.result()} == {0, 1}
        # A connection has so many waits, of whatever kind.
        parties = [("RING.BARRIER", "many", "16384", str(ticket)) for ticket in range(1, 4_098)]
        *waits, refused = table.call_many(parties)
        assert (set(waits), table.barrier("many", 2).n_waiting) == ({-1}, 4_096)
        assert "4096 of them over one connection" in str(refused)
        with Table() as other:
            wait_until(lambda: other.barrier("many", 2).n_waiting == 4_096, "they are there")
            table.close()
            wait_until(lambda: other.barrier("many", 2).n_waiting == 0, "all went with their connection")


def test_once(server: ringtable.Server) -> None:
    with Table() as table, Table() as other:
        once, runs = table.once("migrate"), []

        def fail() -> None:
            raise OSError("not yet")

        with pytest.raises(OSError, match="not yet"):
            once(fail)
        assert not once.is_done()
        assert once(lambda: runs.append(1))
        assert not other.once("migrate")(lambda: runs.append(2))
        assert runs == [1]
        assert other.once("migrate").is_done()
        once.reset()
        assert once(lambda: runs.append(3))


def test_what_has_no_place_is_not_run() -> None:
    with ringtable.Server("full", max_memory="4MiB"), ringtable.connect("full") as table:
        once, runs = table.once("migrate"), []
        number = 0
        for size in (60_000, 1_000, 1):
            with suppress(ringtable.OutOfMemory):
                while True:
                    table[f"{number}"] = bytes(size)
                    number += 1
        for _ in range(2):
            with pytest.raises(ringtable.OutOfMemory):
                once(lambda: runs.append(1))
        assert not runs
        table.clear()
        assert once(lambda: runs.append(2))
        assert not once(lambda: runs.append(3))
        assert (runs, list(table)) == ([2], [b"once:migrate"])


def test_a_signal_handler_needs_a_table_of_its_own(server: ringtable.Server) -> None:
    """In the middle of a wait the connection is free, and a handler may use it; a lock that it asks for is another."""
    with Table() as table, Table() as other:
        assert other.lock("x").acquire()
        handled: list[bool] = []

        def handle(number: int, frame: object) -> None:
            handled.append(table.lock("y").acquire(blocking=False))
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                table.lock("x").acquire()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert handled == [True]
        assert table.lock("y").locked()
