"""Tables for asyncio: the calls of `ringtable.Table`, as coroutines, for any number of tasks of an event loop.

    async with await ringtable.aio.connect("words") as table:
        await table.set("hello", b"world")
        print(await table.get("hello"))

Reads are in place, and do not go through the loop. Writes of all tasks share one connection, and are on their way at
the same time; the loop sleeps on that connection's descriptor. No call has a thread of its own.
"""

from ringtable.aio._connect import connect, open
from ringtable.aio._event import AsyncEvent
from ringtable.aio._limiter import Allowance, AsyncRateLimiter
from ringtable.aio._lock import AsyncLock
from ringtable.aio._pipeline import AsyncPipeline
from ringtable.aio._table import AsyncTable

__all__ = [
    "Allowance",
    "AsyncEvent",
    "AsyncLock",
    "AsyncPipeline",
    "AsyncRateLimiter",
    "AsyncTable",
    "connect",
    "open",
]
