"""Part one: the seven scenarios of the analysis, over every way."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import ringtable
from ringtable._bench import loops
from ringtable._bench.analysis import CROWD, OUTER, SCENARIOS, Scenario
from ringtable._bench.bench import Bench
from ringtable._bench.crew import Crew, pause
from ringtable._bench.errors import BenchError
from ringtable._bench.loops import SEED
from ringtable._bench.results import ScenarioFigures
from ringtable._bench.ways import WAYS, RingtableServer

CLIENTS = 1 + CROWD
"""The measured client is the first of the crew, those in the background are the next."""

JOIN_S_MAX = 30.0
JOIN_POLL_S = 0.005
SETTLE_S = 0.1
"""From when all background clients have joined to the first run: their loops have begun by then."""

Figures = dict[tuple[str, str], ScenarioFigures]


def planned_s(bench: Bench) -> float:
    """About how long it will take, for the progress bar."""
    turns = len(SCENARIOS) * len(bench.ways) * bench.settings.scenario_rounds
    return turns * bench.settings.scenario_turn_s / 2


def measure(bench: Bench) -> list[ScenarioFigures]:
    figures: Figures = {(name, way): ScenarioFigures(name, way) for name in SCENARIOS for way in bench.ways}
    share_s = planned_s(bench) / len(figures) / bench.settings.scenario_rounds
    with servers_for_all(bench) as servers:
        for number in range(bench.settings.scenario_rounds):
            for scenario in SCENARIOS.values():
                for way in bench.ways:
                    bench.advance(f"round {number + 1}: {scenario.name}, {way}", 0.0)
                    turn(bench, scenario, servers[way, scenario.workers], figures[scenario.name, way])
                    bench.advance("", share_s)
    return list(figures.values())


@contextmanager
def servers_for_all(bench: Bench) -> Iterator[Mapping[tuple[str, int], RingtableServer]]:
    """A server for each way and number of workers. Those that are not measured sleep."""
    with ExitStack() as stack:
        servers: dict[tuple[str, int], RingtableServer] = {}
        for way in bench.ways:
            for workers in sorted({scenario.workers for scenario in SCENARIOS.values()}):
                bench.say(f"starting {way} with {workers} workers")
                start = partial(RingtableServer, way=WAYS[way], workers=workers)
                servers[way, workers] = stack.enter_context(bench.running(start))
        yield servers


def turn(bench: Bench, scenario: Scenario, server: RingtableServer, figures: ScenarioFigures) -> None:
    """Some runs of one scenario over one way; the first one only warms up."""
    with background(bench.crew, server, range(1, 1 + scenario.background)):
        deadline = time.monotonic() + bench.settings.scenario_turn_s
        for number in range(1 + bench.settings.scenario_runs):
            [run] = bench.crew.call(loops.classic, server.address, OUTER, SEED, server.pids[0], of=[0])
            if number == 0:
                continue
            figures.seconds.append(run.seconds)
            figures.user_s.append(run.user_s)
            figures.system_s.append(run.system_s)
            figures.server_s.append(run.server_s)
            if time.monotonic() > deadline:
                break


@contextmanager
def background(crew: Crew, server: RingtableServer, others: range) -> Iterator[None]:
    """These clients insert, read and delete until the end of the block."""
    if not others:
        yield
        return
    with ringtable.Table(server.control, transport="socket") as control:
        # A count that only rises: clients of the run before may not be seen to have left yet.
        accepted_before = int(control.stats()["clients_accepted"])
        crew.start(loops.classic_endless, server.address, SEED, of=others)
        deadline = time.monotonic() + JOIN_S_MAX
        while int(control.stats()["clients_accepted"]) < accepted_before + len(others):
            if time.monotonic() > deadline:
                raise BenchError(f"{len(others)} clients of {server.name} did not join within {JOIN_S_MAX} s")
            time.sleep(JOIN_POLL_S)
    time.sleep(SETTLE_S)
    yield
    crew.call(pause, of=others)
