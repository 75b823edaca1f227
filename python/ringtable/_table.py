"""The table as Python sees it: a mapping that every process of the machine shares."""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, Mapping, MutableMapping, ValuesView
from itertools import chain

from ringtable._change import change
from ringtable._errors import Closed, InvalidOption, ServerGone, Timeout
from ringtable._later import imports
from ringtable._pipeline import Pipeline
from ringtable._prefix import Beginning
from ringtable._ringtable import Table as TableCore
from ringtable._ringtable import to_bytes
from ringtable._typing import TYPE_CHECKING, cast, overload

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Literal, Never, Self

    from typing_extensions import TypeVar

    from ringtable._snapshots import Loaded, Progress
    from ringtable._tools import Barrier, Lock, Once, RateLimiter, Semaphore, SharedEvent
    from ringtable._types import (
        Items,
        Key,
        KeyFunction,
        ObjectItems,
        Reads,
        RequestedTransport,
        Seconds,
        Stats,
        SupportsKeysAndGetItem,
        Value,
        Writes,
    )
    from ringtable._watch import Watch

    _Default = TypeVar("_Default")
    _T = TypeVar("_T", default=bytes)
    _Function = TypeVar("_Function", bound=Callable[..., Any])

# A sentinel, since `None` is a default that a caller may want back.
_MISSING: Any = object()


