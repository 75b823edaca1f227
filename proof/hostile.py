"""A hostile client beside honest ones: `python -m proof.hostile --help`.

The hostile client joins as any client does, and then attacks by all strategies in turns (`proof/attacks/`). Beside it
eight honest clients, over all transports, check every answer, and how long it takes (`proof/honest.py`). Meanwhile
the server must not crash, nor say anything on its standard error, and its private memory, descriptors and threads have
to stay within what docs/reliability.md says. Afterwards nothing of the hostile client may be left.

There are four worlds, each with a server of its own: a table with lanes that is never full (`store`), one that evicts
(`cache`), and the classic topologies (`shared`, `sharded`). In those, clients that share rings have to trust each
other. So what is shown there is less: those that use sockets, and those that read in place, notice nothing; calls over
the rings end, with an answer or with an error; and the server and the table are none the worse for it.

Latencies are compared in slices of the same run that take turns: nobody else there (quiet), harmless processes that
take as much of the processors as the hostile one did before, and as much at a time (neighbour), and the hostile one.
"""

import json
import mmap
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import cyclopts
from ringtable import Table
from ringtable._bench.probe import private_bytes
from ringtable._cli.signals import interrupt_on_termination
from support import DEADLINE_S, Child, wait_until

from proof import program
from proof.attacks import RING_STRATEGIES, STRATEGIES
from proof.attacks.target import Strategy, Target
from proof.honest import LANE_ROLES, LEAVE, PHASES, RING_ROLES, WAIT, Honest, Latencies, Report, Role

MIB = 1 << 20
QUIET, NEIGHBOUR, HOSTILE = range(len(PHASES))
TURN_S = 0.25
"""For how long the hostile client keeps to a strategy before it goes on to the next one."""

SLICE_S = 1.0
WATCHED_EVERY_S = 0.05
CLIENTS_MAX = 64
NEIGHBOURS = 2
TAKEN_MAX = 512
TIMES_MAX = 3.0
"""How many times the 99.9th percentile of the quiet slices that of the hostile ones may be."""

World = Literal["store", "cache", "shared", "sharded"]
WORLDS: dict[World, tuple[str, ...]] = {
    "store": ("--topology", "lanes"),
    "cache": ("--topology", "lanes", "--cache"),
    "shared": ("--topology", "shared"),
    "sharded": ("--topology", "sharded"),
}
MAX_MEMORY = 256 * MIB

ATTACKS_A_MINUTE: dict[str, int] = {
    "positions": 5_086,
    "records": 11_796,
    "races": 804,
    "noise": 4_462,
    "pins": 19_846,
    "hints": 29_495,
    "waiting flags": 26_227,
    "doorbell": 478_098,
    "malformed": 45_036,
    "foreign": 15_000,
    "extremes": 12_860,
    "collisions": 138,
    "unread": 26_300,
    "ahead": 1_451,
    "drafts": 22_676,
    "unfinished": 4_815,
    "leases": 578_034,
    "watches": 1_422_008,
    "handshake": 2_139,
    "crowd": 14_835,
    "single": 1_610,
    "wills": 7_917,
    "sealing": 162_583,
    "unsealed": 9_181,
    "pages": 1_172,
    "waiters": 152,
    "passing": 169,
    "stamps": 1_072_293,
    "tails": 1_184_273,
    "cursors": 2_279_576,
    "slots": 2_158_738,
    "laps": 542,
    "ring noise": 226_436,
}
"""What one hostile client makes of each strategy in a minute that it shares out evenly among those of its world, alone
with a server: `--measure` has measured it."""


def strategies_of(world: World) -> dict[str, Strategy]:
    if world in ("shared", "sharded"):
        return {**RING_STRATEGIES, "malformed": STRATEGIES["malformed"], "handshake": STRATEGIES["handshake"]}
    return STRATEGIES


def shares_of(strategies: dict[str, Strategy], minutes: float, attacks: int | None) -> dict[str, int]:
    """What one hostile client makes of each strategy in so many minutes, or so many attacks in the same proportions."""
    rates = {name: ATTACKS_A_MINUTE[name] for name in strategies}
    if attacks is not None:
        minutes = attacks / sum(rates.values())
    return {name: max(1, round(minutes * rate)) for name, rate in rates.items()}


