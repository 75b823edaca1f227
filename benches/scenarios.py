"""What is measured: one function a scenario. Each ends what it starts, and adds to the figures."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ringtable._bench import probe
from ringtable._bench.errors import BenchError
from ringtable._bench.loops import BURST_SIZE, KEY_COUNT, KEY_SIZE, SEED, VALUE_SIZE

from benches import workload
from benches.crew import Crew
from benches.figures import CLIENT_CPU_NS, SERVER_CPU_NS, WALL_NS, Figures
from benches.rivals import RIVALS, Ringtable, Rival
from benches.workload import READS, Reads

CLIENTS_MANY = 16
CLASSIC_OUTER = 100
CLASSIC_INNER = 10
CLASSIC_WORKERS = (1, 16)
CLASSIC_SETTLE_S = 0.5
"""Time for the background clients to be at work before the first measured one."""

GROWTH_BUCKETS = 16
GROWTH_WRITERS = 4
IDLE_SETTLE_S = 1.0
START_DELAY_NS = 30_000_000
"""Between giving the clients their start and the start: all have to be ready by then."""

CALIBRATION_COUNT = 64
CALIBRATION_SHARE = 0.1
"""A loop that takes this share of a round is long enough to compute the length of a whole one."""


Server = TypeVar("Server", bound=Rival)


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
class Bench:
    """What every scenario is given."""

    settings: Settings
    rivals: Sequence[str]
    folder: Path
    """On tmpfs; removed at the end."""

    figures: Figures
    failures: list[str]
    """What went wrong, scenario by scenario; the others are measured all the same."""

    say: Callable[[str], None]
    """Shows progress."""

    @contextmanager
    def attempt(self, scenario: str) -> Iterator[None]:
        try:
            yield
        except (BenchError, OSError) as error:
            self.failures.append(f"{scenario} failed: {error}")

    def taking_part(self, scenario: str) -> list[str]:
        return [name for name in self.rivals if scenario in RIVALS[name].scenarios]

    @contextmanager
    def running(self, start: Callable[[Path], Server]) -> Iterator[Server]:
        """A fresh and empty server, ended with the block."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            server = start(Path(folder))
            try:
                yield server
            finally:
                server.stop()


@dataclass(frozen=True)
class Loop:
    """A timed loop of `workload.LOOPS`, in so many client processes at once."""

    shape: str
    clients: int
    title: str


LOOPS: dict[str, Loop] = {
    "mixed": Loop("mixed", 1, "mixed"),
    "mixed16": Loop("mixed", CLIENTS_MANY, "mixed x16"),
    "get": Loop("get", 1, "get"),
    "get16": Loop("get", CLIENTS_MANY, "get x16"),
    "set": Loop("set", 1, "set"),
    "get_many": Loop("get_many", 1, "get_many"),
    "set_many": Loop("set_many", 1, "set_many"),
}


def loop_rounds(bench: Bench, scenario: str) -> None:
    """One timed loop. The rivals, each fresh and preloaded, run side by side; a round is a turn for each."""
    loop, settings = LOOPS[scenario], bench.settings
    rounds, round_s = settings.rounds, settings.round_s
    if loop.clients > 1:
        rounds, round_s = settings.rounds_many, settings.round_many_s
    with ExitStack() as stack:
        turns = []
        for name in bench.taking_part(scenario):
            bench.say(f"{scenario}: preparing {name}")
            crew = stack.enter_context(Crew(stack.enter_context(bench.running(RIVALS[name])), loop.clients))
            preload(crew)
            turns.append((crew, calibrate(crew, loop.shape, round_s)))
        for number in range(rounds):
            for crew, operations in turns:
                bench.say(f"{scenario}: round {number + 1} of {rounds}, {crew.rival.name}")
                for metric, value in loop_round(crew, operations).items():
                    bench.figures.add(scenario, crew.rival.name, metric, value)


def preload(crew: Crew) -> None:
    """Fills the table in one burst, which leaves LMDB no free pages that would slow its sets; then checks."""
    if crew.rival.shared:
        with Crew(crew.rival, 1) as loader:
            loader.call(workload.fill, SEED, KEY_COUNT, KEY_COUNT)
    else:
        crew.call(workload.fill, SEED, KEY_COUNT, KEY_COUNT)
    crew.call(workload.verify)


def calibrate(crew: Crew, shape: str, round_s: float) -> int:
    """Prepares a loop that takes about `round_s`. Returns its operations, of all clients together."""
    count = CALIBRATION_COUNT
    if shape.endswith("_many"):
        count = 1
    while True:
        operations = sum(crew.call(workload.prepare, shape, count))
        took_s = loop_round(crew, operations)[WALL_NS] * operations / 1e9
        if took_s >= round_s * CALIBRATION_SHARE:
            break
        count *= 4
    return sum(crew.call(workload.prepare, shape, max(1, round(count * round_s / took_s))))


