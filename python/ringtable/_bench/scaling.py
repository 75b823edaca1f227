"""Part two: 1 to 16 clients in tight loops through the Python API, over every way and peer."""

from ringtable import _ringtable
from ringtable._bench import loops
from ringtable._bench.bench import Bench
from ringtable._bench.loops import Shape
from ringtable._bench.results import PERCENTILES, ScalingFigures
from ringtable._bench.subject import Subject
from ringtable._bench.timed import timed

CLIENTS = (1, 2, 4, 8, 16)
OVERHEAD_S = 0.1
"""About what a turn takes besides its loops."""

SHAPES: tuple[Shape, ...] = ("mixed", "latency")


def turn_s(bench: Bench) -> float:
    return 2 * bench.settings.scaling_loop_s + OVERHEAD_S


def planned_s(bench: Bench) -> float:
    """About how long it will take, for the progress bar."""
    turns = len(CLIENTS) * (len(bench.ways) + len(bench.peers)) * bench.settings.scaling_rounds
    return turns * turn_s(bench)


def measure(bench: Bench) -> list[ScalingFigures]:
    names = [*bench.ways, *bench.peers]
    figures = {(name, count): ScalingFigures(name, count) for name in names for count in CLIENTS}
    histograms = {key: _ringtable.Histogram() for key in figures}
    with bench.all_running() as subjects:
        for name, subject in subjects.items():
            bench.say(f"filling {name}")
            bench.crew.connect(subject, [0])
            bench.crew.call(loops.fill, of=[0])
            bench.crew.call(loops.verify, of=[0])
            bench.crew.disconnect([0])
        for number in range(bench.settings.scaling_rounds):
            for count in CLIENTS:
                for name, subject in subjects.items():
                    bench.say(f"round {number + 1}: {count} {'client' if count == 1 else 'clients'}, {name}")
                    turn(bench, subject, figures[name, count], histograms[name, count])
                    bench.advance("", turn_s(bench))
    return [with_latencies(figures[key], histograms[key]) for key in figures]


def turn(bench: Bench, subject: Subject, figures: ScalingFigures, histogram: "_ringtable.Histogram") -> None:
    """Two loops, one without a look at the clock in between, and one that times each operation."""
    clients, loop_s = range(figures.clients), bench.settings.scaling_loop_s
    # Connected for this turn alone: an idle client of shared rings would hold up the others.
    bench.crew.connect(subject, clients)
    for shape in SHAPES:
        bench.crew.call(loops.prepare, shape, of=clients)
        loop = timed(bench.crew, subject, loop_s, clients)
        if shape == "mixed":
            figures.operations_per_s.append(loop.operations / loop.seconds)
            figures.client_ns.append(loop.client_ns / loop.operations)
            figures.server_ns.append(loop.server_ns / loop.operations)
        else:
            for data in bench.crew.call(loops.recorded, of=clients):
                histogram.add(_ringtable.Histogram.from_bytes(data))
    bench.crew.disconnect(clients)


def with_latencies(figures: ScalingFigures, histogram: "_ringtable.Histogram") -> ScalingFigures:
    latencies = {f"{percent:g}": float(histogram.percentile(percent)) for percent in PERCENTILES}
    return ScalingFigures(
        figures.way,
        figures.clients,
        figures.operations_per_s,
        figures.client_ns,
        figures.server_ns,
        latencies,
        histogram.count,
    )
