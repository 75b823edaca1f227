"""What Python programs see: objects, locks, limiters, the import. `python -m benches.python --help`.

- *objects*: a dataclass of three fields that is read with `codec="pickle"`, beside reading bytes and unpickling them by
  hand, and beside diskcache; a dict of ten numpy arrays, by the size of each.
- *lock*: acquiring and releasing a lock that nobody else wants, beside diskcache's, and redis-py's over Valkey's unix
  socket, which is two round trips and a script. Theirs are no fair peers in one regard: if their owner dies they are
  free again after a time-out, or never.
- *hand-over*: two processes take a lock in turns, each of them always waiting for the other; beside what it takes two
  processes to wake each other by a pipe.
- *limiter*: a step of a rate limiter, beside an increment over the same connection.
- *bytes*: reading and writing without a codec.
- *import*: a new interpreter that imports a package, beyond one that imports nothing.

diskcache has its files on tmpfs here, which is kind to it, and its default settings. It also is kept over a reboot.
"""

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import ringtable
from ringtable._bench.peers import Valkey
from ringtable._bench.tabular import Section, cell

from benches.figures import WALL_NS, Figures
from benches.goals import Goal
from benches.rivals import Ringtable
from benches.script import Run, Script

ROUNDS = 9
CALLS, CALLS_QUICK = 20_000, 2_000
TURNS, TURNS_QUICK = 5_000, 500
SLOW = 10
"""Calls of what takes so much longer are fewer by this."""

ARRAYS = 10
ARRAY_SIZES = {"100 KiB": 100 << 10, "1 MiB": 1 << 20, "4 MiB": 4 << 20}
VALUE = bytes(100)
IMPORTS = ("ringtable", "diskcache", "redis")

OBJECT, LOCK, HAND_OVER, STEP = "get of an object", "lock: acquire and release", "hand-over of a lock", "step"
GET, SET, IMPORT = "get of 100 bytes", "set of 100 bytes", "import, beyond an empty program"
RINGTABLE, BY_HAND, DISKCACHE, REDIS, PIPE = "ringtable", "get, and loads", "diskcache", "redis-py on Valkey", "a pipe"
INCR, FIXED, SLIDING = "incr", "limiter, fixed", "limiter, sliding"

FORK = multiprocessing.get_context("fork")


@dataclass
class User:
    """What is read as an object."""

    name: str
    age: int
    email: str


USER = User("Ada Lovelace", 36, "ada@example.org")


def arrays_of(size: str) -> str:
    """The scenario of arrays that have this size each."""
    return f"get of ten arrays of {size}"


