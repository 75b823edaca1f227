"""The UDP port: exactly once over a network that loses, doubles and reorders; and whatever else comes as a datagram."""

import random
from collections.abc import Iterator

import pytest
import ringtable
from ringtable import Server
from support import wait_until
from udp import (
    BULK,
    DATAGRAM_SIZE_MAX,
    ERROR,
    GET,
    HEAD,
    INCR,
    LEASE,
    OK,
    PING,
    RECORD_SIZE_MAX,
    SET,
    STATUS,
    WINDOW,
    Kind,
    Message,
    RawClient,
)


@pytest.fixture
def server(ringtable_dir: object) -> Iterator[Server]:
    """A server named "default" inside this process, with a UDP port."""
    with Server(workers=2, max_memory="64MiB", udp="127.0.0.1:0") as server:
        yield server


@pytest.fixture
def address(server: Server) -> str:
    """The address of the server's port."""
    assert server.udp is not None
    return server.udp


def test_smoke(server: Server, address: str) -> None:
    assert address.startswith("udp://127.0.0.1:")
    with RawClient(address).join() as client, ringtable.connect() as over_a_lane:
        assert client.ask(client.request(1, SET, b"hello", b"world")).reply() == (OK, b"")
        assert client.ask(client.request(2, GET, b"hello")).reply() == (BULK, b"world")
        assert over_a_lane["hello"] == b"world"
        assert server.stats()["udp_sessions"] == 1


# What a server does


def test_a_request_that_comes_again_is_answered_and_not_executed_again(server: Server, address: str) -> None:
    with RawClient(address).join() as client:
        for _ in range(5):
            answer = client.ask(client.request(1, INCR, b"count"))
            assert (answer.kind, answer.number, answer.integer()) == (Kind.REPLY, 1, 1)
        assert client.ask(client.request(2, INCR, b"count")).integer() == 2
        assert server.stats()["udp_answered_again"] == 4


def test_requests_that_come_in_another_order_are_executed_in_theirs(address: str, seed: int) -> None:
    with RawClient(address).join() as client:
        numbers = list(range(2, WINDOW + 1))
        random.Random(seed).shuffle(numbers)
        for number in numbers:
            client.send(client.request(number, INCR, b"count", floor=1))
        client.send(client.request(1, INCR, b"count"))
        answers = [client.receive() for _ in range(WINDOW)]
        assert [(answer.number, answer.integer()) for answer in answers] == [(n, n) for n in range(1, WINDOW + 1)]


def test_an_old_number_is_not_executed(server: Server, address: str) -> None:
    with RawClient(address).join() as client:
        assert client.ask(client.request(1, INCR, b"count")).integer() == 1
        # The client has the reply to the first: from here on that is not kept.
        assert client.ask(client.request(2, INCR, b"count", floor=2)).integer() == 2
        client.send(client.request(1, INCR, b"count"))
        client.hello()
        assert server.stats()["udp_datagrams_old"] == 1
        assert client.ask(client.request(3, INCR, b"count")).integer() == 3


@pytest.mark.parametrize(
    ("number", "floor"), [(0, 0), (1, 0), (0, 1), (3, 3), (1 + WINDOW, 1), (2**64 - 1, 1), (2**64 - 1, 2**64 - 1)]
)
def test_a_number_that_no_honest_client_sends(server: Server, address: str, number: int, floor: int) -> None:
    with RawClient(address).join() as client:
        assert client.ask(client.request(1, INCR, b"count")).integer() == 1
        client.send(client.request(number, INCR, b"count", floor=floor))
        client.hello()
        assert server.stats()["udp_datagrams_wrong"] == 1
        assert client.ask(client.request(2, INCR, b"count")).integer() == 2


def test_replies_that_are_not_taken_hold_up_their_client_alone(address: str) -> None:
    with RawClient(address).join() as client, RawClient(address).join() as other:
        value = b"v" * 30_000
        assert client.ask(client.request(1, SET, b"key", value)).reply() == (OK, b"")
        for number in range(2, 2 + WINDOW):
            client.send(client.request(number, GET, b"key", floor=2))
        assert other.ask(other.request(1, PING)).reply() == (STATUS, b"PONG")
        number = 2
        while number < 2 + WINDOW:
            answer = client.receive()
            assert answer.number == number
            assert answer.reply() == (BULK, value)
            number += 1
            if client.has_nothing() and number < 2 + WINDOW:
                # It says by the floor that it has the replies.
                client.send(client.request(number, GET, b"key", floor=number))


def test_a_request_that_takes_several_turns(address: str) -> None:
    with RawClient(address).join() as client, ringtable.connect() as table:
        table.set_many({f"key {index}": b"value" for index in range(20_000)})
        flushall = 13
        for _ in range(3):
            client.send(client.request(1, flushall))
        client.send(client.request(2, INCR, b"count", floor=1))
        answers: dict[int, Message] = {}
        while len(answers) < 2:
            answer = client.receive()
            answers[answer.number] = answer
        assert answers[1].reply() == (OK, b"")
        assert answers[2].integer() == 1
        assert list(table) == [b"count"]


