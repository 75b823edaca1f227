"""One adapter a rival: those of `ringtable bench`, and variants of theirs.

A rival has two sides. In the parent, an instance is its running server (or its files), ended by `stop`. In
a client process, `connect` gives a `Session`: the statements that a good user of the library would write, and
the objects they name. Libraries are imported only where they are used: a missing one harms nobody else.
"""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ringtable._bench import peers, probe
from ringtable._bench.peers import lmdb_environment
from ringtable._bench.session import Session
from ringtable._bench.subject import Subject
from ringtable._bench.ways import BUCKETS, MEMORY_MAX, RingtableServer, Way

RINGTABLE_SEGMENT = "ringtable-table"
"""The name of the memfd that holds the table."""


class Rival(Subject):
    """What a subject has to say here besides."""

    scenarios: ClassVar[frozenset[str]]
    """The scenarios it takes part in; a variant takes part only where it differs."""

    shared: ClassVar[bool] = True
    """Whether clients see each other's writes."""

    def memory_bytes(self, client_pid: int) -> int:
        """Resident memory that holds what is stored, and the private memory of the server, bytes."""
        raise NotImplementedError


LOOP_SCENARIOS = frozenset({"mixed", "mixed16", "get", "get16", "set", "get_many", "set_many"})


class Ringtable(RingtableServer, Rival):
    """ringtable, acknowledged: when `set` returns, every process sees the value."""

    name = "ringtable"
    scenarios = LOOP_SCENARIOS | {"classic", "memory", "idle", "growth"}

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

    def memory_bytes(self, client_pid: int) -> int:
        [pid] = self.pids
        return probe.segment_bytes(pid, RINGTABLE_SEGMENT) + probe.private_bytes(pid)

    @staticmethod
    def version() -> str:
        return importlib.metadata.version("ringtable")


class RingtablePosted(Ringtable):
    """ringtable, posted: `set` returns once the request is queued; `flush` waits until all are executed."""

    name = "ringtable-posted"
    scenarios = frozenset({"mixed", "mixed16", "set"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = replace(self.address, writes="posted")


class Lmdb(peers.Lmdb, Rival):
    """LMDB in its quickest settings and spelling."""

    scenarios = LOOP_SCENARIOS | {"memory"}

    def memory_bytes(self, client_pid: int) -> int:
        return probe.file_bytes(Path(self.address, "data.mdb"))


class LmdbWith(Lmdb):
    """LMDB as its documentation spells it: `with` blocks."""

    name = "lmdb-with"
    scenarios = frozenset({"mixed", "mixed16", "get", "set"})

    @staticmethod
    def connect(address: str) -> Session:
        return Session(
            names={"env": lmdb_environment(address)},
            get="with env.begin() as txn: value = txn.get(key)",
            set="with env.begin(write=True) as txn: txn.put(key, value)",
            get_many="with env.begin() as txn: values = [txn.get(key) for key in keys]",
            set_many="with env.begin(write=True) as txn: txn.cursor().putmulti(items.items())",
        )


class Valkey(peers.Valkey, Rival):
    """Valkey with its own bursts, MGET and MSET."""

    scenarios = LOOP_SCENARIOS | {"memory", "idle"}

    def memory_bytes(self, client_pid: int) -> int:
        [pid] = self.pids
        return probe.private_bytes(pid)


class ValkeyPipeline(Valkey):
    """Valkey with a pipeline a burst, not a transaction."""

    name = "valkey-pipeline"
    scenarios = frozenset({"get_many", "set_many"})

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


class Manager(peers.Manager, Rival):
    """`multiprocessing.Manager().dict()`."""

    scenarios = LOOP_SCENARIOS | {"memory", "idle"}

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(self.pids[0])


class Dict(Rival):
    """A plain dict in each client: the ceiling, shared with nobody."""

    name = "dict"
    scenarios = LOOP_SCENARIOS | {"memory"}
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


EVERY_RIVAL = (Ringtable, RingtablePosted, Lmdb, LmdbWith, Valkey, ValkeyPipeline, Manager, Dict)
RIVALS: dict[str, type[Rival]] = {rival.name: rival for rival in EVERY_RIVAL}
