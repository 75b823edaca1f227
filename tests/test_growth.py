"""A table that begins with 16 buckets grows under writers, while readers read."""

import mmap
import random
import struct
import time

import pytest
import ringtable
from support import Child, ServerProcess, figures_of

BUCKETS_FIRST = 16
WRITERS = 4
READERS = 4
BATCH = 500
INSERT_NS_MAX = 20_000_000
# How many keys a process of each kind goes through in a second at the very least, on a busy machine.
KEYS_PER_S_MIN = 5_000


def key(writer: int, index: int) -> bytes:
    return b"key %d %d" % (writer, index)


def value(writer: int, index: int) -> bytes:
    return b"%d:%d" % (writer, index)


class Progress:
    """How many keys each writer has written, in memory that the test's processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def __getitem__(self, writer: int) -> int:
        (count,) = struct.unpack_from("=Q", self._memory, 8 * writer)
        return int(count)

    def __setitem__(self, writer: int, count: int) -> None:
        struct.pack_into("=Q", self._memory, 8 * writer, count)

    def close(self) -> None:
        self._memory.close()


def write(writer: int, count: int, progress: Progress) -> None:
    with ringtable.connect() as table:
        for first in range(0, count, BATCH):
            # Half of them one by one, since a burst hides how long each takes.
            indexes = range(first, min(first + BATCH, count))
            if first // BATCH % 2:
                for index in indexes:
                    table[key(writer, index)] = value(writer, index)
            else:
                table.set_many((key(writer, index), value(writer, index)) for index in indexes)
            progress[writer] = indexes.stop


def read(reader: int, count: int, progress: Progress, seed: int) -> int:
    """Read what is already written until all is, then all of one writer's keys; return the number of reads."""
    generator = random.Random(seed + reader)
    reads = 0
    with ringtable.connect() as table:
        while any(progress[writer] < count for writer in range(WRITERS)):
            writer = generator.randrange(WRITERS)
            written = progress[writer]
            if written:
                indexes = [generator.randrange(written) for _ in range(BATCH)]
                for index in indexes:
                    assert table.get(key(writer, index)) == value(writer, index), (writer, index)
                assert table.get_many(key(writer, index) for index in indexes) == [value(writer, i) for i in indexes]
                assert table.get(key(writer, count)) is None
                reads += 2 * BATCH + 1
        for first in range(0, count, BATCH):
            indexes = list(range(first, min(first + BATCH, count)))
            assert table.get_many(key(reader, index) for index in indexes) == [value(reader, i) for i in indexes]
            reads += len(indexes)
    return reads


def grow(count: int, max_memory: str, seed: int) -> dict[str, int]:
    """Let each writer write `count` keys while the readers read, check everything, and return the server's counters."""
    progress = Progress()
    with ServerProcess("-s", str(BUCKETS_FIRST), "--workers", "2", "--max-memory", max_memory):
        start = time.monotonic()
        children = [Child(write, writer, count, progress) for writer in range(WRITERS)]
        children += [Child(read, reader, count, progress, seed) for reader in range(READERS)]
        try:
            for child in children:
                child.result(timeout=30 + count * WRITERS / KEYS_PER_S_MIN)
        finally:
            for child in children:
                child.close()
        print(f"{count * WRITERS} keys in {time.monotonic() - start:.1f} s")
        with ringtable.connect() as table:
            stats = figures_of(table)
            print(stats)
            assert len(table) == stats["entries"] == count * WRITERS
            assert int(stats["buckets"]) >= count * WRITERS / 14
            assert len(set(table)) == count * WRITERS
    progress.close()
    return stats


def test_smoke(seed: int) -> None:
    grow(1_500, "64MiB", seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_growth_to_two_million(seed: int) -> None:
    stats = grow(500_000, "1GiB", seed)
    # No pause: growing never keeps a single insert waiting for long.
    assert int(stats["insert_ns_max"]) <= INSERT_NS_MAX


def test_iterating_while_the_table_grows() -> None:
    """Whatever was there when the iteration began comes, each key once."""
    with ServerProcess("-s", str(BUCKETS_FIRST)), ringtable.connect() as table:
        table.update((key(0, index), b"") for index in range(2_000))
        iteration = iter(table)
        seen = [next(iteration)]
        table.update((key(1, index), b"") for index in range(20_000))
        seen.extend(iteration)
        assert {key(0, index) for index in range(2_000)} <= set(seen)
        assert len(seen) == len(set(seen))
