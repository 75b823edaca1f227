"""A server is killed, or stopped and continued, at each step of every protocol, with calls of all kinds open."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from failpoint_callers import HELD, call, callers_at_work, wait_for_ever, watch_for_ever, ways
from failpoint_servers import KEEPING, LINGERING, MOVING, NOTING, RESIGNING, SERVER, STARTING, STOPPING, Site
from failpoints import OPTIONS, Victim, arm, figures, needs_failpoints, server_of, wait_until_all_is_free
from ringtable import Server, Table
from ringtable._cli.signals import admit_termination, interrupt_on_termination
from ringtable._keeper import keeper as keeper_module
from ringtable._keeper.keeper import Keeper
from ringtable._ringtable import KEPT_LAYOUTS, socket_path
from ringtable._server import defaults
from support import CALL_S_MAX, DEADLINE_S, Child, Flag, RawConnection, connect_in, is_there, wait_until

pytestmark = needs_failpoints


@pytest.mark.parametrize("point", SERVER)
def test_a_server_killed_at(point: str) -> None:
    site = SERVER[point]
    with ExitStack() as stack:
        server = stack.enter_context(server_of(site.topology, **site.options))
        table = stack.enter_context(ringtable.connect())
        finish, waiting, watching = (stack.enter_context(Flag()) for _ in range(3))
        table["held"] = HELD
        view = stack.enter_context(table.view("held"))
        table["held"] = b"not held"
        callers = stack.enter_context(callers_at_work(site, ways(site.topology), finish))
        lease = table.call("RING.LEASE", "never computed", "1")
        assert isinstance(lease, int)
        assert lease > 0
        waiters = [
            stack.enter_context(Child(wait_for_ever, {}, waiting)),
            stack.enter_context(Child(watch_for_ever, watching)),
        ]
        waiting.wait()
        watching.wait()
        server.arm(point, "kill")
        site.provoke(stack)
        assert server.process.fate() == "kill"
        killed_at = time.monotonic()
        gone_at = [caller.result().gone_at for caller in callers] + [waiter.result() for waiter in waiters]
        assert all(gone - killed_at < CALL_S_MAX for gone in gone_at)
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"
        assert bytes(view) == HELD
        # Another one takes its place.
        with server_of(site.topology), ringtable.connect() as again:
            again["key"] = b"value"
            assert again["key"] == b"value"
            assert bytes(view) == HELD


@pytest.mark.parametrize("point", SERVER)
def test_a_server_stopped_at(point: str) -> None:
    site = SERVER[point]
    with ExitStack() as stack:
        server = stack.enter_context(server_of(site.topology, **site.options))
        table = stack.enter_context(ringtable.connect())
        before = figures(server, table)
        table["held"] = HELD
        with ExitStack() as others:
            finish, unlucky_at_work, watching, told = (others.enter_context(Flag()) for _ in range(4))
            # The last one gives up, again and again.
            callers = others.enter_context(callers_at_work(site, [*ways(site.topology), {"timeout": 0.1}], finish))
            unlucky = others.enter_context(Child(call, b"unlucky", {}, True, unlucky_at_work, finish))
            witness = others.enter_context(Child(witness_changes, watching, told))
            unlucky_at_work.wait()
            watching.wait()
            impatient = [
                others.enter_context(connect_in(0.1, reads="server", **options))
                for options in ({}, {"transport": "socket"})
            ]
            server.arm(point, "stop")
            site.provoke(others)
            assert server.process.fate() == "stop"
            unlucky.kill()
            for number, client in enumerate(impatient):
                start = time.monotonic()
                with pytest.raises(ringtable.Timeout):
                    client[b"%d" % number] = b"given up"
                assert 0.1 <= time.monotonic() - start < CALL_S_MAX
            server.process.go_on()
            for number, client in enumerate(impatient):
                wait_until(partial(has_answered, client, b"%d" % number, site.forgets), "it is answered again")
            goal = int(table.stats()["requests"]) + 200
            wait_until(lambda: int(table.stats()["requests"]) >= goal, "all goes on")
            finish.set()
            accounts = [caller.result() for caller in callers]
            # More than once: it may be overtaken by what others write.
            wait_until(lambda: table.set("the end", b"") and told.is_set(), "the witness comes to the end")
            witness.result()
        assert all(account.gone_at is None for account in accounts)
        if not site.forgets:
            for number, account in enumerate(accounts):
                count = int(table[b"caller %d count" % number])
                assert account.counted <= count <= account.counted + account.uncertain
        wait_until_all_is_free(server, table, before)


def has_answered(client: Table, key: bytes, forgets: bool) -> bool:
    """Whether a write ends in time. What the client has given up may still be done, but before what it asks now."""
    with suppress(ringtable.Timeout):
        client[key] = b"value"
        found = client.get(key)
        assert found == b"value" or (forgets and found is None)
        return True
    return False


def witness_changes(watching: Flag, told: Flag) -> None:
    """Watch until the end: of each key, what is told later has a higher version."""
    versions: dict[bytes, int] = {}
    with Table() as table, table.watch() as changes:
        watching.set()
        for change in changes:
            if isinstance(change, ringtable.Event) and change.kind != "flush":
                assert versions.get(change.key, -1) < change.version, f"{change} after {versions[change.key]}"
                versions[change.key] = change.version
                if change.key == b"the end":
                    told.set()
                    return


@pytest.mark.parametrize("point", sorted(STARTING))
def test_a_server_that_starts_is_killed_at(point: str) -> None:
    with server_of("lanes", armed=(point, "kill")) as server:
        assert server.process.fate() == "kill"
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect()
        with server_of("lanes"), ringtable.connect() as table:
            table["key"] = b"value"


@pytest.mark.parametrize("point", sorted(STARTING))
def test_a_server_that_starts_is_stopped_at(point: str) -> None:
    with server_of("lanes", armed=(point, "stop")) as server:
        assert server.process.fate() == "stop"
        with pytest.raises((ringtable.TableNotFound, ringtable.Timeout)):
            ringtable.connect(timeout=0.2)
        with pytest.raises(ringtable.ServerExists):
            Server()
        server.process.go_on()
        wait_until(is_there, "the server has started")
        with ringtable.connect() as table:
            table["key"] = b"value"


def serve_with_keeper(point: str, begin: Flag | None = None, options: dict[str, Any] = OPTIONS) -> None:
    """Serve until told to end, the first server until it comes to that point, from the beginning on or that moment."""
    # All of them, for a successor, which is no fork of this function.
    options = {"name": "default", **defaults(), **options}
    kept = Keeper(options, deaths_max=10, hang_timeout_s=30).keep()
    interrupt_on_termination()

    def arm_then(begin: Flag) -> None:
        begin.wait()
        arm(point, "kill")

    with suppress(KeyboardInterrupt), Server(_kept=kept, **options) as server:
        if kept[3] == 0:
            if begin is None:
                arm(point, "kill")
            else:
                threading.Thread(target=arm_then, args=(begin,), daemon=True).start()
        admit_termination()
        server.wait()


def count_on(key: str, at_work: Flag, finish: Flag) -> tuple[int, int]:
    """Count, write and read, whatever becomes of the server. Returns what was counted, and how often that is in doubt.

    Raises:
        AssertionError: Something else is read than what was written.
    """
    counted = in_doubt = 0
    with ringtable.connect(timeout=DEADLINE_S) as table:
        table.set(key, b"0", evictable=False)
        while not finish.is_set():
            try:
                table.incr(key)
                counted += 1
                table.set(f"{key} of it", b"%d" % counted, ttl=100)
                assert table.get(f"{key} of it") in (b"%d" % counted, None)
                assert table.delete(f"{key} of it") in (0, 1)
                table.set(f"{key} large", bytes(200_000))
                table.get_or_set(f"{key} made", lambda: b"made", ttl=0.05)
            except ringtable.ServerGone:
                in_doubt += 1
            if counted + in_doubt == 1:
                at_work.set()
    return counted, in_doubt


# What clients of lanes that pin nothing do not come by.
ELSEWHERE = {"socket.executed", "reply.piece", "retire.listed", "retire.looked"}
OVER_LANES = [point for point, site in SERVER.items() if site.topology == "lanes" and point not in ELSEWHERE]


@pytest.mark.parametrize("point", OVER_LANES)
def test_clients_go_on_though_a_server_with_a_keeper_dies_at(point: str) -> None:
    site = SERVER[point]
    with ExitStack() as stack:
        begin, finish = stack.enter_context(Flag()), stack.enter_context(Flag())
        keeper = stack.enter_context(Victim(serve_with_keeper, point, begin, OPTIONS | site.options))
        wait_until(is_there, "the server has started")
        table = stack.enter_context(ringtable.connect(timeout=DEADLINE_S))
        watch = stack.enter_context(table.watch("counter 0", timeout=DEADLINE_S))
        counters = {}
        for number in range(3):
            at_work = stack.enter_context(Flag())
            counters[f"counter {number}"] = stack.enter_context(Child(count_on, f"counter {number}", at_work, finish))
            at_work.wait()
        with ExitStack() as others:
            begin.set()
            site.provoke(others)
            wait_until(lambda: table.stats()["restarts"] == 1, "the server has died, and another one has followed")
        finish.set()
        for key, counter in counters.items():
            counted, in_doubt = counter.result()
            found = int(table.get(key, b"0"))
            assert site.forgets or counted <= found <= counted + in_doubt
        # What was missed comes first: nothing that is told from then on is more than the ring of events holds.
        next(watch)
        assert table.set("counter 0: the end", b"")
        assert any(event.key == b"counter 0: the end" for event in watch)
        table.close()
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


DONE_ONCE = [
    *("accept.accepted", "accept.delivered", "accept.taken", "join.made", "join.passed", *sorted(NOTING)),
    *("request.copied", "request.executed", "reply.written", "reply.published", "reply.released"),
    *("put.prepared", "put.locked", "put.linked", "put.unlocked", "expire.changed", "expire.unlocked"),
    *("delete.unlinked", "delete.unlocked"),
]


@pytest.mark.parametrize("point", DONE_ONCE)
def test_each_request_is_done_once_though_a_server_with_a_keeper_dies_at(point: str) -> None:
    with Victim(serve_with_keeper, point) as keeper:
        wait_until(is_there, "the server has started")
        with ringtable.connect(timeout=CALL_S_MAX) as table:
            for number in range(1, 4):
                assert table.incr("number") == number
                table.set("key", b"%d" % number, ttl=100)
                assert table["key"] == b"%d" % number
                assert table.expire("key", 1_000)
                assert table.delete("key") == 1
                assert table.delete("key") == 0
            assert table.stats()["restarts"] == 1
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


@pytest.mark.parametrize("point", sorted(RESIGNING))
def test_each_request_is_done_once_though_a_server_dies_as_it_makes_way_for_another_one(point: str) -> None:
    with Victim(serve_with_keeper, point) as keeper:
        wait_until(is_there, "the server has started")
        with ringtable.connect(timeout=CALL_S_MAX) as table:
            assert table.incr("number") == 1
            os.kill(keeper.pid, signal.SIGUSR2)
            wait_until(lambda: table.stats()["restarts"] == 1, "another one has taken over")
            assert table.incr("number") == 2
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


def serve_other_layout(point: str) -> None:
    """The same, for a keeper whose layouts are not those of the program on the disk."""
    vars(keeper_module)["KEPT_LAYOUTS"] = [*KEPT_LAYOUTS[:-1], KEPT_LAYOUTS[-1] + 1]
    serve_with_keeper(point)


@pytest.mark.parametrize("point", sorted(RESIGNING | MOVING))
def test_nothing_is_lost_though_a_server_dies_as_its_table_moves(point: str) -> None:
    with Victim(serve_other_layout, point) as keeper:
        wait_until(is_there, "the server has started")
        with ringtable.connect(timeout=CALL_S_MAX) as table:
            assert table.incr("number") == 1
            server = table.server_id
            os.kill(keeper.pid, signal.SIGUSR2)
            wait_until(lambda: table.stats()["restarts"] == 1, "another one has taken over")
            assert table.incr("number") == 2
            # What was handed over as a whole is enough.
            assert (table.server_id != server) == (table.stats()["upgrades"] == 1) == (point in MOVING)
            failed = int(point not in MOVING)
            wait_until(lambda: table.stats()["upgrades_failed"] == failed, "the server has heard of it")
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.what_became_of_it() == "end"


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("point", sorted(KEEPING))
def test_a_server_whose_files_were_removed_at(point: str, end: str) -> None:
    """They are removed again in that moment."""
    path = Path(socket_path("default"))
    with server_of("lanes") as server:
        server.arm(point, end)

        def met_once_more() -> bool:
            # The order may not have arrived when the files are removed first.
            path.unlink(missing_ok=True)
            return server.process.is_done()

        wait_until(met_once_more, f"forbidden: the server never comes to {point}")
        assert server.process.fate() == end
        path.unlink(missing_ok=True)
        if end == "stop":
            server.process.go_on()
            wait_until(is_there, "forbidden: the server is never found again")
            return
    with server_of("lanes"), ringtable.connect() as table:
        table["key"] = b"value"


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("point", sorted(LINGERING))
def test_a_server_that_ends_by_itself_at(point: str, end: str) -> None:
    """A client comes in that moment."""
    with server_of("lanes", linger=2.0) as server:
        with ringtable.connect():
            server.arm(point, end)
        assert server.process.fate() == end
        if end == "stop" and point == "linger.over":
            with RawConnection(socket_path("default")) as visitor:
                # It is in the queue.
                server.process.go_on()
                assert visitor.command(b"PING") == b"PONG"
        elif end == "stop":
            with pytest.raises(ringtable.TableNotFound):
                ringtable.connect()
            server.process.go_on()
    with server_of("lanes"), ringtable.connect() as table:
        table["key"] = b"value"


@pytest.mark.parametrize("action", ["kill", "stop"])
@pytest.mark.parametrize("point", sorted(STOPPING))
def test_a_server_that_ends_at(point: str, action: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(server_of("lanes"))
        table = stack.enter_context(ringtable.connect())
        table["held"] = HELD
        view = stack.enter_context(table.view("held"))
        finish = stack.enter_context(Flag())
        callers = stack.enter_context(callers_at_work(Site(), ways("lanes"), finish))
        server.arm(point, action)
        server.begin_to_stop()
        assert server.process.fate() == action
        with pytest.raises(ringtable.TableNotFound):
            ringtable.connect()
        if action == "stop":
            server.process.go_on()
            server.process.result()
        ended_at = time.monotonic()
        for caller in callers:
            gone_at = caller.result().gone_at
            assert gone_at is not None
            assert gone_at - ended_at < CALL_S_MAX
        assert bytes(view) == HELD
        with server_of("lanes"), ringtable.connect() as again:
            again["key"] = b"value"
