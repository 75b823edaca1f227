"""Malformed and hostile requests: a clear error or the end of that one connection, and the server and all others go
on."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import ringtable
from ringtable import Server, Table
from support import (
    DEADLINE_S,
    Child,
    RawConnection,
    RawLane,
    ServerProcess,
    figures_of,
    own_lane,
    resp,
    wait_until,
)

LONG_KEY = b"k" * (ringtable.KEY_SIZE_MAX + 1)
I64_MAX = (1 << 63) - 1
SCRIBBLES = 40
GARBAGE = 200
RINGS = 20_000


@pytest.fixture
def connection(server: Server) -> Iterator[RawConnection]:
    """A raw connection, beside one of a well-behaved client, which must not notice anything."""
    with ringtable.connect() as table, RawConnection(server.path) as connection:
        table["witness"] = b"unharmed"
        yield connection
        assert table["witness"] == b"unharmed"
        table["witness"] = b"still writable"
        with ringtable.connect() as another:
            assert another["witness"] == b"still writable"


def test_smoke(connection: RawConnection) -> None:
    assert connection.command(b"PING") == b"PONG"
    assert connection.command(b"SET", b"key", b"value") == b"OK"
    assert connection.command(b"GET", b"key") == b"value"
    assert connection.command(b"GET", b"missing") is None


# Well-formed requests that ask for what cannot be


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([b"NONSENSE"], "unknown command"),
        ([b""], "unknown command"),
        ([b"G" * 1_000], "unknown command"),
        ([b"\x00\xff\r\n"], "unknown command"),
        ([b"GET"], "wrong number of arguments"),
        ([b"GET", b"a", b"b"], "wrong number of arguments"),
        ([b"SET", b"a"], "wrong number of arguments"),
        ([b"DEL"], "wrong number of arguments"),
        ([b"INCRBY", b"a"], "wrong number of arguments"),
        ([b"DBSIZE", b"a"], "wrong number of arguments"),
        ([b"RING.BUCKET"], "wrong number of arguments"),
        ([b"SET", b"a", b"v", b"NONSENSE"], "syntax error"),
        ([b"SET", b"a", b"v", b"EX"], "syntax error"),
        ([b"SET", b"a", b"v", b"NX", b"XX"], "syntax error"),
        ([b"SET", b"a", b"v", b"EX", b"1", b"PX", b"1"], "syntax error"),
        ([b"SET", b"a", b"v", b"EX", b"text"], "not an integer"),
        ([b"SET", b"a", b"v", b"EX", b"0"], "invalid expire"),
        ([b"SET", b"a", b"v", b"PX", b"-1"], "invalid expire"),
        ([b"SET", b"a", b"v", b"EX", b"%d" % I64_MAX], "invalid expire"),
        ([b"EXPIRE", b"witness", b"%d" % I64_MAX], "invalid expire"),
        ([b"EXPIRE", b"witness", b"%d" % (I64_MAX + 1)], "not an integer"),
        ([b"INCRBY", b"a", b"%d" % (I64_MAX + 1)], "not an integer"),
        ([b"INCRBY", b"a", b"1.5"], "not an integer"),
        ([b"INCRBY", b"a", b""], "not an integer"),
        ([b"INCRBY", b"witness", b"1"], "not an integer"),
        ([b"SCAN", b"-1"], "cursor"),
        ([b"SCAN", b"text"], "cursor"),
        ([b"SCAN", b"0", b"COUNT", b"0"], "syntax error"),
        ([b"SCAN", b"0", b"COUNT"], "syntax error"),
        ([b"SCAN", b"0", b"MATCH", b"?" * 256], "255"),
        ([b"ECHO", bytes(100_000)], "100000 bytes"),
        ([b"SELECT", b"text"], "not an integer"),
        ([b"SELECT", b"1"], "out of range"),
        ([b"AUTH", b"somebody", b"secret"], "wrongpass"),
        ([b"CLIENT", b"SETNAME", b"two\nlines"], "newlines"),
        ([b"CLIENT", b"SETINFO", b"lib-color", b"red"], "unrecognized option"),
        ([b"HELLO", b"3", b"AUTH", b"default"], "syntax error"),
        ([b"RING.DUMP", b"-1"], "bucket"),
        ([b"RING.DUMP", b"text"], "not an integer"),
        ([b"RING.LANE", b"999", b"0"], "version"),
        ([b"HELLO", b"4"], "protocol version"),
        ([b"HELLO", b"text"], "protocol version"),
        ([b"SET", LONG_KEY, b"v"], "65"),
        ([b"INCRBY", LONG_KEY, b"1"], "65"),
    ],
)
def test_what_cannot_be_done_is_refused(connection: RawConnection, request_: list[bytes], message: str) -> None:
    reply = connection.command(*request_)
    assert isinstance(reply, Exception), reply
    assert message in str(reply).lower()
    # The connection goes on, and what was refused has changed nothing.
    assert connection.command(b"EXISTS", b"a") == 0
    assert connection.command(b"TTL", b"witness") == -1


# Malformed requests


@pytest.mark.parametrize(
    "data",
    [
        b"*-2\r\n",
        b"*9223372036854775807\r\n",
        b"*99999999999999999999\r\n",
        b"*1048577\r\n",
        b"*x\r\n",
        b"*\r\n",
        b"*1x\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n$-2\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"*1\r\n$536936449\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n:4\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGxx",
        b"*1\r\n$4\r\nPING\n\n",
        b"*1\r\n$3\r\nPING\r\n",
        b"*" + b"1" * 100_000,
        b"x" * 100_000,
        b"\x00\x01\x02\r\r\r" * 20_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_malformed_requests_end_their_connection(connection: RawConnection, data: bytes) -> None:
    # The server need not wait for the end of what is wrong from the beginning.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(data)
    reply = connection.reply()
    assert isinstance(reply, Exception), reply
    assert "rotocol" in str(reply)
    assert connection.is_closed()


HARM = b"SET key value\r\nDEL witness\r\n"
"""What others may have chosen of what another protocol says."""

FOREIGN = {
    "POST": b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 35\r\n\r\n",
    "GET": b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET without a header": b"GET /x HTTP/1.0\r\n",
    "get": b"get /x http/1.1\n",
    "SET": b"SET /web HTTP/1.1\r\n",
    "DEL": b"DEL witness HTTP/1.1\r\n",
    "DEL of 1.0": b"DEL witness HTTP/1.0\n",
    "EXISTS": b"EXISTS a b c d HTTP/2\r\n",
    "PUT": b"PUT /x HTTP/1.1\r\n",
    "HEAD": b"HEAD /x HTTP/1.1\r\n",
    "OPTIONS": b"OPTIONS * HTTP/1.1\r\n",
    "CONNECT": b"CONNECT localhost:6379 HTTP/1.1\r\n",
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header": b"X-Text: SET\r\n",
    "JSON": b'{"key":\r\n',
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SOCKS 4": b"\x04\x01\x18\xeb\x7f\x00\x00\x01\x00\n",
    "SOCKS 5": b"\x05\x01\x00\n",
    "PROXY 1": b"PROXY TCP4 127.0.0.1 127.0.0.1 5000 6379\r\n",
    "PROXY 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
    "PostgreSQL": b"\x00\x00\x00\x2b\x00\x03\x00\x00user\x00\n",
    "AMQP": b"AMQP\x00\x00\x09\x01\n",
    "memcached": b"\x80\x00\x00\x03\n",
    "SMTP": b"EHLO localhost\r\n",
    "NUL": b"GET key\x00\r\n",
    "in a quote": b'GET "\x01"\r\n',
    "escape": b"PING \x1b[A\r\n",
}
"""How others begin to speak, or go on."""


@pytest.mark.parametrize("door", ["unix", "tcp"])
@pytest.mark.parametrize("said", FOREIGN.values(), ids=FOREIGN.keys())
def test_who_speaks_another_protocol_executes_nothing(server: Server, door: str, said: bytes) -> None:
    assert server.tcp is not None
    address = server.path if door == "unix" else ("127.0.0.1", int(server.tcp.rpartition(":")[2]))
    with ringtable.connect() as table:
        table["witness"] = b"unharmed"
        for pieces in ([said + HARM], [said, HARM], [said[:3], said[3:] + HARM], [b"PING\r\n", said + HARM]):
            ended = int(table.stats()["clients_ended_protocol"])
            with RawConnection(address) as connection, suppress(ConnectionError):
                for piece in pieces:
                    connection.send(piece)
                if len(pieces) == 2 and pieces[0] == b"PING\r\n":
                    assert connection.reply() == b"PONG"
                assert isinstance(connection.reply(), Exception)
                assert connection.is_closed()
            wait_until(
                lambda ended=ended: table.stats()["clients_ended_protocol"] == ended + 1,  # type: ignore[misc]
                "the end is counted",
            )
            assert table["witness"] == b"unharmed"
            assert "key" not in table


def test_plain_lines_of_people(connection: RawConnection) -> None:
    """And of programs that check whether a server lives."""
    for line, reply in (
        (b"PING\r\n", b"PONG"),
        (b"ping\n", b"PONG"),
        (b"  SET  key\t'some text'\r\n", b"OK"),
        (b"get key\r\n", b"some text"),
        (b"SET \xc3\xa9 \xff\n", b"OK"),
        (b"GET \xc3\xa9\n", b"\xff"),
        (b"SET page http/x\r\n", b"OK"),
        (b"GET HTTP\r\n", None),
    ):
        connection.send(line)
        assert connection.reply() == reply
    # Any bytes, as an argument.
    assert connection.command(b"SET", b"key", b"HTTP/1.1") == b"OK"
    assert connection.command(b"GET", b"key") == b"HTTP/1.1"


def test_the_reason_of_an_end_is_counted(connection: RawConnection) -> None:
    with ringtable.connect() as table:
        assert table.stats()["clients_ended_protocol"] == 0
        connection.send(b"*-2\r\n")
        assert isinstance(connection.reply(), Exception)
        assert connection.is_closed()
        wait_until(lambda: table.stats()["clients_ended_protocol"] == 1, "the end is counted")


@pytest.mark.parametrize("data", [b"", b"*", b"*2\r\n$3\r\nGET\r\n$1000\r\nabc", b"*1\r\n$500000000\r\n"])
def test_a_request_that_is_never_finished(server: Server, data: bytes) -> None:
    with ringtable.connect() as table:
        clients = table.stats()["clients"]
        with RawConnection(server.path) as connection:
            connection.send(data)
            table["key"] = b"value"
        wait_until(lambda: table.stats()["clients"] == clients, "the connection is gone")


def test_a_request_that_comes_byte_by_byte(connection: RawConnection) -> None:
    for byte in resp(b"SET", b"key", b"value\r\n") + resp(b"GET", b"key"):
        connection.send(bytes([byte]))
    assert connection.reply() == b"OK"
    assert connection.reply() == b"value\r\n"


def test_requests_before_a_malformed_one_are_answered(connection: RawConnection) -> None:
    connection.send(resp(b"SET", b"key", b"value") + resp(b"GET", b"key") + b"*x\r\n" + resp(b"DEL", b"key"))
    assert connection.reply() == b"OK"
    assert connection.reply() == b"value"
    assert isinstance(connection.reply(), Exception)
    assert connection.is_closed()
    with ringtable.connect() as table:
        assert "key" in table


def test_random_garbage(connection: RawConnection, server: Server, seed: int) -> None:
    """Valid requests with some bytes changed: whatever they mean now, the server goes on."""
    generator = random.Random(seed)
    request = resp(b"SET", b"key", b"value", b"PX", b"1000") + resp(b"GET", b"key") + resp(b"PING")
    for _ in range(GARBAGE):
        data = bytearray(request)
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(len(data))] = generator.choice(b"\r\n*$:+-0123456789\x00\xffX")
        with RawConnection(server.path) as garbled:
            garbled.send(bytes(data))
    assert connection.command(b"PING") == b"PONG"


# Hostile lanes


def _scribble(seed: int) -> None:
    """Use a lane while overwriting it: whatever this client gets, it is an error or an answer, and soon."""
    generator = random.Random(seed)
    with Table(transport="lane", reads="server", timeout=1.0) as table:
        lane = own_lane()
        for _ in range(50):
            kind = generator.randrange(3)
            # The control words are at the front; elsewhere are mostly records.
            place = generator.randrange(0, RawLane.REQUEST_DATA if generator.random() < 0.7 else len(lane), 8)
            word = (generator.getrandbits(64), (1 << 64) - 1, generator.getrandbits(12))[kind]
            lane[place : place + 8] = word.to_bytes(8, "little")
            try:
                table.set(b"scribbler", b"value" * generator.randrange(1_000))
            except ringtable.Error:
                return


def test_scribbling_over_a_lane_harms_only_its_owner(server_process: ServerProcess, seed: int) -> None:
    with ringtable.connect(timeout=5.0) as table:
        table["witness"] = b"unharmed"
        for number in range(SCRIBBLES):
            Child(_scribble, seed + number).result()
            assert table["witness"] == b"unharmed"
            table["count"] = b"%d" % number
        wait_until(lambda: server_process.lanes() == 1, "the scribblers' lanes are freed")


@pytest.fixture
def witness(server_process: ServerProcess) -> Iterator[Table]:
    """A well-behaved client, which must not notice that others are not."""
    with ringtable.connect(timeout=5.0) as table:
        table["witness"] = b"unharmed"
        yield table
        assert table["witness"] == b"unharmed"
        table["witness"] = b"still writable"
        wait_until(lambda: server_process.lanes() == 1, "no other lane is left")


@pytest.mark.parametrize("position", [1, 7, RawLane.RING_SIZE + 8, 1 << 32, 1 << 63, (1 << 64) - 8, (1 << 64) - 1])
def test_a_request_position_out_of_range(witness: Table, position: int) -> None:
    with RawLane() as lane:
        lane.store(RawLane.REQUEST_TAIL, position)
        lane.ring()
        assert b"position" in lane.last_words()
    assert _ends(witness) == {"clients_ended_position": 1}


def test_a_request_position_that_goes_back(witness: Table) -> None:
    with RawLane() as lane:
        # The beginning of a long record, which the server takes.
        lane.store(RawLane.REQUEST_DATA, 1 << 20)
        lane.store(RawLane.REQUEST_TAIL, 64)
        lane.ring()
        wait_until(lambda: lane.load(RawLane.REQUEST_HEAD) == 64, "the server has taken what there was")
        lane.store(RawLane.REQUEST_TAIL, 56)
        lane.ring()
        assert b"position" in lane.last_words()
    assert _ends(witness) == {"clients_ended_position": 1}


@pytest.mark.parametrize("position", [1, 1 << 63, (1 << 64) - 8])
def test_a_reply_position_out_of_range(witness: Table, position: int) -> None:
    """The client of a lane says how far it has read, and replies that fill the ring make the server look at that."""
    witness["large"] = b"v" * (4 * RawLane.RING_SIZE)

    def lie() -> None:
        lane = own_lane()
        place = RawLane.RESPONSE_HEAD
        while not ended.is_set():
            lane[place : place + 8] = position.to_bytes(8, "little")

    def take_replies() -> None:
        with Table(transport="lane", reads="server", timeout=DEADLINE_S) as table:
            liar = threading.Thread(target=lie)
            liar.start()
            try:
                with pytest.raises(ringtable.ServerGone, match="position"):
                    table.get_many(["large"] * 10_000)
            finally:
                ended.set()
                liar.join()

    ended = threading.Event()
    Child(take_replies).result()
    assert _ends(witness) == {"clients_ended_position": 1}


@pytest.mark.parametrize(
    "record",
    [
        (0,),
        (4,),
        (12,),
        ((1 << 32) - 8,),
        # A command that there is not.
        (8 | 0xFFFF << 32,),
        # Arguments that are longer than the record, or shorter, or more than it has room for.
        (16 | 1 << 48, (1 << 32) - 1),
        (16 | 1 << 48, 0, 0),
        (24 | 1 << 48, 0, 0),
        (8 | 0xFFFF << 48,),
    ],
    ids=lambda record: "-".join(f"{word:x}" for word in record),
)
def test_a_malformed_record(witness: Table, record: tuple[int, ...]) -> None:
    with RawLane() as lane:
        for index, word in enumerate(record):
            lane.store(RawLane.REQUEST_DATA + 8 * index, word)
        lane.store(RawLane.REQUEST_TAIL, 8 * len(record))
        lane.ring()
        assert b"record" in lane.last_words()
    assert _ends(witness) == {"clients_ended_record": 1}


def test_bytes_on_the_socket_of_a_lane(witness: Table) -> None:
    with RawLane() as lane:
        lane.socket.sendall(resp(b"PING"))
        assert b"PROTOCOL" in lane.last_words()
    assert _ends(witness) == {"clients_ended_protocol": 1}


def test_a_doorbell_that_is_rung_for_nothing(witness: Table) -> None:
    with RawLane() as lane:
        # All that fits into it, beside the ring that says that the lane is sealed; and then again and again.
        os.eventfd_write(lane.request_bell, (1 << 64) - 3)
        for index in range(RINGS):
            with suppress(BlockingIOError):
                lane.ring()
            if index % 100 == 0:
                witness[f"key {index}"] = b"value"
        assert len(witness) == 1 + RINGS // 100
    assert _ends(witness) == {}


def _ends(table: Table) -> dict[str, int]:
    """How many clients the server has thrown out, by reason."""
    return {name: count for name, count in figures_of(table).items() if name.startswith("clients_ended_") and count}
