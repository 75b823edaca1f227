"""The events of a table's keys, as an iterator, plain and async."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Self, cast

from ringtable._errors import Closed, Error, ServerGone
from ringtable._ringtable import Watch as WatchCore

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import TypeVar

    from ringtable._types import Address, Key, Seconds, Trusted

    _K = TypeVar("_K", default=bytes)
else:
    from typing import TypeVar

    _K = TypeVar("_K")

# Seconds after which one looks again whether a server has room for another connection in its queue.
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Event(Generic[_K]):
    """One change.

    Attributes:
        kind: "set" for a new value or a new expiry, "delete", "expire" when an entry whose time had passed was removed,
            "evict" when a cache removed the key to make room, "flush" when `clear` has deleted everything.
        key: The key, as the table gives keys; empty for "flush".
        version: Of two changes of a key the later one has the higher version. For "flush" 0.
        size: Bytes of the new value; 0 where there is none.
    """

    kind: Literal["set", "delete", "expire", "evict", "flush"]
    key: _K
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Lagged(Generic[_K]):
    """Events are missing, `count` of them or more, of whatever keys: read again what must not be missed.

    The watch was too slow, and they were overwritten before they were read; what comes next is the newest event that
    there was then. Or the server died in the middle of a change. Or this process stood still for so long, around the
    death of a server, that the next one told nobody any more.
    """

    count: int
    key: _K = b""  # type: ignore[assignment]
    """Empty, as the table gives keys."""
    kind: ClassVar[Literal["lagged"]] = "lagged"


class Watch(Iterator["Event[_K] | Lagged[_K]"], AsyncIterator["Event[_K] | Lagged[_K]"], Generic[_K]):
    """The events of a table, in the order of its changes for each key: made by `Table.watch`.

    `next` waits for an event, and so does `await anext`, which lets the event loop go on meanwhile; any number of
    watches may wait in one loop. Threads may share a watch, and each event goes to one of them; tasks may not. The
    server waits for no watch: one that does not keep up gets a `Lagged` and goes on.

    Iterating ends when the watch is closed. If a server with a keeper dies or is upgraded, it goes on with the next
    one, and misses nothing, or says so (`Lagged`). When the table goes with its server it raises `ServerGone`, after
    all that was told by then: watch anew, and read anew what must not be missed. So it does at any end of its server
    without `reconnect`. It raises `Timeout` when nothing came in time, after which one may go on. In a forked child a
    watch raises `Closed`, once it has given what its parent had fetched; the child may watch on its own.
    """

    def __init__(
        self,
        address: Address,
        prefix: Key = b"",
        *,
        connect_timeout: Seconds | None = None,
        timeout: Seconds | None = None,
        reconnect: bool = True,
        trust_user: Trusted = (),
        convert: Callable[[bytes], _K] | None = None,
    ) -> None:
        """Connect; `Table.watch` does so. `convert` makes a key of the bytes that the server has."""
        self._convert = convert
        self._core = WatchCore(
            address,
            prefix,
            connect_timeout=connect_timeout,
            timeout=timeout,
            reconnect=reconnect,
            trust_user=trust_user,
        )
        # Events that were fetched, and not given out yet.
        self._ready: deque[Event[_K] | Lagged[_K]] = deque()
        self._closed = False
        # Whose turn it is to fetch. A signal handler on the same thread gets in, and is refused by the core.
        self._fetching = threading.RLock()
        # Whether a task waits, and an object for each thread that does: a count would be changed in two steps.
        self._awaited = False
        self._waiting: set[object] = set()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event[_K] | Lagged[_K]:
        """Wait for the next event."""
        # Another thread may take what this one has fetched.
        while (event := self._pop()) is None:
            if self._awaited:
                raise RuntimeError("a task waits for this watch: give each its own")
            try:
                self._fetch()
            except Closed:
                if self._closed:
                    raise StopIteration from None
                raise
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[_K] | Lagged[_K]:
        """Wait for the next event, and let the event loop go on meanwhile."""
        if (event := self._pop()) is not None:
            return event
        # It takes longer to import than all of ringtable. A caller that has an event loop has it.
        import asyncio

        try:
            async with asyncio.timeout(self._core.timeout) as limit:
                while (event := self._pop()) is None:
                    if self._awaited or self._waiting:
                        raise RuntimeError("another task or thread waits for this watch: give each its own")
                    rows, wants_to_rejoin = self._core.take()
                    self._fill(rows)
                    if wants_to_rejoin:
                        # Without waiting: what is there comes first, and that no server follows is told at its end.
                        with suppress(ServerGone):
                            self._core.rejoin()
                    if not self._ready and self._core.arm():
                        try:
                            await self._until_readable()
                        except ServerGone:
                            if not self._core.reconnects:
                                raise
                            await self._rejoin()
                    else:
                        # Others of the loop have their turn, also while there is always something to take.
                        await asyncio.sleep(0)
                return event
        except Closed:
            if self._closed:
                raise StopAsyncIteration from None
            raise
        except TimeoutError:
            if limit.expired():
                raise self._core.timed_out() from None
            raise

    def close(self) -> None:
        """End the watch, also for who waits in it. A second call does nothing."""
        self._closed = True
        self._ready.clear()
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ringtable.Watch {self._core.address!r} {'closed' if self._closed else 'open'}>"

    def _pop(self) -> Event[_K] | Lagged[_K] | None:
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    def _fetch(self) -> None:
        """Wait for events, or for another thread that does: what that one fetches is for all."""
        waiting, timeout = object(), self._core.timeout
        self._waiting.add(waiting)
        try:
            # Raises in a forked child, which must not wait for a thread of its parent's.
            self._core.fileno()
            if not self._fetching.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
                raise self._core.timed_out()
            try:
                if not self._ready:
                    self._fill(self._core.wait())
            finally:
                self._fetching.release()
        finally:
            self._waiting.discard(waiting)

    def _fill(self, rows: list[tuple[str, bytes, int, int]]) -> None:
        if not self._closed:
            self._ready.extend(map(self._event, rows))

    def _event(self, row: tuple[str, bytes, int, int]) -> Event[_K] | Lagged[_K]:
        kind, raw, version, size = row
        key = cast("_K", raw) if self._convert is None else self._convert(raw)
        if kind == "lagged":
            return Lagged(version, key)
        return Event(cast("Literal['set', 'delete', 'expire', 'evict', 'flush']", kind), key, version, size)

    async def _until_readable(self) -> None:
        """Wait for the core's descriptor; the core is armed."""
        descriptor = self._core.fileno()
        try:
            await self._until(descriptor)
        except BaseException:
            # A task that cancels learns of the server's end with the next call.
            with suppress(Error):
                self._core.disarm()
            raise
        self._core.disarm()

    async def _rejoin(self) -> None:
        """Go on with the next server, as soon as it answers."""
        while not self._core.rejoin():
            await self._until(self._core.joining())

    async def _until(self, descriptor: int | None) -> None:
        """Wait until this is readable; for some time, if there is none."""
        import asyncio

        self._awaited = True
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        try:
            if descriptor is None:
                await asyncio.sleep(_PAUSE_S)
            else:
                loop.add_reader(descriptor, _resolve, readable)
                await readable
        finally:
            # Before the core may close it.
            if descriptor is not None:
                loop.remove_reader(descriptor)
            self._awaited = False


def _resolve(readable: asyncio.Future[None]) -> None:
    # The loop may call again before the one who waits for it has its turn.
    if not readable.done():
        readable.set_result(None)
