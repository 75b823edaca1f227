"""Tables that go on with the next server: what is repeated, what is told, and how a change of servers is seen."""

import gc
import os
import pickle
import re
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import ServerGone, Table
from ringtable._ringtable import socket_path
from support import (
    CALL_S_MAX,
    DEADLINE_S,
    WAYS,
    Child,
    Closing,
    Flag,
    ServerProcess,
    Successors,
    connect_in,
    freeze,
    own_ringtable_memory,
    patiently,
    raises_server_gone,
    state_of,
    wait_until,
)

THREADS = 8
RING_SLOTS = 2_048
SLOW_CONSUMER_S = 0.5


@pytest.fixture
def servers(ringtable_dir: Path) -> Iterator[Successors]:
    with Successors() as servers:
        yield servers


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[tuple[Successors, dict[str, Any]]]:
    """Servers, and the options for one of the kinds of connections to them."""
    topology, options = WAYS[request.param]
    with Successors(topology=topology, tcp=request.param == "tcp", udp=request.param == "udp") as servers:
        yield servers, options


class OtherVersion(Closing):
    """A server that gives nobody shared memory, as one of another version; all else is done by a real one elsewhere."""

    def __init__(self, path: str, real: str) -> None:
        Path(path).unlink(missing_ok=True)
        self._real = real
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._real)
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=ends))
                    self._threads[-1].start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while words := source.recv(1 << 16):
                if b"RING.LANE" in words:
                    source.sendall(b"-VERSION of the lanes is another one\r\n")
                else:
                    target.sendall(words)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listening, *self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listening, *self._sockets):
            end.close()


def meet(table: Table) -> None:
    """Make a call that meets the next server, or the first one of it that does so for certain."""
    assert table.call("PING") == b"PONG"


def learn(table: Table) -> None:
    """Make a call that finds no server."""
    with pytest.raises(ServerGone):
        table.call("PING")


def test_smoke(servers: Successors) -> None:
    met: list[int] = []
    with ringtable.connect(on_new_server=met.append) as table:
        first = table.server_id
        table["key"] = b"old"
        servers.replace()
        assert table.call("GET", "key") is None
        table["key"] = b"new"
        assert table["key"] == b"new"
        assert met == [table.server_id] != [first]


def test_a_server_of_another_version_is_talked_to_over_a_plain_socket(servers: Successors) -> None:
    with Table() as table, Table(transport="lane") as demanding:
        transports: list[str] = [table.transport]
        table["key"] = demanding["key"] = b"old"
        servers.kill()
        with ringtable.Server("other") as other, OtherVersion(socket_path("default"), other.path):
            meet(table)
            table["key"] = b"new"
            assert table["key"] == b"new"
            transports.append(table.transport)
            assert transports == ["lane", "socket"]
            with pytest.raises(ringtable.VersionMismatch):
                meet(demanding)
            # Who comes is told to install another one.
            with pytest.raises(ringtable.VersionMismatch):
                ringtable.connect()


def test_calls_connect_anew_over_every_way(way: tuple[Successors, dict[str, Any]]) -> None:
    servers, options = way
    with Table(servers.address, **options) as table:
        transport = table.transport
        for number in range(3):
            assert len(table) == 0
            table["key"] = b"%d" % number
            assert table["key"] == b"%d" % number
            servers.kill()
            # The first call learns of it; the others look for a server, and there is none.
            for _ in range(3):
                start = time.monotonic()
                with pytest.raises(ServerGone):
                    table["key"] = b"lost"
                assert time.monotonic() - start < CALL_S_MAX
            servers.start()
        assert table.call("GET", "key") is None
        assert table.transport == transport


def test_a_server_that_stops_in_order_is_followed_over_every_way(way: tuple[Successors, dict[str, Any]]) -> None:
    servers, options = way
    with Table(servers.address, **options) as table:
        for number in range(3):
            table["key"] = b"%d" % number
            before = table.server_id
            servers.stop()
            servers.start()
            # What was not taken before it stopped may be its last words, and no answer.
            assert table.call("GET", "key") is None
            assert table.server_id != before


