"""Large values: they flow through the server, which keeps no copy of them beside their entries."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Table
from support import (
    DEADLINE_S,
    Child,
    Flag,
    RawConnection,
    RawLane,
    ServerProcess,
    figures_of,
    resp,
    wait_until,
)

MIB = 1 << 20
# Values of at least this size flow.
LARGE = 64 << 10
# A quarter of this may be values that are still arriving.
MAX_MEMORY = 128 * MIB
# What a server at work takes for itself, and 64 KiB a client.
OWN_GROWTH_MAX = 6 * MIB


class Server(ServerProcess):
    """A server with one worker and a TCP port, and how to connect to it."""

    def __init__(self, max_memory: int = MAX_MEMORY, *arguments: str) -> None:
        super().__init__("--workers", "1", "--max-memory", str(max_memory), "--tcp", "127.0.0.1:0", *arguments)
        self.tcp = self.ready_line.rpartition(", tcp: ")[2].strip()

    def connect(self, transport: str) -> Table:
        if transport == "tcp":
            return Table(self.tcp, timeout=DEADLINE_S)
        if transport == "socket":
            return Table(transport="socket", timeout=DEADLINE_S)
        if transport in ("shared", "sharded"):
            return Table(transport="rings", reads="server", timeout=DEADLINE_S)
        return Table(transport="lane", reads="direct" if transport == "direct" else "server", timeout=DEADLINE_S)

    def raw(self) -> RawConnection:
        return RawConnection(self.tcp_address)

    @property
    def tcp_address(self) -> tuple[str, int]:
        host, _, port = self.tcp.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def own_bytes(self) -> int:
        """Memory of the process that is neither the table's nor a file's."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1]) << 10

    def own_growth(self, call: Callable[[], object]) -> int:
        """By how much more memory of its own the server has at most while `call` goes on, and after it."""
        before = most = self.own_bytes()
        thread = threading.Thread(target=call)
        thread.start()
        while thread.is_alive():
            most = max(most, self.own_bytes())
            time.sleep(0.001)
        thread.join()
        return max(most, self.own_bytes()) - before


transports = pytest.mark.parametrize("transport", ["lane", "direct", "socket", "tcp"])


@pytest.fixture
def server(ringtable_dir: Path) -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def observer(server: Server) -> Iterator[Table]:
    with Table(timeout=DEADLINE_S) as table:
        yield table


