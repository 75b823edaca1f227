"""Servers and clients that have few descriptors: joins and starts, with any number of them left.

A server's process has a limit of descriptors anywhere between "it cannot start" and "enough for all", and other parts
of its program that open and close files meanwhile; so do some of its clients. Whatever it is that cannot be made: a
server says so instead of being ready, and one that is ready serves at least one client; a client that joins works, or
is told what is short by `OutOfResources`, soon; who is connected notices nothing. When all have left, the server has
as many descriptors as before, and takes as many clients.
"""

import json
import os
import random
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ringtable
from ringtable import Server, Table
from support import Child, Flag, own_ringtable_memory, wait_until

from proof.hosts import OWNER, SMALL, START_S_MAX, attend, descriptors, ours

ROOM_MAX = 70
"""Descriptors that a server's process has besides those at its beginning, at most."""

CLIENT_LIMIT = 96
CLIENT_ROOM_MAX = 14
CROWD = 3
CROWD_TABLES = 12
ATTENDANTS = 2
JOIN_S_MAX = 10.0
"""For a join on a busy machine, whether it succeeds or not."""

HOLD_S_MAX = 0.03
RESERVE_S = 0.2
"""Within which a server has a descriptor in reserve again, if there is one."""

FITTING_MAX = 8
SETTLE_S = 10.0
SERVER_S = 0.7
"""For how long a server has a crowd."""

ADDRESS = "poor"
TOPOLOGIES = ("lanes", "lanes", "shared", "sharded")


def leave(count: int) -> list[int]:
    """Open descriptors until only so many are left."""
    kept: list[int] = []
    with suppress(OSError):
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(min(count, len(kept))):
        os.close(kept.pop())
    return kept


def close_all(kept: list[int]) -> None:
    while kept:
        os.close(kept.pop())


def is_told(error: ringtable.OutOfResources, limits: Sequence[int]) -> bool:
    """Whether the words say what is short, and how many there may be."""
    return any(str(error).endswith(f": too many open files (the limit is {limit})") for limit in limits)


def join(connect: Callable[[], Any], limits: Sequence[int]) -> Any:
    """What a join makes, or `None` if it was told that descriptors are short."""
    begun = time.monotonic()
    try:
        return connect()
    except ringtable.OutOfResources as error:
        if not is_told(error, limits):
            raise AssertionError(f"who joins is told: {error}") from error
        return None
    finally:
        took = time.monotonic() - begun
        assert took < JOIN_S_MAX, f"a join took {took:.1f} s"


def use(table: Table, generator: random.Random) -> None:
    """Calls of a client that is connected: they need no descriptor."""
    key, value = f"{os.getpid()} {generator.getrandbits(32)}", bytes(generator.choice([10, 1_000, 100_000]))
    table[key] = value
    assert table[key] == value
    with table.view(key) as view:
        assert bytes(view) == value
    assert table.incr(f"{key} count") == 1
    table.set(key, b"posted", writes="posted")
    table.flush()
    assert table.get_many([key, "missing"]) == [b"posted", None]
    assert table.pipeline().incr(f"{key} count").get(key).execute() == [2, b"posted"]
    assert table.delete_many([key, f"{key} count"]) == 2


# Clients


