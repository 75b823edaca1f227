"""A storage for `limits`, and so for Flask-Limiter, slowapi and others: `RingtableStorage`, at `ringtable://name`.

# Design

- A fixed window is a number with a time to live, and a hit is one `incr` of the server.
- A moving window is one value: when there were hits, and how many there had been by then. A sliding window counter is
  one value, too: when its window began, and the counts of this one and the one before. A hit reads the value in place,
  and writes it anew on the condition that nobody else has (`if_version`); else it looks again. So no more hits get
  through than the limit says, whoever else is at it and whoever dies. A try is lost only to a hit that got through, of
  which there are no more than the limit.
- Questions (`get`, `get_moving_window` and so on) are reads in place.
- What was counted is never evicted, also in a table that is a cache: a limiter that forgets lets too much through.
- When the server has died, the next call starts another one, and the counts begin anew.

What becomes of a value is in functions that know nothing of tables.

# Not promised

That a hit with a moving window takes the same time whatever the limit: its value has 16 bytes for each hit.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from ringtable import Error
from ringtable.adapters._shared import Calls, held

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringtable import Table

_FIRST = struct.Struct("=ddd")
_ENTRY = struct.Struct("=dd")
_COUNTER = struct.Struct("=dqq")

# What keys end with, which those of limits do not: the number and the unit of a period.
_MOVING, _SLIDING = "#moving", "#sliding"

_WORDS = {"true": True, "false": False, "none": None}


class RingtableStorage(Calls, Storage, MovingWindowSupport, SlidingWindowCounterSupport):  # type: ignore[misc]
    """What `limits` counts in, for all processes of the machine together, with each of its strategies.

        import ringtable.adapters.limits  # knows the scheme from here on

        storage = limits.storage.storage_from_string("ringtable://site?max_memory=64MiB")
        limiter = limits.strategies.MovingWindowRateLimiter(storage)

    `storage.table` is the table. What it raises is a `ringtable.Error`, or a `StorageError` with `wrap_exceptions`.
    """

    STORAGE_SCHEME = ["ringtable"]  # noqa: RUF012 (the base class declares it so)

    def __init__(
        self, uri: str = "ringtable://", wrap_exceptions: bool = False, key_prefix: str = "LIMITS", **options: Any
    ) -> None:
        """Take the options; the table is opened at the first use.

        Args:
            uri: `ringtable://NAME`, with a name as for `ringtable.open`; `ringtable:///PATH` for the path of a socket;
                `ringtable://HOST:PORT` for a port of this machine. Behind a question mark may follow options, as in
                `ringtable://site?max_memory=64MiB&timeout=1`.
            wrap_exceptions: Whether what is raised is a `StorageError`.
            key_prefix: What all keys begin with in the table.
            options: Those of `ringtable.open`, such as `max_memory`, or `timeout` (5 seconds unless given); and
                `start`: `False` not to start a server if there is none. Text that is a number, "true" or "false" is
                taken for that.
        """
        super().__init__(uri, wrap_exceptions)
        parts = urlsplit(uri)
        self._name = f"tcp://{parts.netloc}" if ":" in parts.netloc else unquote(parts.netloc + parts.path) or None
        given = {**dict(parse_qsl(parts.query)), **options}
        prefix = given.pop("key_prefix", key_prefix)
        self._options = {"codec": "bytes", **{option: _option(value) for option, value in given.items()}}
        self._prefix = f"{prefix}:"

    @property
    def _held(self) -> Any:  # type: ignore[override]
        return held(self._name, self._options)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the calls raise: `ringtable.Error`."""
        return Error

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to the count of a fixed window, as one step, and return the sum.

        Args:
            key: The limit's key.
            expiry: Seconds after which the count is gone; it is for the first hit.
            amount: How much to add.
        """
        raw = self._prefix + key
        try:
            return self.table.incr(raw, amount, ttl_if_new=expiry, evictable=False)
        except Error as error:
            return self._again(error, 0, lambda table: table.incr(raw, amount, ttl_if_new=expiry, evictable=False))

    def get(self, key: str) -> int:
        """Return the count of a fixed window."""
        raw = self._prefix + key
        return int(self._do(b"", lambda table: table.get(raw)) or 0)

    def get_expiry(self, key: str) -> float:
        """Return when a fixed window ends, in seconds since 1970; now, if there is none."""
        raw = self._prefix + key
        [left_s] = self._do([0.0], lambda table: table.ttl_many([raw]))
        return (left_s or 0.0) + time.time()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits in a moving window if they are within the limit, as one step, and return whether they are.

        Args:
            key: The limit's key.
            limit: How many hits there may be in `expiry` seconds.
            expiry: The length of the window, in seconds.
            amount: How many hits; all of them count, or none.
        """
        return self._hit(self._prefix + key + _MOVING, moved, expiry, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the first hit in a moving window was, in seconds since 1970, or now; and how many there are."""
        raw = self._prefix + key + _MOVING
        data, now = self._do(None, lambda table: table.get(raw)), time.time()
        if data is None:
            return now, 0
        numbers = memoryview(data).cast("d")
        first, count = _inside(numbers, now - expiry)
        return (numbers[1 + 2 * first] if count else now), count

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits in a sliding window counter if they are within the limit, as one step; else as `acquire_entry`."""
        return self._hit(self._prefix + key + _SLIDING, slid, 2 * expiry, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count of the window before, and the seconds for which it counts; and the same of this window."""
        raw = self._prefix + key + _SLIDING
        data, now = self._do(None, lambda table: table.get(raw)), time.time()
        begun, before, count = _counts(data, now, expiry)
        left_s = begun + expiry - now
        return before, left_s if before else 0.0, count, left_s + expiry if before or count else 0.0

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget a sliding window counter."""
        raw = self._prefix + key + _SLIDING
        self._do(0, lambda table: table.delete(raw))

    def clear(self, key: str) -> None:
        """Forget all that was counted for a key."""
        raws = [self._prefix + key + end for end in ("", _MOVING, _SLIDING)]
        self._do(0, lambda table: table.delete(*raws))

    def check(self) -> bool:
        """Return whether the server answers, which is started if there is none."""
        try:
            return self._do(False, lambda table: table.call("PING") is not None)
        except Error:
            return False

    def reset(self) -> int:
        """Forget all that was counted, which goes over all keys of the table; return how many keys it was."""
        return self._do(0, lambda table: table.delete_prefix(self._prefix))

    def _hit(
        self, raw: str, change: Callable[..., bytes | None], ttl: int, limit: int, expiry: int, amount: int
    ) -> bool:
        if amount > limit:
            return False
        try:
            return _changed(self.table, raw, change, ttl, limit, expiry, amount)
        except Error as error:
            return self._again(error, False, lambda table: _changed(table, raw, change, ttl, limit, expiry, amount))


def _option(value: Any) -> Any:
    """An option as what it says, where it is text."""
    if not isinstance(value, str):
        return value
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _changed(
    table: Table[bytes],
    raw: str,
    change: Callable[..., bytes | None],
    ttl: int,
    limit: int,
    expiry: int,
    amount: int,
) -> bool:
    """Write what becomes of the value, and return whether the limit allows it."""
    while True:
        data, version = table.get_with_version(raw) or (None, 0)
        # The clock is read anew for each try.
        changed = change(data, time.time(), limit, expiry, amount)
        if changed is None:
            return False
        if table.set(raw, changed, ttl=ttl, if_version=version, evictable=False):
            return True


# A moving window is numbers of 64 bits: how many hits there had been before; and then a time, and how many hits there
# had been by then, again and again.


def _inside(numbers: memoryview[float], since: float) -> tuple[int, int]:
    """Which is the first entry from a time on, and how many hits there were from it on."""
    first = bisect_left(numbers[1::2], since)
    return first, int(numbers[-1] - numbers[2 * first])


def moved(data: bytes | None, now: float, limit: int, expiry: int, amount: int) -> bytes | None:
    """Return what becomes of a moving window with hits that come now; `None` if the limit does not allow them."""
    if data is None:
        return _FIRST.pack(0.0, now, amount)
    numbers = memoryview(data).cast("d")
    first, count = _inside(numbers, now - expiry)
    if count + amount > limit:
        return None
    # Whoever writes later may have looked at the clock before: times are in order all the same.
    return data[16 * first :] + _ENTRY.pack(max(now, numbers[-2]) if count else now, numbers[-1] + amount)


# A sliding window counter is a time and two numbers.


def _counts(data: bytes | None, now: float, expiry: int) -> tuple[float, int, int]:
    """When the window has begun, the count of the one before, and its own."""
    begun, before, count = _COUNTER.unpack(data) if data is not None else (now, 0, 0)
    if now >= begun + expiry:
        begun, before, count = begun + expiry, count, 0
    if now >= begun + expiry or not (before or count):
        # The next hit begins a window.
        begun, before, count = now, 0, 0
    return begun, before, count


def slid(data: bytes | None, now: float, limit: int, expiry: int, amount: int) -> bytes | None:
    """Return what becomes of a sliding window counter with hits that come now; `None` if the limit does not allow."""
    begun, before, count = _counts(data, now, expiry)
    # The window before counts for the part of it that lies within the last `expiry` seconds.
    if int(before * (begun + expiry - now) / expiry) + count + amount > limit:
        return None
    return _COUNTER.pack(begun, before, count + amount)
