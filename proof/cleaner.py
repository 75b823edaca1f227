"""A cleaner that removes and replaces the files of servers which start, stop and are killed meanwhile.

It is what cleans folders such as /tmp, or an administrator in a hurry: it removes sockets and locks, moves them away,
removes whole folders, and puts files, links, fifos, folders and sockets of its own in their place, at any instant. In
each place there are several servers, one after the other or at once; each has a client that checks its answers, and
other clients connect all the while.

At any moment: the socket and the lock of a living server are where they were, unless the cleaner has touched them; what
the cleaner has put somewhere is there as it was. When it is at rest: at most one of a place's servers is found; that is
a living one; one from which files were only removed is found again; a start is refused where one is found, and succeeds
where none is; starts that are refused change nothing. In the end nothing is left of any server.

The cleaner puts nothing where a server is just starting or stopping. Between a look at a file and its removal lie
microseconds, of which nothing is promised (`server/endpoint.rs`); to remove something in them is harmless.
"""

import fcntl
import os
import random
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ringtable
from ringtable import Table
from support import Child, Flag, Way, bound, contents, lock_of

from proof.hosts import OWNER, Host, Manner, attend

HOSTS_MAX = 3
"""Servers of one place at a time, found or not."""

CONNECTORS = 2
STORM_S = 0.6
"""Between two rests."""

PAUSE_S_MAX = 0.02
FREEZE_S_MAX = 0.2
SETTLE_S = 10.0
"""For how long something may be on its way that is nobody's call."""

PRECIOUS = b"years of work\n"
REFUSALS = ("ServerExists", "PathTaken")
TOPOLOGIES = ("lanes", "lanes", "shared", "sharded")
WAYS: tuple[dict[str, Any], ...] = ({}, {"reads": "server"}, {"transport": "socket"})


# What the cleaner puts in places


def put_file(path: Path) -> None:
    path.write_bytes(PRECIOUS)
    path.chmod(0o600)


def put_empty_file(path: Path) -> None:
    # For a server of another mode: one with 0600 would be a lock.
    path.touch()
    path.chmod(0o644)


def put_link(path: Path) -> None:
    path.symlink_to("nowhere")


def put_folder(path: Path) -> None:
    path.mkdir()


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_hard_link(path: Path) -> None:
    # With one name more it would be a lock, as far as modes tell.
    other = path.with_name("precious")
    other.touch(mode=0o600)
    path.hardlink_to(other)


def put_listening_socket(path: Path) -> socket.socket:
    found = bound(path, socket.SOCK_STREAM)
    found.listen()
    return found


def put_datagram_socket(path: Path) -> socket.socket:
    return bound(path, socket.SOCK_DGRAM)


DECOYS: tuple[Callable[[Path], socket.socket | None], ...] = (
    put_file,
    put_empty_file,
    put_link,
    put_folder,
    put_fifo,
    put_hard_link,
    put_listening_socket,
    put_datagram_socket,
)


def identity(path: Path) -> tuple[object, ...] | None:
    """What lies there."""
    try:
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mode, data


