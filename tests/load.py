"""Clients at work as processes of their own: those that are to be killed or stopped, and those that must not notice."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ringtable
from ringtable import Table
from support import Child, Flag, wait_until

if TYPE_CHECKING:
    from ringtable._types import RequestedTransport

LOAD_CLIENTS = 8


def work_for_ever(options: dict[str, Any], connected: Flag | None = None) -> None:
    """All kinds of calls, in an order that differs from process to process."""
    generator = random.Random(os.getpid())
    with Table(**options) as table:
        if connected is not None:
            connected.set()
        while True:
            key = b"victim %d" % generator.randrange(500)
            match generator.randrange(6):
                case 0 | 1:
                    table[key] = b"v" * generator.choice([1, 100, 5_000, 200_000])
                case 2:
                    table.get(key)
                case 3:
                    table.delete(key)
                case 4:
                    table.set_many((b"victim %d" % index, b"value") for index in range(200))
                case 5:
                    table.get_many(b"victim %d" % index for index in range(200))


@dataclass
class Work:
    """What the clients of a load have done when it is over."""

    longest_s: float = 0.0
    """The longest time that a call has taken."""
    rounds: int = 0
    """How often they have done all their calls."""


@contextmanager
def load(longest_s: float, clients: int = LOAD_CLIENTS, address: str = "default") -> Iterator[Work]:
    """Clients at work in a table, none of which may fail, lose a write, or wait longer than this."""
    work = Work()
    with Flag() as finish:
        children = [Child(_load, address, number, finish) for number in range(clients)]
        try:
            with ringtable.connect(address) as table:
                wait_until(lambda: all(f"load {n} count" in table for n in range(clients)), "all are at work")
            yield work
        finally:
            finish.set()
            done = [child.result() for child in children]
        with ringtable.connect(address) as table:
            for number, client in enumerate(done):
                assert table[f"load {number} count"] == b"%d" % client.rounds
    work.longest_s = max(client.longest_s for client in done)
    work.rounds = sum(client.rounds for client in done)
    print(f"longest wait under load: {work.longest_s:.3f} s, {work.rounds} rounds")
    assert work.longest_s < longest_s


def _load(address: str, number: int, finish: Flag) -> Work:
    """Work on keys of its own and check every answer."""
    work = Work()
    key = b"load %d" % number
    transport: RequestedTransport = "socket" if number == 0 else "auto"
    with Table(address, transport=transport, reads="server" if number % 2 else "direct") as table:
        # Of an earlier load of the same server.
        table.delete(key + b" count")
        while not finish.is_set():
            value = b"%d" % work.rounds * 20
            calls: list[tuple[Callable[..., object], tuple[Any, ...], object]] = [
                (table.set, (key, value), True),
                (table.get, (key,), value),
                (table.incr, (key + b" count",), work.rounds + 1),
                (table.get_many, ([key, b"missing"],), [value, None]),
                (table.delete, (key,), 1),
            ]
            for call, arguments, expected in calls:
                start = time.monotonic()
                assert call(*arguments) == expected
                work.longest_s = max(work.longest_s, time.monotonic() - start)
            work.rounds += 1
    return work
