"""A cache of cachelib's, which Flask-Caching, Flask-Session and others use: `RingtableCache`.

# Design

A call is one call of the table, in place where that is a read, and counting is one step for all processes. Caches of a
process that name the same table with the same options share one connection, which is opened at the first use.

As cachelib wants it, a call that the table cannot answer raises nothing: it is logged, and returns what says that
nothing was found, or done. When the server has died, the next call starts another one, and is made once more; `inc` and
`dec` are not, since they may have been done.

# Not promised

A time to live below a second: cachelib counts seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachelib.base import BaseCache
from cachelib.serializers import BaseSerializer

from ringtable import DecodeError, Error, InvalidOption, NotAnInteger
from ringtable.adapters._shared import MISSING, Calls, held, increased

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from ringtable import Table
    from ringtable._types import Address


class RingtableCache(Calls, BaseCache):  # type: ignore[misc]  # cachelib is not installed everywhere.
    """A cache that all processes of the machine share.

        cache = RingtableCache("site", max_memory="256MiB")
        cache.set("user", {"name": "Ada"}, timeout=60)

    For Flask-Caching, `CACHE_TYPE` is "ringtable.adapters.cachelib.RingtableCache", and `CACHE_OPTIONS` are the
    arguments; for Flask-Session, `SESSION_TYPE` is "cachelib", and `SESSION_CACHELIB` is an object.

    `cache.table` is the table, for what cachelib's calls do not have. A key that is too long (65,535 bytes) raises
    `KeyTooLong`, which is a `ValueError`.
    """

    serializer: Any = BaseSerializer()
    """What makes bytes of values: this one stands for pickle; whole numbers are digits in any case."""

    _ignores = True

    def __init__(
        self,
        name: Address | None = None,
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        """Take the options; the table is opened at the first use.

        Args:
            name: What `ringtable.open` takes: the name of a table, the path of a socket, or a URL.
            default_timeout: Seconds to live where a call does not say, or a `timedelta`; 0 for ever.
            key_prefix: What all keys begin with in the table, or a function that returns it. With one, `clear` deletes
                the keys that begin so, and without one all that the table has.
            ignore_delete_many_errors: Whether `delete_many` raises nothing if the table cannot be reached.
            options: Those of `ringtable.open`, such as `max_memory`, `codec` ("pickle" unless given), or `timeout` (5
                seconds unless given); and `start`: `False` not to start a server if there is none. One that is started
                here is a cache: it evicts.
        """
        super().__init__(default_timeout, ignore_delete_many_errors=ignore_delete_many_errors)
        self.key_prefix = key_prefix or ""
        self._name = name
        self._options = options

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "serializer":
            # The next use has another table.
            self.__dict__.pop("table", None)
        super().__setattr__(name, value)

    @property
    def _held(self) -> Any:  # type: ignore[override]
        options = self._options
        if "codec" not in options and self.serializer is not RingtableCache.serializer:
            options = {**options, "codec": self.serializer}
        return held(self._name, options)

    def _raw(self, key: Any) -> str:
        prefix = self.key_prefix
        return f"{prefix if isinstance(prefix, str) else prefix()}{key}"

    def _ttl(self, timeout: int | timedelta | None) -> int | None:
        """Seconds to live; `None` for ever, and what is negative for what is over."""
        seconds: int = self._normalize_timeout(timeout)
        return seconds if seconds != 0 else None

    def get(self, key: str) -> Any:
        """Return the value of a key; `None` if there is none, or it cannot be read."""
        raw = self._raw(key)
        try:
            return _get(self.table, raw)
        except Error as error:
            return self._again(error, None, lambda table: _get(table, raw))

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values of many keys, with `None` for those that are absent or cannot be read."""
        raws = [self._raw(key) for key in keys]
        try:
            return self._do([None] * len(raws), lambda table: table.get_many(raws))
        except DecodeError:
            return [self.get(key) for key in keys]

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Write a key, and return whether that was done.

        Args:
            key: The key.
            value: What the serializer can write.
            timeout: Seconds to live, or a `timedelta`; 0 for ever.
        """
        return self._set(key, value, timeout, nx=False)

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Write a key if there is none, as one step, and return whether that was done."""
        return self._set(key, value, timeout, nx=True)

    def _set(self, key: str, value: Any, timeout: int | timedelta | None, nx: bool) -> bool:
        raw, ttl = self._raw(key), self._ttl(timeout)
        if ttl is not None and ttl < 0:
            return self._do(False, lambda table: raw not in table if nx else table.delete(raw) >= 0)
        return self._do(False, lambda table: table.set(raw, value, ttl=ttl, nx=nx))

    def set_many(self, mapping: dict[str, Any], timeout: int | timedelta | None = None) -> list[str]:
        """Write many keys, and return those that were written: all or none."""
        ttl = self._ttl(timeout)
        pairs = {self._raw(key): value for key, value in mapping.items()}

        def write(table: Table[Any]) -> list[str]:
            if ttl is not None and ttl < 0:
                table.delete_many(pairs)
            else:
                table.set_many(pairs, ttl=ttl)
            return list(mapping)

        return self._do([], write)

    def delete(self, key: str) -> bool:
        """Delete a key, and return whether there was one."""
        raw = self._raw(key)
        return self._do(False, lambda table: table.delete(raw) == 1)

    def delete_many(self, *keys: str) -> list[str]:
        """Delete many keys, and return those that are absent now.

        Raises:
            RuntimeError: The table cannot be reached, and `ignore_delete_many_errors` is false.
        """
        raws = [self._raw(key) for key in keys]
        if self._do(None, lambda table: table.delete_many(raws)) is not None:
            return list(keys)
        if not self.ignore_delete_many_errors:
            raise RuntimeError(f"Failed to delete keys: {list(keys)}")
        return []

    def has(self, key: str) -> bool:
        """Return whether there is a key."""
        raw = self._raw(key)
        return self._do(False, lambda table: raw in table)

    def clear(self) -> bool:
        """Delete all keys that have the prefix, or all that the table has; return whether that was done."""
        prefix = self._raw("")

        def cleared(table: Table[Any]) -> bool:
            if prefix:
                table.delete_prefix(prefix)
            else:
                table.clear()
            return True

        return self._do(False, cleared)

    def inc(self, key: str, delta: int = 1) -> Any:
        """Add to a number, as one step, and return the sum; `None` if the table cannot be reached.

        A key that is absent counts as 0, and lives for `default_timeout` then; one that is there keeps its time.

        Raises:
            TypeError: The value is none that `delta` can be added to.
        """
        raw, ttl = self._raw(key), self._ttl(None)

        def added(table: Table[Any]) -> Any:
            try:
                return table.incr(raw, delta, ttl_if_new=ttl)
            except (NotAnInteger, InvalidOption):
                total = increased(table, raw, delta)
                return total if total is not MISSING else added(table)

        return self._do(None, added, repeats=False)

    def dec(self, key: str, delta: int = 1) -> Any:
        """Subtract from a number; else as `inc`."""
        return self.inc(key, -delta)


def _get(table: Table[Any], raw: str) -> Any:
    try:
        return table.get(raw)
    except DecodeError:
        return None
