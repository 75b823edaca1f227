"""How a server comes by each of its failpoints."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import ringtable
from failpoints import Victim, arm
from ringtable import Table
from support import Child


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


def expire(table: Table, number: int) -> None:
    # Other keys than the last few times: what is written again in time does not expire.
    table.set_many(((b"expires %d %d" % (number % 10, index), b"value") for index in range(500)), ttl=0.05)
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
    "split.filled": GROWING,
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
# Where a server ends by itself.
LINGERING = {"linger.over", "linger.shut"}
STOPPING = {"stop.hidden", "stop.said"}
# Where one with a keeper has it hold a client's socket, and notes what it has done.
NOTING = {"join.kept", "request.noted"}
RESIGNING = {"resign.ended"}
MOVING = {"resign.moved"}
