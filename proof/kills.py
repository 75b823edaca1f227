"""Kills, stops and interrupts clients, and kills servers, at random instants: `python -m proof.kills --help`.

**Clients** come in batches. Each notes what it is going to write, and what was acknowledged, in memory that outlives
it. It is killed at a random instant, or stopped first, and continued or not. When all of a batch are gone for the
server too, every key has a value that its writer had at least acknowledged, and at most intended; and it still has the
same one when the next batch is over. All values are whole. Honest clients work all the while, and neither fail nor wait
for long. In the end the server has everything back: lanes, seats, slots, leases, pins, memory, descriptors.

**Interrupted** clients get SIGINT, in calls of all kinds and beside a server that stands still every now and then. A
signal ends the call that it comes in, which raises `KeyboardInterrupt`, also while the server stands. The connection
goes on: no reply is taken for that of another call, nothing that was acknowledged is lost, and what was interrupted is
done or not when a later call of the same client is answered, and never afterwards.

**Servers** are killed while clients of all kinds write and read. Those that open a table anew get `ServerGone` and
nothing else; the next table is empty at first and never holds anything of an earlier one; views stay as they are; every
client ends. What those do that go on with the next server is done once, at one of them (`followers.py`).

A hang is a call that takes longer than 30 seconds: the program says whose it is, and where. What was found is printed
as lines that begin with `forbidden:`, and the exit status is 1.
"""

import json
import math
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from heapq import heapify, heappop
from pathlib import Path
from typing import cast

import cyclopts
import ringtable
from load import load
from ringtable import Table
from ringtable._bench import probe
from ringtable._cli.signals import interrupt_on_termination
from support import Child, Flag, ServerProcess, Successors, Way, freeze, memfds, wait_until

from proof import interrupted, program, victims
from proof.diary import Diary, Page
from proof.followers import PREFIX, follow
from proof.marks import Wrong, read
from proof.victims import ERA_KEY, KEYS, check, key_of

HANG_S = 30.0
"""No call takes as long unless something is broken."""

SETTLE_S = 10.0
"""For how long something may be on its way that is nobody's call."""

HEARD_S = 10.0
"""How long a signal may take to end the call that it comes in; a client looks for signals every tenth of a second."""

SLOW_CONSUMER_S = 0.5
"""For how long a client of a classic topology may keep the others waiting before it is sent away."""

SEATS = 8
"""Clients of a batch."""

HONEST = 3
HONEST_S_MAX = SLOW_CONSUMER_S + 3.0
"""The longest that an honest call may take, on a machine whose every core is busy."""

NOTICE_S = 1.0
LIFE_S_MAX = 0.1
JOINING_S_MAX = 0.01
SEGMENT_KILLS = 500
"""Kills after which another server is started, of the next topology."""

PRIVATE_GROWTH_MAX = 8 << 20
"""Bytes of private memory that a server may have more after a thousand clients than after the first."""

SERVER_LIFE_S_MAX = 0.15
NO_SERVER_S_MAX = 0.03
TOPOLOGIES = ("lanes", "shared", "sharded")


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    kills: int = 0
    stops: int = 0
    expelled: int = 0
    slots_quarantined: int = 0
    """Slots of shared rings whose owners were stopped or killed before they had filled them."""

    slots_recovered: int = 0
    interrupts: int = 0
    """Signals that came to an end of their own: each has ended the call that it came in, if there was one."""

    interrupted_during: dict[str, int] = field(default_factory=dict)
    """By the kind of call that they came in."""

    server_kills: int = 0
    reconnects: int = 0
    servers_followed: int = 0
    """Servers that followers have gone on to, all of them together."""

    calls_of_followers: int = 0
    seconds: float = 0.0
    client_seconds: float = 0.0
    interrupt_seconds: float = 0.0
    server_seconds: float = 0.0
    killed_during: dict[str, int] = field(default_factory=dict)
    """By the kind of call that they were in."""

    keys_checked: int = 0
    values_unacknowledged: int = 0
    """Keys whose last write was executed, but not acknowledged before the death."""

    calls_of_survivors: int = 0
    honest_longest_s: float = 0.0
    survivors_longest_s: float = 0.0
    forbidden: list[str] = field(default_factory=list)