def crowd(topology: str, limits: Sequence[int], seed: str, finish: Flag) -> tuple[int, int]:
    """Join in all ways and leave, with ever other numbers of descriptors. Returns how many could, and could not."""
    generator = random.Random(seed)
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    joined = refused = 0
    ways: list[dict[str, Any]] = [{}, {"transport": "socket"}, {"reads": "server"}, {"reconnect": False}]
    first = None
    while first is None and not finish.is_set():
        first = join(lambda: Table(ADDRESS), limits)
        if first is None:
            refused += 1
            time.sleep(0.01)
    while first is not None and not finish.is_set():
        before = descriptors()
        is_poor = generator.random() < 0.7
        kept: list[int] = []
        if is_poor:
            resource.setrlimit(resource.RLIMIT_NOFILE, (CLIENT_LIMIT, own[1]))
            kept = leave(generator.randrange(CLIENT_ROOM_MAX))
        tables: list[Any] = []
        try:
            for _ in range(generator.randrange(1, CROWD_TABLES)):
                makes_watch = topology == "lanes" and generator.random() < 0.3
                options = generator.choice(ways)
                made = join(first.watch if makes_watch else partial(Table[bytes], ADDRESS, **options), limits)
                joined, refused = joined + (made is not None), refused + (made is None)
                if made is not None:
                    tables.append(made)
                    if not makes_watch:
                        use(made, generator)
                use(first, generator)
                if tables and generator.random() < 0.3:
                    tables.pop(generator.randrange(len(tables))).close()
        finally:
            close_all(kept)
            resource.setrlimit(resource.RLIMIT_NOFILE, own)
        # A watch that is closed keeps its socket as long as somebody has the watch.
        made = None
        while tables:
            tables.pop().close()
        after = descriptors()
        assert len(after) == len(before), f"a client had {before} before its joins, and has after them {after}"
        time.sleep(generator.uniform(0, 0.01))
    if first is not None:
        first.close()
    assert not (left := own_ringtable_memory()), f"a client that has closed all its tables has {left}"
    return joined, refused


def attend_if_there_is_room(options: dict[str, Any]) -> int:
    try:
        return attend(ADDRESS, ADDRESS, options)
    except ringtable.OutOfResources:
        return 0


# The server


def serve(room: int, seed: str, options: dict[str, Any], orders: socket.socket) -> list[str]:
    """Run a server that has room for so many descriptors, and do with them what it is told to."""
    generator = random.Random(seed)
    known = descriptors()
    limit = max(known) + 1 + ROOM_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    others = leave(room)
    news: dict[str, Any] = {"limit": limit}
    kept: list[int] = []
    try:
        server = Server(ADDRESS, **options)
    except ringtable.OutOfResources as error:
        news["words"] = str(error)
    else:
        with server:
            orders.send(json.dumps(news).encode())
            order = ""
            while order != "stop":
                if select.select([orders], [], [], generator.uniform(0, HOLD_S_MAX))[0]:
                    order = orders.recv(64).decode()
                    close_all(kept)
                    if order == "all":
                        kept = leave(0)
                    orders.send(b"done")
                elif order == "some":
                    close_all(kept)
                    kept = leave(generator.randrange(10)) if generator.random() < 0.5 else []
        close_all(kept)
    close_all(others)
    faults = [f"left behind: {what}" for what in [*ours(known), *own_ringtable_memory()]]
    threads = len(os.listdir("/proc/self/task"))
    faults += [f"left behind: {threads - 1} threads"] if threads > 1 else []
    if "words" in news:
        orders.send(json.dumps(news).encode())
    return sorted(set(faults))


class Poor:
    """A server with few descriptors, whose start has succeeded or failed when the constructor returns."""

    def __init__(self, room: int, seed: str, **options: Any) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(START_S_MAX)
        self.child = Child(serve, room, seed, {**SMALL, **options}, theirs)
        theirs.close()
        said = self._orders.recv(1 << 12)
        if not said:
            self.child.result()
        self.news: dict[str, Any] = json.loads(said)

    @property
    def limit(self) -> int:
        return int(self.news["limit"])

    def order(self, words: str) -> None:
        """Let it take "all" descriptors, "some" at random, or "none", or "stop"."""
        self._orders.send(words.encode())
        assert self._orders.recv(64) == b"done"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def result(self) -> None:
        faults = self.child.result(START_S_MAX)
        assert not faults, f"in the process of a server with few descriptors: {'; '.join(faults)}"

    def close(self) -> None:
        self.child.close()
        self._orders.close()


def leave_those_that_had_no_room(attendants: list[Child]) -> None:
    for child in list(attendants):
        if child.has_ended():
            attendants.remove(child)
            assert child.result() == 0, "a client of a server that lives was told that it is gone"


def fitting(limits: Sequence[int]) -> int:
    """How many clients can join now, if they are not too many to count."""
    with ExitStack() as stack:
        for count in range(FITTING_MAX):
            table = join(lambda: Table(ADDRESS), limits)
            if table is None:
                return count
            stack.enter_context(table)
    return FITTING_MAX


