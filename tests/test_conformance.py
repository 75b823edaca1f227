"""What every call does: one suite for every way to a table."""

import array
import math
import pickle
import random
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ringtable
from ringtable import Server, Table
from support import wait_until

if TYPE_CHECKING:
    from ringtable._types import Topology

# Around the sizes at which something changes: a word, a size class, the pin limit, a lane's ring, many rings.
VALUE_SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 4_095, 4_096, 4_097, 65_535, 131_072, 131_073, 1_048_579, 8 << 20]
# More than any ring holds at once, in requests and in replies.
BURST = 10_000


WAYS: dict[str, tuple["Topology", dict[str, Any]]] = {
    "lane, direct reads": ("lanes", {"transport": "lane"}),
    "lane, reads through the server": ("lanes", {"transport": "lane", "reads": "server"}),
    "shared rings, direct reads": ("shared", {"transport": "rings"}),
    "shared rings, reads through the server": ("shared", {"transport": "rings", "reads": "server"}),
    "sharded rings, direct reads": ("sharded", {"transport": "rings"}),
    "sharded rings, reads through the server": ("sharded", {"transport": "rings", "reads": "server"}),
    "socket": ("lanes", {"transport": "socket"}),
    "socket of a server with rings": ("shared", {"transport": "socket"}),
    "tcp": ("lanes", {}),
    "udp": ("lanes", {}),
}


@pytest.fixture(params=WAYS)
def table(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[Table]:
    topology, options = WAYS[request.param]
    ports: dict[str, Any] = {request.param: "127.0.0.1:0"} if request.param in ("tcp", "udp") else {}
    with (
        Server(workers=2, max_memory="256MiB", topology=topology, **ports) as server,
        Table(server.tcp or server.udp or "default", **options) as table,
    ):
        yield table


def fits(table: Table, size: int) -> bool:
    """Whether the table takes keys and values of that size: over UDP, what has room in a datagram."""
    return table.transport != "udp" or size < 65_000


def test_smoke(table: Table) -> None:
    table["hello"] = b"world"
    assert table["hello"] == b"world"


# One key


def test_keys_are_text_or_bytes(table: Table) -> None:
    table["größe"] = b"1"
    assert table["größe".encode()] == b"1"
    table[b"\x00\xff"] = b"2"
    assert table[b"\x00\xff"] == b"2"
    assert set(table) == {"größe".encode(), b"\x00\xff"}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255, 256, ringtable.KEY_SIZE_MAX])
def test_key_sizes(table: Table, size: int) -> None:
    key = b"k" * size
    if not fits(table, size):
        with pytest.raises(ringtable.KeyTooLong, match=r"65,?535 bytes.*65,?504"):
            table[key] = b"value"
        return
    assert key not in table
    table[key] = b"value"
    assert table[key] == b"value"
    assert list(table) == [key]
    del table[key]
    assert key not in table


def test_a_key_that_is_too_long(table: Table) -> None:
    key = b"k" * (ringtable.KEY_SIZE_MAX + 1)
    for call in (table.get, table.delete, table.incr, lambda key: table.set(key, b"")):
        with pytest.raises(ringtable.KeyTooLong, match=r"65,?536.*65,?535"):
            call(key)
    assert table.call("PING") == b"PONG"


@pytest.mark.parametrize("key", [1, None, 1.5, ("a",)])
def test_what_is_no_key(table: Table, key: Any) -> None:
    with pytest.raises(TypeError):
        table[key]
    with pytest.raises(TypeError):
        table[key] = b""


@pytest.mark.parametrize("size", VALUE_SIZES)
def test_value_sizes(table: Table, size: int) -> None:
    value = bytes(index * 7 % 251 for index in range(251)) * (size // 251 + 1)
    if not fits(table, size):
        with pytest.raises(ringtable.ValueTooLarge, match=rf"{size} bytes.*65,?504"):
            table["key"] = value[:size]
        return
    table["key"] = value[:size]
    assert table["key"] == value[:size]
    assert table.get("key") == value[:size]
    assert table.get_many(["key"]) == [value[:size]]


def test_a_value_that_is_too_large(table: Table) -> None:
    table["key"] = b"small"
    # Zeroes that were never touched take no memory.
    with pytest.raises(ringtable.ValueTooLarge, match=r"536,?870,?913.*536,?870,?912"):
        table["key"] = bytes(ringtable.VALUE_SIZE_MAX + 1)
    assert table["key"] == b"small"


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abcdef")[1:3], b"bc"),
        (array.array("I", [1, 2]), array.array("I", [1, 2]).tobytes()),
    ],
)
def test_values_are_anything_with_a_buffer(table: Table, value: Any, content: bytes) -> None:
    table["key"] = value
    assert table["key"] == content
    table.set_many({"other": value})
    assert table["other"] == content