def value_of(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two pages are the same."""
    block = random.Random(seed).randbytes(min(size, MIB + 1))
    return (block * (size // max(len(block), 1) + 1))[:size]


def figure(table: Table, name: str) -> int:
    return figures_of(table)[name]


def whole_words(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def set_record(*arguments: bytes) -> bytes:
    """A `SET` as it flows through a lane: `command/record/` tells how."""
    body = whole_words(b"".join(len(part).to_bytes(4, "little") for part in arguments))
    body += b"".join(map(whole_words, arguments))
    return (8 + len(body) | 1 << 32 | len(arguments) << 48).to_bytes(8, "little") + body


def send(lane: RawLane, data: bytes) -> None:
    """Write whole words to a lane's ring, as it has room for them."""
    while data:
        tail = lane.load(RawLane.REQUEST_TAIL)
        room = RawLane.RING_SIZE - (tail - lane.load(RawLane.REQUEST_HEAD))
        at = tail % RawLane.RING_SIZE
        piece, data = _split(data, min(room, RawLane.RING_SIZE - at))
        place = RawLane.REQUEST_DATA + at
        lane.memory[place : place + len(piece)] = piece
        lane.store(RawLane.REQUEST_TAIL, tail + len(piece))
        lane.ring()


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    return data[:size], data[size:]


def _wait_for_more(lane: RawLane, read: int) -> None:
    wait_until(lambda: lane.load(RawLane.RESPONSE_TAIL) > read, "the next reply has come")


def replies(lane: RawLane, count: int) -> list[str | None]:
    """The first replies of a lane, none of which was read before; they are `OK`, nil, or errors."""
    read = 0
    found: list[str | None] = []
    while len(found) < count:
        _wait_for_more(lane, read)
        place = RawLane.REQUEST_DATA + RawLane.RING_SIZE + read
        word = lane.load(place)
        size, kind, filling = word & 0xFFFFFFFF, word >> 32 & 0xFF, word >> 40 & 0xFF
        text = bytes(lane.memory[place + 8 : place + size - filling]).decode()
        found.append({0: None, 1: "OK"}.get(kind, text))
        read += size
    return found


# Values that arrive


@transports
def test_smoke(server: Server, transport: str) -> None:
    value = value_of(8 * MIB + 3)
    with server.connect(transport) as table:
        table["key"] = value
        assert table["key"] == value
        table["key"] = b"small"
        assert table["key"] == b"small"


@transports
def test_the_server_keeps_no_copy(server: Server, transport: str) -> None:
    value = value_of(24 * MIB + 5)
    with server.connect(transport) as table:
        table["warm"] = value_of(MIB)
        assert table["warm"] == value_of(MIB)
        growth_of_set = server.own_growth(lambda: table.set("key", value))
        growth_of_get = server.own_growth(lambda: table.get("key"))
        assert table["key"] == value
    assert growth_of_set < OWN_GROWTH_MAX
    assert growth_of_get < OWN_GROWTH_MAX


def elements(reply: object) -> list[Any]:
    assert isinstance(reply, list)
    return reply


def refuses_to_count(call: Callable[[], object]) -> bool:
    with pytest.raises(ringtable.NotAnInteger):
        call()
    return True


# Requests that look at a value, or change what belongs to it, and whether the answer is right.
SINGLE: dict[str, Callable[[Table, bytes], bool]] = {
    "incr": lambda table, _: refuses_to_count(lambda: table.incr("key")),
    "incr within bounds": lambda table, _: refuses_to_count(lambda: table.incr("key", maximum=5)),
    "expire": lambda table, _: table.expire("key", 1_000),
    "value and version": lambda table, value: elements(table.call("RING.GETV", "key"))[0] == value,
    "bucket": lambda table, value: value in elements(table.call("RING.BUCKET", "key")),
    "delete by version": lambda table, _: table.call("RING.DELV", "key", "1") == 0,
    "conditional": lambda table, _: not table.set("key", b"", nx=True) and not table.set("key", b"", if_version=1),
}


@pytest.mark.parametrize("transport", ["lane", "socket", "tcp", "shared", "sharded"])
def test_a_single_request_copies_no_large_value(ringtable_dir: Path, transport: str) -> None:
    value = value_of(24 * MIB + 5)
    topology = transport if transport in ("shared", "sharded") else "lanes"
    answers: dict[str, bool] = {}
    with Server(MAX_MEMORY, "--topology", topology) as server, server.connect(transport) as table:

        def ask(name: str) -> None:
            answers[name] = SINGLE[name](table, value)

        table["key"] = value
        for name in SINGLE:
            assert server.own_growth(partial(ask, name)) < OWN_GROWTH_MAX, name
            assert answers[name], name
        assert figure(table, "memory_retired") == 0


@transports
def test_what_a_reply_is_sent_out_of_may_change_meanwhile(server: Server, transport: str) -> None:
    value = value_of(3 * MIB)
    answers: list[Any] = []
    with server.connect(transport) as table, server.connect(transport) as other, RawLane() as slow:

        def fetch() -> None:
            answers.extend(other.pipeline().call("RING.GETV", "key").call("RING.BUCKET", "key").execute())

        for round_ in range(20):
            table["key"] = value
            answers.clear()
            reader = threading.Thread(target=fetch)
            reader.start()
            for _ in range(100):
                table.expire("key", 1_000)
            if round_ % 2:
                table["key"] = b"other"
            reader.join()
            with_version, bucket = answers
            assert with_version[0] in (value, b"other")
            assert dict(zip(bucket[::2], bucket[1::2], strict=True))[b"key"] in (value, b"other")
        # A reply that nobody takes keeps its entry, until its client goes.
        table["key"] = value
        send(slow, (24 | 24 << 32 | 1 << 48).to_bytes(8, "little") + (3).to_bytes(8, "little") + b"key" + bytes(5))
        wait_until(lambda: slow.load(RawLane.RESPONSE_TAIL) > LARGE, "the reply has begun")
        table["key"] = b"other"
        assert figure(table, "memory_retired") > 2 * MIB
        slow.close()
        wait_until(lambda: figure(table, "memory_retired") == 0, "nobody holds it any more")


@transports
@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 2 * LARGE, 2 * LARGE + 7, 5 * LARGE])
def test_values_about_the_limits(server: Server, transport: str, size: int) -> None:
    with server.connect(transport) as table:
        for seed, key in enumerate([b"", b"k", b"12345678", b"k" * 65_535]):
            table[key] = value_of(size, seed)
        for seed, key in enumerate([b"", b"k", b"12345678", b"k" * 65_535]):
            assert table[key] == value_of(size, seed)