CALLS: list[tuple[str, Callable[[Table], Any], Any]] = [
    ("get", lambda table: table.get("key"), None),
    ("get_into", lambda table: table.get_into("key 0", bytearray(5)), 5),
    ("contains", lambda table: "key" in table, False),
    ("ttl", lambda table: table.ttl("key 0"), None),
    ("get_with_version", lambda table: table.get_with_version("key"), None),
    ("set", lambda table: table.set("key", b"value"), True),
    ("posted set", lambda table: table.set("key", b"value", writes="posted"), True),
    ("delete", lambda table: table.delete("key"), 0),
    ("get_many", lambda table: table.get_many(["key", "key 0"]), [None, b"value"]),
    ("set_many", lambda table: table.set_many({"key": b"value"}), None),
    ("incr", lambda table: table.incr("count"), 1),
    ("len", len, 1),
    ("iteration", list, [b"key 0"]),
    ("read_bucket", lambda table: dict(table.read_bucket("key 0"))[b"key 0"], b"value"),
    ("update", lambda table: table.update("key", lambda value: b"%r" % value), b"None"),
    ("get_or_set", lambda table: table.get_or_set("key", lambda: b"made"), b"made"),
    ("view", lambda table: bytes(table.view("key 0")), b"value"),
    ("pipeline", lambda table: table.pipeline().get("key").execute(), [None]),
]


WRITES = ("set", "posted set", "delete", "set_many", "incr", "update")


@pytest.mark.parametrize(("name", "call", "answer"), CALLS, ids=[row[0] for row in CALLS])
@pytest.mark.parametrize("reads", ["direct", "server"])
def test_any_call_goes_on_with_the_next_server(
    servers: Successors, name: str, call: Callable[[Table], Any], answer: Any, reads: Any
) -> None:
    """Reads are repeated; of writes those that were not sent, and the others are told."""
    with Table(reads=reads) as table:
        table["key 0"] = b"value"
        first = table.server_id
        servers.replace()
        with ringtable.connect() as other:
            other["key 0"] = b"value"
        # A read in place may go on for a moment: until it looks at the socket again.
        while table.server_id == first:
            try:
                result = call(table)
            except ServerGone:
                assert name in (*WRITES, "iteration")
                result = call(table)
        assert result == answer


# A posted write waits for no answer: its loss is told by a later call.
WAITING = [row[:2] for row in CALLS if row[0] != "posted set"]


@pytest.mark.parametrize(("name", "call"), WAITING, ids=[row[0] for row in WAITING])
def test_a_call_that_may_have_been_done_is_told_so(
    servers: Successors, name: str, call: Callable[[Table], Any]
) -> None:
    """The server has got the request, and answers it no more; what only reads is answered by the next one."""

    def ask() -> bool:
        with Table(reads="server", wait=DEADLINE_S) as table, suppress(KeyError):
            table.call("PING")
            asking.set()
            frozen.wait()
            return raises_server_gone(lambda: call(table))
        return False

    with Flag() as asking, Flag() as frozen, Child(ask) as child:
        asking.wait()
        freeze(servers.pid)
        frozen.set()
        wait_until(lambda: state_of(child.pid) == "S", "it waits for the answer")
        servers.replace()
        with ringtable.connect() as other:
            other["key 0"] = b"value"
        raised = child.result()
    # One that is made in several steps begins with a read.
    assert raised == (name in WRITES and name != "update")


