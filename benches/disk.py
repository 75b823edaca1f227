"""What it costs to keep a table on the disk: `python -m benches.disk --help`.

Beside ringtable stand Valkey, for Redis, with the same policies, and LMDB with syncs, on the same disk.

- *snapshot*: a table is written to a file while a process sets keys, one after the other. How long that takes; the
  longest set meanwhile, and the longest without a snapshot, in the same run; and the most private memory that the
  processes that take part have had beyond what they had before. Valkey's has a child that it forks (BGSAVE).
- *load*: a file with small entries into a running server, and into one that starts.
- *log*: sets one after the other by one process and by sixteen, with each policy and without a log: how many a second,
  and the processor time of the server for each. A burst is what a set is to a program that writes many keys at once.
- *rate*: what a set takes a process that makes 100,000 a second, a hundred each millisecond, with a log and without.

The folder is on the disk that $TMPDIR names, or /var/tmp: not in memory, as those of the other scripts.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import ringtable
from ringtable._bench import probe
from ringtable._bench.errors import BenchError
from ringtable._bench.peers import Valkey
from ringtable._bench.processes import CONTEXT, ServerProcess
from ringtable._bench.subject import ProcessSubject
from ringtable._bench.tabular import Section, cell

from benches.figures import Figures
from benches.goals import Goal
from benches.script import Run, Script

SIZE, SIZE_QUICK = 1 << 30, 64 << 20
"""Bytes of values in the table of a snapshot."""

VALUE_SIZE = 1_000
SMALL_ENTRIES, SMALL_ENTRIES_QUICK = 5_000_000, 200_000
SECONDS, SECONDS_QUICK = 2.0, 0.3
ROUNDS = 3
BURST = 1_000
CROWD = 16
PATIENCE_S = 120.0
MIB = 1 << 20

SECONDS_TAKEN, RATE_MB, LONGEST_MS, BESIDE_MS = "seconds", "MB_per_s", "longest_set_ms", "longest_beside_ms"
MEMORY_PERCENT, ENTRIES_RATE, SETS_RATE, CPU_NS = "memory_percent", "entries_per_s", "sets_per_s", "server_cpu_ns"
SET_NS = "set_ns"
SNAPSHOT, LOAD, ONE, MANY, IN_BURSTS = "snapshot", "load", "one client", f"{CROWD} clients", "in bursts"
AT_A_RATE, RATE, SLICE_S = "at a rate", 100_000, 0.001

OURS, BY_SERVER, VALKEY, LMDB = "ringtable", "ringtable, by the server", "Valkey for Redis", "LMDB"


def key_of(number: int) -> bytes:
    return b"%016d" % number


def connect_ringtable(address: str) -> ringtable.Table:
    return ringtable.Table(address, timeout=PATIENCE_S)


def connect_valkey(address: str) -> Any:
    import redis

    return redis.Redis(unix_socket_path=address, socket_timeout=PATIENCE_S)


class Ringtable(ProcessSubject):
    """ringtable, with these options."""

    name = OURS

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self.address = str(folder / "ringtable.sock")
        command = [sys.executable, "-m", "ringtable", "server", "--name", self.address, "--max-memory", "4GiB"]
        self._server = ServerProcess(self.name, [*command, *options], lambda server: "ready" in server.read_line())


class LmdbFiles:
    """LMDB, whose clients open its files: each set is a transaction that is synced."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self.pids: list[int] = []

    def stop(self) -> None:
        """There is nothing to end."""


