"""Processes that change the same key: versions, updates by a function, increments within bounds."""

import json
from contextlib import ExitStack
from typing import Any

import pytest
import ringtable
from hypothesis import given
from hypothesis import strategies as st
from ringtable import Table
from support import CONNECTIONS, Child, Way, wait_until, way_to_a_table

PROCESSES = 8
UPDATES = 50

# Values that no datagram has room for.
over_connections = pytest.mark.parametrize("way", CONNECTIONS, indirect=True)


def in_processes(way: Way, work: Any, *arguments: Any) -> list[Any]:
    """What `work` returns in each of some processes that begin together, each with a table of its own."""

    def main() -> Any:
        with way.connect() as table:
            table.incr("ready")
            wait_until(lambda: table["ready"] == b"%d" % PROCESSES, "all processes are ready")
            return work(table, *arguments)

    with ExitStack() as stack:
        children = [stack.enter_context(Child(main)) for _ in range(PROCESSES)]
        return [child.result() for child in children]


def version_of(table: Table, key: str) -> int:
    found = table.get_with_version(key)
    assert found is not None
    return found[1]


def test_smoke(table: Table) -> None:
    table["key"] = b"1"
    value, version = table.get_with_version("key") or (b"", 0)
    assert value == b"1"
    assert table.set("key", b"2", if_version=version)
    assert not table.set("key", b"3", if_version=version)
    assert table.update("key", lambda old: (old or b"") + b"!") == b"2!"
    assert table.incr("count", 5, maximum=5) == 5
    assert table.incr("count", maximum=5) is None


# Versions


def test_every_write_gives_a_new_version(table: Table) -> None:
    assert table.get_with_version("key") is None
    versions: list[int] = []
    for write in (
        lambda: table.set("key", b"1"),
        lambda: table.set("key", b"1"),
        lambda: table.incr("key"),
        lambda: table.expire("key", 100),
        lambda: table.delete("key") and table.set("key", b"1"),
        lambda: table.set_many({"key": b"1"}),
    ):
        write()
        versions.append(version_of(table, "key"))
    assert all(version > 0 for version in versions)
    assert len(set(versions)) == len(versions)


def test_a_write_by_version(table: Table) -> None:
    table["key"] = b"1"
    version = version_of(table, "key")
    assert table.set("key", b"2", if_version=version)
    assert version_of(table, "key") != version
    assert not table.set("key", b"3", if_version=version)
    assert table["key"] == b"2"
    del table["key"]
    assert not table.set("key", b"3", if_version=version)
    assert "key" not in table


def test_version_0_is_that_of_an_absent_key(table: Table) -> None:
    assert table.set("key", b"1", if_version=0)
    assert not table.set("key", b"2", if_version=0)
    assert table["key"] == b"1"
    table.set("brief", b"1", ttl=0.02)
    wait_until(lambda: table.get_with_version("brief") is None, "the entry has expired")
    assert table.set("brief", b"2", if_version=0)


def test_a_write_by_version_may_have_a_time_to_live(table: Table) -> None:
    assert table.set("key", b"1", if_version=0, ttl=100)
    assert 99 < (table.ttl("key") or 0) <= 100
    assert table.set("key", b"1", if_version=version_of(table, "key"))
    assert table.ttl("key") is None


def test_the_server_answers_with_the_new_version(table: Table) -> None:
    version = table.call("SET", "key", "1", "IFVERSION", 0)
    assert table.call("RING.GETV", "key") == [b"1", version]
    assert table.call("SET", "key", "2", "IFVERSION", 0) is None
    assert table.call("RING.GETV", "missing") is None
    for options in (["NX"], ["XX"], ["IFVERSION", "1"]):
        with pytest.raises(ringtable.CommandError, match="syntax"):
            table.call("SET", "key", "2", "IFVERSION", "1", *options)
    with pytest.raises(ringtable.NotAnInteger):
        table.call("SET", "key", "2", "IFVERSION", "-1")


