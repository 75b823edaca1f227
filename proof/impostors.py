"""Other users who listen where a client looks for its server: not a byte is sent to them.

There are some folders, of several users, with several modes, and links to them. In each somebody listens, who is
replaced by somebody else again and again: a server of some user, or a recorder, which writes down what comes, and says
what a server might say. Clients of several users connect to all of them by names and by paths, trust some other users
or nobody, and keep tables that connect anew. Each either refuses (`Untrusted`), as it has to, or works. Whoever
answers is trusted; and no recorder has got anything. Servers of several users try to start there, too.

To become other users needs root; without, there is only one user, and folders that others may write to, and links.
"""

import mmap
import os
import random
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ringtable
from ringtable import Server, Table
from support import Child, Flag, become, wait_until

from proof.hosts import OWNER, SMALL

IS_ROOT = os.geteuid() == 0
USERS: tuple[int, ...] = (0, 1, 2) if IS_ROOT else (os.geteuid(),)
STRANGER = 65_534
"""Whom nobody trusts: recorders are this user's."""

MODES = (0o755, 0o755, 0o755, 0o775, 0o757, 0o777, 0o1777, 0o1755)
SCENES = 4
CLIENTS = 3
TABLES_MAX = 4
SCENE_S_MAX = 0.4
"""For how long somebody listens in a folder."""

SETTLE_S = 10.0
SOCKET = "app.sock"
WAYS: tuple[dict[str, Any], ...] = ({}, {"reads": "server"}, {"transport": "socket"}, {"reconnect": False})
NOBODY, SERVER, RECORDER = range(3)
WORDS = (b"", b"+OK\r\n", b"$3\r\nyes\r\n", b"-ERR no\r\n", b"+LANE\r\n", b"+LANE fffffffff3\r\n")
"""What a recorder says without being asked."""


class Board:
    """What all processes of a turn see: who listens in which scene, and what recorders have got."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self, scene: int, kind: int, user: int) -> None:
        version, *_ = self.get(scene)
        struct.pack_into("<QQQ", self._memory, 64 * scene, version + 1, kind, user)

    def get(self, scene: int) -> tuple[int, int, int]:
        """How often it has changed, the kind of who listens, and the user."""
        version, kind, user = struct.unpack_from("<QQQ", self._memory, 64 * scene)
        return version, kind, user

    def record(self, connections: int, said: bytes) -> None:
        before, size = self.recorded()
        struct.pack_into("<QQ", self._memory, 2_048, before + connections, size + len(said))

    def recorded(self) -> tuple[int, int]:
        """How many connections recorders had, and how many bytes came."""
        connections, size = struct.unpack_from("<QQ", self._memory, 2_048)
        return connections, size


@dataclass(frozen=True)
class Scene:
    """A folder in which somebody listens."""

    number: int
    folder: Path
    link: Path
    owner: int
    mode: int

    def is_for(self, trusted: set[int], is_link: bool) -> bool:
        """Whether it serves as a folder of names."""
        is_open = bool(self.mode & 0o022) and not self.mode & 0o1000
        return not is_link and self.owner in trusted and not is_open


# Those who listen


def listen(scene: Scene, kind: int, user: int, ready: Flag, finish: Flag, board: Board, seed: str) -> None:
    if IS_ROOT:
        become(user)
    address = f"{scene.folder}/{SOCKET}"
    if kind == SERVER:
        with Server(address, mode=0o666, **SMALL):
            with Table(address, transport="socket") as table:
                table[OWNER] = b"%d" % user
            ready.set()
            finish.wait(600)
        return
    generator = random.Random(seed)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(address)
        os.chmod(address, 0o666)
        listener.listen()
        ready.set()
        connections: list[socket.socket] = []
        while not finish.is_set():
            for found in select.select([listener, *connections], [], [], 0.01)[0]:
                if found is listener:
                    connection, _ = listener.accept()
                    connections.append(stack.enter_context(connection))
                    board.record(1, b"")
                    with suppress(OSError):
                        connection.send(generator.choice(WORDS))
                    continue
                said = b""
                with suppress(OSError):
                    said = found.recv(1 << 16)
                board.record(0, said)
                if not said:
                    connections.remove(found)
                    found.close()
        # What came while nobody looked.
        for connection in connections:
            with suppress(OSError):
                board.record(0, connection.recv(1 << 16, socket.MSG_DONTWAIT))
    with suppress(FileNotFoundError):
        os.unlink(address)


class Listener:
    """Who listens in a scene, from the constructor's end until `stop`."""

    def __init__(self, scene: Scene, kind: int, user: int, board: Board, seed: str, stack: ExitStack) -> None:
        self._scene, self._board = scene, board
        self._finish = stack.enter_context(Flag())
        with Flag() as ready:
            self._child = stack.enter_context(Child(listen, scene, kind, user, ready, self._finish, board, seed))
            child = self._child
            wait_until(lambda: ready.is_set() or child.has_ended(), "somebody listens", SETTLE_S)
            if not ready.is_set():
                child.result()
        scene.folder.chmod(scene.mode)
        board.set(scene.number, kind, user)

    def stop(self) -> None:
        self._board.set(self._scene.number, NOBODY, 0)
        # For whoever it is, to remove the socket, and for whoever comes next, to make one.
        self._scene.folder.chmod(0o777)
        self._finish.set()
        self._child.result()


