"""The ways to ringtable that are compared: topologies of its server, and how its clients ask."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ringtable
from ringtable._bench import probe
from ringtable._bench.errors import BenchError
from ringtable._bench.processes import ServerProcess
from ringtable._bench.session import Session
from ringtable._bench.subject import ProcessSubject

if TYPE_CHECKING:
    from ringtable._types import Reads, RequestedTransport, Writes

BUCKETS = 10_000
MEMORY_MAX = "1GiB"
SEGMENT = "ringtable-table"
"""The name of the memfd that holds the table."""


@dataclass(frozen=True)
class Way:
    """A topology, and what clients do with it."""

    name: str
    about: str
    """In one line of a report."""

    topology: str = "lanes"
    reads: "Reads" = "server"
    transport: "RequestedTransport" = "auto"
    transport_expected: str = "lane"
    """What a client says it got: checked, so that a report cannot call one thing by the name of another."""

    port: Literal["tcp", "udp"] | None = None
    """What its clients connect to, if that is no unix socket."""

    too_large: str = ""
    """What a report says of values that it refuses for their size; empty if it takes all of them."""


EVERY_WAY = (
    Way(
        "shared",
        "the classic topology, built anew: one request ring and one broadcast response ring for all",
        topology="shared",
        transport_expected="rings",
    ),
    Way(
        "sharded",
        "a pair of such rings for each worker, as the analysis proposes",
        topology="sharded",
        transport_expected="rings",
    ),
    Way("lanes", "two rings for each client; reads ask the server, as in the classic"),
    Way("lanes+direct", "the same for writes; reads look into the table's memory themselves", reads="direct"),
    Way(
        "unix",
        "a unix socket, as the analysis proposes; reads ask the server",
        transport="socket",
        transport_expected="socket",
    ),
    Way("tcp", "TCP on this machine; reads ask the server", transport_expected="socket", port="tcp"),
    Way(
        "udp",
        "UDP on this machine, a datagram for each request; reads ask the server",
        transport_expected="udp",
        port="udp",
        too_large="does not fit a datagram",
    ),
)
WAYS = {way.name: way for way in EVERY_WAY}


@dataclass(frozen=True)
class Door:
    """What a client needs to know to connect as its way does."""

    url: str
    reads: "Reads"
    writes: "Writes" = "acknowledged"
    transport: "RequestedTransport" = "auto"
    transport_expected: str | None = None


class RingtableServer(ProcessSubject):
    """A ringtable server as a process of its own, for clients of one way."""

    address: Door

    def __init__(
        self,
        folder: Path,
        way: Way,
        workers: int | None = None,
        buckets: int = BUCKETS,
        max_memory: str = MEMORY_MAX,
        eviction: str | None = None,
    ) -> None:
        self.name, self.too_large = way.name, way.too_large
        url = str(folder / "bench.sock")
        command = [sys.executable, "-m", "ringtable", "server", "--name", url]
        command += ["--buckets", str(buckets), "--max-memory", max_memory]
        if eviction is not None:
            command += ["--eviction", eviction]
        if workers is not None:
            command += ["--workers", str(workers)]
        if way.topology != "lanes":
            command += ["--topology", way.topology]
        if way.port:
            command += [f"--{way.port}", "127.0.0.1:0"]
        self._ready_line = ""
        self._server = ServerProcess(self.name, command, self._is_ready)
        self.control = url
        """The path of its unix socket, whatever its clients use."""
        if way.port:
            _, _, url = self._ready_line.rpartition(f"{way.port}: ")
        self.address = Door(url.strip(), way.reads, "acknowledged", way.transport, way.transport_expected)

    def _is_ready(self, server: ServerProcess) -> bool:
        self._ready_line = server.read_line()
        return "ready" in self._ready_line

    def memory_bytes(self, client_pid: int) -> int:
        return probe.segment_bytes(self._server.pid, SEGMENT) + super().memory_bytes(client_pid)

    @staticmethod
    def connect(address: Door) -> Session:
        return ringtable_session(address)

    @staticmethod
    def version() -> str:
        return ringtable.__version__


def ringtable_session(door: Door) -> Session:
    options: dict[str, Any] = {"reads": door.reads, "writes": door.writes, "transport": door.transport}
    table = ringtable.Table(door.url, **options)
    if door.transport_expected not in (None, table.transport):
        table.close()
        raise BenchError(f"a client of {door.url} has the transport {table.transport}, not {door.transport_expected}")
    calls = {"get": table.get, "set": table.set, "get_many": table.get_many, "set_many": table.set_many}
    return Session(
        names={"table": table, **calls},
        get="value = get(key)",
        set="set(key, value)",
        get_many="values = get_many(keys)",
        set_many="set_many(items)",
        get_into="table.get_into(key, target)",
        view="with table.view(key): pass",
        memory="with table.view(key) as seen, memoryview(seen): pass",
        finish="table.flush()" if door.writes == "posted" else "pass",
        close=table.close,
    )
