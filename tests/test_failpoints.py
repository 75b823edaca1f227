"""A process is killed, or stopped and continued, at each step of every protocol: a client, and the server.

A normal build has no failpoints, so that all of this is skipped; `scripts/failpoints.sh` makes one that has, and runs
it. Every point is in one of the tables here, and a test fails if its process does not come by.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from failpoints import (
    CALL_S_MAX,
    POINTS,
    SHARED,
    SLOW_CONSUMER_S,
    Checker,
    FailingServer,
    Hold,
    Victim,
    arm,
    check_whole,
    figures,
    wait_until_all_is_free,
)
from ringtable import Server, Table
from ringtable._ringtable import socket_path
from support import DEADLINE_S, Child, Flag, freeze, own_ringtable_memory, state_of, wait_until

pytestmark = pytest.mark.skipif(
    not POINTS, reason="this build has no failpoints: `scripts/failpoints.sh` makes one, and runs these tests"
)

# The last two for so long that it is sent away, if it is in the others' way.
ENDS = ["kill", "stop", "stop for long", "stop and kill"]
RINGS = ("shared", "sharded")
OPTIONS: dict[str, Any] = {
    "workers": 2,
    "max_memory": "64MiB",
    # A client that does not spin sleeps at once, and so comes by the points on the way there.
    "spin_us": 0,
    "ring_slots": 64,
    "slow_consumer_timeout": SLOW_CONSUMER_S,
}


def server_of(topology: str, **options: Any) -> FailingServer:
    return FailingServer(**OPTIONS | {"topology": topology} | options)


def test_smoke() -> None:
    with server_of("lanes") as server, ringtable.connect() as table:
        server.arm("put.linked", "kill")
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"
        assert server.process.fate() == "kill"
    with server_of("lanes"), ringtable.connect() as table:
        assert "key" not in table


def test_every_point_has_a_test() -> None:
    tested = [set(CLIENT), set(SERVER), set(STARTING), KEEPING, set(STOPPING)]
    assert set().union(*tested) == set(POINTS)
    assert sum(map(len, tested)) == len(POINTS), "and only one"


# Clients

# What a victim has done and heard of before its point is armed.
ACKNOWLEDGED = {b"acknowledged %d" % number: b"%d" % number * 50 for number in range(10)}
COUNTED = 5
# What it asks for when it comes to the point.
OPEN = b"open"
VALUE = b"value" * 20
LARGE = b"large" * 400_000

Begin = Callable[[], None]
# What the table holds of the open request: the value, and the count.
State = tuple[bytes | None, int]
NOTHING: State = (None, COUNTED)
BOTH: State = (VALUE, COUNTED + 1)
# Two requests in one: over shared memory they are published together.
PAIR = [("SET", OPEN, VALUE), ("INCR", "count")]


@dataclass(frozen=True)
class Case:
    """What a client does to come by a point, and what may be in the table once it is dead."""

    act: Callable[[Begin, Table], None]
    """Does something, after calling the first argument; the second is a table of the parent's."""
    dead: tuple[State, ...]
    """What the table may hold if it is killed there."""
    done: State
    """What it holds if the client comes to its end."""
    topologies: tuple[str, ...] = ("lanes",)
    first: str | None = None
    """Another point, at which it has to be stopped first."""
    unsent: tuple[State, ...] = ()
    """What else the table may hold if it is killed there and shares rings, whose queue may have no room."""
    held: bool = False
    """Whether the server stands still until the client sleeps, so that there is nothing new before that."""


def pair(**options: Any) -> Callable[[Begin, Table], None]:
    """Ask for two things at once."""

    def act(begin: Begin, _: Table) -> None:
        with Table(**options) as table:
            begin()
            assert table.call_many(PAIR) == [b"OK", COUNTED + 1]
            assert table[OPEN] == VALUE

    return act


def connect_and_ask(begin: Begin, _: Table) -> None:
    begin()
    with Table() as table:
        assert table.call_many(PAIR) == [b"OK", COUNTED + 1]


def write_large(**options: Any) -> Callable[[Begin, Table], None]:
    def act(begin: Begin, _: Table) -> None:
        with Table(**options) as table:
            begin()
            table[OPEN] = LARGE
            assert table[OPEN] == LARGE

    return act


