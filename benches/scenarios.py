"""What is measured: one function a scenario. Each ends what it starts, and adds to the figures."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from ringtable._bench import loops, probe
from ringtable._bench.analysis import CROWD, OUTER
from ringtable._bench.crew import Crew, connected
from ringtable._bench.loops import BURST_SIZE, KEY_COUNT, KEY_SIZE, SEED, VALUE_SIZE
from ringtable._bench.scenarios import background as in_background
from ringtable._bench.subject import Subject
from ringtable._bench.timed import timed

from benches import workload
from benches.figures import CLIENT_CPU_NS, SERVER_CPU_NS, WALL_NS
from benches.rivals import RIVALS, TAKING_PART, Ringtable
from benches.script import Run

CLASSIC_WORKERS = (1, 16)
READS: tuple[Literal["direct", "server"], ...] = ("direct", "server")

GROWTH_BUCKETS = 16
GROWTH_WRITERS = 4
IDLE_SETTLE_S = 1.0


@dataclass(frozen=True)
class Settings:
    """How long to measure. More rounds make the medians steadier; nothing else depends on it."""

    rounds: int
    round_s: float
    rounds_many: int
    round_many_s: float
    classic_rounds: int
    memory_entries: int
    idle_s: float
    growth_entries: int


FULL = Settings(
    rounds=9,
    round_s=0.3,
    rounds_many=5,
    round_many_s=1.0,
    classic_rounds=31,
    memory_entries=1_000_000,
    idle_s=5.0,
    growth_entries=2_000_000,
)
QUICK = Settings(
    rounds=3,
    round_s=0.1,
    rounds_many=3,
    round_many_s=0.4,
    classic_rounds=11,
    memory_entries=200_000,
    idle_s=2.0,
    growth_entries=200_000,
)


@dataclass(frozen=True)
class Loop:
    """A timed loop of `workload.LOOPS`, in so many client processes at once."""

    shape: str
    clients: int
    title: str


def settings_of(run: Run) -> Settings:
    return QUICK if run.quick else FULL


def taking_part(run: Run, scenario: str) -> list[type[Subject]]:
    return [RIVALS[name] for name in run.options.rivals if scenario in TAKING_PART[RIVALS[name]]]


LOOPS: dict[str, Loop] = {
    "mixed": Loop("mixed", 1, "mixed"),
    "mixed16": Loop("mixed", CROWD, "mixed x16"),
    "get": Loop("get", 1, "get"),
    "get16": Loop("get", CROWD, "get x16"),
    "set": Loop("set", 1, "set"),
    "get_many": Loop("get_many", 1, "get_many"),
    "set_many": Loop("set_many", 1, "set_many"),
}


def loop_rounds(run: Run, scenario: str) -> None:
    """One timed loop. The rivals, each fresh and preloaded, run side by side; a round is a turn for each."""
    loop, settings = LOOPS[scenario], settings_of(run)
    rounds, round_s = settings.rounds, settings.round_s
    if loop.clients > 1:
        rounds, round_s = settings.rounds_many, settings.round_many_s
    with ExitStack() as stack:
        turns = []
        for rival in taking_part(run, scenario):
            run.say(f"{scenario}: preparing {rival.name}")
            server = stack.enter_context(run.running(rival))
            crew = stack.enter_context(connected(server, loop.clients))
            preload(server, crew)
            crew.call(workload.prepare, loop.shape)
            turns.append((server, crew))
        for number in range(rounds):
            for server, crew in turns:
                run.say(f"{scenario}: round {number + 1} of {rounds}, {server.name}")
                took = timed(crew, server, round_s)
                operations = took.operations * (BURST_SIZE if loop.shape.endswith("_many") else 1)
                run.figures.add(scenario, server.name, WALL_NS, took.seconds * 1e9 / operations)
                run.figures.add(scenario, server.name, CLIENT_CPU_NS, took.client_ns / operations)
                run.figures.add(scenario, server.name, SERVER_CPU_NS, took.server_ns / operations)


def preload(server: Subject, crew: Crew) -> None:
    """Fills the table in one burst, which leaves LMDB no free pages that would slow its sets; then checks."""
    if server.shared:
        with connected(server, 1) as loader:
            loader.call(loops.fill, SEED, KEY_COUNT, KEY_COUNT)
    else:
        crew.call(loops.fill, SEED, KEY_COUNT, KEY_COUNT)
    crew.call(loops.verify)


def classic(run: Run) -> None:
    """`ringtable client 100 10`, alone and among 16 doing the same, by workers and way of reading."""
    for workers in CLASSIC_WORKERS if taking_part(run, "classic") else ():
        with run.running(partial(Ringtable, workers=workers)) as server, Crew(1 + CROWD, server.name) as crew:
            for reads in READS:
                server.address = replace(server.address, reads=reads)
                for background in (0, CROWD):
                    run.say(f"classic: {workers} workers, reads {reads}, {background} background clients")
                    metric = classic_metric(workers, background, reads)
                    with in_background(crew, server, range(1, 1 + background)):
                        classic_rounds(run, server, crew, metric)


def classic_metric(workers: int, background: int, reads: str) -> str:
    return f"workers_{workers}_background_{background}_reads_{reads}_ms"


def classic_rounds(run: Run, server: Ringtable, crew: Crew, metric: str) -> None:
    for _ in range(settings_of(run).classic_rounds):
        [took] = crew.call(loops.classic, server.address, OUTER, SEED, server.pids[0], of=[0])
        run.figures.add("classic", server.name, metric, took.seconds * 1e3)


def memory(run: Run) -> None:
    """What an entry costs beyond its key and value."""
    for rival in taking_part(run, "memory"):
        run.say(f"memory: {rival.name}")
        with run.running(rival) as server, connected(server, 1) as crew:
            [pid] = crew.pids
            crew.call(loops.fill, SEED, BURST_SIZE, BURST_SIZE)
            empty_bytes = server.memory_bytes(pid)
            entries = settings_of(run).memory_entries
            crew.call(loops.fill, SEED + 1, entries, BURST_SIZE)
            entry_bytes = (server.memory_bytes(pid) - empty_bytes) / entries
            overhead = entry_bytes - KEY_SIZE - VALUE_SIZE
            run.figures.add("memory", rival.name, "overhead_bytes_per_entry", overhead)


def idle(run: Run) -> None:
    """CPU time of a server with 16 clients that are connected and do nothing."""
    for rival in taking_part(run, "idle"):
        run.say(f"idle: {rival.name}")
        with run.running(rival) as server, connected(server, CROWD) as crew:
            crew.call(loops.verify)
            time.sleep(IDLE_SETTLE_S)
            cpu_ns, started_ns = sum(map(probe.cpu_ns, server.pids)), time.perf_counter_ns()
            time.sleep(settings_of(run).idle_s)
            cpu_ns = sum(map(probe.cpu_ns, server.pids)) - cpu_ns
            wall_ns = time.perf_counter_ns() - started_ns
            run.figures.add("idle", rival.name, "core_percent", 100 * cpu_ns / wall_ns)


def growth(run: Run) -> None:
    """A table of 16 buckets grows while 4 clients insert and 4 read back; the server timed the inserts."""
    for rival in taking_part(run, "growth"):
        run.say("growth")
        with (
            run.running(partial(Ringtable, buckets=GROWTH_BUCKETS)) as server,
            connected(server, 2 * GROWTH_WRITERS) as crew,
        ):
            count = settings_of(run).growth_entries // GROWTH_WRITERS
            started_ns = time.perf_counter_ns()
            wrong = sum(crew.call(workload.grow, GROWTH_WRITERS, count))
            took_s = (time.perf_counter_ns() - started_ns) / 1e9
            stats = crew.call(workload.statistics_of_server)[0]
        run.figures.add("growth", rival.name, "keys_count", count * GROWTH_WRITERS)
        run.figures.add("growth", rival.name, "wrong_count", wrong)
        run.figures.add("growth", rival.name, "elapsed_s", took_s)
        for stat, value in stats.items():
            if stat.startswith("insert_"):
                run.figures.add("growth", rival.name, stat, value)


OTHERS = {"classic": classic, "memory": memory, "idle": idle, "growth": growth}
SCENARIOS = (*LOOPS, *OTHERS)


def measure(run: Run) -> None:
    """Measures the wanted of `SCENARIOS`."""
    for scenario in run.options.only:
        with run.attempt(scenario):
            if scenario in LOOPS:
                loop_rounds(run, scenario)
            else:
                OTHERS[scenario](run)
