"""Namespaces: a table's keys with a prefix, as a table of its own over the same connection."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import ringtable
from ringtable import KEY_SIZE_MAX, Event, KeyTooLong, Server, Table
from ringtable._object_table import ObjectTable
from support import Child, ServerProcess, Way, wait_until

MODEL = {"a": 1, "b": [2], "ké": None, "users:nested": "x", "": 0}
# What patterns of the server's have a meaning for is a letter like others.
PREFIXES = ["users:", "*", "a[b-c]?\\d^", "é", "x" * 300]


@pytest.fixture
def table(way: Way) -> Iterator[Table[Any]]:
    options: Any = {"codec": "json", **way.options}
    with ObjectTable(way.address, **options) as table:
        yield table


def test_smoke(server: Server) -> None:
    with ringtable.connect() as table:
        users = table.namespace("users:")
        users["ada"] = b"Ada"
        table["other"] = b"value"
        assert table["users:ada"] == users["ada"] == b"Ada"
        assert list(users) == [b"ada"]
        assert len(users) == 1


def test_it_is_a_mapping_of_its_own(table: Table[Any]) -> None:
    outside = {"users": 1, "user:": 2, "other": 3, "Users:a": 4}
    for prefix in PREFIXES:
        table.clear()
        table.update(outside)
        space = table.namespace(prefix)
        assert (len(space), bool(space), list(space.items())) == (0, False, [])
        space.update(MODEL)
        assert dict(space) == MODEL
        assert dict(table) == {**outside, **{prefix + key: value for key, value in MODEL.items()}}
        assert (len(space), bool(space), sorted(space)) == (len(MODEL), True, sorted(MODEL))
        assert space.get_many(["a", "users", b"b"]) == [1, None, [2]]
        assert ("a" in space, "users" in space, "other" in space) == (True, False, False)
        assert space.pipeline().get("a").set("c", 5).incr("c").exists("other").delete("c").execute() == [
            1,
            True,
            6,
            False,
            1,
        ]
        table["b"] = 5
        results = space.pipeline().persist("b").get_and_expire("b", None).get_and_delete("b").execute()
        assert results == [False, [2], [2]]
        assert space.add("b", [2])
        assert table.pop("b") == 5
        assert space.pop("a") == 1
        assert space.setdefault("a", 7) == 7
        assert space.update("a", lambda value: (value or 0) + 1) == 8
        assert space.popitem()[0] in MODEL
        assert all(key in MODEL for key, _ in space.read_bucket("a"))
        with pytest.raises(KeyError) as absent:
            space["absent"]
        assert absent.value.args == ("absent",)
        space.clear()
        assert (len(space), bool(space)) == (0, False)
        assert dict(table) == outside


def test_namespaces_add_up(server: Server) -> None:
    with ringtable.connect(codec="text") as table:
        inner = table.namespace("a:").namespace(b"b:")
        inner["key"] = "value"
        assert dict(table) == {"a:b:key": "value"}
        assert dict(table.namespace("a:")) == {"b:key": "value"}
        assert dict(inner) == {"key": "value"}
        assert "'a:b:'" in repr(inner)


def test_errors_name_the_key_of_the_namespace(server: Server) -> None:
    with ringtable.connect() as raw, ringtable.connect(codec="json") as table:
        space = table.namespace("é:")
        raw["é:ké"] = b"no JSON"
        reads: list[Any] = [
            lambda: space["ké"],
            lambda: space.get_many(["ké".encode()]),
            lambda: list(space.values()),
            lambda: space.read_bucket("ké"),
            lambda: space.pipeline().get("ké").execute(),
        ]
        for read in reads:
            with pytest.raises(ringtable.DecodeError) as refused:
                read()
            assert refused.value.key == "ké"


def test_bytes_stay_bytes(server: Server) -> None:
    """A namespace of a table of bytes takes and refuses what that does."""
    with ringtable.connect() as table:
        space = table.namespace(b"\xff:")
        space.set_many([("a", b"1"), (b"\xfe", memoryview(b"2"))])
        assert dict(space) == {b"a": b"1", b"\xfe": b"2"}
        assert space.setdefault("c") == b""
        assert space.incr("n", 5) == 5
        assert space["n"] == b"5"
        assert space.get_or_set("made", lambda: b"9") == b"9" == table[b"\xff:made"]
        with space.view("a") as view:
            assert bytes(view) == b"1"
        with pytest.raises(TypeError, match="str"):
            space["key"] = "text"  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="keys are str or bytes, not int"):
            space[5]  # type: ignore[index]
        with pytest.raises(UnicodeEncodeError):
            space["\udc80"]
        with pytest.raises(KeyTooLong):
            space[b"x" * (KEY_SIZE_MAX - 1)] = b""
        with pytest.raises(TypeError, match="prefix"):
            table.namespace(5)  # type: ignore[arg-type]


def test_a_watch_sees_the_namespace_alone(server: Server) -> None:
    with ringtable.connect(codec="json") as table:
        space = table.namespace("users:")
        with space.watch(timeout=60) as watch, space.watch("b", timeout=60) as narrow:
            table["other"] = 1
            space["a"] = 1
            space["b"] = 2
            del space["a"]
            table.clear()
            events = [next(watch) for _ in range(4)]
            assert [(event.kind, event.key) for event in events] == [
                ("set", "a"),
                ("set", "b"),
                ("delete", "a"),
                ("flush", ""),
            ]
            first = next(narrow)
            assert isinstance(first, Event)
            assert first.key == "b"


def test_it_shares_the_connection(server_process: ServerProcess) -> None:
    with ringtable.connect(codec="pickle") as table:
        before = table.stats()["clients"]
        spaces = [table.namespace(f"{number}:") for number in range(100)]
        for space in spaces:
            space["key"] = space.namespace("inner:")._prefix  # type: ignore[attr-defined]
        assert table.stats()["clients"] == before

        def child() -> Any:
            return spaces[7]["key"]

        with Child(child) as process:
            assert process.result() == b"7:inner:"
        # Closing one closes nothing.
        with spaces[0] as space:
            space.close()
        assert spaces[1]["key"] == b"1:inner:"
        copy, other = pickle.loads(pickle.dumps((spaces[1].namespace("x:"), table)))
        copy["key"] = "value"
        assert (other["1:x:key"], table["1:x:key"]) == ("value", "value")
        # The child's own goes a moment after it.
        wait_until(lambda: table.stats()["clients"] == before + 1, "two tables have two connections")
        other.close()
        assert copy.closed
    assert all(space.closed for space in spaces)
    with pytest.raises(ringtable.Closed):
        spaces[0]["key"]
    # The connection lives as long as one of them.
    alone = ringtable.connect(codec="json").namespace("alone:")
    alone["key"] = 1
    assert alone["key"] == 1


def test_its_tools_are_its_own(server: ringtable.Server) -> None:
    with ringtable.connect() as table:
        users, pages = table.namespace("users:"), table.namespace("pages:")
        for one in (table, users, pages):
            assert one.lock("x").acquire()
            assert one.rate_limiter("1/hour")("ip")
            assert not one.rate_limiter("1/hour")("ip")
            one.event("ready").set()
            one.once("migrate")(lambda: None)
            assert one.memoize()(_square)(7) == 49
        tools = (("lock", "a lock", 65_530), ("event", "an event", 65_529), ("once", "something done once", 65_524))
        for tool, noun, size in tools:
            getattr(table, tool)("n" * size)
            with pytest.raises(KeyTooLong, match=f"name of {noun} has {size + 1} bytes, at most {size} are"):
                getattr(table, tool)("n" * (size + 1))
            with pytest.raises(KeyTooLong, match=f"name of {noun} has {size} bytes, at most {size - 6} are"):
                getattr(users, tool)("n" * size)
        assert users.lock("x").name == "users:x"
        before = len(pages), len(users)
        assert before[0] == before[1] > 0
        users.clear()
        assert not users.event("ready").is_set()
        assert pages.event("ready").is_set()
        assert len(pages) == before[0]
        # A lock is no key.
        assert users.lock("x").owned()


def _square(number: int) -> int:
    return number * number