class LmdbSession:
    """A client of it, with the two calls that are measured."""

    def __init__(self, address: str) -> None:
        import lmdb

        self._environment = lmdb.open(address, map_size=1 << 30, sync=True)

    def set(self, key: bytes, value: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(key, value)

    def mset(self, items: dict[bytes, bytes]) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, value in items.items():
                transaction.put(key, value)

    def close(self) -> None:
        self._environment.close()


def set_over_and_over(connect: Callable[[str], Any], address: str, keys: int, burst: bool, parent: Pipe) -> None:
    """Set keys until the other end of the pipe says something; tell it how many, and the longest time of one."""
    with closing(connect(address)) as client:
        set_many = client.set_many if isinstance(client, ringtable.Table) else client.mset
        generator, value = random.Random(os.getpid()), b"x" * VALUE_SIZE
        small = b"x" * 100
        done, longest, last = 0, 0.0, time.monotonic()
        parent.send("ready")
        while True:
            for _ in range(1 if burst else 20):
                if burst:
                    set_many({key_of(generator.randrange(keys)): small for _ in range(BURST)})
                else:
                    client.set(key_of(generator.randrange(keys)), value if keys > 1_000_000 else small)
                now = time.monotonic()
                done += BURST if burst else 1
                longest, last = max(longest, now - last), now
            if parent.poll():
                parent.recv()
                parent.send((done, longest))
                done, longest, last = 0, 0.0, time.monotonic()


def set_at_a_rate(connect: Callable[[str], Any], address: str, keys: int, parent: Pipe) -> None:
    """Set so many keys in each slice until told to tell: how many there were, and the median seconds that one took."""
    with closing(connect(address)) as client:
        generator, value = random.Random(os.getpid()), b"x" * 100
        parent.send("ready")
        took: list[float] = []
        due = time.monotonic()
        while True:
            names = [key_of(generator.randrange(keys)) for _ in range(int(RATE * SLICE_S))]
            time.sleep(max(0.0, due - time.monotonic()))
            due += SLICE_S
            begun = time.monotonic()
            for name in names:
                client.set(name, value)
            took.append((time.monotonic() - begun) / len(names))
            if parent.poll():
                parent.recv()
                parent.send((len(took) * len(names), statistics.median(took)))
                took, due = [], time.monotonic()


class Setter:
    """A process that sets keys."""

    def __init__(self, connect: Callable[[str], Any], address: str, keys: int, kind: str = ONE) -> None:
        self._ours, theirs = CONTEXT.Pipe()
        if kind == AT_A_RATE:
            target: Callable[..., None] = set_at_a_rate
            arguments: tuple[Any, ...] = (connect, address, keys, theirs)
        else:
            target, arguments = set_over_and_over, (connect, address, keys, kind == IN_BURSTS, theirs)
        self._process = CONTEXT.Process(target=target, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def _answer(self) -> Any:
        if not self._ours.poll(PATIENCE_S):
            raise BenchError("a client does not answer")
        return self._ours.recv()

    def ask(self) -> None:
        self._ours.send("tell")

    def told(self) -> tuple[int, float]:
        """How many were set since the last time, and the longest time that one took; at a rate, the median."""
        done, time_of_one = self._answer()
        return done, time_of_one

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def private_bytes(pids: list[int]) -> int:
    """Of processes and their children, as far as they live."""
    total = 0
    for pid in pids:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            total += probe.private_bytes(pid) + sum(probe.private_bytes(int(child)) for child in children)
        except OSError:
            continue
    return total


@contextmanager
def memory_watched(pids: list[int]) -> Iterator[Callable[[], int]]:
    """Look at the memory of processes over and over; gives what tells the most beyond that of the beginning."""
    before, most, ended = private_bytes(pids), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.005):
            most = max(most, private_bytes(pids) - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        thread.join()


def fill(client: Any, entries: int, value: bytes) -> None:
    set_many = client.set_many if isinstance(client, ringtable.Table) else client.mset
    for first in range(0, entries, 5_000):
        set_many({key_of(number): value for number in range(first, min(first + 5_000, entries))})


def snapshot_of_valkey(client: Any, folder: Path) -> Path:
    before = client.lastsave()
    time.sleep(1.1)
    client.bgsave()
    while client.info("persistence")["rdb_bgsave_in_progress"] or client.lastsave() == before:
        time.sleep(0.005)
    return folder / "dump.rdb"


def measure_snapshot(
    run: Run, name: str, server: Any, connect: Callable[[str], Any], write: Callable[[Any], Path]
) -> None:
    size = SIZE_QUICK if run.quick else SIZE
    entries = size // VALUE_SIZE
    with closing(connect(server.address)) as client:
        run.say(f"{name}: {entries:,} entries")
        fill(client, entries, b"x" * VALUE_SIZE)
        with closing(Setter(connect, server.address, entries)) as setter:
            for _ in range(ROUNDS):
                # As long without as with, one after the other.
                began = time.monotonic()
                setter.ask()
                setter.told()
                with memory_watched([*server.pids, os.getpid()]) as most:
                    file = write(client)
                taken = time.monotonic() - began - (1.1 if name == VALKEY else 0.0)
                setter.ask()
                _, longest = setter.told()
                run.figures.add(SNAPSHOT, name, MEMORY_PERCENT, 100 * most() / size)
                run.figures.add(SNAPSHOT, name, SECONDS_TAKEN, taken)
                run.figures.add(SNAPSHOT, name, RATE_MB, file.stat().st_size / 1e6 / taken)
                run.figures.add(SNAPSHOT, name, LONGEST_MS, 1e3 * longest)
                setter.ask()
                setter.told()
                time.sleep(taken)
                setter.ask()
                _, beside = setter.told()
                run.figures.add(SNAPSHOT, name, BESIDE_MS, 1e3 * beside)


def measure_snapshots(run: Run) -> None:
    def by_client(folder: Path, table: Any) -> Path:
        table.snapshot(folder / "table.rdb")
        return folder / "table.rdb"

    def by_server(folder: Path, table: Any) -> Path:
        table.call("SAVE")
        return max((folder / "data").glob("*.rdb"))

    with run.attempt(OURS), running(run, Ringtable) as (server, folder):
        measure_snapshot(run, OURS, server, connect_ringtable, partial(by_client, folder))
    options = ("--snapshot-every", "0", "--data")
    with (
        run.attempt(BY_SERVER),
        running(run, lambda folder: Ringtable(folder, (*options, str(folder / "data")))) as (
            server,
            folder,
        ),
    ):
        measure_snapshot(run, BY_SERVER, server, connect_ringtable, partial(by_server, folder))
    with run.attempt(VALKEY), running(run, Valkey) as (server, folder):
        measure_snapshot(run, VALKEY, server, connect_valkey, lambda client: snapshot_of_valkey(client, folder))


def measure_loads(run: Run) -> None:
    entries = SMALL_ENTRIES_QUICK if run.quick else SMALL_ENTRIES
    with running(run, Ringtable) as (server, folder):
        file = folder / "table.rdb"
        with connect_ringtable(server.address) as table:
            run.say(f"load: {entries:,} entries")
            fill(table, entries, b"x" * 100)
            table.snapshot(file)
            for _ in range(ROUNDS):
                table.clear()
                began = time.monotonic()
                table.load(file)
                run.figures.add(LOAD, OURS, ENTRIES_RATE, entries / (time.monotonic() - began))
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=folder) as data:
                os.link(file, Path(data, "snapshot-0000000000001.rdb"))
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    began = time.monotonic()
                    other = Ringtable(Path(own), ("--snapshot-every", "0", "--data", data))
                    taken = time.monotonic() - began
                    other._server.process.kill()
                    other.stop()
            run.figures.add(LOAD, BY_SERVER, ENTRIES_RATE, entries / taken)
        with run.attempt(VALKEY):
            for _ in range(ROUNDS):
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    os.link(file, Path(own, "dump.rdb"))
                    began = time.monotonic()
                    valkey = Valkey(Path(own))
                    with closing(connect_valkey(valkey.address)) as client:
                        while client.info("persistence")["loading"]:
                            time.sleep(0.005)
                    run.figures.add(LOAD, VALKEY, ENTRIES_RATE, entries / (time.monotonic() - began))
                    valkey.stop()


def logged(policy: str | None, folder: Path) -> Ringtable:
    options = ("--data", str(folder / "data"), "--log", "--fsync", policy) if policy else ()
    return Ringtable(folder, options)


def appending(policy: str | None, folder: Path) -> Valkey:
    return Valkey(folder, ("--appendonly", "yes", "--appendfsync", policy) if policy else ())


POLICIES: tuple[str | None, ...] = (None, "no", "everysec", "always")
LOGGED = tuple((f"{OURS}, {policy or 'no log'}", partial(logged, policy), connect_ringtable) for policy in POLICIES)
APPENDING = tuple(
    (f"{VALKEY}, {policy or 'no log'}", partial(appending, policy), connect_valkey) for policy in POLICIES
)
SYNCED = ((f"{LMDB}, synced", LmdbFiles, LmdbSession),)
WRITERS: tuple[tuple[str, Callable[[Path], Any], Callable[[str], Any]], ...] = (*LOGGED, *APPENDING, *SYNCED)


def measure_log(run: Run) -> None:
    seconds = SECONDS_QUICK if run.quick else SECONDS
    for round_number in range(1 if run.quick else ROUNDS):
        for name, start, connect in WRITERS:
            for kind, clients in ((ONE, 1), (MANY, CROWD), (IN_BURSTS, 1)):
                run.say(f"log, round {round_number + 1}: {name}, {kind}")
                with run.attempt(name), running(run, start) as (server, _):
                    setters = [Setter(connect, server.address, 100_000, kind) for _ in range(clients)]
                    try:
                        rate, cpu_ns, _ = measure_setters(setters, server.pids, seconds)
                    finally:
                        for setter in setters:
                            setter.close()
                    run.figures.add(kind, name, SETS_RATE, rate)
                    if server.pids:
                        run.figures.add(kind, name, CPU_NS, cpu_ns)


def measure_rate(run: Run) -> None:
    seconds = SECONDS_QUICK if run.quick else SECONDS
    for round_number in range(1 if run.quick else 3 * ROUNDS):
        for name, start, connect in LOGGED[:-1]:
            run.say(f"rate, round {round_number + 1}: {name}")
            with (
                run.attempt(name),
                running(run, start) as (server, _),
                closing(Setter(connect, server.address, 100_000, AT_A_RATE)) as setter,
            ):
                rate, cpu_ns, time_of_one = measure_setters([setter], server.pids, seconds)
                run.figures.add(AT_A_RATE, name, SETS_RATE, rate)
                run.figures.add(AT_A_RATE, name, CPU_NS, cpu_ns)
                run.figures.add(AT_A_RATE, name, SET_NS, 1e9 * time_of_one)


def measure_setters(setters: list[Setter], pids: list[int], seconds: float) -> tuple[float, float, float]:
    """How many sets a second, the processor time of the server for each, and the most that a process says of one."""
    for setter in setters:
        setter.ask()
    for setter in setters:
        setter.told()
    began, cpu_ns = time.monotonic(), sum(map(probe.cpu_ns, pids))
    time.sleep(seconds)
    for setter in setters:
        setter.ask()
    told = [setter.told() for setter in setters]
    taken, spent_ns = time.monotonic() - began, sum(map(probe.cpu_ns, pids)) - cpu_ns
    done = sum(count for count, _ in told)
    return done / taken, spent_ns / max(done, 1), max(time_of_one for _, time_of_one in told)


@contextmanager
def running(run: Run, start: Callable[[Path], Any]) -> Iterator[tuple[Any, Path]]:
    """A server whose files are on a disk, and their folder."""
    with tempfile.TemporaryDirectory(prefix="ringtable-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        server = start(Path(folder))
        try:
            yield server, Path(folder)
        finally:
            server.stop()


PARTS: dict[str, Callable[[Run], None]] = {
    SNAPSHOT: measure_snapshots,
    LOAD: measure_loads,
    "log": measure_log,
    "rate": measure_rate,
}


def measure(run: Run) -> None:
    with run.attempt("versions"):
        run.versions["valkey"] = Valkey.version()
    for name, part in PARTS.items():
        if run.options.only in (None, name):
            with run.attempt(name):
                part(run)


def row(figures: Figures, scenario: str, rival: str, metrics: tuple[str, ...]) -> tuple[str, ...]:
    return (rival, *(cell(figures.median(scenario, rival, metric)) for metric in metrics))


def sections(run: Run) -> list[Section]:
    of_snapshot = (SECONDS_TAKEN, RATE_MB, MEMORY_PERCENT, LONGEST_MS, BESIDE_MS)
    writers = [name for name, _, _ in WRITERS]
    figures = run.figures

    def rows(scenario: str, names: list[str], metrics: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [row(figures, scenario, name, metrics) for name in names if any(figures.metrics(scenario, name))]

    log_rows = [
        (
            name,
            *(cell(figures.median(kind, name, SETS_RATE)) for kind in (ONE, MANY, IN_BURSTS)),
            *(cell(figures.median(kind, name, CPU_NS)) for kind in (ONE, MANY, IN_BURSTS)),
        )
        for name in writers
        if any(figures.metrics(ONE, name))
    ]
    return [
        Section(
            "Snapshots",
            "While one process sets keys. Memory beyond that of before, in percent of the values; medians.",
            ("Server", "seconds", "MB a second", "memory %", "longest set, ms", "beside, ms"),
            rows(SNAPSHOT, [OURS, BY_SERVER, VALKEY], of_snapshot),
        ),
        Section(
            "Loading",
            "Entries of 16 + 100 bytes a second, of one file: into a running server, and at the start of one.",
            ("Server", "entries a second"),
            rows(LOAD, [OURS, BY_SERVER, VALKEY], (ENTRIES_RATE,)),
        ),
        Section(
            "Logs",
            "Sets of 16 + 100 bytes a second, and nanoseconds of the server's processor time for each.",
            ("Server", ONE, MANY, IN_BURSTS, "ns, one", f"ns, {CROWD}", "ns, bursts"),
            log_rows,
        ),
        Section(
            "At a rate",
            f"One process that makes {RATE:,} sets a second: how many it makes, what it waits for one, and the server's"
            " processor time for it.",
            ("Server", "sets a second", "ns", "server, ns"),
            rows(AT_A_RATE, writers, (SETS_RATE, SET_NS, CPU_NS)),
        ),
    ]


def ratio(kind: str, name: str, other_kind: str, other: str, figures: Figures) -> float | None:
    value, against = figures.median(kind, name, SETS_RATE), figures.median(other_kind, other, SETS_RATE)
    return None if value is None or not against else value / against


def more_cpu(kind: str, figures: Figures) -> float | None:
    values = [figures.median(kind, f"{OURS}, {policy}", CPU_NS) for policy in ("everysec", "no log")]
    return None if values[0] is None or values[1] is None else max(values[0] - values[1], 0.0)


def longer(name: str, figures: Figures) -> float | None:
    values = [figures.median(SNAPSHOT, name, metric) for metric in (LONGEST_MS, BESIDE_MS)]
    return None if values[0] is None or values[1] is None else max(values[0] - values[1], 0.0)


def goals(run: Run) -> list[Goal]:
    everysec, without, always = (f"{OURS}, {policy}" for policy in ("everysec", "no log", "always"))

    def of(scenario: str, name: str, metric: str) -> Callable[[Figures], float | None]:
        return lambda figures: figures.median(scenario, name, metric)

    return [
        *(
            goal
            for name in (OURS, BY_SERVER)
            for goal in (
                Goal(SNAPSHOT, f"snapshot, {name}: more memory", "≤", 3.0, "%", of(SNAPSHOT, name, MEMORY_PERCENT)),
                Goal(
                    SNAPSHOT, f"snapshot, {name}: the longest set, beyond beside", "≤", 1.0, "ms", partial(longer, name)
                ),
                Goal(SNAPSHOT, f"snapshot, {name}: bytes", "≥", 500.0, "MB/s", of(SNAPSHOT, name, RATE_MB)),
            )
        ),
        Goal(LOAD, "load: entries", "≥", 2e6, "a second", of(LOAD, OURS, ENTRIES_RATE)),
        Goal(LOAD, "load at the start: entries", "≥", 2e6, "a second", of(LOAD, BY_SERVER, ENTRIES_RATE)),
        Goal(
            IN_BURSTS, "everysec: processor time of a change, in bursts", "≤", 150.0, "ns", partial(more_cpu, IN_BURSTS)
        ),
        Goal(MANY, f"everysec: {MANY}, beside no log", "≥", 0.5, "x", partial(ratio, MANY, everysec, MANY, without)),
        Goal(
            IN_BURSTS,
            "everysec: in bursts, beside no log",
            "≥",
            0.5,
            "x",
            partial(ratio, IN_BURSTS, everysec, IN_BURSTS, without),
        ),
        Goal(MANY, f"always: {MANY}, beside one", "≥", 8.0, "x", partial(ratio, MANY, always, ONE, always)),
        Goal(
            AT_A_RATE,
            f"everysec: {RATE:,} sets a second, beside no log",
            "≥",
            0.99,
            "x",
            partial(ratio, AT_A_RATE, everysec, AT_A_RATE, without),
        ),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="Measure this part alone.")


SCRIPT = Script(
    name="disk",
    about="Tables on the disk, beside Valkey for Redis and LMDB.",
    limit_s=1_500,
    measure=measure,
    sections=sections,
    goals=goals,
    add_arguments=add_arguments,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