@transports
def test_options_behind_a_large_value(server: Server, transport: str) -> None:
    value = value_of(MIB)
    with server.connect(transport) as table:
        assert table.set("key", b"old")
        free = figure(table, "memory_free")
        assert table.set("key", value, nx=True) is False
        assert table.set("other", value, xx=True) is False
        for options in (["BAD"], ["NX", "XX"], ["EX"], ["EX", "0"], ["PX", "x"], ["EX", "1"] * 20):
            with pytest.raises(ringtable.Error, match=r"syntax error|invalid expire|not an integer"):
                table.call("SET", "key", value, *options)
        # The connection goes on, nothing has changed, and nothing is left behind.
        assert dict(table.items()) == {b"key": b"old"}
        assert figure(table, "memory_free") == free
        assert table.set("key", value, xx=True, ttl=1_000)
        assert table.ttl("key") == pytest.approx(1_000, abs=DEADLINE_S)
        assert table.set("key", value)
        assert table.ttl("key") is None
        assert table["key"] == value


@transports
def test_a_large_value_in_a_pipeline_keeps_its_place(server: Server, transport: str) -> None:
    value = value_of(2 * MIB + 1)
    with server.connect(transport) as table:
        pipeline = table.pipeline().set("a", b"1").set("large", value).get("a").get("large").set("a", b"2").get("a")
        pipeline.set("large", b"small").get("large").set("large", value, nx=True).get("large").incr("count")
        assert pipeline.execute() == [True, True, b"1", value, True, b"2", True, b"small", False, b"small", 1]


def test_a_posted_large_value(server: Server, observer: Table) -> None:
    value = value_of(8 * MIB)
    with Table(transport="lane", writes="posted", timeout=DEADLINE_S) as table:
        table["before"] = b"1"
        table["key"] = value
        table["behind"] = b"2"
        assert table["key"] == value
        table.flush()
    assert observer["key"] == value
    assert observer.get_many(["before", "behind"]) == [b"1", b"2"]


@pytest.mark.parametrize("kind", ["lane", "socket"])
def test_a_client_killed_while_its_value_arrives_leaves_nothing_behind(
    server: Server, observer: Table, kind: str
) -> None:
    value = value_of(16 * MIB)
    observer["key"] = b"old"
    free = figure(observer, "memory_free")

    def die() -> None:
        if kind == "lane":
            with RawLane() as lane:
                send(lane, set_record(b"key", value)[: 10 * MIB])
                signal.pause()
        with server.raw() as connection:
            connection.send(resp(b"SET", b"key", value)[: 10 * MIB])
            signal.pause()

    with Child(die) as child:
        wait_until(lambda: figure(observer, "memory_drafts") > len(value), "the value arrives")
        assert figure(observer, "memory_free") <= free - len(value)
        assert observer["key"] == b"old"
        child.kill()
        wait_until(lambda: figure(observer, "memory_drafts") == 0, "the value is forgotten")
    assert figure(observer, "memory_free") == free
    assert figure(observer, "memory_unfinished_requests") == 0
    assert observer["key"] == b"old"


def test_what_a_dead_client_has_published_counts(server: Server, observer: Table) -> None:
    value = value_of(300_001)
    with RawLane() as lane:
        send(lane, set_record(b"key", value))
    wait_until(lambda: observer.get("key") == value, "the value is there")


def test_a_draft_takes_no_pages_before_bytes_arrive(server: Server, observer: Table) -> None:
    resident = figure(observer, "memory_resident")
    with server.raw() as connection:
        connection.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n" % (30 * MIB))
        wait_until(lambda: figure(observer, "memory_drafts") > 30 * MIB, "the value is announced")
        assert figure(observer, "memory_resident") < resident + MIB


