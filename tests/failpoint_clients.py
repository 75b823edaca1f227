"""What a client does to come by each of its failpoints, and what may be in the table when it has died there."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ringtable
from failpoints import RINGS, SHARED, Hold, arm, check_whole
from ringtable import Table
from ringtable._ringtable import socket_path
from support import wait_until

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
    with Table() as table:
        number = table.call("CLIENT", "ID")
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as end:
                if end.getpeername() == socket_path("default"):
                    end.shutdown(socket.SHUT_RDWR)
        begin()

        def is_lost() -> bool:
            # Whose seat at the rings is taken away is told so, once.
            with suppress(ringtable.Expelled):
                return table.call("CLIENT", "ID") != number
            return False

        # A worker that has not noticed yet still answers; then the call goes on over another connection.
        wait_until(is_lost, "the connection is lost")
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
