"""What all parts of the benchmark are given."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringtable._bench import loops, probe
from ringtable._bench.crew import Crew
from ringtable._bench.loops import LoopRun
from ringtable._bench.peers import PEERS
from ringtable._bench.settings import Settings
from ringtable._bench.subject import Subject
from ringtable._bench.ways import WAYS, RingtableServer

START_DELAY_NS = 20_000_000
"""Between giving the clients their start and the start: all have to be ready by then."""


@dataclass(frozen=True)
class Bench:
    settings: Settings
    ways: Sequence[str]
    peers: Sequence[str]
    crew: Crew
    folder: Path
    advance: Callable[[str, float], None]
    """Shows what is being measured; the number is its share of all that was planned, in seconds."""

    def say(self, what: str) -> None:
        self.advance(what, 0.0)

    @contextmanager
    def running(self, start: Callable[[Path], Subject]) -> Iterator[Subject]:
        """A fresh and empty server, ended with the block."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            subject = start(Path(folder))
            try:
                yield subject
            except BaseException:
                # Before the server goes: the clients would only complain about that.
                self.crew.kill()
                raise
            finally:
                subject.stop()

    @contextmanager
    def all_running(self) -> Iterator[Mapping[str, Subject]]:
        """A server for each way and peer, with as many workers as it likes best."""
        with ExitStack() as stack:
            subjects: dict[str, Subject] = {}
            for name in (*self.ways, *self.peers):
                self.say(f"starting {name}")
                subjects[name] = stack.enter_context(self.running(starter(name)))
            yield subjects

    def loop(self, subject: Subject, clients: range, loop_s: float) -> "Loop":
        """Runs the loop that these clients have prepared, in all of them at once."""
        server_ns = sum(map(probe.cpu_ns, subject.pids))
        runs = self.crew.call(loops.run, time.perf_counter_ns() + START_DELAY_NS, loop_s, of=clients)
        return Loop(runs, sum(map(probe.cpu_ns, subject.pids)) - server_ns)


@dataclass(frozen=True)
class Loop:
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


def starter(name: str) -> Callable[[Path], Subject]:
    if name in PEERS:
        return PEERS[name]
    way = WAYS[name]
    return lambda folder: RingtableServer(folder, way)
