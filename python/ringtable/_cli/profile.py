"""The work of `ringtable profile`: where a server's and a client's CPU time goes, as a table and as flame graphs."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console
from rich.table import Table as Grid

from ringtable._cli.built import require_line_tables
from ringtable._cli.signals import interrupt_on_termination
from ringtable._errors import Error, InvalidOption, Timeout
from ringtable._profiler.flame import flame_graph
from ringtable._profiler.stacks import Kind, Stack, folded, shares
from ringtable._range import check_range
from ringtable._ringtable import WORKERS_MAX
from ringtable._table import Table

# The classic client's keys in each round.
INNER = 10
CLIENTS_MAX = 256
SECONDS_MAX = 600
HZ_MAX = 10_000
# Generous: these are reached only when something is broken, or the machine is very busy.
START_S_MAX = 60.0
END_S_MAX = 30.0
# From what a dying process closes to its end.
DEATH_S_MAX = 1.0

MEANINGS = {
    Kind.RECEIVE: "requests (server) or replies (client) out of rings and sockets, and decoding them",
    Kind.TABLE: "executing commands on the table; in a client, reading it in place",
    Kind.SEND: "encoding and publishing replies (server) or requests (client), ringing who sleeps",
    Kind.WAIT: "spinning, giving way, going to sleep and waking up",
    Kind.OTHER: "the client's own loop, the event loop, Python's interpreter",
}


@dataclass(frozen=True)
class Profile:
    """What a process has told of itself."""

    stacks: Counter[Stack]
    seconds: float
    cpu_s: float
    lost: int


def profile(
    *,
    topology: Literal["lanes", "shared", "sharded"],
    reads: Literal["direct", "server"],
    transport: Literal["auto", "socket"],
    clients: int,
    workers: int | None,
    seconds: float,
    hz: int,
    output: Path,
) -> None:
    """Run a server and classic clients, and profile the server and one client.

    `commands/profile.py` says what each argument means.
    """
    check_range("--clients", clients, 1, CLIENTS_MAX, "clients")
    if workers is not None:
        check_range("--workers", workers, 1, WORKERS_MAX, "threads")
    if not 0.1 <= seconds <= SECONDS_MAX:
        raise InvalidOption(f"--seconds is {seconds:g} seconds, but has to be from 0.1 to {SECONDS_MAX} seconds")
    check_range("--hz", hz, 1, HZ_MAX, "samples a second")
    require_line_tables("ringtable profile")
    interrupt_on_termination()
    # Before the work, which would be lost otherwise.
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"--output: {error.strerror}: {str(output)!r}") from error

    console = Console()
    scenario = (
        f"topology {topology}, reads {reads}, transport {transport},"
        f" {clients} {'client' if clients == 1 else 'clients'} inserting, reading and deleting {INNER} keys at a time"
    )
    server_options: dict[str, Any] = {"workers": workers}
    if topology != "lanes":
        server_options["topology"] = topology
    client_options = {"inner": INNER, "reads": reads, "transport": transport}
    with console.status(f"profiling for {seconds:g} s: {scenario}"):
        profiles = _run(server_options, client_options, clients, seconds, hz)
    for name, found in profiles.items():
        subtitle = (
            f"{scenario}; {found.cpu_s:.2f} s of CPU time in {found.seconds:.2f} s, {found.stacks.total():,} samples"
        )
        graph = flame_graph(found.stacks, f"ringtable: where a {name}'s CPU time goes", subtitle)
        (output / f"{name}.svg").write_text(graph, encoding="utf-8")
        (output / f"{name}.folded").write_text(folded(found.stacks), encoding="utf-8")
    _report(console, scenario, profiles, output)


class _Target:
    """A process that profiles itself (`ringtable._profiler.target`); at the end of the block it has ended."""

    def __init__(self, what: str, job: dict[str, Any], folder: str) -> None:
        self.what = what
        self._received = b""
        descriptor, path = tempfile.mkstemp(dir=folder)
        self._errors = Path(path)
        with open(descriptor, "wb") as errors:
            # In a group of its own: Ctrl-C shall reach this process alone, which ends the others then.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ringtable._profiler.target", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                process_group=0,
            )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def hear(self, timeout: float) -> dict[str, Any]:
        """What it says next.

        Raises:
            Error: It has ended instead.
            Timeout: It has said nothing in time.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Timeout(f"the {self.what} said nothing within {timeout:g} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._death()
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def check(self) -> None:
        """Raise its death as an `Error`, if it has ended."""
        if self._process.poll() is not None:
            raise self._death()

    def end(self, *, at_once: bool = False) -> None:
        """End the process, and wait until it has ended: in order if it can, and otherwise at once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if at_once:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(at_once=error is not None)

    def await_death(self, patience: float) -> None:
        """Wait until it has ended, for so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)

    def _death(self) -> Error:
        status = self._process.wait(END_S_MAX)
        words = self._errors.read_text(errors="replace").strip().splitlines() or ["without a word"]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        return Error(f"the {self.what} {how}: {words[-1]}")