@pytest.mark.parametrize("how", [{"timeout": DEADLINE_S}, {"wait": DEADLINE_S}], ids=["timeout", "wait"])
@pytest.mark.parametrize("call", [lambda table: table.get("key"), lambda table: table.set("key", b"new")])
def test_a_call_waits_for_the_next_server(servers: Successors, how: Any, call: Callable[[Table], object]) -> None:
    def go_on() -> bool:
        with ringtable.connect(reads="server", **how) as table:
            before = table.server_id
            connected.set()
            is_gone.wait()
            # A write may come too soon after the death to know of it.
            while table.server_id == before:
                with suppress(ServerGone):
                    call(table)
            return True

    with Flag() as connected, Flag() as is_gone, Child(go_on) as child:
        connected.wait()
        servers.kill()
        is_gone.set()
        wait_until(lambda: state_of(child.pid) == "S", "it waits")
        servers.start()
        assert child.result()


def test_waiting_for_the_next_server_ends(servers: Successors) -> None:
    with ringtable.connect(wait=0.2) as table, ringtable.connect(timeout=0.3) as other:
        servers.kill()
        for waiting, limit in ((table, r"0\.2"), (other, r"0\.3")):
            start = time.monotonic()
            with pytest.raises(ServerGone, match=f"there is none at .*; waited {limit} seconds for one"):
                waiting.call("PING")
            assert 0.2 <= time.monotonic() - start < CALL_S_MAX
            # It comes to the death of a server that it did not find either.
            with pytest.raises(ServerGone):
                waiting["key"] = b"value"


@pytest.mark.parametrize("codec", ["json", "pickle", "array"])
def test_objects_are_read_again_as_bytes_are(servers: Successors, codec: Any) -> None:
    with ringtable.connect(codec=codec, timeout=DEADLINE_S) as table:
        assert table.get("key") is None
        servers.replace()
        assert table.get("key") is None
        servers.replace()
        with pytest.raises(KeyError):
            table["key"]


def test_a_wait_for_an_event_goes_on_at_the_next_server(servers: Successors) -> None:
    with ringtable.connect(wait=DEADLINE_S) as table, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(table.event("ready").wait)
        wait_until(lambda: table.stats()["lease_waiters"] == 1, "it waits")
        servers.replace()
        table.event("ready").set()
        assert waiting.result()


@pytest.mark.slow
def test_a_limit_for_waiting_is_one_for_the_server_too(server_process: ServerProcess) -> None:
    """Also where the table has none."""
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        tables = [stack.enter_context(ringtable.connect()) for _ in range(4)]
        for table in tables:
            table.call("PING")
        locks = [table.lock("x") for table in tables]
        server_process.freeze()
        calls: list[Callable[[], object]] = [
            lambda: locks[0].acquire(timeout=0.1),
            lambda: locks[1].acquire(blocking=False),
            lambda: tables[2].semaphore("s", 2).acquire(timeout=0.1),
            lambda: tables[3].event("e").wait(0.1),
        ]
        for waiting in [threads.submit(call) for call in calls]:
            with pytest.raises(ringtable.Timeout):
                waiting.result(DEADLINE_S)
        server_process.signal(signal.SIGCONT)


def test_nobody_is_told_of_a_slow_server_where_there_is_none() -> None:
    with ServerProcess("--tcp", "127.0.0.1:0") as server:
        address = re.search(r"127\.0\.0\.1:\d+", server.ready_line)
        assert address
        with connect_in(0.3, f"tcp://{address[0]}") as table:
            server.kill()
            with pytest.raises(ServerGone, match=r"there is none at .*; waited 0\.3 seconds for one"):
                table.get("key")


# What tells that the server is another one


def test_the_number_of_the_server_is_the_same_over_every_way(ringtable_dir: Path) -> None:
    with ringtable.Server(tcp="127.0.0.1:0", udp="127.0.0.1:0") as server:
        ways: list[dict[str, Any]] = [
            {},
            {"transport": "socket"},
            {"reads": "server"},
            {"address": server.tcp},
            {"address": server.udp},
        ]
        with ExitStack() as stack:
            numbers = {stack.enter_context(Table(**way)).server_id for way in ways}
        assert len(numbers) == 1
        assert 0 < numbers.pop() < 1 << 63