ENDS = ("clients_gone", "clients_quit", "clients_ended_slow_consumer")
"""How a connection may come to its end here."""


class Forbidden(AssertionError):
    """What must not be, and was."""


# Clients


# Those that share memory come more often: there is more to go wrong.
WAYS = [
    Way("default", {}),
    Way("default", {"reads": "server"}),
    Way("default", {"writes": "posted"}),
    Way("default", {"transport": "socket"}),
    Way("default", {"transport": "socket", "writes": "posted"}),
]


class Figures:
    """What a server has, that has to be as before when all clients are gone."""

    NAMES = (
        "clients",
        "lanes",
        "ring_members",
        "watchers",
        "leases",
        "hazard_records",
        "holds",
        "entries_retired",
        "memory_retired",
        "memory_drafts",
        "memory_unfinished_requests",
        "memory_waiting_requests",
        "ring_slots_claimed",
        "ring_slots_published",
        "ring_slots_quarantined",
    )

    def __init__(self, table: Table, pid: int | None) -> None:
        self._table, self._pid = table, pid

    @property
    def is_ours(self) -> bool:
        """Whether nobody else uses the server."""
        return self._pid is not None

    def clients(self) -> int:
        return int(self._table.stats()["clients"])

    def held(self) -> dict[str, int]:
        """By name, what is to be the same."""
        figures = cast("dict[str, int]", self._table.stats())
        held = {name: int(figures[name]) for name in self.NAMES}
        if self._pid is not None:
            held["descriptors"] = len(os.listdir(f"/proc/{self._pid}/fd"))
            held["memfds"] = len(memfds(self._pid, "ringtable"))
            maps = Path(f"/proc/{self._pid}/maps").read_text()
            held["mappings"] = maps.count("memfd:ringtable")
        return held

    def private_bytes(self) -> int:
        """The server's memory that nobody shares with it."""
        if self._pid is None:
            return 0
        return probe.private_bytes(self._pid)


@dataclass(order=True)
class Act:
    """Something to do to a client at an instant."""

    at_s: float
    seat: int
    number: signal.Signals = field(compare=False)


