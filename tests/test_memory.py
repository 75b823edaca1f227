"""A full table refuses writes and keeps what it has; what an entry costs."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table
from ringtable._bench.probe import private_bytes
from ringtable._ringtable import socket_path
from support import RawConnection, ServerProcess, wait_until

ENTRIES = 1_000_000
KEY_SIZE, VALUE_SIZE = 16, 100
OVERHEAD_MAX = 40


@pytest.fixture
def small(ringtable_dir: object) -> Iterator[Server]:
    with Server(buckets=16, workers=2, max_memory="8MiB") as server:
        yield server


def fill(table: Table, size: int) -> dict[bytes, bytes]:
    """Write values of this size until there is no room, and return what was written."""
    written: dict[bytes, bytes] = {}

    def write_for_ever() -> None:
        while True:
            key, value = b"key %d" % len(written), bytes([len(written) % 251]) * size
            table[key] = value
            written[key] = value

    with pytest.raises(ringtable.OutOfMemory, match="memory"):
        write_for_ever()
    return written


def test_smoke(small: Server) -> None:
    with ringtable.connect() as table:
        assert len(fill(table, 1_000)) > 1_000


@pytest.mark.parametrize("size", [100, 5_000, 100_000, 1_000_000])
@pytest.mark.parametrize("options", [{"transport": "lane"}, {"transport": "socket"}])
def test_a_full_table_keeps_everything(small: Server, size: int, options: dict[str, Any]) -> None:
    with Table(**options) as table:
        written = fill(table, size)
        with pytest.raises(ringtable.OutOfMemory):
            table["large"] = bytes(16 << 20)
        assert len(table) == len(written)
        assert table.get_many(written) == list(written.values())
        assert dict(table.items()) == written
        # An overwrite that does not fit keeps the old value.
        some_key = next(iter(written))
        with pytest.raises(ringtable.OutOfMemory):
            table[some_key] = bytes(16 << 20)
        assert table[some_key] == written[some_key]


def test_a_full_table_gives_new_times_to_live(small: Server) -> None:
    with ringtable.connect() as table:
        # From 256 bytes on, all that counts.
        written = fill(table, 300) | fill(table, 1_000_000)
        free = table.stats()["memory_free"]
        assert all(table.expire(key, 1_000) for key in written)
        assert table.stats()["memory_free"] == free
        assert table.get_many(written) == list(written.values())
        assert all(999 - 100 < (table.ttl(key) or 0) <= 1_000 for key in written)


@pytest.mark.parametrize("eviction", ["allkeys-sieve", "volatile-ttl"])
def test_a_full_cache_evicts_nothing_for_a_new_time_to_live(ringtable_dir: object, eviction: Any) -> None:
    with Server(max_memory="8MiB", eviction=eviction), ringtable.connect() as table:
        number = 0
        while table.stats()["evicted_keys"] == 0:
            table.set(b"key %d" % number, bytes(100_000), ttl=1_000)
            number += 1
        evicted, keys = table.stats()["evicted_keys"], list(table)
        for _ in range(10):
            assert all(table.expire(key, 2_000) for key in keys)
        assert table.stats()["evicted_keys"] == evicted
        assert sorted(table) == sorted(keys)


@pytest.mark.parametrize("size", [100, 5_000, 100_000, 1_000_000])
def test_room_that_was_made_can_be_used(small: Server, size: int) -> None:
    with ringtable.connect() as table:
        first = fill(table, size)
        assert table.delete_many(first) == len(first)
        second = fill(table, size)
        assert len(second) >= 0.9 * len(first)
        table.clear()
        # Room of one size serves others, too.
        other_size = 1_010_000 - size
        third = fill(table, other_size)
        assert sum(map(len, third.values())) > 2 << 20
        assert table.get_many(third) == list(third.values())


def test_a_posted_write_that_does_not_fit_is_reported(small: Server) -> None:
    with ringtable.connect() as table:
        fill(table, 1_000)
        table.set("large", bytes(16 << 20), writes="posted")
        with pytest.raises(ringtable.OutOfMemory):
            table.flush()
        table.flush()
        assert "large" not in table


def test_a_full_table_in_the_words_of_redis(small: Server) -> None:
    with ringtable.connect() as table, RawConnection(small.path) as connection:
        fill(table, 1_000)
        reply = connection.command(b"SET", b"large", bytes(16 << 20))
        assert isinstance(reply, Exception)
        assert str(reply).startswith("OOM ")
        assert connection.command(b"PING") == b"PONG"


@pytest.mark.slow
def test_what_an_entry_costs(ringtable_dir: object) -> None:
    # One bucket at first: what growing has cost counts as well.
    with ServerProcess("-s", "1", "--workers", "1") as server, ringtable.connect() as table:
        empty = server.resident_bytes()
        for first in range(0, ENTRIES, 1_000):
            table.set_many((b"%016d" % index, b"v" * VALUE_SIZE) for index in range(first, first + 1_000))
        overhead = (server.resident_bytes() - empty) / ENTRIES - KEY_SIZE - VALUE_SIZE
        print(f"{overhead:.1f} bytes an entry beyond key and value")
        assert len(table) == ENTRIES
        assert overhead <= OVERHEAD_MAX


def test_idle_clients_keep_no_large_buffers(ringtable_dir: object) -> None:
    """A request of a MiB once left a buffer of a MiB behind for as long as its client was connected."""
    with ServerProcess("--max-memory", "64MiB") as server, ExitStack() as stack:
        connections = [stack.enter_context(RawConnection(socket_path("default"))) for _ in range(60)]
        before = private_bytes(server.pid)
        for connection in connections:
            assert connection.command(b"EXISTS", *[b"%1000d" % index for index in range(1_000)]) == 0
        wait_until(
            lambda: private_bytes(server.pid) - before < 20 << 20,
            "large buffers are kept for clients that do nothing",
        )
        # They go on as before.
        for connection in connections:
            assert connection.command(b"EXISTS", *[b"%1000d" % index for index in range(1_000)]) == 0