# Without room


def test_clients_that_reserve_too_much_are_gathered(server: Server, observer: Table) -> None:
    value = value_of(10 * MIB)
    request = resp(b"SET", b"key", value)
    record = set_record(b"key of a lane", value)
    connections = [server.raw() for _ in range(5)]
    with RawLane() as lane:
        for number, connection in enumerate(connections):
            connection.send(request.replace(b"$3\r\nkey", b"$5\r\nkey %d" % number)[: 5 * MIB])
        wait_until(lambda: figure(observer, "memory_drafts") > 2 * len(value), "some values arrive in their entries")
        wait_until(lambda: figure(observer, "memory_unfinished_requests") > 7 * MIB, "the others are gathered")
        send(lane, record[: 5 * MIB])
        assert figure(observer, "memory_drafts") <= MAX_MEMORY // 4
        send(lane, record[5 * MIB :])
        for number, connection in enumerate(connections):
            connection.send(request.replace(b"$3\r\nkey", b"$5\r\nkey %d" % number)[5 * MIB :])
            assert connection.reply() == b"OK"
        assert replies(lane, 1) == ["OK"]
        assert observer["key of a lane"] == value
        assert all(observer[f"key {number}"] == value for number in range(len(connections)))
    for connection in connections:
        with connection:
            pass
    wait_until(lambda: figure(observer, "memory_unfinished_requests") == 0, "nothing is gathered any more")
    assert figure(observer, "memory_drafts") == 0


@transports
def test_a_value_larger_than_the_table_flows_nowhere(server: Server, transport: str) -> None:
    value = bytes(MAX_MEMORY + MIB)
    with server.connect(transport) as table:
        table["key"] = b"old"

        def refused() -> None:
            with pytest.raises(ringtable.OutOfMemory, match="max-memory"):
                table["key"] = value

        assert server.own_growth(refused) < OWN_GROWTH_MAX
        with pytest.raises(ringtable.Error, match="syntax error"):
            table.call("SET", "key", value, "BAD")
        assert table["key"] == b"old"


@transports
def test_a_full_table_refuses_a_large_value(server: Server, transport: str) -> None:
    value = value_of(20 * MIB)
    with server.connect(transport) as table:

        def fill() -> None:
            for number in range(10):
                table[f"key {number}"] = value

        with pytest.raises(ringtable.OutOfMemory):
            fill()
        assert len(table) >= 5
        assert table["key 0"] == value
        table.clear()
        table["key"] = value
        assert table["key"] == value


def test_a_record_that_lies_leaves_nothing_behind(server: Server, observer: Table) -> None:
    good = set_record(b"key", value_of(300_000), b"NX")
    for place in (8, 12, 16):
        for lie in (0, 1, LARGE, 299_992, 300_001, 2**32 - 1):
            with RawLane() as lane:
                send(lane, good[:place] + lie.to_bytes(4, "little") + good[place + 4 :])
                # What it says may happen to be true of the bytes in the place of key or option.
                _wait_until_taken(lane)
    wait_until(lambda: figure(observer, "lanes") == 1, "the other lanes are gone")
    assert figure(observer, "memory_drafts") == figure(observer, "memory_unfinished_requests") == 0
    assert figure(observer, "clients_ended_record") > 0


def test_a_value_that_does_not_end_where_it_should_ends_the_connection(server: Server, observer: Table) -> None:
    request = resp(b"SET", b"key", value_of(300_000))
    for damaged in (request[:-2] + b"xx", request.replace(b"*3", b"*4") + b"xx"):
        with server.raw() as connection:
            connection.send(damaged)
            refusal = str(connection.reply())
            assert refusal.startswith("ERR Protocol error: expected ")
            # Places are counted as the client counts them.
            assert f"at byte {len(request) - 2 if damaged.startswith(b'*3') else len(request)} of" in refusal
            assert connection.is_closed()
    wait_until(lambda: figure(observer, "memory_drafts") == 0, "the values are forgotten")
    assert "key" not in observer


def _wait_until_taken(lane: RawLane) -> None:
    """Wait until the server has answered a record, or ended its connection."""
    wait_until(lambda: lane.load(RawLane.RESPONSE_TAIL) or _has_ended(lane), "the record was taken")


