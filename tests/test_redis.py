"""redis-py, unchanged, on the unix socket."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import ringtable
from ringtable import Server
from support import DEADLINE_S, RawConnection, resp


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


def test_no_time_to_live_is_longer_than_a_table_takes(client: Any) -> None:
    longest = 4_000_000_000
    client.set("key", "value", ex=longest)
    assert client.expire("key", longest)
    assert client.pexpire("key", longest * 1_000)
    calls: list[Callable[[], Any]] = [
        lambda: client.set("key", "other", ex=longest + 1),
        lambda: client.set("key", "other", px=longest * 1_000 + 1),
        lambda: client.set("key", "other", ex=0),
        lambda: client.expire("key", longest + 1),
        lambda: client.pexpire("key", longest * 1_000 + 1),
    ]
    for call in calls:
        with pytest.raises(redis.ResponseError, match=r"invalid expire time .* up to 4000000000"):
            call()
    assert client.get("key") == b"value"
    assert 0 <= longest - client.ttl("key") <= DEADLINE_S
    assert client.expire("key", -longest)
    assert client.get("key") is None


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


def test_nothing_of_a_transaction_is_executed(client: Any) -> None:
    client.set("balance", 100)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.decrby("balance", 60).set("paid", 1).set("large", bytes(1 << 20))
        with pytest.raises(redis.ResponseError, match="no transactions"):
            pipeline.execute()
    assert client.get("balance") == b"100"
    assert client.exists("paid", "large") == 0
    # By hand, on one connection, with a typing error in it.
    single = client.client()
    for words, answer in [
        ("EXEC", "EXEC without MULTI"),
        ("MULTI", "no transactions"),
        ("DEL balance", "not executed"),
        ("NONSENSE", "not executed"),
        ("MULTI", "nested"),
        ("EXEC", "nothing of it was executed"),
        ("DISCARD", "DISCARD without MULTI"),
    ]:
        with pytest.raises(redis.ResponseError, match=answer):
            single.execute_command(*words.split())
    single.close()
    assert client.get("balance") == b"100"


def test_what_clients_send_as_they_connect(server: Server) -> None:
    with redis.Redis(
        unix_socket_path=server.path, protocol=3, db=0, client_name="worker-1", username="default", password="any"
    ) as client:
        assert client.ping()
        assert client.echo("words") == b"words"
        number = client.client_id()
        assert client.execute_command("HELLO", "3")[b"id"] == number > 0
        assert client.client_setinfo("LIB-VER", "1.0")
        with pytest.raises(redis.ResponseError, match="spaces"):
            client.client_setname("two words")
        with pytest.raises(redis.ResponseError, match="subcommand"):
            client.execute_command("CLIENT", "NONSENSE")
        with pytest.raises(redis.ResponseError, match="out of range"):
            client.select(1)
        with pytest.raises(redis.AuthenticationError, match="without any password"):
            client.execute_command("AUTH", "secret")
        with pytest.raises(redis.AuthenticationError, match="username-password"):
            client.execute_command("AUTH", "somebody", "secret")


def test_a_version_of_the_protocol_begins_with_the_reply_to_its_hello(server: Server) -> None:
    with RawConnection(server.path) as connection:
        # Version 2 has no maps; both are read one after the other, so that neither leaves anything behind.
        connection.send(resp(b"HELLO", b"3") + resp(b"HELLO") + resp(b"HELLO", b"2") + resp(b"HELLO", b"4"))
        assert [connection.reply()[b"proto"] for _ in range(2)] == [3, 3]
        assert connection.reply()[6:8] == [b"proto", 2]
        assert str(connection.reply()).startswith("NOPROTO ")
        assert connection.command(b"HELLO")[6:8] == [b"proto", 2]


def test_every_way_answers_hello(table: ringtable.Table) -> None:
    answer = table.call("HELLO", "3")
    assert isinstance(answer, dict)
    assert (answer[b"server"], answer[b"proto"]) == (b"ringtable", 3)
    assert table.call("PING") == b"PONG"


def test_a_scan_finds_keys_by_their_pattern(client: Any) -> None:
    for kind in ("user", "page"):
        for index in range(50):
            client.set(f"{kind}:{index}", "v")
    assert {*client.scan_iter(match="user:*")} == {b"user:%d" % index for index in range(50)}
    assert {*client.scan_iter(match="*:1[2-4]", count=100)} == {
        b"%s:%d" % (kind, index) for kind in (b"user", b"page") for index in (12, 13, 14)
    }
    assert len([*client.scan_iter(_type="string")]) == 100
    assert [*client.scan_iter(_type="hash")] == []
    with pytest.raises(redis.ResponseError, match="syntax"):
        client.execute_command("SCAN", "0", "MATCH")
    with pytest.raises(redis.ResponseError, match="255"):
        client.execute_command("SCAN", "0", "MATCH", "a" * 300)


def test_a_scan_of_few_keys_takes_few_calls(ringtable_dir: object) -> None:
    with Server(buckets=10_000) as server, redis.Redis(unix_socket_path=server.path) as client:
        for key in ("a", "b", "c"):
            client.set(key, "v")
        cursor, found, calls = 0, [], 0
        while True:
            cursor, keys = client.scan(cursor, count=1)
            found += keys
            calls += 1
            if cursor == 0:
                break
        assert sorted(found) == [b"a", b"b", b"c"]
        # A turn may end before 4,096 buckets are looked at, on a machine that is busy, but not often.
        assert calls < 100


def test_what_is_refused_in_a_transaction_evicts_nothing(ringtable_dir: object) -> None:
    with (
        Server(max_memory="16MiB", cache=True) as server,
        RawConnection(server.path) as connection,
        ringtable.connect() as table,
    ):
        table.set_many((f"page {number}", bytes(100_000)) for number in range(300))
        before = table.stats()
        connection.send(b"*1\r\n$5\r\nMULTI\r\n" + resp(b"SET", b"key", bytes(5 << 20)) + resp(b"EXEC"))
        assert ["transactions" in str(connection.reply()) for _ in range(3)] == [True, True, True]
        after = table.stats()
        assert (after["entries"], after["evicted_keys"]) == (before["entries"], before["evicted_keys"])


def test_our_own_clients_have_no_transactions_either(server: Server) -> None:
    with ringtable.connect() as table:
        for word in ("MULTI", "multi", b"EXEC", "DISCARD"):
            with pytest.raises(ringtable.CommandError, match="no transactions"):
                table.call_many([["SET", "key", b"value"], [word]])
            with pytest.raises(ringtable.CommandError, match="no transactions"):
                table.pipeline().call(word)
        assert len(table) == 0
