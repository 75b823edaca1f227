"""Tables that wait for their server (`wait`), and tables that connect with their first call (`lazy`)."""

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import ringtable
from ringtable import Closed, Server, ServerGone, Table, TableNotFound
from support import CALL_S_MAX, DEADLINE_S, Child, Flag, ServerProcess, Successors, bound, freeze, state_of, wait_until


def write_and_read(**options: object) -> bytes | None:
    with Table(**options) as table:  # type: ignore[arg-type]
        table["key"] = b"value"
        return table.get("key")


def is_connected(table: Table) -> bool:
    """Asked in this way, a type checker does not take the answer for one that stays."""
    return table.connected


def is_asleep(child: Child) -> bool:
    return state_of(child.pid) == "S"


def test_smoke(server: Server) -> None:
    with ringtable.connect(wait=DEADLINE_S, lazy=True) as table:
        assert not is_connected(table)
        table["key"] = b"value"
        assert is_connected(table)
        assert (table.wait, table.lazy) == (DEADLINE_S, True)
    with ringtable.connect(wait=timedelta(seconds=1)) as table:
        assert (table.wait, table.lazy, table.connected) == (1.0, False, True)


# Waiting


def waiting_child() -> Child:
    child = Child(lambda: write_and_read(wait=DEADLINE_S))
    wait_until(lambda: is_asleep(child), "it waits")
    return child


