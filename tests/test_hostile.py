"""Hostile clients, by all of their strategies in turns, beside honest clients that check all that they get."""

import resource
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path

import pytest
import ringtable
from ringtable import Table
from ringtable._bench.probe import private_bytes
from ringtable._ringtable import socket_path
from support import DEADLINE_S, RawLane, ServerProcess, resp, wait_until
from udp import Kind, Message, RawClient

from proof import hostile
from proof.attacks import RING_STRATEGIES, STRATEGIES
from proof.attacks.memory import many_waiters
from proof.attacks.target import GET, LARGE_VALUE_SIZE, PING, PINS, VALUE_SIZE_MAX, Target, ask, record
from proof.hostile import MIB, Outcome, Plan, Running, World, own_server, run, strategies_of

# Each strategy is at it for so long; more would find more, and `python -m proof.hostile` does.
SECONDS = 0.4
# All of a world.
ALL_SECONDS = 2.0
MANY = 1 << 40
LANES = [("cache" if name == "hints" else "store", name) for name in STRATEGIES]
RINGS = [("shared" if number % 2 else "sharded", name) for number, name in enumerate(RING_STRATEGIES)]


@pytest.fixture
def running(ringtable_dir: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """The server of a world."""
    with own_server(getattr(request, "param", "store")) as running:
        yield running


def attacked(running: Running, world: World, *names: str, seed: int, seconds: float = SECONDS) -> Outcome:
    outcome = Outcome(world)
    plan = Plan(
        world,
        dict.fromkeys(names, MANY),
        seed,
        seconds=seconds,
        slices=(0.0, 0.0, seconds),
        honest=None if world in ("shared", "sharded") else 4,
        unfinished_max=64 * MIB,
    )
    run(plan, running, outcome)
    return outcome


def test_smoke(running: Running, seed: int) -> None:
    outcome = attacked(running, "store", *STRATEGIES, seed=seed)
    assert sum(outcome.attacks.values()) > 0
    assert sum(each.reads for each in outcome.honest) > 0


@pytest.mark.parametrize("running", ["store", "cache", "shared", "sharded"], indirect=True)
def test_all_strategies(running: Running, seed: int, request: pytest.FixtureRequest) -> None:
    world: World = request.node.callspec.params["running"]
    outcome = attacked(running, world, *strategies_of(world), seed=seed, seconds=ALL_SECONDS)
    assert sum(outcome.attacks.values()) > 0
    assert not any("Timeout" in error for error in outcome.errors), outcome.errors


@pytest.mark.slow
@pytest.mark.parametrize(("running", "name"), LANES + RINGS, indirect=["running"])
def test_a_strategy(running: Running, name: str, seed: int, request: pytest.FixtureRequest) -> None:
    world: World = request.node.callspec.params["running"]
    outcome = attacked(running, world, name, seed=seed)
    assert outcome.attacks[name] > 0
    assert not any("Timeout" in error for error in outcome.errors), outcome.errors


def test_every_strategy_belongs_to_a_world() -> None:
    for world in hostile.WORLDS:
        for name in strategies_of(world):
            assert hostile.ATTACKS_A_MINUTE[name] > 0


# What was found


def test_pins_of_nonsense_are_no_places(ringtable_dir: Path) -> None:
    """The server compares them with what is to be freed, and looks nothing up there."""
    with ServerProcess("--workers", "1"), Table() as table, RawLane() as lane:
        ask(lane, record(PINS))
        lane.memory[1_024:1_536] = struct.pack("<64Q", *range((1 << 64) - 64, 1 << 64))
        # Enough for it to look at all pins, several times.
        for number in range(200):
            table["key"] = b"%d" % number
        assert table["key"] == b"199"
        assert int(table.stats()["entries_retired"]) < 100


@pytest.mark.parametrize("over_a_lane", [False, True], ids=["socket", "lane"])
def test_who_is_expensive_to_wake_is_served_no_more(ringtable_dir: Path, over_a_lane: bool) -> None:
    """A reply wakes all that wait on the client's end, in the worker's time: so many of them take 50 ms or more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        stack.enter_context(ServerProcess("--workers", "1"))
        table, lane = stack.enter_context(Table()), stack.enter_context(RawLane())
        connection = stack.enter_context(closing(Target(socket_path("default")).socket()))
        descriptor = lane.listener if over_a_lane else connection.fileno()
        are_there = stack.enter_context(many_waiters(descriptor, 1 << 19, wait_ms=10_000))

        def is_ended() -> bool:
            with suppress(OSError, AssertionError):
                if over_a_lane:
                    lane.store(640, 1)
                    ask(lane, record(PING))
                else:
                    connection.sendall(resp(b"PING"))
                    connection.recv(100)
            assert are_there(), "the server serves a client that is expensive to wake"
            return bool(table.stats()["clients_ended_expensive"])

        wait_until(is_ended, "the server has enough")
        table["key"] = b"value"


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.JOIN])
def test_who_is_expensive_to_wake_is_not_answered_without_a_session(ringtable_dir: Path, kind: Kind) -> None:
    """The same over UDP, where a greeting is enough."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess("--workers", "1", "--udp", "127.0.0.1:0"))
        table = stack.enter_context(Table())
        client = stack.enter_context(RawClient(server.ready_line.rpartition(", udp: ")[2].strip()))
        client.hello()
        are_there = stack.enter_context(many_waiters(client.socket.fileno(), 1 << 19, wait_ms=10_000))
        nonces = count()

        def are_unanswered() -> bool:
            taken, asked = int(table.stats()["udp_datagrams"]), 10
            for _ in range(asked):
                client.send(Message(kind, client.boot, client.cookie, next(nonces)))
            wait_until(
                lambda: int(table.stats()["udp_datagrams"]) == taken + asked, "all that came has been dealt with"
            )
            answers = 0
            while not client.has_nothing():
                client.receive()
                answers += 1
            assert are_there(), f"the server answers a client that is expensive to wake: {answers} times of {asked}"
            return answers < asked

        wait_until(are_unanswered, "the server has enough")
        assert int(table.stats()["udp_unanswered"]) > 0
        table["key"] = b"value"


def test_the_requests_of_the_dead_hold_nobody_up(ringtable_dir: Path) -> None:
    """A client that goes may leave thousands of requests each of which takes long: others have their turns between."""
    # The largest value that is copied for a reply: 20 ms for all of them.
    request = record(GET, b"heavy")
    count = RawLane.RING_SIZE // len(request)
    with ServerProcess("--workers", "1", "--max-memory", "64MiB"), Table(transport="socket") as table:
        table["heavy"] = bytes(LARGE_VALUE_SIZE - 1)
        before = int(table.stats()["requests"])
        with RawLane() as lane:
            lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + count * len(request)] = request * count
            lane.store(RawLane.REQUEST_TAIL, count * len(request))
        table["light"] = b"value"
        assert int(table.stats()["requests"]) < before + count
        # Nor does it have to be executed for anybody to go on.
        table.clear()
        wait_until(lambda: table.stats()["lanes"] == 0, "all of it is executed")
        assert int(table.stats()["requests"]) > count