def test_what_excludes_a_write_by_version(table: Table) -> None:
    for options in ({"nx": True}, {"xx": True}, {"writes": "posted"}):
        with pytest.raises(ringtable.InvalidOption, match="if_version"):
            table.set("key", b"1", if_version=0, **options)
    assert "key" not in table


def test_a_posted_table_waits_for_what_became_of_it(way: Way) -> None:
    with way.connect(writes="posted") as table:
        table["key"] = b"1"
        value, version = table.get_with_version("key") or (b"", 0)
        assert value == b"1"
        assert table.set("key", b"2", if_version=version)
        assert not table.set("key", b"3", if_version=version)


def test_deleting_by_version(table: Table) -> None:
    table["key"] = b"1"
    version = version_of(table, "key")
    table["key"] = b"2"
    assert not table.delete_if_version("key", version)
    assert table["key"] == b"2"
    assert table.delete_if_version("key", version_of(table, "key"))
    assert "key" not in table
    assert not table.delete_if_version("key", version)


@over_connections
def test_large_values_have_versions_too(table: Table) -> None:
    value = b"v" * (8 << 20)
    assert table.set("key", value, if_version=0)
    found = table.get_with_version("key")
    assert found is not None
    assert found[0] == value
    assert table.set("key", b"small", if_version=found[1])


def test_versions_in_a_pipeline(table: Table) -> None:
    pipeline = table.pipeline().get_with_version("key").set("key", b"1", if_version=0).get_with_version("key")
    absent, done, found = pipeline.execute()
    assert absent is None
    assert done is True
    assert found == (b"1", version_of(table, "key"))
    assert table.pipeline().set("key", b"2", if_version=0).execute() == [False]


# Updates by a function


def test_an_update(table: Table) -> None:
    seen: list[bytes | None] = []

    def append(old: bytes | None) -> bytearray:
        seen.append(old)
        return bytearray((old or b"") + b"x")

    assert table.update("key", append) == b"x"
    assert table.update("key", append) == b"xx"
    assert seen == [None, b"x"]
    assert table["key"] == b"xx"


def test_an_update_to_none_deletes(table: Table) -> None:
    table["key"] = b"1"
    assert table.update("key", lambda old: None) is None
    assert "key" not in table
    assert table.update("key", lambda old: None) is None


def test_an_update_begins_again_when_others_were_faster(way: Way, table: Table) -> None:
    seen: list[bytes | None] = []
    with way.connect() as other:

        def late(old: bytes | None) -> bytes | None:
            seen.append(old)
            if len(seen) == 1:
                other["key"] = b"theirs"
            elif len(seen) == 2:
                del other["key"]
            return b"ours"

        table["key"] = b"first"
        assert table.update("key", late) == b"ours"
        assert seen == [b"first", b"theirs", None]
        seen.clear()
        table.update("key", lambda old: late(old) and None)
        assert seen == [b"ours", b"theirs", None]
        assert "key" not in table


def test_a_conflict_says_how_often_it_was_tried(way: Way, table: Table) -> None:
    calls = 0
    with way.connect() as other:

        def hopeless(old: bytes | None) -> bytes:
            nonlocal calls
            calls += 1
            other["key"] = b"theirs %d" % calls
            return b"ours"

        with pytest.raises(ringtable.Conflict, match=r"'key'.* 4 tries"):
            table.update("key", hopeless, retries=3)
        assert calls == 4
        assert table["key"] == b"theirs 4"
        with pytest.raises(ringtable.Conflict, match="1 tries"):
            table.update("key", hopeless, retries=0)
        with pytest.raises(ringtable.InvalidOption, match="retries"):
            table.update("key", hopeless, retries=-1)


