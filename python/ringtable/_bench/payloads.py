"""Part three: large values, beside plain copies of as many bytes by as many processes."""

from functools import partial

from ringtable._bench import loops
from ringtable._bench.bench import Bench
from ringtable._bench.errors import BenchError
from ringtable._bench.loops import Shape
from ringtable._bench.peers import Memcpy
from ringtable._bench.results import PayloadFigures
from ringtable._bench.subject import Subject
from ringtable._bench.timed import timed

SIZES = (64 << 10, 1 << 20)
CLIENTS = (1, 2, 4)
OPERATIONS: tuple[Shape, ...] = ("get", "set")
MEMCPY = Memcpy.name
OVERHEAD_S = 0.08
"""About what a turn takes besides its loops."""


def turn_s(bench: Bench) -> float:
    return len(OPERATIONS) * bench.settings.payload_loop_s + OVERHEAD_S


def planned_s(bench: Bench) -> float:
    """About how long it will take, for the progress bar."""
    turns = len(SIZES) * len(CLIENTS) * (1 + len(bench.ways) + len(bench.peers)) * bench.settings.payload_rounds
    return turns * turn_s(bench)


def measure(bench: Bench) -> list[PayloadFigures]:
    figures: list[PayloadFigures] = []
    for size in SIZES:
        memcpy = partial(Memcpy, keys=loops.payload_keys(size), size=size)
        with bench.running(memcpy) as copied, bench.all_running() as others:
            figures += measure_size(bench, {MEMCPY: copied, **others}, size)
    return figures


def measure_size(bench: Bench, subjects: dict[str, Subject], size: int) -> list[PayloadFigures]:
    why_none = {name: fill(bench, subject, size) for name, subject in subjects.items()}
    figures = {
        (name, operation, count): PayloadFigures(name, operation, size, count, why_none=why_none[name])
        for operation in OPERATIONS
        for count in CLIENTS
        for name in subjects
    }
    for number in range(bench.settings.payload_rounds):
        for count in CLIENTS:
            for name, subject in subjects.items():
                bench.say(f"round {number + 1}: {size >> 10} KiB, {count} clients, {name}")
                if not why_none[name]:
                    turn(bench, subject, count, [figures[name, operation, count] for operation in OPERATIONS])
                bench.advance("", turn_s(bench))
    return list(figures.values())


def fill(bench: Bench, subject: Subject, size: int) -> str:
    """Stores the values. Returns why there will be no figure, if they are refused for their size."""
    bench.say(f"filling {subject.name} with {size >> 10} KiB values")
    bench.crew.connect(subject, [0])
    [is_taken] = bench.crew.call(loops.fill_payload, size, of=[0])
    bench.crew.disconnect([0])
    if not is_taken and not subject.too_large:
        raise BenchError(f"{subject.name} refuses values of {size} bytes")
    return "" if is_taken else subject.too_large


def turn(bench: Bench, subject: Subject, count: int, figures: list[PayloadFigures]) -> None:
    clients = range(count)
    bench.crew.connect(subject, clients)
    for of in figures:
        bench.crew.call(loops.prepare, of.operation, of.size, of=clients)
        loop = timed(bench.crew, subject, bench.settings.payload_loop_s, clients)
        of.gb_per_s.append(loop.operations * of.size / loop.seconds / 1e9)
    bench.crew.disconnect(clients)
