"""Events, for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ringtable._errors import ServerGone
from ringtable._ringtable import Table as TableCore
from ringtable.aio._seconds import seconds

if TYPE_CHECKING:
    from ringtable._types import Seconds
    from ringtable.aio._driver import Driver

_ASK = object()

# What was written at the very moment of asking nobody is told of: who waits looks so often, in seconds.
LOOKS_EVERY_S = 0.1


class AsyncEvent:
    """Something that has happened or not, and that tasks, threads and processes wait for.

    It is that of `ringtable.Table.event`. `AsyncTable.event` makes one.
    """

    def __init__(self, table: TableCore[Any], driver: Driver, key: bytes) -> None:
        """Make it; `AsyncTable.event` does so."""
        self._table, self._driver, self._key = table, driver, key

    async def is_set(self) -> bool:
        """Whether it has happened; read in place."""
        found = TableCore._look(self._table, self._key, _ASK)
        return bool(await self._driver.call("EXISTS", self._key)) if found is _ASK else found is not None

    async def set(self) -> None:
        """Let it have happened: all who wait go on."""
        await self._driver.call("SET", self._key, b"1", "UNEVICTABLE")

    async def clear(self) -> None:
        """Let it not have happened."""
        await self._driver.call("DEL", self._key)

    async def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until it is set, for `timeout` at most, in seconds or a `timedelta`; return whether it was."""
        try:
            async with asyncio.timeout(None if timeout is None else seconds(timeout)) as limit:
                while not await self.is_set():
                    await self._told()
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    async def _told(self) -> None:
        """Wait until the server says that it may be set, or it is time to look."""
        await self._driver.ensure()
        ticket = self._driver.next_ticket()
        answer = self._driver.expect(ticket)
        is_over = False
        try:
            said = await self._driver.call("RING.AWAIT", self._key, 0, ticket)
            if said.startswith(b"PENDING"):
                while not (is_over := answer.done()) and not await self.is_set():
                    await asyncio.wait((answer,), timeout=LOOKS_EVERY_S)
            else:
                is_over = True
        except ServerGone:
            is_over = True
            if not self._driver.reconnects:
                raise
        finally:
            self._driver.forget(ticket)
            if not is_over:
                self._driver.send_word("RING.UNWAIT", self._key, ticket)

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncEvent {self._key.decode(errors='replace')!r}>"
