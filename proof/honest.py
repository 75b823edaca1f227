"""Honest clients: each does all kinds of calls, checks every answer, and measures how long each call takes.

A value says whose it is, of which key, and the how manieth, and ends with a checksum: so one that is torn, old or
another key's is found out. A client knows exactly what its own keys hold; those of others it only ever sees go on.
Nobody else has keys that begin with `PREFIX`.
"""

import mmap
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import ringtable
from ringtable import Table
from support import own_ringtable_memory

PREFIX = "honest"
TIMEOUT_S = 10.0
"""For how long a call may wait at most where none may fail."""

RINGS_TIMEOUT_S = 1.5
"""The same where a call may fail, and has to end: longer than a slow consumer is waited for."""

SIZES = (*(40 + 23 * index for index in range(16)), 5_000, 5_001, 30_000, 100_003)
"""Bytes of the values of a client's keys; the last one is large: it flows straight into its entry."""

FULL_KEYS_MAX = 2
"""Keys of a client that may happen to fall into buckets that the hostile one has filled: two of ten thousand."""

BUCKETS = 64 * 32
PHASES = ("quiet", "neighbour", "hostile")
LEAVE, WAIT = len(PHASES), len(PHASES) + 1
"""What the phase is when all is over, and between phases."""


class Wrong(AssertionError):
    """An answer that cannot be."""


@dataclass(frozen=True)
class Role:
    """A kind of honest client."""

    name: str
    options: dict[str, Any]
    may_fail: bool = False
    """Whether its calls may end with an error, which only those may that share rings with the hostile one."""

    writes: bool = True
    """Whether it has keys of its own; else it reads, in place, those of the ones that write."""


LANE_ROLES = (
    Role("lane, in place", {"transport": "lane"}),
    Role("lane, in place", {"transport": "lane"}),
    Role("lane, in place", {"transport": "lane"}),
    Role("lane, asking", {"transport": "lane", "reads": "server"}),
    Role("socket", {"transport": "socket"}),
    Role("socket", {"transport": "socket"}),
    Role("tcp", {"tcp": True}),
    Role("tcp", {"tcp": True}),
)
RING_ROLES = (
    Role("socket", {"transport": "socket"}),
    Role("socket", {"transport": "socket"}),
    Role("tcp", {"tcp": True}),
    Role("tcp", {"tcp": True}),
    Role("rings, in place", {"transport": "rings"}, may_fail=True, writes=False),
    Role("rings, in place", {"transport": "rings"}, may_fail=True, writes=False),
    Role("rings, asking", {"transport": "rings", "reads": "server"}, may_fail=True),
    Role("rings, asking", {"transport": "rings", "reads": "server"}, may_fail=True),
)


def key_of(client: int, index: int) -> str:
    return f"{PREFIX} {client} {index}"


