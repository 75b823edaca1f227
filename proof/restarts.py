"""Kills and upgrades servers that have a keeper, and their keepers, again and again, under processes that go on.

    python -m proof.restarts --help

Each process has a seat, and does one thing until it is told to stop. It notes what it does in memory that all share:

- **Counters** increment a number of all and one of their own.
- **Writers** write one of several values that say whose they are, and read it again: in place, and through the server.
- **Changers** read a number of all with its version, and write the next one if it still has that.
- **Owners** take a lock. Every now and then one of them is killed, too, mostly while it has the lock.
- **Readers** read in place what the others count, and ask for nothing.
- **Watchers** hear of each increment of all.

What must not be:

- An increment, or a change by version, that was acknowledged and is not there; or one that is there twice: the numbers
  are at least what was acknowledged, and at most that and what is in doubt.
- A value that was acknowledged and is gone, or is another one's.
- A lock that two have, or that is lost by the one that lives, or kept by one that is dead.
- A read in place that fails, or that goes back to what was before.
- An increment that a watcher does not hear of, without hearing that it has missed something; or hears of twice.
- A call that hangs; a process that ends; an error other than the word that a write may have been done.
- Something that a server found damaged when it took over from the one before.
"""

import mmap
import os
import random
import re
import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import cyclopts
import ringtable
from ringtable import ServerGone, Table
from ringtable._cli.signals import interrupt_on_termination
from ringtable._keeper.messages import UPGRADE
from support import Child, Flag, KeptServer, is_dead, wait_until

from proof import program
from proof.kills import own_folder
from proof.marks import Mark, Wrong, make, read

LIFE_S_MAX = 0.1
"""How long a server lives at most."""

TAKING_OVER_S_MAX = 0.02

UPGRADE_S_MAX = 0.2
"""How long after its order an upgrade is cut at most; most are done by then."""

HANG_S = 30.0
DEAD_S = 20.0
"""How long the kernel may take to be done with a process, and a server to hear of it."""

COUNT, END = b"count of all", b"count of all: the end"
KEYS = 20
"""Keys of a writer."""

VALUE_SIZES = (8, 200, 4_096, 70_000)


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    kills: int = 0
    killed_taking_over: int = 0
    """Of these, killed as they began, most of them before they served."""

    upgrades: int = 0
    upgrades_cut: int = 0
    """Of others, in which the server or its successor was killed."""

    keepers_killed: int = 0

    owners_killed: int = 0
    restart_ms_mean: float = 0.0
    """From the order to kill until the next server serves."""

    restart_ms_longest: float = 0.0
    increments_acknowledged: int = 0
    increments_in_doubt: int = 0
    changes_acknowledged: int = 0
    changes_in_doubt: int = 0
    values_written: int = 0
    values_in_doubt: int = 0
    locks_taken: int = 0
    events: int = 0
    events_missed: int = 0
    """What watchers were told that they have missed: for each kill one change, or more that were no increments."""

    reads: int = 0
    read_ms_longest: float = 0.0
    """In place; reads of those that do nothing else."""

    write_ms_longest: float = 0.0
    """Of an increment, which waits for the next server if need be."""

    seconds: float = 0.0
    forbidden: list[str] = field(default_factory=list)


class Notes:
    """Memory that all processes share, and that outlives them: some words for all, and some for each seat."""

    INSIDE, TOKEN, SEATS_FROM = 0, 1, 8
    ACKNOWLEDGED, IN_DOUBT, LONGEST_NS, IS_READY, SEAT_WORDS = 0, 1, 2, 3, 8

    def __init__(self, seats: int) -> None:
        self._memory = mmap.mmap(-1, 8 * (self.SEATS_FROM + seats * self.SEAT_WORDS))

    def __getitem__(self, word: int) -> int:
        return int(struct.unpack_from("<Q", self._memory, 8 * word)[0])

    def __setitem__(self, word: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * word, value)

    def seat(self, seat: int) -> "Seat":
        return Seat(self, self.SEATS_FROM + seat * self.SEAT_WORDS)


@dataclass
class Seat:
    """What one process notes."""

    notes: Notes
    at: int

    def add(self, word: int, count: int = 1) -> None:
        self.notes[self.at + word] += count

    def get(self, word: int) -> int:
        return self.notes[self.at + word]

    def timed(self, call: Callable[[], Any]) -> Any:
        """The result of a call, whose time is noted."""
        begin = time.monotonic_ns()
        try:
            return call()
        finally:
            longest = self.at + Notes.LONGEST_NS
            self.notes[longest] = max(self.notes[longest], time.monotonic_ns() - begin)

    def write(self, call: Callable[[], Any]) -> Any:
        """The result of a write, which is noted as acknowledged; `None` if it is in doubt, which is noted, too."""
        try:
            result = self.timed(call)
        except ServerGone:
            self.add(Notes.IN_DOUBT)
            return None
        self.add(Notes.ACKNOWLEDGED)
        return result


