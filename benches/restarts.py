"""How long clients wait when their server is killed, or upgraded: `python -m benches.restarts --help`.

A table is filled; one process increments a number over and over, and another one reads keys at random. Meanwhile the
server is killed (`kill -9`) or upgraded, several times. Beside ringtable with a keeper stands Valkey, for Redis, with
an append-only file that is synced every second; it is started again at once, as a service manager would do it. And
memcached with its memory in a file (`-e`), which outlives an end in order and no other: it is stopped in order, and
started again as soon as it takes that memory over, which is not within the same second.

- *without service*: from the end of the last call that was answered before to that of the first one behind it, the
  longest of all such pauses within two seconds of a kill; for reads and for writes. What a machine does to a process
  that nobody kills is measured in the same run, as *beside*.
- *errors*: calls that raised something. A client of ringtable waits; others have to try again.
- *lost*: increments that were acknowledged, and are not there afterwards; below zero there are more than were made.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import ringtable
from ringtable._bench.errors import BenchError
from ringtable._bench.peers import Valkey
from ringtable._bench.processes import CONTEXT, ServerProcess
from ringtable._bench.subject import ProcessSubject
from ringtable._bench.tabular import Section, cell

from benches.figures import Figures
from benches.goals import Goal
from benches.memcached import Connection, Memcached
from benches.script import Run, Script

ENTRIES = 10_000_000
ENTRIES_QUICK = 100_000
TIMES = 5
VALUE = b"x" * 100
BURST_SIZE = 5_000
MEMORY_MAX, MEMORY_MIB = "4GiB", "4096"
COUNTER = b"counter"
PAUSE_S = 2.0
"""Between two kills, and for how long behind one its effects are looked for."""

PATIENCE_S = 120.0
LONG_S = 200e-6
"""A call that takes longer is noted."""

READ, WRITE = "read", "write"
WITHOUT_MS, BESIDE_MS, ERRORS, LOST = "without_service_ms", "beside_ms", "errors_count", "lost_count"


def key_of(number: int) -> bytes:
    return b"%016d" % number


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until this holds, for a limited time; looks every millisecond."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(otherwise)
        time.sleep(0.001)


def client_of_ringtable(address: str) -> ringtable.Table:
    return ringtable.Table(address, timeout=PATIENCE_S)


def client_of_valkey(address: str) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(unix_socket_path=address, socket_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0))


class ClientOfMemcached:
    """A connection, made anew behind each error."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Connection | None = None

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._address)
        return self._connection

    def get(self, key: bytes) -> bytes | None:
        with self._dropped_behind_errors():
            [value] = self._connected().get_many([key])
        return value

    def incr(self, key: bytes) -> int:
        with self._dropped_behind_errors():
            return self._connected().incr(key)

    @contextmanager
    def _dropped_behind_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Kept(ProcessSubject):
    """ringtable with a keeper."""

    name = "ringtable"

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "ringtable.sock")
        command = [sys.executable, "-m", "ringtable", "server", "--name", self.address, "--keeper"]
        command += ["--workers", "2", "--max-deaths", "1000", "--max-memory", MEMORY_MAX]
        self._server = ServerProcess(self.name, command, lambda server: "ready" in server.read_line())

    def fill(self, entries: int) -> None:
        with client_of_ringtable(self.address) as table:
            for first in range(0, entries, BURST_SIZE):
                table.set_many((key_of(number), VALUE) for number in range(first, min(first + BURST_SIZE, entries)))

    def _wait_for_another(self, table: ringtable.Table, before: int) -> None:
        wait_until(lambda: table.stats()["process_id"] != before, "no other server has followed")

    def kill(self) -> None:
        with client_of_ringtable(self.address) as table:
            before = int(table.stats()["process_id"])
            os.kill(before, signal.SIGKILL)
            self._wait_for_another(table, before)

    def upgrade(self) -> None:
        with client_of_ringtable(self.address) as table:
            before = int(table.stats()["process_id"])
            os.kill(int(table.stats()["keeper_process_id"]), signal.SIGUSR2)
            self._wait_for_another(table, before)


