"""The UDP port: exactly once over a network that loses, doubles and reorders; and whatever else comes as a datagram."""

import pickle
import random
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations_with_replacement, pairwise

import pytest
import ringtable
from ringtable import Server, Table
from ringtable._ringtable import socket_path
from support import (
    DEADLINE_S,
    Child,
    Flag,
    ServerProcess,
    Successors,
    figures_of,
    freeze,
    resp,
    time_to_notice_death,
    wait_until,
)
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
    BadNetwork,
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


def udp_of(server: ServerProcess) -> str:
    """The address of the port, as the ready line tells it."""
    return server.ready_line.rpartition(", udp: ")[2].strip()


def test_smoke(server: Server, address: str) -> None:
    assert address.startswith("udp://127.0.0.1:")
    with RawClient(address).join() as client, ringtable.connect() as over_a_lane:
        assert client.ask(client.request(1, SET, b"hello", b"world")).reply() == (OK, b"")
        assert client.ask(client.request(2, GET, b"hello")).reply() == (BULK, b"world")
        assert over_a_lane["hello"] == b"world"
        assert server.stats()["udp_sessions"] == 1


def test_smoke_with_a_table(address: str) -> None:
    with ringtable.connect(address) as table, ringtable.connect() as over_a_lane:
        table["hello"] = b"world"
        assert table["hello"] == over_a_lane["hello"] == b"world"
        assert (table.transport, table.address) == ("udp", address)
        assert "over UDP" in repr(table)


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
            # Three replies are more than what is kept of those that nobody has confirmed.
            assert answer.number < number + 3
            assert answer.reply() == (BULK, value)
            # One that was asked for again while it was on its way comes twice; one that found no room in the socket is
            # lost, and is asked for again.
            number += answer.number == number
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


def test_who_comes_over_udp_is_a_client(server: Server, address: str) -> None:
    with ringtable.connect() as table:
        clients = table.stats()["clients"]
        accepted, quit_ = (table.stats()[name] for name in ("clients_accepted", "clients_quit"))
        with RawClient(address).join() as one, RawClient(address).join():
            stats = table.stats()
            assert (stats["clients"], stats["udp_sessions"]) == (clients + 2, 2)
            assert stats["clients_accepted"] == accepted + 2
            one.send(Message(Kind.LEAVE, one.boot, one.token))
            one.hello()
            stats = table.stats()
            assert (stats["clients"], stats["udp_sessions"]) == (clients + 1, 1)
            assert stats["clients_quit"] == quit_ + 1


def test_no_way_in_is_beside_the_limit() -> None:
    """Clients of all transports together are as many as there may be, and hear so in the same words."""
    with Server(max_clients=3, udp="127.0.0.1:0", tcp="127.0.0.1:0") as server, ringtable.connect() as table:
        addresses = ["default", server.tcp or "", server.udp or ""]
        for inside in combinations_with_replacement(addresses, 2):
            with ExitStack() as stack:
                for address in inside:
                    stack.enter_context(ringtable.connect(address))
                for address in addresses:
                    with pytest.raises(ringtable.TooManyClients, match=r"reached: 3 of 3.*larger --max-clients"):
                        ringtable.connect(address)
                assert table.stats()["clients"] == 3
            wait_until(lambda: table.stats()["clients"] == 1, "they have left")


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


# Long rounds of a worker


HEAVY_CLIENTS = 24
# About 200 µs for the worker, which turns to others after 100.
HEAVY = [b"absent %d" % index for index in range(1_900)]
ASKED_AHEAD = 3


def keep_busy(begun: Flag, finish: Flag) -> None:
    """Ask one worker for much through many sockets, each of which counts its turns."""
    request = resp(b"EXISTS", *HEAVY) + resp(b"INCR", b"turns")
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(HEAVY_CLIENTS):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(socket_path("default"))
            connection.sendall(request * ASKED_AHEAD)
            selector.register(connection, selectors.EVENT_READ, connection)
        begun.set()
        while not finish.is_set():
            for key, _ in selector.select():
                # Of each request come two numbers, a line each, the first of which is 0.
                replies = key.data.recv(1 << 16)
                assert replies
                key.data.sendall(request * replies.count(b":0\r\n"))


