"""What operations cost by the size of the table: `python -m benches.scale --help`.

Tables of several sizes, all with entries of the same kind, so that the larger ones have more of them. Costs are
processor time of the server, or of the client where that does the work, an operation; so other programs disturb less,
and a server that waits costs nothing. The lowest of the rounds counts.

The control is what the caches explain: entries of random keys are overwritten, in place of others of their size, in a
table with room. That misses the bucket's line and the entry's, and nothing else; it costs more in a larger table. What
an operation costs in a large table beyond its cost in the smallest one may be as much again as with the control, and
by `GROWTH_MAX` more.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ringtable
from ringtable._bench import probe
from ringtable._bench.errors import BenchError
from ringtable._bench.tabular import ABSENT, Section, cell
from ringtable._bench.wording import size as size_text

from benches.figures import Figures
from benches.goals import Goal
from benches.rivals import Ringtable
from benches.script import Run, Script

SIZES = (64 << 20, 1 << 30, 4 << 30)
SIZES_QUICK = (64 << 20, 256 << 20)
VALUE = b"v" * 300
ENTRY_SIZE = 344
"""Bytes of an entry and its share of a bucket; a little more than they are."""

BURST = 2_000
OPERATIONS = 20_000
ROUNDS = 5
FEW = 2_000
"""Entries that expire where few do."""

NS = "ns"
GROWTH_MAX = 1.3
CONTROL = "overwrite (control)"
PUT, PUT_FEW, EXPIRE, SWEEP = "put, evicting", "put, few expire", "expire", "sweep, a bucket"
COUNT, ITERATE, CLEAR = "count", "iterate, an entry", "clear, an entry"
MEASURED = (CONTROL, PUT, PUT_FEW, EXPIRE, SWEEP, COUNT, ITERATE, CLEAR)
MISSES = {PUT: 1, PUT_FEW: 16, EXPIRE: 1, ITERATE: 1}
"""How often an operation misses what the control misses once: each entry of a sample counts."""


def key(of: int) -> bytes:
    return b"%016x" % of


def bursts(keys: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    for begin in range(0, len(keys), BURST):
        yield dict.fromkeys(keys[begin : begin + BURST], VALUE)


class Subject:
    """A server with one worker, a client, and what both have cost."""

    def __init__(self, run: Run, server: Ringtable, size: int) -> None:
        self.run, self.size = run, size
        [self.pid] = server.pids
        self.table = ringtable.connect(server.control)
        self.random = random.Random(run.seed)
        self.entries = 0

    def fill(self, entries: int) -> None:
        for begin in range(self.entries, entries, BURST):
            self.table.set_many(dict.fromkeys(map(key, range(begin, begin + BURST)), VALUE))
        self.entries = entries

    def some_keys(self, count: int) -> list[bytes]:
        return [key(self.random.randrange(self.entries)) for _ in range(count)]

    def measure(self, what: str, count: int, work: Callable[[], object], *, client: bool = False) -> None:
        """Adds what `work` costs, which is to do something `count` times."""
        server_ns, client_ns = probe.cpu_ns(self.pid), time.process_time_ns()
        work()
        server_ns, client_ns = probe.cpu_ns(self.pid) - server_ns, time.process_time_ns() - client_ns
        self.run.figures.add(size_text(self.size), what, NS, (client_ns if client else server_ns) / count)

    def set_all(self, keys: list[bytes]) -> None:
        for items in bursts(keys):
            self.table.set_many(items)


@contextmanager
def subject(run: Run, size: int, eviction: str | None) -> Iterator[Subject]:
    def start(folder: Path) -> Ringtable:
        return Ringtable(folder, workers=1, max_memory=str(size), eviction=eviction)

    run.say(f"{size_text(size)}, {eviction or 'no eviction'}")
    with run.running(start) as server:
        made = Subject(run, server, size)
        try:
            yield made
        finally:
            made.table.close()


def measure(run: Run) -> None:
    for size in SIZES_QUICK if run.quick else SIZES:
        for part in (measure_table, measure_cache, measure_few):
            with run.attempt(f"{size_text(size)}: {part.__name__}"):
                part(run, size)


def measure_table(run: Run, size: int) -> None:
    with subject(run, size, None) as it:
        table = it.table
        it.fill(int(0.8 * size / ENTRY_SIZE))
        for _ in range(ROUNDS):
            keys = it.some_keys(OPERATIONS)
            it.measure(CONTROL, OPERATIONS, partial(it.set_all, keys))
            it.measure(EXPIRE, OPERATIONS, partial(expire_all, table, it.some_keys(OPERATIONS)))
            it.measure(COUNT, OPERATIONS, lambda: [len(table) for _ in range(OPERATIONS)], client=True)
            it.measure(ITERATE, OPERATIONS, partial(iterate, table, OPERATIONS), client=True)
        for _ in range(2):
            buckets = int(table.stats()["buckets"])
            it.measure(SWEEP, buckets, partial(sweep, it))
        it.measure(CLEAR, len(table), table.clear)


def expire_all(table: ringtable.Table, keys: list[bytes]) -> None:
    for begin in range(0, len(keys), BURST):
        with table.pipeline() as pipe:
            for each in keys[begin : begin + BURST]:
                pipe.expire(each, 100_000)


def iterate(table: ringtable.Table, count: int) -> None:
    for _, _ in zip(range(count), table, strict=False):
        pass


def sweep(it: Subject) -> None:
    """Lets some entries expire, and waits until all of them are gone."""
    gone = int(it.table.stats()["expired_keys"]) + FEW
    for n in range(FEW):
        it.table.set(b"gone %d" % n, VALUE, ttl=0.001)
    end = time.monotonic() + 60
    while int(it.table.stats()["expired_keys"]) < gone:
        if time.monotonic() > end:
            raise BenchError("what has expired is not removed")
        time.sleep(0.05)


def measure_cache(run: Run, size: int) -> None:
    with subject(run, size, "allkeys-sieve") as it:
        it.fill(int(size / ENTRY_SIZE))
        while not int(it.table.stats()["evicted_keys"]):
            it.fill(it.entries + 10 * BURST)
        for _ in range(ROUNDS):
            begin = it.entries
            it.measure(PUT, OPERATIONS, partial(it.fill, begin + OPERATIONS))


def measure_few(run: Run, size: int) -> None:
    with subject(run, size, "volatile-ttl") as it:
        for n in range(FEW):
            it.table.set(b"few %d" % n, VALUE, ttl=100_000)
        while not int(it.table.stats()["evicted_keys"]):
            it.fill(it.entries + BURST // 4)
        for _ in range(ROUNDS):
            it.measure(PUT_FEW, 100, partial(it.fill, it.entries + 100))


def best(figures: Figures, size: int, what: str) -> float | None:
    values = figures.values.get((size_text(size), what, NS))
    return min(values) if values else None


def sizes(figures: Figures) -> list[int]:
    return [size for size in sorted({*SIZES, *SIZES_QUICK}) if best(figures, size, CONTROL) is not None]


def growth(figures: Figures, what: str) -> float | None:
    """What an operation costs in the largest table, beside the smallest one and what the control explains."""
    measured = sizes(figures)
    if len(measured) < 2:
        return None
    small, large = (best(figures, size, what) for size in (measured[0], measured[-1]))
    small_control, large_control = (best(figures, size, CONTROL) for size in (measured[0], measured[-1]))
    if not (small and large and small_control and large_control):
        return None
    explained = MISSES.get(what, 0) * max(0.0, large_control - small_control)
    return large / (small + explained)


def sections(run: Run) -> list[Section]:
    measured = sizes(run.figures)
    rows = []
    for what in MEASURED:
        cells = [cell(best(run.figures, size, what)) for size in measured]
        ratio = growth(run.figures, what)
        rows.append([what, *cells, ABSENT if ratio is None else f"{ratio:.2f}x"])
    note = (
        "Processor time of an operation, ns. Growth: from the first to the last size, beyond what the control explains."
    )
    return [Section("By size of the table", note, ("Operation", *map(size_text, measured), "Growth"), rows)]


def goals(run: Run) -> list[Goal]:
    return [
        Goal(what, f"{what}: growth with the table", "≤", GROWTH_MAX, "x", partial(growth, what=what))
        for what in MEASURED
        if what != CONTROL
    ]


SCRIPT = Script("scale", "Operations by the size of the table.", 1_200.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
