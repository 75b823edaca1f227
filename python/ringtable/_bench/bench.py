"""The settings that all parts of the benchmark are given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringtable._bench.crew import Crew
from ringtable._bench.peers import PEERS
from ringtable._bench.settings import Settings
from ringtable._bench.subject import Started, Subject, running
from ringtable._bench.ways import WAYS, RingtableServer


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
    def running(self, start: Callable[[Path], Started]) -> Iterator[Started]:
        """A fresh and empty server, ended with the block."""
        with running(start, self.folder) as subject:
            try:
                yield subject
            except BaseException:
                # Before the server goes: the clients would only complain about that.
                self.crew.kill()
                raise

    @contextmanager
    def all_running(self) -> Iterator[Mapping[str, Subject]]:
        """A server for each way and peer, with as many workers as it likes best."""
        with ExitStack() as stack:
            subjects: dict[str, Subject] = {}
            for name in (*self.ways, *self.peers):
                self.say(f"starting {name}")
                subjects[name] = stack.enter_context(self.running(starter(name)))
            yield subjects


def starter(name: str) -> Callable[[Path], Subject]:
    if name in PEERS:
        return PEERS[name]
    way = WAYS[name]
    return lambda folder: RingtableServer(folder, way)