class Spot:
    """The place of a file of servers: of a socket or a lock."""

    def __init__(self, path: Path, is_socket: bool) -> None:
        self.path, self.is_socket = path, is_socket
        self.touches = 0
        """How often the cleaner has done something here."""

        self.decoy: tuple[object, ...] | None = None
        self._socket: socket.socket | None = None

    def touch(self) -> None:
        self.touches += 1

    def put(self, make: Callable[[Path], socket.socket | None], workshop: Path) -> None:
        """Put something in place of what is there, in one step if it can be done in one."""
        self.touch()
        # Made elsewhere: the path may have no room in an address.
        other = workshop / "put"
        self._socket = make(other)
        if stat.S_ISDIR(other.lstat().st_mode):
            self.path.unlink(missing_ok=True)
        other.rename(self.path)
        self.decoy = identity(self.path)

    def check(self) -> None:
        """See that what was put here is here, as it was."""
        if self.decoy is not None:
            found = identity(self.path)
            assert found == self.decoy, f"somebody has touched {self.path}: it was {self.decoy}, and is {found}"

    def take_back(self) -> None:
        """Remove what was put here."""
        self.check()
        self.touch()
        self.path.rmdir() if self.path.is_dir() and not self.path.is_symlink() else self.path.unlink()
        self.forget()

    def forget(self) -> None:
        """What was put here is gone by now."""
        self.decoy = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Tenant:
    """A server, and what the cleaner knows of it."""

    def __init__(self, host: Host, touches: dict["Spot", int]) -> None:
        self.host, self._touches = host, touches
        self.table: Table | None = None
        self.attendant: Child | None = None
        self.files: dict[Spot, tuple[int, int, int]] = {}
        """By file, which one it is, as long as the cleaner has not touched it since: so often before."""

        self.may_be_lost = False
        """Whether something else was in its place, since it was last seen there."""

        self.thaws_at = 0.0

    @property
    def is_attended(self) -> bool:
        """Whether its client has not ended yet: it may have gone on with the next server, which is frozen now."""
        return self.attendant is not None and not self.attendant.has_ended()

    def know(self, *, is_new: bool) -> None:
        """The files in its place are this server's; those of a new one, unless they were touched since its start."""
        for spot, touches in self._touches.items():
            if spot.decoy is None and (not is_new or spot.touches == touches):
                status = spot.path.lstat()
                self.files[spot] = (status.st_dev, status.st_ino, spot.touches)

    def check(self) -> None:
        """See that its files are where they were."""
        touched = {spot for spot, (_, _, touches) in self.files.items() if spot.touches != touches}
        # A server that has lost its socket to others gives up its lock, too.
        if any(spot.is_socket for spot in touched):
            touched = set(self.files)
        for spot in touched:
            del self.files[spot]
        for spot, (device, inode, _) in self.files.items():
            found = identity(spot.path)
            assert (found or ())[:2] == (device, inode), (
                f"{spot.path} was file {inode} of the living server {self.host.owner}, and is {found}, though nobody "
                "has touched it but servers"
            )


class Place:
    """A path or a name, and its servers."""

    def __init__(self, name: str, address: str, path: Path, has_name: bool) -> None:
        self.name, self.address, self.path, self.has_name = name, address, path, has_name
        self.socket, self.lock = Spot(path, True), Spot(lock_of(path), False)
        self.tenants: list[Tenant] = []
        self.removes_only = False
        """Whether this is a time in which files are removed, and nothing else is done."""

    @property
    def spots(self) -> tuple[Spot, Spot]:
        return self.socket, self.lock

    @property
    def living(self) -> list[Tenant]:
        return [tenant for tenant in self.tenants if tenant.host.is_alive]

    @property
    def is_busy(self) -> bool:
        """Whether a server is just starting or stopping here."""
        return any(not tenant.host.is_alive for tenant in self.tenants)

    def owner(self) -> str | None:
        """Whose table a client finds here."""
        try:
            with Table(self.address) as table:
                return (table.get(OWNER) or b"").decode()
        except (ringtable.TableNotFound, ringtable.ServerGone):
            return None