def count(seat: Seat, number: int, finish: Flag) -> None:
    """Increment a number of all and one of its own, in turns."""
    own, least, most = f"own {number}", 0, 0
    with Table(timeout=HANG_S) as table:
        while not finish.is_set():
            seat.write(lambda: table.incr(COUNT))
            # Nobody else writes this one: each answer says whether all before were done once.
            with suppress(ServerGone):
                most += 1
                value = table.incr(own)
                if not least < value <= most:
                    raise Wrong(f"{own!r} is {value}, and has to be above {least} and at most {most}")
                least = most = value
            if not least <= int(table.get(own, b"0")) <= most:
                raise Wrong(f"{own!r} is read as {table[own]!r}, and has to be from {least} to {most}")


def write(seat: Seat, number: int, seed: str, finish: Flag) -> None:
    """Write values, and read them again."""
    generator = random.Random(seed)
    # What each key may have; more than one while a write is in doubt.
    possible: dict[bytes, list[bytes | None]] = {b"value %d of %d" % (key, number): [None] for key in range(KEYS)}
    with Table(timeout=HANG_S) as table, Table(timeout=HANG_S, reads="server") as asking:
        writes = 0
        while not finish.is_set():
            key = generator.choice(list(possible))
            writes += 1
            value = None
            if generator.random() < 0.8:
                value = make(key, Mark(writes, 0, generator.choice(VALUE_SIZES)))
            is_known = seat.write(lambda: put(table, key, value)) is not None  # noqa: B023 at once
            possible[key] = [value] if is_known else [*possible[key], value]
            for reader in (table, asking):
                found = reader.get(key)
                if found not in possible[key]:
                    raise Wrong(f"{key!r} is {told(key, found)}, and may be {[told(key, it) for it in possible[key]]}")
                possible[key] = [found]
        for key, values in possible.items():
            if table.get(key) not in values:
                raise Wrong(f"in the end {key!r} is {told(key, table.get(key))}")


def put(table: Table, key: bytes, value: bytes | None) -> bool:
    """Write a value, or delete the key."""
    if value is None:
        table.delete(key)
    else:
        table[key] = value
    return True


def told(key: bytes, value: bytes | None) -> str:
    """A value, in short."""
    return "absent" if value is None else f"number {read(key, value).number}"


def change(seat: Seat, finish: Flag) -> None:
    """Read a number of all with its version, and write the next one if it still has that."""
    with Table(timeout=HANG_S) as table:
        while not finish.is_set():
            value, version = table.get_with_version("changed by all") or (b"0", 0)
            following = b"%d" % (int(value) + 1)
            try:
                done = table.set("changed by all", following, if_version=version)
            except ServerGone:
                seat.add(Notes.IN_DOUBT)
            else:
                seat.add(Notes.ACKNOWLEDGED, bool(done))


def own(seat: Seat, notes: Notes, seed: str, finish: Flag) -> None:
    """Take a lock, again and again, and see that nobody else has it."""
    generator = random.Random(seed)
    with Table(timeout=HANG_S) as table:
        while not finish.is_set():
            lock = table.lock("lock")
            if not lock.acquire(timeout=HANG_S):
                raise Wrong(f"nobody gets the lock; process {notes[Notes.INSIDE]} was the last to have it")
            token = lock.token
            assert token is not None
            if token <= notes[Notes.TOKEN]:
                raise Wrong(f"the lock's token is {token}, and that of an owner before was {notes[Notes.TOKEN]}")
            if before := notes[Notes.INSIDE]:
                # Its sockets are closed before it counts as dead.
                wait_until(lambda: is_dead(before), f"process {before}, which has the lock, too, has died", DEAD_S)
            notes[Notes.TOKEN], notes[Notes.INSIDE] = token, os.getpid()
            if generator.random() < 0.3:
                time.sleep(generator.random() * LIFE_S_MAX)
            if notes[Notes.INSIDE] != os.getpid():
                raise Wrong(f"process {notes[Notes.INSIDE]} has the lock, and process {os.getpid()} has it, too")
            notes[Notes.INSIDE] = 0
            try:
                lock.release()
            except ServerGone:
                seat.add(Notes.IN_DOUBT)
            seat.add(Notes.ACKNOWLEDGED)


def look(seat: Seat, finish: Flag) -> None:
    """Read in place what others count."""
    seen: dict[str | bytes, int] = {COUNT: 0, "changed by all": 0}
    with Table(timeout=HANG_S) as table:
        while not finish.is_set():
            for key, before in seen.items():
                value = int(seat.timed(lambda: table.get(key, b"0")))  # noqa: B023 at once
                if value < before:
                    raise Wrong(f"{key!r} was {before}, and is {value} then")
                seen[key] = value
                seat.add(Notes.ACKNOWLEDGED)