def read_large(begin: Begin, _: Table) -> None:
    with Table(reads="server") as table:
        table[OPEN] = LARGE
        begin()
        assert table[OPEN] == LARGE


def post(begin: Begin, _: Table) -> None:
    with Table(writes="posted") as table:
        begin()
        table[OPEN] = VALUE
        assert table[OPEN] == VALUE


def read_in_place(begin: Begin, _: Table) -> None:
    with Table() as table:
        begin()
        for _attempt in range(100):
            check_whole(table[SHARED])


def make_views(begin: Begin, _: Table) -> None:
    with Table() as table:
        begin()
        for _round in range(3):
            views = [table.view(SHARED) for _number in range(10)]
            for view in views:
                before = bytes(view)
                check_whole(before)
                time.sleep(0.001)  # for others to write in
                assert bytes(view) == before
                view.close()


def use_what_is_inherited(begin: Begin, inherited: Table) -> None:
    begin()
    assert inherited.call_many(PAIR) == [b"OK", COUNTED + 1]


def lose_the_connection(begin: Begin, _: Table) -> None:
    with Table(reconnect=True) as table:
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as end:
                if end.getpeername() == socket_path("default"):
                    end.shutdown(socket.SHUT_RDWR)
        begin()
        with pytest.raises(ringtable.ServerGone):
            # A worker that has not noticed yet still answers.
            wait_until(lambda: table.call("PING") != b"PONG", "the connection is lost")
        assert table.call_many(PAIR) == [b"OK", COUNTED + 1]


def compute(begin: Begin, _: Table) -> None:
    with Table() as table:
        begin()
        assert table.get_or_set(OPEN, lambda: VALUE) == VALUE


def wait_for_what_is_computed(begin: Begin, _: Table) -> None:
    with Table() as holder, Table() as table:
        token = int(str(holder.call("RING.LEASE", OPEN)))
        begin()
        results: list[bytes] = []
        waiting = threading.Thread(target=lambda: results.append(table.get_or_set(OPEN, lambda: b"nobody's")))
        waiting.start()
        wait_until(lambda: holder.stats()["lease_waiters"] == 1, "it waits")
        holder[OPEN] = VALUE
        assert holder.call("RING.UNLEASE", OPEN, token) == 1
        waiting.join()
        assert results == [VALUE]


def watch(begin: Begin, _: Table) -> None:
    with Table() as table:
        begin()
        with table.watch() as changes:
            for number, change in enumerate(changes):
                assert isinstance(change, ringtable.Lagged) or change.key.startswith((SHARED, b"checker"))
                if number == 100:
                    return


def wait_for_a_change(begin: Begin, _: Table) -> None:
    with Table(writes="posted") as table, table.watch("watched") as changes:
        begin()
        # It is on its way, and done when the server goes on.
        table["watched"] = VALUE
        assert next(changes).key == b"watched"


def close(begin: Begin, _: Table) -> None:
    with Table(writes="posted") as table:
        begin()
        table[OPEN] = VALUE


def nothing_open(act: Callable[[Begin, Table], None]) -> Case:
    return Case(act, (NOTHING,), NOTHING)


EITHER = (NOTHING, (VALUE, COUNTED), BOTH)

