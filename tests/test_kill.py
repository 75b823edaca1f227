"""Clients and servers that die, stop or hang: nobody else fails, and nobody waits for ever."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ringtable
from ringtable import Table
from support import DEADLINE_S, Child, Flag, ServerProcess, freeze, state_of, wait_until

KILLS = 200
KILLS_WHILE_JOINING = 50
LOAD_CLIENTS = 8
# The promise, for a machine whose every core is busy.
CALL_S_MAX = 1.0


def test_smoke(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        with Child(_work_for_ever, {}) as victim:
            wait_until(lambda: len(table) > 0, "the victim is at work")
            victim.kill()
        assert table.call("PING") == b"PONG"


def _work_for_ever(options: dict[str, Any], connected: Flag | None = None) -> None:
    """All kinds of calls, in an order that differs from process to process."""
    generator = random.Random(os.getpid())
    with Table(**options) as table:
        if connected is not None:
            connected.set()
        while True:
            key = b"victim %d" % generator.randrange(500)
            match generator.randrange(6):
                case 0 | 1:
                    table[key] = b"v" * generator.choice([1, 100, 5_000, 200_000])
                case 2:
                    table.get(key)
                case 3:
                    table.delete(key)
                case 4:
                    table.set_many((b"victim %d" % index, b"value") for index in range(200))
                case 5:
                    table.get_many(b"victim %d" % index for index in range(200))


def _load(number: int, finish: Flag) -> float:
    """Work on keys of its own and check every answer, and return the longest time in seconds that a call took."""
    slowest = 0.0
    count = 0
    key = b"load %d" % number
    with Table(transport="socket" if number == 0 else "lane", reads="server" if number % 2 else "direct") as table:
        while not finish.is_set():
            value = b"%d" % count * 20
            calls: list[tuple[Callable[..., object], tuple[Any, ...], object]] = [
                (table.set, (key, value), True),
                (table.get, (key,), value),
                (table.incr, (key + b" count",), count + 1),
                (table.get_many, ([key, b"missing"],), [value, None]),
                (table.delete, (key,), 1),
            ]
            for call, arguments, expected in calls:
                start = time.monotonic()
                assert call(*arguments) == expected
                slowest = max(slowest, time.monotonic() - start)
            count += 1
    return slowest


@pytest.fixture
def load(server_process: ServerProcess) -> Iterator[None]:
    """Clients at work, none of which may fail or wait longer than it may."""
    with Flag() as finish:
        clients = [Child(_load, number, finish) for number in range(LOAD_CLIENTS)]
        try:
            with ringtable.connect() as table:
                wait_until(lambda: all(f"load {n} count" in table for n in range(LOAD_CLIENTS)), "all are at work")
            yield
        finally:
            finish.set()
            slowest = [client.result() for client in clients]
        assert max(slowest) < CALL_S_MAX, slowest


VICTIMS: list[dict[str, Any]] = [
    {"transport": "lane"},
    {"transport": "lane", "reads": "server"},
    {"transport": "lane", "writes": "posted"},
    {"transport": "socket"},
]


@pytest.mark.timeout(300)
def test_killed_clients_harm_nobody(server_process: ServerProcess, load: None, seed: int) -> None:
    generator = random.Random(seed)
    with ringtable.connect() as table:
        before = table.stats()
        lanes = server_process.lanes()
        for number in range(KILLS):
            with Flag() as connected, Child(_work_for_ever, VICTIMS[number % len(VICTIMS)], connected) as victim:
                connected.wait()
                # Not to wait for anything: this is the random moment of its death.
                time.sleep(generator.uniform(0, 0.02))
                victim.kill()
        wait_until(lambda: _gone(table) - int(before["clients_gone"]) >= KILLS, "all are counted gone")
        after = table.stats()
        assert int(after["clients_gone"]) - int(before["clients_gone"]) == KILLS
        assert after["clients"] == before["clients"]
        wait_until(lambda: server_process.lanes() == lanes, "their lanes are freed")


def test_clients_killed_while_they_join(server_process: ServerProcess, load: None, seed: int) -> None:
    generator = random.Random(seed)
    with ringtable.connect() as table:
        clients = table.stats()["clients"]
        lanes = server_process.lanes()
        for number in range(KILLS_WHILE_JOINING):
            with Child(_work_for_ever, VICTIMS[number % len(VICTIMS)]) as victim:
                time.sleep(generator.uniform(0, 0.005))
                victim.kill()
        wait_until(lambda: table.stats()["clients"] == clients, "all are gone")
        wait_until(lambda: server_process.lanes() == lanes, "their lanes are freed")


def _gone(table: Table) -> int:
    return int(table.stats()["clients_gone"])


def test_a_stopped_client_harms_nobody(server_process: ServerProcess, load: None) -> None:
    with Flag() as connected, Child(_work_for_ever, {"transport": "lane"}, connected) as sleeper:
        connected.wait()
        freeze(sleeper.pid)
        # The others go on: this one, and those of the load, which note how long they wait.
        with ringtable.connect(timeout=CALL_S_MAX) as table:
            for index in range(5_000):
                table[b"key %d" % (index % 100)] = b"value"


def test_a_client_that_takes_no_replies_harms_nobody(server_process: ServerProcess, load: None) -> None:
    with ringtable.connect() as table:
        table["large"] = b"v" * (1 << 20)

        def ask_for_ever(asking: Flag) -> None:
            # It asks for 16 GiB of replies, and is stopped with most of them still to come.
            with Table(transport="lane", reads="server") as greedy:
                asking.set()
                greedy.get_many(["large"] * 16_384)

        with Flag() as asking, Child(ask_for_ever, asking) as greedy:
            asking.wait()
            freeze(greedy.pid)
            for _ in range(1_000):
                assert table.call("PING") == b"PONG"


# The server's death


CALLS: list[tuple[str, Callable[[Table], Any]]] = [
    ("get", lambda table: table.get("key")),
    ("set", lambda table: table.set("key", b"value")),
    ("set, large", lambda table: table.set("key", b"v" * (1 << 20))),
    ("posted set", lambda table: table.set("key", b"value", writes="posted")),
    ("get_many", lambda table: table.get_many(["key"] * 1_000)),
    ("set_many", lambda table: table.set_many((b"%d" % index, b"value") for index in range(1_000))),
    ("incr", lambda table: table.incr("count")),
    ("len", len),
    ("iteration", list),
    ("read_bucket", lambda table: table.read_bucket("key")),
]
calls = pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
options = pytest.mark.parametrize(
    "options", [{"transport": "lane"}, {"transport": "lane", "reads": "server"}, {"transport": "socket"}]
)


@calls
@options
def test_the_servers_death_is_noticed_at_once(
    server_process: ServerProcess, call: Callable[[Table], Any], options: dict[str, Any]
) -> None:
    with Table(**options) as table:
        table["key"] = b"value"
        server_process.kill()
        wait_until(lambda: _raises_server_gone(lambda: call(table)), "the call raises ServerGone", CALL_S_MAX)
        # It stays so: no later call may hang, or answer out of a table that nobody keeps.
        with pytest.raises(ringtable.ServerGone):
            call(table)


@options
def test_a_blocked_call_notices_the_servers_death(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Table(**options) as table:
        raised: list[float] = []

        def block() -> None:
            with pytest.raises(ringtable.ServerGone):
                table["key"] = b"value"
            raised.append(time.monotonic())

        # A stopped server answers nothing, so that the call is blocked for sure.
        server_process.freeze()
        blocked = threading.Thread(target=block)
        blocked.start()
        wait_until(lambda: _is_asleep(blocked), "the call is blocked")
        killed = time.monotonic()
        server_process.kill()
        blocked.join(DEADLINE_S)
        assert raised[0] - killed < CALL_S_MAX


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_a_server_that_stops_in_order_tells_its_clients(server_process: ServerProcess, transport: Any) -> None:
    with Table(transport=transport) as table:
        assert server_process.stop() == 0
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"


def test_a_table_of_a_dead_server_can_be_opened_again(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        server_process.kill()
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"
        with ServerProcess(), ringtable.connect() as again:
            again["key"] = b"value"
            with pytest.raises(ringtable.ServerGone):
                table["key"] = b"value"


# Calls that wait


@options
def test_a_call_ends_at_its_timeout(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Table(timeout=0.2, **options) as table:
        table["key"] = b"value"
        server_process.freeze()
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            table["key"] = b"value"
        assert 0.2 <= time.monotonic() - start < CALL_S_MAX
        server_process.signal(signal.SIGCONT)
        # What was asked before cannot be taken for the answer to what is asked now.
        for index in range(100):
            table["key"] = b"%d" % index
            assert table["key"] == b"%d" % index
            assert table.incr("count") == index + 1


def test_connecting_ends_at_its_timeout(server_process: ServerProcess) -> None:
    server_process.freeze()
    start = time.monotonic()
    with pytest.raises(ringtable.Timeout):
        ringtable.connect(timeout=0.2)
    assert time.monotonic() - start < CALL_S_MAX


@options
def test_an_interrupt_ends_a_call(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Flag() as blocking:

        def block() -> str:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with Table(**options) as table:
                server_process.freeze()
                blocking.set()
                try:
                    table["key"] = b"value"
                except KeyboardInterrupt:
                    return "interrupted"
            return "answered"

        with Child(block) as child:
            blocking.wait()
            wait_until(lambda: state_of(child.pid) == "S", "the call is blocked")
            start = time.monotonic()
            os.kill(child.pid, signal.SIGINT)
            # The table is closed on the way out, which may not wait for the server either.
            assert child.result() == "interrupted"
            assert time.monotonic() - start < CALL_S_MAX
        server_process.signal(signal.SIGCONT)


def _raises_server_gone(call: Callable[[], object]) -> bool:
    try:
        call()
    except ringtable.ServerGone:
        return True
    return False


def _is_asleep(thread: threading.Thread) -> bool:
    assert thread.native_id is not None
    return state_of(thread.native_id) == "S"
