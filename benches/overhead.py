"""What an entry costs beyond its key and value: `python -m benches.overhead --help`.

Two numbers for each server, both in bytes an entry:

- *stored*: what the server itself says that its contents take. ringtable: `memory_resident`, all pages of the table's
  memory, the empty table's included; Valkey: the growth of `used_memory`; memcached: the growth of `bytes`.
- *in all*: the same in the eyes of the kernel: the growth of the server's private memory, and for ringtable the pages
  of the table besides.

Valkey stands for Redis, of which it is a fork. Nobody persists anything.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ringtable
from ringtable._bench import probe
from ringtable._bench.crew import Client, connected
from ringtable._bench.errors import BenchError
from ringtable._bench.peers import Valkey
from ringtable._bench.subject import Subject
from ringtable._bench.tabular import ABSENT, Section, cell

from benches.figures import Figures
from benches.goals import Goal
from benches.memcached import Connection, Memcached
from benches.rivals import Ringtable
from benches.script import Run, Script

MEMORY_MAX = "4GiB"
ENTRIES = 1_000_000
ENTRIES_QUICK = 100_000
BURST_SIZE = 1_000
OVERHEAD_MAX = 40.0
STORED, IN_ALL = "stored_bytes_per_entry", "in_all_bytes_per_entry"
WARM = 0
"""What the keys begin with that are stored before anything is measured; the others have another number there."""

NOT_INSTALLED = "not installed here"


@dataclass(frozen=True)
class Shape:
    """Sizes of keys and values, bytes."""

    key_size: int
    value_size: int

    @property
    def name(self) -> str:
        return f"{self.key_size} + {self.value_size}"


SHAPES = (Shape(16, 8), Shape(16, 100), Shape(32, 1_000))


@dataclass(frozen=True)
class Contestant:
    name: str
    start: Callable[[Path], Any]
    stored: Callable[[Any], int]
    """What the server says its contents take."""

    counts_from_empty: bool
    """Whether only the growth of that counts."""


def ringtable_stored(server: Ringtable) -> int:
    with ringtable.Table(server.control, transport="socket") as table:
        return int(table.stats()["memory_resident"])


def valkey_stored(server: Valkey) -> int:
    import redis

    with closing(redis.Redis(unix_socket_path=server.address)) as client:
        memory: Any = client.info("memory")
        return int(memory["used_memory"])


def memcached_stored(server: Memcached) -> int:
    with closing(Connection(server.address)) as connection:
        return int(connection.statistics()["bytes"])


def ringtable_with(name: str, eviction: str | None) -> Contestant:
    start = partial(Ringtable, max_memory=MEMORY_MAX, eviction=eviction)
    return Contestant(name, start, ringtable_stored, counts_from_empty=False)


MEMCACHED_OPTIONS = ["-m", "4096"]
CONTESTANTS = (
    ringtable_with("ringtable", None),
    ringtable_with("ringtable, allkeys-sieve", "allkeys-sieve"),
    Contestant("Valkey, for Redis", Valkey, valkey_stored, counts_from_empty=True),
    Contestant("memcached", partial(Memcached, options=MEMCACHED_OPTIONS), memcached_stored, counts_from_empty=True),
)


def measure(run: Run) -> None:
    for rival in (Valkey, Memcached):
        try:
            run.versions[rival.name] = rival.version()
        except ImportError:
            run.versions[rival.name] = NOT_INSTALLED
    entries = ENTRIES_QUICK if run.quick else ENTRIES
    for contestant in CONTESTANTS:
        if run.versions.get(contestant.name) == NOT_INSTALLED:
            continue
        for shape in SHAPES:
            run.say(f"{contestant.name}: {shape.name}")
            with run.attempt(f"{contestant.name}, {shape.name}"), run.running(contestant.start) as server:
                measure_shape(run, contestant, server, shape, entries)


def measure_shape(run: Run, contestant: Contestant, server: Subject, shape: Shape, entries: int) -> None:
    [pid] = server.pids
    salt = WARM + 1 + run.seed % 0xFFFF
    with connected(server, 1) as crew:
        # Connections and first-time allocations are no cost of an entry.
        crew.call(fill, WARM, shape, BURST_SIZE)
        crew.call(check, WARM, shape)
        empty_private, empty_stored = probe.private_bytes(pid), contestant.stored(server)
        crew.call(fill, salt, shape, entries)
        crew.call(check, salt, shape)
        private, stored = probe.private_bytes(pid), contestant.stored(server)
    payload = shape.key_size + shape.value_size
    grown = private - empty_private
    if contestant.counts_from_empty:
        stored -= empty_stored
        in_all = grown
    else:
        entries += BURST_SIZE
        in_all = stored + grown
    run.figures.add(shape.name, contestant.name, STORED, stored / entries - payload)
    run.figures.add(shape.name, contestant.name, IN_ALL, in_all / entries - payload)


def fill(client: Client, salt: int, shape: Shape, count: int) -> None:
    for first in range(0, count, BURST_SIZE):
        keys = [make_key(salt, shape, number) for number in range(first, min(first + BURST_SIZE, count))]
        client.session.execute(client.session.set_many, items={key: make_value(key, shape) for key in keys})


def check(client: Client, salt: int, shape: Shape) -> None:
    """Nobody is measured who does not hold what was stored."""
    keys = [make_key(salt, shape, number) for number in range(0, BURST_SIZE, 10)]
    found = client.session.execute(client.session.get_many, keys=keys)["values"]
    if found != [make_value(key, shape) for key in keys]:
        raise BenchError(f"values of {shape.name} bytes are not what was stored")


def make_key(salt: int, shape: Shape, number: int) -> bytes:
    return b"%04x%0*d" % (salt, shape.key_size - 4, number)


def make_value(key: bytes, shape: Shape) -> bytes:
    return (key * (shape.value_size // len(key) + 1))[: shape.value_size]


def sections(run: Run) -> list[Section]:
    rows = []
    for shape in SHAPES:
        for contestant in CONTESTANTS:
            values = [run.figures.median(shape.name, contestant.name, metric) for metric in (STORED, IN_ALL)]
            missing = run.versions.get(contestant.name) == NOT_INSTALLED
            cells = [NOT_INSTALLED, ABSENT] if missing else map(cell, values)
            rows.append((shape.name, contestant.name, *cells))
    entries = ENTRIES_QUICK if run.quick else ENTRIES
    note = (
        f"Bytes an entry beyond key + value, {entries:,} entries. Stored: what the server says its contents take."
        " In all: what the kernel says, with the server's own memory."
    )
    return [Section("Overhead of an entry", note, ("Entry", "Server", "stored", "in all"), rows, text_columns=2)]


def stored_overhead(shape: Shape, name: str, figures: Figures) -> float | None:
    return figures.median(shape.name, name, STORED)


def goals(run: Run) -> list[Goal]:
    return [
        Goal(
            shape.name,
            f"{contestant.name}: overhead of an entry of {shape.name} bytes",
            "≤",
            OVERHEAD_MAX,
            "bytes",
            partial(stored_overhead, shape, contestant.name),
        )
        for shape in SHAPES
        for contestant in CONTESTANTS
        if shape.value_size == 100 and contestant.name.startswith("ringtable")
    ]


SCRIPT = Script("overhead", "Bytes that an entry costs beyond its key and value.", 1_200.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