@dataclass(frozen=True)
class Loop:
    """A statement that is repeated in place, as `timeit` does, so that nobody pays for a wrapper."""

    rival: str
    statement: str
    names: dict[str, Any]
    slower: int = 1

    def wall_ns(self, calls: int) -> float:
        count = max(1, calls // self.slower)
        return timeit.timeit(self.statement, globals=self.names, number=count) * 1e9 / count


def measure(run: Run) -> None:
    calls, turns = (CALLS_QUICK, TURNS_QUICK) if run.quick else (CALLS, TURNS)
    with run.running(partial(start, workers=1)) as server, ringtable.connect(server.control) as table:
        run.versions[RINGTABLE] = Ringtable.version()
        with run.attempt("objects"):
            measure_objects(run, server.control, table, calls)
        with run.attempt("locks"):
            measure_locks(run, table, calls)
        with run.attempt("hand-over"):
            measure_hand_over(run, server.control, turns)
        with run.attempt("limiters and bytes"):
            measure_steps(run, table, calls)
    with run.attempt("imports"):
        measure_imports(run)


def start(folder: Path, workers: int) -> Ringtable:
    return Ringtable(folder, workers=workers, max_memory="256MiB", eviction=None)


def in_turns(run: Run, scenario: str, loops: Iterable[Loop], calls: int) -> None:
    """Measure each in each round, since what else the machine does is not the same all the time."""
    loops = list(loops)
    run.say(scenario)
    for _ in range(ROUNDS):
        for loop in loops:
            run.figures.add(scenario, loop.rival, WALL_NS, loop.wall_ns(calls))


def measure_objects(run: Run, address: str, table: ringtable.Table, calls: int) -> None:
    import diskcache
    import numpy

    run.versions[DISKCACHE] = diskcache.__version__
    run.versions["numpy"] = numpy.__version__
    with (
        ringtable.connect(address, codec="pickle") as objects,
        diskcache.Cache(str(run.folder / "objects"), size_limit=1 << 40) as cache,
    ):
        table["by hand"] = pickle.dumps(USER, 5)
        objects["user"] = cache["user"] = USER
        assert objects["user"] == cache["user"] == USER
        loops = [
            Loop(RINGTABLE, 'get("user")', {"get": objects.get}),
            Loop(BY_HAND, 'loads(get("by hand"))', {"get": table.get, "loads": pickle.loads}),
            Loop(DISKCACHE, 'get("user")', {"get": cache.get}, SLOW),
        ]
        in_turns(run, OBJECT, loops, calls)
        for size, size_bytes in ARRAY_SIZES.items():
            value = {f"array {number}": numpy.full(size_bytes, number, "u1") for number in range(ARRAYS)}
            objects["arrays"] = cache["arrays"] = value
            assert all((objects["arrays"][name] == array).all() for name, array in value.items())
            loops = [
                Loop(RINGTABLE, 'get("arrays")', {"get": objects.get}),
                Loop(DISKCACHE, 'get("arrays")', {"get": cache.get}, 100 * SLOW),
            ]
            in_turns(run, arrays_of(size), loops, calls)


def measure_locks(run: Run, table: ringtable.Table, calls: int) -> None:
    import diskcache
    import redis

    statement = "lock.acquire(); lock.release()"
    with (
        diskcache.Cache(str(run.folder / "locks")) as cache,
        run.running(Valkey) as valkey,
        closing(redis.Redis(unix_socket_path=valkey.address)) as client,
    ):
        run.versions["valkey"] = Valkey.version()
        loops = [
            Loop(RINGTABLE, statement, {"lock": table.lock("bench")}),
            Loop(REDIS, statement, {"lock": client.lock("bench", timeout=60)}, SLOW),
            Loop(DISKCACHE, statement, {"lock": diskcache.Lock(cache, "bench")}, SLOW),
        ]
        in_turns(run, LOCK, loops, calls)


def measure_hand_over(run: Run, address: str, turns: int) -> None:
    run.say(HAND_OVER)
    for _ in range(ROUNDS):
        run.figures.add(HAND_OVER, RINGTABLE, WALL_NS, hand_over(address, turns))
        run.figures.add(HAND_OVER, PIPE, WALL_NS, through_pipes(turns))


def measure_steps(run: Run, table: ringtable.Table, calls: int) -> None:
    rate = "1000000000/day"
    fixed, sliding = table.rate_limiter(rate), table.rate_limiter(rate, algorithm="sliding")
    steps = {INCR: table.incr, FIXED: fixed, SLIDING: sliding}
    in_turns(run, STEP, (Loop(name, 'step("bench")', {"step": step}) for name, step in steps.items()), calls)
    table["bytes"] = VALUE
    own = {"bytes": VALUE}
    gets = (Loop(name, 'get("bytes")', {"get": whose.get}) for name, whose in ((RINGTABLE, table), ("dict", own)))
    in_turns(run, GET, gets, calls)
    sets = [Loop(RINGTABLE, 'set("bytes", value)', {"set": table.set, "value": VALUE})]
    in_turns(run, SET, sets, calls)


def measure_imports(run: Run) -> None:
    run.say(IMPORT)
    for name in IMPORTS:
        run.versions.setdefault(name, metadata.version(name))
    for _ in range(ROUNDS):
        empty_ns = program_ns("pass")
        for name in IMPORTS:
            run.figures.add(IMPORT, name, WALL_NS, program_ns(f"import {name}") - empty_ns)


def program_ns(text: str) -> float:
    """Nanoseconds that a program takes, with its interpreter: the least of three times, as others do much besides.

    What it imports was compiled before: the first of all these runs writes that down.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    spent = []
    for _ in range(3):
        begin = time.perf_counter_ns()
        subprocess.run([sys.executable, "-c", text], check=True, env=environment)
        spent.append(time.perf_counter_ns() - begin)
    return min(spent)


def take_turns(address: str, turns: int) -> None:
    with ringtable.connect(address) as table:
        lock, begin = table.lock("turns"), table.barrier("begin", 2)
        begin.wait()
        for _ in range(turns):
            lock.acquire()
            lock.release()


def hand_over(address: str, turns: int) -> float:
    """Nanoseconds from one owner to the next."""
    other = FORK.Process(target=take_turns, args=(address, turns))
    other.start()
    with ringtable.connect(address) as table:
        lock, start = table.lock("turns"), table.barrier("begin", 2)
        start.wait()
        begin = time.perf_counter_ns()
        for _ in range(turns):
            lock.acquire()
            lock.release()
        other.join()
    return (time.perf_counter_ns() - begin) / (2 * turns)


def through_pipes(turns: int) -> float:
    """Nanoseconds for one process to wake another one."""
    (there_read, there_write), (back_read, back_write) = os.pipe(), os.pipe()

    def answer() -> None:
        for _ in range(turns):
            os.read(there_read, 1)
            os.write(back_write, b"!")

    other = FORK.Process(target=answer)
    other.start()
    begin = time.perf_counter_ns()
    for _ in range(turns):
        os.write(there_write, b"!")
        os.read(back_read, 1)
    spent = time.perf_counter_ns() - begin
    other.join()
    for end in (there_read, there_write, back_read, back_write):
        os.close(end)
    return spent / (2 * turns)


SCENARIOS = (OBJECT, *map(arrays_of, ARRAY_SIZES), LOCK, HAND_OVER, STEP, GET, SET, IMPORT)


def sections(run: Run) -> list[Section]:
    rows = []
    for scenario in SCENARIOS:
        first, *_ = run.figures.rivals(scenario) or [""]
        for rival in run.figures.rivals(scenario):
            median_ns = run.figures.median(scenario, rival, WALL_NS)
            beside = run.figures.speed(scenario, first, rival)
            rows.append((scenario, rival, cell(median_ns and median_ns / 1_000), cell(beside)))
    note = f"Medians of {ROUNDS} rounds, and how many times that of the first."
    return [Section("What Python programs see", note, ("What", "Whose", "µs", "x"), rows, text_columns=2)]


def in_units(scenario: str, unit_ns: int) -> Callable[[Figures], float | None]:
    def measured(figures: Figures) -> float | None:
        median_ns = figures.median(scenario, RINGTABLE, WALL_NS)
        return None if median_ns is None else median_ns / unit_ns

    return measured


def ratio(scenario: str, one: str, other: str) -> Callable[[Figures], float | None]:
    """How many times the other's time one takes."""
    return lambda figures: figures.speed(scenario, other, one)


def goals(run: Run) -> Sequence[Goal]:
    beside_diskcache = ratio(OBJECT, DISKCACHE, RINGTABLE)
    return (
        Goal(OBJECT, "get of a dataclass: speed beside diskcache's", "≥", 8.0, "x", beside_diskcache),
        Goal(OBJECT, "the same, beside get and pickle.loads", "≤", 1.25, "x", ratio(OBJECT, RINGTABLE, BY_HAND)),
        *(
            Goal(arrays_of(size), f"a dict of ten arrays of {size}", "≤", 30.0, "µs", in_units(arrays_of(size), 1_000))
            for size in ARRAY_SIZES
        ),
        Goal(LOCK, "a lock that nobody else wants: acquire, release", "≤", 4.0, "µs", in_units(LOCK, 1_000)),
        Goal(HAND_OVER, "hand-over of a lock, beside a wake-up", "≤", 2.0, "x", ratio(HAND_OVER, RINGTABLE, PIPE)),
        Goal(STEP, "a step of a fixed limiter, beside incr", "≤", 1.5, "x", ratio(STEP, FIXED, INCR)),
        Goal(STEP, "a step of a sliding limiter, beside incr", "≤", 1.5, "x", ratio(STEP, SLIDING, INCR)),
        Goal(IMPORT, "import ringtable", "≤", 25.0, "ms", in_units(IMPORT, 1_000_000)),
    )


SCRIPT = Script("python", "What Python programs see.", 600.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
