"""Processes in which a server runs beside other things: it forks, changes its folder, has closed its standard streams.

Whoever has made one tells it to stop, or kills or freezes it, and hears what has become of its start. At its end it
tells what was wrong: what its children had of the server's, what the server had below 3, and what it has left behind.
"""

import json
import os
import random
import select
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ringtable
from ringtable import Server, Table
from support import Child, Closing, freeze, own_ringtable_memory, state_of, wait_until

SMALL: dict[str, Any] = {"workers": 1, "max_memory": "4MiB"}
START_S_MAX = 20.0
"""No start or stop takes as long unless something is broken."""

CALL_S_MAX = 5.0
"""The longest that a call may take, on a machine whose every core is busy."""

TICK_S = 0.02
OWNER = "owner"
"""The key that says whose table it is."""

STANDARD = (0, 1, 2)
FORKS_MAX = 3
"""Children that a server's process forks in a row."""


# Descriptors


def descriptors() -> dict[int, str]:
    """The descriptors of this process, and what they are open for."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        # The folder's own is closed by now.
        with suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def ours(known: Mapping[int, str]) -> set[str]:
    """What this process has of ringtable's, besides what is known: descriptors and mappings, in words."""
    found = {
        f"descriptor {number} of {what}"
        for number, what in descriptors().items()
        if known.get(number) != what and what.startswith(("socket:", "anon_inode:", "/memfd:ringtable"))
    }
    with open("/proc/self/maps") as lines:
        return found | {f"mapping {line.split()[-2]}" for line in lines if "memfd:ringtable" in line}


def fork_and_look(known: Mapping[int, str]) -> list[str]:
    """Fork, and return what the child has of ringtable's that was not known."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = "it could not look"
        try:
            words = "|".join(ours(known))
        finally:
            os.write(write_end, words.encode()[: select.PIPE_BUF])
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = [words for words in pipe.read().split("|") if words]
    os.waitpid(pid, 0)
    return found


def below_three(closed: Iterable[int]) -> list[str]:
    """What ringtable has among the numbers of standard streams that are closed.

    The thread that accepts may have a connection there for the moment in which it is moved up: that is looked at again.
    """
    deadline = time.monotonic() + 2.0
    while True:
        found = [
            f"descriptor {number} is {what}"
            for number, what in descriptors().items()
            if number in closed
            if what.startswith(("socket:", "anon_inode:", "/memfd:"))
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.001)


def is_running(pid: str) -> bool:
    try:
        return state_of(int(pid)) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Servers


@dataclass(frozen=True)
class Manner:
    """What a server's process is like, and does besides."""

    closed: Sequence[int] = ()
    """The standard streams that it has not."""

    mask: int = 0o077
    walks: Sequence[str] = ()
    """The folders among which it changes its current one."""

    forks: bool = False

    @classmethod
    def of(cls, generator: random.Random, folders: Sequence[str]) -> "Manner":
        """A manner as chance will have it."""
        return cls(
            closed=[number for number in STANDARD if generator.random() < 0.2],
            mask=generator.choice((0o022, 0o077, 0o177, 0o777)),
            walks=folders if generator.random() < 0.5 else (),
            forks=generator.random() < 0.5,
        )