class Batches:
    """Clients that are killed and stopped, some at a time.

    If others come and go in the same server, nobody can tell when it has noticed that all of a batch are gone: then it
    is given a second for that.
    """

    def __init__(self, table: Table, figures: Figures, ways: Sequence[Way], generator: random.Random) -> None:
        self._table, self._figures, self._ways, self._generator = table, figures, ways, generator
        self._diary = Diary(SEATS, KEYS)
        # Lives before, and what their keys had in the end: to be seen again when the next batch is over.
        # It begins anywhere, since others may do the same in this table.
        self._life = generator.getrandbits(32)
        self._stable: dict[bytes, bytes | None] = {}

    def run(self, kills: int, stops: int, found: Found) -> None:
        """Kill so many clients, and stop so many more, before they are killed or not."""
        batches: list[list[signal.Signals]] = []
        while kills + stops:
            # Stops come together, since they take long; but with some kills beside them.
            stopped = min(stops, SEATS // 2)
            killed = min(kills, SEATS - stopped)
            batches.append([signal.SIGKILL] * killed + [signal.SIGSTOP] * stopped)
            kills, stops = kills - killed, stops - stopped
        self._generator.shuffle(batches)
        for batch in batches:
            self._batch(batch, found)

    def finish(self) -> None:
        """Look at the keys of the last batch once more, and delete them."""
        self._see_again()

    def _batch(self, ends: Sequence[signal.Signals], found: Found) -> None:
        self._life += 1
        clients = self._figures.clients()
        acts = [act for seat, end in enumerate(ends) for act in self._fate(seat, end)]
        heapify(acts)
        with ExitStack() as stack:
            begin = time.monotonic()
            children: list[Child] = []
            for seat in range(len(ends)):
                self._diary.pages[seat].clear(self._life)
                seed = f"{self._generator.random()}"
                way = self._generator.choice(self._ways)
                child = Child(victims.live, self._diary, seat, seed, way, ends[seat] == signal.SIGKILL)
                children.append(stack.enter_context(child))
            while acts:
                act = heappop(acts)
                time.sleep(max(0.0, begin + act.at_s - time.monotonic()))
                self._act(act, children[act.seat], found)
            self._look_for_faults(children)
        found.kills += ends.count(signal.SIGKILL)
        found.stops += ends.count(signal.SIGSTOP)
        if self._figures.is_ours:
            _wait(lambda: self._figures.clients() <= clients, "the server has noticed that all of a batch are gone")
            _wait(lambda: not self._table.stats()["ring_slots_published"], "what they had published is executed")
        else:
            time.sleep(NOTICE_S)
        self._see_again()
        self._check(len(ends), found)

    def _fate(self, seat: int, end: signal.Signals) -> Iterator[Act]:
        """What is done to a client, and when."""
        uniform = self._generator.uniform
        at_s = uniform(0, JOINING_S_MAX if self._generator.random() < 0.2 else LIFE_S_MAX)
        if end == signal.SIGSTOP:
            yield Act(at_s, seat, signal.SIGSTOP)
            # Some stand for so long that the others do not wait for them.
            at_s += (
                uniform(SLOW_CONSUMER_S, 2.5 * SLOW_CONSUMER_S) if self._generator.random() < 0.2 else uniform(0, 0.05)
            )
            if self._generator.random() < 0.7:
                yield Act(at_s, seat, signal.SIGCONT)
                at_s += uniform(0, LIFE_S_MAX)
        yield Act(at_s, seat, signal.SIGKILL)

    def _act(self, act: Act, child: Child, found: Found) -> None:
        page = self._diary.pages[act.seat]
        if act.number == signal.SIGKILL:
            child.kill()
            found.killed_during[page.call] = found.killed_during.get(page.call, 0) + 1
        elif act.number == signal.SIGSTOP:
            freeze(child.pid)
        else:
            os.kill(child.pid, act.number)

    def _look_for_faults(self, children: Sequence[Child]) -> None:
        for page in self._diary.pages[: len(children)]:
            if page.fault:
                raise Forbidden(f"life {page.life}, in a call of kind '{page.call}': {page.fault}")

    def _check(self, seats: int, found: Found) -> None:
        """See what the batch has left behind."""
        names = [key_of(seat, self._life, index) for seat in range(seats) for index in range(KEYS)]
        values = dict(zip(names, self._table.get_many(names), strict=True))
        for seat, page in enumerate(self._diary.pages[:seats]):
            for index in range(KEYS):
                key = key_of(seat, self._life, index)
                acknowledged, intended = page.acknowledged(index), page.intended(index)
                lowest = max(acknowledged, page.published(index))
                number = check(index, key, values[key], lowest, intended)
                found.keys_checked += 1
                found.values_unacknowledged += number > acknowledged
            # From now on its keys are ours, and nobody else expects anything of them.
            page.clear(0)
        self._stable = values

    def _see_again(self) -> None:
        """See that nothing has changed since, and delete it all."""
        if not self._stable:
            return
        again = self._table.get_many(list(self._stable))
        for (key, value), now in zip(self._stable.items(), again, strict=True):
            if now != value:
                raise Wrong(
                    f"{key!r} has changed after its writer was gone: {_told(key, value)}, then {_told(key, now)}"
                )
        self._table.delete_many(list(self._stable))
        self._stable = {}


def _told(key: bytes, value: bytes | None) -> str:
    with suppress(Wrong):
        return "absent" if value is None else str(read(key, value))
    return repr(value)


def kill_clients(
    table: Table,
    pid: int | None,
    ways: Sequence[Way],
    kills: int,
    stops: int,
    generator: random.Random,
    found: Found,
    honest: int = HONEST,
) -> None:
    """Kill and stop so many clients of a server; then it has back what it had, if the process `pid` is the server's.

    Raises:
        AssertionError: Something was found.
    """
    figures = Figures(table, pid)
    batches = Batches(table, figures, ways, generator)
    # What the first clients make the server allocate, it keeps.
    warm = min(kills, 2 * SEATS)
    batches.run(warm, 0, found)
    batches.finish()
    before, private = _settled(figures) if figures.is_ours else {}, figures.private_bytes()
    with load(HONEST_S_MAX, honest, ways[0].address) as work:
        batches.run(kills - warm, stops, found)
        batches.finish()
    found.honest_longest_s = max(found.honest_longest_s, work.longest_s)
    if not figures.is_ours:
        return
    _wait(
        lambda: figures.held() == before, lambda: f"the server has what it had: {_difference(before, figures.held())}"
    )
    if (grown := figures.private_bytes() - private) > PRIVATE_GROWTH_MAX:
        raise Forbidden(f"the server's private memory has grown by {grown >> 10} KiB over {kills} clients")
    # Those that were sent away are counted as that, and not as gone, too; some are still here.
    after = cast("dict[str, int]", table.stats())
    found.expelled += int(after["clients_ended_slow_consumer"])
    found.slots_quarantined += int(after["ring_quarantines"])
    found.slots_recovered += int(after["ring_slots_recovered"])
    ends = {name: int(count) for name, count in after.items() if name in ENDS or name.startswith("clients_ended_")}
    if sum(ends.values()) != int(after["clients_accepted"]) - int(after["clients"]):
        raise Forbidden(f"of {after['clients_accepted']} clients {after['clients']} are here, and have ended: {ends}")
    if unexpected := [name for name, count in ends.items() if count and name not in ENDS]:
        raise Forbidden(f"clients have ended in ways that nobody gave reason for: {unexpected} of {ends}")
    # Each slot is back: the queue takes as much as ever.
    slots = max(1, int(table.stats()["ring_slots"]))
    with Table() as other:
        if other.call_many([("PING",)] * 3 * slots) != [b"PONG"] * 3 * slots:
            raise Forbidden("the queue of requests does not answer as it should")


def _settled(figures: Figures) -> dict[str, int]:
    """What the server holds, once that does not change any more."""
    seen: list[dict[str, int]] = []

    def is_settled() -> bool:
        seen.append(figures.held())
        time.sleep(0.1)
        return len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]

    _wait(is_settled, "the server is at rest")
    return seen[-1]