class Table(TableCore["_T"], MutableMapping["Any", "_T"]):
    """A hash table that every process of the machine shares, as a mapping from bytes to bytes, or to objects.

    Keys are `str` (as UTF-8) or `bytes`, and come back as `bytes`. Values are anything with the buffer protocol, and
    come back as `bytes`. With a codec, see `connect`, values are objects instead, a `Table[T]` holds those of type `T`,
    and keys come back as `str`. What a method promises holds for every process: after `table[key] = value` any process
    that reads `key` finds `value` or something newer.

    It is a `MutableMapping` that is unlike a `dict` in a few ways: keys come back as `bytes`, also those that were
    written as `str`; a table is equal to itself alone; `setdefault` writes `b""` unless told what; `update(key, fn)`
    changes one value; and iterating is in no order, and goes on while others write.

    `connect` makes one. The class itself takes one option more, for tests and measurements: `transport`, which is
    "auto", or insists on a "lane", on the "rings" of a classic topology, or on the plain "socket".

    Threads may share a table; their calls take turns on its one connection. A table may be used in a forked child,
    which opens a connection of its own, and it pickles as its address, so that it can be sent to another process. When
    its server has gone it goes on with the next one, see `connect`. A signal handler needs a table of its own: in the
    middle of a call of the same table its calls raise `Reentrant`, all but reads in place and `close`.

    Every method that needs the server may raise `ServerGone`, `Timeout` or `Closed`; writes may also raise
    `KeyTooLong`, `ValueTooLarge` or `OutOfMemory` (also as `BucketFull`).
    """

    # The first of three overloads is for `Table[Any]`, whose keys are `str`, as are those of all but `Table[bytes]`.

    @overload
    def __iter__(self: Table[Never]) -> Iterator[str]: ...  # type: ignore[overload-overlap]
    @overload
    def __iter__(self: Table[bytes]) -> Iterator[bytes]: ...  # type: ignore[overload-overlap]
    @overload
    def __iter__(self) -> Iterator[str]: ...
    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys, while others may change the table.

        A key that is present from the first step to the last comes exactly once, also when the table grows meanwhile;
        one that is added or deleted meanwhile may come or not. The memory that this takes does not depend on the size
        of the table.

        Raises:
            Timeout: Between two keys there were so many empty buckets that going over them took longer than `timeout`.
            ServerGone: The server has gone, and the table is another one now.
        """
        for keys in self._batches():
            yield from keys

    @overload
    def keys(self: Table[Never], *, prefix: Key = b"") -> KeysView[str]: ...  # type: ignore[overload-overlap]
    @overload
    def keys(self: Table[bytes], *, prefix: Key = b"") -> KeysView[bytes]: ...  # type: ignore[overload-overlap]
    @overload
    def keys(self, *, prefix: Key = b"") -> KeysView[str]: ...
    def keys(self, *, prefix: Key = b"") -> KeysView[Any]:
        """A view of the keys that begin with `prefix`, see `__iter__` for concurrent changes.

        With a prefix, its `len` counts them, for which all keys of the table are looked at.
        """
        return KeysView(self._beginning(prefix))

    @overload
    def items(self: Table[Never], *, prefix: Key = b"") -> ItemsView[str, Any]: ...  # type: ignore[overload-overlap]
    @overload
    def items(  # type: ignore[overload-overlap]
        self: Table[bytes], *, prefix: Key = b""
    ) -> ItemsView[bytes, bytes]: ...
    @overload
    def items(self, *, prefix: Key = b"") -> ItemsView[str, _T]: ...
    def items(self, *, prefix: Key = b"") -> ItemsView[Any, Any]:
        """A view of the entries, as `keys` is of the keys; iterating fetches many values at a time."""
        return _Items(self._beginning(prefix))

    def values(self, *, prefix: Key = b"") -> ValuesView[_T]:
        """A view of the values, as `keys` is of the keys; iterating fetches many values at a time."""
        return _Values(self._beginning(prefix))

    @overload
    def add(self, key: Key, value: _T, *, ttl: Seconds | None = None, evictable: bool | None = None) -> bool: ...
    @overload
    def add(
        self: Table[bytes], key: Key, value: Value, *, ttl: Seconds | None = None, evictable: bool | None = None
    ) -> bool: ...
    def add(self, key: Key, value: Any, *, ttl: Seconds | None = None, evictable: bool | None = None) -> bool:
        """Write only if the key is absent, as one step, and return whether it was.

        Args:
            key: The key, at most 65,535 bytes.
            value: The value, at most 512 MiB.
            ttl: Seconds, or a `timedelta`, after which the entry is gone; `None` for never.
            evictable: Whether the entry may be evicted, as for `set`.
        """
        return self.set(key, value, ttl=ttl, nx=True, evictable=evictable)

    @overload
    def setdefault(self, key: Key, default: _T, /) -> _T: ...
    @overload
    def setdefault(self: Table[bytes], key: Key, default: Value = b"", /) -> bytes: ...
    def setdefault(self, key: Key, default: Any = b"", /) -> Any:
        """Return the value of the key; where there is none, write `default` and return that.

        Among processes that do this at once one writes, and all return what it wrote.
        """
        # An entry may expire or be deleted between a refused write and the read that follows: then try again.
        while (value := self.get(key)) is None:
            # What is mutable must be the same in the table and in the caller's hands.
            default = to_bytes(default)
            if self.add(key, default):
                return default
        return value

    @overload
    def pop(self, key: Key, /) -> _T: ...
    @overload
    def pop(self, key: Key, /, default: _T | _Default) -> _T | _Default: ...
    def pop(self, key: Key, /, default: Any = _MISSING) -> Any:
        """Delete the key and return its value, as one step.

        Of several processes that pop one key, one gets the value. A value that is written meanwhile is either returned
        or stays.

        Raises:
            KeyError: The key is absent, and no default was given.
        """
        # Whoever is refused has lost to one that was not.
        while (found := self.get_with_version(key)) is not None:
            value, version = found
            if self.delete_if_version(key, version):
                return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    @overload
    def popitem(self: Table[Never]) -> tuple[str, Any]: ...  # type: ignore[overload-overlap]
    @overload
    def popitem(self: Table[bytes]) -> tuple[bytes, bytes]: ...  # type: ignore[overload-overlap]
    @overload
    def popitem(self) -> tuple[str, _T]: ...
    def popitem(self) -> tuple[Any, Any]:
        """Delete some entry and return it.

        Raises:
            KeyError: The table is empty.
        """
        for key in self:
            try:
                return key, self.pop(key)
            except KeyError:
                # Another process was quicker.
                continue
        raise KeyError("the table is empty")

    @overload
    def update(  # type: ignore[overload-overlap]
        self, key: Key, fn: Callable[[_T | None], _T], /, *, retries: int = 100, ttl: Seconds | None = None
    ) -> _T: ...
    @overload
    def update(  # type: ignore[overload-overlap]
        self, key: Key, fn: Callable[[_T | None], _T | None], /, *, retries: int = 100, ttl: Seconds | None = None
    ) -> _T | None: ...
    @overload
    def update(
        self: Table[bytes],
        key: Key,
        fn: Callable[[bytes | None], Value],
        /,
        *,
        retries: int = 100,
        ttl: Seconds | None = None,
    ) -> bytes: ...
    @overload
    def update(
        self: Table[bytes],
        key: Key,
        fn: Callable[[bytes | None], Value | None],
        /,
        *,
        retries: int = 100,
        ttl: Seconds | None = None,
    ) -> bytes | None: ...
    @overload
    def update(self, other: ObjectItems[_T] | SupportsKeysAndGetItem[_T] = (), /, **values: _T) -> None: ...
    @overload
    def update(self: Table[bytes], other: Items | SupportsKeysAndGetItem[Value] = (), /, **values: Value) -> None: ...
    def update(self, other: Any = (), fn: Any = _MISSING, /, **values: Any) -> Any:
        """Change the value of a key by a function, as one step; or write many entries.

        `update(key, fn)` writes what `fn` makes of the value, and returns it. The function gets `None` where there is
        none; where it returns `None`, the key is deleted. It is called anew with the new value whenever somebody else
        has changed the key meanwhile, so it should do nothing but compute.

        `update(mapping)`, `update(pairs)` and `update(name=value)` write many entries in few round trips, as `dict`'s.
        There any `name=` is a key, `ttl=` and `retries=` too; `set_many(mapping, ttl=5)` gives a time to live.

        Args:
            other: The key; or the entries.
            fn: Makes the new value of the old one. All that follows is for this form alone.
            retries: How often to try again. The process that is refused has always lost to one that was not.
            ttl: Seconds, or a `timedelta`, after which the new entry is gone; `None` for never, whatever the old one
                had.

        Raises:
            Conflict: Others changed the key in all of the tries.
            TypeError: A key or a value is of another type; then nothing was written.
        """
        if fn is not _MISSING:
            for option in values.keys() - {"retries", "ttl"}:
                raise TypeError(f"Table.update() got an unexpected keyword argument {option!r}")
            return change(cast("Table[bytes]", self), other, fn, **values)
        if isinstance(other, (str, bytes)):
            raise TypeError(f"update({other!r}) is neither update(key, fn) nor update(mapping)")
        for option in values.keys() & {"retries", "ttl"}:
            try:
                to_bytes(values[option])
            except TypeError:
                raise TypeError(
                    f"update(..., {option}={values[option]!r}) without a function would write a key {option!r}, as "
                    "dict.update does, and this is no value: for a time to live there is set_many(..., ttl=)"
                ) from None
        # All at once, so that all are checked before any of them is written.
        self.set_many(entries(other, values))
        return None

    def pipeline(self) -> Pipeline[_T]:
        """Return a recorder that sends many commands in one round trip."""
        return Pipeline(self)

    @overload
    def watch(  # type: ignore[overload-overlap]
        self: Table[Never], prefix: Key = b"", *, timeout: Seconds | None = None
    ) -> Watch[str]: ...
    @overload
    def watch(  # type: ignore[overload-overlap]
        self: Table[bytes], prefix: Key = b"", *, timeout: Seconds | None = None
    ) -> Watch[bytes]: ...
    @overload
    def watch(self, prefix: Key = b"", *, timeout: Seconds | None = None) -> Watch[str]: ...
    def watch(self, prefix: Key = b"", *, timeout: Seconds | None = None) -> Watch[Any]:
        """Watch the keys that begin with `prefix`, and return an iterator, plain and async, of what happens to them.

        Whatever is written after this has returned is seen, by whichever process. The watch is a connection of its own,
        and counts as a client of the server; close it, or use it in a `with` statement. See `Watch`.

        Args:
            prefix: What the keys begin with; all keys, if it is empty.
            timeout: Seconds, or a `timedelta`, to wait at most for one event; `None` for no limit, whatever the table's
                own is, which counts for connecting.

        Raises:
            OutOfMemory: The server's memory has no room for the events, which the first watch asks for.
            InvalidOption: This table is connected over a socket; events are read out of shared memory.
            TooManyClients: The server has no room for another client.
        """
        return self._watch(prefix, timeout, None)

    def _watch(self, prefix: Key, timeout: Seconds | None, convert: Callable[[bytes], Any] | None) -> Watch[Any]:
        """The same, with keys as they are converted."""
        if self.closed:
            raise Closed("this table was closed: connect again")
        if self.transport in ("socket", "udp"):
            raise InvalidOption(
                "a watch reads events out of shared memory, and this table is not connected through any: use "
                "ringtable.connect with the server's name or the path of its unix socket"
            )
        with imports:
            from ringtable._watch import Watch

        return Watch(
            self.address,
            prefix,
            connect_timeout=self.timeout,
            timeout=timeout,
            reconnect=self.reconnect,
            trust_user=self.trust_user,
            convert=convert,
        )

    def namespace(self, prefix: Key) -> Table[_T]:
        """Return the keys that begin with `prefix` as a table of its own, which puts it before keys and takes it off.

            users = table.namespace("users:")
            users["ada"] = b"Ada"  # the key of the table is "users:ada"
            assert list(users) == [b"ada"]

        Iteration, `len`, `bool`, `clear` and `watch` see the keys of the namespace alone. The first three and `clear`
        go over the keys of the whole table, which takes as long as that is large; `bool` ends at the first that it
        finds. A namespace of a namespace has both prefixes. It has the codec, the options and the connection of this
        table, which closes it. It pickles with its table, or else with a connection of its own.

        Args:
            prefix: What the keys begin with, in the table.
        """
        with imports:
            from ringtable._namespace import Namespace

        return Namespace(self, prefix)

    def snapshot(self, path: str | os.PathLike[str], *, prefix: Key = b"", progress: Progress | None = None) -> int:
        """Write the entries to a file in the format of Redis (RDB), and return how many there are.

            table.snapshot("table.rdb")

        This process does it, by reading the table in place: nobody waits for it, and nothing is held in memory. A file
        that is there is replaced once the new one is whole and on the disk; it is this user's alone. `redis-server` and
        `valkey-server` load it, and `load` does. Times to live are in it, and whether entries may be evicted.

        Others may change the table meanwhile. Each entry is as it was at one moment, and a key that is there all the
        while is in the file once; but the file as a whole is of no single moment. A namespace writes its own keys,
        whole, as the table has them.

        Args:
            path: The file.
            prefix: What the keys begin with.
            progress: Is called now and then with the entries written, about how many there are in the table, and the
                bytes written. What it raises ends the call.

        Raises:
            FileError: The file cannot be written. The old one is there still.
            ServerGone: The server has gone.
        """
        with imports:
            from ringtable import _snapshots

        return _snapshots.snapshot(self, path, self._raw_key(prefix), progress)

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        strict: bool = False,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Loaded:
        """Write the entries of a file of `snapshot`, Redis or Valkey (RDB) into the table, over those that it has.

            loaded = table.load("table.rdb")
            assert loaded.damage is None

        The whole file is looked at before: one that is damaged is refused, and nothing is loaded. What has expired is
        left out, and so is what a table cannot have: values that are no strings, other databases than the first one.
        Keys are taken as they are in the file, also by a namespace.

        Args:
            path: The file.
            strict: Whether to refuse a file that has what a table cannot have.
            salvage: Whether to load of a damaged file what stands before the damage. Of a file that ringtable has
                written, checksums tell that it is as it was; of another one, nobody knows.
            progress: Is called now and then with the entries that were written, how many there are, and the bytes read.
                What it raises ends the call.

        Raises:
            FileError: The file cannot be read.
            DamagedFile: It is damaged, or is no such file, or has what a table cannot have and `strict` was asked for.
            OutOfMemory: The table has no room for all of it, and evicts nothing. What stood before was loaded.
        """
        with imports:
            from ringtable import _snapshots

        return _snapshots.load(self, path, strict, salvage, progress)

    def stats(self) -> Stats:
        """Return the server's figures by name, such as `entries`, `buckets`, `clients`, `clients_gone`."""
        reply = cast("dict[bytes, int]", self.call("RING.STATS"))
        return cast("Stats", {name.decode(): value for name, value in reply.items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the address and the options: the other process opens a connection of its own."""
        options = (self.timeout, self.reads, self.writes, self.requested_transport, self.reconnect, self.trust_user)
        return _reopen, (type(self), self.address, *options, self.wait, self.lazy)

    # A table is equal to itself alone: comparing entries, as other mappings do, would fetch two whole tables.

    def __eq__(self, other: object, /) -> bool:
        return object.__eq__(self, other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        if self.closed:
            state = "closed"
        elif not self.connected:
            state = f"not connected yet, {self.reads} reads, {self.writes} writes"
        else:
            over = "UDP" if self.transport == "udp" else f"a {self.transport}"
            state = f"over {over}, {self.reads} reads, {self.writes} writes"
        return f"<ringtable.{type(self).__name__} {self.address!r} {state}>"

    def _raw_key(self, key: Key) -> Key:
        """A key as the whole table has it."""
        return key

    def _beginning(self, prefix: Key) -> Mapping[Any, Any]:
        """What views are of: all of the table, or a part."""
        return Beginning(self, prefix) if prefix != b"" else self

    def _batches(self, prefix: Key = b"") -> Iterator[list[Any]]:
        """The keys that begin with a prefix, in the batches in which they are found."""
        keys: list[Any]
        cursor, server, begun = 0, self.server_id, time.monotonic()
        while True:
            following, keys = self.scan(cursor, prefix=prefix)
            # Also another thread's call may have met the next server.
            if cursor == 0 and self.server_id != server:
                server = self.server_id
                continue
            self._check_server(server)
            cursor = following
            if keys:
                yield keys
                begun = time.monotonic()
            if cursor == 0:
                return
            # Each step is short; among many empty buckets there may be any number of them between two keys.
            if self.timeout is not None and time.monotonic() - begun > self.timeout:
                raise Timeout(f"no key within {self.timeout} s; `scan({cursor})` goes on from here")

    def _item_batches(self, prefix: Key = b"") -> Iterator[Iterator[tuple[Any, Any]]]:
        """The entries in batches, without those that were deleted since their keys were read."""
        server = 0
        for keys in self._batches(prefix):
            server = server or self.server_id
            found = self._found(keys)
            self._check_server(server)
            yield found

    def _found(self, keys: list[Any]) -> Iterator[tuple[Any, Any]]:
        """The entries of these keys that are there; they are looked up at once."""
        return ((key, value) for key, value in zip(keys, self.get_many(keys), strict=True) if value is not None)

    def _check_server(self, expected: int) -> None:
        """Raise what an iteration raises that has come to another server."""
        if self.server_id != expected:
            raise ServerGone("the server is gone: the table of the one that has followed is another, iterate anew")

    # Tools, which only programs that use them load.

    def lock(
        self, name: Key, *, timeout: Seconds | None = None, ttl: Seconds | None = None, reentrant: bool = False
    ) -> Lock:
        """Return the lock of that name, which one thread of one process of the machine has at a time.

            with table.lock("report", timeout=10):
                ...

        Args:
            name: Its name, at most 65,530 bytes. Locks are no keys of the table, and their names are their own.
            timeout: Seconds, or a `timedelta`, to wait for it, where a call does not say; `None` for no limit. A `with`
                block raises `Timeout` then.
            ttl: Seconds, or a `timedelta`, after which it ends by itself, though its owner lives; `None` for never.
            reentrant: Whether the thread that has it may acquire it again. It releases it as often.

        Raises:
            InvalidOption: A time is out of its range.
            KeyTooLong: The name is too long.
        """
        with imports:
            from ringtable._tools.lock import Lock

        return Lock(self, name, timeout=timeout, ttl=ttl, reentrant=reentrant)

    def semaphore(
        self, name: Key, count: int, *, timeout: Seconds | None = None, ttl: Seconds | None = None
    ) -> Semaphore:
        """Return the semaphore of that name, which `count` have at a time; all else is as for `lock`.

        All processes have to say the same count while anybody has it: `CommandError`.
        """
        with imports:
            from ringtable._tools.semaphore import Semaphore

        return Semaphore(self, name, count, timeout=timeout, ttl=ttl)

    def event(self, name: Key) -> SharedEvent:
        """Return the event of that name, which any process sets, and any number of them wait for."""
        with imports:
            from ringtable._tools.event import SharedEvent

        return SharedEvent(self, name)

    def barrier(self, name: Key, parties: int) -> Barrier:
        """Return the barrier of that name, where so many parties wait until all are there.

        All have to say the same number while anybody waits: `CommandError`.
        """
        with imports:
            from ringtable._tools.barrier import Barrier

        return Barrier(self, name, parties)

    def once(self, name: Key) -> Once:
        """Return what runs a function once among all processes: `table.once("migrate")(migrate)`."""
        with imports:
            from ringtable._tools.once import Once

        return Once(self, name)

    def rate_limiter(
        self, rate: str, *, name: Key = b"", algorithm: Literal["fixed", "sliding"] = "fixed"
    ) -> RateLimiter:
        """Return a rate limiter: called with a key, it says whether one more call is within the rate.

            limit = table.rate_limiter("100/minute")
            if not (allowed := limit("10.0.0.7")):
                print("try again in", allowed.retry_after, "seconds")

        Args:
            rate: How many in which time, such as "100/minute", "100 per minute", "5/s", "2/100ms" or "1000/15m".
            name: Tells limiters of the same rate apart.
            algorithm: "fixed" counts in windows, which the first call opens. "sliding" lets `count` through at once,
                and then one after the other (GCRA).

        Raises:
            InvalidOption: The rate or the algorithm is none.
        """
        with imports:
            from ringtable._tools.limiter import RateLimiter

        return RateLimiter(self, rate, name=name, algorithm=algorithm)

    @overload
    def memoize(self, function: _Function, /) -> _Function: ...
    @overload
    def memoize(
        self,
        /,
        *,
        ttl: Seconds | None = None,
        stale: Seconds = 0.0,
        stale_if_error: Seconds = 0.0,
        key: KeyFunction | None = None,
    ) -> Callable[[_Function], _Function]: ...
    def memoize(
        self,
        function: Any = _MISSING,
        /,
        *,
        ttl: Seconds | None = None,
        stale: Seconds = 0.0,
        stale_if_error: Seconds = 0.0,
        key: KeyFunction | None = None,
    ) -> Any:
        """Return a decorator for functions, and coroutine functions, whose results all processes share.

            @table.memoize(ttl=60)
            def page(number): ...

        `@table.memoize` alone has no options: results are good for ever.

        One process computes a result at a time; the others wait for it. Results are pickled, and whoever reads one runs
        what its pickle says: memoize only where all who may write to the table are trusted. A result that cannot be
        unpickled any more is computed anew.

        A key begins with the function's module and qualified name. So lambdas, and closures (functions in functions
        that refer to variables of theirs), need a `key` that tells them apart. What a bound method is bound to counts
        as its first argument.

        A coroutine function is computed by one task of its loop; the others wait, for the table's `timeout` at most.

        Args:
            ttl: Seconds, or a `timedelta`, for which a result is good; `None` for ever.
            stale: As for `get_or_set`: for how much longer it does while one caller computes it anew.
            stale_if_error: As for `get_or_set`: for how much longer it does if computing it raises.
            key: Makes the key, `str` or `bytes`, of the arguments. Without it a key is a hash of their pickle: the same
                in all processes for arguments of the same types and values, in whatever order a `set` or a `dict` has
                them. `f(1)` and `f(x=1)` are two keys. What has no name, as a `functools.partial`, needs it.
        """
        with imports:
            from ringtable._tools.memoize import memoize

        decorate = memoize(self, ttl=ttl, stale=stale, stale_if_error=stale_if_error, key=key)
        return decorate if function is _MISSING else decorate(function)


class _Items(ItemsView["Any", "Any"]):
    _mapping: Table[Any] | Beginning

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._mapping._item_batches():
            yield from batch


class _Values(ValuesView["Any"]):
    _mapping: Table[Any] | Beginning

    def __iter__(self) -> Iterator[Any]:
        for batch in self._mapping._item_batches():
            yield from (value for _, value in batch)


def entries(other: Any, values: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The entries that `dict.update` would take from its arguments."""
    if not isinstance(other, Mapping) and hasattr(other, "keys"):
        other = {key: other[key] for key in other.keys()}  # noqa: SIM118 (this is what `dict.update` asks for)
    return chain(other.items() if isinstance(other, Mapping) else other, values.items())


def _reopen(
    kind: type[Table],
    address: str,
    timeout: float | None,
    reads: Reads,
    writes: Writes,
    transport: RequestedTransport,
    reconnect: bool,
    trust_user: tuple[int, ...],
    wait: float | None = None,
    lazy: bool = False,
) -> Table:
    return kind(
        address,
        timeout=timeout,
        reads=reads,
        writes=writes,
        transport=transport,
        reconnect=reconnect,
        trust_user=trust_user,
        wait=wait,
        lazy=lazy,
    )