@contextmanager
def long_rounds() -> Iterator[tuple[Table, str]]:
    """A server of one worker with a round of some milliseconds; and a client that reads how many turns there were."""
    with (
        ServerProcess("--workers", "1", "--udp", "127.0.0.1:0") as server,
        Table() as table,
        Flag() as begun,
        Flag() as finish,
    ):
        table["turns"] = b"0"
        with Child(keep_busy, begun, finish) as child:
            begun.wait()
            yield table, udp_of(server)
            finish.set()
            child.result()


def test_in_a_long_round_who_asks_for_little_is_served_in_between() -> None:
    with long_rounds() as (table, address), RawClient(address).join() as client:
        waited = []
        for number in range(1, 61):
            # Silence: who asks all the time is not among those that ask for little. Nobody is asked for the count.
            begin = int(table["turns"]) + 2 * HEAVY_CLIENTS
            wait_until(lambda: int(table["turns"]) > begin, "two rounds have passed")  # noqa: B023
            before = int(table["turns"])
            kind, body = client.ask(client.request(number, GET, b"turns")).reply()
            assert kind == BULK
            waited.append(int(body) - before)
        # Turns of others between the coming of the request and its execution.
        assert sorted(waited)[len(waited) // 2] <= HEAVY_CLIENTS // 6, waited


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
def test_hosts_of_this_machine(host: str) -> None:
    with Server(udp=f"{host}:0") as server, ringtable.connect(server.udp or "") as table:
        assert table.call("PING") == b"PONG"


@pytest.mark.parametrize("udp", ["0.0.0.0:6379", "[::]:6379", "192.0.2.1:6379"])
def test_a_server_that_others_could_reach_is_refused(udp: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match="only this machine") as raised:
        Server(udp=udp)
    assert f"udp is {udp}" in str(raised.value)


@pytest.mark.parametrize("address", ["udp://", "udp://127.0.0.1", "udp://127.0.0.1:0", "udp://example.org:6379"])
def test_addresses_that_mean_nothing(address: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match=r"no UDP address.*HOST:PORT"):
        ringtable.connect(address)
    with pytest.raises(ringtable.InvalidOption, match="unix socket"):
        Server(address)


def test_a_server_has_no_port_unless_asked() -> None:
    with Server("silent") as server:
        assert server.udp is None


def test_a_port_that_is_taken(address: str) -> None:
    with pytest.raises(ringtable.Error, match=f"{address}.*in use"):
        Server("other", udp=address.removeprefix("udp://"))


def test_a_servers_ready_line_tells_its_port() -> None:
    with ServerProcess("--udp", "localhost:0") as server, ringtable.connect(udp_of(server)) as table:
        assert table.call("PING") == b"PONG"


def test_where_nobody_listens() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ringtable.Timeout, match=r"0\.2"):
            ringtable.connect(address, timeout=0.2)
    with pytest.raises(ringtable.TableNotFound, match=f"{address}.*nobody listens"):
        ringtable.connect(address)


# What a client refuses


def test_what_needs_a_connection(address: str) -> None:
    with ringtable.connect(address) as table:
        with pytest.raises(ringtable.InvalidOption, match=r"get_or_set.*over UDP"):
            table.get_or_set("key", lambda: b"value")
        with pytest.raises(ringtable.InvalidOption, match="shared memory"):
            table.watch()
        with pytest.raises(ringtable.InvalidOption, match="unix socket"):
            Table(address, transport="lane")
        for name, *arguments in (("RING.LEASE", "key"), ("RING.PINS",), ("RING.LANE", "1", "1")):
            with pytest.raises(ringtable.CommandError, match=f"{name} needs a connection"):
                table.call(name, *arguments)
        # Nothing of them is read in place.
        table["key"] = b"value"
        with table.view("key", copy_ok=True) as view:
            assert bytes(view) == b"value"
        assert "key" in table