def one_server(generator: random.Random, seconds: float, counts: Counter[str], room: int) -> bool:
    """Have a server with room for so many descriptors, and a crowd of clients for so long, or none.

    Returns whether it has started.
    """
    topology = generator.choice(TOPOLOGIES)
    options = {"topology": topology, "slow_consumer_timeout": 30.0, "workers": generator.randint(1, 2)}
    folder = Path(os.environ["RINGTABLE_DIR"])
    with ExitStack() as stack:
        server = Poor(room, f"{generator.random()}", **options)
        stack.callback(server.close)
        if "words" in server.news:
            words, ending = server.news["words"], f": too many open files (the limit is {server.limit})"
            assert words.endswith(ending), f"a server with {room} descriptors says, instead of being ready: {words}"
            server.result()
            assert not os.listdir(folder), f"a start that failed has left {os.listdir(folder)}"
            counts["servers that could not start"] += 1
            return False
        counts["servers"] += 1
        limits = server.limit, CLIENT_LIMIT
        empty = server.descriptors()
        room_for = fitting(limits)
        assert room_for > 0, f"a server with {room} descriptors is ready, and has room for no client"
        wait_until(
            lambda: server.descriptors() == empty,
            f"a server has {empty} descriptors again, and no {server.descriptors()}",
            SETTLE_S,
        )
        staying = have_a_crowd(server, topology, generator, seconds, counts, stack) if seconds > 0 else []
        server.order("stop")
        for child in staying:
            counts["calls"] += child.result()
        server.result()
        assert not os.listdir(folder), f"left behind: {os.listdir(folder)}"
    return True


def have_a_crowd(
    server: Poor, topology: str, generator: random.Random, seconds: float, counts: Counter[str], stack: ExitStack
) -> list[Child]:
    """Let clients join and leave for so long, beside some that stay: those are returned."""
    limits = server.limit, CLIENT_LIMIT
    table = stack.enter_context(Table(ADDRESS, timeout=SETTLE_S))
    table[OWNER] = ADDRESS.encode()
    attendants = [
        stack.enter_context(Child(attend_if_there_is_room, way))
        for way in generator.sample([{}, {"transport": "socket"}, {"reads": "server"}], ATTENDANTS)
    ]
    finish = stack.enter_context(Flag())
    # Those that have come by then stay.
    time.sleep(generator.uniform(0, 0.1))
    server.order(generator.choice(["none", "some", "some"]))
    seeds = [f"{generator.random()}" for _ in range(CROWD)]
    others = [stack.enter_context(Child(crowd, topology, limits, seed, finish)) for seed in seeds]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for child in others:
            child.check()
        leave_those_that_had_no_room(attendants)
        use(table, generator)
        time.sleep(0.005)
    finish.set()
    for child in others:
        joined, refused = child.result()
        counts["joins"] += joined
        counts["joins refused"] += refused
    # Whoever comes to a full server is told so, once there was time to be prepared for that again.
    server.order("none")
    time.sleep(RESERVE_S)
    server.order("all")
    for _ in range(3):
        made = join(lambda: Table(ADDRESS, timeout=JOIN_S_MAX), limits)
        assert made is None, "a server without any descriptor has let a client in"
    use(table, generator)
    server.order("none")
    leave_those_that_had_no_room(attendants)
    wait_until(
        lambda: table.stats()["clients"] == 1 + len(attendants),
        f"of {table.stats()['clients']} clients {len(attendants) + 1} are left",
        SETTLE_S,
    )
    return attendants


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Have servers with few descriptors for so long."""
    os.environ["RINGTABLE_DIR"] = str(folder / "names")
    (folder / "names").mkdir(mode=0o700)
    finish = time.monotonic() + seconds
    # Where it begins to be enough for a start is looked at more closely than the rest.
    short, enough = 0, ROOM_MAX
    while enough - short > 1:
        room = (short + enough) // 2
        short, enough = (short, room) if one_server(generator, 0, counts, room) else (room, enough)
    while (left := finish - time.monotonic()) > 0:
        room = generator.choice([generator.randrange(ROOM_MAX), generator.randrange(max(1, enough - 3), enough + 12)])
        one_server(generator, min(left, SERVER_S), counts, room)