class Appending(Valkey):
    """Valkey with an append-only file, on the same file system as all that is measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
        super().__init__(folder, options)

    def fill(self, entries: int) -> None:
        with closing(client_of_valkey(self.address)) as client:
            for first in range(0, entries, BURST_SIZE):
                client.mset({key_of(number): VALUE for number in range(first, min(first + BURST_SIZE, entries))})
            # The shortest file that it can start from.
            client.bgrewriteaof()
            wait_until(
                lambda: not client.info("persistence")["aof_rewrite_in_progress"],
                "the append-only file was not rewritten",
            )

    def kill(self) -> None:
        self._server.process.kill()
        self._server.process.wait()
        self._server.stop()
        with suppress(FileNotFoundError):
            os.unlink(self.address)
        self.__init__(self._folder)  # type: ignore[misc]
        with closing(client_of_valkey(self.address)) as client:
            wait_until(lambda: not client.info("persistence")["loading"], "the append-only file was not loaded")


class Remembering(Memcached):
    """memcached whose memory outlives an end in order, in a file that is memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="ringtable-bench-")  # noqa: SIM115
        self._start()

    def _start(self) -> None:
        super().__init__(self._folder, ["-m", MEMORY_MIB, "-e", self._memory.name])

    def fill(self, entries: int) -> None:
        with closing(Connection(self.address)) as connection:
            connection.set_many({COUNTER: b"0"})
            for first in range(0, entries, BURST_SIZE):
                connection.set_many({key_of(n): VALUE for n in range(first, min(first + BURST_SIZE, entries))})

    def stop_and_start(self) -> None:
        self._server.process.send_signal(signal.SIGUSR1)
        self._server.process.wait(PATIENCE_S)
        self._server.stop()
        with suppress(FileNotFoundError):
            os.unlink(self.address)
        # In the second in which it has ended it would begin with nothing: it finds that time has gone back.
        time.sleep(1.1)
        self._start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._memory.name}.meta")
            self._memory.close()


@dataclass(frozen=True)
class Contestant:
    name: str
    start: Callable[[Path], Any]
    connect: Callable[[str], Any]
    interrupt: Callable[[Any], None]


KILLED, UPGRADED = "ringtable, killed", "ringtable, upgraded"
APPENDING, REMEMBERING = "Valkey for Redis, killed", "memcached -e, stopped in order"
CONTESTANTS = (
    Contestant(KILLED, Kept, client_of_ringtable, Kept.kill),
    Contestant(UPGRADED, Kept, client_of_ringtable, Kept.upgrade),
    Contestant(APPENDING, Appending, client_of_valkey, Appending.kill),
    Contestant(REMEMBERING, Remembering, ClientOfMemcached, Remembering.stop_and_start),
)


@dataclass
class Seen:
    """What a client has seen."""

    done: int
    errors: int
    pauses: list[tuple[float, float]]
    """When something was answered after a long time, by the monotonic clock, and how long that was, seconds."""


def observe(connect: Callable[[str], Any], address: str, what: str, entries: int, seed: int, parent: Pipe) -> None:
    """Call over and over, until the other end of the pipe says something, and tell it what was seen."""
    generator = random.Random(seed)
    client = connect(address)
    seen, last = Seen(0, 0, []), time.monotonic()
    parent.send("ready")
    while True:
        asked = time.monotonic()
        if parent.poll():
            break
        # What the pipe costs is none of it.
        last += time.monotonic() - asked
        for _ in range(100):
            try:
                if what == WRITE:
                    client.incr(COUNTER)
                elif client.get(key_of(generator.randrange(entries))) is None:
                    seen.errors += 1
            except Exception:
                seen.errors += 1
                time.sleep(0.001)
                continue
            now = time.monotonic()
            seen.done += 1
            if now - last > LONG_S:
                seen.pauses.append((now, now - last))
            last = now
    parent.send(seen)


