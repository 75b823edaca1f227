"""The classic topologies: what is refused, and what clients cannot do to each other through the rings they share."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table
from ringtable._ringtable import lane_request, rings_request
from support import (
    CALL_S_MAX,
    DEADLINE_S,
    Child,
    Flag,
    RawConnection,
    RawRings,
    ServerProcess,
    SlotState,
    connect_in,
    figures_of,
    freeze,
    patiently,
    run_cli,
    state_of,
    wait_until,
)

SLOW_CONSUMER_S = 0.5
TOPOLOGIES = ["shared", "sharded"]
# Small, so that it is filled soon.
RING_SLOTS = 64
# Records of requests, as `command/record/` tells: size, number of the command, number of arguments; then these.
PING = [8 | 15 << 32]
SET = [32 | 1 << 32 | 2 << 48, 3 | 5 << 32, int.from_bytes(b"key", "little"), int.from_bytes(b"value", "little")]


@pytest.fixture(params=TOPOLOGIES)
def topology(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(ringtable_dir: Path, topology: Any) -> Iterator[Server]:
    """A server inside this process, with one worker, so that all clients share the same rings."""
    with Server(
        workers=1,
        max_memory="256MiB",
        topology=topology,
        ring_slots=RING_SLOTS,
        slow_consumer_timeout=SLOW_CONSUMER_S,
        tcp="127.0.0.1:0",
    ) as server:
        yield server


@pytest.fixture
def server_process(ringtable_dir: Path, topology: Any) -> Iterator[ServerProcess]:
    """The same as a process of its own."""
    arguments = ["--workers", "1", "--max-memory", "256MiB", "--topology", topology, "--ring-slots", str(RING_SLOTS)]
    with ServerProcess(*arguments, "--slow-consumer-timeout", str(SLOW_CONSUMER_S)) as server:
        yield server


@pytest.fixture
def table(server: Server) -> Iterator[Table]:
    """A well-behaved client, which must not notice that others are not."""
    with Table(transport="rings", reads="server", timeout=SLOW_CONSUMER_S + CALL_S_MAX) as table:
        table["witness"] = b"unharmed"
        yield table
        assert table["witness"] == b"unharmed"
        # Each slot is back: both rings take as much as ever.
        assert table.call_many([("PING",)] * 4 * RING_SLOTS) == [b"PONG"] * 4 * RING_SLOTS
        wait_until(lambda: figure(table, "ring_members") == 1, "no other seat is taken")
        wait_until(lambda: slots_in_use(table) == 0, "all slots are free")


def figure(table: Table, name: str) -> int:
    return figures_of(table)[name]


def slots_in_use(table: Table) -> int:
    return sum(figure(table, f"ring_slots_{use}") for use in ("claimed", "published", "quarantined"))


def ends(table: Table) -> dict[str, int]:
    """How many clients the server has thrown out, by reason."""
    return {name: count for name, count in figures_of(table).items() if name.startswith("clients_ended_") and count}


def test_smoke(server: Server, topology: Any) -> None:
    with ringtable.connect() as table:
        assert table.transport == "rings"
        table["hello"] = b"world"
        assert table["hello"] == b"world"
        stats = table.stats()
        assert (stats["rings"], stats["ring_slots"], stats["ring_members"]) == (1, RING_SLOTS, 1)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topology": "ring"}, ["ring", "lanes, shared, sharded"]),
        ({"ring_slots": 100}, ["100 slots", "power of two", "128"]),
        ({"ring_slots": 8}, ["8", "16 to 65536", "slots"]),
        ({"ring_slots": 1 << 17}, ["131072", "16 to 65536", "slots"]),
        ({"ring_slots": 0}, ["0", "slots"]),
        ({"ring_slots": -1}, ["-1", "slots"]),
        ({"slot_size": 100}, ["100 bytes", "power of two", "128"]),
        ({"slot_size": 32}, ["32", "64 to 65536", "bytes"]),
        ({"slot_size": 1 << 17}, ["131072", "64 to 65536", "bytes"]),
        ({"ring_slots": 1 << 16, "slot_size": 1 << 16}, [str(1 << 32), str(256 << 20), "bytes"]),
        ({"slow_consumer_timeout": 0.0}, ["0", "0.01 to 3600 seconds"]),
        ({"slow_consumer_timeout": -1.5}, ["-1.5", "0.01 to 3600 seconds"]),
        ({"slow_consumer_timeout": float("nan")}, ["nan", "0.01 to 3600 seconds"]),
        ({"slow_consumer_timeout": float("inf")}, ["inf", "0.01 to 3600 seconds"]),
        ({"slow_consumer_timeout": 1e9}, ["1000000000", "0.01 to 3600 seconds"]),
        ({"topology": "shared", "max_clients": 1_025}, ["1025", "1 to 1024", "clients"]),
        ({"topology": "sharded", "max_clients": 1_025}, ["1025", "1 to 1024", "clients"]),
    ],
    ids=repr,
)
def test_options_out_of_range(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ringtable.InvalidOption) as raised:
        Server(**options)
    for word in words:
        assert word in str(raised.value), word


def test_options_on_the_command_line() -> None:
    done = run_cli("server", "--topology", "shared", "--ring-slots", "1000")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--ring-slots is 1000 slots" in done.stderr


def test_so_many_clients_have_lanes() -> None:
    with Server(max_clients=1_025), ringtable.connect() as table:
        assert table.stats()["clients_max"] == 1_025


def test_the_smallest_and_the_largest_slot(topology: Any) -> None:
    for slots, size in [(16, 64), (4_096, 65_536), (65_536, 4_096)]:
        with Server(topology=topology, workers=2, ring_slots=slots, slot_size=size), ringtable.connect() as table:
            for length in (0, 1, 47, 48, 49, 65_519, 65_520, 65_521, 1 << 20):
                table["key"] = b"v" * length
                assert table.call("GET", "key") == b"v" * length


# Joining


def test_more_clients_than_seats(topology: Any) -> None:
    with Server(topology=topology, workers=1, max_clients=2), ringtable.connect() as table, RawRings() as other:
        with pytest.raises(ringtable.TooManyClients, match="2 of 2"):
            ringtable.connect()
        # One that was sent away keeps its seat for as long as it may still write to the rings.
        other.socket.sendall(b"?")
        assert b"PROTOCOL" in other.last_words()
        assert figure(table, "ring_members") == 2
        with pytest.raises(ringtable.TooManyClients, match="2 of 2"):
            ringtable.connect()
        other.close()
        wait_until(lambda: figure(table, "ring_members") == 1, "its seat is free")
        with ringtable.connect() as again:
            assert again.transport == "rings"


def test_the_other_topologys_transport_is_refused(server: Server) -> None:
    with pytest.raises(ringtable.CommandError, match="share rings"):
        Table(transport="lane")
    with Server("lanes"):
        with pytest.raises(ringtable.CommandError, match="lane"):
            Table("lanes", transport="rings")
        for name, transport in [("lanes", "lane"), ("default", "rings")]:
            with Table(name) as table:
                assert table.transport == transport


def test_rings_need_a_unix_socket(server: Server) -> None:
    assert server.tcp is not None
    with pytest.raises(ringtable.InvalidOption, match="unix socket"):
        Table(server.tcp, transport="rings")
    host, _, port = server.tcp.removeprefix("tcp://").rpartition(":")
    with RawConnection((host, int(port))) as connection:
        reply = connection.command(*(word.encode() for word in rings_request()))
        assert "unix socket" in str(reply)
        assert connection.command(b"PING") == b"PONG"
    with Table(server.tcp) as table:
        assert table.transport == "socket"


def test_joining_by_hand(server: Server) -> None:
    name, version, records = (word.encode() for word in rings_request())
    with RawConnection(server.path) as connection:
        for words in [(b"999", records), (version, b"0"), (b"", b"")]:
            assert str(connection.command(name, *words)).startswith("VERSION ")
        assert str(connection.command(*(word.encode() for word in lane_request()))).startswith("TOPOLOGY ")
        assert connection.command(b"PING") == b"PONG"
    with ringtable.connect() as table, pytest.raises(ringtable.CommandError, match="already"):
        table.call(name, version, records)


# Nonsense in the rings


def spoil_size_beyond(rings: RawRings) -> None:
    rings.send(PING, size=8 * (rings.slot_words - 2) + 1)


def spoil_size_0(rings: RawRings) -> None:
    rings.send(PING, size=0)


def spoil_sequence_ahead(rings: RawRings) -> None:
    rings.send(PING, sequence=rings.sequence + (1 << 20))


def spoil_sequence_repeated(rings: RawRings) -> None:
    rings.send(PING)
    rings.send(PING, sequence=0)


def spoil_piece_missing(rings: RawRings) -> None:
    rings.send(PING, sequence=rings.sequence + 1)


def spoil_record_size(rings: RawRings) -> None:
    rings.send([12])


def spoil_record_command(rings: RawRings) -> None:
    rings.send([8 | 0xFFFF << 32])


def spoil_socket(rings: RawRings) -> None:
    # More than one look of the server's takes.
    rings.socket.sendall(b"PING\r\n" * 100)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_size_beyond, "slot"),
        (spoil_size_0, "slot"),
        (spoil_sequence_ahead, "slot"),
        (spoil_sequence_repeated, "slot"),
        (spoil_piece_missing, "slot"),
        (spoil_record_size, "record"),
        (spoil_record_command, "record"),
        (spoil_socket, "protocol"),
    ],
)
def test_nonsense_ends_the_connection_of_its_sender(table: Table, spoil: Any, reason: str) -> None:
    with RawRings() as rings:
        spoil(rings)
        words = rings.last_words()
        assert b"PROTOCOL " in words
        assert reason.encode() in words or reason == "protocol"
        assert ends(table) == {f"clients_ended_{reason}": 1}
        table["after"] = b"wards"
        # What it sends now is dropped.
        dropped = figure(table, "ring_pieces_dropped")
        rings.send(SET)
        wait_until(lambda: figure(table, "ring_pieces_dropped") == dropped + 1, "the piece is dropped")
        assert "key" not in table


def test_a_generation_of_the_past_is_dropped(table: Table) -> None:
    with RawRings() as rings:
        dropped = figure(table, "ring_pieces_dropped")
        rings.send(SET, generation=(rings.generation - 1) & 0xFFFF)
        wait_until(lambda: figure(table, "ring_pieces_dropped") == dropped + 1, "the piece is dropped")
        # That was somebody else, as far as the server can tell.
        rings.send(SET, sequence=0)
        wait_until(lambda: table.get("key") == b"value", "the right generation is served")
    assert ends(table) == {}


@pytest.mark.parametrize("owner", [500, 0xFFFF])
def test_a_piece_of_nobody_is_dropped(table: Table, owner: int) -> None:
    with RawRings() as rings:
        position = rings.claim()
        rings.fill(position, SET)
        rings.words[rings.slot(position)] = rings.stamp(position, SlotState.PUBLISHED, owner)
        rings.ring()
        wait_until(lambda: figure(table, "ring_pieces_dropped") == 1, "the piece is dropped")
        rings.send(PING)
    assert ends(table) == {}
    assert "key" not in table


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("laps", [-1, 1, 2, 1 << 20, (1 << 45) - 1])
def test_stamps_of_nonsense(table: Table, state: SlotState, laps: int) -> None:
    for index in range(1_000):
        table[b"key %d" % (index % 50)] = b"value"
    with RawRings() as rings:
        position = rings.words[rings.QUEUE_TAIL]
        for ahead in (0, 1, 5):
            place = rings.slot(position + ahead)
            rings.words[place] = rings.stamp(position + ahead, state, laps=laps) & ((1 << 64) - 1)
            rings.ring()
            assert table["witness"] == b"unharmed"
    # A claim or a quarantine in the name of a client is believed until that client is gone.
    wait_until(lambda: figure(table, "ring_members") == 1, "it is gone")
    for _ in range(4 * RING_SLOTS):
        assert table["witness"] == b"unharmed"


@pytest.mark.parametrize("tail", [0, 1, RING_SLOTS, 1 << 40, (1 << 63), (1 << 64) - 1])
def test_a_scribbled_tail(table: Table, tail: int) -> None:
    for index in range(1_000):
        table[b"key %d" % (index % 50)] = b"value"
    with RawRings() as rings:
        for offset in (0, 1, 2):
            rings.words[rings.QUEUE_TAIL] = (tail + offset) & ((1 << 64) - 1)
            rings.ring()
            assert table["witness"] == b"unharmed"
        for ahead in (1, RING_SLOTS // 2, RING_SLOTS, RING_SLOTS + 1):
            rings.words[rings.QUEUE_TAIL] += ahead
            rings.ring()
            assert table["witness"] == b"unharmed"
        assert figure(table, "ring_slots_repaired") > 0
    assert ends(table) == {}


# Stopped between claim and publish


def test_a_claim_that_is_not_published_holds_nobody_up(table: Table) -> None:
    with RawRings() as rings:
        position = rings.claim()
        start = time.monotonic()
        for index in range(4 * RING_SLOTS):
            table["count"] = b"%d" % index
            assert table["count"] == b"%d" % index
        assert time.monotonic() - start < CALL_S_MAX
        assert rings.is_quarantined(position)
        assert (figure(table, "ring_quarantines"), figure(table, "ring_slots_quarantined")) == (1, 1)
        # It wakes up, and learns that its request was not sent: it gives the slot back, and sends it again.
        rings.fill(position, SET)
        assert not rings.publish(position)
        assert figure(table, "ring_slots_quarantined") == 0
        rings.send(SET)
        wait_until(lambda: table.get("key") == b"value", "the request is executed")
    assert figure(table, "ring_slots_recovered") == 0
    assert ends(table) == {}


def test_a_worker_that_has_waited_for_a_claim_rests_again(table: Table) -> None:
    with RawRings() as rings:
        for _ in range(20):
            position = rings.claim()
            rings.ring()
            rings.fill(position, PING)
            # It may have been stepped over already.
            rings.publish(position)
        before = figure(table, "wakeups")
        # Not to wait for anything: this is the window in which nothing happens.
        time.sleep(0.3)
        assert figure(table, "wakeups") - before < 100


@pytest.mark.parametrize("quarantined", [False, True])
def test_a_claim_of_the_dead_comes_back(table: Table, quarantined: bool) -> None:
    with RawRings() as rings:
        position = rings.claim()
        if quarantined:
            assert table["witness"] == b"unharmed"
            assert rings.is_quarantined(position)
    wait_until(lambda: figure(table, "ring_slots_recovered") == 1, "the slot comes back")
    assert figure(table, "ring_quarantines") == int(quarantined)


def test_all_slots_claimed_by_one(table: Table) -> None:
    """Nobody gets through while it lives, and everybody once it is gone."""
    with RawRings() as rings:
        for _ in range(RING_SLOTS):
            rings.claim()
        with connect_in(0.2, transport="rings") as waiting, pytest.raises(ringtable.Timeout):
            waiting["key"] = b"value"
    assert table["witness"] == b"unharmed"
    assert figure(table, "ring_slots_recovered") == RING_SLOTS


@pytest.mark.parametrize("end", ["death", "interrupt"])
def test_waiting_for_room_ends(server_process: ServerProcess, end: str) -> None:
    def wait_for_room(waiting: Flag) -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Table(transport="rings") as table:
            try:
                waiting.set()
                table["key"] = b"value"
            except ringtable.ServerGone:
                return "death"
            except KeyboardInterrupt:
                return "interrupt"
        return "answered"

    with RawRings() as rings, Flag() as waiting:
        for _ in range(RING_SLOTS):
            rings.claim()
        with Child(wait_for_room, waiting) as child:
            waiting.wait()
            wait_until(lambda: state_of(child.pid) == "S", "the call is blocked")
            start = time.monotonic()
            if end == "death":
                server_process.kill()
            else:
                os.kill(child.pid, signal.SIGINT)
            assert child.result() == end
            assert time.monotonic() - start < CALL_S_MAX


# Members that do not read


def test_a_listener_that_does_not_move_is_sent_away(table: Table) -> None:
    with RawRings() as rings:
        rings.listen()
        longest = 0.0
        for _ in range(4 * RING_SLOTS):
            start = time.monotonic()
            assert table["witness"] == b"unharmed"
            longest = max(longest, time.monotonic() - start)
        print(f"longest wait: {longest:.3f} s")
        assert SLOW_CONSUMER_S / 2 < longest < SLOW_CONSUMER_S + CALL_S_MAX
        assert b"SLOWCONSUMER" in rings.last_words()
        assert ends(table) == {"clients_ended_slow_consumer": 1}
        # Its side of the socket is open: it may be anywhere in the rings.
        assert figure(table, "ring_members") == 2
        rings.listen()
        for _ in range(4 * RING_SLOTS):
            assert table["witness"] == b"unharmed"
        assert ends(table) == {"clients_ended_slow_consumer": 1}
    wait_until(lambda: figure(table, "ring_members") == 1, "its seat is free")


def test_listeners_that_do_not_move_are_sent_away_together(table: Table) -> None:
    """However far apart they stand in the ring, the others wait for them once, and not for one after the other."""
    with RawRings() as first, RawRings() as second:
        first.listen()
        for _ in range(RING_SLOTS * 3 // 4):
            assert table.call("PING") == b"PONG"
        second.listen()
        waits = 0
        for _ in range(4 * RING_SLOTS):
            start = time.monotonic()
            assert table.call("PING") == b"PONG"
            waits += time.monotonic() - start > SLOW_CONSUMER_S / 2
        assert waits == 1
        for rings in (first, second):
            assert b"SLOWCONSUMER" in rings.last_words()
    assert ends(table) == {"clients_ended_slow_consumer": 2}


def test_a_listener_that_moves_to_and_fro_is_sent_away_too(table: Table) -> None:
    def move(moving: Flag) -> None:
        moving.set()
        while True:
            rings.words[place] = start + 1
            rings.words[place] = start

    with RawRings() as rings:
        rings.listen()
        place = rings.CURSORS + 32 * rings.number
        start = rings.words[place]
        # A process of its own, so that it moves while this one calls.
        with Flag() as moving, Child(move, moving):
            moving.wait()
            for _ in range(4 * RING_SLOTS):
                assert table.call("PING") == b"PONG"
            assert b"SLOWCONSUMER" in rings.last_words()
    assert ends(table) == {"clients_ended_slow_consumer": 1}


def test_a_tail_of_the_responses_that_is_far_ahead_is_taken_back(table: Table) -> None:
    with RawRings() as rings:
        rings.words[rings.RESPONSE_TAIL] += 1 << 40
        # A reader that begins to listen there waits for what does not come; but nobody does after it.
        with Table(transport="rings", timeout=SLOW_CONSUMER_S) as unlucky, pytest.raises(ringtable.Timeout):
            unlucky.call("PING")
        for _ in range(4 * RING_SLOTS):
            assert table.call("PING") == b"PONG"


def test_a_client_that_is_continued_learns_that_it_was_sent_away(
    server_process: ServerProcess, ringtable_dir: Path
) -> None:
    def be_stopped(connected: Flag) -> str:
        with Table(transport="rings", reads="server", reconnect=False) as table:
            connected.set()
            try:
                while True:
                    table.call_many([("PING",)] * RING_SLOTS)
            except ringtable.Expelled as error:
                # It stays so.
                with pytest.raises(ringtable.ServerGone):
                    table["key"] = b"value"
                return str(error)

    with ringtable.connect(timeout=SLOW_CONSUMER_S + CALL_S_MAX) as table:
        expelled = False
        while not expelled:
            with Flag() as connected, Child(be_stopped, connected) as child:
                connected.wait()
                freeze(child.pid)
                for _ in range(4 * RING_SLOTS):
                    assert table.call("PING") == b"PONG"
                # It may have stood between two bursts, owed nothing: then nobody waited for it.
                if expelled := ends(table) == {"clients_ended_slow_consumer": 1}:
                    assert figure(table, "ring_members") == 2
                    os.kill(child.pid, signal.SIGCONT)
                    assert "--slow-consumer-timeout" in child.result()
        wait_until(lambda: figure(table, "ring_members") == 1, "its seat is free")


def test_who_waits_for_nothing_is_never_sent_away(table: Table) -> None:
    with Table(transport="rings", writes="posted") as idle:
        idle["idle"] = b"value"
        start = time.monotonic()
        while time.monotonic() - start < 2 * SLOW_CONSUMER_S:
            assert table.call_many([("PING",)] * 10) == [b"PONG"] * 10
        assert idle.call("GET", "idle") == b"value"
    assert ends(table) == {}


def test_a_call_that_was_given_up_leaves_the_connection_in_order(server_process: ServerProcess) -> None:
    with connect_in(0.1, transport="rings", reads="server") as table:
        server_process.freeze()
        with pytest.raises(ringtable.Timeout):
            table["key"] = b"1"
        server_process.signal(signal.SIGCONT)
        for index in range(4 * RING_SLOTS):
            assert patiently(partial(table.set, "key", b"%d" % index))
            assert patiently(lambda: table["key"]) == b"%d" % index


# Processes and threads


def test_a_forked_child_has_a_seat_of_its_own(server_process: ServerProcess) -> None:
    with ringtable.connect(reads="server") as table, Flag() as used, Flag() as finish:

        def use() -> None:
            table["child"] = b"value"
            assert table["parent"] == b"value"
            used.set()
            finish.wait()

        table["parent"] = b"value"
        with Child(use) as child:
            used.wait()
            assert table["child"] == b"value"
            assert figure(table, "ring_members") == 2
            finish.set()
            child.result()
        wait_until(lambda: figure(table, "ring_members") == 1, "the child's seat is free")
        assert table["parent"] == b"value"


def test_a_child_does_not_keep_its_dead_parents_seat(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, Flag() as forked, Flag() as finish:

        def be_a_parent() -> None:
            with ringtable.connect() as inherited:
                inherited["key"] = b"value"
                if os.fork() == 0:
                    forked.set()
                    finish.wait()
                    os._exit(0)
                signal.pause()

        with Child(be_a_parent) as parent:
            forked.wait()
            assert figure(table, "ring_members") == 2
            parent.kill()
            try:
                wait_until(lambda: figure(table, "ring_members") == 1, "the dead parent's seat is free")
            finally:
                finish.set()


def test_closing_during_another_threads_call(table: Table) -> None:
    """The server may not take the seat back while a thread still writes to the rings."""
    for _ in range(30):
        closing = Table(transport="rings", reads="server")
        raised: list[BaseException] = []
        workers = [threading.Thread(target=write_until_it_fails, args=(closing, raised)) for _ in range(2)]
        for worker in workers:
            worker.start()
        wait_until(lambda: "key 0" in table, "they are at work")
        closing.close()
        for worker in workers:
            worker.join(DEADLINE_S)
        assert [type(error) for error in raised] == [ringtable.Closed] * 2
        del table["key 0"]
        assert table["witness"] == b"unharmed"
    assert ends(table) == {}


def write_until_it_fails(table: Table, raised: list[BaseException]) -> None:
    try:
        while True:
            table.set_many((b"key %d" % index, b"v" * 500) for index in range(50))
    except ringtable.Error as error:
        raised.append(error)


def test_a_blocked_client_is_closed_at_once(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        server_process.freeze()
        raised: list[BaseException] = []

        def block() -> None:
            try:
                table["key"] = b"value"
            except ringtable.Error as error:
                raised.append(error)

        blocked = threading.Thread(target=block)
        blocked.start()
        wait_until(lambda: blocked.native_id is not None and state_of(blocked.native_id) == "S", "it is blocked")
        start = time.monotonic()
        table.close()
        blocked.join(DEADLINE_S)
        assert time.monotonic() - start < CALL_S_MAX
        assert [type(error) for error in raised] == [ringtable.Closed]
        server_process.signal(signal.SIGCONT)


@pytest.mark.parametrize("slot_size", [64, 65_536])
def test_what_was_posted_before_the_end_is_done(topology: Any, slot_size: int) -> None:
    options = ("--topology", topology, "--workers", "2", "--slot-size", str(slot_size))
    with ServerProcess(*options) as server, ringtable.connect() as table:
        for count in (1, 1_000):
            with RawRings() as rings:
                # It would step over a slot that a client in Python, which may be kept waiting, takes long to fill.
                server.freeze()
                # All of them in as few pieces as possible, and nobody who waits for the replies.
                record = [24 | 5 << 32 | 1 << 48, 5, int.from_bytes(b"count", "little")]
                words = record * count
                most = min(rings.slot_words - 2, rings.slots * 2)
                for start in range(0, len(words), most):
                    rings.send(words[start : start + most])
            server.signal(signal.SIGCONT)
            wait_until(lambda: figure(table, "ring_members") == 1, "it is gone")
            # Another worker than the one that lets go of it may still have some of them in hand.
            wait_until(lambda: table.incr("count", 0) == count, "all is done")  # noqa: B023
            del table["count"]


# Small rings


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_tiny_rings(topology: Any, workers: int, seed: int) -> None:
    """Everything is larger than the rings: pieces, queues, replies."""

    def work(number: int) -> None:
        with Table(reads="server") as table:
            assert table.transport == "rings"
            for size in (0, 1, 39, 40, 41, 5_000, 100_000):
                value = bytes([number]) * size
                table[f"{number} value"] = value
                assert table[f"{number} value"] == value
            keys = [b"%d key %d" % (number, index) for index in range(3_000)]
            table.set_many((key, key * 2) for key in keys)
            assert table.get_many(keys) == [key * 2 for key in keys]
            counted = table.call_many([("INCR", f"{number} count")] * 3_000)
            assert counted == list(range(1, 3_001))
            assert table.delete_many(keys) == 3_000

    with ServerProcess(
        *("--topology", topology, "--workers", str(workers), "--max-memory", "256MiB"),
        *("--ring-slots", "16", "--slot-size", "64"),
    ):
        children = [Child(work, number) for number in range(4)]
        for child in children:
            child.result(60)
        with ringtable.connect() as table:
            assert ends(table) == {}
            wait_until(lambda: figure(table, "ring_members") == 1, "all have gone")
