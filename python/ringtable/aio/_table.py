"""`AsyncTable`: a table whose calls are coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from ringtable._errors import Conflict
from ringtable._pipeline import without_errors
from ringtable._tools.limiter import counted
from ringtable._tools.names import key_in, name_in
from ringtable.aio._driver import Driver
from ringtable.aio._event import AsyncEvent
from ringtable.aio._lease import Leases
from ringtable.aio._limiter import AsyncRateLimiter
from ringtable.aio._lock import AsyncLock
from ringtable.aio._pipeline import AsyncPipeline

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ringtable._table import Table
    from ringtable._types import Argument, Key, Seconds, Stats
    from ringtable._watch import Watch

_T = TypeVar("_T")

# What a look in place returns where the server has to be asked.
_ASK = object()
_MISSING = object()
# Writes of `set_many` that are on their way at a time.
_BATCH = 1_000


class AsyncTable(Generic[_T]):
    """A table for any number of tasks of one event loop: the calls of `ringtable.Table`, as coroutines.

        async with await ringtable.aio.connect("words") as table:
            await table.set("hello", b"world")
            print(await table.get("hello"), await table.incr("visits"))

    Reads are in place, and return without a switch to the loop. Writes of all tasks share one connection, and are on
    their way at the same time. A task that is cancelled waits no more; what it has asked for may have been done.

    A table is for the loop that has first used it. In a forked child it connects anew, as a table does.
    """

    def __init__(self, table: Table[_T], driver: Driver | None = None) -> None:
        """Make one of a table, with a connection of its own or another one's; `connect`, `open` and `namespace` do."""
        self._table = table
        self._driver = driver or Driver(table)
        self._leases = Leases(table, self._driver)
        # Whether it is a namespace of another one, whose connection it has.
        self._is_part = driver is not None

    @property
    def table(self) -> Table[_T]:
        """The table itself, whose calls hold the loop while they wait."""
        return self._table

    @property
    def address(self) -> str:
        """The address of the server, which means it in every process."""
        return self._table.address

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._table.closed

    # Reads.

    async def get(self, key: Key, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if there is none."""
        found = self._table._look(key, _ASK)
        if found is _ASK:
            found = await self._driver.ask(self._table.pipeline().get(key))
        return default if found is None else found

    async def exists(self, key: Key) -> bool:
        """Return whether there is such a key."""
        return cast("bool", await self._driver.ask(self._table.pipeline().exists(key)))

    async def get_with_version(self, key: Key) -> tuple[_T, int] | None:
        """Return the value of `key` and its version, for `set(if_version=)`; `None` if there is none."""
        return cast("tuple[_T, int] | None", await self._driver.ask(self._table.pipeline().get_with_version(key)))

    async def get_many(self, keys: Iterable[Key]) -> list[_T | None]:
        """Return the values of several keys, `None` for those that are not there."""
        keys = list(keys)
        found = [self._table._look(key, _ASK) for key in keys]
        asked = [index for index, value in enumerate(found) if value is _ASK]
        if asked:
            commands = self._table.pipeline()
            for index in asked:
                commands.get(keys[index])
            for index, value in zip(asked, without_errors(await self._driver.ask_all(commands)), strict=True):
                found[index] = value
        return found

    async def ttl(self, key: Key) -> float | None:
        """Return the seconds that `key` has left to live, or `None` if it does not expire.

        Raises:
            KeyError: There is no such key.
        """
        left_ms = await self._driver.call("PTTL", self._table._raw_key(key))
        if left_ms == -2:
            raise KeyError(key)
        return None if left_ms == -1 else left_ms / 1_000

    def namespace(self, prefix: Key) -> AsyncTable[_T]:
        """Return the keys that begin with `prefix` as a table of their own, over the same connection.

        See `ringtable.Table.namespace`.
        """
        return AsyncTable(self._table.namespace(prefix), self._driver)

    async def size(self) -> int:
        """Return how many keys there are, as `len` of a table does. Of a namespace, it goes over the whole table."""
        if self._is_part:
            return sum([1 async for _ in self.keys()])
        return cast("int", await self._driver.call("DBSIZE"))

    async def keys(self, *, prefix: Key = b"") -> AsyncIterator[Any]:
        """Go over all keys, or those that begin with `prefix`, as `keys` of a table does: in steps, between which the
        loop goes on.
        """
        cursor = 0
        while True:
            cursor, found = self._table.scan(cursor, prefix=prefix)
            for key in found:
                yield key
            if cursor == 0:
                return
            await asyncio.sleep(0)

    async def items(self, *, prefix: Key = b"") -> AsyncIterator[tuple[Any, _T]]:
        """Go over all keys and their values, as `keys` does."""
        async for key in self.keys(prefix=prefix):
            value = await self.get(key)
            if value is not None:
                yield key, value

    # Writes.

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        evictable: bool | None = None,
        keepttl: bool = False,
    ) -> bool:
        """Set the value of `key`, and return whether that was done; the options are those of `ringtable.Table.set`."""
        commands = self._table.pipeline()
        if ttl is None and not (nx or xx or keepttl) and if_version is None and evictable is None:
            commands.set(key, value)
        else:
            commands.set(key, value, ttl=ttl, nx=nx, xx=xx, if_version=if_version, evictable=evictable, keepttl=keepttl)
        return cast("bool", await self._driver.ask(commands))

    async def add(self, key: Key, value: Any, *, ttl: Seconds | None = None, evictable: bool | None = None) -> bool:
        """Set the value of `key` if there is none; return whether that was done."""
        return await self.set(key, value, ttl=ttl, nx=True, evictable=evictable)

    async def set_many(self, items: Any, *, ttl: Seconds | None = None) -> None:
        """Set several values: a mapping, or pairs of key and value. Not one atomic step."""
        commands = self._table.pipeline()
        for key, value in items.items() if isinstance(items, Mapping) else items:
            commands.set(key, value, ttl=ttl)
            if len(commands) == _BATCH:
                without_errors(await self._driver.ask_all(commands))
        if len(commands):
            without_errors(await self._driver.ask_all(commands))

    async def delete(self, *keys: Key) -> int:
        """Delete keys; return how many of them there were."""
        return cast("int", await self._driver.ask(self._table.pipeline().delete(*keys)))

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """Delete several keys; return how many of them there were."""
        return await self.delete(*keys)

    async def delete_if_version(self, key: Key, version: int) -> bool:
        """Delete `key` if it has that version still; return whether that was done."""
        return bool(await self._driver.call("RING.DELV", self._table._raw_key(key), version))

    async def delete_prefix(self, prefix: Key) -> int:
        """Delete all keys that begin with `prefix`; return how many of them there were."""
        deleted = 0
        batch: list[Key] = []
        async for key in self.keys(prefix=prefix):
            batch.append(key)
            if len(batch) == _BATCH:
                deleted += await self.delete(*batch)
                batch.clear()
        return deleted + (await self.delete(*batch) if batch else 0)

    async def incr(self, key: Key, by: Any = 1, **options: Any) -> Any:
        """Add to a number, and return the sum; the options are those of `ringtable.Table.incr`."""
        return await self._driver.ask(self._table.pipeline().incr(key, by, **options))

    async def expire(self, key: Key, ttl: Seconds) -> bool:
        """Have `key` expire after `ttl`; return whether there is such a key."""
        return cast("bool", await self._driver.ask(self._table.pipeline().expire(key, ttl)))

    async def persist(self, key: Key) -> bool:
        """Have `key` expire no more; return whether it would have."""
        return cast("bool", await self._driver.ask(self._table.pipeline().persist(key)))

    async def get_and_delete(self, key: Key, default: Any = None) -> Any:
        """Delete `key`, and return the value that it had, or `default`."""
        found = await self._driver.ask(self._table.pipeline().get_and_delete(key))
        return default if found is None else found

    async def get_and_expire(self, key: Key, ttl: Seconds | None, default: Any = None) -> Any:
        """Give `key` a new time to live, or none, and return its value, or `default`."""
        found = await self._driver.ask(self._table.pipeline().get_and_expire(key, ttl))
        return default if found is None else found

    async def pop(self, key: Key, default: Any = _MISSING) -> Any:
        """Delete `key`, and return the value that it had, or `default`.

        Raises:
            KeyError: There is no such key, and no default.
        """
        found = await self.get_and_delete(key, default)
        if found is _MISSING:
            raise KeyError(key)
        return found

    async def update(
        self, key: Key, fn: Callable[[Any], Any], *, retries: int = 100, ttl: Seconds | None = None
    ) -> Any:
        """Write what a function makes of the value (`None` where there is none), in one step, and return that.

        The function is called again if others have changed the value meanwhile. If it returns `None`, the key goes.

        Raises:
            Conflict: Others have changed the key in each of the tries.
        """
        for tries in range(retries + 1):
            found = await self.get_with_version(key)
            value, version = found or (None, 0)
            made = fn(value)
            if made is None:
                if found is None or await self.delete_if_version(key, version):
                    return None
            elif await self.set(key, made, ttl=ttl, if_version=version):
                return made
            if tries > 2:
                await asyncio.sleep(0.001 * min(tries, 10))
        raise Conflict(f"others have changed {key!r} in each of {retries + 1} tries; allow more with retries=")

    async def get_or_set(
        self,
        key: Key,
        make: Callable[[], Awaitable[Any]],
        ttl: Seconds | None = None,
        *,
        evictable: bool | None = None,
    ) -> Any:
        """Return the value of `key`; if there is none, compute it with a coroutine function, and write it.

            user = await table.get_or_set("user 7", lambda: load_user(7), ttl=60)

        Of all tasks of all processes that want it at the same time one computes it; the others wait for that, and hold
        nobody meanwhile.

        Args:
            key: The key.
            make: Makes the value; called without arguments.
            ttl: Seconds, or a `timedelta`, for which the value is kept; `None` for no limit.
            evictable: As for `set`.
        """
        return await self._leases.get_or_set(key, make, ttl, evictable)

    async def clear(self) -> None:
        """Delete all keys. Of a namespace, it goes over the whole table."""
        if self._is_part:
            await self.delete_prefix(b"")
            return
        await self._driver.call("FLUSHALL")

    # Everything else.

    async def call(self, *arguments: Argument) -> Any:
        """Ask the server anything: a command's name and its arguments; return the reply."""
        return await self._driver.ask(self._table.pipeline().call(*arguments))

    async def stats(self) -> Stats:
        """Return the server's counters by name."""
        reply = await self._driver.call("RING.STATS")
        return cast("Stats", {name.decode(): value for name, value in reply.items()})

    def pipeline(self) -> AsyncPipeline[_T]:
        """Return a pipeline, which sends many commands in one round trip."""
        return AsyncPipeline(self._driver, self._table.pipeline())

    def lock(self, name: Key, *, timeout: Seconds | None = None, ttl: Seconds | None = None) -> AsyncLock:
        """Return the lock of that name, which one task of one process of the machine has at a time.

            async with table.lock("report", timeout=10):
                ...

        Args:
            name: Its name. Locks are no keys of the table.
            timeout: Seconds, or a `timedelta`, to wait for it, where a call does not say; `None` for no limit. An
                `async with` block raises `Timeout` then.
            ttl: Seconds, or a `timedelta`, after which it ends by itself; `None` for never.
        """
        return AsyncLock(self._driver, "lock", name_in(self._table, "lock", name), 1, timeout, ttl)

    def semaphore(
        self, name: Key, count: int, *, timeout: Seconds | None = None, ttl: Seconds | None = None
    ) -> AsyncLock:
        """Return a permit of the semaphore of that name, which `count` have at a time; all else is as for `lock`."""
        return AsyncLock(self._driver, "semaphore", name_in(self._table, "semaphore", name), count, timeout, ttl)

    def event(self, name: Key) -> AsyncEvent:
        """Return the event of that name, which any task sets, and any number of them wait for."""
        return AsyncEvent(self._table, self._driver, key_in(self._table, "event", name))

    def rate_limiter(
        self, rate: str, *, name: Key = b"", algorithm: Literal["fixed", "sliding"] = "fixed"
    ) -> AsyncRateLimiter:
        """Return a rate limiter: awaited with a key, it says whether one more call is within the rate.

            limit = table.rate_limiter("100/minute")
            if not (allowed := await limit("10.0.0.7")):
                print("try again in", allowed.retry_after, "seconds")

        The arguments are those of `ringtable.Table.rate_limiter`.
        """
        prefix, count, period_ns = counted(self._table, rate, name, algorithm)
        return AsyncRateLimiter(self._driver, rate, prefix, (count, period_ns, algorithm.upper()))

    def watch(self, prefix: Key = b"", *, timeout: Seconds | None = None) -> Watch[Any]:
        """Return the changes of keys that begin with `prefix`: for `async for`. See `ringtable.Table.watch`."""
        return self._table.watch(prefix, timeout=timeout)

    async def close(self) -> None:
        """End the connection. Calls that are on their way raise `Closed`."""
        self.close_now()

    def close_now(self) -> None:
        """The same, where there is no loop any more. A namespace is closed by its table."""
        if self._is_part:
            return
        self._driver.close()
        self._table.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close_now()

    def __repr__(self) -> str:
        return f"<ringtable.aio.AsyncTable of {self._table!r}>"
