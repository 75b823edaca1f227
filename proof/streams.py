"""Programs that have no standard input, output or error, and write there all the same: it does not land in a table.

Some of the three are closed when a program begins, or later, and some get their numbers by what the program opens
itself. In between it connects, watches, starts and stops servers, and serves clients of other processes. None of
ringtable's descriptors is ever left below 3; and after the program has written to where it takes its output to be, all
values are as they were. Most of these programs are forked, some are started as a shell starts them, and so is
`ringtable server`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringtable
from ringtable import Server, Table
from support import Child, wait_until

from proof.hosts import OWNER, SMALL, STANDARD, Host, Manner, attend, below_three

if TYPE_CHECKING:
    from ringtable._types import Topology

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "streams"
STEPS = 12
"""Of a program."""

PROGRAMS = 2
"""At a time."""

START_S_MAX = 30.0
SETTLE_S = 10.0
JUNK = b"a line of a log\n" * 1_000
WAYS: tuple[dict[str, Any], ...] = ({}, {"transport": "socket"}, {"reads": "server"}, {"reconnect": False})
TOPOLOGIES: tuple[Topology, ...] = ("lanes", "lanes", "shared")


def write_junk(numbers: Sequence[int]) -> None:
    for number in numbers:
        with suppress(OSError):
            os.write(number, JUNK)


def program(closed: Sequence[int], seed: str) -> int:
    """What a program does that has not got these. Returns how many steps it has made."""
    generator = random.Random(seed)
    for number in closed:
        with suppress(OSError):
            os.close(number)
    # What others write to the same table is not ours to count.
    own = f"own-{os.getpid()}"
    expected: dict[str, dict[str, bytes]] = {ADDRESS: {}, own: {}}
    with ExitStack() as everything:
        servers = ExitStack()
        everything.enter_context(servers)
        tables: list[tuple[Table, str]] = []
        files: list[int] = []

        def connect(address: str) -> None:
            table = Table(address, **generator.choice(WAYS))
            everything.callback(table.close)
            tables.append((table, address))

        is_serving = False
        for step in range(STEPS):
            match generator.randrange(7):
                case 0 | 1:
                    connect(own if is_serving and generator.random() < 0.5 else ADDRESS)
                case 2 if not is_serving:
                    servers.enter_context(Server(own, topology=generator.choice(TOPOLOGIES), **SMALL))
                    is_serving = True
                    expected[own] = {}
                    connect(own)
                case 3 if is_serving:
                    tables = [(table, address) for table, address in tables if address != own]
                    servers.close()
                    is_serving = False
                case 4 if tables:
                    tables.pop(generator.randrange(len(tables)))[0].close()
                case 5:
                    # Of the program's own, and it gets the lowest number.
                    files.append(os.open(os.devnull, os.O_RDWR))
                case 6 if files:
                    os.close(files.pop())
            for table, address in tables:
                key = f"{own} {step}"
                table[key] = expected[address][key] = b"value of step %d" % step
                if table.transport == "lane" and generator.random() < 0.2:
                    with table.watch(key) as watch:
                        table[key] = expected[address][key]
                        assert next(watch).key == key.encode()
            assert not (found := below_three(closed)), f"{found}, of a program without {closed}"
            write_junk(closed)
            for table, address in tables:
                for key, value in expected[address].items():
                    seen = table.get(key)
                    assert seen == value, f"{key} is {seen!r:.100}, and was {value!r}: a program without {closed}"
            if is_serving:
                with Table(own) as table:
                    assert len(table) == len(expected[own]), f"{len(table)} keys, and not {len(expected[own])}"
        assert not (found := below_three(closed)), f"{found}, of a program without {closed}"
    return STEPS


def main(report: str, closed: str, seed: str) -> None:
    """The same as a program that a shell has started without them."""
    said: dict[str, Any] = {}
    try:
        said["steps"] = program(json.loads(closed), seed)
    except BaseException as error:
        said["fault"] = f"{type(error).__name__}: {error}"
    Path(report).write_text(json.dumps(said))


def shell(closed: Sequence[int], *command: str) -> subprocess.Popen[bytes]:
    """Start a command as a shell does that has been told to close these."""
    redirections = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[number] for number in closed)
    return subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirections}', *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


class Programs:
    """Programs, some at a time."""

    def __init__(self, folder: Path, generator: random.Random, counts: Counter[str], stack: ExitStack) -> None:
        self._folder, self._generator, self._counts, self._stack = folder, generator, counts, stack
        self._forked: list[Child] = []
        self._started: list[tuple[subprocess.Popen[bytes], Path, Sequence[int], float]] = []
        self._number = 0

    def _closed(self) -> list[int]:
        return [number for number in STANDARD if self._generator.random() < 0.6] or [self._generator.choice(STANDARD)]

    def start(self) -> None:
        """Start as many as there may be."""
        while len(self._forked) < PROGRAMS:
            child = Child(program, self._closed(), f"{self._generator.random()}")
            self._forked.append(self._stack.enter_context(child))
        if not self._started:
            self._number += 1
            closed, report = self._closed(), self._folder / f"report {self._number}"
            script = "import sys; from proof.streams import main; main(*sys.argv[1:])"
            arguments = [str(report), json.dumps(closed), f"{self._generator.random()}"]
            process = shell(closed, sys.executable, "-c", script, *arguments)
            self._stack.callback(end, process)
            self._started.append((process, report, closed, time.monotonic()))

    def look(self) -> None:
        """See what has become of them."""
        for child in list(self._forked):
            if child.has_ended():
                self._forked.remove(child)
                self._counts["steps"] += child.result()
                self._counts["programs that were forked"] += 1
        for process, report, closed, begun in list(self._started):
            if process.poll() is None:
                assert time.monotonic() - begun < START_S_MAX, f"a program without {closed} hangs"
                continue
            self._started.remove((process, report, closed, begun))
            assert process.returncode == 0, f"a program without {closed} has ended with {process.returncode}"
            said = json.loads(report.read_text())
            assert "steps" in said, f"a program that was started without {closed}: {said['fault']}"
            self._counts["steps"] += said["steps"]
            self._counts["programs that were started"] += 1

    @property
    def are_running(self) -> bool:
        return bool(self._forked or self._started)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def one_command(generator: random.Random, counts: Counter[str], stack: ExitStack) -> None:
    """`ringtable server`, without some of them."""
    closed = [number for number in STANDARD if generator.random() < 0.7]
    command = [sys.executable, "-m", "ringtable", "server", "--name", "command", "--max-memory", "4MiB"]
    process = shell(closed, *command)
    stack.callback(end, process)
    tables: list[Table] = []

    def is_found() -> bool:
        assert process.poll() is None, f"a server without {closed} has ended with {process.returncode}"
        with suppress(ringtable.TableNotFound):
            tables.append(Table("command"))
        return bool(tables)

    wait_until(is_found, f"a server without {closed} is found", START_S_MAX)
    with tables[0] as table:
        table["key"] = b"value"
        assert table["key"] == b"value"

        def there() -> set[str]:
            found = set()
            for number in closed:
                with suppress(FileNotFoundError):
                    found.add(os.readlink(f"/proc/{process.pid}/fd/{number}"))
            return found

        # The command writes what nobody can read to nowhere.
        wait_until(lambda: there() <= {os.devnull}, f"a server without {closed} has nothing there", SETTLE_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S_MAX) == 0, f"a server without {closed} has ended with {process.returncode}"
    counts["servers"] += 1


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Have programs without standard streams for so long."""
    os.environ["RINGTABLE_DIR"] = str(folder / "names")
    (folder / "names").mkdir(mode=0o700)
    finish = time.monotonic() + seconds
    with ExitStack() as stack:
        manner = Manner(closed=Manner.of(generator, ()).closed, forks=generator.random() < 0.5)
        host = Host(ADDRESS, ADDRESS, manner, f"{generator.random()}", topology=generator.choice(TOPOLOGIES))
        stack.callback(host.close)
        host.wait()
        attendant = stack.enter_context(Child(attend, ADDRESS, ADDRESS, generator.choice(WAYS)))
        programs = Programs(folder, generator, counts, stack)
        programs.start()
        one_command(generator, counts, stack)
        while time.monotonic() < finish or programs.are_running:
            host.look()
            programs.look()
            if time.monotonic() < finish:
                programs.start()
            time.sleep(0.005)
        with Table(ADDRESS) as table:
            assert table[OWNER] == ADDRESS.encode()
        host.begin_to_stop()
        counts["calls"] += attendant.result()
        host.result()
    left = os.listdir(folder / "names")
    assert not left, f"left behind: {left}"