@pytest.mark.parametrize("value", ["text", 1, None, ["list"]])
def test_what_is_no_value(table: Table, value: Any) -> None:
    with pytest.raises(TypeError):
        table["key"] = value
    with pytest.raises(TypeError):
        table.set_many([("key", value)])
    assert "key" not in table


def test_a_missing_key(table: Table) -> None:
    with pytest.raises(KeyError, match="missing"):
        table["missing"]
    with pytest.raises(KeyError, match="missing"):
        del table["missing"]
    assert table.get("missing") is None
    assert table.get("missing", b"default") == b"default"
    assert table.get("missing", 5) == 5
    assert "missing" not in table
    assert table.delete("missing") == 0


def test_overwriting(table: Table) -> None:
    for size in (1, 1_000, 10, 100_000 if fits(table, 100_000) else 60_000, 0):
        table["key"] = b"v" * size
        assert table["key"] == b"v" * size
    assert len(table) == 1


def test_set_if_absent_or_present(table: Table) -> None:
    assert not table.set("key", b"1", xx=True)
    assert "key" not in table
    assert table.set("key", b"2", nx=True)
    assert not table.set("key", b"3", nx=True)
    assert table["key"] == b"2"
    assert table.set("key", b"4", xx=True)
    assert table["key"] == b"4"


def test_delete_counts_what_was_there(table: Table) -> None:
    table.set_many({"a": b"1", "b": b"2"})
    assert table.delete("a", "missing", "a", "b") == 2
    assert table.delete() == 0


# Time to live


def test_time_to_live(table: Table) -> None:
    table["key"] = b"value"
    assert table.ttl("key") is None
    assert table.expire("key", 100)
    remaining = table.ttl("key")
    assert remaining is not None
    assert 99 < remaining <= 100
    table["key"] = b"a new value lives for ever"
    assert table.ttl("key") is None
    assert not table.expire("missing", 100)
    with pytest.raises(KeyError, match="missing"):
        table.ttl("missing")


@pytest.mark.parametrize("size", [10, 300, 5_000, 100_000, 1 << 20])
def test_a_new_time_to_live_leaves_the_value_alone(table: Table, size: int) -> None:
    value = random.randbytes(size if fits(table, size) else 60_000)
    table["key"] = value
    versions = []
    for ttl in (100, 200, 50):
        found = table.get_with_version("key")
        assert found is not None
        assert found[0] == value
        versions.append(found[1])
        assert table.expire("key", ttl)
        remaining = table.ttl("key")
        assert remaining is not None
        assert ttl - 10 < remaining <= ttl
        # It is a change like any other to who has read the value before.
        assert not table.set("key", b"other", if_version=versions[-1])
        assert table["key"] == value
    assert versions == sorted(set(versions))
    assert table.expire("key", 0.02)
    wait_until(lambda: "key" not in table, "its time has passed")
    assert not table.expire("key", 100)
    assert table.get_with_version("key") is None


def test_an_entry_past_its_time_is_absent(table: Table) -> None:
    table.set("key", b"value", ttl=0.05)
    table.set_many({"other": b"value"}, ttl=0.05)
    wait_until(lambda: "key" not in table and "other" not in table, "the entries have expired")
    assert table.get("key") is None
    assert table.get_many(["key", "other"]) == [None, None]
    assert table.delete("key") == 0
    assert list(table) == []
    assert table.add("key", b"again")


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e300])
def test_impossible_times_to_live(table: Table, ttl: float) -> None:
    with pytest.raises(ringtable.Error):
        table.set("key", b"value", ttl=ttl)
    assert "key" not in table


# Integers


def test_increments(table: Table) -> None:
    assert table.incr("count") == 1
    assert table.incr("count", 41) == 42
    assert table["count"] == b"42"
    assert table.incr("count", -50) == -8
    table["count"] = b"9223372036854775806"
    assert table.incr("count") == (1 << 63) - 1


@pytest.mark.parametrize("value", [b"", b"text", b"1.5", b" 1", b"9223372036854775808", b"1" * 100])
def test_incrementing_what_is_no_integer(table: Table, value: bytes) -> None:
    table["key"] = value
    with pytest.raises(ringtable.NotAnInteger):
        table.incr("key")
    assert table["key"] == value