def _has_ended(lane: RawLane) -> bool:
    lane.socket.settimeout(0.01)
    try:
        return bool(lane.socket.recv(4_096))
    except TimeoutError:
        return False


# Values that leave


@pytest.mark.parametrize("change", ["replaced", "deleted", "expired", "cleared"])
def test_a_value_on_its_way_is_not_disturbed(server: Server, observer: Table, change: str) -> None:
    old, new = value_of(16 * MIB, 1), value_of(16 * MIB, 2)
    free = figure(observer, "memory_free")
    observer.set("key", old, ttl=0.3 if change == "expired" else None)
    with server.raw() as connection:
        connection.send(resp(b"GET", b"key"))
        # The rest waits for room in the socket.
        first = connection.read(LARGE)
        match change:
            case "replaced":
                observer["key"] = new
                observer["other"] = new
            case "deleted":
                assert observer.delete("key")
            case "expired":
                wait_until(lambda: "key" not in observer, "its time has passed")
                assert observer.call("GET", "key") is None
            case _:
                observer.clear()
        expected = b"$%d\r\n%b\r\n" % (len(old), old)
        assert first + connection.read(len(expected) - len(first)) == expected
        assert connection.command(b"PING") == b"PONG"
    assert observer.get("key") == (new if change == "replaced" else None)
    observer.clear()
    wait_until(lambda: figure(observer, "memory_free") == free, "the old value's memory is free")


@pytest.mark.parametrize("kind", ["lane", "socket"])
def test_a_client_killed_while_its_reply_leaves_holds_nothing(server: Server, observer: Table, kind: str) -> None:
    free = figure(observer, "memory_free")
    observer["key"] = value_of(16 * MIB)

    def die(asked: Flag) -> None:
        if kind == "lane":
            with RawLane() as lane:
                # GET is command 0, with an argument of 3 bytes.
                words = [24 | 0 << 32 | 1 << 48, 3, int.from_bytes(b"key", "little")]
                send(lane, b"".join(word.to_bytes(8, "little") for word in words))
                wait_until(lambda: lane.load(RawLane.RESPONSE_TAIL) == RawLane.RING_SIZE, "the ring is full")
                asked.set()
                signal.pause()
        with server.raw() as connection:
            connection.send(resp(b"GET", b"key"))
            connection.read(LARGE)
            asked.set()
            signal.pause()

    with Flag() as asked, Child(die, asked) as child:
        asked.wait()
        assert observer.delete("key")
        assert figure(observer, "memory_free") < free
        child.kill()
        wait_until(lambda: figure(observer, "memory_free") == free, "nobody holds the value")


@transports
def test_readers_of_a_value_that_changes_see_whole_ones(server: Server, transport: str) -> None:
    values = [value_of(700_001, seed) for seed in range(3)]
    with server.connect(transport) as table, server.connect("lane") as writer, Flag() as done:
        writer["key"] = values[0]

        def change() -> None:
            index = 0
            while not done.is_set():
                index += 1
                writer["key"] = values[index % 3]

        changing = threading.Thread(target=change)
        changing.start()
        try:
            assert all(table["key"] in values for _ in range(50))
        finally:
            done.set()
            changing.join()


@pytest.mark.parametrize("topology", ["shared", "sharded"])
def test_large_values_over_rings(ringtable_dir: Path, topology: str) -> None:
    values = {f"key {size}".encode(): value_of(size, size) for size in (LARGE - 1, LARGE, LARGE + 1, 3 * MIB + 5)}
    with (
        ServerProcess("--workers", "2", "--max-memory", str(MAX_MEMORY), "--topology", topology),
        Table(transport="rings", reads="server", timeout=DEADLINE_S) as table,
        Table(transport="socket", timeout=DEADLINE_S) as other,
    ):
        table.set_many(values)
        assert table.get_many(values) == other.get_many(values) == list(values.values())
        free = figure(other, "memory_free")
        assert table.pipeline().get(*list(values)[-1:]).delete(*values).get("key").execute() == [
            values[list(values)[-1]],
            len(values),
            None,
        ]
        wait_until(lambda: figure(other, "memory_free") > free + 3 * MIB, "nobody holds the largest value")


# Cut at random