def _difference(before: dict[str, int], after: dict[str, int]) -> str:
    return ", ".join(f"{name} {before[name]} then {after[name]}" for name in before if before[name] != after[name])


def _wait(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    try:
        wait_until(condition, "", SETTLE_S)
    except AssertionError:
        raise Forbidden(f"not within {SETTLE_S} s: {what if isinstance(what, str) else what()}") from None


# Clients that are interrupted


def interrupt_clients(interrupts: int, generator: random.Random, found: Found, deadline: float = math.inf) -> None:
    """Interrupt clients of all topologies so many times, and look whether each hears of it and goes on in order.

    Raises:
        AssertionError: Something was found.
    """
    for segment, topology in enumerate(TOPOLOGIES):
        share = interrupts * (segment + 1) // len(TOPOLOGIES) - interrupts * segment // len(TOPOLOGIES)
        workers = generator.randint(1, 3)
        arguments = ["--workers", str(workers), "--topology", topology, "--slow-consumer-timeout", str(HANG_S)]
        arguments += ["--tcp", "127.0.0.1:0", "--max-memory", "256MiB"]
        with ServerProcess(*arguments) as server, Table(transport="socket", timeout=HANG_S) as table:
            tcp = Way(server.ready_line.split("tcp: ")[1].strip(), {})
            # Some share their table with threads that use it without a pause.
            clients = [(way, False) for way in [*WAYS, tcp]] + [(way, True) for way in (WAYS[0], WAYS[4])]
            _interrupt(server, table, clients, share, generator, found, deadline)


def _interrupt(
    server: ServerProcess,
    table: Table,
    clients: Sequence[tuple[Way, bool]],
    interrupts: int,
    generator: random.Random,
    found: Found,
    deadline: float,
) -> None:
    figures = Figures(table, server.pid)
    before = _settled(figures)
    diary = Diary(len(clients), KEYS)
    with ExitStack() as stack:
        children: list[Child] = []
        for number, (way, shares) in enumerate(clients):
            diary.pages[number].clear(number + 1)
            seed = f"{generator.random()}"
            child = Child(interrupted.be_interrupted, diary, number, seed, way, shares)
            children.append(stack.enter_context(child))
        _wait(lambda: all(page.calls or page.fault for page in diary.pages), "all clients are at work")
        for _ in range(interrupts):
            if time.monotonic() > deadline:
                break
            number = generator.randrange(len(children))
            stands = generator.random() < 0.4
            try:
                if stands:
                    # Whoever waits for it then can only be helped by the signal.
                    server.freeze()
                    time.sleep(generator.uniform(0, 0.03))
                else:
                    time.sleep(generator.uniform(0, 0.01))
                _send(diary.pages[number], number, children[number], found)
            finally:
                server.signal(signal.SIGCONT)
            _look_at(diary.pages, children)
        diary.finish()
        for child in children:
            # A process that waits for an event waits for others, who have ended.
            if not child.has_ended():
                os.kill(child.pid, signal.SIGINT)
        for child in children:
            child.result(HANG_S)
        _look_at(diary.pages, [])
    for number, page in enumerate(diary.pages):
        for index in range(KEYS):
            key = key_of(number, page.life, index)
            check(index, key, table.get(key), page.acknowledged(index), page.intended(index))
            found.keys_checked += 1
    _wait(
        lambda: figures.held() == before, lambda: f"the server has what it had: {_difference(before, figures.held())}"
    )


def _send(page: Page, number: int, child: Child, found: Found) -> None:
    """Interrupt a client, and wait until it has heard of it."""
    call, heard = page.call, page.heard
    os.kill(child.pid, signal.SIGINT)
    try:
        wait_until(lambda: page.heard > heard or page.fault or child.has_ended(), "", HEARD_S)
    except AssertionError:
        child.tell_where()
        raise Forbidden(
            f"client {number}, in a call of kind '{page.call}', has not heard of a signal for {HEARD_S:.0f} s"
        ) from None
    found.interrupts += 1
    found.interrupted_during[call] = found.interrupted_during.get(call, 0) + 1


# Servers


THREADS = 3
"""That share a table, in one of the clients."""


def kill_servers(kills: int, generator: random.Random, found: Found, deadline: float = math.inf) -> None:
    """Kill so many servers, one after the other, while clients of all kinds go on from one to the next.

    Raises:
        AssertionError: Something was found.
    """
    with Successors(tcp=True, slow_consumer_timeout=HANG_S) as servers, ExitStack() as stack:
        # Those that leave it open take what the next server has: a lane, or rings.
        clients = [(way, 1) for way in [*WAYS, Way(servers.address, {})]] + [(Way("default", {}), THREADS)]
        diary = Diary(sum(threads for _, threads in clients), KEYS)
        for number, page in enumerate(diary.pages):
            page.clear(number + 1)
        _announce(diary, 1)
        children: list[Child] = []
        following: list[Child] = []
        first = 0
        for way, threads in clients:
            seed = f"{generator.random()}"
            child = Child(victims.outlive, diary, first, seed, way, threads)
            children.append(stack.enter_context(child))
            first += threads
        finish = stack.enter_context(Flag())
        # What is posted is not answered, and so not known to be done.
        lasting = [way for way in WAYS if way.options.get("writes") != "posted"]
        for number, way in enumerate([*lasting, Way(servers.address, {}), Way("default", {"wait": HANG_S})]):
            arguments = (number, f"{generator.random()}", way.address, way.options, finish)
            following.append(stack.enter_context(Child(follow, *arguments)))
        _wait(lambda: all(page.calls for page in diary.pages), "all clients are at work")
        for _ in range(kills):
            if time.monotonic() > deadline:
                break
            # Some die as soon as they are up, while clients connect.
            time.sleep(generator.uniform(0, 0.01 if generator.random() < 0.2 else SERVER_LIFE_S_MAX))
            if generator.random() < 0.2:
                # So that calls wait for it when it dies.
                freeze(servers.pid)
                time.sleep(generator.uniform(0, 0.02))
            # First, since whatever is written from now on may not be seen any more.
            diary.era += 1
            servers.kill()
            if generator.random() < 0.5:
                time.sleep(generator.uniform(0, NO_SERVER_S_MAX))
            servers.start(topology=generator.choice(TOPOLOGIES), workers=generator.randint(1, 3))
            _announce(diary, diary.era)
            found.server_kills += 1
            _look_at(diary.pages, children)
        diary.finish()
        for child in children:
            child.result(HANG_S)
        _look_at(diary.pages, [])
        finish.set()
        for child in following:
            servers_met, calls = child.result(HANG_S)
            found.servers_followed += servers_met
            found.calls_of_followers += calls
        found.reconnects = sum(page.losses for page in diary.pages)
        found.calls_of_survivors = sum(page.calls for page in diary.pages)
        found.survivors_longest_s = max(page.longest_s for page in diary.pages)


def _announce(diary: Diary, era: int) -> None:
    """See that a new server holds nothing of an earlier one, and let it say which one it is."""
    diary.era = era
    with Table(transport="socket", timeout=HANG_S) as table:
        for key, value in table.items():
            if key.startswith(PREFIX):
                continue
            mark_era = era if b" key %d" % victims.COUNTER in key else read(key, value).era
            if mark_era not in (0, era):
                raise Wrong(f"{key!r} was written for server {mark_era}, and is found in server {era} when it starts")
        table[ERA_KEY] = b"%d" % era


def _look_at(pages: Sequence[Page], children: Sequence[Child]) -> None:
    """See that nobody has found anything, hangs, or has ended."""
    for number, page in enumerate(pages):
        if page.fault:
            raise Forbidden(f"client {number}, in a call of kind '{page.call}': {page.fault}")
        if page.since_s > HANG_S:
            for child in children:
                child.tell_where()
            raise Forbidden(f"client {number} hangs in a call of kind '{page.call}' for {page.since_s:.0f} s")
    for child in children:
        if child.has_ended():
            child.result()
            raise Forbidden("a client has ended by itself")


# The program


@contextmanager
def own_folder() -> Iterator[None]:
    """A folder of our own for the servers' sockets; what lies there in the end was left behind."""
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder:
        before = os.environ.get("RINGTABLE_DIR")
        os.environ["RINGTABLE_DIR"] = folder
        try:
            yield
            if left := os.listdir(folder):
                raise Forbidden(f"left behind: {left}")
        finally:
            os.environ.pop("RINGTABLE_DIR")
            if before is not None:
                os.environ["RINGTABLE_DIR"] = before


def run(
    kills: int,
    stops: int,
    interrupts: int,
    server_kills: int,
    generator: random.Random,
    found: Found,
    deadline: float,
) -> None:
    begin = time.monotonic()
    segments = max(len(TOPOLOGIES), -(-kills // SEGMENT_KILLS)) if kills + stops else 0
    for segment in range(segments):
        if time.monotonic() > deadline:
            break
        topology = TOPOLOGIES[segment % len(TOPOLOGIES)]
        workers, slots = generator.randint(1, 3), generator.choice((64, 64, 256, 2_048))
        arguments = ["--workers", str(workers), "--ring-slots", str(slots), "--tcp", "127.0.0.1:0"]
        arguments += ["--topology", topology, "--slow-consumer-timeout", str(SLOW_CONSUMER_S), "--max-memory", "128MiB"]
        # What is to be done, evenly over the segments.
        shares = [count * (segment + 1) // segments - count * segment // segments for count in (kills, stops)]
        with ServerProcess(*arguments) as server, Table(transport="socket", timeout=HANG_S) as table:
            tcp = server.ready_line.split("tcp: ")[1].strip()
            kill_clients(table, server.pid, [*WAYS, Way(tcp, {})], shares[0], shares[1], generator, found)
        print(
            f"{topology}, {workers} workers, {slots} slots: {found.kills} killed, {found.stops} stopped so far, "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )
    found.client_seconds = time.monotonic() - begin
    begin = time.monotonic()
    if interrupts:
        interrupt_clients(interrupts, generator, found, deadline)
    found.interrupt_seconds = time.monotonic() - begin
    begin = time.monotonic()
    if server_kills:
        kill_servers(server_kills, generator, found, deadline)
    found.server_seconds = time.monotonic() - begin


def run_at(address: str, kills: int, stops: int, generator: random.Random, found: Found, deadline: float) -> None:
    """Kill and stop clients of a server that others use, too."""
    ways = [Way(address, way.options) for way in WAYS]
    begin = time.monotonic()
    with Table(address, transport="socket", timeout=HANG_S) as table:
        while (left := kills - found.kills) + stops - found.stops > 0 and time.monotonic() < deadline:
            share = min(left, 5 * SEATS), min(stops - found.stops, SEATS)
            kill_clients(table, None, ways, *share, generator, found, honest=1)
    found.client_seconds = time.monotonic() - begin


app = cyclopts.App(name="proof.kills", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    kills: int = 500,
    stops: int = 50,
    interrupts: int = 240,
    server_kills: int = 100,
    address: str | None = None,
    seconds: float = math.inf,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Kill, stop and interrupt clients, then kill servers, and check what is left.

    Args:
        kills: Clients to kill.
        stops: Clients to stop, and then to continue or to kill.
        interrupts: Signals that interrupt clients.
        server_kills: Servers to kill.
        address: The socket of a running server: kill and stop its clients, and no server.
        seconds: Stop after so long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    # Whoever ends us ends what we have started.
    interrupt_on_termination()
    seed = program.begin(seed)
    found = Found(seed)
    begin = time.monotonic()
    try:
        with own_folder():
            if address:
                run_at(address, kills, stops, random.Random(seed), found, begin + seconds)
            else:
                run(kills, stops, interrupts, server_kills, random.Random(seed), found, begin + seconds)
    except (AssertionError, ringtable.Error) as error:
        found.forbidden.append(f"{type(error).__name__}: {error}")
    found.seconds = time.monotonic() - begin
    tell(found)
    if json_:
        json_.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 1 if found.forbidden else 0


def tell(found: Found) -> None:
    during = _by_call(found.killed_during)
    print(f"clients: {found.kills} killed, {found.stops} stopped, in {found.client_seconds:.0f} s; during: {during}")
    print(
        f"of these {found.expelled} were sent away; {found.slots_quarantined} slots of rings were quarantined, and "
        f"{found.slots_recovered} taken back from the dead"
    )
    print(f"{found.keys_checked} keys checked, of which {found.values_unacknowledged} had more than was acknowledged")
    print(f"the longest call of an honest client: {found.honest_longest_s:.3f} s")
    print(
        f"servers: {found.server_kills} killed in {found.server_seconds:.0f} s; {found.calls_of_survivors} calls, "
        f"{found.reconnects} times ServerGone, "
        f"the longest call {found.survivors_longest_s:.3f} s; "
        f"{found.servers_followed} times followed in {found.calls_of_followers:,} calls"
    )
    during = _by_call(found.interrupted_during)
    print(f"{found.interrupts} interrupts in {found.interrupt_seconds:.0f} s; during: {during}")
    for line in found.forbidden:
        print(f"forbidden: {line}")
    print(f"{'nothing' if not found.forbidden else 'something'} was found in {found.seconds:.0f} s, seed {found.seed}")


def _by_call(counts: dict[str, int]) -> str:
    return ", ".join(f"{call} {count}" for call, count in sorted(counts.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
