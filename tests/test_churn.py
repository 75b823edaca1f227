"""A cache at its limit: it stays within `max_memory`, refuses no write, and is as quick at the end as at the start.

Several clients set, get and delete keys with values from 1 byte to 1 MiB. Their mean drifts from 46 bytes to 190 KB and
back, ten times, so that memory has to serve other sizes than it was given out for. Every tenth of the work is one such
cycle, so that the first and the last can be compared. Every value tells whether it is whole, and whether it is the
key's.

RINGTABLE_CHURN_OPERATIONS says how many operations (of one key each) the long form does, RINGTABLE_TEST_SEED which.
"""

from __future__ import annotations

import math
import os
import random
import struct
import time
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import ringtable
from ringtable import Table
from support import DEADLINE_S, Child, Flag, ServerProcess

MEMORY_MAX = 256 << 20
CLIENTS = 3
OPERATIONS_SHORT = 40_000
OPERATIONS_LONG = 200_000_000
OPERATIONS_PER_S_MIN = 5_000
"""A call that takes longer hangs."""

CYCLES = 10
KEYS = 1 << 23
"""So many that they would never fit, however small their values."""

RECENT_COUNT = 1 << 12
"""So many keys does a client remember to read and delete: others were often evicted long ago."""

EXPONENT_LOW_MAX = 12.0
EXPONENT_RANGE = 8.0
"""The size of a value is 2 to a power from within such a range, which moves up by `EXPONENT_LOW_MAX` and down again."""

VALUE_SIZE_MAX = 1 << 20
BURST_COUNT_MAX = 200
BURST_SIZE_MAX = 1 << 20
SET_SHARE, GET_SHARE = 0.45, 0.45
SINGLY_SHARE = 1 / 8
"""Of the bursts: those that are sent key by key."""

SAMPLE_S = 0.002
OVER_MAX = 1.02
FULL_MIN = 0.9
SLOWDOWN_MAX = 0.1

NOISE = random.Random(1).randbytes(2 * VALUE_SIZE_MAX)
STAMP = struct.Struct("<Q")
SIZE_BITS = 21


def make_value(key: bytes, version: int, size: int) -> bytes:
    """A value that names its version and size, if it has the room, and goes on with noise that only it has."""
    if size < STAMP.size:
        start = zlib.crc32(key) % VALUE_SIZE_MAX
        return NOISE[start : start + size]
    stamp = STAMP.pack(version << SIZE_BITS | size)
    start = zlib.crc32(stamp, zlib.crc32(key)) % VALUE_SIZE_MAX
    return stamp + NOISE[start : start + size - STAMP.size]


def check_value(key: bytes, value: bytes) -> None:
    version = STAMP.unpack_from(value)[0] >> SIZE_BITS if len(value) >= STAMP.size else 0
    assert value == make_value(key, version, len(value)), f"the value of {key!r}, {len(value)} bytes, is not one of its"


@dataclass
class Extremes:
    """What the table took while the others worked, in bytes, of many samples."""

    lowest: int = 1 << 62
    highest: int = 0
    samples: int = 0

    def add(self, resident: int) -> None:
        self.lowest = min(self.lowest, resident)
        self.highest = max(self.highest, resident)
        self.samples += 1


@dataclass(frozen=True)
class Clocks:
    """Three clocks read together, seconds; or the time between two such moments."""

    wall_s: float
    client_s: float
    """CPU time of this client."""

    server_s: float
    """CPU time of the server, for whomever it worked."""

    @classmethod
    def now(cls, server: ServerProcess) -> Clocks:
        return cls(time.monotonic(), time.process_time(), server.cpu_s())

    def since(self, start: Clocks) -> Clocks:
        return Clocks(self.wall_s - start.wall_s, self.client_s - start.client_s, self.server_s - start.server_s)