CLIENT = {
    "connect.socket": Case(connect_and_ask, (NOTHING,), BOTH, ("lanes", *RINGS)),
    "connect.received": Case(connect_and_ask, (NOTHING,), BOTH, ("lanes", *RINGS)),
    "connect.joined": Case(connect_and_ask, (NOTHING,), BOTH, ("lanes", *RINGS)),
    "lane.writing": Case(pair(), (NOTHING,), BOTH),
    "lane.written": Case(pair(), (NOTHING,), BOTH),
    "lane.published": Case(pair(), (BOTH,), BOTH),
    "lane.piece": Case(write_large(), (NOTHING,), (LARGE, COUNTED)),
    "lane.reply": Case(pair(), (BOTH,), BOTH),
    "lane.reply_piece": Case(read_large, ((LARGE, COUNTED),), (LARGE, COUNTED)),
    "posted.sent": Case(post, ((VALUE, COUNTED),), (VALUE, COUNTED), ("lanes", *RINGS)),
    "wait.announced": Case(pair(), (BOTH,), BOTH, ("lanes", *RINGS), unsent=(NOTHING,), held=True),
    "wait.woken": Case(pair(), (BOTH,), BOTH, ("lanes", *RINGS), unsent=(NOTHING,), held=True),
    "rings.listening": Case(pair(), (NOTHING,), BOTH, RINGS),
    "rings.claimed": Case(pair(), (NOTHING,), BOTH, RINGS),
    "rings.writing": Case(pair(), (NOTHING,), BOTH, RINGS),
    "rings.written": Case(pair(), (NOTHING,), BOTH, RINGS),
    "rings.published": Case(pair(), (BOTH,), BOTH, RINGS),
    "rings.giving_back": Case(pair(), (NOTHING,), BOTH, RINGS, first="rings.written"),
    "rings.copied": Case(pair(), (BOTH,), BOTH, RINGS),
    "rings.checked": Case(pair(), (BOTH,), BOTH, RINGS),
    "rings.leaving": Case(pair(), (BOTH,), BOTH, RINGS),
    "socket.gathered": Case(pair(transport="socket"), (NOTHING,), BOTH, ("lanes", "shared")),
    # The server may not have read it.
    "socket.sent": Case(pair(transport="socket"), EITHER, BOTH, ("lanes", "shared")),
    "socket.full": Case(write_large(transport="socket"), (NOTHING,), (LARGE, COUNTED), ("lanes", "shared"), held=True),
    "read.begun": nothing_open(read_in_place),
    "read.found": nothing_open(read_in_place),
    "read.copied": nothing_open(read_in_place),
    "pin.asked": nothing_open(make_views),
    "pin.stored": nothing_open(make_views),
    "pin.checked": nothing_open(make_views),
    "pin.cleared": nothing_open(make_views),
    "fork.inherited": Case(use_what_is_inherited, (NOTHING,), BOTH, ("lanes", "shared")),
    "fork.connected": Case(use_what_is_inherited, (NOTHING,), BOTH, ("lanes", "shared")),
    "reconnect.retired": Case(lose_the_connection, (NOTHING,), BOTH, ("lanes", "shared")),
    "reconnect.connected": Case(lose_the_connection, (NOTHING,), BOTH, ("lanes", "shared")),
    "lease.waiting": Case(wait_for_what_is_computed, (NOTHING, (VALUE, COUNTED)), (VALUE, COUNTED)),
    "answer.leaving": Case(wait_for_what_is_computed, (NOTHING, (VALUE, COUNTED)), (VALUE, COUNTED)),
    "lease.got": Case(compute, (NOTHING,), (VALUE, COUNTED), ("lanes", "shared")),
    "lease.returning": Case(compute, ((VALUE, COUNTED),), (VALUE, COUNTED), ("lanes", "shared")),
    "lease.returned": Case(compute, ((VALUE, COUNTED),), (VALUE, COUNTED)),
    "watch.joined": nothing_open(watch),
    "watch.announced": Case(wait_for_a_change, (NOTHING,), NOTHING, held=True),
    "watch.copied": nothing_open(watch),
    "close.begun": Case(close, ((VALUE, COUNTED),), (VALUE, COUNTED), ("lanes", "shared")),
    "close.dropped": Case(close, ((VALUE, COUNTED),), (VALUE, COUNTED), ("lanes", "shared")),
}


def live(case: Case, point: str, action: str, inherited: Table, hold: Hold) -> str:
    """What a victim does. Returns how it has gone on after it was stopped."""

    def begin() -> None:
        with Table() as table:
            table.set_many(ACKNOWLEDGED)
            for number in range(COUNTED):
                assert table.incr("count") == number + 1
        if case.first is not None:
            arm(case.first, "stop")
        arm(point, action)
        if case.held:
            hold.begin()

    try:
        case.act(begin, inherited)
    except ringtable.Expelled:
        # It starts anew.
        with Table() as table:
            table["after"] = VALUE
            assert table["after"] == VALUE
        return "expelled"
    except (ringtable.ServerGone, ringtable.TableNotFound):
        return "gone"
    return "done"


