"""Values that one task computes and all others wait for, in whatever process they are: `AsyncTable.get_or_set`.

# Design

Whoever finds no value asks for the lease of its key. One gets it, computes the value, and writes it. The others are
told when the lease is over, and look again; they wait in the event loop, and hold nobody. Within a process one task
asks for all: tasks that want a key for which another one has asked wait for that task's outcome.

If the process of the one that computes dies, or its task is cancelled, or its function raises, the lease ends, and the
next one computes.

# Not promised

A value that finds no room in the table is returned to the one that has computed it; the others compute it anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ringtable._errors import OutOfMemory
from ringtable.aio._told import told

if TYPE_CHECKING:
    from ringtable._table import Table
    from ringtable._types import Key, Seconds
    from ringtable.aio._driver import Driver

_NOTHING = object()

# So many tasks are woken in one round of the loop, which others of its tasks have to wait for.
_WOKEN_AT_ONCE = 50


def _wake(others: deque[asyncio.Future[None]]) -> None:
    """Have those look that wait: some now, and the rest in the next rounds of the loop."""
    for _ in range(min(_WOKEN_AT_ONCE, len(others))):
        outcome = others.popleft()
        if not outcome.done():
            outcome.set_result(None)
    if others:
        asyncio.get_running_loop().call_soon(_wake, others)


class Leases:
    """The leases of a table in this process."""

    def __init__(self, table: Table[Any], driver: Driver) -> None:
        self._table = table
        self._driver = driver
        # What a task of this loop computes or waits for, by raw keys: the others that wait for its outcome.
        self._under_way: dict[bytes, deque[asyncio.Future[None]]] = {}

    async def get_or_set(
        self, key: Key, make: Callable[[], Awaitable[Any]], ttl: Seconds | None, evictable: bool | None
    ) -> Any:
        """The value of a key, computed if there is none."""
        raw = self._table._raw_key(key)
        raw = raw.encode() if isinstance(raw, str) else bytes(raw)
        # The token of the lease that was waited for.
        after = 0
        while True:
            found = await self._look(key)
            if found is not _NOTHING:
                return found
            others = self._under_way.get(raw)
            if others is not None:
                outcome = asyncio.get_running_loop().create_future()
                others.append(outcome)
                await outcome
                continue
            others = self._under_way[raw] = deque()
            try:
                found, after = await self._computed(key, raw, after, make, ttl, evictable)
            finally:
                del self._under_way[raw]
                _wake(others)
            if found is not _NOTHING:
                return found

    async def _look(self, key: Key) -> Any:
        found = self._table._look(key, _NOTHING)
        if found is _NOTHING:
            # The server has to be asked.
            found = await self._driver.ask(self._table.pipeline().get(key))
        return _NOTHING if found is None else found

    async def _is_there(self, key: Key) -> bool:
        """Whether a look in place finds it; an array is equal to nothing that can be asked."""
        found = self._table._look(key, _NOTHING)
        return found is not None and found is not _NOTHING

    async def _computed(
        self,
        key: Key,
        raw: bytes,
        after: int,
        make: Callable[[], Awaitable[Any]],
        ttl: Seconds | None,
        evictable: bool | None,
    ) -> tuple[Any, int]:
        """Compute the value if the lease is ours; else wait until that is over, and return its token beside nothing."""
        await self._driver.ensure()
        ticket = self._driver.next_ticket()
        try:
            token = await self._driver.call("RING.LEASE", raw, ticket, "AFTER", after)
        except asyncio.CancelledError:
            self._driver.send_word("RING.UNLEASE", raw, b"TICKET", ticket)
            raise
        if token is None:
            # That one has ended, and nobody has a value: it may be our turn now.
            return _NOTHING, 0
        if isinstance(token, bytes):
            # One that found no room in the table.
            return self._table.pipeline().get(key)._finished([token])[0], 0
        if token <= 0:
            await told(self._driver, "RING.WAIT", raw, -token, partial(self._is_there, key))
            return _NOTHING, after or max(-token, 1)
        try:
            # Somebody may have written it just before.
            found = await self._look(key)
            if found is _NOTHING:
                found = await make()
                options = {} if evictable is None else {"evictable": evictable}
                commands = self._table.pipeline().set(key, found, ttl=ttl, **options)
                # What finds no room is returned all the same, to this one.
                with suppress(OutOfMemory):
                    await self._driver.ask(commands)
        finally:
            self._driver.send_word("RING.UNLEASE", raw, token)
        return found, 0