# Tokens and cookies


def test_an_unknown_token_is_answered_with_a_cookie(server: Server, address: str) -> None:
    with RawClient(address).join() as client:
        token = client.token
        client.token ^= 1
        answer = client.ask(client.request(1, INCR, b"count"))
        assert (answer.kind, answer.number, answer.name) == (Kind.COOKIE, client.token, client.cookie)
        client.token = token
        client.boot ^= 1
        assert client.ask(client.request(1, INCR, b"count")).kind == Kind.COOKIE
        client.boot ^= 1
        assert server.stats()["udp_tokens_unknown"] == 2
        assert client.ask(client.request(1, INCR, b"count")).integer() == 1


def test_a_token_is_for_one_address(address: str) -> None:
    with RawClient(address).join() as client, RawClient(address) as thief:
        thief.boot, thief.token = client.boot, client.token
        assert thief.ask(thief.request(1, INCR, b"count")).kind == Kind.COOKIE
        thief.send(Message(Kind.LEAVE, client.boot, client.token))
        thief.hello()
        assert client.ask(client.request(1, INCR, b"count")).integer() == 1


def test_a_cookie_is_for_one_address(server: Server, address: str) -> None:
    with RawClient(address) as client, RawClient(address) as thief:
        client.hello()
        own = thief.hello().name
        thief.cookie = client.cookie
        answer = thief.ask(thief.joining())
        assert (answer.kind, answer.name) == (Kind.COOKIE, own)
        assert server.stats()["udp_datagrams_wrong"] == 1
        assert server.stats()["udp_sessions"] == 0


def test_a_forged_cookie(server: Server, address: str) -> None:
    with RawClient(address) as client:
        client.hello()
        client.cookie ^= 1 << 40
        assert client.ask(client.joining()).kind == Kind.COOKIE
        client.cookie ^= 1 << 40
        client.boot ^= 1
        assert client.ask(client.joining()).kind == Kind.COOKIE
        assert server.stats()["udp_sessions"] == 0


def test_a_client_that_joins_twice_has_one_session(server: Server, address: str) -> None:
    with RawClient(address) as client:
        client.hello()
        assert len({client.ask(client.joining(nonce=7)).name for _ in range(3)}) == 1
        assert server.stats()["udp_sessions"] == 1
        first = client.ask(client.joining(nonce=7)).name
        second = client.ask(Message(Kind.JOIN, client.boot, client.cookie, 8, first)).name
        assert second != first
        assert server.stats()["udp_sessions"] == 1
        client.send(Message(Kind.LEAVE, client.boot, second))
        client.hello()
        assert server.stats()["udp_sessions"] == 0


def test_more_sessions_than_allowed() -> None:
    with Server(max_clients=2, udp="127.0.0.1:0") as server:
        address = server.udp or ""
        with RawClient(address).join() as one, RawClient(address).join(), RawClient(address) as third:
            third.hello()
            answer = third.ask(third.joining())
            assert (answer.kind, answer.last) == (Kind.FULL, 2)
            assert server.stats()["udp_sessions_refused"] == 1
            one.send(Message(Kind.LEAVE, one.boot, one.token))
            one.hello()
            third.join()


def test_no_answer_is_larger_than_what_it_answers_before_the_cookie(address: str) -> None:
    with RawClient(address) as client:
        client.hello()
        client.cookie ^= 1
        strange = bytearray(Message(Kind.HELLO, number=1).pack())
        strange[4] = 99
        for message in (
            Message(Kind.HELLO, number=1).pack(),
            client.joining().pack(),
            client.request(1, PING).pack(),
            bytes(strange),
        ):
            client.send(message)
            assert len(client.socket.recv(1 << 16)) <= len(message)
        # What is smaller is not answered at all.
        for size in range(HEAD.size):
            client.send(Message(Kind.HELLO, number=1).pack()[:size])
        client.hello()
        assert client.has_nothing()


# Whatever comes


def wrong_datagrams() -> Iterator[tuple[str, bytes]]:
    """Datagrams that are no message of a client, by name."""
    hello = Message(Kind.HELLO, number=1).pack()
    yield "empty", b""
    yield "a byte", b"x"
    yield "other bytes", b"x" * 200
    yield "RESP", b"*1\r\n$4\r\nPING\r\n" * 4
    yield "cut off", hello[:-1]
    yield "too long", hello + b"x"
    yield "other magic", b"RTBL" + hello[4:]
    yield "no kind", Message(0).pack()
    yield "a kind that there is not", Message(9).pack()
    yield "a request without a record", Message(Kind.REQUEST, number=1, last=1).pack()
    yield "a record that is not whole words", Message(Kind.REQUEST, number=1, last=1, record=b"x" * 12).pack()
    yield "too large", Message(Kind.REQUEST, number=1, last=1, record=b"x" * RECORD_SIZE_MAX).pack() + b"xx"
    for kind in (Kind.COOKIE, Kind.JOINED, Kind.FULL):
        yield f"what a server says: {kind.name}", Message(kind, 1, 2, 3, 4).pack()
    yield "what a server says: REPLY", Message(Kind.REPLY, 1, 2, 3, record=b"x" * 8).pack()


