"""A client without memory for what it reads or writes: that call says so, and the connection goes on in order."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import ringtable
from ringtable import ClientOutOfMemory, Server, Table
from support import CONNECTIONS, WAYS, Child, Way, room_for

LARGE_SIZE = 40 << 20
VALUE = os.urandom(1 << 10) * (LARGE_SIZE >> 10)
# Bytes that a client may still allocate: too few for the value; enough for it and not for a copy, in several places.
ROOMS = tuple(size << 20 for size in (20, 60, 140))
NO_ROOM = ROOMS[0]


@pytest.fixture(params=CONNECTIONS)
def way(request: pytest.FixtureRequest, ringtable_dir: Path) -> Iterator[Way]:
    topology, options = WAYS[request.param]
    tcp = "127.0.0.1:0" if request.param == "tcp" else None
    # On a busy machine a large reply takes a while.
    with Server(workers=2, max_memory="128MiB", topology=topology, tcp=tcp, slow_consumer_timeout=60) as server:
        way = Way(server.tcp or "default", options)
        with way.connect() as table:
            table["large"] = VALUE
            table["small"] = b"value"
        yield way


def outcome(call: Callable[[], Any]) -> object:
    """What a call comes to; large values only as whether they are right."""
    try:
        result = call()
    except ClientOutOfMemory as error:
        return type(error).__name__, "executed" in str(error)
    return result == VALUE if isinstance(result, bytes) and len(result) > 1_000 else result


def test_smoke(way: Way) -> None:
    def read() -> object:
        with way.connect() as table, room_for(NO_ROOM):
            return outcome(lambda: table["large"])

    with Child(read) as child:
        assert child.result() in [("ClientOutOfMemory", False), ("ClientOutOfMemory", True)]


def test_a_reply_without_room_is_dropped_once(way: Way) -> None:
    """Every later call raised, for increments that were executed."""

    def ask() -> list[object]:
        with way.connect(reads="server") as table:
            outcomes = []
            with room_for(NO_ROOM):
                for _ in range(3):
                    outcomes += [outcome(lambda: table.get("large")), outcome(lambda: table.incr("count"))]
                outcomes += [table.get("small"), len(table), sorted(table)]
            return [*outcomes, outcome(lambda: table.get("large"))]

    dropped = ("ClientOutOfMemory", True)
    with Child(ask) as child:
        keys = [b"count", b"large", b"small"]
        assert child.result() == [dropped, 1, dropped, 2, dropped, 3, b"value", 3, keys, True]


def test_the_others_of_a_pipeline_keep_their_replies(way: Way) -> None:
    def ask() -> list[object]:
        with way.connect(reads="server") as table, room_for(NO_ROOM):
            pipeline = table.pipeline().incr("count").get("large").incr("count").get("large").get("small").incr("count")
            replies = pipeline.execute(raise_errors=False)
            with pytest.raises(ClientOutOfMemory, match="executed") as raised:
                table.pipeline().incr("count").get("large").incr("count").execute()
            with pytest.raises(ClientOutOfMemory):
                table.get_many(["small", "large", "small"])
            with pytest.raises(ClientOutOfMemory):
                dict(table.items())
            return [*map(str, replies), raised.value.__notes__[0][:20], table.incr("count"), table.get_many(["small"])]

    with Child(ask) as child:
        replies = child.result()
        assert "executed" in replies[1]
        assert "executed" in replies[3]
        assert [*replies[:1], replies[2], *replies[4:]] == [
            "1", "2", "b'value'", "3", "This was command 2 o", 6, [b"value"],
        ]  # fmt: skip


READS: dict[str, Callable[[Table], Any]] = {
    "an item": lambda table: table["large"],
    "get_many": lambda table: table.get_many(["large"])[0],
    "a version": lambda table: (table.get_with_version("large") or [b""])[0],
    "a bucket": lambda table: dict(table.read_bucket("large"))[b"large"],
    "get_or_set": lambda table: table.get_or_set("large", bytes),
    "get_or_set of what may be stale": lambda table: table.get_or_set("large", bytes, 60, stale=60),
    "setdefault": lambda table: table.setdefault("large", b""),
    "a view as bytes": lambda table: bytes(table.view("large")),
    "a view as a copy": lambda table: table.view("large", copy_ok=True).nbytes == LARGE_SIZE and VALUE,
    "call": lambda table: table.call("GET", "large"),
    "a version by call": lambda table: cast("Any", table.call("RING.GETV", "large"))[0],
    "a bucket by call": lambda table: cast("Any", table.call("RING.BUCKET", "large"))[1],
    "a pipeline": lambda table: table.pipeline().get("large").execute()[0],
    "the entries": lambda table: dict(table.items())[b"large"],
}


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["direct", "server"])
def test_whatever_room_there_is_a_read_ends_well(way: Way, reads: Any) -> None:
    """Where there was room for the reply, and none for the `bytes` made of it, it was a panic."""

    def read() -> list[object]:
        wrong: list[object] = []
        for name, call in READS.items():
            for room in ROOMS:
                with way.connect(reads=reads) as table, room_for(room):
                    come_to = outcome(partial(call, table))
                    table.incr("count")
                    if come_to not in (True, ("ClientOutOfMemory", False), ("ClientOutOfMemory", True)):
                        wrong.append((name, room, come_to))
        return wrong

    with Child(read) as child:
        assert child.result(timeout=110) == []
    with way.connect() as table:
        assert table.incr("count") == len(READS) * len(ROOMS) + 1


WRITES: dict[str, Callable[[Table, bytes], Any]] = {
    "set": lambda table, value: table.set("key", value),
    "add": lambda table, value: table.add("key", value),
    "a posted write": lambda table, value: table.set("key", value, writes="posted"),
    "set_many": lambda table, value: table.set_many({"other": b"value", "key": value}),
    "a copy": lambda table, value: table.set("key", memoryview(value)),
    "call": lambda table, value: table.call("SET", "key", bytearray(value)),
}


def test_a_request_without_room_is_not_sent(way: Way) -> None:
    """Over sockets the process was aborted."""

    def write() -> list[object]:
        outcomes: list[object] = []
        for call in WRITES.values():
            with way.connect() as table:
                value = bytes(VALUE)
                with room_for(NO_ROOM), pytest.raises(MemoryError):
                    call(table, value)
                outcomes += [table.get("key"), table.incr("count")]
        return outcomes

    with Child(write) as child:
        expected = [part for number in range(1, len(WRITES) + 1) for part in (None, number)]
        assert child.result() == expected


def test_a_value_that_cannot_be_copied_is_read_as_a_view(way: Way) -> None:
    """What the error suggests to those who read in place."""

    def look() -> object:
        with way.connect() as table, room_for(NO_ROOM):
            if table.transport != "lane":
                return True
            with table.view("large") as view, memoryview(view) as value:
                return not view.is_copy and value == VALUE

    with Child(look) as child:
        assert child.result() is True


def test_the_error_is_one_of_memory() -> None:
    assert issubclass(ringtable.ClientOutOfMemory, MemoryError)
    assert not issubclass(ringtable.ClientOutOfMemory, ringtable.OutOfMemory)
