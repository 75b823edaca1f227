"""Processes that fork at random instants, while their other threads connect, close, watch, and start and stop servers.

There is a server whose own process forks, while clients come and go; and clients with threads that fork from any of
them. Some children look what they have of ringtable's, which must be nothing: no socket of their parent's, no lane of
anybody, no table. Some use a table that they have inherited, which has to work. Some do nothing, and outlive their
parent, which is killed: for the server it is gone then.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ringtable import Server, Table
from support import Child, Flag, wait_until

from proof.hosts import OWNER, SMALL, Host, Manner, attend, descriptors, fork_and_look

FORKING = 2
"""Clients that fork."""

THREADS = 3
CHURNERS = 2
ATTENDANTS = 1
LINGERING_MAX = 5
LINGERING_S_MAX = 600.0
SWITCH_S = 0.0005
CHILD_S_MAX = 30.0
SETTLE_S = 10.0
ADDRESS = "forks"
TOPOLOGIES = ("lanes", "lanes", "shared", "sharded")
WAYS: tuple[dict[str, Any], ...] = ({}, {"transport": "socket"}, {"reads": "server"}, {"reconnect": False})


def come_and_go(generator: random.Random) -> None:
    """One client of the server, from its beginning to its end."""
    with Table(ADDRESS, **generator.choice(WAYS)) as table:
        key = f"{os.getpid()} {threading.get_ident()}"
        table[key] = b"value"
        assert table[key] == b"value"
        if table.transport == "lane" and generator.random() < 0.5:
            with table.watch(key) as watch:
                table[key] = b"other"
                assert next(watch).key == key.encode()


def start_and_stop(number: int) -> None:
    """A server of this process's own."""
    # Of another name than the last one: a child that is just being forked may have that one's lock for a moment more.
    name = f"own-{os.getpid()}-{threading.get_ident()}-{number}"
    with Server(name, **SMALL), Table(name) as table:
        table["key"] = b"value"
        assert table["key"] == b"value"


class Forking:
    """A client with threads, each of which may fork, in a process of its own."""

    def __init__(self, seed: str, finish: Flag, over: Flag) -> None:
        self._generator, self._finish, self._over = random.Random(seed), finish, over
        self._known = descriptors()
        self._faults: list[str] = []
        self._lingering = 0
        self._forks = 0
        self._table = Table(ADDRESS)

    def run(self) -> int:
        """Fork until told to finish, and return how often."""
        # Else who forks waits for the interpreter most of the time.
        sys.setswitchinterval(SWITCH_S)
        seeds = [f"{self._generator.random()}" for _ in range(THREADS)]
        threads = [threading.Thread(target=self._work, args=(seed,), daemon=True) for seed in seeds]
        for thread in threads:
            thread.start()
        while not self._finish.is_set() and not self._faults:
            self._fork(self._generator)
        for thread in threads:
            thread.join(CHILD_S_MAX)
            assert not thread.is_alive(), "a thread of a process that forks hangs"
        assert not self._faults, "; ".join(self._faults)
        return self._forks

    def _work(self, seed: str) -> None:
        """What a thread does meanwhile."""
        generator = random.Random(seed)
        servers = 0
        try:
            while not self._finish.is_set() and not self._faults:
                chance = generator.random()
                if chance < 0.1:
                    servers += 1
                    start_and_stop(servers)
                elif chance < 0.2:
                    self._fork(generator)
                else:
                    come_and_go(generator)
        except BaseException as error:
            self._faults.append(f"{type(error).__name__}: {error}")

    def _fork(self, generator: random.Random) -> None:
        self._forks += 1
        chance = generator.random()
        if chance < 0.75:
            self._faults += [f"a child has inherited {what}" for what in fork_and_look(self._known)]
        elif chance < 0.95 or self._lingering >= LINGERING_MAX:
            self._use_in_child()
        else:
            self._lingering += 1
            self._linger()

    def _linger(self) -> None:
        """Leave a child that does nothing with what it has inherited."""
        if os.fork() == 0:
            try:
                # But for the pipes, at whose other ends somebody waits.
                for number, what in descriptors().items():
                    if what.startswith("pipe:"):
                        os.close(number)
                self._over.wait(LINGERING_S_MAX)
            finally:
                os._exit(0)

    def _use_in_child(self) -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(CHILD_S_MAX))
                key = f"child {os.getpid()}"
                self._table[key] = b"value"
                status = 0 if (self._table[key], self._table[OWNER]) == (b"value", ADDRESS.encode()) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        if status:
            self._faults.append(f"a child that used its parent's table ended with wait status {status}")


def fork_again_and_again(seed: str, finish: Flag, over: Flag) -> int:
    return Forking(seed, finish, over).run()


def churn(seed: str, finish: Flag) -> int:
    """Come and go. Returns how often."""
    generator = random.Random(seed)
    count = 0
    while not finish.is_set():
        come_and_go(generator)
        count += 1
    return count


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Fork for so long."""
    os.environ["RINGTABLE_DIR"] = str(folder / "names")
    (folder / "names").mkdir(mode=0o700)
    with ExitStack() as stack:
        finish, over = stack.enter_context(Flag()), stack.enter_context(Flag())
        # Whatever comes, nobody lingers.
        stack.callback(over.set)
        manner = Manner(forks=True, closed=Manner.of(generator, ()).closed)
        host = Host(ADDRESS, ADDRESS, manner, f"{generator.random()}", topology=generator.choice(TOPOLOGIES), workers=2)
        stack.callback(host.close)
        host.wait()
        assert host.news is not None
        table = stack.enter_context(Table(host.news["tcp"], timeout=SETTLE_S))
        ways = generator.sample(WAYS, ATTENDANTS)
        attendants = [stack.enter_context(Child(attend, ADDRESS, ADDRESS, way)) for way in ways]
        wait_until(lambda: table.stats()["clients"] == 1 + ATTENDANTS, "those that stay are there", SETTLE_S)
        seeds = [f"{generator.random()}" for _ in range(CHURNERS + FORKING)]
        churners = [stack.enter_context(Child(churn, seed, finish)) for seed in seeds[:CHURNERS]]
        forking = [stack.enter_context(Child(fork_again_and_again, seed, finish, over)) for seed in seeds[CHURNERS:]]
        # The last one is killed in the middle of what it does.
        *others, victim = forking
        until = time.monotonic() + seconds
        killed_at = time.monotonic() + generator.uniform(0.3, 1.0) * seconds
        while time.monotonic() < until:
            host.look()
            for child in (*churners, *others):
                child.check()
            if time.monotonic() < killed_at:
                victim.check()
            elif not victim.has_ended():
                victim.kill()
                counts["kills"] += 1
            time.sleep(0.005)
        if not victim.has_ended():
            victim.kill()
        finish.set()
        for child in others:
            counts["forks"] += child.result()
        for child in churners:
            counts["clients that came and went"] += child.result()
        # Children of the dead live still, and the server knows better.
        clients = 1 + ATTENDANTS
        wait_until(
            lambda: table.stats()["clients"] == clients,
            f"{clients} clients are left, of {table.stats()['clients']} that the server counts",
            SETTLE_S,
        )
        over.set()
        host.begin_to_stop()
        for attendant in attendants:
            counts["calls"] += attendant.result()
        host.result()
    # The names of the killed one's own servers may be there.
    left = [path.name for path in (folder / "names").iterdir() if not path.name.startswith("own-")]
    assert not left, f"left behind: {left}"