class Shared:
    """What all processes of a run see: the phase, and how many attacks were made of each strategy."""

    def __init__(self) -> None:
        self.phase = mmap.mmap(-1, mmap.PAGESIZE)
        self._counts = mmap.mmap(-1, mmap.PAGESIZE)
        self.phase[0] = WAIT

    def count(self, index: int) -> None:
        struct.pack_into("<Q", self._counts, 8 * index, self.counted(index) + 1)

    def counted(self, index: int) -> int:
        return int(struct.unpack_from("<Q", self._counts, 8 * index)[0])

    # Who is at it, so that a slice begins when the one before has ended.

    def set_busy(self, index: int, busy: bool) -> None:
        self.phase[64 + index] = busy

    def is_busy(self) -> bool:
        return any(self.phase[64:128])

    # How much of the processors the hostile clients took in each moment of the last while.

    def take(self, share: float) -> None:
        taken = [*self.taken(), share][-TAKEN_MAX:]
        struct.pack_into(f"<Q{len(taken)}f", self.phase, 1_024, len(taken), *taken)

    def taken(self) -> tuple[float, ...]:
        (count,) = struct.unpack_from("<Q", self.phase, 1_024)
        return struct.unpack_from(f"<{count}f", self.phase, 1_032)

    def close(self) -> None:
        self.phase.close()
        self._counts.close()


# The hostile process


def run_when_idle() -> None:
    """Have only the processor time that nobody else wants."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def attack(
    target: Target,
    chosen: dict[str, Strategy],
    wanted: dict[str, int],
    seed: int,
    shared: Shared,
    number: int,
    rates: dict[str, float],
    idle: bool,
) -> dict[str, int]:
    """Attack in each hostile phase, until so many attacks were made of each strategy. Returns what went wrong, counted.

    `rates` are how many attacks a second are made of each at most, in its turns; 0 for as many as can be.
    """
    if idle:
        run_when_idle()
    generator = random.Random(seed)
    errors: dict[str, int] = {}
    names = list(chosen)
    first_turn = number
    while (phase := shared.phase[0]) != LEAVE:
        if phase != HOSTILE:
            shared.set_busy(number, False)
            time.sleep(0.001)
            continue
        shared.set_busy(number, True)
        left = [index for index, name in enumerate(names) if shared.counted(index) < wanted[name]]
        if not left:
            shared.set_busy(number, False)
            time.sleep(0.001)
            continue
        index = left[first_turn % len(left)]
        first_turn += 1
        name = names[index]
        rate = rates[name]
        attacks = chosen[name](target, generator)
        began = time.monotonic()
        made = 0
        try:
            while (
                (now := time.monotonic()) - began < TURN_S
                and shared.phase[0] == HOSTILE
                and shared.counted(index) < wanted[name]
            ):
                if rate and made > rate * (now - began):
                    time.sleep(0.001)
                    continue
                try:
                    next(attacks)
                except (OSError, EOFError) as error:
                    # The server has ended a connection in the middle of an attack, or has no room for another one.
                    errors[f"{name}: {type(error).__name__}"] = errors.get(f"{name}: {type(error).__name__}", 0) + 1
                    attacks.close()
                    attacks = chosen[name](target, generator)
                    time.sleep(0.0005)
                made += 1
                shared.count(index)
        finally:
            attacks.close()
    shared.set_busy(number, False)
    return errors


def be_a_neighbour(shared: Shared, number: int, idle: bool) -> None:
    """Take as much of the processors as the hostile clients did before, and as much at a time, but do nothing with it.

    Of two neighbours the second one takes what is more than one processor.
    """
    if idle:
        run_when_idle()
    turn = 0
    while (phase := shared.phase[0]) != LEAVE:
        taken = shared.taken()
        if phase != NEIGHBOUR or not taken:
            time.sleep(0.001)
            continue
        share = min(1.0, max(0.0, taken[turn % len(taken)] - number))
        turn += 1
        began = time.monotonic()
        while time.monotonic() - began < share * WATCHED_EVERY_S:
            pass
        time.sleep(max(0.0, WATCHED_EVERY_S - (time.monotonic() - began)))


# The server


@dataclass
class Bounds:
    """What the server may take, and what it has taken at most."""

    pid: int
    private_max: int
    descriptors_max: int
    threads: int
    private_at_first: int
    private_peak: int = 0
    descriptors_peak: int = 0

    @classmethod
    def of(cls, pid: int, stats: Mapping[str, object]) -> "Bounds":
        private, clients = private_bytes(pid), int(str(stats["clients_max"])) + 16
        # Requests that came in part, and those that wait, of all clients together; and for each client what it has of
        # them in buffers that are not counted, its replies, and its bookkeeping.
        max_memory = int(str(stats["max_memory"]))
        unfinished = max(max_memory, 2 * (512 * MIB + 70_000))
        waiting = max(max_memory // 8, 64 * MIB)
        for_each = 4 * MIB
        return cls(
            pid=pid,
            private_max=private + unfinished + waiting + clients * for_each,
            descriptors_max=descriptors_of(pid) + 5 * clients,
            threads=threads_of(pid),
            private_at_first=private,
        )

    def look(self) -> None:
        """Check that all is within bounds.

        Raises:
            AssertionError: Something is not, or the server is no more.
        """
        try:
            private, descriptors, threads = private_bytes(self.pid), descriptors_of(self.pid), threads_of(self.pid)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise AssertionError("forbidden: the server has ended") from error
        self.private_peak = max(self.private_peak, private)
        self.descriptors_peak = max(self.descriptors_peak, descriptors)
        assert private <= self.private_max, (
            f"forbidden: the server has {private} bytes of private memory, more than {self.private_max}"
        )
        assert descriptors <= self.descriptors_max, (
            f"forbidden: the server has {descriptors} descriptors, more than {self.descriptors_max}"
        )
        # On kernels that let descriptors through, up to 16 threads let go of what was passed.
        assert 0 <= threads - self.threads <= 16, f"forbidden: the server has {threads} threads, and had {self.threads}"


def status_of(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")


def threads_of(pid: int) -> int:
    return status_of(pid, "Threads")


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    # The clock of another process, as `clock_getcpuclockid` has it: /proc tells in steps of 10 ms only.
    return time.clock_gettime(~pid << 3 | 2)


@dataclass
class Running:
    """A server that is to be attacked."""

    target: Target
    pid: int
    ours: bool = True
    """Whether nobody else uses it."""


@contextmanager
def own_server(world: World) -> Iterator[Running]:
    """A server as a process of its own, which must have said nothing when it ends."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        errors = Path(folder) / "errors"
        try:
            with errors.open("wb") as said, server_in(Path(folder), world, said) as running:
                yield running
        finally:
            words = errors.read_text()
            assert not words, f"forbidden: the server has said: {words}"


