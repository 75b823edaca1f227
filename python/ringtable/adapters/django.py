"""A cache of Django's: `BACKEND: "ringtable.adapters.django.RingtableCache"`.

# Design

- A call makes its key as Django does, and is one call of the table, in place where that is a read. Values are pickled
  unless told otherwise; whole numbers are digits, so that `incr` is one step for all processes.
- All caches of a process that name the same table with the same options share one connection, whichever thread or
  request made them; so `close`, which Django calls after each request, closes nothing.
- When the server has died, the next call starts another one and is made once more; `incr` alone is not, since it may
  have been done. With `IGNORE_EXCEPTIONS` a table that cannot be reached is an empty cache.
- Beside Django's calls are those of django-redis that make sense here: patterns, times to live, locks.

# Not promised

`MAX_ENTRIES` and `CULL_FREQUENCY` count entries, and a table counts bytes: both are taken and mean nothing, and
`max_memory` is what bounds it. Full, it evicts what was not used lately.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey, default_key_func
from django.utils.module_loading import import_string

from ringtable import Error, InvalidOption, KeyTooLong, OutOfMemory, ValueTooLarge
from ringtable.adapters._shared import MISSING, Calls, held, increased

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import ringtable

# Longer ones are for ever.
_TTL_S_MAX = 4_000_000_000


class RingtableCache(Calls, BaseCache):  # type: ignore[misc]  # Django has no types.
    """A cache that all processes of the machine share, for Django's `CACHES`.

        CACHES = {
            "default": {
                "BACKEND": "ringtable.adapters.django.RingtableCache",
                "LOCATION": "site",
                "TIMEOUT": 300,
                "OPTIONS": {"max_memory": "256MiB", "IGNORE_EXCEPTIONS": True},
            }
        }

    `LOCATION` is what `ringtable.open` takes: the name of a table, the path of a socket, or a URL. `OPTIONS` are those
    of `ringtable.open`, such as `max_memory` or `timeout` (5 seconds unless given), and:

    - `codec`: what makes bytes of values: "pickle" unless given, another name such as "json", or the path of a class.
    - `serializer`: the same as the path of a class with `dumps` and `loads`, as Django's backend for Redis takes it.
    - `start`: `False` not to start a server if there is none. One that is started here is a cache: it evicts.
    - `IGNORE_EXCEPTIONS`: whether a table that cannot be reached is an empty cache, and no error. It is logged.
    - `REVERSE_KEY_FUNCTION`: what makes of a key in the table the one that was given, for `keys`, where `KEY_FUNCTION`
      is not Django's own.
    - `MAX_ENTRIES` and `CULL_FREQUENCY` mean nothing: see `max_memory`.

    `caches["default"].table` is the table, for what Django's calls do not have: `table.rate_limiter("100/minute")`. Its
    keys are those that `make_key` makes.

    A key that is too long (65,535 bytes) raises `InvalidCacheKey`. What cannot be reached raises what a table raises,
    all of which is also a `ConnectionError`, a `TimeoutError` or another `OSError`.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        """Take the settings; the table is opened at the first use.

        Args:
            location: `LOCATION`.
            params: The others of the cache's settings.
        """
        super().__init__(params)
        options = dict(params.get("OPTIONS") or {})
        for name in ("MAX_ENTRIES", "CULL_FREQUENCY"):
            options.pop(name, None)
        self._ignores = bool(options.pop("IGNORE_EXCEPTIONS", False))
        self._reverse = options.pop("REVERSE_KEY_FUNCTION", None)
        if "serializer" in options:
            options["codec"] = options.pop("serializer")
        self._held = held(location or None, options)

    # One key

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or `default`."""
        raw = self.make_and_validate_key(key, version=version)
        try:
            return self.table.get(raw, default)
        except Error as error:
            return self._again(error, default, lambda table: table.get(raw, default))

    def set(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Write a key, and return whether that was done.

        Args:
            key: The key.
            value: What the codec can write.
            timeout: Seconds to live; `None` for ever; 0 and less is written and gone at once.
            version: The version, if not that of the settings.
            nx: Only if there is no such key.
            xx: Only if there is one.
        """
        raw = self.make_and_validate_key(key, version=version)
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:
            return self._do(False, lambda table: _set_dead(table, raw, nx, xx))
        try:
            return self.table.set(raw, value, ttl=ttl, nx=nx, xx=xx)
        except Error as error:
            done: bool = self._again(error, False, lambda table: table.set(raw, value, ttl=ttl, nx=nx, xx=xx))
            if not done and isinstance(error, (OutOfMemory, ValueTooLarge)):
                # What was there before is not what the caller wants to read.
                self._do(0, lambda table: table.delete(raw))
            return done

    def add(self, key: str, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Write a key if there is none, as one step, and return whether that was done."""
        return self.set(key, value, timeout, version, nx=True)

    def touch(self, key: str, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key a new time to live, and return whether there is one."""
        raw = self.make_and_validate_key(key, version=version)
        ttl = self.get_backend_timeout(timeout)
        return self._do(False, lambda table: _expire(table, raw, ttl))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Delete a key, and return whether there was one."""
        raw = self.make_and_validate_key(key, version=version)
        return self._do(False, lambda table: table.delete(raw) == 1)

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Return whether there is a key."""
        raw = self.make_and_validate_key(key, version=version)
        return self._do(False, lambda table: raw in table)

    def incr(self, key: str, delta: int = 1, version: int | None = None, *, ignore_key_check: bool = False) -> Any:
        """Add to a number, as one step, and return the sum. The time to live stays as it is.

        Args:
            key: The key.
            delta: How much. What is no whole number of 64 bits is added by reading and writing, again if others were
                faster.
            version: The version, if not that of the settings.
            ignore_key_check: Whether a key that is absent counts as 0, and is then for ever.

        Raises:
            ValueError: There is no such key.
            TypeError: The value is none that `delta` can be added to.
        """
        raw = self.make_and_validate_key(key, version=version)

        def added(table: ringtable.Table[Any]) -> Any:
            if ignore_key_check:
                return table.incr(raw, delta)
            total = increased(table, raw, delta)
            if total is MISSING:
                raise ValueError(f"Key '{key}' not found")
            return total

        return self._do(None, added, repeats=False)

    def get_or_set(
        self, key: str, default: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return the value of a key; where there is none, write `default`, or what it returns if it can be called.

        One process computes it, and the others wait for that, for the table's `timeout` at most; then they compute it
        themselves.
        """
        ttl = self.get_backend_timeout(timeout)
        if not callable(default) or ttl == 0:
            return super().get_or_set(key, default, timeout, version)
        raw = self.make_and_validate_key(key, version=version)
        try:
            return self.table.get_or_set(raw, default, ttl)
        except Error:
            # Somebody else took too long; or it asks for itself; or the table is away, of which this has the end.
            return super().get_or_set(key, default, timeout, version)

    # Many keys

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return the values of those keys that are there."""
        wanted = {self.make_and_validate_key(key, version=version): key for key in keys}
        found = self._do({}, lambda table: _found(table, list(wanted)))
        return {wanted[raw]: value for raw, value in found.items()}

    def set_many(
        self, data: Mapping[str, Any], timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Write many keys, and return those that could not be written: all or none."""
        ttl = self.get_backend_timeout(timeout)
        pairs = {self.make_and_validate_key(key, version=version): value for key, value in data.items()}

        def write(table: ringtable.Table[Any]) -> list[str]:
            if ttl == 0:
                table.delete_many(pairs)
            else:
                table.set_many(pairs, ttl=ttl)
            return []

        return self._do(list(data), write)

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Delete many keys."""
        raws = [self.make_and_validate_key(key, version=version) for key in keys]
        self._do(0, lambda table: table.delete_many(raws))

    def clear(self) -> None:
        """Delete all that the table has, also what other settings or programs have written."""
        self._do(None, lambda table: table.clear())

    # Asynchronous twins of which Django's own would make several calls of one

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> Any:
        """Do what `incr` does, as one step, too."""
        return await sync_to_async(self.incr)(key, delta, version)

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Do what `get_many` does."""
        found: dict[str, Any] = await sync_to_async(self.get_many)(keys, version)
        return found

    async def aset_many(
        self, data: Mapping[str, Any], timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Do what `set_many` does."""
        failed: list[str] = await sync_to_async(self.set_many)(data, timeout, version)
        return failed

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Do what `delete_many` does."""
        await sync_to_async(self.delete_many)(keys, version)

    # What django-redis has besides

    def ttl(self, key: str, version: int | None = None) -> int | None:
        """Return how many seconds a key has left, rounded up; `None` if it is for ever, 0 if there is none."""
        return self._left(key, version, 1)

    def pttl(self, key: str, version: int | None = None) -> int | None:
        """Return how many milliseconds a key has left; else as `ttl`."""
        return self._left(key, version, 1_000)

    def expire(self, key: str, timeout: float, version: int | None = None) -> bool:
        """Let a key be gone after so many seconds, and return whether there is one."""
        return self.touch(key, timeout, version)

    def pexpire(self, key: str, timeout: float, version: int | None = None) -> bool:
        """Let a key be gone after so many milliseconds, and return whether there is one."""
        return self.touch(key, timeout / 1_000, version)

    def persist(self, key: str, version: int | None = None) -> bool:
        """Let a key be for ever, and return whether it was not."""
        raw = self.make_and_validate_key(key, version=version)
        return self._do(False, lambda table: table.persist(raw))

    def lock(
        self,
        key: str,
        version: int | None = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
    ) -> ringtable.Lock:
        """Return the lock of that name, as `Table.lock` does. It is free at once if its owner dies.

            with cache.lock("report", blocking_timeout=10):
                ...

        Args:
            key: Its name. A lock is no key.
            version: The version, if not that of the settings.
            timeout: Seconds after which it ends by itself, though its owner lives; `None` for never.
            sleep: Means nothing: who waits is told.
            blocking: Whether to wait for it.
            blocking_timeout: Seconds to wait for it, where a call of `acquire(timeout=)` does not say; `None` for no
                limit. A `with` block raises `ringtable.Timeout` then.

        Raises:
            Error: The table cannot be reached, also with `IGNORE_EXCEPTIONS`.
        """
        raw = self.make_and_validate_key(key, version=version)
        wait = blocking_timeout if blocking else 0

        def made(table: ringtable.Table[Any]) -> ringtable.Lock:
            # Making a lock asks nobody; reading notices whether the server has gone.
            _ = raw in table
            return table.lock(raw, ttl=timeout, timeout=wait)

        return self._do(None, made, ignores=False)

    def iter_keys(self, search: str, itersize: int | None = None, version: int | None = None) -> Iterator[str]:
        """Iterate over the keys that fit a pattern such as "user:*", as they were given.

        All keys of the table are looked at, by the server. The signs of a pattern are those of Redis: `*`, `?`, `[ab]`.

        Args:
            search: The pattern.
            itersize: About how many keys to ask for at a time.
            version: The version, if not that of the settings.
        """
        pattern = self._pattern(search, version)
        for raws in self._scan(pattern, itersize):
            yield from map(self._given_key, raws)

    def keys(self, search: str, version: int | None = None) -> list[str]:
        """Return the keys that fit a pattern, as a list; else as `iter_keys`."""
        return list(self.iter_keys(search, version=version))

    def delete_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None, itersize: int | None = None
    ) -> int:
        """Delete the keys that fit a pattern, as for `iter_keys`, and return how many there were.

        Args:
            pattern: The pattern.
            version: The version, if not that of the settings.
            prefix: `KEY_PREFIX`, if not that of the settings.
            itersize: About how many keys to delete at a time.
        """
        fits = self._pattern(pattern, version, prefix)
        return sum(self._do(0, partial(_delete_many, raws)) for raws in self._scan(fits, itersize))

    # Below

    def get_backend_timeout(self, timeout: float | None = DEFAULT_TIMEOUT) -> float | None:
        """Return the seconds to live that the table is told; 0 for what is over at once."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None or timeout > _TTL_S_MAX:
            return None
        return max(0, timeout)

    def _as_theirs(self, error: Error) -> Exception:
        return InvalidCacheKey(str(error)) if isinstance(error, KeyTooLong) else error

    def _left(self, key: str, version: int | None, parts: int) -> int | None:
        raw = self.make_and_validate_key(key, version=version)
        [left_s] = self._do([0.0], lambda table: table.ttl_many([raw]))
        return None if left_s is None else math.ceil(left_s * parts)

    def _pattern(self, pattern: str, version: int | None, prefix: str | None = None) -> str:
        """A pattern of keys as the table has them."""
        version_text = str(self.version if version is None else version)
        fits: str = self.key_func(pattern, _literally(self.key_prefix if prefix is None else prefix), version_text)
        return fits

    def _scan(self, pattern: str, itersize: int | None) -> Iterator[list[bytes]]:
        """The keys that fit a pattern, in the batches in which the server finds them."""
        count = () if itersize is None else ("COUNT", itersize)
        cursor: Any = 0
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, *count)
            cursor, raws = self._do((b"0", []), partial(_call, command))
            if raws:
                yield raws
            if int(cursor) == 0:
                return

    def _given_key(self, raw: bytes) -> str:
        key = raw.decode("utf-8", "surrogateescape")
        if self._reverse is not None:
            reverse = import_string(self._reverse) if isinstance(self._reverse, str) else self._reverse
            return str(reverse(key))
        if self.key_func is not default_key_func:
            raise InvalidOption("KEY_FUNCTION is not Django's: say by REVERSE_KEY_FUNCTION which key was given")
        # What stands before it is the prefix, which may have colons, and the version.
        return key[len(self.key_prefix) + 1 :].partition(":")[2]


def _set_dead(table: ringtable.Table[Any], raw: str, nx: bool, xx: bool) -> bool:
    """Write what is over at once."""
    if nx:
        return raw not in table
    return table.delete(raw) == 1 or not xx


def _expire(table: ringtable.Table[Any], raw: str, ttl: float | None) -> bool:
    if ttl is None:
        return table.persist(raw) or raw in table
    return table.expire(raw, ttl) if ttl > 0 else table.delete(raw) == 1


def _call(command: tuple[Any, ...], table: ringtable.Table[Any]) -> Any:
    return table.call(*command)


def _delete_many(raws: list[bytes], table: ringtable.Table[Any]) -> int:
    return table.delete_many(raws)


def _found(table: ringtable.Table[Any], raws: list[str]) -> dict[str, Any]:
    """The entries that are there, with those whose value is `None`."""
    found = dict(zip(raws, table.get_many(raws), strict=True))
    return {raw: value for raw, value in found.items() if value is not None or raw in table}


def _literally(text: str) -> str:
    """A pattern that fits this text alone."""
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in text)