def test_what_fits_no_datagram_is_refused_before_anything_is_sent(server: Server, address: str) -> None:
    largest = RECORD_SIZE_MAX - 8 - 8 - 8
    with ringtable.connect(address) as table:
        table["key"] = b"v" * largest
        before = server.stats()["udp_datagrams"]
        for value in (b"v" * (largest + 1), b"v" * (1 << 20)):
            with pytest.raises(
                ringtable.ValueTooLarge, match=f"key of 3 bytes.*{len(value)} bytes.*{DATAGRAM_SIZE_MAX}"
            ):
                table["key"] = value
            # None of a batch is done.
            with pytest.raises(ringtable.ValueTooLarge):
                table.set_many({**{f"other {index}": b"" for index in range(100)}, "key": value})
            pipeline = table.pipeline()
            for index in range(100):
                pipeline.set(f"other {index}", b"")
            with pytest.raises(ringtable.ValueTooLarge):
                pipeline.set("key", value).execute()
        with pytest.raises(ringtable.KeyTooLong, match=f"key of 65535 bytes.*{DATAGRAM_SIZE_MAX}"):
            table.get("k" * 65_535)
        with pytest.raises(ringtable.CommandError, match=f"'EXISTS'.*{DATAGRAM_SIZE_MAX}"):
            table.call("EXISTS", *(f"key {index}" for index in range(10_000)))
        assert server.stats()["udp_datagrams"] == before
        assert list(table) == [b"key"]
        # A batch is many datagrams, and may be as large as it likes.
        table.set_many({f"other {index}": b"v" * 60_000 for index in range(100)})
        assert len(table) == 101


def test_a_value_that_others_wrote_and_no_datagram_has_room_for(address: str) -> None:
    with ringtable.connect(address) as table, ringtable.connect() as over_a_lane:
        over_a_lane["key"] = b"v" * 100_000
        with pytest.raises(ringtable.CommandError, match=f"100008 bytes.*{RECORD_SIZE_MAX}"):
            table.get("key")
        assert table.call("EXISTS", "key") == 1


# A network that loses, doubles and reorders


def test_each_increment_is_done_once(address: str, seed: int) -> None:
    with BadNetwork(address, random.Random(seed)) as network, ringtable.connect(network.address) as table:
        for number in range(1, 101):
            assert table.incr("count") == number
        assert network.lost > 0


def test_a_pipeline_keeps_its_order(address: str, seed: int) -> None:
    with BadNetwork(address, random.Random(seed)) as network, ringtable.connect(network.address) as table:
        for _ in range(5):
            with table.pipeline() as pipeline:
                for index in range(100):
                    pipeline.incr("count").set("last", b"%d" % index).get("last")
            counts, set_, values = pipeline.results[::3], pipeline.results[1::3], pipeline.results[2::3]
            assert all(after == before + 1 for before, after in pairwise(counts))
            assert all(set_)
            assert values == [b"%d" % index for index in range(100)]
        assert table["count"] == b"500"


def test_each_reply_is_that_of_its_request(address: str, seed: int) -> None:
    with BadNetwork(address, random.Random(seed)) as network, ringtable.connect(network.address) as table:
        entries = {b"key %d" % index: b"value %d " % index * (3 * index) for index in range(300)}
        table.set_many(entries)
        assert table.get_many(entries) == list(entries.values())
        assert dict(table.items()) == entries
        assert table.delete_many(entries) == len(entries)


def test_several_clients_over_a_bad_network(address: str, seed: int) -> None:
    def count(number: int) -> list[int]:
        with (
            BadNetwork(address, random.Random(seed + number)) as network,
            ringtable.connect(network.address, timeout=DEADLINE_S) as table,
        ):
            return [table.incr("count") for _ in range(60)]

    children = [Child(count, number) for number in range(3)]
    seen = [child.result() for child in children]
    for child in children:
        child.close()
    assert sorted(count for counts in seen for count in counts) == list(range(1, 181))
    assert all(counts == sorted(counts) for counts in seen)


def test_posted_writes_are_done(address: str, seed: int) -> None:
    with BadNetwork(address, random.Random(seed)) as network:
        with ringtable.connect(network.address, writes="posted") as table:
            for index in range(50):
                table.set(b"%d" % index, b"value")
        with ringtable.connect() as over_a_lane:
            assert len(over_a_lane) == 50


