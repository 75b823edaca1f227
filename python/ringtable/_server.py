"""A server inside this process."""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ringtable._errors import ServerFailed
from ringtable._options import engine_options
from ringtable._ringtable import Server as ServerCore
from ringtable._ringtable import default_address
from ringtable._table import Table

if TYPE_CHECKING:
    from ringtable._keeper.holdings import Kept
    from ringtable._types import Address, Count, DiskError, Eviction, Fsync, Seconds, Size, Stats, Topology


def defaults() -> dict[str, Any]:
    """The options of a server, by name, as they are where none are given; its name apart."""
    return {name: value for name, value in (Server.__init__.__kwdefaults__ or {}).items() if name[0] != "_"}


class Server:
    """A running server, from its construction until `stop` or the end of a `with` block.

    Its worker threads live in this process and never take the interpreter lock, so that Python code, also of other
    threads, does not slow them down. A server that nobody has stopped stops at the end of the interpreter.

        with ringtable.Server("words", workers=2) as server, ringtable.connect("words") as table:
            table["hello"] = b"world"
    """

    def __init__(
        self,
        name: Address | None = None,
        *,
        buckets: Count = 10_000,
        workers: Count | None = None,
        max_memory: Size = "1GiB",
        cache: bool = False,
        eviction: Eviction | None = None,
        max_clients: Count | None = None,
        spin_us: float | None = None,
        strict_seal: bool = False,
        tcp: str | None = None,
        udp: str | None = None,
        mode: int | None = None,
        group: int | str | None = None,
        topology: Topology = "lanes",
        ring_slots: Count = 2_048,
        slot_size: Size = 256,
        slow_consumer_timeout: Seconds = 2.0,
        max_unevictable: Size | None = None,
        linger: Seconds | None = None,
        data: str | os.PathLike[str] | None = None,
        snapshot_every: Seconds = 300.0,
        snapshots_kept: Count = 2,
        log: bool = False,
        fsync: Fsync = "everysec",
        on_disk_error: DiskError = "refuse",
        _kept: Kept | None = None,
    ) -> None:
        """Start the server; when this returns, clients can connect.

        Args:
            name: The name that clients give to `ringtable.connect`, or the path of the socket; `None` for what
                `$RINGTABLE_URL` says, or else the name "default".
            buckets: How many buckets of 64 bytes the table has at first; it grows as needed.
            workers: How many threads execute requests; `None` for one per CPU that this process may use.
            max_memory: The most memory that the table may take, in bytes or as text such as "512MiB". Pages are taken
                as they are needed.
            cache: The table is a cache: unless `eviction` says otherwise, entries are evicted when it is full.
            eviction: What happens to a write when the table is full. "noeviction": it raises `OutOfMemory`.
                "allkeys-sieve": entries go that were not used lately, by the SIEVE algorithm. "volatile-ttl": of the
                entries with a `ttl`, those go that expire soonest, of a sample; without such, it raises.
            max_clients: How many clients there may be at once, over all transports; `None` for the engine's limit.
            spin_us: The most microseconds that a worker looks for the next request before it sleeps; `None` for what a
                wake-up costs on this machine, which is measured at the start.
            strict_seal: Seal the table's memory so that no process, whatever its rights, can get a writable view of it.
                The price is that memory, once used, is not given back to the system before the server stops.
            tcp: A port to listen at besides, as "HOST:PORT", for clients without unix sockets: the host is a loopback
                address or "localhost", and port 0 lets the system choose. Any user of this machine may connect to it.
            udp: The same for UDP, for ringtable's own clients that have nothing else: no leases, watches and views, and
                no key and value larger than a datagram.
            mode: Who may connect, as the mode of the socket: `0o600`, this user alone (and root), which is the default;
                `0o660`, `group` too; `0o666`, all users. Who may connect may read and write everything. Other users'
                clients have to say that they trust this one: `ringtable.connect(..., trust_user=...)`. Folders that the
                server makes let the same users pass; those that are there stay as they are.
            group: The group that the socket is given to, a number or a name; with it, `mode` is `0o660` unless given.
            topology: What lies between clients and workers: "lanes", two rings for each client; "shared", the classic,
                one request queue and one response ring for all; "sharded", such a pair for each worker. The last two
                are for clients that trust each other, and for measuring.
            ring_slots: Slots of each of those rings, a power of two.
            slot_size: Bytes of such a slot, a power of two, or text such as "1KiB"; larger messages travel in pieces.
            slow_consumer_timeout: Seconds, or a `timedelta`, for which one client may keep the others from replies
                in "shared" and "sharded". Then it is sent away, and gets `Expelled`.
            max_unevictable: The most memory of entries that are never evicted, those written with `evictable=False`;
                `None` for half of `max_memory`.
            linger: Seconds, or a `timedelta`, after which the server stops by itself once its last client has left, or
                after its start, if none has come; `None` for never. Tables, watches, and connections of other programs
                are clients; over UDP somebody is one until a minute after the last request. Who connects as it ends is
                served, or finds no server.
            data: A folder in which the table is kept on the disk: its newest snapshot is loaded at the start, and there
                is one at the end. It is this server's alone, and made if there is none. `None` for nowhere.
            snapshot_every: Seconds, or a `timedelta`, from one snapshot to the next one, if something was written; 0
                for none but that at the end, and those that are asked for (`SAVE`, `BGSAVE`).
            snapshots_kept: How many snapshots are kept; older ones are removed.
            log: Log each change there, too, so that little or nothing is lost when the process or the machine dies; in
                the files of Redis 7. There is one snapshot then, which is renewed when the log has become long.
            fsync: When changes are synced. "always": before a write is answered, one sync for all that wait.
                "everysec": once a second, which is what the death of the machine may cost. "no": when the system likes;
                the death of the process costs what it had not written, some milliseconds.
            on_disk_error: What happens to writes when the log cannot be written. "refuse": they raise `FileError`.
                "keep-serving": they go on, and are not logged; `stats()` has `log_broken`.

        Raises:
            ServerExists: A server of that name runs already, or one that has the folder.
            PathTaken: What lies at the path of the socket, or of its lock, is no server's; it is left as it is.
            Untrusted: The folder of names belongs to another user, or others may write to it.
            AccessDenied: This user may make no files there, or may not give them to `group`.
            InvalidOption: An option is out of its range, or `tcp` or `udp` no loopback address.
            FileError: The folder, or a snapshot, cannot be read or written.
            DamagedFile: There are snapshots, and all of them are damaged.
            OutOfMemory: The table has no room for the snapshot.
            OutOfResources: The system gives no descriptors, threads or memory for it and its first client.
        """
        # The kernel says whose server it was at its start, also if this process becomes another user's.
        self._user = os.geteuid()
        options = {
            "buckets": buckets,
            "workers": workers,
            "max_memory": max_memory,
            "cache": cache,
            "eviction": eviction,
            "max_clients": max_clients,
            "spin_us": spin_us,
            "strict_seal": strict_seal,
            "tcp": tcp,
            "udp": udp,
            "mode": mode,
            "group": group,
            "topology": topology,
            "ring_slots": ring_slots,
            "slot_size": slot_size,
            "slow_consumer_timeout": slow_consumer_timeout,
            "max_unevictable": max_unevictable,
            "linger": linger,
            "data": data,
            "snapshot_every": snapshot_every,
            "snapshots_kept": snapshots_kept,
            "log": log,
            "fsync": fsync,
            "on_disk_error": on_disk_error,
        }
        address = default_address() if name is None else name
        self._core = ServerCore(address, **engine_options(options), kept=_kept)
        self.name: str = os.fspath(address)
        _servers.add(self)

    @property
    def path(self) -> str:
        """The path of the server's socket, which is also an address for `ringtable.connect`."""
        return self._core.path

    @property
    def tcp(self) -> str | None:
        """The port that `tcp` asked for, as an address for `ringtable.connect` such as "tcp://127.0.0.1:1234"."""
        return self._core.tcp

    @property
    def udp(self) -> str | None:
        """The port that `udp` asked for, as an address for `ringtable.connect` such as "udp://127.0.0.1:1234"."""
        return self._core.udp

    @property
    def workers(self) -> int:
        """The number of worker threads."""
        return self._core.workers

    @property
    def running(self) -> bool:
        """Whether the server still takes requests: it was neither stopped, nor has it failed, nor ended by itself."""
        return self._core.running

    def stats(self) -> Stats:
        """Return the server's counters by name, as `Table.stats` does."""
        with Table(self.path, transport="socket", trust_user=self._user) as table:
            return table.stats()

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until the server has stopped, and return whether it has.

        Args:
            timeout: Seconds, or a `timedelta`, to wait at most; `None` for no limit.

        Raises:
            ServerFailed: It has ended through a fault of its own.
        """
        return self._core.wait(timeout)

    def stop(self) -> None:
        """Stop: remove the socket, tell the clients, end the threads, free the table. A second call does nothing.

        Raises:
            ServerFailed: It had ended before, through a fault of its own; or its last snapshot has failed.
        """
        self._core.stop()

    close = stop
    """The same by the name that tables, views and watches have for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except ServerFailed:
            # What was raised in the block, most likely `ServerGone`, counts more.
            if kind is None:
                raise

    def __repr__(self) -> str:
        return f"<ringtable.Server {self.name!r} {'running' if self.running else 'stopped'} at {self.path!r}>"


# What still refers to a server at the end, a daemon thread for instance, keeps it from being dropped.
_servers: weakref.WeakSet[Server] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop the servers that are left. Those of a parent are not this process's, and go on."""
    for server in list(_servers):
        # Its clients have been told, and nobody is left to tell.
        with suppress(ServerFailed):
            server.stop()
