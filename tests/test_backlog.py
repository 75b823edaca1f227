"""Clients that send all before they read: the server goes on receiving, up to a bound."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import ringtable
from ringtable import Server
from support import DEADLINE_S, Address, RawConnection, ServerProcess, connected, figure, resp, wait_until

MIB = 1 << 20
BACKLOG_MAX = 32 * MIB
"""`REQUEST_BACKLOG_MAX` in limits.rs; all clients together may have twice that, with the table that these tests use."""


@pytest.fixture
def client(address: Address) -> Iterator[Any]:
    """redis-py, which would repeat a pipeline that ended with an error."""
    place = {"unix_socket_path": address} if isinstance(address, str) else {"port": address[1]}
    options: dict[str, Any] = {**place, "socket_timeout": DEADLINE_S}
    with redis.Redis(**options) as client:
        yield client


def test_smoke(address: Address) -> None:
    with RawConnection(address) as connection:
        connection.send(resp(b"PING") * 100_000)
        assert connection.read(7 * 100_000) == b"+PONG\r\n" * 100_000


@pytest.mark.parametrize(
    ("count", "ask", "reply"),
    [
        (8_000, lambda pipeline, _: pipeline.get("value"), bytes(100)),
        (30_000, lambda pipeline, index: pipeline.set(f"key {index}", "value"), True),
        (100_000, lambda pipeline, _: pipeline.ping(), True),
    ],
    ids=["GET", "SET", "PING"],
)
def test_a_deep_pipeline_of_redis_py(client: Any, count: int, ask: Callable[[Any, int], Any], reply: object) -> None:
    client.set("value", bytes(100))
    with client.pipeline(transaction=False) as pipeline:
        for index in range(count):
            ask(pipeline, index)
        assert pipeline.execute() == [reply] * count


def test_each_request_of_a_deep_pipeline_is_executed_once(client: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(40_000):
            pipeline.incr("count")
        assert pipeline.execute() == list(range(1, 40_001))
    assert client.get("count") == b"40000"
    assert figure("memory_waiting_requests") == 0


def test_large_requests_wait_as_small_ones_do(client: Any) -> None:
    """A reply that is not read holds up values of 1 MiB, in the order in which they were sent."""
    client.set("large", bytes(8 * MIB))
    with client.pipeline(transaction=False) as pipeline:
        pipeline.get("large")
        for index in range(20):
            pipeline.set("key", b"%d" % index + bytes(MIB))
            pipeline.get("key")
        replies = pipeline.execute()
    assert replies[0] == bytes(8 * MIB)
    assert replies[1::2] == [True] * 20
    assert [reply.rstrip(b"\0") for reply in replies[2::2]] == [b"%d" % index for index in range(20)]


def test_who_has_sent_all_and_closed_that_side_gets_all_replies(address: Address) -> None:
    with closing(connected(address)) as connection, connection.makefile("rb") as replies:
        connection.sendall(resp(b"PING") * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert replies.read() == b"+PONG\r\n" * 100_000


# Large enough that all of them may have much more than one.
@pytest.mark.parametrize("server", ["1GiB"], indirect=True)
def test_a_client_that_sends_too_much_ahead_is_told(address: Address, server: Server) -> None:
    """It gets what it is owed, then the reason, then the end; and may send as much as it likes meanwhile."""
    with closing(connected(address)) as connection, connection.makefile("rb") as replies:
        connection.sendall(resp(b"INCR", b"count") * 1_000)
        piece = resp(b"PING") * 100_000
        for _ in range(2 * BACKLOG_MAX // len(piece)):
            connection.sendall(piece)
            assert figure("memory_waiting_requests") <= BACKLOG_MAX
        assert figure("memory_waiting_requests") == 0
        lines = replies.read().splitlines()
    assert lines[:1_000] == [b":%d" % number for number in range(1, 1_001)]
    assert set(lines[1_000:-1]) == {b"+PONG"}
    assert lines[-1].startswith(b"-BACKLOG ")
    wait_until(lambda: figure("clients_ended_backlog") == 1, "the end is counted")


def test_why_a_connection_ends_is_read_though_more_was_sent(ringtable_dir: Path, server_process: ServerProcess) -> None:
    """It was closed with bytes that nobody had read, which resets it: the reason could be lost on the way."""
    with closing(connected(str(ringtable_dir / "default.sock"))) as connection, connection.makefile("rb") as replies:
        server_process.freeze()
        connection.sendall(b"*nonsense\r\n" + b"x" * 100_000)
        os.kill(server_process.pid, signal.SIGCONT)
        assert replies.read().startswith(b"-ERR Protocol error")


@pytest.mark.parametrize(("end", "last"), [(b"*nonsense\r\n", b"-ERR "), (b"QUIT\r\n", b"+OK")])
def test_all_replies_are_read_though_more_was_sent_after_the_end(address: Address, end: bytes, last: bytes) -> None:
    """A TCP connection that is closed before its replies are delivered is reset by what comes then."""
    with closing(connected(address)) as connection, connection.makefile("rb") as replies:
        connection.sendall(resp(b"SET", b"key", b"value" * 40) + resp(b"GET", b"key") * 10_000 + end)
        with suppress(ConnectionError):
            for _ in range(20):
                connection.sendall(b"x" * 1_000)
                time.sleep(0.01)
        lines = replies.read().splitlines()
    assert len(lines) == 1 + 2 * 10_000 + 1
    assert lines[-1].startswith(last)
    wait_until(lambda: figure("clients") == 1, "the connection is closed")


def test_a_client_that_is_about_to_be_told_why_and_never_reads(server: Server) -> None:
    """It costs its own place, and no time."""
    assert server.tcp is not None
    with closing(connected(("127.0.0.1", int(server.tcp.rpartition(":")[2])))) as connection:
        request = resp(b"GET", b"key") * 10_000 + b"*nonsense\r\n"
        connection.sendall(resp(b"SET", b"key", b"value" * 40) + request)
        wait_until(lambda: figure("requests") >= 10_000, "all is executed")
        began = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - began < 0.15
        assert figure("clients") == 2
    wait_until(lambda: figure("clients") == 1, "it is gone")
    assert figure("clients_ended_protocol") == 1


def test_those_who_never_read_are_bounded_together(address: Address, server: Server) -> None:
    """And others find room for a deep pipeline all the same."""
    with ExitStack() as stack:
        piece = resp(b"PING") * 10_000
        for _ in range(12):
            connection = stack.enter_context(closing(connected(address)))
            for _ in range(20 * MIB // len(piece)):
                connection.sendall(piece)
        assert 32 * MIB < figure("memory_waiting_requests") <= 2 * BACKLOG_MAX + 2 * MIB
        with RawConnection(address) as honest:
            honest.send(resp(b"PING") * 100_000)
            assert honest.read(7 * 100_000) == b"+PONG\r\n" * 100_000
    wait_until(lambda: figure("memory_waiting_requests") == 0, "what they have sent is forgotten")
    wait_until(lambda: figure("clients") == 1, "they are gone")


def test_a_killed_clients_requests_are_forgotten(address: Address) -> None:
    connection = connected(address)
    with closing(connection):
        connection.sendall(resp(b"PING") * 1_000_000)
        wait_until(lambda: figure("memory_waiting_requests") > 0, "requests wait")
    wait_until(lambda: figure("clients") == 1, "the client is gone")
    assert figure("memory_waiting_requests") == 0
    assert figure("clients_gone") >= 1


@pytest.mark.parametrize("way", ["socket", "tcp"])
def test_our_own_client_reads_while_it_sends(way: str, server: Server) -> None:
    """It has more to say than may wait."""
    table = ringtable.Table(server.tcp) if way == "tcp" and server.tcp else ringtable.Table(transport="socket")
    with table:
        # Each of which fits the socket many times, so that it is never full.
        keys = [b"%5d " % (index % 50) + bytes(1_000) for index in range(50_000)]
        assert sum(map(len, keys)) > 1.4 * BACKLOG_MAX
        table.set_many(dict.fromkeys(keys, bytes(1_500)))
        pipeline = table.pipeline()
        for key in keys:
            pipeline.get(key)
        assert pipeline.execute() == [bytes(1_500)] * len(keys)
    assert figure("clients_ended_backlog") == 0
