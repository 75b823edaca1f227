"""Who is measured beside ringtable: what `ringtable bench` knows (`peers`), and variants of that.

A rival has two sides. In the parent, an instance is its running server (or its files), ended by `stop`. In
a client process, `connect` gives a `Session`: the statements that a good user of the library would write, and
the objects they name. Libraries are imported only where they are used: a missing one harms nobody else.
"""

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path

from ringtable._bench import probe
from ringtable._bench.peers import Lmdb, Manager, Memcpy, Valkey, lmdb_environment, mapped_session
from ringtable._bench.processes import CONTEXT
from ringtable._bench.session import Session
from ringtable._bench.subject import Subject
from ringtable._bench.ways import BUCKETS, MEMORY_MAX, RingtableServer, Way


class Ringtable(RingtableServer):
    """ringtable, acknowledged: when `set` returns, every process sees the value."""

    name = "ringtable"

    def __init__(
        self,
        folder: Path,
        *,
        buckets: int = BUCKETS,
        workers: int | None = None,
        max_memory: str = MEMORY_MAX,
        eviction: str | None = None,
    ) -> None:
        way = Way(type(self).name, "reads in place", reads="direct")
        super().__init__(folder, way, workers, buckets, max_memory, eviction)

    @staticmethod
    def version() -> str:
        return importlib.metadata.version("ringtable")


class RingtablePosted(Ringtable):
    """ringtable, posted: `set` returns once the request is queued; `flush` waits until all are executed."""

    name = "ringtable-posted"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = replace(self.address, writes="posted")


class LmdbWith(Lmdb):
    """LMDB as its documentation spells it: `with` blocks."""

    name = "lmdb-with"

    @staticmethod
    def connect(address: str) -> Session:
        return Session(
            names={"env": lmdb_environment(address)},
            get="with env.begin() as txn: value = txn.get(key)",
            set="with env.begin(write=True) as txn: txn.put(key, value)",
            get_many="with env.begin() as txn: values = [txn.get(key) for key in keys]",
            set_many="with env.begin(write=True) as txn: txn.cursor().putmulti(items.items())",
        )


class ValkeyPipeline(Valkey):
    """Valkey with a pipeline a burst, not a transaction."""

    name = "valkey-pipeline"

    @staticmethod
    def connect(address: str) -> Session:
        import redis

        client = redis.Redis(unix_socket_path=address, single_connection_client=True)
        get_many = "pipe = pipeline(False)\nfor key in keys: pipe.get(key)\nvalues = pipe.execute()"
        set_many = "pipe = pipeline(False)\nfor item in items.items(): pipe.set(*item)\npipe.execute()"
        return Session(
            names={"get": client.get, "set": client.set, "pipeline": client.pipeline},
            get="value = get(key)",
            set="set(key, value)",
            get_many=get_many,
            set_many=set_many,
            close=client.close,
        )


class Dict(Subject):
    """A plain dict in each client: the ceiling, shared with nobody."""

    name = "dict"
    shared = False

    def __init__(self, folder: Path) -> None:
        self.address = None

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(client_pid)

    @staticmethod
    def connect(address: None) -> Session:
        table: dict[bytes, bytes] = {}
        return Session(
            names={"table": table, "get": table.get, "update": table.update},
            get="value = get(key)",
            set="table[key] = value",
            get_many="values = list(map(get, keys))",
            set_many="update(items)",
        )

    @staticmethod
    def version() -> str:
        return sys.version.split()[0]


class SharedMemory(Memcpy):
    """`multiprocessing.shared_memory`: every value has its fixed place and size, known to all; nobody writes."""

    name = "shared_memory"

    def __init__(self, folder: Path, keys: list[bytes], size: int) -> None:
        self._segment = shared_memory.SharedMemory(create=True, size=len(keys) * size)
        self.address = (self._segment.name, keys, size)

    def stop(self) -> None:
        self._segment.close()
        self._segment.unlink()

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> Session:
        name, keys, size = address
        segment = shared_memory.SharedMemory(name)
        assert segment.buf is not None
        return mapped_session(segment.buf, keys, size, segment.close)

    @staticmethod
    def version() -> str:
        return Dict.version()


class LockedSharedMemory(SharedMemory):
    """The same where somebody writes: one lock for all, here never contended; no view outlives it."""

    name = "shared_memory, locked"

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> Session:
        session = SharedMemory.connect(address)
        return replace(
            session,
            names={**session.names, "lock": CONTEXT.Lock()},
            get=f"with lock: {session.get}",
            set=f"with lock: {session.set}",
            get_into=f"with lock: {session.get_into}",
            memory="with lock, view[places[key]]: pass",
        )


LOOPS = frozenset({"mixed", "mixed16", "get", "get16", "set", "get_many", "set_many"})
TAKING_PART: Mapping[type[Subject], frozenset[str]] = {
    Ringtable: LOOPS | {"classic", "memory", "idle", "growth"},
    RingtablePosted: frozenset({"mixed", "mixed16", "set"}),
    Lmdb: LOOPS | {"memory"},
    LmdbWith: frozenset({"mixed", "mixed16", "get", "set"}),
    Valkey: LOOPS | {"memory", "idle"},
    ValkeyPipeline: frozenset({"get_many", "set_many"}),
    Manager: LOOPS | {"memory", "idle"},
    Dict: LOOPS | {"memory"},
}
"""The rivals of `compare`, and the scenarios that each takes part in; a variant only where it differs."""

RIVALS = {rival.name: rival for rival in TAKING_PART}

MOVERS: tuple[type[Subject], ...] = (Memcpy, Ringtable, Lmdb, Valkey, SharedMemory, LockedSharedMemory)
"""Those of `payload`."""
