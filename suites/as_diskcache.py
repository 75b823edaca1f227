"""What diskcache offers and ringtable has, too, in diskcache's words: what its tests import in the place of diskcache.

Each call is one of a table's, or of its tools. A key that is no text is pickled, as diskcache does. What ringtable does
not have ends the test that asks for it as skipped, with the reason.
"""

import functools
import io
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Never, Self

import pytest
import ringtable

# A server ends so long after its last client.
_LINGER_S = 0.5

_ABSENT = {
    "evict": "tags",
    "stats": "statistics of hits",
    "reset": "settings of diskcache's own: how much is evicted, when, and by which SQL",
    "expire": "removing what has expired by hand: the server does it by itself",
    "tag_index": "settings of diskcache's own",
    "push": "queues",
    "peekitem": "an order of entries",
    "__reversed__": "an order of entries",
    "EVICTION_POLICY": "policies of eviction in SQL",
    "Timeout": "the inside of diskcache",
    "Averager": "averages, which Table.update computes",
    "DEFAULT_SETTINGS": "settings of diskcache's own",
    "JSONDisk": "ways in which diskcache lays out files",
}


def absent(name: str) -> Never:
    """End this test as skipped."""
    words = _ABSENT.get(name, "the inside of diskcache" if name.startswith("_") else f"{name}()")
    pytest.skip(f"ringtable does not have {words}")


class Cache:
    """A table in a folder of its own, as `diskcache.Cache` is a database there."""

    def __init__(self, directory: str | Path | None = None, **settings: Any) -> None:
        if settings:
            absent("DEFAULT_SETTINGS")
        self.directory = tempfile.mkdtemp() if directory is None else str(directory)
        socket = os.path.join(self.directory, "cache.sock")
        self.table: ringtable.Table[Any] = ringtable.open(socket, codec="pickle", keys="bytes", linger=_LINGER_S)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        absent(name)

    def __getitem__(self, key: Any) -> Any:
        return self.table[_raw(key)]

    def get(
        self,
        key: Any,
        default: Any = None,
        read: bool = False,
        expire_time: bool = False,
        tag: bool = False,
        retry: bool = False,
    ) -> Any:
        if read:
            pytest.skip("ringtable does not have values that are files")
        value = self.table.get(_raw(key), default)
        left_s = self.table.ttl(_raw(key)) if expire_time and key in self else None
        more = [None if left_s is None else time.time() + left_s] * expire_time + [None] * tag
        return (value, *more) if more else value

    def read(self, key: Any, retry: bool = False) -> io.BytesIO:
        return io.BytesIO(self[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.table[_raw(key)] = value

    def set(
        self,
        key: Any,
        value: Any,
        expire: float | None = None,
        read: bool = False,
        tag: Any = None,
        retry: bool = False,
    ) -> bool:
        _check_tag(tag)
        return self.table.set(_raw(key), value.read() if read else value, ttl=expire)

    def add(
        self,
        key: Any,
        value: Any,
        expire: float | None = None,
        read: bool = False,
        tag: Any = None,
        retry: bool = False,
    ) -> bool:
        _check_tag(tag)
        return self.table.add(_raw(key), value, ttl=expire)

    def touch(self, key: Any, expire: float | None = None, retry: bool = False) -> bool:
        if expire is None:
            self.table.persist(_raw(key))
            return key in self
        # A table refuses a time to live that is over, and has words of its own for deleting.
        return self.table.expire(_raw(key), expire) if expire > 0 else self.delete(key)

    def incr(self, key: Any, delta: int = 1, default: int | None = 0, retry: bool = False) -> int:
        if default is None and key not in self:
            raise KeyError(key)
        if default:
            self.table.add(_raw(key), default)
        return int(self.table.incr(_raw(key), delta))

    def decr(self, key: Any, delta: int = 1, default: int | None = 0, retry: bool = False) -> int:
        return self.incr(key, -delta, default)

    def pop(
        self, key: Any, default: Any = None, expire_time: bool = False, tag: bool = False, retry: bool = False
    ) -> Any:
        if expire_time or tag:
            pytest.skip("ringtable does not have a pop that tells when the entry would have expired")
        return self.table.get_and_delete(_raw(key), default)

    def __delitem__(self, key: Any, retry: bool = True) -> None:
        del self.table[_raw(key)]

    def delete(self, key: Any, retry: bool = False) -> bool:
        return self.table.delete(_raw(key)) == 1

    def clear(self, retry: bool = False) -> int:
        count = len(self)
        self.table.clear()
        return count

    def __contains__(self, key: Any) -> bool:
        return _raw(key) in self.table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Any]:
        keys: Iterable[Any] = self.table
        return map(_key, keys)

    def iterkeys(self, reverse: bool = False) -> Iterator[Any]:
        return iter(self)

    def __reversed__(self) -> Iterator[Any]:
        absent("__reversed__")

    def check(self, fix: bool = False, retry: bool = False) -> list[Any]:
        """There are no files that could be wrong."""
        return []

    def memoize(
        self,
        name: str | None = None,
        typed: bool = False,
        expire: float | None = None,
        tag: Any = None,
        ignore: Iterable[Any] = (),
    ) -> Callable[..., Any]:
        _check_tag(tag)
        if ignore:
            pytest.skip("ringtable does not have arguments to ignore by place or name: memoize(key=) does it")
        return _memoize(self.table, ttl=expire)

    def close(self) -> None:
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.directory,)