def loop_round(crew: Crew, operations: int) -> dict[str, float]:
    """Runs the prepared loop once in all clients: ns an operation, by metric."""
    servers_cpu_ns = sum(map(probe.cpu_ns, crew.rival.pids))
    runs = crew.call(workload.run, time.perf_counter_ns() + START_DELAY_NS)
    servers_cpu_ns = sum(map(probe.cpu_ns, crew.rival.pids)) - servers_cpu_ns
    wall_ns = max(run.ended_ns for run in runs) - min(run.started_ns for run in runs)
    return {
        WALL_NS: wall_ns / operations,
        CLIENT_CPU_NS: sum(run.cpu_ns for run in runs) / operations,
        SERVER_CPU_NS: servers_cpu_ns / operations,
    }


def classic(bench: Bench) -> None:
    """`ringtable client 100 10`, alone and among 16 doing the same, by workers and way of reading."""
    for workers in CLASSIC_WORKERS if bench.taking_part("classic") else ():
        with bench.running(partial(Ringtable, workers=workers)) as server:
            for reads in READS:
                for background in (0, CLIENTS_MANY):
                    bench.say(f"classic: {workers} workers, reads {reads}, {background} background clients")
                    metric = classic_metric(workers, background, reads)
                    classic_rounds(bench, server, metric, background, reads)


def classic_metric(workers: int, background: int, reads: str) -> str:
    return f"workers_{workers}_background_{background}_reads_{reads}_ms"


def classic_rounds(bench: Bench, server: Ringtable, metric: str, background: int, reads: Reads) -> None:
    with ExitStack() as stack:
        if background:
            others = Crew(server, background, connected=False)
            stack.callback(others.kill)
            others.start(workload.classic, server.control, 0, CLASSIC_INNER, reads, SEED + 1)
            time.sleep(CLASSIC_SETTLE_S)
        crew = stack.enter_context(Crew(server, 1, connected=False))
        for _ in range(bench.settings.classic_rounds):
            arguments = (server.control, CLASSIC_OUTER, CLASSIC_INNER, reads, SEED)
            [took_s] = crew.call(workload.classic, *arguments)
            bench.figures.add("classic", server.name, metric, took_s * 1e3)


def memory(bench: Bench) -> None:
    """What an entry costs beyond its key and value."""
    for name in bench.taking_part("memory"):
        bench.say(f"memory: {name}")
        with bench.running(RIVALS[name]) as server, Crew(server, 1) as crew:
            [pid] = crew.pids
            crew.call(workload.fill, SEED, BURST_SIZE, BURST_SIZE)
            empty_bytes = server.memory_bytes(pid)
            entries = bench.settings.memory_entries
            crew.call(workload.fill, SEED + 1, entries, BURST_SIZE)
            entry_bytes = (server.memory_bytes(pid) - empty_bytes) / entries
            overhead = entry_bytes - KEY_SIZE - VALUE_SIZE
            bench.figures.add("memory", name, "overhead_bytes_per_entry", overhead)


def idle(bench: Bench) -> None:
    """CPU time of a server with 16 clients that are connected and do nothing."""
    for name in bench.taking_part("idle"):
        bench.say(f"idle: {name}")
        with bench.running(RIVALS[name]) as server, Crew(server, CLIENTS_MANY) as crew:
            crew.call(workload.verify)
            time.sleep(IDLE_SETTLE_S)
            cpu_ns, started_ns = sum(map(probe.cpu_ns, server.pids)), time.perf_counter_ns()
            time.sleep(bench.settings.idle_s)
            cpu_ns = sum(map(probe.cpu_ns, server.pids)) - cpu_ns
            wall_ns = time.perf_counter_ns() - started_ns
            bench.figures.add("idle", name, "core_percent", 100 * cpu_ns / wall_ns)


def growth(bench: Bench) -> None:
    """A table of 16 buckets grows while 4 clients insert and 4 read back; the server timed the inserts."""
    for name in bench.taking_part("growth"):
        bench.say("growth")
        with (
            bench.running(partial(Ringtable, buckets=GROWTH_BUCKETS)) as server,
            Crew(server, 2 * GROWTH_WRITERS) as crew,
        ):
            count = bench.settings.growth_entries // GROWTH_WRITERS
            started_ns = time.perf_counter_ns()
            wrong = sum(crew.call(workload.grow, GROWTH_WRITERS, count))
            took_s = (time.perf_counter_ns() - started_ns) / 1e9
            stats = crew.call(workload.statistics_of_server)[0]
        bench.figures.add("growth", name, "keys_count", count * GROWTH_WRITERS)
        bench.figures.add("growth", name, "wrong_count", wrong)
        bench.figures.add("growth", name, "elapsed_s", took_s)
        for stat, value in stats.items():
            if stat.startswith("insert_"):
                bench.figures.add("growth", name, stat, value)


OTHERS = {"classic": classic, "memory": memory, "idle": idle, "growth": growth}
SCENARIOS = (*LOOPS, *OTHERS)


def measure(bench: Bench, wanted: Sequence[str]) -> None:
    """Measures the wanted of `SCENARIOS`."""
    for scenario in wanted:
        with bench.attempt(scenario):
            if scenario in LOOPS:
                loop_rounds(bench, scenario)
            else:
                OTHERS[scenario](bench)