@pytest.mark.parametrize(
    ("point", "topology", "end"),
    [
        (point, topology, end)
        for point, case in CLIENT.items()
        for topology in case.topologies
        for end in ENDS
        # Nobody is in the way who has a lane.
        if topology != "lanes" or end != "stop for long"
    ],
)
def test_a_client_at(point: str, topology: str, end: str) -> None:
    case = CLIENT[point]
    action, outcome = end[:4], ""
    # Far more than what comes meanwhile, or far less.
    ring_slots, meanwhile = (16_384, 3) if end == "stop" else (16, 20)
    with server_of(topology, ring_slots=ring_slots) as server, ringtable.connect() as table:
        before = figures(server, table)
        with Checker(table, SLOW_CONSUMER_S + CALL_S_MAX) as checker:
            with Hold(server) as hold, Victim(live, case, point, action, table, hold) as victim:
                if case.first is not None:
                    assert victim.fate() == "stop"
                    checker.keeps_on(meanwhile)
                    victim.go_on()
                if case.held:
                    hold.end(victim)
                assert victim.fate() == action
                checker.keeps_on(meanwhile)
                if end in ("stop", "stop for long"):
                    victim.go_on()
                    assert victim.what_became_of_it() == "end"
                    outcome = victim.result()
            checker.keeps_on(5)
        wait_until_all_is_free(server, table, before)
        state: State = (table.get(OPEN), int(table["count"]))
        dead = case.dead if topology == "lanes" else (*case.unsent, *case.dead)
        if end != "kill" and topology != "lanes":
            # A client that was sent away may not even get what it had published.
            dead = (NOTHING, *dead)
        allowed = {"": dead, "expelled": (*dead, case.done), "done": (case.done,)}[outcome]
        assert state in allowed, f"forbidden: {state!r:.100} is left of what was asked, not {allowed!r:.100}"
        # Only who shares rings can be in the way.
        assert outcome in ("", "done") or end == "stop for long", f"forbidden: {outcome}"
        assert {key: table[key] for key in ACKNOWLEDGED} == ACKNOWLEDGED
        # What it had of the key is not in anybody's way, either.
        assert table.get_or_set(OPEN, lambda: VALUE) == (state[0] or VALUE)
        table.clear()
        assert len(table) == 0


# The server


def no_provocation(stack: ExitStack) -> None:
    """What the callers do anyway is enough."""


def again_and_again(work: Callable[[Table, int], object], **options: Any) -> Callable[[ExitStack], None]:
    """Do something over and over, in a process of its own, until the server is gone or the test over."""

    def repeat() -> None:
        with suppress(ringtable.ServerGone, ringtable.TableNotFound), Table(**options) as table:
            number = 0
            while True:
                work(table, number)
                number += 1

    def provoke(stack: ExitStack) -> None:
        stack.enter_context(Child(repeat))

    return provoke


def come_and_go(_: Table, __: int) -> None:
    with Table() as table:
        table["visitor"] = b"value"
        with table.watch():
            pass


def grow(table: Table, number: int) -> None:
    if number < 40:
        table.set_many((b"grown %d %d" % (number, index), b"value") for index in range(1_000))


def grow_and_clear(table: Table, number: int) -> None:
    table.set_many((b"grown %d" % index, b"value" * 40) for index in range(10_000))
    table.clear()


