"""What tables for asyncio cost, beside tables and redis.asyncio: `python -m benches.aio --help`.

- *get*: a read in place by a coroutine, beside that of a table.
- *tasks*: a thousand tasks, each of which sets a key, over one connection; beside redis.asyncio, over one connection to
  Valkey at a unix socket; and tasks that do nothing.
- *held*: a thousand tasks wait for a value that another process computes. The longest time for which a task that is
  always ready had to wait, from their start to the end of all; and the same with tasks that wait for nothing but the
  clock, since a thousand tasks have to be started and ended in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import ringtable
import ringtable.aio
from ringtable._bench.peers import Valkey
from ringtable._bench.tabular import Section, cell

from benches.figures import WALL_NS, Figures
from benches.goals import Goal
from benches.rivals import Ringtable
from benches.script import Run, Script

ROUNDS = 9
CALLS, CALLS_QUICK = 20_000, 2_000
TASKS = 1_000
STARTED_AT_ONCE = 20
COMPUTED_S = 0.2

GET, SETS, HELD = "get", f"{TASKS:,} tasks set a key each", f"longest wait beside {TASKS:,} tasks that wait"
ASYNC, TABLE, REDIS, NOTHING = "ringtable.aio", "ringtable", "redis.asyncio on Valkey", "tasks that do nothing"


def measure(run: Run) -> None:
    with (
        run.running(partial(Ringtable, workers=1, max_memory="256MiB", eviction=None)) as server,
        run.running(Valkey) as valkey,
    ):
        run.versions[TABLE] = Ringtable.version()
        run.versions["valkey"] = Valkey.version()
        asyncio.run(measure_all(run, server.control, valkey.address))


async def measure_all(run: Run, address: str, valkey: str) -> None:
    import redis.asyncio

    calls = CALLS_QUICK if run.quick else CALLS
    async with await ringtable.aio.connect(address) as table, await ringtable.aio.connect(address) as other:
        client = redis.asyncio.Redis(unix_socket_path=valkey, single_connection_client=True)
        await table.set("key", bytes(100))
        for number in range(ROUNDS):
            run.say(f"round {number + 1} of {ROUNDS}")
            run.figures.add(GET, ASYNC, WALL_NS, await each_ns(table.get, calls))
            run.figures.add(GET, TABLE, WALL_NS, plain_ns(table.table, calls))
            for name, setter in ((ASYNC, table.set), (REDIS, client.set), (NOTHING, nothing)):
                run.figures.add(SETS, name, WALL_NS, await together_ns(setter))
            key = f"computed {number}"
            computed = asyncio.create_task(other.get_or_set(key, compute))
            await asyncio.sleep(0)
            waits = partial(table.get_or_set, key, compute)
            run.figures.add(HELD, ASYNC, WALL_NS, await longest_ns(waits))
            await computed
            run.figures.add(HELD, NOTHING, WALL_NS, await longest_ns(compute))
        await client.aclose()


async def compute() -> bytes:
    await asyncio.sleep(COMPUTED_S)
    return b"value"


async def nothing(key: str, value: bytes) -> None:
    await asyncio.sleep(0)


async def each_ns(get: Callable[[str], Awaitable[Any]], calls: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(calls):
        await get("key")
    return (time.perf_counter_ns() - begin) / calls


def plain_ns(table: ringtable.Table[Any], calls: int) -> float:
    get = table.get
    begin = time.perf_counter_ns()
    for _ in range(calls):
        get("key")
    return (time.perf_counter_ns() - begin) / calls


async def together_ns(setter: Callable[[str, bytes], Awaitable[Any]]) -> float:
    begin = time.perf_counter_ns()
    await asyncio.gather(*(setter(f"key {number}", b"value") for number in range(TASKS)))
    return time.perf_counter_ns() - begin


async def longest_ns(wait: Callable[[], Awaitable[Any]]) -> float:
    """The longest pause of a task that is always ready, while many wait, which are started some at a time."""
    longest, is_over = 0, False

    async def look_on() -> None:
        nonlocal longest
        last = time.perf_counter_ns()
        while not is_over:
            await asyncio.sleep(0)
            now = time.perf_counter_ns()
            longest, last = max(longest, now - last), now

    looking = asyncio.create_task(look_on())
    tasks = []
    for number in range(TASKS):
        tasks.append(asyncio.ensure_future(wait()))
        if number % STARTED_AT_ONCE == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    is_over = True
    await looking
    return longest


def sections(run: Run) -> list[Section]:
    rows = []
    for scenario in (GET, SETS, HELD):
        for rival in run.figures.rivals(scenario):
            median_ns = run.figures.median(scenario, rival, WALL_NS)
            rows.append((scenario, rival, cell(median_ns and median_ns / 1_000)))
    return [Section("asyncio", f"Medians of {ROUNDS} rounds.", ("What", "Whose", "µs"), rows, text_columns=2)]


def beyond_ns(figures: Figures) -> float | None:
    ours, plain = (figures.median(GET, name, WALL_NS) for name in (ASYNC, TABLE))
    return None if ours is None or plain is None else (ours - plain) / 1_000


def held_ms(figures: Figures) -> float | None:
    median_ns = figures.median(HELD, ASYNC, WALL_NS)
    return None if median_ns is None else median_ns / 1e6


def goals(run: Run) -> Sequence[Goal]:
    return (
        Goal(GET, "a get by a coroutine, beyond a table's", "≤", 0.5, "µs", beyond_ns),
        Goal(SETS, f"{SETS}: speed beside redis.asyncio", "≥", 10.0, "x", lambda f: f.speed(SETS, ASYNC, REDIS)),
        Goal(HELD, f"the {HELD} for a value", "≤", 1.0, "ms", held_ms),
    )


SCRIPT = Script("aio", "What tables for asyncio cost.", 300.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
