"""What locks and rate limiters cost: `python -m benches.tools --help`.

- *lock*: acquiring and releasing a lock that nobody else wants, beside redis-py's over Valkey's unix socket, which is
  two round trips and a script. redis-py's is no fair peer in one regard: it is free again after its time-out alone.
- *hand-over*: two processes take a lock in turns, each of them always waiting for the other; beside what it takes two
  processes to wake each other by a pipe.
- *limiter*: a step of a rate limiter, beside an increment over the same connection.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

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

LOCK, HAND_OVER, STEP = "lock: acquire and release", "hand-over of a lock", "step"
RINGTABLE, REDIS, PIPE = "ringtable", "redis-py on Valkey", "a pipe"
INCR, FIXED, SLIDING = "incr", "limiter, fixed", "limiter, sliding"

FORK = multiprocessing.get_context("fork")


def measure(run: Run) -> None:
    calls, turns = (CALLS_QUICK, TURNS_QUICK) if run.quick else (CALLS, TURNS)
    with run.attempt(RINGTABLE), run.running(partial(start, workers=1)) as server:
        with ringtable.connect(server.control) as table:
            lock, fixed = table.lock("bench"), table.rate_limiter("1000000000/day")
            sliding = table.rate_limiter("1000000000/day", algorithm="sliding")
            for _ in range(ROUNDS):
                run.figures.add(LOCK, RINGTABLE, WALL_NS, timed(partial(take_and_release, lock), calls))
                # In turns, since what else the machine does is not the same all the time.
                for name, call in ((INCR, table.incr), (FIXED, fixed), (SLIDING, sliding)):
                    run.figures.add(STEP, name, WALL_NS, timed(partial(call, "bench"), calls))
        for _ in range(ROUNDS):
            run.say("hand-over")
            run.figures.add(HAND_OVER, RINGTABLE, WALL_NS, hand_over(server.control, turns))
            run.figures.add(HAND_OVER, PIPE, WALL_NS, through_pipes(turns))
    with run.attempt(REDIS), run.running(Valkey) as valkey:
        import redis

        with closing(redis.Redis(unix_socket_path=valkey.address)) as client:
            theirs = client.lock("bench", timeout=60)
            for _ in range(ROUNDS):
                run.figures.add(LOCK, REDIS, WALL_NS, timed(partial(take_and_release, theirs), calls // 10))


def start(folder: Path, workers: int) -> Ringtable:
    return Ringtable(folder, workers=workers, max_memory="64MiB", eviction=None)


def timed(call: Callable[[], object], count: int) -> float:
    """Nanoseconds a call."""
    begin = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - begin) / count


def take_and_release(lock: object) -> None:
    lock.acquire()  # type: ignore[attr-defined]
    lock.release()  # type: ignore[attr-defined]


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


def sections(run: Run) -> list[Section]:
    rows = [
        (scenario, rival, cell(median / 1_000 if (median := run.figures.median(scenario, rival, WALL_NS)) else None))
        for scenario in (LOCK, HAND_OVER, STEP)
        for rival in run.figures.rivals(scenario)
    ]
    return [Section("Locks and limiters", "Medians of the rounds.", ("What", "Whose", "µs"), rows, text_columns=2)]


def microseconds(figures: Figures) -> float | None:
    median = figures.median(LOCK, RINGTABLE, WALL_NS)
    return median / 1_000 if median else None


def ratio(scenario: str, one: str, other: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.speed(scenario, other, one)


def goals(run: Run) -> Sequence[Goal]:
    return (
        Goal(LOCK, "a lock that nobody else wants: acquire and release", "≤", 4.0, "µs", microseconds),
        Goal(HAND_OVER, "hand-over of a lock, beside a wake-up", "≤", 2.0, "x", ratio(HAND_OVER, RINGTABLE, PIPE)),
        Goal(STEP, "a step of a fixed limiter, beside incr", "≤", 1.5, "x", ratio(STEP, FIXED, INCR)),
        Goal(STEP, "a step of a sliding limiter, beside incr", "≤", 1.5, "x", ratio(STEP, SLIDING, INCR)),
    )


SCRIPT = Script("tools", "What locks and rate limiters cost.", 600.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
