"""The compiled half of ringtable: conversions between Python and the engine, no logic.

Everything public is re-exported, with its documentation, by the package `ringtable`.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from types import GenericAlias, TracebackType
from typing import Any, Generic, Never, Self, final, overload

from typing_extensions import TypeVar, disjoint_base

from ringtable._types import (
    Address,
    Argument,
    DiskError,
    Eviction,
    Fsync,
    Items,
    Key,
    ObjectItems,
    Reads,
    Reply,
    RequestedTransport,
    Seconds,
    Topology,
    Transport,
    Trusted,
    Value,
    Writes,
)

_D = TypeVar("_D")
_T = TypeVar("_T", default=bytes)
_P = TypeVar("_P", bound="Pipeline[bytes]")

__all__ = [
    "KEPT_LAYOUTS",
    "KEY_SIZE_MAX",
    "LAYOUT_VERSION",
    "LINGER_MS_MAX",
    "LINGER_MS_MIN",
    "LOCKS_MAX",
    "MAX_MEMORY_MIN",
    "VALUE_SIZE_MAX",
    "WORKERS_MAX",
    "Allowance",
    "Barrier",
    "Histogram",
    "KeptMemory",
    "Lock",
    "LoopConnection",
    "Pipeline",
    "Profiler",
    "RateLimiter",
    "Server",
    "Table",
    "View",
    "Watch",
    "__version__",
    "await_change",
    "check",
    "check_staleness",
    "check_timeout",
    "check_ttl",
    "classic_client",
    "default_address",
    "folder_of_names",
    "lane_request",
    "load",
    "rings_request",
    "shortage",
    "snapshot",
    "socket_path",
    "to_bytes",
    "watch_request",
]

KEPT_LAYOUTS: list[int]
KEY_SIZE_MAX: int
VALUE_SIZE_MAX: int
WORKERS_MAX: int
MAX_MEMORY_MIN: int
LOCKS_MAX: int
LINGER_MS_MIN: int
LINGER_MS_MAX: int
LAYOUT_VERSION: int
__version__: str

@disjoint_base
class Table(Generic[_T]):
    """One connection to a server, and the calls that must be fast. `ringtable.Table` inherits it."""

    def __new__(
        cls,
        address: Address | None = None,
        *,
        timeout: Seconds | None = None,
        reads: Reads = "direct",
        writes: Writes = "acknowledged",
        transport: RequestedTransport = "auto",
        reconnect: bool = True,
        trust_user: Trusted | None = None,
        wait: Seconds | None = None,
        lazy: bool = False,
        on_new_server: Callable[[int], object] | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str:
        """The address of the server, which means it in every process: the path of its socket, or a `tcp://` URL."""
    @property
    def timeout(self) -> float | None:
        """Seconds that a call may take, or `None`."""
    @property
    def reads(self) -> Reads:
        """Where reads go: `"direct"` or `"server"`."""
    @property
    def writes(self) -> Writes:
        """When writes return, unless told otherwise: `"acknowledged"` or `"posted"`."""
    @property
    def transport(self) -> Transport:
        """How it talks to the server: `"lane"`, `"rings"` or `"socket"`."""
    @property
    def requested_transport(self) -> RequestedTransport:
        """How it was asked to talk to the server: that, or `"auto"`."""
    @property
    def reconnect(self) -> bool:
        """Whether it connects anew when its server has gone."""
    @property
    def trust_user(self) -> tuple[int, ...]:
        """The numbers of the users whose servers it connects to, besides this process's own and root."""
    @property
    def wait(self) -> float | None:
        """Seconds that connecting waits for a server, if there is none, or `None`."""
    @property
    def server_id(self) -> int:
        """The number of the server that the table is that of, which no other one has.

        After a restart of the server it is another one, at the latest once a call has met the new one: what was in the
        table is gone then. It asks nobody.
        """
    @property
    def lazy(self) -> bool:
        """Whether it was to connect with its first call."""
    @property
    def connected(self) -> bool:
        """Whether it has connected: a lazy table does so with its first call."""
    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __getitem__(self, key: Key, /) -> _T: ...
    @overload
    def __setitem__(self, key: Key, value: _T, /) -> None: ...
    @overload
    def __setitem__(self: Table[bytes], key: Key, value: Value, /) -> None: ...
    def __delitem__(self, key: Key, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    @overload
    def get(self, key: Key, /, default: None = None) -> _T | None:
        """Return the value of `key`, or `default` if there is none."""
    @overload
    def get(self, key: Key, /, default: _T | _D) -> _T | _D: ...
    def get_into(self, key: Key, buffer: Value, /) -> int:
        """Copy the value of `key` into a writable, C-contiguous buffer; return how many bytes it has.

        The rest of a longer buffer is left as it is. After an error the buffer may hold anything.

        Raises `KeyError` if there is no such key, `BufferTooSmall` if the value has more bytes than the buffer,
        `TypeError` if the buffer holds pointers.
        """
    def view(self, key: Key, /, *, copy_ok: bool = False) -> View:
        """Return a view of the value of `key`: the value itself, in place, as a read-only buffer. See `View`.

        What the view shows stays as it is until the view is closed, whatever is written, deleted or evicted meanwhile.
        Making one takes the same time whatever the size of the value. With `reads="server"` it is in place, too. A
        table that is connected over a socket, or over the rings of a classic topology, returns a copy instead.

        A table may have 64 views in place at a time; with `copy_ok` there may be more, which are copies then.

        Raises `KeyError` if there is no such key, `TooManyViews`.
        """
    def _hold(self, key: Key, /) -> bytes | View | None: ...
    def _look(self, key: Key, otherwise: Any, /) -> Any: ...
    @overload
    def set(
        self,
        key: Key,
        value: _T,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        writes: Writes | None = None,
        evictable: bool | None = None,
        keepttl: bool = False,
    ) -> bool:
        """Write `key`; return whether it was done.

        `value` is anything with a C-contiguous buffer, as `bytes` or a numpy array of numbers, up to 512 MiB; one that
        holds pointers, as an array of objects does, is refused. `ttl` is in seconds, or a `timedelta`: afterwards the
        key is absent; with `keepttl` it keeps the time that it had. With `nx` it is written only if absent, with `xx`
        only if present, with `if_version` only if it still has this version (0: if absent). `writes` overrides the
        table's own: a posted write returns `True` once it is on its way, and its error surfaces at the next call. With
        `if_version` it is acknowledged also on a posted table.

        `evictable=False` marks the entry never to be evicted, whatever the policy, until it is deleted or expires, or a
        write says `evictable=True`; any other write of the key leaves that as it is. Such entries have a limit of their
        own (`UnevictableFull`), by default half of the table.

        Raises `KeyTooLong`, `ValueTooLarge`, `OutOfMemory` (then everything is as it was), `InvalidOption`.
        """
    @overload
    def set(
        self: Table[bytes],
        key: Key,
        value: Value,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        writes: Writes | None = None,
        evictable: bool | None = None,
    ) -> bool: ...
    def delete(self, *keys: Key, writes: Writes | None = None) -> int:
        """Delete keys; return how many there were (with posted writes: how many were asked for)."""
    def get_many(self, keys: Iterable[Key], /) -> list[_T | None]:
        """Return the values of many keys, in the order of the keys, with `None` for those that are absent.

        Much faster than one by one: the lookups overlap.
        """
    @overload
    def set_many(self, items: ObjectItems[_T], /, *, ttl: Seconds | None = None) -> None:
        """Write many keys, pipelined: a mapping, or pairs. `ttl` is in seconds, or a `timedelta`, for all of them.

        Raises what `set` raises; other keys may have been written then.
        """
    @overload
    def set_many(self: Table[bytes], items: Items, /, *, ttl: Seconds | None = None) -> None: ...
    def delete_many(self, keys: Iterable[Key], /) -> int:
        """Delete many keys, pipelined; return how many there were."""
    @overload
    def incr(self, key: Key, by: int = 1, *, ttl_if_new: Seconds | None = None, evictable: bool | None = None) -> int:
        """Add `by` to the number that `key` holds in decimal digits (0 if it is absent); return the sum.

        Atomic: of several processes that increment, each gets a sum of its own. With `minimum` or `maximum`, a sum that
        would lie beyond changes nothing, and `None` is returned. `ttl_if_new`, in seconds or a `timedelta`, is for a
        key that was absent; one that was there keeps its time. `evictable` is as for `set`.

        A `float` is added to any number, and the sum is a `float`; none of the other arguments is for it.

        Raises `NotAnInteger`, for a `float` `NotAFloat`, and `InvalidOption`.
        """
    @overload
    def incr(
        self,
        key: Key,
        by: int = 1,
        *,
        ttl_if_new: Seconds | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
        evictable: bool | None = None,
    ) -> int | None: ...
    @overload
    def incr(self, key: Key, by: float) -> float: ...
    def get_with_version(self, key: Key) -> tuple[_T, int] | None:
        """Return the value of `key` and its version, or `None` if there is none.

        Every write gives a key a version that it never had before. Read in place where `get` is.
        """
    def delete_if_version(self, key: Key, version: int) -> bool:
        """Delete `key` if it still has this version; return whether it had."""
    @overload
    def get_or_set(
        self,
        key: Key,
        make: Callable[[], _T],
        ttl: Seconds | None = None,
        *,
        stale: Seconds = 0.0,
        stale_if_error: Seconds = 0.0,
        timeout: Seconds | None = None,
        evictable: bool | None = None,
    ) -> _T:
        """Return the value of `key`; where there is none, one caller at a time computes it with `make()` and writes it.

        All others, in whichever process, wait until it is written. If `make` raises, its caller gets the exception, and
        the next one computes; so it does at once if the computing process dies. `ttl` is as for `set`. With `stale` the
        value is kept for that much longer: in that time, one caller computes it anew while the others get the old one
        without waiting. With `stale_if_error` it is kept for that long after `ttl`, too, for when `make` raises an
        `Exception`: then its caller gets the old value, and so do those who wait, also when their `timeout` ends.
        `timeout`, in seconds or a `timedelta`, and the table's own unless given, bounds the waiting for others
        (`Timeout`), and not what `make` takes itself. `evictable` is as for `set`.

        A value that the table has no place for (`OutOfMemory`, `ValueTooLarge`) is returned all the same, to those who
        wait for it, too, if it has at most 1 MiB; the next caller computes. The first time a table warns of either,
        with a `RuntimeWarning`.

        What `make` runs, and other tasks of its thread, may ask for other keys in this way, but not for the same one,
        which would wait for itself: `Reentrant`.
        """
    @overload
    def get_or_set(
        self: Table[bytes],
        key: Key,
        make: Callable[[], Value],
        ttl: Seconds | None = None,
        *,
        stale: Seconds = 0.0,
        stale_if_error: Seconds = 0.0,
        timeout: Seconds | None = None,
        evictable: bool | None = None,
    ) -> bytes: ...
    def expire(self, key: Key, ttl: Seconds) -> bool:
        """Let `key` be absent after `ttl`, in seconds or a `timedelta`; return whether there is such a key."""
    def ttl(self, key: Key) -> float | None:
        """Return the seconds left to `key`, or `None` if it does not expire.

        Raises `KeyError` if there is no such key.
        """
    @overload
    def read_bucket(self: Table[Never], key: Key) -> list[tuple[str, Any]]:  # type: ignore[overload-overlap]
        """Return all keys and values of the bucket that `key` falls in."""
    @overload
    def read_bucket(self: Table[bytes], key: Key) -> list[tuple[bytes, bytes]]: ...  # type: ignore[overload-overlap]
    @overload
    def read_bucket(self, key: Key) -> list[tuple[str, _T]]: ...
    @overload
    def scan(  # type: ignore[overload-overlap]
        self: Table[Never], cursor: int = 0, *, prefix: Key = b""
    ) -> tuple[int, list[str]]:
        """Go on with a walk over keys that begin with `prefix`: return the next cursor, 0 at the end, and some keys.

        Begin with cursor 0. There may be no keys, if there were only empty buckets, or other keys, for a while.
        """
    @overload
    def scan(  # type: ignore[overload-overlap]
        self: Table[bytes], cursor: int = 0, *, prefix: Key = b""
    ) -> tuple[int, list[bytes]]: ...
    @overload
    def scan(self, cursor: int = 0, *, prefix: Key = b"") -> tuple[int, list[str]]: ...
    def flush(self, *, durable: bool = False) -> None:
        """Wait until all posted writes are done; raise the error of the first that failed.

        With `durable`, wait also until all that was written before, by whomever, is on the disk of a server that has a
        log; raise `CommandError` if it has none, and `FileError` if the disk has failed.
        """
    def clear(self) -> None:
        """Delete everything. Not one atomic step, but nothing that was there before survives."""
    def close(self) -> None:
        """Close the connection; may be called again. Posted writes are executed all the same."""
    def call(self, *arguments: Argument) -> Reply:
        """Ask the server anything: a command's name and its arguments; return its reply."""
    def call_many(self, commands: Sequence[Sequence[Argument]], /) -> list[Reply | Exception]:
        """Ask many things, pipelined; return the replies. What is refused is among them as an exception."""
    @overload
    def get_and_delete(self, key: Key, default: None = None) -> _T | None:
        """Delete `key` and return its value, as one step; or return `default` if there is none.

        Of several processes that take one key, one gets the value.
        """
    @overload
    def get_and_delete(self, key: Key, default: _T | _D) -> _T | _D: ...
    @overload
    def get_and_expire(self, key: Key, ttl: Seconds | None, default: None = None) -> _T | None:
        """Give `key` a new time to live and return its value, as one step; or return `default` if there is none.

        `ttl` is in seconds, or a `timedelta`; with `None` the key does not expire any more.
        """
    @overload
    def get_and_expire(self, key: Key, ttl: Seconds | None, default: _T | _D) -> _T | _D: ...
    def persist(self, key: Key) -> bool:
        """Let `key` not expire any more; return whether it would have."""
    def touch(self, *keys: Key) -> int:
        """Have a cache take note that keys are used, so that it evicts others first; return how many there are.

        Every read does so, too, but of reads in place only some, now and then. Times to live stay as they are.
        """
    def ttl_many(self, keys: Iterable[Key], /) -> list[float | None]:
        """Return the seconds left to each of many keys, in the order of the keys, pipelined.

        For a key that does not expire that is `None`, and for one that is absent 0.0: one that is there has more left.
        """
    def delete_prefix(self, prefix: Key, /) -> int:
        """Delete all keys that begin with `prefix`; return how many.

        The server does it, in turns between which others go on, and looks at all keys for it. Not one atomic step, but
        nothing that was there before survives; what is written meanwhile may go, too.
        """

@disjoint_base
class Pipeline(Generic[_T]):
    """What `ringtable.Pipeline` inherits: it records commands for a table."""

    def __new__(cls, table: Table[_T]) -> Self: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __len__(self) -> int: ...
    def get(self, key: Key) -> Self:
        """Record a read; its result is the value, or `None` where there is none."""
    def get_with_version(self, key: Key) -> Self:
        """Record a read; its result is the value and its version, or `None` where there is none."""
    @overload
    def set(
        self,
        key: Key,
        value: _T,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        evictable: bool | None = None,
        keepttl: bool = False,
    ) -> Self:
        """Record a write; its result is whether it was done.

        The arguments are those of `Table.set`, and are checked here; of a value that may change it keeps a copy.
        """
    @overload
    def set(
        self: _P,
        key: Key,
        value: Value,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        evictable: bool | None = None,
    ) -> _P: ...
    def delete(self, *keys: Key) -> Self:
        """Record a deletion of any number of keys; its result is how many of them there were."""
    def exists(self, key: Key) -> Self:
        """Record a question; its result is whether there is such a key."""
    def incr(
        self,
        key: Key,
        by: float = 1,
        *,
        ttl_if_new: Seconds | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
        evictable: bool | None = None,
    ) -> Self:
        """Record an increment; its result is the sum, or `None` if it were out of bounds.

        The arguments are those of `Table.incr`, and are checked here.
        """
    def expire(self, key: Key, ttl: Seconds) -> Self:
        """Record that `key` shall be absent after `ttl`; its result is whether there is such a key."""
    def get_and_delete(self, key: Key) -> Self:
        """Record a deletion; its result is the value that the key had, or `None` where there is none."""
    def get_and_expire(self, key: Key, ttl: Seconds | None) -> Self:
        """Record that `key` gets a new time to live, or none; its result is the value, or `None` for an absent key."""
    def persist(self, key: Key) -> Self:
        """Record that `key` shall not expire any more; its result is whether it would have."""
    def read_bucket(self, key: Key) -> Self:
        """Record a read of the bucket that `key` falls in; its result is a list of pairs of key and value."""
    def call(self, *arguments: Argument) -> Self:
        """Record anything that a server can be asked: a command's name and its arguments; its result is the reply."""
    def _send(self) -> list[Any]: ...

# Before Python 3.12 the buffer protocol has no methods that type checkers could look for, and numpy's stubs list the
# classes that they take for buffers: of these a view is most like `bytes`, though it is none.
if sys.version_info >= (3, 12):
    _BufferLike = object
else:
    _BufferLike = bytes

@disjoint_base
class Lock:
    """What `ringtable.Lock` and `ringtable.Semaphore` inherit."""
    def __new__(
        cls,
        table: Table[Any],
        name: Key,
        permits: int,
        *,
        timeout: Seconds | None = None,
        ttl: Seconds | None = None,
        reentrant: bool = False,
        semaphore: bool = False,
    ) -> Self: ...
    @property
    def name(self) -> str:
        """Its name."""
    @property
    def ttl(self) -> float | None:
        """Seconds after which it ends by itself, or `None`."""
    @property
    def permits(self) -> int:
        """How many may have it at a time."""
    @property
    def token(self) -> int | None:
        """The fencing token of what this thread has, or `None`: higher than that of any holder before.

        Of a semaphore, if this thread has none, that of what another thread has.
        """
    def acquire(self, blocking: bool = True, timeout: Seconds | None = None) -> bool:
        """Acquire it; return whether that was done.

        Waits until it is free, in the order of asking; with `blocking=False` not at all; with `timeout`, in seconds or
        a `timedelta`, for so long at most (-1: for ever). Without one it waits for the `timeout` that it was made with.

        Raises `Reentrant` if this thread has it already and would wait for itself; `InvalidOption` over UDP.
        """
    def release(self) -> None:
        """Release it: the first that waits has it from then on.

        Raises `LockLost` if it was lost meanwhile; `NotOwned` if it was never had, or by another thread, or process.
        """
    def extend(self, ttl: Seconds | None = None) -> None:
        """Let it live for `ttl`, in seconds or a `timedelta`, from now on; without one, for as long as it was made
        with.

        Also a lock that was made without any ends then.

        Raises what `release` raises.
        """
    def locked(self) -> bool:
        """Return whether all of its permits are taken, by whomever."""
    def holders(self) -> int:
        """Return how many permits are taken, by whomever."""
    def owned(self) -> bool:
        """Return whether this thread has it, as the server says now."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None: ...

@disjoint_base
class Barrier:
    """What `ringtable.Barrier` inherits."""
    def __new__(cls, table: Table[Any], name: Key, parties: int) -> Self: ...
    @property
    def name(self) -> str:
        """Its name."""
    @property
    def parties(self) -> int:
        """How many wait for each other."""
    @property
    def n_waiting(self) -> int:
        """How many wait now."""
    def wait(self, timeout: Seconds | None = None) -> int:
        """Wait until all parties are here; return how many were still to come: 0 to the one that came last.

        For `timeout` at most, in seconds or a `timedelta`. With 0 it does not wait: it passes if it is the last one, or
        the last one comes in that very moment.

        Raises `Timeout` if not all came in time: this one counts no more, and the others wait on. `LockLost` if the
        server does not answer: this one may be counted, and the others may have passed. `ServerGone` if the server
        dies; `CommandError` if others have made this barrier with another number of parties, or too many wait;
        `InvalidOption` over UDP.
        """

@disjoint_base
class RateLimiter:
    """What `ringtable.RateLimiter` inherits."""
    def __new__(cls, table: Table[Any], prefix: bytes, count: int, period_ns: int, sliding: bool) -> Self: ...
    def __call__(self, key: Key, cost: int = 1) -> Allowance: ...

@final
class Allowance:
    """What a limiter says to a call: true if it is within the rate."""
    def __bool__(self) -> bool: ...
    @property
    def allowed(self) -> bool:
        """Whether the call is within the rate."""
    @property
    def remaining(self) -> int:
        """How many more calls would be within the rate now."""
    @property
    def retry_after(self) -> float:
        """Seconds after which to ask again; 0.0 if the call is within the rate."""

@final
class View(_BufferLike):
    """A value that stays where it is, and as it is, until the view is closed: a read-only buffer without a copy.

    Make one with `Table.view`. Whatever takes a buffer takes a view: `memoryview(view)`, `numpy.frombuffer(view)`,
    `file.write(view)`. What becomes of the key meanwhile changes nothing: the server uses the memory again when the
    view is closed. So close it, or use it in a `with` statement; a view that nothing refers to is closed, too.

    A forked child may read buffers that were made before the fork, as long as the parent keeps its view. It cannot make
    new ones, and closing the view there closes nothing of the parent's.
    """

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
    @property
    def nbytes(self) -> int:
        """How many bytes the value has."""
    @property
    def is_copy(self) -> bool:
        """Whether it is a private copy: where there is no lane, or `copy_ok` was given."""
    @property
    def version(self) -> int | None:
        """The version of the value, never the same twice for a key; `None` for a copy that came over a socket."""
    def close(self) -> None:
        """Let go of the value; may be called again.

        Raises `BufferError` while there are buffers of it: release those first. The view that a loaded object lies in
        is closed with the last such object, and never by this.
        """
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None, /
    ) -> None: ...

@final
class KeptMemory:
    """The memory of a lane, mapped by the keeper for a server that is forked later: behind its client's seal no process
    can map it any more.
    """

    def __new__(cls, descriptor: int, size: int) -> Self:
        """Map the segment of that descriptor, which has so many bytes."""
    def leave(self) -> int:
        """Leave the memory to another copy of this extension in this process: where it begins, for `found`."""
    @staticmethod
    def found(start: int, size: int) -> KeptMemory:
        """The memory of so many bytes that another copy of this extension has left."""

@final
class Server:
    """A running server: worker threads inside this process that never take the interpreter lock."""

    def __new__(
        cls,
        name: Address,
        *,
        buckets: int | None = None,
        workers: int | None = None,
        max_memory: int | None = None,
        max_clients: int | None = None,
        spin_us: float | None = None,
        strict_seal: bool | None = None,
        tcp: str | None = None,
        udp: str | None = None,
        mode: int = 0o600,
        group: int | None = None,
        eviction: Eviction | None = None,
        topology: Topology | None = None,
        ring_slots: int | None = None,
        slot_size: int | None = None,
        slow_consumer_timeout: Seconds | None = None,
        max_unevictable: int | None = None,
        linger: Seconds | None = None,
        data: str | None = None,
        snapshot_every: float | None = None,
        snapshots_kept: int | None = None,
        log: bool | None = None,
        fsync: Fsync | None = None,
        on_disk_error: DiskError | None = None,
        kept: tuple[int, dict[int, int], list[tuple[int, KeptMemory, int | None, int, int, int | None]], int, int, bool]
        | None = None,
    ) -> Self: ...
    @property
    def path(self) -> str:
        """The path of its socket."""
    @property
    def tcp(self) -> str | None:
        """The `tcp://` URL of the port that it listens at besides, or `None`."""
    @property
    def udp(self) -> str | None:
        """The `udp://` URL of the port that it listens at besides, or `None`."""
    @property
    def workers(self) -> int:
        """How many worker threads it has."""
    @property
    def loaded(self) -> int | None:
        """How many entries it has begun with, if its table is kept in a folder, and it has not ended."""
    @property
    def running(self) -> bool:
        """Whether it runs."""
    @property
    def failure(self) -> str | None:
        """Why it has ended though nobody stopped it, or `None`."""
    def estate(
        self,
    ) -> tuple[dict[int, int], list[tuple[int, tuple[int, int], int | None, int, int, int]], int, int, bool] | None:
        """What it leaves to this process, if that is the keeper of the next one from now on; else `None`."""
    def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until it has ended, for at most `timeout` seconds; return whether it has."""
    def stop(self) -> None:
        """Stop it: clients are told, threads ended, the socket removed. May be called again."""

@final
class Histogram:
    """Counts of times in nanoseconds, from 1 ns to an hour, exact to three digits.

    Recording allocates nothing. Histograms of several processes are brought together with `to_bytes`, `from_bytes` and
    `add`.
    """

    def __new__(cls) -> Self: ...
    @property
    def count(self) -> int:
        """How many times were recorded."""
    def record(self, ns: int, /) -> None:
        """Count one time."""
    def percentile(self, percent: float, /) -> int:
        """The time in nanoseconds that `percent` of all recorded ones do not exceed; 0 when there are none."""
    def add(self, other: Histogram, /) -> None:
        """Count all that the other one has counted, too."""
    def to_bytes(self) -> bytes:
        """What was counted, for `from_bytes` of another process."""
    @staticmethod
    def from_bytes(data: bytes, /) -> Histogram:
        """A histogram with what `to_bytes` gave."""

@final
class Profiler:
    """A running profile of this process, until it is stopped; there can be one at a time."""

    def __new__(cls, hz: int) -> Self: ...
    @staticmethod
    def can_name() -> bool:
        """Whether functions have names here: there are line tables, in the module or in a file beside it."""
    def stop(self) -> tuple[list[tuple[list[tuple[str, str]], int]], int]:
        """Stop; return the stacks with how often each was seen, and how many samples found no room.

        A stack is a list of functions with their source files, the outermost first; an unknown function is "", with the
        file that is mapped there. A second call returns nothing.
        """

@final
class Watch:
    """The changes of a table, in batches: each is a kind, a key, a version and a size.

    `ringtable.Watch` makes events of them.

    Where events were missed, the kind is "lagged", and their number stands in place of the version.
    """

    def __new__(
        cls,
        address: Address,
        prefix: Key,
        *,
        connect_timeout: Seconds | None = None,
        timeout: Seconds | None = None,
        reconnect: bool = True,
        trust_user: Trusted | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str:
        """The address of the server, which means it in every process."""
    @property
    def timeout(self) -> float | None:
        """Seconds that `wait` may take, or `None`."""
    @property
    def reconnects(self) -> bool:
        """Whether it goes on with the next server: in `wait` by itself, and otherwise by `rejoin`."""
    def rejoin(self) -> bool:
        """Go on with the next server, if that of before has gone, without waiting; return whether it is there.

        Raises `ServerGone` if there is none with the same table.
        """
    def joining(self) -> int | None:
        """The descriptor to wait for before `rejoin` is tried again; `None` if that has to be some time later."""
    def wait(self) -> list[tuple[str, bytes, int, int]]:
        """Wait until there are changes, and return some."""
    def timed_out(self) -> Exception:
        """Return the exception for a wait that took as long as it may."""
    def take(self) -> tuple[list[tuple[str, bytes, int, int]], bool]:
        """Return changes that are there, without waiting, and whether it is time to `rejoin`."""
    def arm(self) -> bool:
        """Prepare for waiting until `fileno()` is readable; return `False` if there is something to take already."""
    def disarm(self) -> None:
        """End the waiting that `arm` began, whatever came of it."""
    def fileno(self) -> int:
        """The descriptor to wait for between `arm` and `disarm`; another one after `rejoin`."""
    def close(self) -> None:
        """End the watch, and wake whoever waits in it; may be called again."""

@final
class LoopConnection:
    """A connection for an event loop."""
    def __new__(cls, table: Table[Any]) -> Self: ...
    def fileno(self) -> int:
        """The descriptor to sleep on."""
    @property
    def server_id(self) -> int:
        """The number of the server's table."""
    @property
    def is_ours(self) -> bool:
        """Whether it was made in this process."""
    def submit(self, pipeline: Pipeline[Any], future: asyncio.Future[Any], is_one: bool) -> int:
        """Send what a pipeline has recorded, and have its results, or the result of its only command, in that future.
        Return how many requests wait for room.
        """
    def expect(self, ticket: int, future: asyncio.Future[Any]) -> None:
        """Have the answer with this ticket, which comes later, in that future."""
    def forget(self, ticket: int) -> None:
        """Expect the answer with this ticket no more."""
    def take(self) -> bool:
        """Take all that has come, and give the futures their results. Return whether anything is still to come.

        Raises `ServerGone` when the connection has ended; then `fail` is due.
        """
    def arm(self) -> int:
        """Have the descriptor tell of what comes from now on.

        Returns 0 if there is something to take already; else 1, or 2 if it is to be watched for room, too.
        """
    def fail(self, error: BaseException, unsent: BaseException) -> None:
        """Give all futures of calls that error: nothing comes any more. Those whose calls were not sent get the other.

        Those of answers that were to come later get `None`, as from a server that follows another one.
        """

def snapshot(
    table: Table[Any],
    path: str | os.PathLike[str],
    prefix: Key,
    progress: Callable[[int, int, int], object] | None = None,
) -> tuple[int, int]:
    """Write the entries of a table whose keys begin with `prefix` to a file; return how many, and its bytes.

    `progress` is called now and then with entries written, about how many there are, and bytes written.
    """

def check(
    path: str | os.PathLike[str], progress: Callable[[int, int], object] | None = None
) -> list[tuple[str, int, bool, int, str | None]]:
    """Look whether the files at a path are whole: a file with entries, or the folder of a server.

    Return of each its path, how many entries or changes are whole, whether it has changes, how many bytes at its end
    were never durable, and what is wrong with it. `progress` is called now and then with bytes read, and how many there
    are.
    """

def load(
    table: Table[Any],
    path: str | os.PathLike[str],
    strict: bool,
    salvage: bool,
    progress: Callable[[int, int, int], object] | None = None,
) -> tuple[int, int, dict[str, int], str | None]:
    """Write the entries of a file to a table; return how many, how many had expired, what was passed over, and damage.

    `progress` is called now and then with entries written, how many there are, and bytes read.
    """

def await_change(table: Table[Any], key: Key, version: int, timeout: Seconds | None = None) -> bool:
    """Wait until `key` has another version than this one (0: until it is there); return whether it has.

    For `timeout` at most, in seconds or a `timedelta`; `None` for ever.
    """

def check_staleness(ttl: Seconds | None, stale: Seconds, stale_if_error: Seconds, /) -> None:
    """Raise what `get_or_set` with these spans would raise."""

def check_timeout(timeout: Seconds | None, /) -> None:
    """Raise what a table with this time-out would raise."""

def check_ttl(ttl: Seconds, /) -> None:
    """Raise what a write with this time to live would raise."""

def classic_client(
    address: Address,
    outer: int,
    inner: int,
    *,
    seed: int,
    reads: Reads = "direct",
    transport: RequestedTransport = "auto",
    timeout: Seconds | None = None,
    trust_user: Trusted | None = None,
) -> dict[str, float]:
    """Run the classic client's loop: return `loops`, `operations`, `seconds`, `user_s` and `system_s`.

    With `outer` 0 it runs until `KeyboardInterrupt`. Raises `ringtable.Error` with the word "mismatch" in its message
    if the table does not hold what was put into it.
    """

def lane_request() -> list[str]:
    """The words of the request that turns a socket's connection into a lane, for programs that do so by hand."""

def rings_request() -> list[str]:
    """Return the words of the request that asks to join the rings of a classic topology."""

def default_address() -> str:
    """The address that is meant where none is given: `$RINGTABLE_URL`, else the name "default"."""

def folder_of_names(trust_user: Trusted | None = None) -> str | None:
    """The folder of names, or `None` where there is none; raises what connecting to a name would."""

def shortage(number: int) -> str | None:
    """What the system has no more of, in words, if this number of an error says that it is so."""

def socket_path(name: Address) -> str:
    """The path of the socket that a server of this name has, also where there is none; a path stays as it is."""

def to_bytes(value: Value, /) -> bytes:
    """Return something with the buffer protocol as `bytes`, as a table writes it."""

def watch_request() -> list[str]:
    """The words of the request that turns a socket's connection into a watch, for programs that do so by hand."""
