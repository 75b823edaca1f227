"""redis-py, unchanged, on the unix socket."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import ringtable
from ringtable import Server
from support import DEADLINE_S


# The stubs of redis-py serve its asynchronous client, too, so that each result may be awaitable: `Any` says less and is
# true.
@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=server.path, protocol=request.param) as client:
        yield client


def test_smoke(client: Any) -> None:
    assert client.ping()


def test_strings(client: Any) -> None:
    assert client.get("key") is None
    assert client.set("key", "value")
    assert client.get("key") == b"value"
    assert client.set("key", "other", nx=True) is None
    assert client.set("key", "other", xx=True)
    assert client.exists("key", "missing") == 1
    assert client.delete("key", "missing") == 1
    assert client.dbsize() == 0


def test_integers(client: Any) -> None:
    assert client.incrby("count", 5) == 5
    assert client.incrby("count", -7) == -2
    client.set("key", "text")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incrby("key", 1)


def test_expiry(client: Any) -> None:
    client.set("key", "value", ex=100)
    assert 99 <= client.ttl("key") <= 100
    assert client.expire("key", 50)
    assert 49 <= client.ttl("key") <= 50
    client.set("key", "value", px=60_000)
    assert 59_000 < client.pttl("key") <= 60_000
    client.set("key", "value")
    assert client.ttl("key") == -1
    assert client.ttl("missing") == -2
    assert not client.expire("missing", 50)


def test_a_pipeline(client: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for index in range(10_000):
            pipeline.set(f"key {index}", b"v" * (index % 200))
        assert all(pipeline.execute())
    assert client.dbsize() == 10_000
    assert {*client.scan_iter()} == {b"key %d" % index for index in range(10_000)}
    assert client.flushall()
    assert client.dbsize() == 0


def test_binary_and_large_values(client: Any) -> None:
    value = bytes(range(256)) * 8_192
    client.set(b"\x00\r\n", value)
    assert client.get(b"\x00\r\n") == value


def test_an_unknown_command_leaves_the_connection_usable(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.execute_command("NONSENSE")
    assert client.ping()


def test_both_kinds_of_clients_see_one_table(client: Any, server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"from ringtable"
        assert client.get("key") == b"from ringtable"
        client.set("key", "from redis-py")
        assert table["key"] == b"from redis-py"
        client.incrby("count", 2)
        assert table.incr("count", 3) == 5


def test_a_request_of_more_arguments_than_are_read_in_a_turn(server: Server) -> None:
    # In one piece, so that nothing that comes later wakes the worker.
    count = 16_000
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(server.path)
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$5\r\nvalue\r\n")
        assert connection.recv(100) == b"+OK\r\n"
        connection.sendall(b"*%d\r\n$6\r\nEXISTS\r\n" % (count + 1) + b"$0\r\n\r\n" * count)
        assert connection.recv(100) == b":%d\r\n" % count
