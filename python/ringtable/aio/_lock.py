"""Locks and semaphores, for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ringtable._errors import LockLost, NotOwned, ServerGone, Timeout
from ringtable._ringtable import check_timeout, check_ttl
from ringtable.aio._seconds import seconds

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ringtable._types import Seconds
    from ringtable.aio._driver import Driver


def _milliseconds(ttl: Seconds) -> str:
    """A time to live, as a server gets it."""
    check_ttl(ttl)
    return str(max(1, round(seconds(ttl) * 1_000)))


class AsyncLock:
    """A lock of the name that it was made with, or a semaphore, which one task, or so many, have at a time.

    It is that of `ringtable.Table.lock`: threads, tasks and processes share it. Each task that wants it needs an object
    of its own; an object has it once.

        async with table.lock("report", timeout=10):
            ...

    If the process of its owner dies, it is free at once.
    """

    def __init__(
        self, driver: Driver, kind: str, name: bytes, permits: int, timeout: Seconds | None, ttl: Seconds | None
    ) -> None:
        """Make it; `AsyncTable.lock` and `AsyncTable.semaphore` do so."""
        self._driver = driver
        self.name = name
        """Its name, which no other lock or semaphore has."""
        # As the server has it.
        self._name = kind.encode() + b":" + self.name
        self._permits = permits
        if timeout is not None:
            check_timeout(timeout)
        self._timeout = None if timeout is None else seconds(timeout)
        self._ttl = [] if ttl is None else [b"PX", _milliseconds(ttl)]
        self._token: int | None = None

    @property
    def _shown(self) -> str:
        return f"the lock {self.name!r}" if self._permits == 1 else f"the semaphore {self.name!r}"

    @property
    def owned(self) -> bool:
        """Whether this object has it, as far as is known: a `ttl` may have ended it."""
        return self._token is not None

    async def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Wait until it is free, and take it; return whether it was.

        Args:
            blocking: Whether to wait at all.
            timeout: Seconds, or a `timedelta`, to wait for it; `None` for the object's own, if it has one.

        Raises:
            NotOwned: This object has it already.
        """
        if self._token is not None:
            raise NotOwned(f"this object has {self._shown} already: another task needs another object")
        limit_s = self._timeout if timeout is None else seconds(timeout)
        if not blocking or limit_s == 0:
            words = (self._name, await self._ticket(), self._permits, *self._ttl)
            token = await self._driver.call("RING.LOCK", *words)
            self._token = token if token > 0 else None
            return self.owned
        try:
            async with asyncio.timeout(limit_s):
                self._token = await self._queue()
        except TimeoutError as error:
            if isinstance(error, Timeout):
                raise
            return False
        return True

    async def _queue(self) -> int:
        """Wait in the queue, and return the token."""
        ticket = await self._ticket()
        while True:
            await self._driver.ensure()
            answer = self._driver.expect(ticket)
            try:
                words = (self._name, ticket, self._permits, *self._ttl, b"WAIT")
                said = await self._driver.call("RING.LOCK", *words)
                token = said if isinstance(said, int) else await answer
            except ServerGone:
                # Nothing is left of what the server knew: the next one is asked anew.
                if not self._driver.reconnects:
                    raise
                continue
            except BaseException:
                # It may be granted after all.
                self._driver.send_word("RING.UNLOCK", self._name, b"TICKET", ticket)
                raise
            finally:
                self._driver.forget(ticket)
            if token is not None:
                return token
            # Another server goes on, and knows by the ticket of a permit that was not heard of.

    async def _ticket(self) -> int:
        await self._driver.ensure()
        return self._driver.next_ticket()

    async def release(self) -> None:
        """Give it back.

        Raises:
            NotOwned: This object has not acquired it.
            LockLost: It has ended meanwhile: by its `ttl`, or with the connection.
        """
        token, self._token = self._token, None
        if token is None:
            raise NotOwned(f"this object has not acquired {self._shown}")
        if await self._driver.call("RING.UNLOCK", self._name, token) != 1:
            raise LockLost(f"{self._shown} was lost: its time to live is over, or its connection has ended")

    async def extend(self, ttl: Seconds | None = None) -> None:
        """Have it last for `ttl` from now on; `None` for its own `ttl`.

        Raises:
            NotOwned: This object has not acquired it.
            LockLost: It has ended meanwhile.
        """
        if self._token is None:
            raise NotOwned(f"this object has not acquired {self._shown}")
        left_ms = _milliseconds(ttl) if ttl is not None else (self._ttl or [b"", b"0"])[1]
        if await self._driver.call("RING.EXTEND", self._name, self._token, left_ms) != 1:
            self._token = None
            raise LockLost(f"{self._shown} was lost: its time to live is over, or its connection has ended")

    async def locked(self) -> bool:
        """Whether anybody has it; of a semaphore, whether no permit is left."""
        return bool(await self._driver.call("RING.LOCKED", self._name) >= self._permits)

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise Timeout(f"{self._shown} was not free within {self._timeout:g} s")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except LockLost:
            # What was raised in the block counts more.
            if kind is None:
                raise

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncLock {self.name!r} {'owned' if self.owned else 'not owned'}>"
