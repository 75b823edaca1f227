"""A prepared loop in several clients at once, and what it took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ringtable._bench import loops, probe
from ringtable._bench.crew import Crew
from ringtable._bench.loops import LoopRun
from ringtable._bench.subject import Subject

START_DELAY_NS = 20_000_000
"""Between giving the clients their start and the start: all have to be ready by then."""


@dataclass(frozen=True)
class Timed:
    """The same loop in several clients at once."""

    runs: Sequence[LoopRun]
    server_ns: int

    @property
    def operations(self) -> int:
        return sum(run.operations for run in self.runs)

    @property
    def seconds(self) -> float:
        return (max(run.ended_ns for run in self.runs) - min(run.started_ns for run in self.runs)) / 1e9

    @property
    def client_ns(self) -> int:
        return sum(run.cpu_ns for run in self.runs)


def timed(crew: Crew, subject: Subject, loop_s: float, of: Sequence[int] | None = None) -> Timed:
    """Runs the loop that these clients of a subject have prepared, in all of them at once."""
    server_ns = sum(map(probe.cpu_ns, subject.pids))
    runs = crew.call(loops.run, time.perf_counter_ns() + START_DELAY_NS, loop_s, of=of)
    return Timed(runs, sum(map(probe.cpu_ns, subject.pids)) - server_ns)
