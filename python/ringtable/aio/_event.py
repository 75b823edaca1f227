"""Events, for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ringtable._ringtable import Table as TableCore
from ringtable.aio._seconds import seconds
from ringtable.aio._told import told

if TYPE_CHECKING:
    from ringtable._types import Seconds
    from ringtable.aio._driver import Driver

_ASK = object()


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
                    await told(self._driver, "RING.AWAIT", self._key, 0, self.is_set)
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncEvent {self._key.decode(errors='replace')!r}>"