class FanoutCache(Cache):
    """Several databases that are one cache, so that writers do not wait for each other; a table needs no such thing."""

    def __init__(
        self, directory: str | Path | None = None, shards: int = 8, timeout: float = 0.01, **settings: Any
    ) -> None:
        super().__init__(directory, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        return FanoutCache, (self.directory,)


def _check_tag(tag: Any) -> None:
    if tag is not None:
        absent("evict")


def _raw(key: Any) -> str | bytes:
    """A key as the table has it. No text begins as a pickle does."""
    raw = key if isinstance(key, str) else pickle.dumps(key)
    if len(raw) > ringtable.KEY_SIZE_MAX:
        pytest.skip(
            f"ringtable does not have keys of more than {ringtable.KEY_SIZE_MAX:,} bytes, as the last part wants"
        )
    return raw


def _key(raw: bytes) -> Any:
    return pickle.loads(raw) if raw.startswith(pickle.PROTO) else raw.decode()


def Lock(cache: Cache, key: str, expire: float | None = None, tag: Any = None) -> Any:
    return cache.table.lock(key, ttl=expire)


def RLock(cache: Cache, key: str, expire: float | None = None, tag: Any = None) -> Any:
    return cache.table.lock(key, ttl=expire, reentrant=True)


def BoundedSemaphore(cache: Cache, key: str, value: int = 1, expire: float | None = None, tag: Any = None) -> Any:
    return cache.table.semaphore(key, value, ttl=expire)


def throttle(cache: Cache, count: int, seconds: int, name: str = "") -> Callable[..., Any]:
    """A decorator that lets calls wait until the rate allows them."""
    limit = cache.table.rate_limiter(f"{count}/{seconds}s", algorithm="sliding")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def throttled(*args: Any, **kwargs: Any) -> Any:
            while not (allowed := limit(name or function.__qualname__)):
                time.sleep(allowed.retry_after)
            return function(*args, **kwargs)

        return throttled

    return decorate


def barrier(cache: Cache, lock_factory: Callable[..., Any], name: str = "") -> Callable[..., Any]:
    """A decorator that lets one call be under way at a time, which diskcache calls a barrier."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with lock_factory(cache, name or function.__qualname__):
                return function(*args, **kwargs)

        return guarded

    return decorate


def memoize_stampede(cache: Cache, expire: float) -> Callable[..., Any]:
    return _memoize(cache.table, ttl=expire, stale=expire)


def _memoize(table: Any, **options: Any) -> Callable[..., Any]:
    """As diskcache does it, which tells closures apart by their names alone. ringtable wants that to be said."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        is_closure = function.__closure__ is not None
        memoized: Callable[..., Any] = table.memoize(key=_by_arguments if is_closure else None, **options)(function)
        return memoized

    return decorate


def _by_arguments(*positional: Any, **named: Any) -> str:
    return repr((positional, sorted(named.items())))


# Named when the tests are imported, whether they use them or not.
Disk, UNKNOWN, EmptyDirWarning = object, None, UserWarning


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    absent(name)
