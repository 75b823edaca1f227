"""Large values, beside plain copies of as many bytes: `python -m benches.payload --help`.

For each size all rivals run side by side with the same values, and take turns in rounds; medians of the rounds count.
One client, so nobody waits for anybody. Values of one size take `TOTAL_SIZE` in all, more than the processor's caches
hold. Valkey stands for Redis, of which it is a fork; nobody persists or syncs anything.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringtable._bench import loops
from ringtable._bench.crew import Client, connected
from ringtable._bench.errors import BenchError
from ringtable._bench.loops import make_keys
from ringtable._bench.peers import Memcpy
from ringtable._bench.subject import Subject
from ringtable._bench.tabular import ABSENT, Section, cell
from ringtable._bench.timed import timed
from ringtable._bench.wording import size as size_text

from benches.figures import Figures
from benches.goals import Goal
from benches.rivals import MOVERS
from benches.script import Run, Script

SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
TOTAL_SIZE = 64 << 20
MEMCPY, RINGTABLE, LMDB = "memcpy", "ringtable", "lmdb"
US = "us"

VIEW_NOTE = "Median of the rounds, one client. A view is opened and closed; memory has a memoryview of it meanwhile."

OPERATIONS = ("get", "get_into", "view", "memory", "set")


@dataclass(frozen=True)
class Length:
    rounds: int
    loop_s: float


FULL = Length(rounds=9, loop_s=0.2)
QUICK = Length(rounds=3, loop_s=0.05)


def measure(run: Run) -> None:
    for rival in MOVERS:
        run.versions[rival.name] = rival.version()
    for size in SIZES:
        with run.attempt(size_text(size)):
            measure_size(run, size)


def measure_size(run: Run, size: int) -> None:
    length = QUICK if run.quick else FULL
    keys = make_keys(run.seed, TOTAL_SIZE // size)
    with ExitStack() as stack:
        turns = []
        for rival in MOVERS:
            run.say(f"{size_text(size)}: preparing {rival.name}")
            server = stack.enter_context(run.running(starter(rival, keys, size)))
            crew = stack.enter_context(connected(server, 1))
            crew.call(fill, keys, size, run.seed)
            for operation in OPERATIONS:
                with run.attempt(f"{size_text(size)}, {operation}, {rival.name}"):
                    [exists] = crew.call(check, operation, keys, size)
                    if exists:
                        turns.append((server, crew, operation))
        # Those who do the same thing follow each other: what disturbs one disturbs the next.
        turns.sort(key=lambda turn: OPERATIONS.index(turn[2]))
        for number_of_round in range(length.rounds):
            for server, crew, operation in turns:
                run.say(
                    f"{size_text(size)}: round {number_of_round + 1} of {length.rounds}, {operation}, {server.name}"
                )
                crew.call(prepare, operation, keys)
                took = timed(crew, server, length.loop_s)
                run.figures.add(scenario_of(operation, size), server.name, US, took.seconds * 1e6 / took.operations)


def starter(rival: type[Subject], keys: list[bytes], size: int) -> Callable[[Path], Subject]:
    """Starts a rival; memory that all map has its places from the beginning."""
    return partial(rival, keys=keys, size=size) if issubclass(rival, Memcpy) else rival


def scenario_of(operation: str, size: int) -> str:
    return f"{operation} {size_text(size)}"


# In the client.


def fill(client: Client, keys: list[bytes], size: int, seed: int) -> None:
    client.memory["values"] = random.Random(seed + size).randbytes(size)
    client.memory["target"] = memoryview(bytearray(size))
    for key in keys:
        client.session.execute(client.session.set, key=key, value=client.memory["values"])


def check(client: Client, operation: str, keys: list[bytes], size: int) -> bool:
    """Whether there is this operation; it has to do what it is for."""
    session, value, target = client.session, client.memory["values"], client.memory["target"]
    statement = getattr(session, operation)
    if not statement:
        return False
    target[:] = bytes(size)
    found = session.execute(statement, key=keys[-1], value=value, target=target)
    if operation == "get":
        right = found["value"] == value
    elif operation == "get_into":
        right = bytes(target) == value
    else:
        right = session.execute(session.get, key=keys[-1])["value"] == value
    if not right:
        raise BenchError(f"{operation} gave another value than was stored")
    return True


def prepare(client: Client, operation: str, keys: list[bytes]) -> None:
    """Makes a loop over all keys."""
    body = f"for key in work:\n    {{{operation}}}"
    loops.arm(client, body, [keys], value=client.memory["values"], target=client.memory["target"])


# The report.


def sections(run: Run) -> list[Section]:
    def us(scenario: str, name: str, size: int) -> str:
        return cell(run.figures.median(scenario, name, US))

    def gb_per_s(scenario: str, name: str, size: int) -> str:
        median_us = run.figures.median(scenario, name, US)
        moves = not scenario.startswith(("view", "memory"))
        return cell(size / median_us / 1e3) if median_us and moves else ABSENT

    texts = (("us an operation", VIEW_NOTE, us), ("GB/s", "The same, of those that move bytes.", gb_per_s))
    found = []
    for title, note, figure in texts:
        rows = []
        for operation in OPERATIONS:
            for rival in MOVERS:
                cells = [figure(scenario_of(operation, size), rival.name, size) for size in SIZES]
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


def goals(run: Run) -> list[Goal]:
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


SCRIPT = Script("payload", "Large values, beside plain copies.", 1_200.0, measure, sections, goals)

if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
