"""Large values, beside plain copies of as many bytes: `python -m benches.payload --help`.

For each size all rivals run side by side with the same values, and take turns in rounds; medians of the rounds count.
One client, so nobody waits for anybody. Values of one size take `TOTAL_SIZE` in all, more than the processor's caches
hold. Valkey stands for Redis, of which it is a fork; nobody persists or syncs anything.
"""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from ringtable._bench.crew import Client, Crew, connect
from ringtable._bench.errors import BenchError
from ringtable._bench.loops import make_keys
from ringtable._bench.wording import size as size_text

from benches.figures import Figures
from benches.goals import Goal
from benches.movers import EVERY_RIVAL, OPERATIONS, PayloadSession, starter
from benches.sections import ABSENT, Section, number
from benches.standalone import Run, Script

SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
TOTAL_SIZE = 64 << 20
MEMCPY, RINGTABLE, LMDB = "memcpy", "ringtable", "lmdb"
US = "us"

VIEW_NOTE = "Median of the rounds, one client. A view is opened and closed; memory has a memoryview of it meanwhile."

LOOP = """
done = 0
while True:
    for key in work:
        {{{operation}}}
    done += len(work)
    if now() >= end_ns:
        return done
"""


@dataclass(frozen=True)
class Length:
    rounds: int
    loop_s: float


FULL = Length(rounds=9, loop_s=0.2)
QUICK = Length(rounds=3, loop_s=0.05)


def measure(run: Run) -> None:
    for rival in EVERY_RIVAL:
        run.versions[rival.name] = rival.version()
    for size in SIZES:
        with run.attempt(size_text(size)):
            measure_size(run, size)


def measure_size(run: Run, size: int) -> None:
    length = QUICK if run.quick else FULL
    keys = make_keys(run.seed, TOTAL_SIZE // size)
    with ExitStack() as stack:
        turns = []
        for rival in EVERY_RIVAL:
            run.say(f"{size_text(size)}: preparing {rival.name}")
            server = stack.enter_context(run.running(starter(rival, keys, size)))
            crew = stack.enter_context(Crew(1, rival.name))
            crew.call(connect, rival.connect, server.address)
            crew.call(fill, keys, size, run.seed)
            for operation in OPERATIONS:
                with run.attempt(f"{size_text(size)}, {operation}, {rival.name}"):
                    [exists] = crew.call(check, operation, keys, size)
                    if exists:
                        turns.append((rival.name, crew, operation))
        # Those who do the same thing follow each other: what disturbs one disturbs the next.
        turns.sort(key=lambda turn: OPERATIONS.index(turn[2]))
        for number_of_round in range(length.rounds):
            for name, crew, operation in turns:
                run.say(f"{size_text(size)}: round {number_of_round + 1} of {length.rounds}, {operation}, {name}")
                [took_us] = crew.call(loop, operation, keys, length.loop_s)
                run.figures.add(scenario_of(operation, size), name, US, took_us)


def scenario_of(operation: str, size: int) -> str:
    return f"{operation} {size_text(size)}"


# In the client.


def session_of(client: Client) -> PayloadSession:
    assert isinstance(client.session, PayloadSession)
    return client.session


def fill(client: Client, keys: list[bytes], size: int, seed: int) -> None:
    client.memory["values"] = random.Random(seed + size).randbytes(size)
    client.memory["target"] = memoryview(bytearray(size))
    for key in keys:
        session_of(client).execute(client.session.set, key=key, value=client.memory["values"])


def check(client: Client, operation: str, keys: list[bytes], size: int) -> bool:
    """Whether there is this operation; it has to do what it is for."""
    session, value, target = session_of(client), client.memory["values"], client.memory["target"]
    if not session.has(operation):
        return False
    target[:] = bytes(size)
    found = session.execute(getattr(session, operation), key=keys[-1], value=value, target=target)
    if operation == "get":
        right = found["value"] == value
    elif operation == "get_into":
        right = bytes(target) == value
    else:
        right = session.execute(session.get, key=keys[-1])["value"] == value
    if not right:
        raise BenchError(f"{operation} gave another value than was stored")
    return True


def loop(client: Client, operation: str, keys: list[bytes], loop_s: float) -> float:
    """How long an operation takes, us."""
    session = session_of(client)
    woven: Callable[..., int] = client.remember(
        operation,
        lambda: session.weave(LOOP.format(operation=operation), ["work", "end_ns", "now", "value", "target"]),
    )
    now = time.perf_counter_ns
    arguments: dict[str, Any] = {"value": client.memory["values"], "target": client.memory["target"]}
    started_ns = now()
    done = woven(work=keys, end_ns=started_ns + round(loop_s * 1e9), now=now, **arguments)
    return (now() - started_ns) / done / 1e3


# The report.


def sections(run: Run) -> list[Section]:
    def us(scenario: str, name: str, size: int) -> str:
        return number(run.figures.median(scenario, name, US))

    def gb_per_s(scenario: str, name: str, size: int) -> str:
        median_us = run.figures.median(scenario, name, US)
        moves = not scenario.startswith(("view", "memory"))
        return number(size / median_us / 1e3) if median_us and moves else ABSENT

    texts = (("us an operation", VIEW_NOTE, us), ("GB/s", "The same, of those that move bytes.", gb_per_s))
    found = []
    for title, note, cell in texts:
        rows = []
        for operation in OPERATIONS:
            for rival in EVERY_RIVAL:
                cells = [cell(scenario_of(operation, size), rival.name, size) for size in SIZES]
                if any(text != ABSENT for text in cells):
                    rows.append((operation, rival.name, *cells))
        columns = ("", "", *map(size_text, SIZES))
        found.append(Section(f"Large values, {title}", note, columns, rows, text_columns=2))
    return found


def beside(figures: Figures, scenario: str, reference: str) -> float | None:
    """The throughput of ringtable, as a share of that of another, percent."""
    own_us, other_us = figures.median(scenario, RINGTABLE, US), figures.median(scenario, reference, US)
    return 100 * other_us / own_us if own_us and other_us else None


def own_us(figures: Figures, scenario: str) -> float | None:
    return figures.median(scenario, RINGTABLE, US)


def goals() -> list[Goal]:
    found = []
    for size in (64 << 10, 1 << 20):
        scenario = scenario_of("get", size)
        for reference, limit in ((MEMCPY, 80.0), (LMDB, 100.0)):
            measured = partial(beside, scenario=scenario, reference=reference)
            found.append(Goal(scenario, f"{scenario}: throughput beside {reference}", "≥", limit, "%", measured))
    for size in SIZES:
        scenario = scenario_of("view", size)
        found.append(Goal(scenario, scenario, "≤", 1.0, "us", partial(own_us, scenario=scenario)))
    scenario = scenario_of("set", 1 << 20)
    measured = partial(beside, scenario=scenario, reference=LMDB)
    found.append(Goal(scenario, f"{scenario}: throughput beside {LMDB}", "≥", 50.0, "%", measured))
    return found


SCRIPT = Script("payload", "Large values, beside plain copies.", 1_200.0, measure, sections, goals())

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