def test_an_iteration_ends_at_another_server(servers: Successors) -> None:
    with ringtable.connect(reads="server") as table:
        for view in (iter(table), iter(table.items()), iter(table.values())):
            table.set_many({f"key {number}": b"value" for number in range(2_000)})
            next(view)
            servers.replace()
            meet(table)
            table.set_many({f"key {number}": b"value" for number in range(2_000)})
            with pytest.raises(ServerGone, match=r"iterate anew|the walk over its table ends"):
                for _ in view:
                    pass
        cursor, _ = table.scan()
        servers.replace()
        with pytest.raises(ServerGone):
            table.scan(cursor)


def test_a_function_is_called_when_the_server_is_another_one(servers: Successors) -> None:
    met: list[tuple[int, bytes]] = []

    def reload(server_id: int) -> None:
        table["greeting"] = b"hello"
        met.append((server_id, table["greeting"]))

    with ringtable.connect(on_new_server=reload) as table:
        for number in range(3):
            servers.replace()
            assert table.call("GET", "none") is None
            assert len(met) == number + 1
        assert met[-1] == (table.server_id, b"hello")
        with pickle.loads(pickle.dumps(table)) as copy:
            assert copy.server_id == table.server_id
            servers.replace()
            meet(copy)
            assert len(met) == 3
    for wrong in (7, "print"):
        with pytest.raises(TypeError, match=f"on_new_server is a function .* not {type(wrong).__name__}"):
            ringtable.connect(on_new_server=wrong)  # type: ignore[call-overload]


def test_what_such_a_function_raises_is_printed(servers: Successors, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))

    def fail(_: int) -> None:
        raise LookupError("what is loaded at first is nowhere")

    with ringtable.connect(on_new_server=fail) as table:
        servers.replace()
        meet(table)
        meet(table)
    assert [type(error) for error in raised] == [LookupError]


def test_ctrl_c_in_the_function_ends_the_call(servers: Successors) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with ringtable.connect(on_new_server=interrupted) as table:
        servers.replace()
        with pytest.raises(KeyboardInterrupt):
            meet(table)
        assert table.get("key") is None
        servers.replace()
        with pytest.raises(KeyboardInterrupt):
            table.get_or_set("key", lambda: b"never made")
        # The lease that was granted is given back.
        assert table.get_or_set("key", lambda: b"made") == b"made"


def test_a_table_that_its_function_refers_to_is_collected(servers: Successors) -> None:
    class Cache:
        def __init__(self) -> None:
            self.table = ringtable.connect(on_new_server=self.fill)

        def fill(self, _: int) -> None: ...

    gone = weakref.ref(Cache())
    gc.collect()
    assert gone() is None


def test_reads_in_place_never_go_back_to_the_dead_servers_table(servers: Successors) -> None:
    with ringtable.connect() as table:
        table["key"] = b"old"
        table["old"] = b"old"
        servers.replace()
        with ringtable.connect() as other:
            other["key"] = b"new"
        # Nothing but reads in place: they notice by themselves.
        wait_until(lambda: table["key"] == b"new", "a read notices the death", CALL_S_MAX)
        assert [table["key"] for _ in range(1_000)] == [b"new"] * 1_000
        assert table.get_many(["old", "key"]) == [None, b"new"]
        assert list(table.items()) == [(b"key", b"new")]


@pytest.mark.parametrize("end", [Successors.stop, Successors.kill])
def test_a_server_of_another_kind_may_follow(servers: Successors, end: Callable[[Successors], None]) -> None:
    with ringtable.connect() as table:
        kinds = [("shared", "rings"), ("sharded", "rings"), ("lanes", "lane"), ("shared", "rings")]
        for topology, transport in kinds:
            table["key"] = b"old"
            end(servers)
            learn(table)
            servers.start(workers=1, max_memory="32MiB", buckets=64, topology=topology)
            assert "key" not in table
            assert table.transport == transport
            assert table.stats()["workers"] == 1