def test_a_network_that_is_cut_and_mended(address: str, seed: int) -> None:
    network = BadNetwork(address, random.Random(seed), loss=0, doubling=0, reordering=0)
    with network, ringtable.connect(network.address, timeout=1.0) as table:
        assert reaches(table)
        network.is_cut = True
        start = time.monotonic()
        with pytest.raises(ringtable.Timeout, match=r"1\.0|1 s"):
            table.incr("count")
        assert 1.0 <= time.monotonic() - start < DEADLINE_S
        network.is_cut = False
        # The increment that was given up is done before what comes behind it, once.
        wait_until(lambda: reaches(table), "it gets through")
        with ringtable.connect() as over_a_lane:
            assert over_a_lane["count"] == b"1"
        assert table.incr("count") == 2


def reaches(table: Table) -> bool:
    try:
        return table.call("PING") == b"PONG"
    except ringtable.Timeout:
        return False


# The server's end


@pytest.fixture
def servers(ringtable_dir: object) -> Iterator[Successors]:
    with Successors(udp=True) as servers:
        yield servers


def test_the_next_server_does_not_do_what_the_last_was_asked(servers: Successors) -> None:
    address = servers.address
    with ringtable.connect(address, reconnect=False) as table, ringtable.connect(address) as lasting:
        assert table.incr("count") == lasting.incr("other") == 1
        servers.replace()
        for _ in range(2):
            with pytest.raises(ringtable.ServerGone):
                table.incr("count")
        with pytest.raises(ringtable.ServerGone):
            lasting.incr("other")
        assert lasting.incr("other") == 1
        assert "count" not in lasting


def test_a_request_under_way_at_the_restart_may_have_been_done(servers: Successors, seed: int) -> None:
    with BadNetwork(servers.address, random.Random(seed), loss=0, doubling=0, reordering=0) as network:
        with Flag() as ready, Flag() as go:

            def ask() -> str:
                with ringtable.connect(network.address) as table:
                    assert table.incr("count") == 1
                    ready.set()
                    go.wait()
                    with pytest.raises(ringtable.ServerGone) as raised:
                        table.incr("count")
                    return str(raised.value)

            with Child(ask) as child:
                ready.wait()
                freeze(servers.pid)
                carried = network.carried
                go.set()
                wait_until(lambda: network.carried > carried, "the request is on its way")
                servers.replace()
                assert "may have been done" in child.result()
        with ringtable.connect(network.address) as table:
            assert "count" not in table


def test_a_blocked_call_notices_the_servers_death() -> None:
    with ServerProcess("--udp", "127.0.0.1:0") as server, Table(udp_of(server)) as table:
        # It asks again after a pause, and hears then that nobody is there.
        assert time_to_notice_death(server, table) < 5.0


def test_a_forgotten_session_is_followed_by_another(server: Server, address: str) -> None:
    """A client that knows for certain that its request was not executed joins again and goes on."""
    network = BadNetwork(address, random.Random(0), loss=0, doubling=0, reordering=0)
    with network, ringtable.connect(network.address) as table:
        assert table.incr("count") == 1
        # The server forgets it, as it does after a while: here by the client's farewell, which another one says.
        network.say_farewell()
        assert table.incr("count") == 2
        with table.pipeline() as pipeline:
            for _ in range(100):
                pipeline.incr("count")
        assert pipeline.results == list(range(3, 103))
        assert server.stats()["udp_sessions"] == 1


def test_a_client_that_closes_leaves_its_session(server: Server, address: str) -> None:
    with ringtable.connect(address) as table:
        table["key"] = b"value"
        assert server.stats()["udp_sessions"] == 1
    wait_until(lambda: server.stats()["udp_sessions"] == 0, "it has left")


def test_a_client_without_room_for_a_session() -> None:
    with Server(max_clients=1, udp="127.0.0.1:0") as server, ringtable.connect(server.udp or ""):
        with pytest.raises(ringtable.TooManyClients, match="number of clients reached: 1 of 1"):
            ringtable.connect(server.udp or "")
        stats = server.stats()
        assert stats["udp_sessions_refused"] == stats["clients_refused"] == 1