def test_an_update_that_raises_changes_nothing(table: Table) -> None:
    table["key"] = b"1"
    with pytest.raises(ZeroDivisionError):
        table.update("key", lambda old: b"%d" % (1 // 0))
    for nonsense in (5, "text"):
        with pytest.raises(TypeError):
            table.update("key", lambda old, made=nonsense: made)  # type: ignore[misc]
    assert table["key"] == b"1"


def test_the_updates_of_mappings_stay_as_they_are(table: Table) -> None:
    table.update({"a": b"1"}, retries=b"2", ttl=b"3", fn=b"4")
    table.update([("b", b"5")])
    assert dict(table) == {b"a": b"1", b"retries": b"2", b"ttl": b"3", b"fn": b"4", b"b": b"5"}
    table.update("a", lambda old: old, ttl=100)
    assert table.ttl("a") is not None


def edit(table: Table, updates: int) -> int:
    """Change a document as often as that; returns how often the function was called."""
    calls = 0

    def count(old: bytes | None) -> bytes:
        nonlocal calls
        calls += 1
        document = json.loads(old or b"{}")
        document["count"] = document.get("count", 0) + 1
        document["pad"] = "x" * (document["count"] % 500)
        return json.dumps(document).encode()

    for _ in range(updates):
        table.update("document", count, retries=10_000)
    return calls


def test_no_update_is_lost(way: Way) -> None:
    calls = in_processes(way, edit, UPDATES)
    with way.connect() as table:
        assert json.loads(table["document"])["count"] == PROCESSES * UPDATES
    print(f"{PROCESSES * UPDATES} updates by {PROCESSES} processes took {sum(calls)} tries")


def mixed(table: Table, index: int) -> None:
    for step in range(UPDATES):
        if step % 2:
            table.incr("number")
        else:
            table.update("number", lambda old: b"%d" % (int(old or b"0") + 1), retries=10_000)


def test_updates_beside_increments(way: Way) -> None:
    in_processes(way, mixed, 0)
    with way.connect() as table:
        assert table["number"] == b"%d" % (PROCESSES * UPDATES)


# Popping


def test_a_value_written_while_it_is_popped_is_not_lost(way: Way, table: Table) -> None:
    """What was written between the read and the deletion was deleted unread."""
    with way.connect() as other:

        class Interrupted(Table):
            """Somebody writes between its reads and what it does next."""

            def get(self, key: Any, /, default: Any = None) -> Any:
                return self.then_written(super().get(key, default))

            def get_with_version(self, key: Any) -> Any:
                return self.then_written(super().get_with_version(key))

            def then_written(self, found: Any) -> Any:
                if writes:
                    other["key"] = writes.pop()
                return found

        with Interrupted(way.address, **way.options) as popping:
            table["key"] = b"first"
            writes = [b"third", b"second"]
            assert popping.pop("key") == b"third"
            assert "key" not in table
            # Deleted, and written anew.
            table["key"] = b"first"
            writes = [b"second"]
            assert popping.popitem() == (b"key", b"second")
            assert popping.pop("key", b"default") == b"default"


def pop_all(table: Table, index: int) -> list[int]:
    """Write numbers to one key if it is absent, and pop what is there; returns what was popped."""
    popped: list[int] = []
    for step in range(UPDATES):
        while not table.add("slot", b"%d" % (index * UPDATES + step)):
            if (found := table.pop("slot", None)) is not None:
                popped.append(int(found))
    return popped


def test_each_value_is_popped_once(way: Way) -> None:
    def work(table: Table) -> list[int]:
        return pop_all(table, table.incr("index") - 1)

    popped = [number for popped in in_processes(way, work) for number in popped]
    with way.connect() as table:
        popped += [int(table.pop("slot"))]
    assert sorted(popped) == list(range(PROCESSES * UPDATES))


# Increments within bounds


def test_a_time_to_live_for_a_new_key(table: Table) -> None:
    assert table.incr("key", ttl_if_new=100) == 1
    first = table.ttl("key")
    assert first is not None
    assert table.incr("key", ttl_if_new=1_000) == 2
    again = table.ttl("key")
    assert again is not None
    assert again <= first
    table["lasting"] = b"1"
    assert table.incr("lasting", ttl_if_new=100) == 2
    assert table.ttl("lasting") is None


def test_a_new_window_begins_when_the_old_one_is_over(table: Table) -> None:
    assert table.incr("key", 3, ttl_if_new=0.05, maximum=3) == 3
    wait_until(lambda: table.incr("key", ttl_if_new=100, maximum=3) == 1, "the window is over")
    assert table.ttl("key") is not None


def test_sums_out_of_bounds_change_nothing(table: Table) -> None:
    assert table.incr("stock", 2, minimum=0) == 2
    assert table.incr("stock", -2, minimum=0) == 0
    before = version_of(table, "stock")
    assert table.incr("stock", -1, minimum=0) is None
    assert table.incr("stock", 5, minimum=1, maximum=4) is None
    assert table.incr("new", 5, maximum=4, ttl_if_new=100) is None
    assert version_of(table, "stock") == before
    assert "new" not in table
    assert table.incr("stock", 4, minimum=4, maximum=4) == 4


def test_a_sum_beyond_all_integers_is_beyond_the_bounds(table: Table) -> None:
    table["key"] = b"%d" % ((1 << 63) - 1)
    assert table.incr("key", maximum=(1 << 63) - 1) is None
    with pytest.raises(ringtable.NotAnInteger):
        table.incr("key", minimum=0)


def test_bounds_that_exclude_each_other(table: Table) -> None:
    with pytest.raises(ringtable.InvalidOption, match=r"minimum is 2.*maximum is 1"):
        table.incr("key", minimum=2, maximum=1)
    with pytest.raises(ringtable.CommandError, match="MIN is 2"):
        table.call("RING.INCR", "key", 1, "MIN", 2, "MAX", 1)
    for words in (["MIN"], ["MIN", 1, "MIN", 1], ["EX", 1], ["PX", 0], ["MAX", "many"]):
        with pytest.raises(ringtable.Error):
            table.call("RING.INCR", "key", 1, *words)
    with pytest.raises(ringtable.InvalidOption):
        table.incr("key", ttl_if_new=0)
    assert "key" not in table


def test_bounded_increments_of_what_is_no_integer(table: Table) -> None:
    table["key"] = b"text"
    with pytest.raises(ringtable.NotAnInteger):
        table.incr("key", maximum=5)
    assert table["key"] == b"text"


def test_increments_in_a_pipeline(table: Table) -> None:
    pipeline = table.pipeline()
    for _ in range(4):
        pipeline.incr("key", 2, ttl_if_new=100, minimum=0, maximum=6)
    assert pipeline.execute() == [2, 4, 6, None]
    assert table.ttl("key") is not None


def pass_gate(table: Table, limit: int) -> int:
    """Pass a gate until it is shut; returns how often it was open."""
    passed = 0
    while table.incr("gate", ttl_if_new=1_000, maximum=limit) is not None:
        passed += 1
    return passed


def test_a_rate_limiter_lets_through_exactly_as_many(way: Way) -> None:
    limit = 500
    assert sum(in_processes(way, pass_gate, limit)) == limit
    with way.connect() as table:
        assert table["gate"] == b"%d" % limit
        assert table.ttl("gate") is not None


numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-10, 10)
bounds = st.none() | numbers


def test_bounds_are_like_those_of_plain_integers() -> None:
    with way_to_a_table("lane") as way, way.connect() as table:

        @given(old=numbers, by=numbers, minimum=bounds, maximum=bounds)
        def check(old: int, by: int, minimum: int | None, maximum: int | None) -> None:
            table["key"] = b"%d" % old
            if minimum is not None and maximum is not None and minimum > maximum:
                with pytest.raises(ringtable.InvalidOption):
                    table.incr("key", by, minimum=minimum, maximum=maximum)
                return
            total = old + by
            if (minimum is not None and total < minimum) or (maximum is not None and total > maximum):
                assert table.incr("key", by, minimum=minimum, maximum=maximum) is None
            elif -(1 << 63) <= total < 1 << 63:
                assert table.incr("key", by, minimum=minimum, maximum=maximum) == total
                old = total
            else:
                with pytest.raises(ringtable.NotAnInteger):
                    table.incr("key", by, minimum=minimum, maximum=maximum)
            assert table["key"] == b"%d" % old

        check()