def test_a_transport_that_the_successor_has_not_is_refused(servers: Successors) -> None:
    with Table(transport="lane") as table:
        servers.replace(topology="shared")
        with pytest.raises(ringtable.CommandError, match="TOPOLOGY"):
            table.call("GET", "key")
        servers.replace()
        assert table.get("key") is None


def test_a_stopped_client_connects_anew_after_it_was_sent_away(ringtable_dir: Path) -> None:
    def be_stopped(connected: Flag) -> tuple[str, int]:
        with Table(transport="rings", reads="server") as table:
            connected.set()
            with suppress(ringtable.Expelled):
                while True:
                    table.call_many([("PING",)] * RING_SLOTS)
            table["back"] = b"again"
            return table.transport, table.incr("count")

    with (
        ServerProcess("--topology", "shared", "--slow-consumer-timeout", str(SLOW_CONSUMER_S)),
        ringtable.connect() as table,
    ):
        while not table.stats()["clients_ended_slow_consumer"]:
            with Flag() as connected, Child(be_stopped, connected) as sleeper:
                connected.wait()
                freeze(sleeper.pid)
                # It may have stood between two bursts, owed nothing: then nobody waits for it.
                for _ in range(4 * RING_SLOTS):
                    assert table.call("PING") == b"PONG"
                if table.stats()["clients_ended_slow_consumer"]:
                    os.kill(sleeper.pid, signal.SIGCONT)
                    assert sleeper.result() == ("rings", 1)
        assert table["back"] == b"again"


# Threads