def test_an_increment_that_overflows(table: Table) -> None:
    table["key"] = b"%d" % ((1 << 63) - 1)
    with pytest.raises(ringtable.NotAnInteger):
        table.incr("key")
    with pytest.raises((ringtable.Error, OverflowError)):
        table.incr("key", 1 << 63)
    assert table["key"] == b"%d" % ((1 << 63) - 1)


# Many keys


def test_many_keys_in_order(table: Table) -> None:
    table.set_many({"a": b"1", "b": b"2"})
    table.set_many((key, b"3") for key in (b"c", "d"))
    assert table.get_many(["d", b"a", "missing", "b", "a"]) == [b"3", b"1", None, b"2", b"1"]
    assert table.get_many(key for key in "abc") == [b"1", b"2", b"3"]
    assert table.delete_many(["a", "b", "missing"]) == 2
    assert sorted(table) == [b"c", b"d"]


def test_many_of_none(table: Table) -> None:
    table.set_many({})
    table.set_many([])
    assert table.get_many([]) == []
    assert table.delete_many([]) == 0


def test_the_last_of_equal_keys_wins(table: Table) -> None:
    table.set_many([("key", b"%d" % index) for index in range(100)])
    assert table["key"] == b"99"


def test_bursts_larger_than_any_ring(table: Table) -> None:
    entries = {b"key %d" % index: b"value %d" % index * (index % 50) for index in range(BURST)}
    table.set_many(entries)
    assert len(table) == BURST
    assert table.get_many(entries) == list(entries.values())
    assert dict(table.items()) == entries
    assert table.delete_many(entries) == BURST
    assert len(table) == 0


def test_large_values_in_a_burst(table: Table) -> None:
    entries = {b"%d" % index: bytes([index]) * (300_000 if fits(table, 300_000) else 60_000) for index in range(100)}
    table.set_many(entries)
    assert table.get_many(entries) == list(entries.values())


def test_the_bucket_of_a_key(table: Table) -> None:
    entries = {b"key %d" % index: b"%d" % index for index in range(1_000)}
    table.set_many(entries)
    for key, value in entries.items():
        bucket = dict(table.read_bucket(key))
        assert bucket[key] == value
        assert bucket.items() <= entries.items()


# The mapping


def test_it_is_a_mapping(table: Table) -> None:
    entries = {b"key %d" % index: b"%d" % index for index in range(1_000)}
    assert isinstance(table, MutableMapping)
    assert not table
    table.update(entries)
    assert len(table) == len(entries)
    assert sorted(table) == sorted(entries)
    assert sorted(table.keys()) == sorted(entries)
    assert sorted(table.values()) == sorted(entries.values())
    assert dict(table.items()) == dict(table) == entries
    assert (b"key 5", b"5") in table.items()
    assert b"5" in table.values()
    table.clear()
    assert len(table) == 0
    assert list(table) == []