@dataclass(frozen=True)
class Speed:
    """What a tenth of all operations costs."""

    per_s: float
    """Operations a second."""

    cpu_ns: float
    """CPU time an operation, of clients and server."""

    @classmethod
    def of(cls, operations: float, clients: list[Clocks]) -> Speed:
        """That of clients each of which has done so many operations."""
        # All see the same server, at about the same times.
        cpu_s = sum(clock.client_s for clock in clients) + sum(clock.server_s for clock in clients) / len(clients)
        return cls(sum(operations / clock.wall_s for clock in clients), 1e9 * cpu_s / (operations * len(clients)))


@dataclass
class Work:
    """What a client has done."""

    operations: int = 0
    found: int = 0
    tenths: list[Clocks] = field(default_factory=list)
    """How long each tenth of its operations took."""


class Churner:
    """One client."""

    def __init__(self, table: Table, number: int, seed: int) -> None:
        self.table = table
        self.noise = random.Random(f"{seed} {number}")
        self.version = number
        self.recent = [self.any_key()] * RECENT_COUNT
        self.work = Work()

    def any_key(self) -> bytes:
        return b"%d" % self.noise.randrange(KEYS)

    def burst(self, cycle: float) -> None:
        """Set, get or delete some keys; `cycle` says how much of a cycle is over."""
        low = EXPONENT_LOW_MAX * (1.0 - abs(2.0 * (cycle % 1.0) - 1.0))
        mean = 2.0**low * (2.0**EXPONENT_RANGE - 1.0) / (EXPONENT_RANGE * math.log(2.0))
        count = max(1, min(BURST_COUNT_MAX, int(BURST_SIZE_MAX / mean)))
        what, singly = self.noise.random(), self.noise.random() < SINGLY_SHARE
        if what < SET_SHARE:
            self.set([self.new_item(low) for _ in range(count)], singly)
        elif what < SET_SHARE + GET_SHARE:
            self.get([self.some_key() for _ in range(count)], singly)
        else:
            self.delete([self.some_key() for _ in range(count)], singly)
        self.work.operations += count

    def new_item(self, low: float) -> tuple[bytes, bytes]:
        key = self.any_key()
        self.version += CLIENTS
        self.recent[self.version // CLIENTS % RECENT_COUNT] = key
        return key, make_value(key, self.version, int(2.0 ** (low + EXPONENT_RANGE * self.noise.random())))

    def some_key(self) -> bytes:
        return self.recent[self.noise.randrange(RECENT_COUNT)] if self.noise.random() < 0.5 else self.any_key()

    def set(self, items: list[tuple[bytes, bytes]], singly: bool) -> None:
        if not singly:
            self.table.set_many(items)
            return
        for number, (key, value) in enumerate(items):
            assert self.table.set(key, value, writes="posted" if number % 2 else "acknowledged")
        self.table.flush()

    def get(self, keys: list[bytes], singly: bool) -> None:
        values = [self.table.get(key) for key in keys] if singly else self.table.get_many(keys)
        for key, value in zip(keys, values, strict=True):
            if value is not None:
                check_value(key, value)
                self.work.found += 1

    def delete(self, keys: list[bytes], singly: bool) -> None:
        if not singly:
            self.table.delete_many(keys)
            return
        for key in keys:
            self.table.delete(key)


def churn(server: ServerProcess, number: int, operations: int, seed: int, failed: Flag) -> Work:
    """Do so many operations, or fewer if another client has failed."""
    with ringtable.connect(timeout=DEADLINE_S) as table:
        churner = Churner(table, number, seed)
        work = churner.work
        start = Clocks.now(server)
        try:
            while work.operations < operations and not failed.is_set():
                churner.burst(CYCLES * work.operations / operations)
                if work.operations >= operations * (len(work.tenths) + 1) / 10:
                    now = Clocks.now(server)
                    work.tenths.append(now.since(start))
                    start = now
        except BaseException:
            failed.set()
            raise
    return work


def watch_memory(server: ServerProcess, finish: Flag) -> Extremes:
    """Sample what the server says of its table's memory, and what the kernel says."""
    extremes = Extremes()
    with ringtable.connect() as table:
        while not finish.is_set():
            extremes.add(int(table.stats()["memory_resident"]))
            extremes.add(server.table_bytes())
            time.sleep(SAMPLE_S)
    return extremes


def fill_up(table: Table, seed: int) -> None:
    """Write values of all sizes until some are evicted for others."""
    noise = random.Random(seed)
    for number in range(MEMORY_MAX):
        key = b"%d" % noise.randrange(KEYS)
        table[key] = make_value(key, number, int(2.0 ** noise.uniform(0.0, 20.0)))
        if number % 1_000 == 0 and table.stats()["evicted_keys"]:
            return
    raise AssertionError("nothing is ever evicted")


def churn_at_the_limit(operations: int, seed: int) -> list[Speed]:
    """Check all that must hold at all times; return how quick each tenth was."""
    with ServerProcess("--max-memory", str(MEMORY_MAX), "--eviction", "allkeys-sieve") as server, ExitStack() as stack:
        with ringtable.connect() as table:
            fill_up(table, seed)
        failed, finish = stack.enter_context(Flag()), stack.enter_context(Flag())
        watcher = stack.enter_context(Child(watch_memory, server, finish))
        share = -(-operations // CLIENTS)
        clients = [stack.enter_context(Child(churn, server, number, share, seed, failed)) for number in range(CLIENTS)]
        done: list[Work] = [client.result(DEADLINE_S + operations / OPERATIONS_PER_S_MIN) for client in clients]
        finish.set()
        extremes: Extremes = watcher.result()
        with ringtable.connect() as table:
            stats = table.stats()
            sound = sum(1 for key, value in checked_items(table))
    assert sum(work.operations for work in done) >= operations
    tenths = [Speed.of(share / 10, [work.tenths[tenth] for work in done]) for tenth in range(10)]
    print(
        f"{sum(work.operations for work in done):,} operations, {sum(work.found for work in done):,} values checked,"
        f" {stats['evicted_keys']:,} keys evicted, {sound:,} left;"
        f" memory between {extremes.lowest / MEMORY_MAX:.3f} and {extremes.highest / MEMORY_MAX:.3f} of its limit"
        f" in {extremes.samples:,} samples;"
        f" by tenth: {', '.join(f'{tenth.per_s:,.0f}/s at {tenth.cpu_ns:,.0f} ns' for tenth in tenths)}"
    )
    assert extremes.highest <= OVER_MAX * MEMORY_MAX
    assert extremes.lowest >= FULL_MIN * MEMORY_MAX
    return tenths


def checked_items(table: Table) -> Iterable[tuple[bytes, bytes]]:
    for key, value in table.items():
        check_value(key, value)
        yield key, value


def test_smoke() -> None:
    for size in (1, 7, 8, 9, 1_000, VALUE_SIZE_MAX):
        value = make_value(b"key", 5, size)
        assert len(value) == size
        check_value(b"key", value)
    # A single byte may be right by chance.
    with pytest.raises(AssertionError):
        check_value(b"other", make_value(b"key", 5, 7))
    torn = make_value(b"key", 5, 1_000)[:500] + make_value(b"key", 6, 1_000)[500:]
    with pytest.raises(AssertionError):
        check_value(b"key", torn)


def test_a_cache_at_its_limit(ringtable_dir: object, seed: int) -> None:
    churn_at_the_limit(OPERATIONS_SHORT, seed)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_cache_at_its_limit_for_long(ringtable_dir: object, seed: int) -> None:
    operations = int(os.environ.get("RINGTABLE_CHURN_OPERATIONS") or OPERATIONS_LONG)
    first, *_, last = churn_at_the_limit(operations, seed)
    # Other programs take wall time, and hardly any CPU time: only both together speak against us.
    slower = last.per_s < (1.0 - SLOWDOWN_MAX) * first.per_s
    dearer = last.cpu_ns > (1.0 + SLOWDOWN_MAX) * first.cpu_ns
    assert not (slower and dearer), f"the last tenth was slower than the first: {last} after {first}"
