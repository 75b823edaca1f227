"""Tables that connect anew: after their server's death, to the one that follows; and after they were sent away."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import ServerGone, Table
from support import (
    CALL_S_MAX,
    DEADLINE_S,
    WAYS,
    Child,
    Flag,
    ServerProcess,
    Successors,
    connect_in,
    freeze,
    own_ringtable_memory,
    patiently,
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
        yield servers, {"reconnect": True, **options}


def learn(table: Table) -> None:
    """Make a call that learns of the server's death."""
    with pytest.raises(ServerGone):
        table.call("PING")


def raises_server_gone(call: Callable[[], object]) -> bool:
    try:
        call()
    except ServerGone:
        return True
    return False


def test_smoke(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table:
        table["key"] = b"old"
        servers.replace()
        with pytest.raises(ServerGone):
            table["key"] = b"lost"
        assert "key" not in table
        table["key"] = b"new"
        assert table["key"] == b"new"


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
        assert table.get("key") is None
        assert table.transport == transport


def test_a_server_that_stops_in_order_is_followed_over_every_way(way: tuple[Successors, dict[str, Any]]) -> None:
    servers, options = way
    with Table(servers.address, **options) as table:
        for number in range(3):
            table["key"] = b"%d" % number
            servers.stop()
            servers.start()
            # One call is told that the server stops, and by that alone: the end of the connection is no news then.
            learn(table)
            assert table.get("key") is None


CALLS: list[tuple[str, Callable[[Table], Any], Any]] = [
    ("get", lambda table: table.get("key"), None),
    ("get_into", lambda table: table.get_into("key 0", bytearray(5)), 5),
    ("contains", lambda table: "key" in table, False),
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


@pytest.mark.parametrize(("call", "answer"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
@pytest.mark.parametrize("reads", ["direct", "server"])
def test_any_call_learns_of_the_death_and_any_call_connects_anew(
    servers: Successors, call: Callable[[Table], Any], answer: Any, reads: Any
) -> None:
    with Table(reads=reads, reconnect=True) as table:
        table["key 0"] = b"value"
        servers.replace()
        with ringtable.connect() as other:
            other["key 0"] = b"value"
        # A read in place may go on for a moment: until it looks at the socket again.
        wait_until(lambda: raises_server_gone(lambda: call(table)), "the call raises ServerGone", CALL_S_MAX)
        assert call(table) == answer


def test_reads_in_place_never_go_back_to_the_dead_servers_table(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table:
        table["key"] = b"old"
        table["old"] = b"old"
        servers.replace()
        with ringtable.connect() as other:
            other["key"] = b"new"
        # Nothing but reads in place: they notice by themselves, once.
        wait_until(lambda: raises_server_gone(lambda: table["key"]), "a read notices the death", CALL_S_MAX)
        assert [table["key"] for _ in range(1_000)] == [b"new"] * 1_000
        assert table.get_many(["old", "key"]) == [None, b"new"]
        assert list(table.items()) == [(b"key", b"new")]


@pytest.mark.parametrize("end", [Successors.stop, Successors.kill])
def test_a_server_of_another_kind_may_follow(servers: Successors, end: Callable[[Successors], None]) -> None:
    with ringtable.connect(reconnect=True) as table:
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
    with Table(transport="lane", reconnect=True) as table:
        servers.replace(topology="shared")
        learn(table)
        with pytest.raises(ringtable.CommandError, match="TOPOLOGY"):
            table.get("key")
        servers.replace()
        assert table.get("key") is None


def test_a_stopped_client_connects_anew_after_it_was_sent_away(ringtable_dir: Path) -> None:
    def be_stopped(connected: Flag) -> tuple[str, int]:
        with Table(transport="rings", reads="server", reconnect=True) as table:
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

    with ringtable.connect(reconnect=True) as table:
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


def test_threads_that_wait_for_an_answer_learn_that_the_server_is_gone(servers: Successors) -> None:
    """One of them was told so; the others, when the next call connected anew, that their table was closed."""
    ended: list[str] = []
    with ringtable.connect(reconnect=True) as table, ringtable.connect() as holder:
        assert holder.call("RING.LEASE", "key")

        def wait() -> None:
            try:
                table.get_or_set("key", lambda: b"made")
            except ringtable.Error as error:
                ended.append(type(error).__name__)

        threads = [threading.Thread(target=wait) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        wait_until(lambda: holder.stats()["lease_waiters"] == THREADS, "they wait")
        servers.replace()
        while raises_server_gone(partial(table.call, "PING")):
            pass
        for thread in threads:
            thread.join(DEADLINE_S)
    assert ended == ["ServerGone"] * THREADS


# What belongs to the old connection


def test_views_outlive_their_server(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table:
        views = []
        for generation in range(3):
            table["key"] = bytes([generation]) * 100_000
            views.append(table.view("key"))
            servers.replace()
            learn(table)
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
    with ringtable.connect(writes="posted", reconnect=True) as table:
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


def test_a_watch_ends_with_its_server(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table, table.watch(timeout=DEADLINE_S) as watch:
        table["key"] = b"old"
        assert next(watch).key == b"key"
        servers.replace()
        learn(table)
        with pytest.raises(ServerGone):
            next(watch)
        with table.watch(timeout=DEADLINE_S) as again:
            table["key"] = b"new"
            assert next(again).key == b"key"
        with pytest.raises(ServerGone):
            next(watch)


def test_a_lease_ends_with_its_server(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table:

        def make() -> bytes:
            servers.replace()
            return b"lost"

        with pytest.raises(ServerGone):
            table.get_or_set("key", make)
        assert "key" not in table
        assert table.get_or_set("key", lambda: b"made") == b"made"
        assert table.stats()["leases"] == 0


def test_a_version_of_a_dead_server_is_nobodys(servers: Successors) -> None:
    with ringtable.connect(reconnect=True) as table:
        table["key"] = b"old"
        _, version = table.get_with_version("key") or (b"", 0)
        servers.replace()
        # The same history: were versions counted from 0, the key would have the same one now.
        learn(table)
        table["key"] = b"new"
        assert not table.set("key", b"meant for the old one", if_version=version)
        assert not table.delete_if_version("key", version)
        found, later = table.get_with_version("key") or (b"", 0)
        assert found == b"new"
        assert later > version


# Closing, forking, sending away


def test_a_closed_table_stays_closed(servers: Successors) -> None:
    table = ringtable.connect(reconnect=True)
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
        learn(table)
        values.append(table.get("key"))
        table["child"] = b"was here"
        return values

    with ringtable.connect(reconnect=True) as table:
        table["key"] = b"old"
        with Flag() as ready, Flag() as replaced, Child(learn_and_go_on, table, ready, replaced) as child:
            ready.wait()
            servers.replace()
            learn(table)
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
    with ringtable.connect(reconnect=True) as table, ringtable.connect() as plain:
        assert table.reconnect
        assert not plain.reconnect
        with pickle.loads(pickle.dumps(table)) as copy, pickle.loads(pickle.dumps(plain)) as plain_copy:
            assert copy.reconnect
            assert not plain_copy.reconnect
            servers.replace()
            for one in (copy, plain_copy):
                learn(one)
            copy["key"] = b"value"
            with pytest.raises(ServerGone):
                plain_copy.get("key")


def test_connecting_anew_ends_at_the_timeout(servers: Successors) -> None:
    with connect_in(0.2, reconnect=True) as table:
        servers.replace()
        learn(table)
        freeze(servers.pid)
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            table.get("key")
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
                    table = stack.enter_context(ringtable.connect(reconnect=True))
                else:
                    learn(table)
                assert "key" not in table
                use(table)
                if number < 3:
                    before.append(held())
                else:
                    # The server lets go of what it has passed to us a moment later.
                    wait_until(lambda: held() <= before[number % 3], "as much is held as at first")  # noqa: B023