# Clients


def name(scene: Scene, generator: random.Random) -> tuple[str, bool, bool]:
    """An address in a scene, whether it is in a directory of names, and whether that is a link."""
    is_named, is_link = generator.random() < 0.6, generator.random() < 0.2
    folder = scene.link if is_link else scene.folder
    if not is_named:
        return f"{folder}/{SOCKET}", False, is_link
    os.environ["RINGTABLE_DIR"] = str(folder)
    return (SOCKET.removesuffix(".sock") if generator.random() < 0.6 else f"{folder}/{SOCKET}"), True, is_link


def visit(scenes: Sequence[Scene], user: int, board: Board, seed: str, finish: Flag) -> Counter[str]:
    """Connect everywhere as that user, and see that it is refused where it has to be, and nowhere else."""
    if IS_ROOT:
        become(user)
    generator = random.Random(seed)
    counts: Counter[str] = Counter()
    tables: list[tuple[Table, set[int]]] = []
    while not finish.is_set():
        scene = generator.choice(scenes)
        os.environ["RINGTABLE_DIR"] = "/"
        address, is_named, is_link = name(scene, generator)
        trust = generator.sample(USERS, generator.randrange(len(USERS)))
        trusted = {user, 0, *trust}
        before = board.get(scene.number)
        outcome, table = "works", None
        try:
            table = Table(address, trust_user=trust, **generator.choice(WAYS))
            check_owner(table, trusted)
        except ringtable.Untrusted:
            outcome = "refuses"
        except (ringtable.TableNotFound, ringtable.ServerGone, ringtable.AccessDenied):
            # A server that begins to listen has not opened the socket to others yet.
            outcome = "finds nobody"
        _, kind, who = before
        expected = "refuses" if who not in trusted or (is_named and not scene.is_for(trusted, is_link)) else "works"
        # If nobody listens, that is about to change, and so is the folder's mode.
        if board.get(scene.number) == before and kind != NOBODY:
            assert outcome == expected, (
                f"user {user}, who trusts {trusted}, {outcome}, and does not do what it should ({expected}) at "
                f"{address} ({'named' if is_named else 'path'}, {'link' if is_link else 'no link'}): {scene}, where "
                f"{('nobody', 'a server', 'a recorder')[kind]} of user {who} listens"
            )
            counts[f"clients: {outcome}"] += 1
        if table is not None:
            tables.append((table, trusted))
        for other, trusts in list(tables):
            with suppress(ringtable.Untrusted, ringtable.TableNotFound, ringtable.ServerGone, ringtable.AccessDenied):
                check_owner(other, trusts)
        while len(tables) > TABLES_MAX:
            tables.pop(0)[0].close()
        time.sleep(generator.uniform(0, 0.004))
    for table, _ in tables:
        table.close()
    return counts


def check_owner(table: Table, trusted: set[int]) -> None:
    """See that a trusted user has answered."""
    table["key"] = b"secret"
    owner = table.get(OWNER)
    assert owner is None or int(owner) in trusted, f"a server of user {owner!r} has answered, who is not in {trusted}"


