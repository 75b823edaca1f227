"""The compiled half of ringtable: conversions between Python and the engine, no logic.

Everything public is re-exported, with its documentation, by the package `ringtable`.
"""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, final, overload

from typing_extensions import Buffer, disjoint_base

from ringtable._types import (
    Address,
    Argument,
    Eviction,
    Items,
    Key,
    Reads,
    Reply,
    RequestedTransport,
    Seconds,
    Topology,
    Transport,
    Trusted,
    Writes,
)

_D = TypeVar("_D")

__all__ = [
    "KEY_SIZE_MAX",
    "LAYOUT_VERSION",
    "MAX_MEMORY_MIN",
    "VALUE_SIZE_MAX",
    "WORKERS_MAX",
    "Histogram",
    "PipelineCore",
    "Profiler",
    "ServerCore",
    "TableCore",
    "View",
    "WatchCore",
    "__version__",
    "check_ttl",
    "classic_client",
    "lane_request",
    "rings_request",
    "socket_path",
    "to_bytes",
    "watch_request",
]

KEY_SIZE_MAX: int
VALUE_SIZE_MAX: int
WORKERS_MAX: int
MAX_MEMORY_MIN: int
LAYOUT_VERSION: int
__version__: str

@disjoint_base
class TableCore:
    """What `ringtable.Table` inherits: one connection to a server, and the calls that must be fast."""

    def __new__(
        cls,
        address: Address | None = None,
        *,
        timeout: float | None = None,
        reads: Reads = "direct",
        writes: Writes = "acknowledged",
        transport: RequestedTransport = "auto",
        reconnect: bool = False,
        trust_user: Trusted | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def reads(self) -> Reads: ...
    @property
    def writes(self) -> Writes: ...
    @property
    def transport(self) -> Transport: ...
    @property
    def requested_transport(self) -> RequestedTransport: ...
    @property
    def reconnect(self) -> bool: ...
    @property
    def trust_user(self) -> tuple[int, ...]: ...
    @property
    def closed(self) -> bool: ...
    def __getitem__(self, key: Key, /) -> bytes: ...
    def __setitem__(self, key: Key, value: Buffer, /) -> None: ...
    def __delitem__(self, key: Key, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    @overload
    def get(self, key: Key, /, default: None = None) -> bytes | None: ...
    @overload
    def get(self, key: Key, /, default: bytes | _D) -> bytes | _D: ...
    def get_into(self, key: Key, buffer: Buffer, /) -> int: ...
    def view(self, key: Key, /, *, copy_ok: bool = False) -> View: ...
    def set(
        self,
        key: Key,
        value: Buffer,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        writes: Writes | None = None,
        evictable: bool | None = None,
    ) -> bool: ...
    def delete(self, *keys: Key, writes: Writes | None = None) -> int: ...
    def get_many(self, keys: Iterable[Key], /) -> list[bytes | None]: ...
    def set_many(self, items: Items, /, *, ttl: Seconds | None = None) -> None: ...
    def delete_many(self, keys: Iterable[Key], /) -> int: ...
    @overload
    def incr(
        self, key: Key, by: int = 1, *, ttl_if_new: Seconds | None = None, evictable: bool | None = None
    ) -> int: ...
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
    def get_with_version(self, key: Key) -> tuple[bytes, int] | None: ...
    def delete_if_version(self, key: Key, version: int) -> bool: ...
    def get_or_set(
        self,
        key: Key,
        make: Callable[[], Buffer],
        ttl: Seconds | None = None,
        *,
        stale: Seconds = 0.0,
        stale_if_error: Seconds = 0.0,
        timeout: float | None = None,
        evictable: bool | None = None,
    ) -> bytes: ...
    def expire(self, key: Key, ttl: Seconds) -> bool: ...
    def ttl(self, key: Key) -> float | None: ...
    def read_bucket(self, key: Key) -> list[tuple[bytes, bytes]]: ...
    def scan(self, cursor: int = 0) -> tuple[int, list[bytes]]: ...
    def flush(self) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...
    def call(self, *arguments: Argument) -> Reply: ...
    def call_many(self, commands: Sequence[Sequence[Argument]], /) -> list[Reply | Exception]: ...

@disjoint_base
class PipelineCore:
    """What `ringtable.Pipeline` inherits: it records commands for a table."""

    def __new__(cls, table: TableCore) -> Self: ...
    def __len__(self) -> int: ...
    def get(self, key: Key) -> Self: ...
    def get_with_version(self, key: Key) -> Self: ...
    def set(
        self,
        key: Key,
        value: Buffer,
        *,
        ttl: Seconds | None = None,
        nx: bool = False,
        xx: bool = False,
        if_version: int | None = None,
        evictable: bool | None = None,
    ) -> Self: ...
    def delete(self, *keys: Key) -> Self: ...
    def exists(self, key: Key) -> Self: ...
    def incr(
        self,
        key: Key,
        by: int = 1,
        *,
        ttl_if_new: Seconds | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
        evictable: bool | None = None,
    ) -> Self: ...
    def expire(self, key: Key, ttl: Seconds) -> Self: ...
    def read_bucket(self, key: Key) -> Self: ...
    def call(self, *arguments: Argument) -> Self: ...
    def _send(self) -> list[Any]: ...

@final
class View:
    """A value that stays where it is, and as it is, until the view is closed: a read-only buffer without a copy."""

    @property
    def closed(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def is_copy(self) -> bool: ...
    @property
    def version(self) -> int | None: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None, /
    ) -> None: ...

@final
class ServerCore:
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
        strict_seal: bool = False,
        tcp: str | None = None,
        mode: int = 0o600,
        group: int | None = None,
        eviction: Eviction = "noeviction",
        topology: Topology = "lanes",
        ring_slots: int | None = None,
        slot_size: int | None = None,
        laggard_timeout: float = ...,
        max_unevictable: int | None = None,
    ) -> Self: ...
    @property
    def path(self) -> str: ...
    @property
    def tcp(self) -> str | None: ...
    @property
    def workers(self) -> int: ...
    @property
    def running(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def stop(self) -> None: ...

@final
class Histogram:
    """Counts of times in nanoseconds, from 1 ns to an hour, exact to three digits."""

    def __new__(cls) -> Self: ...
    @property
    def count(self) -> int: ...
    def record(self, ns: int, /) -> None: ...
    def percentile(self, percent: float, /) -> int: ...
    def add(self, other: Histogram, /) -> None: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes, /) -> Histogram: ...

@final
class Profiler:
    """A running profile of this process: samples of all its threads, in proportion to the CPU time they use."""

    def __new__(cls, hz: int) -> Self: ...
    def stop(self) -> tuple[list[tuple[list[tuple[str, str]], int]], int]:
        """Stop, and return the stacks with their counts, and the number of samples that found no room.

        A stack is a list of functions with their source files, the outermost first; an unknown function is "", with the
        file that is mapped there.
        """

@final
class WatchCore:
    """What `ringtable.Watch` reads from: changes in batches, each of them a kind, a key, a version and a size.

    Where events were missed, the kind is "lagged", and their number stands in place of the version.
    """

    def __new__(
        cls,
        address: Address,
        prefix: Key,
        *,
        connect_timeout: float | None = None,
        timeout: float | None = None,
        trust_user: Trusted | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def timeout(self) -> float | None: ...
    def wait(self) -> list[tuple[str, bytes, int, int]]: ...
    def timed_out(self) -> Exception: ...
    def take(self) -> list[tuple[str, bytes, int, int]]: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

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
    timeout: float | None = None,
    trust_user: Trusted | None = None,
) -> dict[str, float]:
    """Return `seconds`, `user_s`, `system_s` and `operations` of the loop; `outer` 0 runs until `KeyboardInterrupt`."""

def lane_request() -> list[str]:
    """Return the words of the request that turns a socket's connection into a lane, for programs that do so by hand."""

def rings_request() -> list[str]:
    """Return the words of the request that lets a client join the rings of a classic topology."""

def socket_path(name: Address) -> str:
    """Return the path of the socket that a server of this name has, also where there is none; a path stays as it is."""

def to_bytes(value: Buffer, /) -> bytes:
    """Return something with the buffer protocol as `bytes`, as a table writes it."""

def watch_request() -> list[str]:
    """Return the words of the request that makes a socket's connection a watch, for programs that do so by hand."""
