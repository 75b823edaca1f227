"""Clients at work on a server that is to die or to stand still: calls of all kinds, with every answer checked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ringtable
from failpoint_servers import Site
from ringtable import Table
from support import Child, Flag

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
