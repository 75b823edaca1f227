"""Records what processes do to the same few keys, some of them killed meanwhile, and checks what they were answered.

    python -m proof.histories --histories 1000 --operations 10000

A history has its own keys: some whose values check themselves, and one that counts. A few processes, each connected in
another way, do random operations on them, and write down calls and answers (`proof.journal`). All are stopped for
moments at random instants, so that the others overtake them, and some are killed by SIGKILL and replaced. What they
have seen is then judged, key by key (`proof.operations`), while the next history is recorded. In some histories the
table grows meanwhile, in others values have times to live, or the table evicts; an entry of a cache may vanish at any
time, so that there only what remains is checked.

A history that no order explains is written to a file, as lines to read, only the part that shows it.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cyclopts
from ringtable import OutOfMemory, Table
from ringtable._cli.signals import interrupt_on_termination
from support import Child, Flag, ServerProcess, state_of

from proof import program
from proof.journal import Journal
from proof.linearizability import FOREVER, Undecided
from proof.operations import Operation, Wrong, judge, lines
from proof.player import CALLS_AT_ONCE_MAX, NUMBER_BITS, Key, Player, Traits

TIMEOUT_S = 60.0
"""A call that takes longer hangs."""

HISTORY_TIMEOUT_S = 300.0
"""A history that takes longer hangs, though no call of it may."""

STOP_S_MAX = 0.002
"""For how long a process is stopped at most; one of them always is."""

CHECK_TIMEOUT_S = 600.0

KEYS = (2, 3, 4)
"""How many hot keys a history may have; the first one counts."""

LARGE_EVERY = 3
"""One history of so many has large values."""

CHECKS_AT_ONCE = 2
"""Histories that are checked while the next one is recorded."""

HISTORIES_PER_SERVER = 25

FILLER_KEYS = 20_000
FILLER_BATCH = 200


@dataclass(frozen=True)
class Way:
    """How a process is connected."""

    name: str
    options: dict[str, Any]
    tcp: bool = False


LANE = Way("lane, reads in place", {"transport": "lane"})
LANE_SERVER = Way("lane, reads ask", {"transport": "lane", "reads": "server"})
LANE_POSTED = Way("lane, posted writes", {"transport": "lane", "writes": "posted"})
RINGS = Way("rings, reads in place", {"transport": "rings"})
RINGS_SERVER = Way("rings, reads ask", {"transport": "rings", "reads": "server"})
RINGS_POSTED = Way("rings, posted writes", {"transport": "rings", "writes": "posted"})
SOCKET = Way("socket", {"transport": "socket"})
TCP = Way("tcp", {"transport": "socket"}, tcp=True)


@dataclass(frozen=True)
class Place:
    """A server, and who plays there."""

    name: str
    arguments: tuple[str, ...]
    ways: tuple[Way, ...]
    grows: bool = False
    expires: bool = False
    vanishes: bool = False


LANES = (LANE, LANE, LANE_SERVER, LANE_POSTED, SOCKET, TCP)
CLASSIC = (RINGS, RINGS, RINGS_SERVER, RINGS_POSTED, SOCKET, TCP)
PLACES = (
    Place("lanes", ("--topology", "lanes"), LANES),
    Place("shared rings", ("--topology", "shared"), CLASSIC),
    Place("sharded rings", ("--topology", "sharded"), CLASSIC),
    Place("lanes, growing", ("--topology", "lanes", "--buckets", "1"), LANES, grows=True),
    Place("shared rings, growing", ("--topology", "shared", "--buckets", "1"), CLASSIC, grows=True),
    Place("lanes, expiring", ("--topology", "lanes", "--buckets", "1"), LANES, grows=True, expires=True),
    Place(
        "lanes, evicting", ("--cache", "--max-memory", "8MiB"), (LANE, LANE, LANE_SERVER, SOCKET, TCP), vanishes=True
    ),
)


@dataclass(frozen=True)
class Found:
    """What there was in a history, and what was wrong with it."""

    operations: int
    unanswered: int
    reports: list[list[str]]


@dataclass
class Figures:
    """What was done at one place."""

    histories: int = 0
    operations: int = 0
    kills: int = 0
    unanswered: int = 0
    wrong: int = 0
    by_way: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Recorded:
    """A history that was recorded."""

    place: Place
    number: int
    keys: list[Key]
    ways: list[Way]
    """Those of the processes, by their numbers; the last ones have read what was left at the end."""
    kills: int
    journal: Journal


def fill(seed: int, finish: Flag) -> None:
    """Write other keys until told otherwise, so that the table grows, or evicts."""
    generator = random.Random(seed)
    with Table(timeout=TIMEOUT_S) as table:
        begin = 0
        while not finish.is_set():
            size = generator.choice([10, 100, 1_000, 3_000])
            with suppress(OutOfMemory):
                table.set_many((b"filler %d" % index, bytes(size)) for index in range(begin, begin + FILLER_BATCH))
            begin = (begin + FILLER_BATCH) % FILLER_KEYS
            if begin == 0:
                # The server moves what is left together.
                table.delete_many(b"filler %d" % index for index in range(FILLER_KEYS) if index % 8)
            time.sleep(0.002)


def record(place: Place, server: ServerProcess, number: int, seed: int, operations: int, kills: int) -> Recorded:
    """Have processes play with the keys of one history, and kill so many of them."""
    generator = random.Random(seed)
    addresses = [server.ready_line.rpartition(", tcp: ")[2].strip() if way.tcp else "default" for way in place.ways]
    calls = -(-operations // len(place.ways))
    large = number % LARGE_EVERY == LARGE_EVERY - 1
    traits = Traits(large=large, expires=place.expires, refused=place.vanishes)
    keys = [Key(b"history %d key %d" % (number, index), index == 0) for index in range(generator.choice(KEYS))]
    ways = list(place.ways)
    journal = Journal(2 * len(ways) + kills, calls + CALLS_AT_ONCE_MAX)
    killed = 0
    deadline = time.monotonic() + HISTORY_TIMEOUT_S
    with ExitStack() as stack:
        go = stack.enter_context(Flag())
        finish = stack.enter_context(Flag())
        if place.grows or place.vanishes:
            with Table(timeout=TIMEOUT_S) as table:
                table.clear()
            filler = stack.enter_context(Child(fill, seed, finish))

        def play(process: int, address: str, calls: int) -> None:
            with Table(address, timeout=TIMEOUT_S, **ways[process].options) as table:
                go.wait()
                own_seed = seed << NUMBER_BITS | process
                Player(table, journal.part(process), process, keys, own_seed, traits).play(calls)

        def start(process: int, address: str, calls: int) -> Child:
            return stack.enter_context(Child(play, process, address, calls))

        playing = {process: start(process, address, calls) for process, address in enumerate(addresses)}
        allotted = dict.fromkeys(playing, calls)
        go.set()
        for _ in range(kills):
            victim = generator.choice(list(playing))
            call = generator.randrange(allotted[victim])
            while not (ended := has_ended(playing[victim], deadline)) and not journal.has(victim, call):
                stop_for_a_moment(generator.choice(list(playing.values())), generator)
            if ended:
                # Well or not; it is asked below.
                continue
            playing.pop(victim).kill()
            killed += 1
            heir = len(ways)
            ways.append(ways[victim])
            allotted[heir] = max(1, allotted[victim] - journal.calls(victim))
            playing[heir] = start(heir, addresses[place.ways.index(ways[victim])], allotted[heir])
        while playing:
            process, child = generator.choice(list(playing.items()))
            stop_for_a_moment(child, generator)
            if has_ended(child, deadline):
                playing.pop(process).result()
        finish.set()
        if place.grows or place.vanishes:
            filler.result()
    # What was acknowledged is there, whoever asks.
    for way, address in zip(place.ways, addresses, strict=True):
        part = journal.part(len(ways))
        ways.append(way)
        with Table(address, timeout=TIMEOUT_S, **way.options) as table:
            player = Player(table, part, len(ways) - 1, keys, seed, traits)
            for key in range(len(keys)):
                player.get_versioned(key)
    return Recorded(place, number, keys, ways, killed, journal)


def has_ended(child: Child, deadline: float) -> bool:
    """Whether a process has ended, well or not; it is not reaped by this."""
    assert time.monotonic() < deadline, f"not over within {HISTORY_TIMEOUT_S} s: a call hangs, or the machine is slow"
    return state_of(child.pid) == "Z"


def stop_for_a_moment(child: Child, generator: random.Random) -> None:
    """Stop a process wherever it is, in the middle of a copy or with a slot in its hands, while the others go on."""
    # It is not reaped yet, so that its number is no other's.
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(generator.random() * STOP_S_MAX)
    os.kill(child.pid, signal.SIGCONT)


def check(recorded: Recorded) -> Found:
    """Judge a history, key by key."""
    by_key: list[list[Operation]] = [[] for _ in recorded.keys]
    count = unanswered = 0
    for process in range(len(recorded.ways)):
        for index, operation in recorded.journal.operations(process):
            by_key[index].append(operation)
            count += 1
            unanswered += operation.returned == FOREVER
    reports: list[list[str]] = []
    names = [way.name for way in recorded.ways]
    for key, operations in zip(recorded.keys, by_key, strict=True):
        title = f"History {recorded.number}, {recorded.place.name}, the key {key.name.decode()!r}"
        try:
            wrong: Wrong | None = judge(operations, vanishes=recorded.place.vanishes)
        except Undecided as reason:
            reports.append([f"{title}: undecided, {reason}"])
            continue
        if wrong is not None:
            reports.append([title, *lines(wrong, names)])
    return Found(count, unanswered, reports)


class Search:
    """All histories of one run, and what was found in them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.figures: dict[str, Figures] = {}
        self.checks: deque[tuple[Recorded, Child]] = deque()

    def run(self, places: Sequence[Place], histories: int, operations: int, kills: float, deadline: float) -> None:
        """Record and check histories, by turns at all places."""
        first = 0
        per_server = min(HISTORIES_PER_SERVER, -(-histories // len(places)))
        try:
            while first < histories and time.monotonic() < deadline:
                for place in places:
                    with server_of(place) as server:
                        for number in range(first, min(first + per_server, histories)):
                            if time.monotonic() >= deadline:
                                break
                            self.one(place, server, number, operations, kills)
                    first += per_server
            while self.checks:
                self.conclude()
        finally:
            for recorded, child in self.checks:
                child.kill()
                recorded.journal.close()

    def one(self, place: Place, server: ServerProcess, number: int, operations: int, kills: float) -> None:
        """Record a history, and begin to check it."""
        figures = self.figures.setdefault(place.name, Figures())
        figures.histories += 1
        # So many on average, and none in some.
        count = self.random.randrange(int(2 * kills) + 1) if kills else 0
        try:
            recorded = record(place, server, number, self.random.getrandbits(32), operations, count)
        except AssertionError as error:
            # A call that raised, or that did not return in time.
            title = f"History {number}, {place.name}"
            self.tell(figures, number, [[title, "forbidden: a process failed", *str(error).splitlines()]])
            return
        figures.kills += recorded.kills
        for process, way in enumerate(recorded.ways):
            figures.by_way[way.name] += recorded.journal.calls(process)
        while len(self.checks) >= CHECKS_AT_ONCE:
            self.conclude()
        self.checks.append((recorded, Child(check, recorded)))

    def conclude(self) -> None:
        """Wait for the oldest of the checks."""
        recorded, child = self.checks[0]
        found: Found = child.result(CHECK_TIMEOUT_S)
        self.checks.popleft()
        recorded.journal.close()
        figures = self.figures[recorded.place.name]
        figures.operations += found.operations
        figures.unanswered += found.unanswered
        self.tell(figures, recorded.number, found.reports)

    def tell(self, figures: Figures, number: int, reports: Sequence[Sequence[str]]) -> None:
        """Write down what was wrong in a history, and say where."""
        figures.wrong += len(reports)
        for index, report in enumerate(reports):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"history-{number}-{index}.txt"
            path.write_text("".join(f"{line}\n" for line in report))
            print(*report[:2], f"written to {path}", sep="\n  ", flush=True)


@contextmanager
def server_of(place: Place) -> Iterator[ServerProcess]:
    """A server named "default", with a folder of its own for its socket."""
    before = os.environ.get("RINGTABLE_DIR")
    with TemporaryDirectory(prefix="ringtable-") as folder:
        os.environ["RINGTABLE_DIR"] = folder
        try:
            # A machine that is busy must not get anybody expelled.
            arguments = ("--workers", "2", "--tcp", "localhost:0", "--slow-consumer-timeout", "60", *place.arguments)
            with ServerProcess(*arguments) as server:
                yield server
        finally:
            if before is None:
                del os.environ["RINGTABLE_DIR"]
            else:
                os.environ["RINGTABLE_DIR"] = before


def table_of(figures: dict[str, Figures]) -> Iterator[str]:
    """The figures as lines."""
    yield f"{'':26}{'histories':>10}{'operations':>12}{'kills':>8}{'unanswered':>12}{'wrong':>7}"
    for name, each in figures.items():
        yield f"{name:26}{each.histories:10,}{each.operations:12,}{each.kills:8,}{each.unanswered:12,}{each.wrong:7,}"
    total = total_of(figures)
    yield f"{'all':26}{total.histories:10,}{total.operations:12,}{total.kills:8,}{total.unanswered:12,}{total.wrong:7,}"
    yield ""
    for name, count in sorted(total.by_way.items()):
        yield f"{name:26}{count:22,}"


def total_of(figures: dict[str, Figures]) -> Figures:
    total = Figures()
    for each in figures.values():
        total.histories += each.histories
        total.operations += each.operations
        total.kills += each.kills
        total.unanswered += each.unanswered
        total.wrong += each.wrong
        total.by_way += each.by_way
    return total


app = cyclopts.App(name="proof.histories", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    histories: int = 120,
    operations: int = 10_000,
    kills: float = 2.0,
    place: tuple[str, ...] = (),
    seconds: float = math.inf,
    seed: int | None = None,
    folder: Path = Path("target/histories"),
    json_: program.JsonFile = None,
) -> int:
    """Record histories, and look for an order that explains each.

    Args:
        histories: How many of them.
        operations: Operations of each, at least.
        kills: Clients killed in a history, on average.
        place: A kind of table by name, instead of all; may be repeated.
        seconds: Stop after so long.
        seed: Repeat the random choices of another run.
        folder: For the histories that nothing explains.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    chosen = [each for each in PLACES if not place or each.name in place]
    if unknown := set(place) - {each.name for each in chosen}:
        print(f"there is no {', '.join(unknown)}: there are {'; '.join(each.name for each in PLACES)}", file=sys.stderr)
        return 2
    seed = program.begin(seed)
    search = Search(seed, folder)
    begin = time.monotonic()
    try:
        search.run(chosen, histories, operations, kills, begin + seconds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    took = time.monotonic() - begin
    for line in table_of(search.figures):
        print(line)
    total = total_of(search.figures)
    print(f"{total.operations:,} operations in {took:.0f} s; {total.wrong} wrong")
    if json_:
        places_done = {name: vars(each) for name, each in search.figures.items()}
        json_.write_text(json.dumps({"seed": seed, "seconds": took, **vars(total), "places": places_done}))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