def _run(
    server_options: dict[str, Any], client_options: dict[str, Any], count: int, seconds: float, hz: int
) -> dict[str, Profile]:
    """Run the scenario, and return the profiles by the name of the process."""
    # A folder of its own: no server of the user's is in the way, and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="ringtable-") as folder, ExitStack() as targets:
        address = f"{folder}/profile.sock"
        server = targets.enter_context(_Target("server", {"role": "server", "name": address} | server_options, folder))
        server.hear(START_S_MAX)
        # Entered after the server, so that they end before it, which none of them has to see gone then.
        clients = [
            targets.enter_context(_Target("client", {"role": "client", "address": address} | client_options, folder))
            for _ in range(count)
        ]
        try:
            return _measure(address, server, clients, seconds, hz)
        except Error:
            # That of the server explains those of its clients, who hear of it a moment before it has ended.
            server.await_death(DEATH_S_MAX)
            server.check()
            raise


def _measure(address: str, server: _Target, clients: list[_Target], seconds: float, hz: int) -> dict[str, Profile]:
    for client in clients:
        client.hear(START_S_MAX)
    _await_clients(address, [server, *clients], len(clients))
    profiled = {"server": server, "client": clients[0]}
    for target in profiled.values():
        target.tell(f"start {hz}")
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        for target in (server, *clients):
            target.check()
    for target in profiled.values():
        target.tell("stop")
    return {name: _profile_of(target) for name, target in profiled.items()}


def _await_clients(address: str, targets: list[_Target], count: int) -> None:
    """Wait until all clients are connected, beside the connection that asks."""
    deadline = time.monotonic() + START_S_MAX
    with Table(address, transport="socket", timeout=START_S_MAX) as table:
        while int(table.stats()["clients"]) < count + 1:
            for target in targets:
                target.check()
            if time.monotonic() > deadline:
                raise Timeout(f"{count} clients did not connect within {START_S_MAX:g} s")
            time.sleep(0.02)


def _profile_of(target: _Target) -> Profile:
    said = target.hear(END_S_MAX)
    stacks: Counter[Stack] = Counter()
    for line in said["folded"].splitlines():
        names, _, count = line.rpartition(" ")
        stacks[tuple(names.split(";"))] = int(count)
    if not stacks:
        raise Error(
            f"the {target.what} was never caught at work in {said['seconds']:.2f} s,"
            f" in which it used {said['cpu_s']:.3f} s of CPU time: try more --seconds, or fewer --clients"
        )
    return Profile(stacks, said["seconds"], said["cpu_s"], said["lost"])


def _report(console: Console, scenario: str, profiles: dict[str, Profile], output: Path) -> None:
    grid = Grid(title=f"Shares of the CPU time: {scenario}", title_justify="left", caption_justify="left")
    grid.add_column("")
    for name in profiles:
        grid.add_column(name, justify="right")
    grid.add_column("what it is")
    by_process = [shares(found.stacks) for found in profiles.values()]
    for kind, meaning in MEANINGS.items():
        grid.add_row(kind.value, *(f"{found[kind]:.1f} %" for found in by_process), meaning)
    grid.add_section()
    grid.add_row("together", *(f"{sum(found.values()):.1f} %" for found in by_process))
    grid.add_row(
        "CPU time",
        *(f"{found.cpu_s:.2f} s" for found in profiles.values()),
        f"within {next(iter(profiles.values())).seconds:.2f} s",
    )
    grid.add_row(
        "samples",
        *(f"{found.stacks.total():,}" for found in profiles.values()),
        "the kernel's clock takes them, 100 to 1,000 in a second of CPU time",
    )
    console.print(grid)
    console.print(
        "Only CPU time is sampled: a process that sleeps does not count as waiting. What the kernel does for a process"
        " counts for the function that asked for it."
    )
    if lost := sum(found.lost for found in profiles.values()):
        console.print(f"{lost:,} samples found no room and are missing: profile for fewer seconds.")
    console.print(f"Flame graphs: {output / 'server.svg'}, {output / 'client.svg'}", soft_wrap=True)
