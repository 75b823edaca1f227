"""Memory that is no longer needed goes back to the system: soon, and while others read."""

import mmap
import os
import random
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import ringtable
from _pytest.mark import ParameterSet
from support import DEADLINE_S, Child, Flag, RawLane, ServerProcess, wait_until

CLIENTS = 2
BURST_SIZE = 4 << 20
LEFT_MAX = 64 << 20
"""What a table may keep that was cleared, bytes."""

RETURNED_S_MAX = 10.0
"""Generous: it is to take less than a second."""

RETURNED_HALF_S_MAX = 300.0
"""More generous still: what is left has to be moved together first."""

NOISE_SIZE = 1 << 20
NOISE = random.Random(1).randbytes(2 * NOISE_SIZE)


@dataclass(frozen=True)
class Content:
    total_size: int
    value_size: int

    @property
    def count(self) -> int:
        return self.total_size // self.value_size

    def value(self, key: bytes) -> bytes:
        """The only value that a key ever has."""
        start = zlib.crc32(key) % NOISE_SIZE
        return NOISE[start : start + self.value_size]


FAST = 64 << 20
SLOW = 2 << 30
SLOW_S_MAX = 900


def contents(fast_size: int) -> list[ParameterSet]:
    """Large and small values, some of them in a form that takes more than ten seconds."""
    slow = [pytest.mark.slow, pytest.mark.timeout(SLOW_S_MAX)]
    return [
        pytest.param(
            Content(total, value), id=f"{total >> 20} MiB of {value} bytes", marks=slow if total == SLOW else []
        )
        for total in (fast_size, SLOW)
        for value in (64 << 10, 100)
    ]


@dataclass
class Reading:
    """What a reader has seen."""

    reads: int = 0
    found: int = 0
    longest_s: float = 0.0


def key_of(number: int) -> bytes:
    return b"%d" % number


@contextmanager
def filled(content: Content) -> Iterator[ServerProcess]:
    """A server with all of this content in its table."""
    with ServerProcess("--max-memory", str(2 * content.total_size)) as server:
        clients = [Child(fill, content, number) for number in range(CLIENTS)]
        for client in clients:
            client.result(timeout=10 * DEADLINE_S)
        with ringtable.connect() as table:
            assert len(table) == content.count
            assert int(table.stats()["memory_resident"]) >= content.total_size
            assert server.table_bytes() >= content.total_size
        yield server