def test_small_parts_of_requests_count_too(running: Running) -> None:
    """Many that have sent less than a MiB each have taken much together."""
    with Table(running.target.path, transport="socket") as table, ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(closing(running.target.socket()))
            connection.sendall(b"*2\r\n$3\r\nDEL\r\n$%d\r\n" % VALUE_SIZE_MAX + bytes(MIB // 2))
        wait_until(lambda: int(table.stats()["memory_unfinished_requests"]) > 9 * MIB, "what has come is counted")
    with Table(running.target.path, transport="socket") as table:
        wait_until(lambda: table.stats()["memory_unfinished_requests"] == 0, "nothing is left of it")


def test_unfinished_requests_are_bounded(running: Running) -> None:
    """A client that goes beyond what all may have together is sent away, and all the others go on."""
    bound = 2 * (VALUE_SIZE_MAX + 65_535 + 4_096)
    piece = bytes(16 * MIB)
    with Table(running.target.path, transport="socket", timeout=10.0) as table, ExitStack() as stack:
        sent, ended = 0, False
        for _ in range(4):
            connection = stack.enter_context(closing(running.target.socket()))
            try:
                connection.sendall(b"*2\r\n$3\r\nDEL\r\n$%d\r\n" % VALUE_SIZE_MAX)
                for _ in range(20):
                    connection.sendall(piece)
                    sent += len(piece)
                    assert int(table.stats()["memory_unfinished_requests"]) <= bound + 2 * LARGE_VALUE_SIZE
            except ConnectionError:
                ended = True
        assert ended
        assert sent < bound + 64 * MIB
        table["key"] = b"value"
        assert private_bytes(running.pid) < 2 * bound
        assert table.stats()["clients_ended_memory"] == 1


def test_what_was_gathered_is_given_back_as_fast_as_it_comes(running: Running) -> None:
    """Requests that are well-formed and read, each of some MiB, by several connections at once."""
    keys = [b"%065535d" % number for number in range(64)]
    request = resp(b"EXISTS", *keys)
    highest: list[int] = []

    def flood() -> None:
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(running.target.path)
            connection.settimeout(DEADLINE_S)
            for _ in range(25):
                connection.sendall(request)
                assert connection.recv(16) == b":0\r\n"
                highest.append(private_bytes(running.pid))

    before = private_bytes(running.pid)
    with ThreadPoolExecutor(4) as pool:
        for flooding in [pool.submit(flood) for _ in range(4)]:
            flooding.result()
    # What each has in hand, as much once more on its way back, and what the allocator keeps.
    assert max(highest) - before < 3 * 4 * len(request)


def test_a_large_message_is_not_sent_back(running: Running) -> None:
    with Table(running.target.path, transport="socket") as table:
        assert table.call("PING", bytes(64 << 10)) == bytes(64 << 10)
        with pytest.raises(ringtable.CommandError, match="65537 bytes, at most 65536"):
            table.call("PING", bytes((64 << 10) + 1))
        assert table.call("PING", b"") == b""