def fill(table: Table, number: int) -> None:
    size = random.choice([100, 1_000, 5_000, 30_000])
    table.set_many((b"filler %d" % random.randrange(10_000), bytes(size)) for _ in range(100_000 // size))


def fill_largely(table: Table, number: int) -> None:
    table.set(b"large %d" % (number % 7), bytes(random.randrange(300_000, 2_000_000)))


def expire(table: Table, _: int) -> None:
    table.set_many(((b"expires %d" % index, b"value") for index in range(500)), ttl=0.05)
    time.sleep(0.02)


def expire_anew(table: Table, number: int) -> None:
    table.set("expires anew", b"value" * 100)
    table.expire("expires anew", number + 1_000)


def stop_one(point: str) -> Callable[[ExitStack], None]:
    """Let a client stand still at a point."""

    def ask() -> None:
        with Table(reads="server") as table:
            arm(point, "stop")
            while True:
                table.set("standing still", b"value")

    def provoke(stack: ExitStack) -> None:
        assert stack.enter_context(Victim(ask)).fate() == "stop"

    return provoke


@dataclass(frozen=True)
class Site:
    """How a server comes by a point."""

    topology: str = "lanes"
    provoke: Callable[[ExitStack], None] = no_provocation
    options: dict[str, Any] = field(default_factory=dict)
    forgets: bool = False
    """Whether what the callers write may be gone again, since others clear the table, or fill it."""


VISITED = Site(provoke=again_and_again(come_and_go))
VISITED_RINGS = Site("shared", again_and_again(come_and_go))
GROWING = Site(provoke=again_and_again(grow), options={"buckets": 1})
CLEARED = Site(provoke=again_and_again(grow_and_clear), options={"buckets": 1}, forgets=True)
FULL = Site(provoke=again_and_again(fill), options={"max_memory": "4MiB", "eviction": "allkeys-sieve"}, forgets=True)
FULL_OF_LARGE = Site(
    provoke=again_and_again(fill_largely),
    options={"max_memory": "12MiB", "eviction": "allkeys-sieve"},
    forgets=True,
)
SLOW_CONSUMER = Site("shared", stop_one("wait.announced"), {"ring_slots": 16, "slow_consumer_timeout": 0.05})

SERVER = {
    "accept.accepted": VISITED,
    "accept.delivered": VISITED,
    "accept.taken": VISITED,
    "join.made": VISITED,
    "join.passed": VISITED,
    "join.seated": VISITED_RINGS,
    "join.told": VISITED_RINGS,
    "join.watching": VISITED,
    "end.noticed": VISITED,
    "end.executed": VISITED,
    "end.counted": VISITED,
    "end.departed": VISITED_RINGS,
    "end.recovered": VISITED_RINGS,
    "end.forgotten": VISITED_RINGS,
    "expel.dismissed": SLOW_CONSUMER,
    "expel.told": SLOW_CONSUMER,
    "request.copied": Site(),
    "request.executed": Site(),
    "reply.written": Site(),
    "reply.published": Site(),
    "reply.released": Site(),
    "reply.piece": Site(),
    "socket.executed": Site(),
    "inflow.begun": Site(),
    "inflow.piece": Site(),
    "room.ordered": FULL_OF_LARGE,
    "room.made": FULL_OF_LARGE,
    "queue.taken": Site("sharded"),
    "queue.released": Site("shared"),
    "queue.quarantined": Site("shared", stop_one("rings.written")),
    "cast.claimed": Site("sharded"),
    "cast.written": Site("shared"),
    "cast.published": Site("shared"),
    "put.prepared": Site(),
    "put.locked": Site(),
    "put.linked": Site(),
    "put.unlocked": Site(),
    "put.chained": GROWING,
    "expire.changed": Site(provoke=again_and_again(expire_anew)),
    "expire.unlocked": Site(provoke=again_and_again(expire_anew)),
    "delete.unlinked": Site(),
    "delete.unlocked": Site(),
    "retire.listed": Site(),
    "retire.looked": Site(),
    "split.page": GROWING,
    "split.locked": GROWING,
    "split.halved": GROWING,
    "split.counted": GROWING,
    "split.unlocked": GROWING,
    "shrink.counted": CLEARED,
    "flush.emptied": CLEARED,
    "flush.unlinked": CLEARED,
    "evict.unlinked": FULL,
    "move.closed": FULL,
    "move.copied": FULL,
    "move.linked": FULL,
    "move.unlocked": FULL,
    "sweep.unlinked": Site(provoke=again_and_again(expire)),
    "pages.taken": CLEARED,
    "pages.given": CLEARED,
    "event.begun": Site(),
    "event.written": Site(),
    "event.published": Site(),
    "lease.granted": Site(),
}
STARTING = {"start.locked", "start.bound"}
# Where a server keeps its path.
KEEPING = {"keep.made"}
STOPPING = {"stop.hidden", "stop.said"}

HELD = b"held" * 10_000


@dataclass
class Account:
    """What a caller has done until it was told to finish, or its server was gone."""

    counted: int = 0
    """Increments that were acknowledged."""
    uncertain: int = 0
    """Increments that were given up."""
    gone_at: float | None = None
    """When it heard that the server is gone, by the clock that all processes share."""


def call(name: bytes, options: dict[str, Any], forgets: bool, at_work: Flag, finish: Flag) -> Account:
    """Calls of all kinds, on keys of one's own, with every answer checked."""
    account, rounds = Account(), 0
    try:
        with connect(**options) as table:
            while not finish.is_set():
                with suppress(ringtable.Timeout):
                    call_once(name, table, forgets, account)
                    if not rounds:
                        at_work.set()
                    rounds += 1
    except ringtable.ServerGone:
        account.gone_at = time.monotonic()
    return account


def connect(**options: Any) -> Table:
    """Connect, however often it takes who is impatient."""
    while True:
        with suppress(ringtable.Timeout):
            return Table(**options)


@contextmanager
def callers_at_work(site: Site, ways: list[dict[str, Any]], finish: Flag) -> Iterator[list[Child]]:
    """Callers that have made each of their calls once."""
    with ExitStack() as stack:
        flags = [stack.enter_context(Flag()) for _ in ways]
        callers = [
            stack.enter_context(Child(call, b"caller %d" % number, options, site.forgets, flags[number], finish))
            for number, options in enumerate(ways)
        ]
        for flag in flags:
            flag.wait()
        yield callers


def call_once(name: bytes, table: Table, forgets: bool, account: Account) -> None:
    small, large = os.urandom(50), os.urandom(100_000)

    def check(found: object, *expected: object) -> None:
        # After a call that was given up nobody knows what is there.
        assert forgets or account.uncertain or found in expected, f"{found!r:.100}, not {expected!r:.100}"

    account.uncertain += 1
    table.set(name, small)
    check(table.get(name), small)
    count = table.incr(name + b" count")
    account.uncertain -= 1
    account.counted += 1
    check(count, account.counted)
    table.set(name + b" large", large)
    check(table.get(name + b" large"), large)
    check(table.get_many([name, b"missing"]), [small, None])
    table.set_many([(name + b" %d" % number, small) for number in range(20)])
    table.expire(name + b" 0", 0.05)
    check(table.delete(name), 1)
    check(table.get(name), None)
    check(table.get_or_set(name + b" made", lambda: b"made", ttl=0.05), b"made")
    with suppress(KeyError), table.view(b"held", copy_ok=True) as view:
        check(bytes(view), HELD, b"not held")


def wait_for_ever(options: dict[str, Any], waiting: Flag) -> float:
    """Wait for a lease that is not given back. Returns when the server was gone."""
    with suppress(ringtable.ServerGone), Table(**options) as table:
        waiting.set()
        table.get_or_set("never computed", lambda: b"value")
    return time.monotonic()


def watch_for_ever(waiting: Flag) -> float:
    """Wait for changes that nobody makes. Returns when the server was gone."""
    with suppress(ringtable.ServerGone), Table() as table, table.watch("never written") as changes:
        waiting.set()
        next(changes)
    return time.monotonic()


def ways(topology: str) -> list[dict[str, Any]]:
    """How the callers of a test are connected."""
    shared: list[dict[str, Any]] = [{}, {"reads": "server"}, {"transport": "socket"}]
    return shared if topology != "lanes" else [*shared, {"writes": "posted"}]


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
                others.enter_context(connect(timeout=0.1, reads="server", **options))
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


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("point", sorted(KEEPING))
def test_a_server_whose_files_were_removed_at(point: str, end: str) -> None:
    """They are removed again in that moment."""
    path = Path(socket_path("default"))
    with server_of("lanes") as server:
        server.arm(point, end)
        path.unlink()
        assert server.process.fate() == end
        path.unlink()
        if end == "stop":
            server.process.go_on()
            wait_until(is_there, "forbidden: the server is never found again")
            return
    with server_of("lanes"), ringtable.connect() as table:
        table["key"] = b"value"


def is_there() -> bool:
    with suppress(ringtable.TableNotFound), ringtable.connect():
        return True
    return False


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


# Both


@pytest.mark.parametrize(
    ("point", "topology"), [(point, case.topologies[0]) for point, case in CLIENT.items() if case.first is None]
)
def test_a_client_whose_server_dies_while_it_stands_at(point: str, topology: str) -> None:
    case = CLIENT[point]
    with (
        server_of(topology) as server,
        ringtable.connect() as table,
        Checker(table, SLOW_CONSUMER_S + CALL_S_MAX, outlives=False),
        Hold(server) as hold,
        Victim(live, case, point, "stop", table, hold) as victim,
    ):
        if case.held:
            hold.end(victim)
        assert victim.fate() == "stop"
        server.process.kill()
        victim.go_on()
        start = time.monotonic()
        # It may have had all the answers that it needs, or read on in place for a moment.
        assert victim.result() in ("gone", "done")
        assert time.monotonic() - start < CALL_S_MAX
    with server_of(topology), ringtable.connect() as table:
        table["key"] = b"value"


def test_a_server_that_dies_before_it_answers_a_write_in_many_pieces() -> None:
    """Room that had appeared in its ring once was news to the client for ever, and it did not look at its server."""

    def write() -> str:
        try:
            with ringtable.connect() as table:
                table["large"] = bytes(4 << 20)
        except ringtable.ServerGone:
            return "gone"
        return "written"

    with server_of("lanes") as server:
        # Of the first request nothing is left to send when the server comes to its end.
        server.arm("request.executed", "kill")
        with Child(write) as child:
            wait_until(child.has_ended, "forbidden: a client goes on without its server")
            assert child.result() == "gone"
        assert server.process.fate() == "kill"
    with server_of("lanes"), ringtable.connect() as table:
        assert "large" not in table


@pytest.mark.parametrize("topology", ["lanes", *RINGS])
def test_giving_way_at_every_step_changes_nothing(topology: str) -> None:
    def work(number: int) -> None:
        for point in POINTS:
            arm(point, "yield")
        with Flag() as finish, Flag() as at_work, Child(call, b"caller %d" % number, {}, False, at_work, finish) as c:
            at_work.wait()
            time.sleep(1)
            finish.set()
            assert c.result().counted > 0

    with server_of(topology) as server, ringtable.connect() as table, ExitStack() as stack:
        before = figures(server, table)
        table["held"] = HELD
        for point in POINTS:
            server.arm(point, "yield")
        for worker in [stack.enter_context(Child(work, number)) for number in range(4)]:
            worker.result()
        wait_until_all_is_free(server, table, before)


def test_a_worker_that_stands_still_with_a_piece_in_hand_costs_nobody_the_connection() -> None:
    """Other workers take what follows. They once held the missing piece for lost after `--slow-consumer-timeout`."""
    with server_of("shared", slow_consumer_timeout=0.05) as server, ringtable.connect(reads="server") as table:
        for number in range(3):
            server.arm("queue.released", "doze", nth=10 + number)
            try:
                table["large"] = LARGE
            except ringtable.ServerGone as error:
                raise AssertionError(f"forbidden: its connection was ended: {error}") from error
            assert table["large"] == LARGE
        assert table.stats()["clients_ended_slot"] == 0


@pytest.mark.parametrize("topology", RINGS)
@pytest.mark.parametrize("has_room", [True, False], ids=["room", "no room"])
def test_what_was_asked_by_who_is_killed_asleep_is_done_if_the_queue_had_room(topology: str, has_room: bool) -> None:
    """All of it, or none: a client that finds no room for what it asks sleeps, too, and has sent nothing."""

    def ask(call: Callable[[Table], object], arms: bool, ready: Flag, goes_on: Flag, asks: Flag) -> None:
        with Table() as table:
            if arms:
                arm("wait.announced", "kill")
            ready.set()
            goes_on.wait()
            asks.set()
            call(table)

    # One worker, so that both have the same queue.
    with server_of(topology, ring_slots=16, workers=1) as server, ringtable.connect() as table, ExitStack() as stack:
        before = figures(server, table)
        ready, write_on, writes = flags = [stack.enter_context(Flag()) for _ in range(3)]
        writer = stack.enter_context(Child(ask, lambda table: table.set("large", LARGE), False, *flags))
        ready.wait()
        ready, ask_on, _ = flags = [stack.enter_context(Flag()) for _ in range(3)]
        victim = stack.enter_context(Victim(ask, lambda table: table.call_many(PAIR), True, *flags))
        ready.wait()
        freeze(server.pid)
        if not has_room:
            write_on.set()
            writes.wait()
            wait_until(lambda: state_of(writer.pid) == "S", "the queue is full of what another one writes")
        ask_on.set()
        assert victim.fate() == "kill"
        server.process.go_on()
        write_on.set()
        writer.result()
        wait_until_all_is_free(server, table, before)
        assert (table.get(OPEN), table.get("count")) == ((VALUE, b"1") if has_room else (None, None))
        assert table["large"] == LARGE


def test_who_was_stopped_together_with_the_server_is_not_sent_away() -> None:
    """The time for which the server itself stood still does not count as the time that it has waited for a client."""

    def ask(hold: Hold) -> int:
        with Table(reads="server") as table:
            table["slow"] = LARGE
            arm("wait.announced", "stop")
            hold.begin()
            assert table["slow"] == LARGE
        return 0

    with server_of("shared", ring_slots=16, slow_consumer_timeout=2.0) as server, ringtable.connect() as table:
        with Hold(server) as hold, Victim(ask, hold) as client, Flag() as finish, Flag() as at_work:
            hold.end(client)
            assert client.fate() == "stop"
            # Its replies, of which it takes none, fill the ring, and this one waits.
            with Child(call, b"caller", {"reads": "server"}, True, at_work, finish) as other:
                wait_until(lambda: state_of(other.pid) == "S", "the other one waits")
                freeze(server.pid)
                time.sleep(2.5)  # for the time-out to pass
                server.process.go_on()
                client.go_on()
                assert client.result() == 0
                finish.set()
                other.result()
        assert table.stats()["clients_ended_slow_consumer"] == 0


# Many at once


def roam(name: bytes, plan: list[tuple[str, str, int]], options: dict[str, Any], finish: Flag) -> str:
    """Calls of all kinds over one connection after the other, until a point is reached, or told to finish."""
    account = Account()
    for point, action, nth in plan:
        arm(point, action, nth)
    try:
        while not finish.is_set():
            with Table(**options) as table:
                for _call in range(3):
                    call_once(name, table, False, account)
    except ringtable.Expelled:
        return "expelled"
    return "done"


@pytest.mark.parametrize("topology", ["lanes", *RINGS])
@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_clients_at_random_points(topology: str, rounds: int, seed: int) -> None:
    generator = random.Random(seed)
    points = [point for point, case in CLIENT.items() if topology in case.topologies]
    with server_of(topology, ring_slots=16) as server, ringtable.connect() as table:
        before = figures(server, table)
        for point in POINTS:
            server.arm(point, "yield")
        # Everybody gives way at every step, so that nothing is said of times here.
        with Checker(table, DEADLINE_S) as checker:
            table["held"] = HELD
            for number in range(rounds):
                roam_and_die(generator, points, topology, b"%d " % number, checker)
        wait_until_all_is_free(server, table, before)


def roam_and_die(generator: random.Random, points: list[str], topology: str, name: bytes, checker: Checker) -> None:
    """Let some clients come to random points at the same time, each to be killed or stopped there."""
    with Flag() as finish, ExitStack() as stack:
        victims = []
        for number in range(4):
            plan = [(generator.choice(points), generator.choice(["kill", "stop"]), generator.randrange(1, 5))]
            print(name, plan)
            options = generator.choice(ways(topology))
            victims.append(stack.enter_context(Victim(roam, name + b"%d" % number, plan, options, finish)))
        checker.keeps_on(3)
        finish.set()
        for victim in victims:
            # Whoever is left standing is killed at the end.
            if victim.what_became_of_it() == "stop" and generator.random() < 0.5:
                victim.go_on()
                assert victim.what_became_of_it() == "end"
            if victim.what_became_of_it() == "end":
                assert victim.result() == "done" or topology != "lanes"
        checker.keeps_on(3)
