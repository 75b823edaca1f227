"""The types in signatures. Only type checkers read this file: nothing imports it when the program runs."""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, SupportsFloat, SupportsIndex, TypedDict, TypeVar

from typing_extensions import Buffer

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

Address = str | os.PathLike[str]
"""Where a server is: its name, the path of its socket, or a URL; what is no string is a path."""

Count = SupportsIndex | SupportsFloat
"""A whole number, of any type: an `int`, one of numpy's, or a `float` without a fraction."""

Size = str | Count
"""A number of bytes, or text such as "512MiB"."""

Trusted = int | str | Iterable[int | str]
"""Users whose servers are trusted: a number, a name, or several."""

Key = str | bytes

KeyFunction = Callable[..., Key]
"""Makes the key of a call of its arguments."""


class SupportsArrayInterface(Protocol):
    """An array: before Python 3.12, numpy's do not say to type checkers that they are buffers."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Value = Buffer | SupportsArrayInterface
"""Anything with the buffer protocol."""

Seconds = float | timedelta
"""A span of time, to live or to wait: a number of seconds, or a `timedelta`."""

Items = Mapping[str, Value] | Mapping[bytes, Value] | Mapping[Key, Value] | Iterable[tuple[Key, Value]]
"""What can be written at once. A mapping's type is exact in its keys, so that each kind of key is named."""

ObjectItems = Mapping[str, _T] | Mapping[bytes, _T] | Mapping[Key, _T] | Iterable[tuple[Key, _T]]
"""The same for a table of objects."""


class SupportsKeysAndGetItem(Protocol[_T_co]):
    """What `dict.update` takes for a mapping, too."""

    def keys(self) -> Iterable[Key]: ...
    def __getitem__(self, key: Any, /) -> _T_co: ...


Reads = Literal["direct", "server"]
Keys = Literal["str", "bytes"]
Writes = Literal["acknowledged", "posted"]
Transport = Literal["lane", "rings", "socket", "udp"]
RequestedTransport = Literal["auto", "lane", "rings", "socket"]
Eviction = Literal["noeviction", "allkeys-sieve", "volatile-ttl"]
Topology = Literal["lanes", "shared", "sharded"]
Fsync = Literal["always", "everysec", "no"]
DiskError = Literal["refuse", "keep-serving"]


class ConnectOptions(TypedDict, total=False):
    """Options of a connection that neither depend on the codec nor are written twice; `connect` explains them."""

    timeout: Seconds | None
    reads: Reads
    writes: Writes
    reconnect: bool
    trust_user: Trusted
    wait: Seconds | None
    on_new_server: Callable[[int], object] | None


class LazyOptions(ConnectOptions, total=False):
    """The same, for connections that may wait for their first call."""

    lazy: bool


class ServerOptions(TypedDict, total=False):
    """Options of a server, as `Server` explains them; `linger` is apart."""

    buckets: Count | None
    workers: Count | None
    max_memory: Size | None
    cache: bool | None
    eviction: Eviction | None
    max_clients: Count | None
    spin_us: float | None
    strict_seal: bool | None
    tcp: str | None
    udp: str | None
    mode: int | None
    group: int | str | None
    topology: Topology | None
    ring_slots: Count | None
    slot_size: Size | None
    slow_consumer_timeout: Seconds | None
    max_unevictable: Size | None
    data: str | os.PathLike[str] | None
    snapshot_every: Seconds | None
    snapshots_kept: Count | None
    log: bool | None
    fsync: Fsync | None
    on_disk_error: DiskError | None


class OpenOptions(ServerOptions, ConnectOptions, total=False):
    """Options of a server that is started if there is none, and of the connection to it."""

    linger: Seconds | None
    keeper: bool


Argument = Key | int | float | Value
Reply = None | bool | int | float | bytes | list[Any] | dict[Any, Any]


class Stats(TypedDict):
    """The server's figures: counts, sizes in bytes, and times in nanoseconds where the name says so."""

    entries: int
    buckets: int
    max_memory: int
    memory_resident: int
    memory_free: int
    memory_drafts: int
    memory_allocated: int
    memory_buckets: int
    memory_wasted: int
    eviction_policy: int
    entries_expiring: int
    expired_keys: int
    evicted_keys: int
    entries_moved: int
    entries_unevictable: int
    memory_unevictable: int
    memory_unevictable_max: int
    hints: int
    memory_given_back: int
    memory_retired: int
    entries_retired: int
    hazard_records: int
    holds: int
    memory_unfinished_requests: int
    memory_waiting_requests: int
    process_id: int
    keeper_process_id: int
    restarts: int
    upgrades: int
    upgrades_failed: int
    workers: int
    cpus: int
    spin_ns: int
    clients: int
    clients_max: int
    lanes: int
    watchers: int
    events: int
    leases: int
    locks: int
    lease_waiters: int
    leases_granted: int
    leases_not_stored: int
    leases_stale_on_error: int
    clients_accepted: int
    clients_refused: int
    accept_failures: int
    name_restored: int
    name_lost: int
    snapshots: int
    snapshot_loaded_entries: int
    snapshots_failed: int
    snapshot_age_s: int
    snapshot_last_ms: int
    snapshot_last_entries: int
    snapshot_last_bytes: int
    log_bytes: int
    log_records: int
    log_batches: int
    log_syncs: int
    log_sync_us_max: int
    log_errors: int
    log_rewrites: int
    log_broken: int
    clients_quit: int
    clients_gone: int
    clients_ended_protocol: int
    clients_ended_descriptors: int
    clients_ended_position: int
    clients_ended_record: int
    clients_ended_slot: int
    clients_ended_slow_consumer: int
    clients_ended_expensive: int
    clients_ended_unsealed: int
    clients_ended_memory: int
    clients_ended_backlog: int
    clients_ended_broken: int
    clients_ended_unheard: int
    clients_ended_undurable: int
    clients_ended_stop: int
    requests: int
    wakeups: int
    doorbells_rung: int
    udp_sessions: int
    udp_sessions_refused: int
    udp_datagrams: int
    udp_datagrams_wrong: int
    udp_datagrams_old: int
    udp_tokens_unknown: int
    udp_answered_again: int
    udp_unanswered: int
    rings: int
    ring_slots: int
    ring_slots_claimed: int
    ring_slots_published: int
    ring_slots_quarantined: int
    ring_members: int
    ring_quarantines: int
    ring_slots_recovered: int
    ring_slots_repaired: int
    ring_pieces_dropped: int
    writes: int
    insert_ns_p50: int
    insert_ns_p99: int
    insert_ns_p999: int
    insert_ns_max: int