class Host(Closing):
    """A server in a process of its own; its start goes on when the constructor returns."""

    def __init__(self, address: str | Path, owner: str, manner: Manner, seed: str, **options: Any) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.owner, self.address, self.manner = owner, address, manner
        self.child = Child(_host, address, owner, manner, seed, {**SMALL, "tcp": "127.0.0.1:0", **options}, theirs)
        theirs.close()
        self._begun = time.monotonic()
        self.news: dict[str, Any] | None = None
        """What became of its start."""

        self.is_ending = False
        """Whether it was told to stop, or killed: its clients may hear of that."""

        self.is_frozen = False
        self._is_killed = False

    @property
    def pid(self) -> int:
        return self.child.pid

    def look(self) -> None:
        """See what has become of it, without waiting."""
        if self.news is None and select.select([self._orders], [], [], 0)[0]:
            # Killed before it could say anything.
            said = self._orders.recv(1 << 12) or b'{"error": "killed", "words": ""}'
            self.news = json.loads(said)
        if self.is_starting and not self.is_frozen:
            assert time.monotonic() - self._begun < START_S_MAX, f"a start at {self.address} takes {START_S_MAX:.0f} s"
        if self.is_ready and not self.is_ending and self.child.has_ended():
            self.result()
            raise AssertionError(f"the server {self.owner} has ended by itself")

    @property
    def is_starting(self) -> bool:
        return self.news is None

    def wait(self) -> None:
        """Wait until it has started.

        Raises:
            AssertionError: It was refused.
        """

        def is_over() -> bool:
            self.look()
            return not self.is_starting

        wait_until(is_over, f"the start at {self.address}", START_S_MAX)
        assert self.is_ready, f"a start at {self.address} was refused: {self.refusal}"

    @property
    def is_ready(self) -> bool:
        """Whether its start has succeeded."""
        return self.news is not None and "tcp" in self.news

    @property
    def is_alive(self) -> bool:
        """Whether it serves, and will go on doing so."""
        return self.is_ready and not self.is_ending

    @property
    def refusal(self) -> tuple[str, str]:
        """Why it did not start: the error's name, and its words."""
        assert self.news is not None
        return self.news.get("error", ""), self.news.get("words", "")

    @property
    def has_watches(self) -> bool:
        """Whether it is told of what is removed: a user has few such descriptors."""
        return self.news is not None and bool(self.news.get("has_watches"))

    def freeze(self) -> None:
        freeze(self.pid)
        self.is_frozen = True

    def go_on(self) -> None:
        if self.is_frozen:
            os.kill(self.pid, signal.SIGCONT)
            self.is_frozen = False

    def begin_to_stop(self) -> None:
        """Tell it to stop in order."""
        self.is_ending = True
        self.go_on()
        # It may have been killed.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._orders.send(b"stop")

    def kill(self) -> None:
        """End it at once, and wait until nobody has anything of it."""
        children: list[str] = []
        if self.manner.forks and not self.child.has_ended():
            # One that is just being forked has all that its parent has, until it has closed that.
            freeze(self.pid)
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                children += (task / "children").read_text().split()
        self.is_ending = self._is_killed = True
        self.is_frozen = False
        self.child.kill()
        wait_until(lambda: not any(map(is_running, children)), "the children of a killed server have ended")

    def result(self) -> None:
        """Wait until it has ended, and see that all was well.

        Raises:
            AssertionError: It was not.
        """
        if self._is_killed:
            return
        faults = self.child.result(START_S_MAX)
        assert not faults, f"in the process of the server {self.owner}: {'; '.join(faults)}"

    def close(self) -> None:
        """End its process, if it has not ended."""
        self.child.close()
        self._orders.close()


def _host(
    address: str | Path, owner: str, manner: Manner, seed: str, options: dict[str, Any], orders: socket.socket
) -> list[str]:
    generator = random.Random(seed)
    # Where the server says that it is not found any more, as it should.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.close(quiet)
    for number in manner.closed:
        os.close(number)
    os.umask(manner.mask)
    known = descriptors()
    faults: list[str] = []
    try:
        server = Server(address, **options)
    except ringtable.Error as error:
        orders.send(json.dumps({"error": type(error).__name__, "words": str(error)}).encode())
    else:
        with server:
            faults += below_three(manner.closed)
            has_watches = any("inotify" in what for what in descriptors().values())
            assert server.tcp is not None
            with Table(server.tcp) as table:
                table[OWNER] = owner.encode()
            news = {"tcp": server.tcp, "path": server.path, "has_watches": has_watches}
            orders.send(json.dumps(news).encode())
            while not select.select([orders], [], [], TICK_S * generator.random())[0]:
                if manner.walks:
                    # It may be away at the moment.
                    with suppress(FileNotFoundError):
                        os.chdir(generator.choice(manner.walks))
                for _ in range(generator.randrange(FORKS_MAX) if manner.forks else 0):
                    faults += [f"a child has inherited {what}" for what in fork_and_look(known)]
            faults += below_three(manner.closed)
    faults += [f"left behind: {what}" for what in [*ours(known), *own_ringtable_memory()]]
    threads = len(os.listdir("/proc/self/task"))
    faults += [f"left behind: {threads - 1} threads"] if threads > 1 else []
    return sorted(set(faults))


# Clients


def attend(address: str, owner: str, options: dict[str, Any]) -> int:
    """Call a server again and again, and check each answer and how long it takes, until it is gone.

    A table that goes on with the next server is left then. Returns how many calls were made: none, if another server is
    there by now, or none at all.
    """
    calls = 0
    key = f"attendant {os.getpid()}"
    try:
        with Table(address, **options) as table:
            if table.get(OWNER) != owner.encode():
                return 0
            server_id = table.server_id
            table[f"{key} count"] = b"0"
            for number in range(1, 1 << 40):
                value = b"%d " % number * 20
                for call, arguments, expected in (
                    (table.set, (key, value), True),
                    (table.get, (key,), value),
                    (table.get, (OWNER,), owner.encode()),
                    (table.incr, (f"{key} count",), number),
                    (table.delete, (key,), 1),
                ):
                    begun = time.monotonic()
                    answer = call(*arguments)
                    took = time.monotonic() - begun
                    assert took < CALL_S_MAX, f"{call} took {took:.1f} s"
                    calls += 1
                    if answer != expected and table.server_id != server_id:
                        return calls
                    assert answer == expected, f"{call} answered {answer!r:.100}, not {expected!r:.100}"
                time.sleep(0.002)
    except (ringtable.TableNotFound, ringtable.ServerGone):
        pass
    return calls