class Cleaner:
    """The cleaner and its places, for one turn."""

    def __init__(self, folder: Path, generator: random.Random, counts: Counter[str], stack: ExitStack) -> None:
        self._folder, self._generator, self._counts, self._stack = folder, generator, counts, stack
        self._names = folder / "names"
        self._runs = [folder / "run", folder / ("x" * 120)]
        for each in self._runs:
            each.mkdir(mode=0o700)
        os.environ["RINGTABLE_DIR"] = str(self._names)
        self._places = [
            Place("a", "a", self._names / "a.sock", True),
            Place("b", "b", self._names / "b.sock", True),
            Place("c", f"{self._runs[0]}/app.sock", self._runs[0] / "app.sock", False),
            Place("d", f"unix://{self._runs[1]}/app", self._runs[1] / "app", False),
        ]
        self._number = 0
        self._moved: list[Path] = []
        self._missing: dict[Path, float] = {}
        """Folders of paths that were removed, and when they come back."""

        self._finish = stack.enter_context(Flag())
        self._connectors = [
            stack.enter_context(
                Child(connect, [place.address for place in self._places], f"{generator.random()}", self._finish)
            )
            for _ in range(CONNECTORS)
        ]

    # What is done to servers

    def _start(self, place: Place, **options: object) -> Tenant:
        self._number += 1
        owner = f"{place.name} {self._number}"
        manner = Manner.of(self._generator, [str(self._folder), "/", *map(str, self._runs)])
        options = {"topology": self._generator.choice(TOPOLOGIES), "slow_consumer_timeout": 30.0, **options}
        host = Host(place.address, owner, manner, f"{self._generator.random()}", **options)
        self._stack.callback(host.close)
        tenant = Tenant(host, {spot: spot.touches for spot in place.spots})
        place.tenants.append(tenant)
        for other in place.living:
            other.may_be_lost = True
        self._counts["starts"] += 1
        return tenant

    def _begin(self, place: Place, tenant: Tenant) -> None:
        """A server has started."""
        tenant.may_be_lost = True
        if not tenant.host.is_alive:
            return
        tenant.know(is_new=True)
        news = tenant.host.news
        assert news is not None
        tenant.table = Table(news["tcp"], timeout=SETTLE_S)
        options = self._generator.choice(WAYS)
        tenant.attendant = Child(attend, place.address, tenant.host.owner, options)
        self._stack.callback(tenant.attendant.__exit__, None, None, None)

    def look(self) -> None:
        """See what has become of everything."""
        for place in self._places:
            for tenant in list(place.tenants):
                host = tenant.host
                was_starting = host.is_starting
                host.look()
                if was_starting and host.is_ready:
                    self._begin(place, tenant)
                if host.is_frozen and time.monotonic() > tenant.thaws_at:
                    host.go_on()
                if host.is_alive:
                    tenant.check()
                    if tenant.attendant is not None and tenant.attendant.has_ended():
                        calls = tenant.attendant.result()
                        tenant.attendant = None
                        self._counts["calls"] += calls
                        assert calls == 0, f"a client of the living server {host.owner} was told that it is gone"
                elif not host.is_starting and host.child.has_ended() and not tenant.is_attended:
                    self._leave(place, tenant)
            for spot in place.spots:
                spot.check()
        for connector in self._connectors:
            connector.check()
        for folder, when in list(self._missing.items()):
            if time.monotonic() > when:
                self._give_back(folder)

    def _leave(self, place: Place, tenant: Tenant) -> None:
        """A server has ended, or has not started."""
        tenant.host.result()
        if not tenant.host.is_ready:
            name, words = tenant.host.refusal
            self._counts[f"refused: {name}"] += 1
            # Somebody had removed it, or did so in the middle of the start.
            is_away = name == "Error" and "o such file or" in words
            assert name in (*REFUSALS, "killed", "InvalidOption") or is_away, (
                f"a start at {place.address} failed: {name}: {words}"
            )
        if tenant.table is not None:
            tenant.table.close()
        if tenant.attendant is not None:
            self._counts["calls"] += tenant.attendant.result()
        place.tenants.remove(tenant)
        tenant.host.close()

    # What is done to files

    def _storm(self, seconds: float) -> None:
        """Do all of it, at random."""
        acts: list[tuple[Callable[[Place], None], int]] = [
            (self._remove, 6),
            (self._move, 2),
            (self._put, 4),
            (self._take_back, 4),
            (self._remove_folder, 1),
            (self._start_one, 5),
            (self._start_in_vain, 1),
            (self._stop_one, 2),
            (self._kill_one, 1),
            (self._freeze_one, 2),
        ]
        calls, weights = zip(*acts, strict=True)
        removing = (self._remove, self._move, self._remove_folder, self._freeze_one)
        for place in self._places:
            place.removes_only = len(place.living) == 1 and not place.is_busy and self._generator.random() < 0.3
        finish = time.monotonic() + seconds
        while time.monotonic() < finish:
            place = self._generator.choice(self._places)
            act = self._generator.choices(calls, weights)[0]
            if not place.removes_only or act in removing:
                act(place)
            self.look()
            time.sleep(self._generator.uniform(0, PAUSE_S_MAX))

    def _remove(self, place: Place) -> None:
        for spot in self._generator.choice([place.spots, place.spots[:1], place.spots[1:]]):
            if spot.decoy is None:
                spot.touch()
                spot.path.unlink(missing_ok=True)
                self._counts["removals"] += 1

    def _move(self, place: Place) -> None:
        spot = self._generator.choice(place.spots)
        if spot.decoy is None:
            spot.touch()
            self._moved.append(self._folder / f"moved {len(self._moved)}")
            with suppress(FileNotFoundError):
                spot.path.rename(self._moved[-1])
                self._counts["removals"] += 1

    def _put(self, place: Place) -> None:
        spot = self._generator.choice(place.spots)
        if place.is_busy or spot.decoy is not None or not spot.path.parent.is_dir():
            return
        spot.put(self._generator.choice(DECOYS), self._folder)
        for tenant in place.living:
            tenant.may_be_lost = True
        self._counts["files put in place"] += 1

    def _take_back(self, place: Place) -> None:
        for spot in place.spots:
            if spot.decoy is not None:
                spot.take_back()

    def _remove_folder(self, place: Place) -> None:
        folder = place.path.parent
        others = [other for other in self._places if other.path.parent == folder]
        for spot in (spot for other in others for spot in other.spots):
            spot.check()
            spot.touch()
        gone = self._folder / "gone"
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        for spot in (spot for other in others for spot in other.spots):
            spot.forget()
        if not place.has_name:
            self._missing[folder] = time.monotonic() + self._generator.uniform(0, 0.3)
        remove_all(gone)
        self._counts["folders removed"] += 1

    def _give_back(self, folder: Path) -> None:
        self._missing.pop(folder, None)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)

    def _start_one(self, place: Place) -> None:
        if len(place.tenants) < HOSTS_MAX:
            self._start(place)

    def _start_in_vain(self, place: Place) -> None:
        if len(place.tenants) < HOSTS_MAX:
            self._start(place, buckets=1 << 30)

    def _one(self, place: Place) -> Tenant | None:
        return self._generator.choice(place.living) if place.living else None

    def _stop_one(self, place: Place) -> None:
        if tenant := self._one(place):
            tenant.host.begin_to_stop()
            self._counts["stops"] += 1

    def _kill_one(self, place: Place) -> None:
        if place.tenants:
            self._generator.choice(place.tenants).host.kill()
            self._counts["kills"] += 1

    def _freeze_one(self, place: Place) -> None:
        if (tenant := self._one(place)) and not tenant.host.is_frozen:
            tenant.host.freeze()
            tenant.thaws_at = time.monotonic() + self._generator.uniform(0, FREEZE_S_MAX)

    # What has to be so when nothing is done

    def _quiet(self) -> None:
        """Take everything back, and wait until no server is starting or stopping."""
        for place in self._places:
            self._take_back(place)
            for tenant in place.tenants:
                tenant.host.go_on()
        for folder in list(self._missing):
            self._give_back(folder)
        self._wait(lambda: not any(place.is_busy for place in self._places), lambda: "all have started, or ended")

    def _wait(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        deadline = time.monotonic() + SETTLE_S

        def holds() -> bool:
            self.look()
            return condition()

        while not holds():
            assert time.monotonic() < deadline, f"not within {SETTLE_S:.0f} s: {what()}"
            time.sleep(0.005)

    def _rest(self) -> None:
        """See that all is as it has to be where nothing has been done for a while."""
        self._quiet()
        for place in self._places:
            self._wait(partial(self._is_settled, place), partial(told, place))
        for place in self._places:
            if found := next((tenant for tenant in place.living if not is_lost(tenant)), None):
                self._wait(partial(is_locked, place.lock.path), partial(told, place))
                found.know(is_new=False)
                found.may_be_lost = False
                self._refuse(place)
        for place in self._places:
            if place.owner() is None:
                self._replace(place)
        self._counts["rests"] += 1

    def _is_settled(self, place: Place) -> bool:
        """Whether the one that is found is the one that says so, and all are found that have to be."""
        here = [tenant for tenant in place.living if not is_lost(tenant)]
        missed = [tenant for tenant in place.living if not tenant.may_be_lost and tenant not in here]
        # Those that are not told of removals do not know.
        return not missed and place.owner() in ([here[0].host.owner] if len(here) == 1 else [None] * (not here))

    def _refuse(self, place: Place) -> None:
        """A server that starts where one is found is refused, and changes nothing."""
        # The lock may get its words just now.
        before = [(identity(spot.path) or ())[:3] for spot in place.spots]
        self._attempt(place, "ServerExists")
        after = [(identity(spot.path) or ())[:3] for spot in place.spots]
        assert before == after, f"a start that was refused has changed {place.path}: {before}, then {after}"

    def _replace(self, place: Place) -> None:
        """Nobody is found. So another one can start, though others live there, who are not found any more."""
        tenant = self._start(place)
        self._wait(lambda: not tenant.host.is_starting, partial(told, place))
        if tenant.host.is_ready:
            assert place.owner() == tenant.host.owner, f"a server that has just started is not found: {told(place)}"
        else:
            # One of the others has come back meanwhile, or is about to.
            assert tenant.host.refusal[0] == "ServerExists", f"{tenant.host.refusal}: {told(place)}"
            self._counts["names that were taken back"] += 1
        self._wait(lambda: not place.is_busy and place.owner() is not None, partial(told, place))
        for each in place.living:
            each.may_be_lost = each.host.owner != place.owner()
            if not each.may_be_lost:
                self._wait(partial(is_locked, place.lock.path), partial(told, place))
                each.know(is_new=False)

    def _attempt(self, place: Place, expected: str) -> None:
        """A start, which has to be refused with this error, or to succeed."""
        lost = [tenant.may_be_lost for tenant in place.living]
        tenant = self._start(place)
        self._wait(lambda: not tenant.host.is_starting, lambda: f"a start: {told(place)}")
        name, words = tenant.host.refusal
        assert name == expected, (
            f"a start at {place.address} {f'was refused: {name}: {words}' if name else 'succeeded'}, where it had to "
            f"{'be refused' if expected else 'succeed'}: {told(place)}"
        )
        self._wait(lambda: not place.is_busy, lambda: "the start is over")
        for other, was in zip(place.living, lost, strict=False):
            other.may_be_lost = was

    def run(self, seconds: float) -> None:
        finish = time.monotonic() + seconds
        for place in self._places:
            self._attempt(place, "")
        while time.monotonic() < finish:
            self._rest()
            self._storm(min(STORM_S, max(0.1, finish - time.monotonic())))
        self._rest()
        self._end()

    def _end(self) -> None:
        """End all. What the killed ones have left the next ones clear away, and nothing else is left."""
        for place in self._places:
            for tenant in place.living:
                if self._generator.random() < 0.3:
                    tenant.host.kill()
                else:
                    tenant.host.begin_to_stop()
        self._wait(lambda: not any(place.tenants for place in self._places), lambda: "all servers have ended")
        for place in self._places:
            self._attempt(place, "")
            place.tenants[0].host.begin_to_stop()
            self._wait(lambda: not any(place.tenants for place in self._places), lambda: "a server has stopped")
        self._finish.set()
        for connector in self._connectors:
            self._counts["connections"] += connector.result()
        for folder in (self._names, *self._runs):
            assert not (left := contents(folder)), f"left behind in {folder}: {left}"


def is_locked(path: Path) -> bool:
    """Whether there is a lock, and a server has it."""
    with suppress(FileNotFoundError), path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_lost(tenant: Tenant) -> bool:
    """Whether a server says that clients do not find it."""
    assert tenant.table is not None
    return bool(tenant.table.stats()["name_lost"])


def told(place: Place) -> str:
    servers = [
        f"{tenant.host.owner}{' is lost' if is_lost(tenant) else ''}{' and may be' if tenant.may_be_lost else ''}"
        for tenant in place.living
    ]
    there = [f"{spot.path.name}: {identity(spot.path)}" for spot in place.spots]
    return f"at {place.address} clients find {place.owner()!r}; there are servers {servers}; {there}"


def remove_all(folder: Path) -> None:
    """Remove a folder in which servers may be making files at the same time."""
    deadline = time.monotonic() + SETTLE_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        assert time.monotonic() < deadline, f"{folder} is never empty: {contents(folder)}"


def connect(addresses: list[str], seed: str, finish: Flag) -> int:
    """Connect here and there, and check who answers. Returns how often somebody has."""
    generator = random.Random(seed)
    answers = 0
    while not finish.is_set():
        name, address = generator.choice(list(zip("abcd", addresses, strict=True)))
        way = Way(address, generator.choice(WAYS))
        try:
            with way.connect() as table:
                owner = table.get(OWNER)
                assert owner is None or owner.decode().startswith(name), f"{owner!r} has answered at {address}"
                key = f"{os.getpid()} {answers}"
                table[key] = b"value"
                assert table[key] == b"value"
                answers += 1
                if table.transport == "lane" and generator.random() < 0.3:
                    with table.watch(key) as watch:
                        table[key] = b"other"
                        assert next(watch).key == key.encode()
        except (ringtable.TableNotFound, ringtable.ServerGone):
            pass
        time.sleep(generator.uniform(0, 0.02))
    return answers


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Clean for so long."""
    with ExitStack() as stack:
        Cleaner(folder, generator, counts, stack).run(seconds)
