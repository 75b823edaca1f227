"""Clients that go on from one server to the next without being told: what they write is done once, at one of them.

A follower has keys of its own, to which nobody else writes. It knows by `server_id` at which server each call was done,
and by `ServerGone` which calls may have been done at one that has died. So it can tell a write that was lost, one that
was sent to two servers, and a read that went back to a table that is gone.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from ringtable import ServerGone, Table, TableNotFound
from support import Flag

from proof.marks import Wrong

PREFIX = b"follower "
"""What the keys of all followers begin with."""


class Follower:
    """One client, and what it knows of its keys at each server that it has met."""

    def __init__(self, number: int, table: Table) -> None:
        self.table = table
        self.value, self.counter = (PREFIX + b"%d %b" % (number, name) for name in (b"value", b"counter"))
        self.number = 0
        # By server: the last number that was written for certain, and those that may have been.
        self.written: dict[int, int] = {}
        self.doubtful: dict[int, set[int]] = {}
        # By server: what the counter has come to, and how often it may have been incremented since.
        self.counted: dict[int, int] = {}
        self.in_doubt: dict[int, int] = {}

    def write(self) -> None:
        """Write the next number."""
        self.number += 1
        before = self.table.server_id
        try:
            self.table[self.value] = b"%d" % self.number
        except ServerGone:
            # It may have met another one before that one died, too.
            for server in {before, self.table.server_id}:
                self.doubtful.setdefault(server, set()).add(self.number)
        else:
            self.written[self.table.server_id] = self.number

    def read(self) -> None:
        """Read the number that was written last."""
        found = int(self.table.get(self.value, b"0"))
        server = self.table.server_id
        last = self.written.get(server, 0)
        if found != last and found not in self.doubtful.get(server, ()):
            raise Wrong(f"{self.value!r} is {found} at server {server:#x}, where {last} was written last")

    def count(self) -> None:
        """Increment the counter."""
        before = self.table.server_id
        try:
            found = self.table.incr(self.counter)
        except ServerGone:
            for server in {before, self.table.server_id}:
                self.in_doubt[server] = self.in_doubt.get(server, 0) + 1
            return
        server = self.table.server_id
        least = self.counted.get(server, 0) + 1
        most = least + self.in_doubt.pop(server, 0)
        if not least <= found <= most:
            raise Wrong(f"{self.counter!r} is {found} at server {server:#x}, and not from {least} to {most}")
        self.counted[server] = found


def follow(number: int, seed: str, address: str, options: dict[str, Any], finish: Flag) -> tuple[int, int]:
    """Write, read and count until it is told to end.

    Returns:
        How many servers it has met, and how many calls it has made.
    """
    generator = random.Random(seed)
    met: set[int] = set()
    calls = 0
    with _connected(address, **options, on_new_server=met.add) as table:
        follower = Follower(number, table)
        acts = (follower.write, follower.read, follower.read, follower.count)
        while not finish.is_set():
            # There may be none at this moment.
            with suppress(ServerGone):
                generator.choice(acts)()
            calls += 1
    return len(met), calls


def _connected(address: str, **options: Any) -> Table:
    """A table, though servers die while it connects."""
    while True:
        with suppress(ServerGone, TableNotFound):
            return Table(address, **options)
