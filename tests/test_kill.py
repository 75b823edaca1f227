"""Clients and servers that die, stop or hang: nobody else fails, and nobody waits for ever."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from load import Work, work_for_ever
from load import load as clients_at_work
from ringtable import Table
from support import (
    CALL_S_MAX,
    DEADLINE_S,
    Child,
    Flag,
    ServerProcess,
    connect_in,
    freeze,
    patiently,
    raises_server_gone,
    state_of,
    time_to_notice_death,
    wait_until,
)

from proof.kills import WAYS, Found, interrupt_clients, kill_clients, kill_servers

KILLS_WHILE_JOINING = 30
# Short, so that a client that keeps the others waiting does not do so for long.
SLOW_CONSUMER_S = 0.5
TOPOLOGIES = ["lanes", "shared", "sharded"]


@pytest.fixture
def server_process(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[ServerProcess]:
    """A server of the topology that the test is parametrised with, else one with lanes."""
    topology = getattr(request, "param", "lanes")
    arguments = ["--workers", "2", "--max-memory", "256MiB", "--topology", topology]
    with ServerProcess(*arguments, "--slow-consumer-timeout", str(SLOW_CONSUMER_S)) as server:
        yield server


@pytest.fixture
def load(server_process: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Work]:
    """Clients at work, none of which may fail or wait longer than it may."""
    with clients_at_work(SLOW_CONSUMER_S + CALL_S_MAX) as work:
        yield work


topologies = pytest.mark.parametrize("server_process", TOPOLOGIES, indirect=True)


def test_smoke(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        with Child(work_for_ever, {}) as victim:
            wait_until(lambda: len(table) > 0, "the victim is at work")
            victim.kill()
        assert table.call("PING") == b"PONG"


VICTIMS: list[dict[str, Any]] = [{}, {"reads": "server"}, {"writes": "posted"}, {"transport": "socket"}]


@topologies
@pytest.mark.parametrize(("kills", "stops"), [(24, 4), pytest.param(500, 50, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_killed_and_stopped_clients_harm_nobody(
    server_process: ServerProcess, seed: int, kills: int, stops: int
) -> None:
    """`python -m proof.kills` in short: see there for what is checked."""
    found = Found(seed)
    with Table(transport="socket", timeout=DEADLINE_S) as table:
        kill_clients(table, server_process.pid, WAYS, kills, stops, random.Random(seed), found)
    print(found)
    assert found.kills == kills
    assert found.stops == stops


@pytest.mark.parametrize("kills", [10, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_killed_servers_harm_no_client_that_reconnects(ringtable_dir: Path, seed: int, kills: int) -> None:
    found = Found(seed)
    kill_servers(kills, random.Random(seed), found)
    print(found)
    assert found.server_kills == kills
    # Each has to notice each death that it lives through, unless another one comes first.
    assert found.reconnects > kills
    assert found.servers_followed > kills


@pytest.mark.parametrize("interrupts", [30, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_interrupted_clients_go_on(ringtable_dir: Path, seed: int, interrupts: int) -> None:
    found = Found(seed)
    interrupt_clients(interrupts, random.Random(seed), found)
    print(found)
    assert found.interrupts == interrupts


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_what_a_client_has_posted_is_executed_after_its_end(server_process: ServerProcess, end: str) -> None:
    """Large values were in the lane only in part when `set` returned, and the rest was lost with the client."""
    size, rounds = 300_000, 20

    def post(number: int) -> None:
        table = ringtable.connect(writes="posted")
        table[f"small {number}"] = b"%d" % number
        table[f"large {number}"] = b"%d" % (number % 10) * size
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        table.close()

    with ringtable.connect(reads="server") as table:
        for number in range(rounds):
            with Child(post, number) as child:
                wait_until(child.has_ended, "the client has ended")
        wait_until(lambda: table.stats()["clients"] == 1, "all are gone")
        for number in range(rounds):
            assert table[f"small {number}"] == b"%d" % number
            assert table[f"large {number}"] == b"%d" % (number % 10) * size


@topologies
def test_clients_killed_while_they_join(server_process: ServerProcess, load: Work, seed: int) -> None:
    generator = random.Random(seed)
    with ringtable.connect() as table:
        before = table.stats()
        lanes = server_process.lanes()
        for number in range(KILLS_WHILE_JOINING):
            with Child(work_for_ever, VICTIMS[number % len(VICTIMS)]) as victim:
                time.sleep(generator.uniform(0, 0.005))
                victim.kill()
        # Of who had just gone before, seat and lane may have been free a moment later.
        wait_until(lambda: table.stats()["clients"] <= before["clients"], "all are gone")
        wait_until(lambda: table.stats()["ring_members"] <= before["ring_members"], "all seats are free")
        wait_until(lambda: server_process.lanes() <= lanes, "their lanes are freed")


@topologies
def test_a_stopped_client_harms_nobody(server_process: ServerProcess, load: Work) -> None:
    with Flag() as connected, Child(work_for_ever, {}, connected) as sleeper:
        connected.wait()
        freeze(sleeper.pid)
        # The others go on: this one, and those of the load, which note how long they wait.
        with ringtable.connect(timeout=SLOW_CONSUMER_S + CALL_S_MAX) as table:
            for index in range(5_000):
                table[b"key %d" % (index % 100)] = b"value"


@topologies
def test_a_client_that_takes_no_replies_harms_nobody(server_process: ServerProcess, load: Work) -> None:
    with ringtable.connect() as table:
        table["large"] = b"v" * (1 << 20)

        def ask_for_ever(asking: Flag) -> None:
            # It asks for 16 GiB of replies, and is stopped with most of them still to come.
            with Table(reads="server") as greedy:
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
    ("flush of nothing", lambda table: table.flush()),
]
calls = pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
options = pytest.mark.parametrize(
    ("server_process", "options"),
    [
        ("lanes", {"transport": "lane"}),
        ("lanes", {"transport": "lane", "reads": "server"}),
        ("lanes", {"transport": "socket"}),
        ("shared", {"transport": "rings"}),
        ("shared", {"transport": "rings", "reads": "server"}),
        ("sharded", {"transport": "rings"}),
    ],
    indirect=["server_process"],
)


@calls
@options
def test_the_servers_death_is_noticed_at_once(
    server_process: ServerProcess, call: Callable[[Table], Any], options: dict[str, Any]
) -> None:
    with Table(**options) as table:
        table["key"] = b"value"
        server_process.kill()
        wait_until(lambda: raises_server_gone(lambda: call(table)), "the call raises ServerGone", CALL_S_MAX)
        # It stays so: no later call may hang, or answer out of a table that nobody keeps.
        with pytest.raises(ringtable.ServerGone):
            call(table)


@options
def test_a_flush_of_nothing_knows_whether_the_server_lives(
    server_process: ServerProcess, options: dict[str, Any]
) -> None:
    """Other calls look only if that is a while ago, and learn it from their answer."""
    with Table(**options) as table:
        table["key"] = b"value"
        server_process.kill()
        with pytest.raises(ringtable.ServerGone):
            table.flush()


@options
def test_a_blocked_call_notices_the_servers_death(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Table(**options) as table:
        assert time_to_notice_death(server_process, table) < CALL_S_MAX


@options
def test_a_server_that_stops_in_order_tells_its_clients(server_process: ServerProcess, options: dict[str, Any]) -> None:
    with Table(**options) as table:
        assert server_process.stop() == 0
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"


def test_a_table_of_a_dead_server_can_be_opened_again(server_process: ServerProcess) -> None:
    with ringtable.connect(reconnect=False) as table:
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
    with connect_in(0.2, **options) as table:
        server_process.freeze()
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            table["key"] = b"value"
        assert 0.2 <= time.monotonic() - start < CALL_S_MAX
        server_process.signal(signal.SIGCONT)
        # What was asked before cannot be taken for the answer to what is asked now.
        for index in range(100):
            assert patiently(partial(table.set, "key", b"%d" % index))
            assert patiently(lambda: table["key"]) == b"%d" % index


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