def watch(seat: Seat, finish: Flag) -> None:
    """Hear what others count, until the word that it is over; `finish` comes before that."""
    del finish
    version = 0
    with Table(timeout=HANG_S) as table, table.watch(COUNT, timeout=HANG_S) as events:
        seat.add(Notes.IS_READY)
        for event in events:
            if isinstance(event, ringtable.Lagged):
                seat.add(Notes.IN_DOUBT, event.count)
            elif event.key == END:
                return
            elif event.version <= version:
                raise Wrong(f"a watcher hears of version {event.version} behind {version}")
            else:
                version = event.version
                seat.add(Notes.ACKNOWLEDGED)


COUNTERS, WRITERS, CHANGERS, OWNERS, READERS = range(3), range(3, 5), range(5, 7), range(7, 10), range(10, 12)
WATCHERS = range(12, 14)


def run(kills: int, seconds: float, found: Found) -> None:
    """Kill so many servers, or for so long, and upgrade others.

    Raises:
        AssertionError: Something was found.
    """
    generator = random.Random(found.seed)
    notes = Notes(WATCHERS.stop)
    restarts_ms: list[float] = []
    deadline = time.monotonic() + seconds
    with KeptServer(max_deaths=10_000) as kept, Flag() as finish, ExitStack() as stack:

        def start(function: Callable[..., None], *arguments: Any) -> Child:
            return stack.enter_context(Child(function, *arguments, finish))

        def seat(number: int) -> Seat:
            return notes.seat(number)

        children = {number: start(watch, seat(number)) for number in WATCHERS}
        # They are to hear of all.
        wait_until(lambda: all(seat(number).get(Notes.IS_READY) for number in WATCHERS), "they watch", HANG_S)
        children |= {number: start(count, seat(number), number) for number in COUNTERS}
        children |= {number: start(write, seat(number), number, f"{generator.random()}") for number in WRITERS}
        children |= {number: start(change, seat(number)) for number in CHANGERS}
        children |= {number: start(own, seat(number), notes, f"{generator.random()}") for number in OWNERS}
        children |= {number: start(look, seat(number)) for number in READERS}
        everybody = range(WATCHERS.stop)
        control = stack.enter_context(Table(timeout=HANG_S))

        def server() -> int:
            return control.stats()["process_id"]

        def kill(process: int) -> None:
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: is_dead(process), "it is dead")

        def next_keeper(before: int) -> int:
            met: list[int] = []

            def is_met() -> bool:
                met.append(control.stats()["keeper_process_id"])
                return met[-1] not in (0, before)

            wait_until(is_met, "a server has another keeper", HANG_S)
            return met[-1]

        def follow(process: int) -> None:
            wait_until(lambda: server() != process, "another one follows", HANG_S)

        wait_until(lambda: all(seat(number).get(Notes.ACKNOWLEDGED) for number in everybody), "all are at work", HANG_S)
        while found.kills < kills and time.monotonic() < deadline:
            # Some die as soon as they serve.
            time.sleep(generator.uniform(0, LIFE_S_MAX / 10 if generator.random() < 0.2 else LIFE_S_MAX))
            if generator.random() < 0.1:
                owners = [number for number in OWNERS if children[number].pid == notes[Notes.INSIDE]] or OWNERS
                number = generator.choice(owners)
                children[number].check()
                os.kill(children[number].pid, signal.SIGKILL)
                found.owners_killed += 1
            else:
                number = -1
            before, way = server(), generator.random()
            if way < 0.4:
                if way < 0.3:
                    kept.signal(UPGRADE)
                if way < 0.15:
                    follow(before)
                    found.upgrades += 1
                elif way < 0.2 or way >= 0.3:
                    # In the middle of an upgrade, or of nothing.
                    time.sleep(generator.uniform(0, UPGRADE_S_MAX))
                    keeper = kept.pid
                    kill(keeper)
                    kept.pid = next_keeper(keeper)
                    found.keepers_killed += 1
                else:
                    time.sleep(generator.uniform(0, UPGRADE_S_MAX))
                    kill(generator.choice(kept.processes()))
                    found.upgrades_cut += 1
                wait_until(lambda: kept.processes() == [server()], "one server is left", HANG_S)
            else:
                begin = time.monotonic()
                kill(before)
                if way < 0.55:
                    # The next one as well, while it takes over.
                    wait_until(kept.processes, "the next one has begun")
                    time.sleep(generator.uniform(0, TAKING_OVER_S_MAX))
                    before = kept.processes()[0]
                    kill(before)
                    found.kills += 1
                    found.killed_taking_over += 1
                follow(before)
                restarts_ms.append(1_000 * (time.monotonic() - begin))
                found.kills += 1
            if number in OWNERS:
                children[number].kill()
                children[number] = start(own, seat(number), notes, f"{generator.random()}")
            for child in children.values():
                if child.has_ended():
                    child.result()
                    raise Wrong("a process has ended by itself")
        finish.set()
        for number in range(WATCHERS.start):
            children[number].result(2 * HANG_S)
        control[END] = b""
        for number in WATCHERS:
            children[number].result(2 * HANG_S)
        control.close()
        judge(notes, found)
        expected = re.compile(
            "ringtable: (the server has died .signal 9.: another one takes over|no upgrade: "
            "|the keeper of this server has died: its process is the next one)"
        )
        words = [line for line in kept.words.splitlines() if not expected.match(line)]
        if words:
            raise Wrong(f"the servers have said: {words}")
    if restarts_ms:
        found.restart_ms_mean = round(sum(restarts_ms) / len(restarts_ms), 1)
        found.restart_ms_longest = round(max(restarts_ms), 1)