def random_requests(generator: random.Random, count: int) -> list[tuple[list[bytes], str | None, bytes | None]]:
    """`SET`s of one key with values and options at random: arguments, reply, and the value behind it."""
    requests: list[tuple[list[bytes], str | None, bytes | None]] = []
    value: bytes | None = None
    for number in range(count):
        size = generator.choice([0, 5, 1_000, LARGE - 1, LARGE, LARGE + 1, 130_000, 131_073, 300_001])
        new = value_of(size, number)
        options = generator.choice([[], [], [b"NX"], [b"xx"], [b"EX", b"1000"], [b"PX", b"0"], [b"NO"], [b"NX", b"XX"]])
        reply: str | None = "OK"
        if options in ([b"NO"], [b"NX", b"XX"]):
            reply = "ERR syntax error"
        elif options == [b"PX", b"0"]:
            reply = "ERR invalid expire time in 'set' command: allowed are seconds above 0 and up to 4000000000"
        elif (options == [b"NX"] and value is not None) or (options == [b"xx"] and value is None):
            reply = None
        else:
            value = new
        requests.append(([b"key", new, *options], reply, value))
    return requests


def random_pieces(generator: random.Random, data: bytes, unit: int) -> Iterator[bytes]:
    """The same bytes in pieces of whole units, small and large ones."""
    while data:
        size = unit * generator.choice([1, 1, 2, 5, generator.randrange(1, 3_000), generator.randrange(1, 30_000)])
        piece, data = _split(data, size)
        yield piece


def test_requests_cut_at_random_over_a_lane(server: Server, observer: Table, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(5):
        observer.clear()
        requests = random_requests(generator, 40)
        with RawLane() as lane:
            for piece in random_pieces(generator, b"".join(set_record(*request[0]) for request in requests), 8):
                send(lane, piece)
            assert replies(lane, len(requests)) == [request[1] for request in requests]
        assert observer.get("key") == requests[-1][2]


def test_requests_cut_at_random_over_a_socket(server: Server, observer: Table, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(5):
        observer.clear()
        requests = random_requests(generator, 40)
        stream = b"".join(resp(b"set", *arguments) + resp(b"GET", b"key") for arguments, _, _ in requests)
        with server.raw() as connection:

            def feed(connection: RawConnection = connection, stream: bytes = stream) -> None:
                for piece in random_pieces(generator, stream, 1):
                    connection.send(piece)

            feeding = threading.Thread(target=feed)
            feeding.start()
            for _, reply, value in requests:
                found: Any = connection.reply()
                assert (str(found) if isinstance(found, Exception) else found) == (b"OK" if reply == "OK" else reply)
                assert connection.reply() == value
            feeding.join()


# As large as can be


@pytest.mark.slow
@transports
def test_the_largest_value(ringtable_dir: Path, transport: str) -> None:
    value = value_of(512 * MIB)
    # Room for the old value beside the new one, and for drafts in a quarter of it.
    with Server(4 << 30) as server, server.connect(transport) as table:
        growth = server.own_growth(lambda: table.set("key", value))
        assert growth < OWN_GROWTH_MAX
        growth = server.own_growth(lambda: table.get("key"))
        assert growth < OWN_GROWTH_MAX
        assert table["key"] == value
        with pytest.raises(ringtable.ValueTooLarge):
            table["key"] = value + b"!"


@pytest.mark.slow
@transports
def test_others_while_a_large_value_flows(ringtable_dir: Path, transport: str) -> None:
    """Reports how long another client waits at most; a machine that is busy may make it wait for any time."""
    value = value_of(400 * MIB)

    def longest(done: Flag) -> float:
        with Table(transport="lane", reads="server") as other:
            other["small"] = b"value"
            waits: list[float] = []
            while not done.is_set():
                start = time.perf_counter()
                assert other["small"] == b"value"
                waits.append(time.perf_counter() - start)
            return max(waits)

    with Server(4 << 30) as server, server.connect(transport) as table:
        for name, arguments in {"SET": ("key", value), "GET": ("key",)}.items():
            with Flag() as done, Child(longest, done) as child:
                table.call(name, *arguments)
                done.set()
                print(f"{transport}: another client's longest wait during a {name}: {child.result() * 1e3:.1f} ms")