class Observer:
    """A process that observes."""

    def __init__(self, connect: Callable[[str], Any], address: str, what: str, entries: int, seed: int) -> None:
        self._ours, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(
            target=observe, args=(connect, address, what, entries, seed, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()

    def _receive(self) -> Any:
        if not self._ours.poll(PATIENCE_S):
            raise BenchError("a client does not answer")
        return self._ours.recv()

    def result(self) -> Seen:
        self._ours.send("end")
        seen: Seen = self._receive()
        self._process.join()
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def measure(run: Run) -> None:
    entries = entries_of(run)
    with run.attempt("versions"):
        run.versions["valkey"] = Valkey.version()
        run.versions["memcached"] = Memcached.version()
    for contestant in CONTESTANTS:
        run.say(f"{contestant.name}: {entries:,} entries")
        with run.attempt(contestant.name), run.running(contestant.start) as server:
            server.fill(entries)
            interrupted = measure_one(run, contestant, server, entries)
            run.notes.append(f"{contestant.name}: {interrupted} times")


def measure_one(run: Run, contestant: Contestant, server: Any, entries: int) -> int:
    times = 2 if run.quick else TIMES
    with (
        closing(Observer(contestant.connect, server.address, WRITE, entries, run.seed)) as writer,
        closing(Observer(contestant.connect, server.address, READ, entries, run.seed)) as reader,
    ):
        moments = []
        time.sleep(PAUSE_S)
        for number in range(times):
            run.say(f"{contestant.name}: {number + 1} of {times}")
            began = time.monotonic()
            contestant.interrupt(server)
            moments.append((began, time.monotonic() + PAUSE_S / 2))
            time.sleep(PAUSE_S)
        seen = {WRITE: writer.result(), READ: reader.result()}
    with closing(contestant.connect(server.address)) as client:
        found = int(client.get(COUNTER) or 0)
    run.figures.add(contestant.name, WRITE, LOST, seen[WRITE].done - found)
    for what, result in seen.items():
        run.figures.add(contestant.name, what, ERRORS, result.errors)
        for began, ended in moments:
            of_it = [pause for at, pause in result.pauses if began < at < ended]
            run.figures.add(contestant.name, what, WITHOUT_MS, 1e3 * max(of_it, default=0.0))
        beside = [pause for at, pause in result.pauses if not any(began < at < ended for began, ended in moments)]
        run.figures.add(contestant.name, what, BESIDE_MS, 1e3 * max(beside, default=0.0))
    return times


def entries_of(run: Run) -> int:
    return int(run.options.entries or (ENTRIES_QUICK if run.quick else ENTRIES))


def all_of(figures: Figures, name: str, what: str, metric: str) -> list[float]:
    return figures.values.get((name, what, metric), [])


def sections(run: Run) -> list[Section]:
    rows = []
    for contestant in CONTESTANTS:
        for what in (READ, WRITE):
            pauses = all_of(run.figures, contestant.name, what, WITHOUT_MS)
            others = [run.figures.median(contestant.name, what, metric) for metric in (BESIDE_MS, ERRORS, LOST)]
            median = run.figures.median(contestant.name, what, WITHOUT_MS)
            rows.append((contestant.name, what, cell(median), cell(max(pauses, default=None)), *map(cell, others)))
    note = (
        f"{entries_of(run):,} entries of 16 + 100 bytes; one client reads, another one increments. Milliseconds without"
        " an answer around each kill or upgrade: the median of them, and the longest; and the longest beside."
    )
    head = ("Server", "Client", "median", "longest", "beside", "errors", "lost")
    return [Section("Without service", note, head, rows, text_columns=2)]


def longest(name: str, what: str, figures: Figures) -> float | None:
    return max(all_of(figures, name, what, WITHOUT_MS), default=None)


def longer_than_beside(name: str, what: str, figures: Figures) -> float | None:
    pause, beside = longest(name, what, figures), figures.median(name, what, BESIDE_MS)
    return None if pause is None or beside is None else max(pause - beside, 0.0)


def wrong(name: str, figures: Figures) -> float | None:
    """Errors, and increments that are lost or doubled."""
    found = [figures.median(name, what, metric) for what in (READ, WRITE) for metric in (ERRORS, LOST)]
    known = [abs(value) for value in found if value is not None]
    return sum(known) if known else None


def goals(run: Run) -> list[Goal]:
    return [
        Goal(
            KILLED,
            "killed: a read, beyond the longest beside",
            "≤",
            1.0,
            "ms",
            partial(longer_than_beside, KILLED, READ),
        ),
        Goal(KILLED, "killed: the longest write", "≤", 600.0, "ms", partial(longest, KILLED, WRITE)),
        Goal(UPGRADED, "upgraded: the longest write", "≤", 20.0, "ms", partial(longest, UPGRADED, WRITE)),
        *(
            Goal(name, f"{name}: errors, and increments lost or doubled", "≤", 0.0, "of all", partial(wrong, name))
            for name in (KILLED, UPGRADED)
        ),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, help=f"How many there are; {ENTRIES:,} unless given.")


SCRIPT = Script(
    "restarts",
    "How long clients wait when their server is killed or upgraded.",
    1_800.0,
    measure,
    sections,
    goals,
    add_arguments,
)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