def test_what_is_refused_for_want_of_a_session_is_not_done_later() -> None:
    with Server(max_clients=2, udp="127.0.0.1:0") as server, ringtable.connect() as beside:
        network = BadNetwork(server.udp or "", random.Random(0), loss=0, doubling=0, reordering=0)
        with network, ringtable.connect(network.address, timeout=DEADLINE_S) as table:
            assert table.incr("count") == 1
            # The server forgets it, and somebody else takes its place.
            network.say_farewell()
            wait_until(lambda: figures_of(beside)["udp_sessions"] == 0, "it is forgotten")
            with ringtable.connect():
                with pytest.raises(ringtable.TooManyClients, match="reached: 2 of 2"):
                    table.incr("count")
                with pytest.raises(ringtable.TooManyClients):
                    table.call("INCR", "count")
                pipeline = table.pipeline()
                for _ in range(2 * WINDOW):
                    pipeline.incr("count")
                with pytest.raises(ringtable.TooManyClients):
                    pipeline.execute()
            wait_until(lambda: figures_of(beside)["clients"] == 1, "there is room again")
            assert table.incr("count") == 2


def test_more_clients_over_udp_than_any_server_has() -> None:
    most = 1_024
    with Server(max_clients=2 * most, udp="127.0.0.1:0") as server, RawClient(server.udp or "") as client:
        client.hello()
        for nonce in range(most):
            assert client.ask(client.joining(nonce)).kind == Kind.JOINED
        with pytest.raises(ringtable.TooManyClients, match=f"{most} clients over UDP.*whatever --max-clients says"):
            ringtable.connect(server.udp or "")
        with ringtable.connect() as table:
            assert table.stats()["clients"] == most + 1


def test_a_server_of_another_version() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(DEADLINE_S)

        def connect() -> str:
            with pytest.raises(ringtable.VersionMismatch) as raised:
                ringtable.connect(f"udp://127.0.0.1:{bound.getsockname()[1]}")
            return str(raised.value)

        with Child(connect) as child:
            greeting, client = bound.recvfrom(1 << 16)
            nonce = Message.unpack(greeting).number
            other = bytearray(Message(Kind.COOKIE, 1, 2, nonce, 3).pack())
            other[4] = 2
            bound.sendto(other, client)
            assert "version 2" in child.result()


def test_a_server_that_does_not_know_a_command() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(DEADLINE_S)

        def ask() -> str:
            with ringtable.connect(f"udp://127.0.0.1:{bound.getsockname()[1]}") as table:
                with pytest.raises(ringtable.CommandError) as raised:
                    table.call("PTTL", "key")
                return str(raised.value)

        def heard(kind: Kind) -> Message:
            # What is said twice is said for want of an answer in time.
            while (message := Message.unpack(bound.recv(1 << 16))).kind != kind:
                assert message.kind in {Kind.HELLO, Kind.JOIN}
            return message

        with Child(ask) as child:
            greeting, client = bound.recvfrom(1 << 16)
            knows = 1 << GET | 1 << PING
            bound.sendto(Message(Kind.COOKIE, 1, 2, Message.unpack(greeting).number, knows).pack(), client)
            bound.sendto(Message(Kind.JOINED, 1, 3, heard(Kind.JOIN).number).pack(), client)
            assert "the server does not know the command 'PTTL'" in child.result()
        # It has asked for nothing.
        heard(Kind.LEAVE)


# Other processes


def test_a_forked_child_joins_by_itself(server: Server, address: str) -> None:
    with ringtable.connect(address) as table:
        assert table.incr("count") == 1

        def use() -> int:
            return [table.incr("count") for _ in range(500)][-1]

        with Child(use) as child:
            for _ in range(500):
                table.incr("count")
            child.result()
        assert table["count"] == b"1001"


def test_no_two_children_greet_alike(address: str) -> None:
    """A server would take two that ask for a session with the same number for one, if the second one got the port of
    the first, which was killed: it would answer with replies to what that one has asked.
    """

    def greet(port: int) -> None:
        with pytest.raises(ringtable.Timeout):
            ringtable.connect(f"udp://127.0.0.1:{port}", timeout=0.1)

    ringtable.connect(address).close()
    nonces = []
    for _ in range(2):
        with socket.socket(type=socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            bound.settimeout(DEADLINE_S)
            with Child(greet, bound.getsockname()[1]) as child:
                nonces.append(Message.unpack(bound.recv(1 << 16)).number)
                child.result()
    assert nonces[0] != nonces[1]


def test_pickled(address: str) -> None:
    with ringtable.connect(address) as table, pickle.loads(pickle.dumps(table)) as copy:
        copy["key"] = b"value"
        assert table["key"] == b"value"
        assert copy.transport == "udp"