@contextmanager
def server_in(folder: Path, world: World, said: IO[bytes]) -> Iterator[Running]:
    path = folder / "hostile.sock"
    arguments = ["--name", str(path), "--workers", "2", "--max-memory", str(MAX_MEMORY), "--tcp", "127.0.0.1:0"]
    arguments += ["--max-clients", str(CLIENTS_MAX), *WORLDS[world], "--slow-consumer-timeout", "0.5"]
    command = [sys.executable, "-m", "ringtable", "server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "ready" in line, f"the server does not start: {line!r}"
            host, _, port = line.rpartition("tcp://")[2].strip().rpartition(":")
            yield Running(Target(str(path), (host, int(port))), process.pid)
            assert process.poll() is None, "forbidden: the server has ended"
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def server_at(address: str) -> Iterator[Running]:
    """A server that runs already."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    yield Running(Target(address), pid, ours=False)


# A run


@dataclass
class Outcome:
    """What came of a run in one world."""

    world: str
    attacks: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    honest: list[Report] = field(default_factory=list)
    hostile_s: float = 0.0
    hostile_cpu: float = 0.0
    server_cpu: dict[str, float] = field(default_factory=dict)
    bounds: Bounds | None = None
    ends: dict[str, int] = field(default_factory=dict)
    """Connections that have ended, by reason."""

    def roles(self) -> list[str]:
        """Of the honest clients that may not fail."""
        return sorted({report.role for report in self.honest if not report.role.startswith("rings, asking")})

    def latencies(self, phase: int, role: str | None = None) -> Latencies:
        """Of all honest clients that may not fail, or of one role's."""
        found = Latencies()
        roles = [role] if role else self.roles()
        for report in self.honest:
            if report.role in roles:
                found.add(report.latencies[phase])
        return found

    def times(self, share: float = 99.9, phase: int = HOSTILE, role: str | None = None) -> float | None:
        """How many times a percentile of the quiet slices another phase's is."""
        quiet, other = self.latencies(QUIET, role), self.latencies(phase, role)
        if not quiet.calls or not other.calls:
            return None
        return other.percentile(share) / quiet.percentile(share)


@dataclass(frozen=True)
class Plan:
    """How to run."""

    world: World
    wanted: dict[str, int]
    """Attacks by strategy."""

    seed: int
    seconds: float | None = None
    attackers: int = 1
    pace: float = 0.0
    rate: float = 250.0
    idle: bool = False
    slices: tuple[float, float, float] = (SLICE_S, SLICE_S, SLICE_S)
    """Seconds of each phase, in turns; 0 leaves one out."""

    honest: int | None = None
    """How many honest clients, if not all."""

    unfinished_max: int = 2 << 30


def run(plan: Plan, running: Running, outcome: Outcome) -> None:
    """Attack a server, and check all the while that nobody is the worse for it.

    Raises:
        AssertionError: Somebody is.
    """
    target = Target(running.target.path, running.target.tcp, plan.unfinished_max)
    strategies = {name: strategies_of(plan.world)[name] for name in plan.wanted}
    # In a minute all strategies of a world have had their turns.
    turns = len(strategies_of(plan.world))
    rates = {name: plan.pace * ATTACKS_A_MINUTE[name] / 60 * turns for name in strategies}
    all_roles = RING_ROLES if plan.world in ("shared", "sharded") else LANE_ROLES
    roles = [role for role in all_roles if target.tcp or "tcp" not in role.options][: plan.honest]
    with Table(target.path, timeout=DEADLINE_S, transport="socket") as observer, ExitStack() as stack:
        shared = Shared()
        stack.callback(shared.close)
        honest = start_honest(plan, roles, target, shared, stack)
        hostile = [
            stack.enter_context(
                Child(attack, target, strategies, plan.wanted, plan.seed + number, shared, number, rates, plan.idle)
            )
            for number in range(plan.attackers)
        ]
        neighbours = [
            stack.enter_context(Child(be_a_neighbour, shared, number, plan.idle)) for number in range(NEIGHBOURS)
        ]
        # All are there before anything is counted.
        time.sleep(0.2)
        outcome.bounds = bounds = Bounds.of(running.pid, observer.stats())
        take_turns(plan, shared, [child.pid for child in hostile], outcome, bounds, [*honest, *hostile])
        shared.phase[0] = LEAVE
        for child in hostile:
            for name, count in child.result().items():
                outcome.errors[name] = outcome.errors.get(name, 0) + count
        for child in neighbours:
            child.result()
        outcome.honest = [child.result() for child in honest]
        outcome.attacks = {name: shared.counted(index) for index, name in enumerate(strategies)}
        outcome.ends = {
            name: int(count)
            for name, count in cast("dict[str, int]", observer.stats()).items()
            if "clients_ended_" in name and int(count)
        }
        if running.ours:
            check_what_is_left(observer, bounds)


def start_honest(plan: Plan, roles: list[Role], target: Target, shared: Shared, stack: ExitStack) -> list[Child]:
    writers = [number for number, role in enumerate(roles) if role.writes and not role.may_fail]
    host, port = target.tcp or ("", 0)
    found = []
    for number, role in enumerate(roles):
        client = Honest(number, role, target.path, f"tcp://{host}:{port}", shared.phase, plan.seed)
        found.append(stack.enter_context(Child(client.work, plan.rate, writers, plan.world == "cache")))
    return found


def take_turns(
    plan: Plan, shared: Shared, hostile: list[int], outcome: Outcome, bounds: Bounds, children: list[Child]
) -> None:
    """Let the phases take turns until all attacks are made, or time is over."""
    began = time.monotonic()

    def is_done() -> bool:
        return all(shared.counted(index) >= wanted for index, wanted in enumerate(plan.wanted.values()))

    while not is_done() and (plan.seconds is None or time.monotonic() - began < plan.seconds):
        # The hostile one goes first, so that the neighbour knows what to take.
        for phase in (HOSTILE, NEIGHBOUR, QUIET):
            length = plan.slices[phase]
            if not length:
                continue
            cpu_before, server_before = sum(map(cpu_s, hostile)), cpu_s(bounds.pid)
            slice_began = time.monotonic()
            shared.phase[0] = phase
            looked, looked_cpu = slice_began, cpu_before
            while time.monotonic() - slice_began < length and not (phase == HOSTILE and is_done()):
                time.sleep(WATCHED_EVERY_S)
                if phase == HOSTILE:
                    now, now_cpu = time.monotonic(), sum(map(cpu_s, hostile))
                    shared.take((now_cpu - looked_cpu) / (now - looked))
                    looked, looked_cpu = now, now_cpu
                bounds.look()
                for child in children:
                    child.check()
            took = time.monotonic() - slice_began
            name = PHASES[phase]
            outcome.server_cpu[name] = outcome.server_cpu.get(name, 0.0) + cpu_s(bounds.pid) - server_before
            if phase == HOSTILE:
                outcome.hostile_s += took
                outcome.hostile_cpu += sum(map(cpu_s, hostile)) - cpu_before
            shared.phase[0] = WAIT

            def is_at_rest() -> bool:
                for child in children:
                    child.check()
                return not shared.is_busy()

            wait_until(is_at_rest, "forbidden: the hostile client waits for the server")
            # What it leaves behind is its doing, too: the server has a moment to clear it away.
            time.sleep(0.02)


def check_what_is_left(observer: Table, bounds: Bounds) -> None:
    """All that the hostile client had is given back, and the server's memory is about what it was."""
    names = (
        "memory_unfinished_requests",
        "memory_waiting_requests",
        "memory_drafts",
        "leases",
        "watchers",
        "hazard_records",
        "lanes",
    )

    def left() -> dict[str, int]:
        now = cast("dict[str, int]", observer.stats())
        found = {name: int(now[name]) for name in names if now[name]}
        if int(now["clients"]) > 1:
            found["clients"] = int(now["clients"])
        return found

    wait_until(lambda: not left(), f"forbidden: something of clients that have gone is left: {left()}", DEADLINE_S)
    # Of what was freed the allocator keeps some, for each thread.
    allowed = bounds.private_at_first + 192 * MIB
    wait_until(
        lambda: private_bytes(bounds.pid) <= allowed,
        f"forbidden: the server keeps {private_bytes(bounds.pid)} bytes of private memory, more than {allowed}",
    )

    # Of the table all is given back that nobody uses, also what clients have only read.
    def excess() -> int:
        now = observer.stats()
        return int(now["memory_resident"]) + int(now["memory_free"]) - int(now["max_memory"])

    wait_until(lambda: excess() <= 2 * MIB, f"forbidden: of free memory {excess()} bytes are resident", DEADLINE_S)


# The program


app = cyclopts.App(name="proof.hostile", help=__doc__, version_flags=[])


@app.default
def hostile(
    *,
    world: tuple[World, ...] = (),
    strategy: tuple[str, ...] = (),
    minutes: float = 0.25,
    attacks: int | None = None,
    seconds: float | None = None,
    attackers: int = 1,
    pace: float = 0.0,
    rate: float = 250.0,
    idle: bool = False,
    slices: tuple[float, float, float] = (SLICE_S, SLICE_S, SLICE_S),
    measure: bool = False,
    seed: int | None = None,
    address: str | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Attack a server beside honest clients.

    Args:
        world: store, cache, shared or sharded, instead of all; may be repeated.
        strategy: A strategy by name, instead of all; may be repeated.
        minutes: As many attacks in each world as one hostile client makes in so many minutes by itself; 60 is an hour's
            worth of it, however long that takes here.
        attacks: The same as a number: so many attacks in each world.
        seconds: Stop each world after so long, even if not all attacks were made.
        attackers: Hostile processes.
        pace: The most attacks for a hostile process, in terms of what one makes by itself; 0 for no limit.
        rate: Calls a second of each honest client; 0 for as many as it can.
        idle: The hostile client and the neighbour have only the processor time that nobody else wants, so that what
            the hostile one costs the others is the server's work for it.
        slices: Seconds of the quiet, the neighbour's and the hostile slices, which take turns; 0 leaves one out.
        measure: Only measure how many attacks one hostile client makes in a minute by itself.
        seed: Repeat the random choices of another run.
        address: The socket of a running server, with lanes, instead of servers of its own.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    seed = program.begin(seed)
    worlds = world or (("store",) if address else tuple(WORLDS))
    outcomes: list[Outcome] = []
    found: list[str] = []
    try:
        for name in worlds:
            known = strategies_of(name)
            chosen = {each: known[each] for each in known if not strategy or each in strategy}
            if not chosen:
                continue
            outcome = Outcome(name)
            outcomes.append(outcome)
            if measure:
                wanted, plan_slices, honest = dict.fromkeys(chosen, 1 << 60), (0.0, 0.0, 60.0), 0
                limit: float | None = 60.0 if seconds is None else seconds
            else:
                wanted = shares_of(chosen, minutes, attacks)
                plan_slices, honest, limit = slices, None, seconds
            plan = Plan(name, wanted, seed, limit, attackers, pace, rate, idle, plan_slices, honest)
            try:
                with server_at(address) if address else own_server(name) as running:
                    run(plan, running, outcome)
            except AssertionError as error:
                found.append(f"{name}: {error}")
            report(outcome)
    except KeyboardInterrupt:
        print("stopped")
        return 130
    for words in found:
        print(words if "forbidden:" in words else f"forbidden: {words}")
    if json_:
        json_.write_text(json.dumps({"seed": seed, "found": found, "worlds": [figures(each) for each in outcomes]}))
    return 1 if found else 0


def figures(outcome: Outcome) -> dict[str, Any]:
    """As JSON takes them."""
    latencies = {
        PHASES[phase]: {str(share): outcome.latencies(phase).percentile(share) for share in (50, 99, 99.9, 100)}
        for phase in range(len(PHASES))
    }
    bounds = outcome.bounds
    return {
        "world": outcome.world,
        "attacks": outcome.attacks,
        "hostile_s": outcome.hostile_s,
        "hostile_cpu_s": outcome.hostile_cpu,
        "server_cpu_s": outcome.server_cpu,
        "errors": outcome.errors,
        "ends": outcome.ends,
        "reads": sum(each.reads for each in outcome.honest),
        "failures": {each.role: each.failures for each in outcome.honest if each.failures},
        "latencies_us": latencies,
        "times_p999": outcome.times(),
        "times_p999_of_role": {role: outcome.times(role=role) for role in outcome.roles()},
        "private_peak": bounds.private_peak if bounds else None,
        "private_at_first": bounds.private_at_first if bounds else None,
        "descriptors_peak": bounds.descriptors_peak if bounds else None,
    }


def report(outcome: Outcome) -> None:
    """Print what came of a world."""
    if not outcome.honest and outcome.hostile_s:
        # As `ATTACKS_A_MINUTE` has them.
        for name, count in outcome.attacks.items():
            print(f'    "{name}": {round(count * 60 / outcome.hostile_s):_},')
        return
    print(f"\n{outcome.world}: {sum(outcome.attacks.values())} attacks in {outcome.hostile_s:.1f} s of hostile slices")
    for name, count in outcome.attacks.items():
        print(f"  {name:<16}{count:>12,}")
    if outcome.errors:
        print(f"  ended by the server meanwhile: {sum(outcome.errors.values()):,} ({outcome.errors})")
    if outcome.ends:
        print(f"  connections ended, by reason: {outcome.ends}")
    if bounds := outcome.bounds:
        print(
            f"  private memory of the server: {bounds.private_at_first / MIB:.1f} MiB at first,"
            f" {bounds.private_peak / MIB:.1f} MiB at most (bound {bounds.private_max / MIB:.0f});"
            f" descriptors at most {bounds.descriptors_peak} (bound {bounds.descriptors_max})"
        )
    if not outcome.honest:
        return
    cpu = {name: round(value, 1) for name, value in outcome.server_cpu.items()}
    print(f"  CPU seconds: hostile {outcome.hostile_cpu:.1f}, server {cpu}")
    print(f"  honest: {sum(each.reads for each in outcome.honest):,} values checked, none wrong")
    for each in outcome.honest:
        if each.failures:
            print(f"    {each.role}: ended with {each.failures}, the longest call took {each.longest_s:.2f} s")
    print(f"  {'us':<18}" + "".join(f"{name:>12}" for name in ("calls", "p50", "p99", "p99.9", "max")))
    for phase, name in enumerate(PHASES):
        found = outcome.latencies(phase)
        row = [f"{found.percentile(share):>12,.1f}" for share in (50, 99, 99.9, 100)]
        print(f"  {name:<18}{found.calls:>12,}" + "".join(row))
    for phase in (NEIGHBOUR, HOSTILE):
        times = outcome.times(phase=phase)
        if times is not None:
            # Those who make many calls must not hide the others.
            by_role = ((role, outcome.times(phase=phase, role=role)) for role in outcome.roles())
            words = ", ".join(f"{role} {value:.2f}" for role, value in by_role if value is not None)
            print(f"  p99.9 beside quiet, {PHASES[phase]}: {times:.2f} times ({words})")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(app(result_action="return_value"))
