"""Keys that all have one hash, as who can read the table computes them: they cost their owner, and nobody else."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import ringtable
from ringtable import Server, Table
from ringtable._ringtable import socket_path
from support import RawConnection, RawLane, ServerProcess

from proof.collisions import colliding, colliding_long, seed_of

BUCKET_ENTRIES_MAX = 259
LONG_KEYS_MAX = 32
"""Of the longest keys, as many as fit the 2 MiB that the long keys of a bucket may have."""


def chosen(seed: int) -> Iterator[bytes]:
    """Keys that have one hash in the default server's table."""
    with RawLane() as lane:
        return colliding(seed_of(lane.table), b"chosen", Random(seed))


def test_smoke(server: Server, seed: int) -> None:
    keys = chosen(seed)
    with ringtable.connect() as table:
        some = [next(keys) for _ in range(100)]
        table.update(dict.fromkeys(some, b"value"))
        assert {key for key, _ in table.read_bucket(some[0])} == set(some), "they fall into one bucket"


def test_a_table_refuses_what_does_not_fit_into_a_bucket(server: Server, seed: int) -> None:
    keys = chosen(seed)
    with ringtable.connect() as table:
        there = [next(keys) for _ in range(BUCKET_ENTRIES_MAX)]
        for key in there:
            table[key] = b"value"
        for key in [next(keys) for _ in range(50)]:
            with pytest.raises(ringtable.BucketFull, match="259 entries"):
                table[key] = b"value"
            assert key not in table
        # All of what is there can be changed, and everything else.
        for key in there:
            table[key] = b"other value"
        table["anything"] = b"value"
        assert table.incr("count") == 1
        assert len(table) == BUCKET_ENTRIES_MAX + 2
        with pytest.raises(ringtable.OutOfMemory):
            table.incr(next(keys))
        # Room is room.
        del table[there[0]]
        table[next(keys)] = b"value"
        # In a pipeline, and when it was posted.
        with pytest.raises(ringtable.BucketFull):
            table.set_many({next(keys): b"value"})
        table.set(next(keys), b"value", writes="posted")
        with pytest.raises(ringtable.BucketFull):
            table.flush()


def test_a_large_value_is_refused_like_a_small_one(server: Server, seed: int) -> None:
    keys = chosen(seed)
    with ringtable.connect() as table:
        table.update({next(keys): b"value" for _ in range(BUCKET_ENTRIES_MAX)})
        before = int(table.stats()["memory_allocated"])
        for _ in range(3):
            with pytest.raises(ringtable.BucketFull):
                table[next(keys)] = bytes(1 << 20)
        table["elsewhere"] = bytes(1 << 20)
        assert int(table.stats()["memory_allocated"]) < before + (3 << 20)


def test_a_cache_evicts_within_the_bucket(ringtable_dir: Path, seed: int) -> None:
    with ServerProcess("--cache", "--max-memory", "16MiB"), Table() as table:
        keys = chosen(seed)
        table["elsewhere"] = b"value"
        with table.watch() as watch:
            for _ in range(3 * BUCKET_ENTRIES_MAX):
                table[next(keys)] = b"value"
            evicted = sum(event.kind == "evict" for event in (next(watch) for _ in range(5 * BUCKET_ENTRIES_MAX)))
        assert len(table) == BUCKET_ENTRIES_MAX + 1
        assert evicted == int(table.stats()["evicted_keys"]) == 2 * BUCKET_ENTRIES_MAX
        assert table["elsewhere"] == b"value"


def chosen_long(seed: int) -> Iterator[bytes]:
    """As `chosen`, but of the longest keys, which are the same but for their last bytes."""
    with RawLane() as lane:
        return colliding_long(seed_of(lane.table), b"chosen", Random(seed))


def test_long_keys_of_one_hash_are_so_many_bytes_and_no_more(server: Server, seed: int) -> None:
    """259 of them once made each request compare, and each step of a walk answer, 16 MiB at once."""
    keys = chosen_long(seed)
    with ringtable.connect() as table, RawConnection(socket_path("default")) as connection:
        there = [next(keys) for _ in range(LONG_KEYS_MAX)]
        for key in there:
            table[key] = b"value"
        assert {key for key, _ in table.read_bucket(there[0])} == set(there), "they fall into one bucket"
        for key in [next(keys) for _ in range(5)]:
            with pytest.raises(ringtable.BucketFull, match="2097152 bytes"):
                table[key] = b"value"
            assert key not in table
            assert connection.command(b"GET", key) is None
        for key in there:
            table[key] = b"other value"
        del table[there[0]]
        table[next(keys)] = b"value"
        cursor, seen = b"0", 0
        while True:
            cursor, found = connection.command(b"SCAN", cursor, b"COUNT", b"1000000000")
            assert sum(map(len, found)) < 3 << 20, "in pieces"
            seen += len(found)
            if cursor == b"0":
                break
        assert seen == LONG_KEYS_MAX


def test_what_is_too_long_for_a_key_or_a_number_is_absent_or_refused(server: Server) -> None:
    """It was hashed, or looked at as a number, to its end."""
    long = bytes(65_536)
    with RawConnection(socket_path("default")) as connection:
        for command in [b"DEL", b"EXISTS"]:
            assert connection.command(command, long, long) == 0
        assert connection.command(b"GET", long) is None
        assert connection.command(b"TTL", long) == -2
        assert connection.command(b"EXPIRE", long, b"10") == 0
        assert connection.command(b"RING.UNLEASE", long, b"1") == 0
        for name in (b"RING.BUCKET", b"RING.LEASE"):
            assert "65536 bytes, at most 65535" in str(connection.command(name, long))
        for cursor in (b"0" * 21, b"1" * (1 << 20)):
            assert "invalid cursor" in str(connection.command(b"SCAN", cursor))
        assert "not an integer" in str(connection.command(b"EXPIRE", b"key", b"1" * (1 << 20)))


def test_a_walk_with_any_cursor_is_answered_in_pieces(ringtable_dir: Path, seed: int) -> None:
    """A table of one bucket at first, and a cursor as of a walk that began then: its step once went over all keys."""
    count, random = 100_000, Random(seed)
    with ServerProcess("--buckets", "1"), Table() as table:
        table.update({f"key {number}": b"" for number in range(count)})
        with RawConnection(socket_path("default")) as connection:
            made_up = [1 << 32, 2 << 32, (1 << 32) + 1, *(random.getrandbits(38) for _ in range(100))]
            for cursor in made_up:
                following, keys = connection.command(b"SCAN", b"%d" % cursor, b"COUNT", b"100")
                assert len(keys) < 1_000, f"{len(keys)} keys at once"
                assert int(following) == 0 or int(following) > cursor
            # Such a walk comes to an end like any other.
            following, seen = b"%d" % (1 << 32), []
            while following != b"0":
                following, keys = connection.command(b"SCAN", following, b"COUNT", b"1000")
                seen += keys
            assert len(seen) == len(set(seen)) == count


def test_a_walk_in_place_stops_between_empty_buckets(ringtable_dir: Path) -> None:
    with ServerProcess("--buckets", "1000000"), Table() as table:
        table["key"] = b"value"
        cursor, steps, keys = 0, 0, []
        while True:
            cursor, found = table.scan(cursor)
            keys += found
            steps += 1
            if cursor == 0:
                break
        assert keys == [b"key"]
        assert steps > 100, "each of them looks for signals, and at the time"
