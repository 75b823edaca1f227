"""A full table: what is evicted, what is not, and what expires though nobody asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import ringtable
from ringtable import Server, Table
from support import DEADLINE_S, RawConnection, wait_until

if TYPE_CHECKING:
    from ringtable._types import Eviction, Topology

MEMORY = 8 << 20
VALUE = bytes(1_000)
MORE_THAN_FIT = 3 * MEMORY // len(VALUE)


@contextmanager
def full(eviction: Eviction | None = None, topology: Topology = "lanes") -> Iterator[Table]:
    """A small cache with more written than there is room for."""
    with Server(max_memory=MEMORY, cache=True, eviction=eviction, topology=topology), ringtable.connect() as table:
        table.set_many((f"key {number}", VALUE) for number in range(MORE_THAN_FIT))
        yield table


def test_smoke(ringtable_dir: object) -> None:
    with full() as table:
        stats = table.stats()
        assert stats["evicted_keys"] == MORE_THAN_FIT - len(table)
        assert 0.7 * MEMORY < len(table) * len(VALUE) < int(stats["memory_resident"]) <= MEMORY
        assert f"key {MORE_THAN_FIT - 1}" in table


@pytest.mark.parametrize("reads", ["direct", "server"])
def test_what_is_read_stays(ringtable_dir: object, reads: str) -> None:
    with Server(max_memory=MEMORY, cache=True), Table(reads="direct" if reads == "direct" else "server") as table:
        table["hot"] = b"read all the time"
        table["cold"] = b"never"
        for number in range(MORE_THAN_FIT):
            table[f"key {number}"] = VALUE
            assert table["hot"] == b"read all the time"
        assert "cold" not in table
        assert (int(table.stats()["hints"]) > 0) == (reads == "direct")


def test_what_alone_is_read_stays_whenever_the_hand_comes_by(ringtable_dir: object) -> None:
    """A client that read one key told of that once, and not again when the hand had passed it."""
    with Server(max_memory=MEMORY, cache=True), ringtable.connect() as table, Table(reads="server") as others:
        table.set_many((f"key {number}", VALUE) for number in range(MORE_THAN_FIT))
        keys = list(table)
        table["hot"] = b"read all the time"
        for round_ in range(10):
            # The hand passes all of these, and soon comes by again.
            others.get_many(keys)
            for number in range(300):
                table[f"new {round_} {number}"] = VALUE
                assert table.get("hot") == b"read all the time"


def test_a_view_counts_as_use(ringtable_dir: object) -> None:
    with Server(max_memory=MEMORY, cache=True), ringtable.connect() as table:
        table["hot"] = b"seen in place"
        for number in range(MORE_THAN_FIT):
            table[f"key {number}"] = VALUE
            table.view("hot").close()


@pytest.mark.parametrize("topology", ["shared", "sharded"])
def test_the_classic_topologies_evict_too(ringtable_dir: object, topology: Topology) -> None:
    with full(topology=topology) as table:
        assert int(table.stats()["evicted_keys"]) > 0


def test_values_of_one_size_make_room_for_those_of_any_other(ringtable_dir: object) -> None:
    with Server(max_memory="32MiB", cache=True), ringtable.connect() as table:
        for round_, size in enumerate([100, 1 << 20, 5_000, 20 << 20, 1, 100_000]):
            for number in range((48 << 20) // (size + 300)):
                table.set(f"{round_} {number}", bytes(size), writes="posted")
            table.flush()
            assert int(table.stats()["memory_resident"]) <= 32 << 20
        assert int(table.stats()["entries_moved"]) > 0


def test_a_table_that_is_no_cache_refuses_and_keeps_all(ringtable_dir: object) -> None:
    with Server(max_memory=MEMORY), ringtable.connect() as table:
        keys = [f"key {number}" for number in range(MORE_THAN_FIT)]
        with pytest.raises(ringtable.OutOfMemory):
            table.set_many((key, VALUE) for key in keys)
        # Behind one that was refused another one may have found room, since memory comes back a moment later.
        keys = [key for key, value in zip(keys, table.get_many(keys), strict=True) if value is not None]
        assert len(keys) == len(table)
        assert all(value == VALUE for value in table.get_many(keys))
        # Every second one goes: then there is room for a large value, though no page is empty.
        table.delete_many(keys[::2])
        table["large"] = bytes(2 << 20)
        assert all(value == VALUE for value in table.get_many(keys[1::2]))
        assert table.stats()["evicted_keys"] == 0


def test_volatile_ttl_evicts_what_expires_soonest_and_nothing_else(ringtable_dir: object) -> None:
    with Server(max_memory=MEMORY, eviction="volatile-ttl"), ringtable.connect() as table:
        table["stays"] = b"for ever"
        count = MORE_THAN_FIT
        for number in range(count):
            table.set(f"key {number}", VALUE, ttl=1_000 + number)
        assert table["stays"] == b"for ever"
        left = [int(key.split()[1]) for key in table if key != b"stays"]
        assert sum(left) / len(left) > count / 2
        table.clear()
        with pytest.raises(ringtable.OutOfMemory):
            table.set_many((f"key {number}", VALUE) for number in range(count))


def test_a_value_for_which_there_is_no_room_drives_nobody_out(ringtable_dir: object) -> None:
    """What was refused had evicted all that could go: sessions, or everything but a value in view."""
    with Server(max_memory=MEMORY, eviction="volatile-ttl"), ringtable.connect() as table:
        table.set_many({f"stays {n}": bytes(MEMORY // 16) for n in range(8)})
        table.set_many({f"session {n}": bytes(200) for n in range(3_000)}, ttl=3_600)
        with pytest.raises(ringtable.OutOfMemory):
            table["large"] = bytes(MEMORY * 5 // 8)
        assert len(table) == 3_008
    # All but what the table has for itself.
    most = bytes(MEMORY * 27 // 32)
    with full() as table:
        keys = [f"key {n}" for n in range(6_000)]
        table.set_many({key: bytes(MEMORY // 8_000) for key in keys})
        # Which of them are there is the sieve's affair: one that is, with others before it and behind it.
        there = [key for key in keys if key in table]
        with table.view(there[len(there) // 2]):
            before = len(table)
            with pytest.raises(ringtable.OutOfMemory):
                table["large"] = most
            assert len(table) == before
        # With the view closed it can be done, and is.
        table["large"] = most
        assert table["large"] == most


def test_expired_entries_are_swept_away(ringtable_dir: object) -> None:
    with Server(), ringtable.connect() as table:
        table["stays"] = b"for ever"
        table.set("later", b"in an hour", ttl=3_600)
        table.set_many(((f"key {number}", VALUE) for number in range(20_000)), ttl=0.01)
        wait_until(lambda: len(table) == 2, "nobody asks for them, and they go all the same")
        stats = table.stats()
        assert (stats["expired_keys"], stats["entries_expiring"]) == (20_000, 1)
        wait_until(lambda: int(table.stats()["memory_resident"]) < 4 << 20, "and their memory")
        assert (table["stays"], table["later"]) == (b"for ever", b"in an hour")


def test_watchers_are_told(ringtable_dir: object) -> None:
    with Server(max_memory=MEMORY, cache=True), ringtable.connect() as table, table.watch("key", timeout=30) as watch:
        table.set("key with a ttl", b"value", ttl=0.01)
        kinds = [next(watch).kind for _ in range(2)]
        assert kinds == ["set", "expire"]
        kinds.clear()
        for number in range(MORE_THAN_FIT):
            table[f"key {number}"] = VALUE
            while (event := next(watch)).kind != "set":
                kinds.append(event.kind)
            assert event.key == b"key %d" % number
        assert set(kinds) == {"evict"}
        assert len(kinds) == table.stats()["evicted_keys"]


def test_an_unknown_policy_is_refused(ringtable_dir: object) -> None:
    with pytest.raises(ringtable.InvalidOption, match=r"^eviction is 'random'; allowed are noeviction, allkeys-sieve"):
        Server(eviction="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["lane", "socket"])
@pytest.mark.parametrize("eviction", ["allkeys-sieve", "volatile-ttl"])
def test_a_large_write_never_evicts_its_own_key(
    ringtable_dir: object, transport: Literal["lane", "socket"], eviction: Eviction
) -> None:
    """While a large value arrives, nobody knows yet whether its key has to be there."""
    new = b"2" * 70_000
    with Server(max_memory=MEMORY, cache=True, eviction=eviction), Table(transport=transport) as table:
        count = 0
        while table.stats()["evicted_keys"] == 0:
            table.set(f"{count}", bytes(70_000), ttl=1_000 + count)
            count += 1
        # The next one to go, were it not for its own write.
        oldest = min(map(int, table))
        assert not table.set(f"{oldest}", new, nx=True)
        oldest = min(map(int, table))
        assert table.set(f"{oldest}", new, xx=True)
        oldest = min({int(key) for key in table} - {oldest})
        found = table.get_with_version(f"{oldest}")
        assert found is not None
        assert table.set(f"{oldest}", new, if_version=found[1])


@pytest.mark.parametrize("transport", ["lane", "socket"])
def test_a_value_that_takes_most_of_a_cache_can_be_changed(
    ringtable_dir: object, transport: Literal["lane", "socket"]
) -> None:
    with Server(max_memory=MEMORY, cache=True), Table(transport=transport) as table:
        table["log"] = bytes(6 << 20)
        table.set_many({f"{number}": VALUE for number in range(20)})
        calls: list[int] = []

        def shorten(old: bytes | None) -> bytes:
            calls.append(-1 if old is None else len(old))
            return (old or b"")[-1_900_000:] + b"new"

        with suppress(ringtable.OutOfMemory):  # there may be no room for both
            table.update("log", shorten)
        assert calls == [6 << 20]
        assert len(table["log"]) in (6 << 20, 1_900_003)
        assert len(table) == 21


def test_a_watch_is_told_what_was_evicted(ringtable_dir: object) -> None:
    with (
        Server(max_memory=MEMORY, cache=True),
        ringtable.connect() as table,
        table.watch(timeout=DEADLINE_S) as watch,
    ):
        seen: dict[str, set[bytes]] = {"set": set(), "evict": set()}

        def follow(kind: str, count: int) -> None:
            while len(seen[kind]) < count:
                event = next(watch)
                assert isinstance(event, ringtable.Event)
                assert event.size == (len(VALUE) if event.kind == "set" else 0)
                seen[event.kind].add(event.key)

        for number in range(MORE_THAN_FIT):
            table[f"key {number}"] = VALUE
            # A watch that does not keep up misses events, and says so.
            follow("set", number + 1)
        follow("evict", MORE_THAN_FIT - len(table))
        assert len(seen["evict"]) == table.stats()["evicted_keys"]
        assert seen["set"] - seen["evict"] == set(table)


@pytest.mark.parametrize("eviction", ["allkeys-sieve", "volatile-ttl"])
@pytest.mark.parametrize("options", [{}, {"transport": "socket"}], ids=["lane", "socket"])
def test_what_is_never_evicted(ringtable_dir: Path, eviction: Any, options: dict[str, Any]) -> None:
    """A lock or a counter in a cache once went like any page."""
    with Server(max_memory="16MiB", eviction=eviction), Table(**options) as table:
        # Also with a time to live, by every way to write.
        assert table.add("lock", b"owner", ttl=1_000, evictable=False)
        assert table.incr("count", ttl_if_new=1_000, evictable=False) == 1
        assert table.get_or_set("made", lambda: b"value", ttl=1_000, evictable=False) == b"value"
        table.set("large", bytes(100_000), ttl=1_000, evictable=False)
        table.pipeline().set("piped", b"value", ttl=1_000, evictable=False).incr("sum", evictable=False).execute()
        assert table.get_with_version("lock") is not None
        assert table.set("compared", b"value", ttl=1_000, if_version=0, evictable=False)
        kept = ["lock", "count", "made", "large", "piped", "sum", "compared"]
        assert table.stats()["entries_unevictable"] == len(kept)
        for round_ in range(4):
            for index in range(60):
                table.set_many({f"page {round_} {index} {number}": bytes(2_000) for number in range(100)}, ttl=1_000)
            # Other writes leave it as it is.
            assert table.incr("count") == round_ + 2
            table.set("lock", b"owner %d" % round_, ttl=1_000)
            table.expire("made", 2_000)
            table.set("huge", bytes(3_000_000), ttl=1_000)
        assert int(table.stats()["evicted_keys"]) > 10_000
        assert [key for key in kept if key not in table] == []
        assert table["lock"] == b"owner 3"
        # Until somebody says otherwise, or it goes.
        table.set("piped", b"value", ttl=1_000, evictable=True)
        del table["large"]
        assert table.stats()["entries_unevictable"] == len(kept) - 2
        table.clear()
        stats = table.stats()
        assert (stats["entries_unevictable"], stats["memory_unevictable"]) == (0, 0)


def test_what_is_never_evicted_has_a_limit(ringtable_dir: Path) -> None:
    with Server(max_memory="16MiB", cache=True, max_unevictable="1MiB"), ringtable.connect() as table:
        count = 0

        def write_for_ever() -> None:
            nonlocal count
            while True:
                table.set(f"lock {count}", bytes(1_000), evictable=False)
                count += 1

        with pytest.raises(ringtable.UnevictableFull, match="1048576 bytes"):
            write_for_ever()
        assert 800 < count < 1_050
        stats = table.stats()
        assert int(stats["memory_unevictable"]) <= 1 << 20 == stats["memory_unevictable_max"]
        # Nothing was changed, and everything else can be written; what is there can be written again.
        assert table.stats()["entries"] == count
        table["page"] = bytes(1_000)
        table.set("lock 0", bytes(1_000))
        del table["lock 1"]
        table.set("another lock", bytes(1_000), evictable=False)
    for wrong in (-1, "17MiB"):
        with pytest.raises(ringtable.InvalidOption, match="unevictable"):
            Server(max_memory="16MiB", max_unevictable=wrong)


def test_a_computed_value_beyond_that_limit_is_returned_all_the_same(ringtable_dir: Path) -> None:
    with Server(max_memory="16MiB", cache=True, max_unevictable="64KiB"), ringtable.connect() as table:
        with pytest.warns(RuntimeWarning, match="no place for"):
            assert table.get_or_set("key", lambda: bytes(100_000), evictable=False) == bytes(100_000)
        stats = table.stats()
        assert ("key" in table, stats["leases"], stats["leases_not_stored"]) == (False, 0, 1)


def test_redis_clients_say_it_in_a_word(ringtable_dir: Path) -> None:
    with Server(max_memory="16MiB", cache=True) as server, RawConnection(server.path) as connection:
        assert connection.command(b"SET", b"lock", b"owner", b"UNEVICTABLE", b"EX", b"100") == b"OK"
        assert connection.command(b"RING.INCR", b"count", b"1", b"unevictable", b"MAX", b"9") == 1
        with ringtable.connect() as table:
            assert table.stats()["entries_unevictable"] == 2
            assert connection.command(b"SET", b"lock", b"owner", b"EVICTABLE") == b"OK"
            assert table.stats()["entries_unevictable"] == 1
        assert isinstance(connection.command(b"SET", b"a", b"b", b"EVICTABLE", b"UNEVICTABLE"), Exception)