def value_of(key: str, number: int, size: int) -> bytes:
    """The value that a key has as its so manieth."""
    head = struct.pack("<QI", number, size) + key.encode()
    filling = (number * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")
    body = head + filling * ((size - len(head) - 4) // 8 + 1)
    body = body[: size - 4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def number_in(key: str, value: bytes) -> int:
    """The how manieth value of this key it is, if it is one."""
    number, size = struct.unpack_from("<QI", value) if len(value) >= 12 else (0, 0)
    if size != len(value) or zlib.crc32(value[:-4]) != int.from_bytes(value[-4:], "little"):
        raise Wrong(f"{key!r} has {len(value)} bytes that are torn, or nobody has written: {value[:48]!r}")
    if value[12 : 12 + len(key)] != key.encode():
        raise Wrong(f"{key!r} has the value of another key: {value[12:48]!r}")
    return int(number)


def place_of(elapsed_ns: int) -> int:
    """The bucket of a histogram that a time belongs to: 32 of them to each doubling of a microsecond."""
    microseconds = elapsed_ns // 250
    if microseconds < 32:
        return microseconds
    shift = microseconds.bit_length() - 6
    return min((shift + 1) * 32 + (microseconds >> shift) - 32, BUCKETS - 1)


def microseconds_of(place: int) -> float:
    """The time in the middle of such a bucket."""
    if place < 32:
        return (place + 0.5) / 4
    shift = place // 32 - 1
    return ((place % 32 + 32.5) * (1 << shift)) / 4


@dataclass
class Latencies:
    """How long calls took."""

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, other: "Latencies") -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]

    @property
    def calls(self) -> int:
        return sum(self.counts)

    def percentile(self, share: float) -> float:
        """The time that so many percent of all calls did not exceed, in microseconds."""
        left = share / 100 * self.calls
        for place, count in enumerate(self.counts):
            left -= count
            if left <= 0 and count:
                return microseconds_of(place)
        return 0.0


@dataclass
class Report:
    """What a client has seen."""

    role: str
    latencies: dict[int, Latencies] = field(default_factory=lambda: {phase: Latencies() for phase in range(3)})
    """By phase."""

    reads: int = 0
    """Values that were checked."""

    failures: dict[str, int] = field(default_factory=dict)
    """Calls that ended with an error, by its class, where they may."""

    longest_s: float = 0.0


class Honest:
    """One honest client."""

    def __init__(self, number: int, role: Role, address: str, tcp: str, phase: mmap.mmap, seed: int) -> None:
        self._number, self._role, self._phase = number, role, phase
        options = dict(role.options)
        self._address = tcp if options.pop("tcp", False) else address
        self._options = options
        self._random = Random(seed * 1_000 + number)
        self.report = Report(role.name)
        # What each own key holds (0 for nothing), and the last number that was given out for it.
        self._numbers = [0] * len(SIZES)
        self._given = [0] * len(SIZES)
        self._writers: list[int] = []
        self._forgets = False
        self._seen: dict[str, int] = {}
        self._count = 0
        self._shared_count = 0
        self._full: set[str] = set()

    def connect(self) -> Table:
        timeout = RINGS_TIMEOUT_S if self._role.may_fail else TIMEOUT_S
        return Table(self._address, timeout=timeout, **self._options)

    def work(self, rate: float, writers: list[int], forgets: bool) -> Report:
        """Work until the phase says that all is over, `rate` calls a second at most; 0 for as many as can be.

        `writers` are the clients whose keys are read besides; `forgets` says whether the table is a cache.
        """
        self._writers, self._forgets = writers, forgets
        while self._phase[0] != LEAVE:
            try:
                with self.connect() as table:
                    self._work(table, rate)
            except ringtable.Error as error:
                if not self._role.may_fail:
                    raise
                self._failed(error)
                time.sleep(0.02)
        assert not own_ringtable_memory() or self._role.may_fail
        return self.report

    def _failed(self, error: Exception) -> None:
        name = type(error).__name__
        self.report.failures[name] = self.report.failures.get(name, 0) + 1

    def _work(self, table: Table, rate: float) -> None:
        calls = self._calls(table)
        due_ns = time.monotonic_ns()
        while (phase := self._phase[0]) != LEAVE:
            call = next(calls)
            began_ns = time.perf_counter_ns()
            try:
                call()
            except ringtable.Timeout as error:
                if not self._role.may_fail:
                    raise
                # The connection goes on; what was asked for may still come.
                self._failed(error)
            elapsed_ns = time.perf_counter_ns() - began_ns
            if phase < len(PHASES):
                self.report.latencies[phase].counts[place_of(elapsed_ns)] += 1
                self.report.longest_s = max(self.report.longest_s, elapsed_ns / 1e9)
            if rate:
                due_ns = max(due_ns + int(self._random.expovariate(rate) * 1e9), time.monotonic_ns() - 10_000_000)
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)

    def _calls(self, table: Table) -> Iterator[Callable[[], None]]:
        """Call after call, in an order that differs from client to client."""
        own = [self._read_own] * 6 + [self._write] * 5 + [self._remove, self._increase, self._increase, self._several]
        if table.transport != "socket" and table.reads == "direct" and not self._role.may_fail:
            own += [self._view] * 2
        others = [self._read_other] * 5
        # What the rings' clients write may be anything by the time it is read.
        choices = ([] if not self._role.writes else own) + others
        if self._role.may_fail and self._role.writes:
            choices = [self._try_own]
        while True:
            method = self._random.choice(choices)
            yield lambda method=method: method(table)  # type: ignore[misc]

    def _own(self) -> tuple[int, str]:
        index = self._random.randrange(len(SIZES))
        return index, key_of(self._number, index)

    def _check_own(self, index: int, value: bytes | None) -> None:
        key, expected = key_of(self._number, index), self._numbers[index]
        self.report.reads += 1
        if value is None:
            if expected and not self._forgets:
                raise Wrong(f"{key!r} is gone, of which value {expected} was written last")
            return
        found = number_in(key, value)
        if found != expected:
            raise Wrong(f"{key!r} has value {found}, and {expected} was written last")

    def _read_own(self, table: Table) -> None:
        index, key = self._own()
        self._check_own(index, table.get(key))

    def _write(self, table: Table) -> None:
        index, key = self._own()
        self._given[index] += 1
        with self._may_be_full(key):
            table[key] = value_of(key, self._given[index], SIZES[index])
            self._numbers[index] = self._given[index]

    @contextmanager
    def _may_be_full(self, key: str) -> Iterator[None]:
        """A key may happen to fall into a bucket that somebody has filled on purpose: then it cannot be written."""
        try:
            yield
        except ringtable.BucketFull:
            self._full.add(key)
            if len(self._full) > FULL_KEYS_MAX:
                raise

    def _remove(self, table: Table) -> None:
        index, key = self._own()
        there = table.delete(key)
        if there != bool(self._numbers[index]) and not self._forgets:
            raise Wrong(f"{key!r} was {'' if there else 'not '}there, after {self._numbers[index]} was written")
        self._numbers[index] = 0

    def _increase(self, table: Table) -> None:
        if self._random.random() < 0.5:
            with self._may_be_full(key := f"{PREFIX} {self._number} count"):
                found = table.incr(key)
                if found != self._count + 1 and not (self._forgets and found == 1):
                    raise Wrong(f"an own counter went from {self._count} to {found}")
                self._count = found
        else:
            with self._may_be_full(key := f"{PREFIX} count"):
                found = table.incr(key)
                if found <= self._shared_count and not self._forgets:
                    raise Wrong(f"the common counter went from {self._shared_count} to {found}")
                self._shared_count = found

    def _several(self, table: Table) -> None:
        indices = self._random.sample(range(len(SIZES)), 4)
        found = table.get_many([key_of(self._number, index) for index in indices])
        for index, value in zip(indices, found, strict=True):
            self._check_own(index, value)

    def _view(self, table: Table) -> None:
        """A value in place stays as it is, whatever becomes of its key."""
        index, key = self._own()
        try:
            view = table.view(key)
        except KeyError:
            self._check_own(index, None)
            return
        with view, memoryview(view) as seen:
            before = bytes(seen)
            self._check_own(index, before)
            self._given[index] += 1
            with self._may_be_full(key):
                table[key] = value_of(key, self._given[index], SIZES[index])
                self._numbers[index] = self._given[index]
            if bytes(seen) != before:
                raise Wrong(f"a view of {key!r} has changed")

    def _read_other(self, table: Table) -> None:
        key = key_of(self._random.choice(self._writers), self._random.randrange(len(SIZES)))
        # A read in place that writers get in the way of asks the server; what comes through rings that others scribble
        # on may be anything. What the table holds stays wrong if it is.
        for tries_left in reversed(range(5 if self._role.may_fail else 1)):
            try:
                self._check_other(key, table.get(key))
                return
            except Wrong:
                if tries_left == 0:
                    raise

    def _check_other(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        self.report.reads += 1
        found, seen = number_in(key, value), self._seen.get(key, 0)
        if found < seen:
            raise Wrong(f"{key!r} went back from value {seen} to {found}")
        self._seen[key] = found

    def _try_own(self, table: Table) -> None:
        """Through rings that others scribble on: an answer, right or wrong, or an error, and in time."""
        _, key = self._own()
        with suppress(KeyError):
            if self._random.random() < 0.5:
                table[key] = value_of(key, 1, 200)
            else:
                table.get(key)