def judge(notes: Notes, found: Found) -> None:
    """See what is left when all have gone."""

    def noted(seats: range, word: int) -> list[int]:
        return [notes.seat(seat).get(word) for seat in seats]

    found.increments_acknowledged = sum(noted(COUNTERS, Notes.ACKNOWLEDGED))
    found.increments_in_doubt = sum(noted(COUNTERS, Notes.IN_DOUBT))
    found.changes_acknowledged = sum(noted(CHANGERS, Notes.ACKNOWLEDGED))
    found.changes_in_doubt = sum(noted(CHANGERS, Notes.IN_DOUBT))
    found.values_written = sum(noted(WRITERS, Notes.ACKNOWLEDGED))
    found.values_in_doubt = sum(noted(WRITERS, Notes.IN_DOUBT))
    found.locks_taken = sum(noted(OWNERS, Notes.ACKNOWLEDGED))
    found.events = sum(noted(WATCHERS, Notes.ACKNOWLEDGED))
    found.events_missed = sum(noted(WATCHERS, Notes.IN_DOUBT))
    found.reads = sum(noted(READERS, Notes.ACKNOWLEDGED))
    found.read_ms_longest = round(max(noted(READERS, Notes.LONGEST_NS)) / 1e6, 1)
    found.write_ms_longest = round(max(noted(COUNTERS, Notes.LONGEST_NS)) / 1e6, 1)
    with Table(timeout=HANG_S) as table:
        for key, acknowledged, in_doubt in (
            (COUNT, found.increments_acknowledged, found.increments_in_doubt),
            ("changed by all", found.changes_acknowledged, found.changes_in_doubt),
        ):
            if not acknowledged <= int(table.get(key, b"0")) <= acknowledged + in_doubt:
                raise Wrong(f"{key!r} is {table.get(key)!r}: {acknowledged} acknowledged, {in_doubt} in doubt")
        increments = int(table.get(COUNT, b"0"))
        for heard, missed in zip(noted(WATCHERS, Notes.ACKNOWLEDGED), noted(WATCHERS, Notes.IN_DOUBT), strict=True):
            if not heard <= increments <= heard + missed:
                raise Wrong(
                    f"a watcher has heard of {heard} of {increments} increments, and has missed {missed} events"
                )
        wait_until(lambda: table.stats()["locks"] == 0, "nobody has a lock when all are gone", DEAD_S)
        wait_until(lambda: table.stats()["lease_waiters"] == 0, "nobody waits when all are gone", DEAD_S)
        wait_until(lambda: table.stats()["clients"] == 1, "no client is left when all are gone", DEAD_S)
        # An upgrade that was cut may have been done before, and one of both may have been the server; or its keeper was
        # killed, behind which another server follows in any case.
        least, restarts = found.kills + found.upgrades + found.keepers_killed, table.stats()["restarts"]
        if not least <= restarts <= least + 2 * found.upgrades_cut + found.keepers_killed:
            raise Wrong(
                f"{found.kills} servers were killed, {found.upgrades} upgraded, {found.keepers_killed} keepers killed,"
                f" and {restarts} have followed"
            )


app = cyclopts.App(name="python -m proof.restarts", help=__doc__, version_flags=[])


@app.default
def main(*, kills: int = 200, seconds: float = 30.0, seed: int | None = None, json_: program.JsonFile = None) -> int:
    """Kill and upgrade servers that have a keeper, and see that their clients do not notice.

    Args:
        kills: Servers to kill.
        seconds: Stop after so long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    found = Found(program.begin(seed))

    def work() -> None:
        with own_folder():
            run(kills, seconds, found)

    return program.run(work, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