def fill(content: Content, number: int) -> None:
    step = max(1, BURST_SIZE // (content.value_size + 100))
    with ringtable.connect() as table:
        for first in range(number * step, content.count, CLIENTS * step):
            keys = map(key_of, range(first, min(first + step, content.count)))
            table.set_many((key, content.value(key)) for key in keys)


def read(content: Content, reading: Flag, cleared: Flag, finish: Flag) -> Reading:
    """Read any keys: the value is right or there is none, and there is none once the table was cleared."""
    noise = random.Random(os.getpid())
    seen = Reading()
    with ringtable.connect() as table:
        while not finish.is_set():
            key = key_of(noise.randrange(content.count))
            is_cleared = cleared.is_set()
            start = time.monotonic()
            value = table.get(key)
            seen.longest_s = max(seen.longest_s, time.monotonic() - start)
            assert value is None or (value == content.value(key) and not is_cleared)
            seen.reads += 1
            seen.found += value is not None
            if seen.reads == 1:
                reading.set()
    return seen


def resident(table: ringtable.Table, server: ServerProcess) -> int:
    """What the table takes: the worse of what the server says and what the kernel says, bytes."""
    return max(int(table.stats()["memory_resident"]), server.table_bytes())


def given_back(table: ringtable.Table) -> int:
    return int(table.stats()["memory_given_back"])


def test_smoke(ringtable_dir: object) -> None:
    with filled(Content(64 << 20, 64 << 10)) as server, ringtable.connect() as table:
        table.clear()
        assert len(table) == 0
        wait_until(lambda: resident(table, server) < LEFT_MAX, "memory has gone back")


@pytest.mark.parametrize("content", contents(FAST))
def test_a_cleared_table_gives_its_memory_back(ringtable_dir: object, content: Content) -> None:
    with filled(content) as server, ExitStack() as stack:
        reading, cleared, finish = (stack.enter_context(Flag()) for _ in range(3))
        readers = [stack.enter_context(Child(read, content, reading, cleared, finish)) for _ in range(CLIENTS)]
        # Only reached once somebody reads, so that the clearing happens under readers.
        reading.wait()
        with ringtable.connect() as table:
            start = time.monotonic()
            table.clear()
            cleared_s = time.monotonic() - start
            cleared.set()
            assert len(table) == 0
            wait_until(lambda: resident(table, server) < LEFT_MAX, "memory has gone back")
            returned_s = time.monotonic() - start
            left = resident(table, server)
            # The room can be used again.
            table["key"] = b"value"
            assert table["key"] == b"value"
        finish.set()
        seen = [reader.result() for reader in readers]
    longest_s = max(reader.longest_s for reader in seen)
    print(
        f"cleared in {cleared_s:.3f} s, memory returned after {returned_s:.3f} s, {left >> 10} KiB left;"
        f" {sum(reader.reads for reader in seen)} reads, {sum(reader.found for reader in seen)} of them found a value,"
        f" longest wait {longest_s:.3f} s"
    )
    assert longest_s < DEADLINE_S
    if content.total_size == SLOW:
        assert returned_s < RETURNED_S_MAX


@pytest.mark.parametrize("gone", [False, True], ids=["connected", "gone"])
def test_what_was_only_read_goes_back(ringtable_dir: object, gone: bool) -> None:
    """Whoever reads a hole through a shared mapping has it filled with a page, be the mapping read-only or not."""
    size = 256 << 20
    content = Content(32 << 20, 1_000)
    with ServerProcess("--max-memory", str(size)) as server, ringtable.connect() as table:
        # Grown, so that some of the pages of its buckets are of no use any more.
        table.set_many((key_of(number), b"") for number in range(200_000))
        table.clear()
        table.set_many((key_of(number), content.value(key_of(number))) for number in range(content.count))
        used = resident(table, server)
        with ExitStack() as stack:
            lane = stack.enter_context(RawLane())
            mapping = mmap.mmap(lane.table, size, mmap.MAP_SHARED, mmap.PROT_READ)
            stack.callback(mapping.close)
            if gone:
                # It may go on reading what it has mapped.
                lane.socket.close()
            for _ in range(2):
                before = given_back(table)
                # Some of it may be given back before all is read.
                assert sum(mapping[:: mmap.PAGESIZE]) >= 0
                wait_until(lambda: server.table_bytes() < used + LEFT_MAX / 4, "what was read is given back")
                assert given_back(table) - before > (size - used) / 2
        assert all(table[key_of(number)] == content.value(key_of(number)) for number in range(content.count))


@pytest.mark.parametrize("content", contents(FAST // 2))
def test_deleted_entries_give_their_memory_back(ringtable_dir: object, content: Content, seed: int) -> None:
    with filled(content) as server, ringtable.connect() as table:
        before = resident(table, server)
        numbers = list(range(content.count))
        random.Random(seed).shuffle(numbers)
        kept = numbers[: content.count // 10]
        deleted = numbers[content.count // 10 :]
        start = time.monotonic()
        for first in range(0, len(deleted), 10_000):
            burst = deleted[first : first + 10_000]
            assert table.delete_many(map(key_of, burst)) == len(burst)
        deleted_s = time.monotonic() - start
        wait_until(
            lambda: resident(table, server) < before / 2, "half of the memory has gone back", RETURNED_HALF_S_MAX
        )
        returned_s = time.monotonic() - start - deleted_s
        print(
            f"deleted in {deleted_s:.3f} s, half of the memory returned {returned_s:.3f} s later,"
            f" {resident(table, server) / before:.0%} left"
        )
        assert len(table) == len(kept)
        for first in range(0, len(kept), 1_000):
            keys = [key_of(number) for number in kept[first : first + 1_000]]
            assert table.get_many(keys) == list(map(content.value, keys))