def start_servers(scenes: Sequence[Scene], user: int, seed: str, finish: Flag) -> Counter[str]:
    """Start servers in folders of names as that user: where others could put what they like, none starts."""
    if IS_ROOT:
        become(user)
    generator = random.Random(seed)
    counts: Counter[str] = Counter()
    while not finish.is_set():
        scene, is_link = generator.choice(scenes), generator.random() < 0.2
        os.environ["RINGTABLE_DIR"] = str(scene.link if is_link else scene.folder)
        may_write = user in (0, scene.owner) or bool(scene.mode & 0o002)
        is_for = scene.is_for({user, 0}, is_link)
        expected = ("starts" if may_write else "may not") if is_for else "refuses"
        try:
            with Server(f"server-{user}-{os.getpid()}", **SMALL):
                outcome = "starts"
        except ringtable.Untrusted:
            outcome = "refuses"
        except ringtable.AccessDenied:
            outcome = "may not"
        assert outcome == expected, f"a server of user {user} {outcome}, and has not {expected}: {scene}, {is_link=}"
        counts[f"servers: {outcome}"] += 1
        time.sleep(generator.uniform(0, 0.02))
    return counts


def make_scene(number: int, folder: Path, generator: random.Random) -> Scene:
    owner, mode = generator.choice(USERS), generator.choice(MODES)
    scene = Scene(number, folder / f"scene {number}", folder / f"link {number}", owner, mode)
    scene.folder.mkdir()
    scene.link.symlink_to(scene.folder.name)
    if IS_ROOT:
        os.chown(scene.folder, scene.owner, scene.owner)
    scene.folder.chmod(scene.mode)
    return scene


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Let others listen for so long."""
    # Everybody may look into it.
    for each in (folder, folder.parent):
        each.chmod(0o755)
    finish = time.monotonic() + seconds
    board = Board()
    with ExitStack() as stack:
        done = stack.enter_context(Flag())
        scenes = [make_scene(number, folder, generator) for number in range(SCENES)]
        others = [make_scene(SCENES + number, folder, generator) for number in range(SCENES)]
        listeners = {scene: replace(scene, None, board, generator, stack) for scene in scenes}
        ends = {scene: time.monotonic() + generator.uniform(0, SCENE_S_MAX) for scene in scenes}
        users = [generator.choice(USERS) for _ in range(CLIENTS)]
        visitors = [
            stack.enter_context(Child(visit, scenes, user, board, f"{generator.random()}", done)) for user in users
        ]
        seed = f"{generator.random()}"
        visitors.append(stack.enter_context(Child(start_servers, others, generator.choice(USERS), seed, done)))
        while time.monotonic() < finish:
            for visitor in visitors:
                visitor.check()
            for scene in scenes:
                if time.monotonic() > ends[scene]:
                    listeners[scene] = replace(scene, listeners[scene], board, generator, stack)
                    ends[scene] = time.monotonic() + generator.uniform(0, SCENE_S_MAX)
                    counts["listeners"] += 1
            connections, size = board.recorded()
            assert size == 0, f"{size} bytes were sent to a user whom nobody trusts"
            time.sleep(0.005)
        done.set()
        for visitor in visitors:
            counts.update(visitor.result())
        for listener in listeners.values():
            listener.stop()
        connections, size = board.recorded()
        counts["connections to recorders"] += connections
        assert size == 0, f"{size} bytes were sent to a user whom nobody trusts"
    left = [path for scene in (*scenes, *others) for path in scene.folder.iterdir()]
    assert not left, f"left behind: {left}"


def replace(
    scene: Scene, before: Listener | None, board: Board, generator: random.Random, stack: ExitStack
) -> Listener:
    """Let somebody else listen in a scene."""
    if before is not None:
        before.stop()
    kind = generator.choice((SERVER, SERVER, RECORDER)) if IS_ROOT else SERVER
    user = STRANGER if kind == RECORDER else generator.choice((*USERS, STRANGER) if IS_ROOT else USERS)
    scene.folder.chmod(0o777)
    return Listener(scene, kind, user, board, f"{generator.random()}", stack)