@pytest.mark.parametrize("has_folder", [False, True])
def test_many_find_a_server_that_starts_later(
    has_folder: bool, ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is a folder to be watched or not."""
    folder = ringtable_dir if has_folder else ringtable_dir / "later"
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    children = [waiting_child() for _ in range(5)]
    with Server(workers=1, max_memory="16MiB"):
        assert [child.result() for child in children] == [b"value"] * 5


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_at_a_port_too(protocol: str) -> None:
    with Successors(**{protocol: True}) as servers:
        servers.kill()
        with Child(lambda: write_and_read(address=servers.address, wait=DEADLINE_S, timeout=5.0)) as child:
            wait_until(lambda: is_asleep(child), "it waits")
            servers.start()
            assert child.result() == b"value"


def test_who_waits_in_vain_is_told_for_how_long() -> None:
    begun = time.monotonic()
    with pytest.raises(TableNotFound, match=r"there is no table at .*default\.sock .*; waited 0\.2 seconds for one$"):
        ringtable.connect(wait=0.2)
    assert 0.2 <= time.monotonic() - begun < DEADLINE_S


def test_nobody_waits_unless_told(ringtable_dir: Path) -> None:
    for wait in (None, 0):
        with pytest.raises(TableNotFound):
            ringtable.connect(wait=wait)


def test_only_for_what_may_come(server_process: ServerProcess) -> None:
    """A server that does not answer is there, and a socket of somebody else stays somebody else's."""
    server_process.freeze()
    with pytest.raises(ringtable.Timeout):
        ringtable.connect(timeout=0.1, wait=DEADLINE_S)
    server_process.signal(signal.SIGCONT)


def test_a_server_that_is_ending_is_followed_by_the_next_one() -> None:
    """Who is in its queue hears that it has stopped, and looks on."""
    with Successors() as servers:
        freeze(servers.pid)
        with Child(lambda: write_and_read(wait=DEADLINE_S)) as child:
            wait_until(lambda: is_asleep(child), "it is in the queue")
            servers.kill()
            servers.start()
            assert child.result() == b"value"


def test_without_waiting_that_is_an_error() -> None:
    with Successors() as servers:
        freeze(servers.pid)
        with Child(write_and_read) as child:
            wait_until(lambda: is_asleep(child), "it is in the queue")
            servers.kill()
            with pytest.raises(AssertionError, match="ServerGone"):
                child.result()


def test_a_refusal_is_told_though_the_connection_ends_behind_it(ringtable_dir: Path) -> None:
    path = ringtable_dir / "default.sock"
    with bound(path, socket.SOCK_STREAM) as listening:

        def refuse() -> None:
            connection = listening.accept()[0]
            with connection:
                connection.recv(1 << 10)
                connection.sendall(b"-ERR no lanes today\r\n")

        listening.listen()
        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(ringtable.Error, match="no lanes today"):
            Table(timeout=CALL_S_MAX)
        refusing.join(DEADLINE_S)
    path.unlink()


def test_ctrl_c_ends_the_wait() -> None:
    def wait_for_nobody(ready: Flag) -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ready.set()
        try:
            ringtable.connect(wait=DEADLINE_S)
        except KeyboardInterrupt:
            return "interrupted"
        return "connected"

    with Flag() as ready, Child(wait_for_nobody, ready) as child:
        ready.wait()
        wait_until(lambda: is_asleep(child), "it waits")
        os.kill(child.pid, signal.SIGINT)
        assert child.result(10.0) == "interrupted"


@pytest.mark.parametrize("wait", [-1, float("nan"), 1e30])
def test_what_is_no_time_is_refused(wait: float) -> None:
    with pytest.raises(ringtable.InvalidOption, match="wait is"):
        ringtable.connect(wait=wait)
    with pytest.raises(TypeError, match="wait is seconds or a timedelta, not str"):
        ringtable.connect(wait="5")  # type: ignore[call-overload]


# Being lazy


FIRST_CALLS: list[Callable[[Table], object]] = [
    lambda table: table["key"],
    lambda table: table.get("key"),
    lambda table: table.get_many(["key"]),
    lambda table: table.get_into("key", bytearray(5)),
    lambda table: table.get_with_version("key"),
    lambda table: table.get_or_set("key", lambda: b"value"),
    lambda table: table.get_or_set("key", lambda: b"value", ttl=5, stale=5),
    lambda table: table.view("key").close(),
    lambda table: "key" in table,
    lambda table: len(table),
    lambda table: list(table),
    lambda table: table.set("key", b"value"),
    lambda table: table.__setitem__("key", b"value"),
    lambda table: table.__delitem__("key"),
    lambda table: table.incr("number"),
    lambda table: table.flush(),
    lambda table: table.stats(),
    lambda table: table.call("PING"),
    lambda table: table.pipeline().set("key", b"value").execute(),
    lambda table: table.watch().close(),
    lambda table: table.transport,
]


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_any_call_connects(call: Callable[[Table], object], ringtable_dir: Path) -> None:
    with ringtable.connect(lazy=True) as table:
        assert "not connected yet" in repr(table)
        with pytest.raises(TableNotFound):
            call(table)
        assert not is_connected(table)
        with Server(workers=1, max_memory="16MiB"):
            with ringtable.connect() as other:
                other["key"] = b"value"
            call(table)
            assert is_connected(table)
            assert "over a lane" in repr(table)


def test_what_is_wrong_with_the_options_is_told_at_once() -> None:
    with pytest.raises(ringtable.InvalidOption):
        ringtable.connect("no/", lazy=True)
    with pytest.raises(ringtable.InvalidOption):
        ringtable.connect(lazy=True, timeout=-1)
    with pytest.raises(TypeError, match="lazy is True or False, not str"):
        ringtable.connect(lazy="yes")  # type: ignore[call-overload]


def test_it_means_the_server_that_it_meant(
    server: Server, ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ringtable.connect(lazy=True) as table:
        monkeypatch.setenv("RINGTABLE_DIR", str(ringtable_dir / "another"))
        assert table.address == server.path
        assert len(table) == 0


def test_a_lazy_table_waits_with_its_first_call(ringtable_dir: Path) -> None:
    with Child(lambda: write_and_read(lazy=True, wait=DEADLINE_S)) as child:
        wait_until(lambda: is_asleep(child), "it waits")
        with Server(workers=1, max_memory="16MiB"):
            assert child.result() == b"value"


def test_a_closed_one_connects_no_more(server: Server) -> None:
    table = ringtable.connect(lazy=True)
    table.close()
    table.close()
    assert table.closed
    with pytest.raises(Closed):
        table.get("key")
    assert server.stats()["clients_accepted"] == 1  # that of `stats`


def test_it_pickles_as_before(server: Server) -> None:
    table = ringtable.connect(lazy=True, wait=5.0, timeout=2.0)
    copy = pickle.loads(pickle.dumps(table))
    assert (copy.lazy, copy.wait, copy.timeout, copy.connected) == (True, 5.0, 2.0, False)
    copy["key"] = b"value"
    assert table["key"] == b"value"
    copy.close()
    table.close()
    with ringtable.connect() as eager, pickle.loads(pickle.dumps(eager)) as copied:
        assert (copied.lazy, copied.wait, copied.connected) == (False, None, True)


def test_a_child_connects_on_its_own(server_process: ServerProcess) -> None:
    with ringtable.connect(lazy=True) as table:

        def use() -> int:
            table["key"] = b"value"
            return os.getpid()

        for _ in range(2):
            with Child(use) as child:
                assert child.result() == child.pid
            assert table["key"] == b"value"


def test_threads_may_make_the_first_call_together(server: Server) -> None:
    with ringtable.connect(lazy=True) as table:
        barrier, counts = threading.Barrier(8), []

        def count() -> None:
            barrier.wait()
            counts.append(table.incr("count"))

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert sorted(counts) == list(range(1, 9))
    wait_until(lambda: server.stats()["clients"] == 1, "of their connections none is left")


def test_a_lazy_table_raises_server_gone_as_others_do(ringtable_dir: Path) -> None:
    with Successors() as servers, ringtable.connect(lazy=True) as table:
        table["key"] = b"value"
        servers.kill()
        with pytest.raises(ServerGone):
            table["key"] = b"value"