def test_update(table: Table) -> None:
    table.update({"a": b"1"}, b=b"2")
    table.update([("c", b"3")])
    table.update(d=b"4")
    table.update()
    assert dict(table) == {b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"}


def test_pop(table: Table) -> None:
    table["key"] = b"value"
    assert table.pop("key") == b"value"
    assert table.pop("key", None) is None
    with pytest.raises(KeyError):
        table.pop("key")


def test_popitem(table: Table) -> None:
    entries = {b"a": b"1", b"b": b"2"}
    table.update(entries)
    assert dict([table.popitem(), table.popitem()]) == entries
    with pytest.raises(KeyError):
        table.popitem()


def test_setdefault_and_add(table: Table) -> None:
    assert table.setdefault("key", b"1") == b"1"
    assert table.setdefault("key", b"2") == b"1"
    assert not table.add("key", b"3")
    assert table.add("other", b"4", ttl=100)
    assert table.ttl("other") is not None


def test_deleting_while_iterating(table: Table) -> None:
    table.set_many((b"%d" % index, b"") for index in range(BURST))
    for key in table:
        del table[key]
    assert len(table) == 0


def test_a_table_is_equal_to_itself_alone(table: Table) -> None:
    with Table() as other:
        assert table == table
        assert table != other
        assert len({table, other}) == 2


# Pipelines and commands


def test_a_pipeline_returns_results_in_order(table: Table) -> None:
    pipeline = table.pipeline()
    pipeline.set("a", b"1").set("a", b"2", nx=True).get("a").incr("a", 5).get("missing")
    pipeline.expire("a", 100).exists("a").delete("a", "missing").exists("a").call("PING")
    assert len(pipeline) == 10
    assert pipeline.execute() == [True, False, b"1", 6, None, True, True, 1, False, b"PONG"]
    assert len(pipeline) == 0
    assert pipeline.execute() == []


def test_a_pipeline_as_a_context(table: Table) -> None:
    with table.pipeline() as pipeline:
        pipeline.set("key", b"value", ttl=100).read_bucket("key")
        assert "key" not in table
    assert pipeline.results == [True, [(b"key", b"value")]]
    with pytest.raises(ZeroDivisionError), table.pipeline() as pipeline:
        pipeline.delete("key").incr("key", 1 // 0)
    assert "key" in table


def test_an_error_in_a_pipeline(table: Table) -> None:
    pipeline = table.pipeline().set("a", b"text").incr("a").set("b", b"1")
    with pytest.raises(ringtable.NotAnInteger) as raised:
        pipeline.execute()
    assert "command 2 of 3" in raised.value.__notes__[0]
    assert table["b"] == b"1"
    first, second, third = table.pipeline().get("a").incr("a").get("b").execute(raise_errors=False)
    assert (first, third) == (b"text", b"1")
    assert isinstance(second, ringtable.NotAnInteger)


def test_a_pipeline_larger_than_any_ring(table: Table) -> None:
    with table.pipeline() as pipeline:
        for _ in range(BURST):
            pipeline.incr("count")
    assert pipeline.results == list(range(1, BURST + 1))


def test_commands_by_name(table: Table) -> None:
    assert table.call("PING") == b"PONG"
    assert table.call("ping", "hello") == b"hello"
    assert table.call("SET", "key", b"value", "PX", 100_000) == b"OK"
    assert table.call("GET", "key") == b"value"
    assert table.call("GET", "missing") is None
    assert table.call("EXISTS", "key", "missing", "key") == 2
    assert table.call("DBSIZE") == 1
    assert table.call("TTL", "key") == 100
    assert table.call("PTTL", "missing") == -2
    assert table.call("FLUSHALL") == b"OK"


def test_commands_with_more_keys_than_a_turn_has(table: Table) -> None:
    keys = [f"key {number}" for number in range(1_000)]
    table.set_many((key, b"value") for key in keys[::2])
    assert table.call("EXISTS", *keys, *keys[:300]) == 650
    with table.pipeline() as pipeline:
        pipeline.delete(*keys, *keys[:300]).exists(keys[998]).call("PING")
    assert pipeline.results == [500, False, b"PONG"]
    assert len(table) == 0


def test_commands_that_are_refused(table: Table) -> None:
    with pytest.raises(ringtable.CommandError, match="unknown command"):
        table.call("NONSENSE", "a")
    with pytest.raises(ringtable.CommandError, match="number of arguments"):
        table.call("GET")
    with pytest.raises(ringtable.CommandError):
        table.call("SET", "key", b"value", "EX")
    replies = table.call_many([("SET", "a", b"1"), ("NONSENSE",), ("GET", "a")])
    assert replies[0] == b"OK"
    assert isinstance(replies[1], ringtable.CommandError)
    assert replies[2] == b"1"


def test_the_server_tells_its_options(table: Table) -> None:
    options: Any = table.call("RING.OPTIONS")
    assert (options[b"workers"], options[b"mode"], options[b"eviction"]) == (2, 0o600, b"noeviction")
    assert options[b"linger_ms"] is None
    assert options[b"max_memory"] == table.stats()["max_memory"]
    with pytest.raises(ringtable.CommandError):
        table.call("RING.OPTIONS", "workers")


def test_stats(table: Table) -> None:
    before = table.stats()
    table.update({"a": b"1", "b": b"2"})
    after = table.stats()
    assert after["entries"] == 2
    assert int(after["buckets"]) >= 1
    assert after["clients"] >= 1
    assert int(after["requests"]) > int(before["requests"])


# The handle


def test_options_can_be_read_back(server: Server) -> None:
    with ringtable.connect(timeout=5, reads="server", writes="posted") as table:
        assert (table.timeout, table.reads, table.writes) == (5, "server", "posted")
        assert table.transport == "lane"
        assert table.requested_transport == "auto"
        assert "default" in repr(table)


@pytest.mark.parametrize("prefix", ["", "unix://"])
def test_addresses(server: Server, prefix: str) -> None:
    with ringtable.connect(prefix + server.path) as table:
        table["key"] = b"value"
        assert ringtable.connect()["key"] == b"value"


def test_a_name_that_nobody_serves() -> None:
    with pytest.raises(ringtable.TableNotFound, match="nobody"):
        ringtable.connect("nobody")


@pytest.mark.parametrize("options", [{"reads": "x"}, {"writes": "x"}, {"transport": "x"}, {"timeout": -1}])
def test_options_that_do_not_exist(server: Server, options: dict[str, Any]) -> None:
    with pytest.raises((ringtable.InvalidOption, ValueError)):
        Table(**options)


def test_a_closed_table(table: Table) -> None:
    table.close()
    table.close()
    assert table.closed
    assert "closed" in repr(table)
    calls = (
        len,
        list,
        lambda table: table["key"],
        lambda table: table.set("key", b""),
        lambda table: table.call("PING"),
    )
    for call in calls:
        with pytest.raises(ringtable.Closed):
            call(table)


def test_pickling(table: Table) -> None:
    table["key"] = b"value"
    with pickle.loads(pickle.dumps(table)) as copy:
        assert type(copy) is Table
        assert copy["key"] == b"value"
        assert (copy.transport, copy.reads) == (table.transport, table.reads)


# Posted writes


@pytest.fixture
def posting(table: Table) -> Iterator[Table]:
    with Table(table.address, transport=table.requested_transport, reads=table.reads, writes="posted") as posting:
        yield posting


def test_a_table_reads_its_own_posted_writes(posting: Table) -> None:
    for index in range(1_000):
        posting["key"] = b"%d" % index
        assert posting["key"] == b"%d" % index
    posting.delete("key")
    assert posting.get("key") is None
    posting["a"], posting["b"] = b"1", b"2"
    assert posting.get_many(["a", "b"]) == [b"1", b"2"]
    assert len(posting) == 2


def test_posted_writes_are_seen_by_all_after_a_flush(table: Table, posting: Table) -> None:
    for index in range(BURST):
        posting.set(b"%d" % index, b"value")
    posting.flush()
    assert len(table) == BURST
    assert table.get_many(b"%d" % index for index in range(BURST)) == [b"value"] * BURST


def test_posting_a_single_call(table: Table) -> None:
    table.set("key", b"value", writes="posted")
    assert table["key"] == b"value"
    table.delete("key", writes="posted")
    assert "key" not in table


# Servers


def test_a_second_server_of_the_same_name(server: Server) -> None:
    with pytest.raises(ringtable.ServerExists, match="default"):
        Server()
    with ringtable.connect() as table:
        assert table.call("PING") == b"PONG"


def test_a_pipeline_says_what_is_in_it(table: Table) -> None:
    pipeline = table.pipeline().get("key").delete("key", "other")
    assert repr(pipeline) == "<ringtable.Pipeline of 2 commands that are not sent yet>"
    pipeline.execute()
    assert repr(pipeline) == "<ringtable.Pipeline of 0 commands that are not sent yet>"


def test_a_server_is_closed_like_a_table() -> None:
    server = Server()
    with ringtable.connect() as table:
        server.close()
        server.close()
        assert not server.running
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"


def test_a_server_can_be_started_again() -> None:
    for _ in range(3):
        with Server() as server, ringtable.connect() as table:
            assert len(table) == 0
            table["key"] = b"value"
        assert not server.running
        assert server.wait(0)
        server.stop()


def test_servers_side_by_side(server: Server) -> None:
    with Server("other") as other, ringtable.connect("other") as there, ringtable.connect() as here:
        there["key"] = b"there"
        assert "key" not in here
        assert other.path != server.path
        assert not other.wait(0)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": 1_000_000},
        {"buckets": 0},
        {"buckets": -1},
        {"max_memory": 1},
        {"max_memory": "1GB"},
        {"max_clients": 0},
        {"spin_us": -1.0},
    ],
)
def test_a_servers_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ringtable.InvalidOption):
        Server(**options)


@pytest.mark.parametrize("name", ["", "..", "n" * 200, "a b", "ä", "a\0b", "tcp://host"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ringtable.Error):
        Server(name)


def test_more_clients_than_allowed() -> None:
    with Server(max_clients=2), ringtable.connect() as first, ringtable.connect() as second:
        with pytest.raises(ringtable.TooManyClients, match="2"):
            ringtable.connect()
        assert first.call("PING") == second.call("PING") == b"PONG"
        second.close()

        def connects() -> bool:
            try:
                ringtable.connect().close()
            except ringtable.TooManyClients:
                return False
            return True

        wait_until(connects, "the closed client has made room")