@pytest.mark.parametrize("datagram", [pytest.param(datagram, id=name) for name, datagram in wrong_datagrams()])
def test_a_wrong_datagram_is_counted_and_not_answered(server: Server, address: str, datagram: bytes) -> None:
    with RawClient(address).join() as client, RawClient(address) as sender:
        sender.send(datagram)
        sender.hello()
        assert sender.has_nothing()
        assert server.stats()["udp_datagrams_wrong"] == 1
        assert client.ask(client.request(1, PING)).reply() == (STATUS, b"PONG")


def test_a_datagram_of_another_version_is_answered_with_ours(server: Server, address: str) -> None:
    datagram = bytearray(Message(Kind.HELLO, number=1).pack())
    datagram[4] = 200
    with RawClient(address) as client:
        assert client.ask(bytes(datagram)).kind == Kind.COOKIE
        assert server.stats()["udp_datagrams_wrong"] == 1


def test_random_datagrams(server: Server, address: str, seed: int) -> None:
    generator = random.Random(seed)
    with RawClient(address).join() as client, RawClient(address).join() as other:
        number = 0
        for _ in range(3_000):
            bytes_ = bytearray(client.request(1, generator.randrange(40), b"key", b"1").pack())
            match generator.randrange(4):
                case 0:
                    bytes_ = bytearray(generator.randbytes(generator.randrange(200)))
                case 1:
                    bytes_[5] = generator.randrange(256)
                case 2:
                    bytes_[generator.randrange(len(bytes_))] = generator.randrange(256)
                case _:
                    # A request whose turn it is, with a record of anything.
                    junk = generator.randbytes(8 * generator.randrange(1, 9))
                    number += 1
                    client.send(Message(Kind.REQUEST, client.boot, client.token, number, number, junk))
                    continue
            client.send(bytes(bytes_))
            if generator.random() < 0.1:
                client.drain()
        assert other.ask(other.request(1, INCR, b"another key")).integer() == 1
    assert server.stats()["udp_datagrams_wrong"] > 100


def test_malformed_records_are_answered(server: Server, address: str) -> None:
    with RawClient(address).join() as client:
        for number, junk in enumerate((b"\0" * 8, b"\xff" * 8, b"\xff" * 64, record_of_no_command()), 1):
            answer = client.ask(Message(Kind.REQUEST, client.boot, client.token, number, number, junk))
            kind, words = answer.reply()
            assert kind == ERROR
            assert b"malformed" in words or b"wrong number of arguments" in words
        assert client.ask(client.request(5, INCR, b"count")).integer() == 1


def record_of_no_command() -> bytes:
    return b"\x08\0\0\0\xe7\x03\0\0"


def test_what_needs_a_connection_is_refused_by_name(address: str) -> None:
    with RawClient(address).join() as client:
        kind, words = client.ask(client.request(1, LEASE, b"key")).reply()
        assert kind == ERROR
        assert b"RING.LEASE needs a connection" in words


def test_a_reply_that_fits_no_datagram_is_an_error_that_says_so(server: Server, address: str) -> None:
    with RawClient(address).join() as client, ringtable.connect() as table:
        for number, size in enumerate((70_000, RECORD_SIZE_MAX), 1):
            table["key"] = b"v" * size
            kind, words = client.ask(client.request(number, GET, b"key")).reply()
            assert kind == ERROR
            assert f"at most {RECORD_SIZE_MAX}".encode() in words
        table["key"] = b"v" * (RECORD_SIZE_MAX - 8)
        client.send(client.request(3, GET, b"key"))
        assert len(client.socket.recv(1 << 16)) == DATAGRAM_SIZE_MAX
        # Nothing holds the entries.
        table.clear()
        wait_until(lambda: server.stats()["holds"] == 0, "nothing is held")


def test_a_flood_of_wrong_datagrams_keeps_nobody_else_waiting(server: Server, address: str) -> None:
    """The port has a share of its worker, as a client has: others on the same worker are served meanwhile."""
    with RawClient(address) as flood, ringtable.connect() as one, ringtable.connect() as another:
        for _ in range(200):
            for _ in range(50):
                flood.send(b"x" * 1_000)
            # One of the two is a client of that worker.
            assert one.incr("count") == another.incr("count") - 1
        assert server.stats()["udp_datagrams_wrong"] > 0