def test_threads_share_one_new_connection(way: tuple[Successors, dict[str, Any]]) -> None:
    servers, options = way
    finish = threading.Event()
    rounds, gone = [0] * THREADS, [0] * THREADS
    failures: list[BaseException] = []

    def work(table: Table, number: int) -> None:
        key = b"thread %d" % number
        try:
            while not finish.is_set():
                try:
                    table[key] = b"%d" % rounds[number]
                    rounds[number] += 1
                    assert table.get(key) is not None
                except ServerGone:
                    gone[number] += 1
                except AssertionError:
                    # The server has died, and been replaced, between the write and the read.
                    gone[number] += 1
        except BaseException as error:
            failures.append(error)

    def all_have_worked(before: list[int]) -> bool:
        return all(now > then for now, then in zip(rounds, before, strict=True))

    with Table(servers.address, **options) as table:
        threads = [threading.Thread(target=work, args=(table, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                wait_until(partial(all_have_worked, rounds[:]), "all work")
                servers.replace()
            wait_until(partial(all_have_worked, rounds[:]), "all work again")
        finally:
            finish.set()
            for thread in threads:
                thread.join(DEADLINE_S)
        assert not failures
        # One for all threads, and the one that asks.
        with Table(servers.address, transport="socket") as other:
            stats = other.stats()
            assert (stats["udp_sessions"] if other.transport == "udp" else stats["clients_accepted"]) == 2


def test_a_call_that_is_open_in_another_thread_ends_and_others_go_on(servers: Successors) -> None:
    ended: list[str] = []

    def block(table: Table) -> None:
        try:
            table["key"] = b"value"
        except ServerGone:
            ended.append("gone")

    with ringtable.connect() as table:
        freeze(servers.pid)
        blocked = [threading.Thread(target=block, args=(table,)) for _ in range(3)]
        for thread in blocked:
            thread.start()
        for thread in blocked:
            wait_until(lambda: thread.native_id and state_of(thread.native_id) == "S", "it waits")  # noqa: B023
        servers.replace()
        for thread in blocked:
            thread.join(DEADLINE_S)
        # Those that had asked are told; one that had not may be served by the next server.
        assert ended
        assert all(not thread.is_alive() for thread in blocked)
        table["key"] = b"new"
        assert table["key"] == b"new"


def test_threads_that_wait_for_an_answer_go_on_with_the_next_server(servers: Successors) -> None:
    """Their table was not closed, as they were told once when another one of them connected anew."""
    ended: list[object] = []
    with ringtable.connect(wait=DEADLINE_S) as table, ringtable.connect() as holder:
        assert holder.call("RING.LEASE", "key")

        def wait() -> None:
            try:
                ended.append(table.get_or_set("key", lambda: b"made"))
            except BaseException as error:
                ended.append(error)

        threads = [threading.Thread(target=wait) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        wait_until(lambda: holder.stats()["lease_waiters"] == THREADS, "they wait")
        servers.replace()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert ended == [b"made"] * THREADS


# What belongs to the old connection


def test_views_outlive_their_server(servers: Successors) -> None:
    with ringtable.connect() as table:
        views = []
        for generation in range(3):
            table["key"] = bytes([generation]) * 100_000
            views.append(table.view("key"))
            servers.replace()
            meet(table)
            assert "key" not in table
        table["key"] = b"n" * 100_000
        views.append(table.view("key"))
        for generation, view in enumerate(views[:3]):
            assert not view.is_copy
            assert bytes(view) == bytes([generation]) * 100_000
        table["key"] = b"overwritten"
        assert bytes(views[3]) == b"n" * 100_000
        # The old tables' memory goes with the last views of them.
        for left in (3, 2, 1):
            assert sum("ringtable-table" in line for line in own_ringtable_memory()) == left + 1
            views.pop(0).close()
        assert sum("ringtable-table" in line for line in own_ringtable_memory()) == 1
        views.pop().close()


def test_the_loss_of_posted_writes_surfaces_once(servers: Successors) -> None:
    with ringtable.connect(writes="posted") as table:
        table.flush()
        freeze(servers.pid)
        for number in range(10):
            table[f"key {number}"] = b"lost"
        servers.replace()
        with pytest.raises(ServerGone):
            table.flush()
        table.flush()
        assert len(table) == 0
        table["key"] = b"value"
        table.flush()
        assert table["key"] == b"value"


def test_posted_writes_that_a_read_finds_lost_are_told_of(servers: Successors) -> None:
    """A read that goes on with the next server would be all that meets the end of theirs."""
    with ringtable.connect(writes="posted", wait=DEADLINE_S) as table:
        freeze(servers.pid)
        for number in range(10):
            table[f"key {number}"] = b"lost"
        before = table.server_id
        servers.replace()
        with pytest.raises(ServerGone, match="some of 10 posted writes"):
            wait_until(lambda: "none" in table or table.server_id != before, "a read meets the next server")
        assert table.call("GET", "none") is None
        table.flush()


def test_a_watch_ends_with_its_server(servers: Successors) -> None:
    with ringtable.connect() as table, table.watch(timeout=DEADLINE_S) as watch:
        table["key"] = b"old"
        assert next(watch).key == b"key"
        servers.replace()
        meet(table)
        with pytest.raises(ServerGone):
            next(watch)
        with table.watch(timeout=DEADLINE_S) as again:
            table["key"] = b"new"
            assert next(again).key == b"key"
        with pytest.raises(ServerGone):
            next(watch)


def test_a_value_outlives_the_server_that_it_was_made_for(servers: Successors) -> None:
    """Its caller gets it, whether the next table has it or not: the lease for it ends with its server."""
    with ringtable.connect() as table:

        def make() -> bytes:
            servers.replace()
            return b"made"

        assert table.get_or_set("key", make) == b"made"
        meet(table)
        assert table.get("key", b"made") == b"made"
        assert table.get_or_set("key", lambda: b"made") == b"made"
        assert table.stats()["leases"] == 0


def test_a_version_of_a_dead_server_is_nobodys(servers: Successors) -> None:
    with ringtable.connect() as table:
        table["key"] = b"old"
        _, version = table.get_with_version("key") or (b"", 0)
        servers.replace()
        # The same history: were versions counted from 0, the key would have the same one now.
        meet(table)
        table["key"] = b"new"
        assert not table.set("key", b"meant for the old one", if_version=version)
        assert not table.delete_if_version("key", version)
        found, later = table.get_with_version("key") or (b"", 0)
        assert found == b"new"
        assert later > version


# Closing, forking, sending away


def test_a_closed_table_stays_closed(servers: Successors) -> None:
    table = ringtable.connect()
    servers.kill()
    learn(table)
    table.close()
    servers.start()
    assert table.closed
    with pytest.raises(ringtable.Closed):
        table.get("key")
    with pytest.raises(ringtable.Closed):
        table["key"] = b"value"


def test_a_forked_child_connects_anew_too(servers: Successors) -> None:
    def learn_and_go_on(table: Table, ready: Flag, replaced: Flag) -> list[bytes | None]:
        values = [table.get("key")]
        ready.set()
        replaced.wait()
        meet(table)
        values.append(table.get("key"))
        table["child"] = b"was here"
        return values

    with ringtable.connect() as table:
        table["key"] = b"old"
        with Flag() as ready, Flag() as replaced, Child(learn_and_go_on, table, ready, replaced) as child:
            ready.wait()
            servers.replace()
            meet(table)
            table["key"] = b"new"
            replaced.set()
            assert child.result() == [b"old", b"new"]
        assert table["child"] == b"was here"
        # Forked when its server is gone already, and the table knows it.
        servers.kill()
        learn(table)

        def none_then_new(ready: Flag, started: Flag) -> bytes:
            learn(table)
            ready.set()
            started.wait()
            return table["key"]

        with Flag() as ready, Flag() as started, Child(none_then_new, ready, started) as child:
            ready.wait()
            servers.start()
            table["key"] = b"newest"
            started.set()
            assert child.result() == b"newest"


def test_the_option_travels_with_the_table(servers: Successors) -> None:
    with ringtable.connect() as table, ringtable.connect(reconnect=False) as plain:
        assert table.reconnect
        assert not plain.reconnect
        with pickle.loads(pickle.dumps(table)) as copy, pickle.loads(pickle.dumps(plain)) as plain_copy:
            assert copy.reconnect
            assert not plain_copy.reconnect
            servers.replace()
            meet(copy)
            copy["key"] = b"value"
            for _ in range(2):
                learn(plain_copy)


def test_connecting_anew_ends_at_the_timeout(servers: Successors) -> None:
    with connect_in(0.2) as table:
        servers.replace()
        freeze(servers.pid)
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            table.call("GET", "key")
        assert time.monotonic() - start < CALL_S_MAX
        os.kill(servers.pid, signal.SIGCONT)
        assert patiently(lambda: table.get("key", b"absent")) == b"absent"


def test_a_long_row_of_servers_leaves_nothing_behind(ringtable_dir: Path) -> None:
    kinds: list[Any] = ["lanes", "shared", "sharded"]

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(own_ringtable_memory())

    def use(table: Table) -> None:
        table["key"] = b"value"
        with table.view("key") as view:
            assert bytes(view) == b"value"

    with ExitStack() as stack:
        table: Table | None = None
        before: list[tuple[int, int]] = []
        for number in range(101):
            with ringtable.Server(workers=1, max_memory="16MiB", topology=kinds[number % 3]):
                if table is None:
                    table = stack.enter_context(ringtable.connect())
                else:
                    meet(table)
                assert "key" not in table
                use(table)
                if number < 3:
                    before.append(held())
                else:
                    # The server lets go of what it has passed to us a moment later.
                    wait_until(lambda: held() <= before[number % 3], "as much is held as at first")  # noqa: B023
