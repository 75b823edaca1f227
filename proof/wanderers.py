"""Processes that change their folder and their environment while they use tables: a table stays with its server.

In each of some folders there is a server of the same name; whose it is, it says itself. Clients name them in all ways
in which one can, relative ones above all, and wander about between their calls, connect anew, watch, fork, and pickle
their tables. The servers wander, too, and are stopped, killed and replaced by others, which were started by relative
paths. Whoever answers is of the folder that the address meant when it was given.
"""

import os
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ringtable
from ringtable import Table
from support import Child, Flag, contents

from proof.hosts import OWNER, Host, Manner

CLIENTS = 3
TABLES_MAX = 5
LIFE_S_MAX = 0.4
"""Of a server."""

ABSENCE_S_MAX = 0.05
SETTLE_S = 10.0
NAME = "app"
SOCKET = f"{NAME}.sock"
WAYS: tuple[dict[str, Any], ...] = ({}, {"reads": "server"}, {"transport": "socket"})
TOPOLOGIES = ("lanes", "lanes", "shared")


def wander(folders: Sequence[Path], generator: random.Random) -> None:
    """Have another current folder and another directory of names."""
    os.chdir(generator.choice(folders))
    os.environ["RINGTABLE_DIR"] = str(generator.choice(folders))


def name(folder: Path, folders: Sequence[Path], generator: random.Random) -> str | Path:
    """An address of the server in a folder, as the current folder and the environment are from now on."""
    wander(folders, generator)
    here = Path.cwd()
    ways: list[Callable[[], str | Path]] = [
        lambda: f"{folder}/{SOCKET}",
        lambda: f"unix://{folder}/{SOCKET}",
        lambda: folder / SOCKET,
        lambda: in_folder(folder, f"./{SOCKET}"),
        lambda: in_folder(folder, Path(SOCKET)),
        lambda: f"./{os.path.relpath(folder, here)}/{SOCKET}",
        lambda: with_names(str(folder)),
        lambda: with_names(os.path.relpath(folder, here)),
    ]
    if folder.name == "ringtable":
        ways.append(lambda: with_runtime(folder.parent))
    return generator.choice(ways)()


def in_folder(folder: Path, address: str | Path) -> str | Path:
    os.chdir(folder)
    return address


def with_names(folder: str) -> str:
    os.environ["RINGTABLE_DIR"] = folder
    return NAME


def with_runtime(folder: Path) -> str:
    del os.environ["RINGTABLE_DIR"]
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    return NAME


def ask(table: Table, folder: Path) -> None:
    """See that it is the folder's server that answers."""
    address = os.path.normpath(table.address)
    assert address == f"{folder}/{SOCKET}", f"a table of {folder} has the address {table.address}"
    owner = table.get(OWNER)
    # A server that has just started has not said it yet.
    assert owner is None or owner.startswith(bytes(folder)), f"{owner!r} has answered instead of {folder}"
    table["asked"] = bytes(folder)
    assert table["asked"] == bytes(folder)


def copy(table: Table, folder: Path) -> None:
    with pickle.loads(pickle.dumps(table)) as other:
        ask(other, folder)


def ask_in_child(table: Table, folder: Path) -> None:
    def run() -> bool:
        # The server may be gone by now.
        with suppress(ringtable.TableNotFound, ringtable.ServerGone):
            ask(table, folder)
        return True

    with Child(run) as child:
        child.result()


def watch(table: Table, folder: Path) -> None:
    """Whoever watches a table sees what is written to it."""
    if table.transport != "lane":
        return
    key = f"watched {os.getpid()}"
    with table.watch(key, timeout=SETTLE_S) as watching:
        table[key] = b"value"
        try:
            assert next(watching).key == key.encode()
        except ringtable.Timeout as error:
            raise AssertionError(f"a watch of {folder} has not seen what was written there") from error


def roam(folders: Sequence[Path], seed: str, finish: Flag) -> int:
    """Use tables of all folders. Returns how often one was asked."""
    generator = random.Random(seed)
    tables: list[tuple[Table, Path]] = []
    asked = 0
    acts: list[tuple[Callable[[Table, Path], None], int]] = [(ask, 8), (copy, 2), (watch, 3), (ask_in_child, 1)]
    calls, weights = zip(*acts, strict=True)
    while not finish.is_set():
        if len(tables) < TABLES_MAX and generator.random() < 0.3:
            folder = generator.choice(folders)
            address = name(folder, folders, generator)
            with suppress(ringtable.TableNotFound, ringtable.ServerGone):
                options = {**generator.choice(WAYS), "reconnect": generator.random() < 0.7}
                tables.append((Table(address, **options), folder))
        wander(folders, generator)
        if tables:
            table, folder = generator.choice(tables)
            try:
                generator.choices(calls, weights)[0](table, folder)
                asked += 1
            except (ringtable.TableNotFound, ringtable.ServerGone):
                if not table.reconnect or generator.random() < 0.1:
                    table.close()
                    tables.remove((table, folder))
        time.sleep(generator.uniform(0, 0.004))
    for table, _ in tables:
        table.close()
    return asked


def turn(folder: Path, generator: random.Random, seconds: float, counts: Counter[str]) -> None:
    """Wander about for so long."""
    folders = [folder / "one", folder / "two", folder / "three" / "ringtable"]
    for each in folders:
        each.mkdir(parents=True, mode=0o700)
    finish = time.monotonic() + seconds
    with ExitStack() as stack:
        done = stack.enter_context(Flag())

        def start(place: Path) -> Host:
            manner = Manner.of(generator, [str(each) for each in folders])
            address = name(place, folders, generator)
            host = Host(address, str(place), manner, f"{generator.random()}", topology=generator.choice(TOPOLOGIES))
            stack.callback(host.close)
            counts["servers"] += 1
            return host

        hosts = {place: start(place) for place in folders}
        ends = {place: time.monotonic() + generator.uniform(0, LIFE_S_MAX) for place in folders}
        seeds = [f"{generator.random()}" for _ in range(CLIENTS)]
        clients = [stack.enter_context(Child(roam, folders, seed, done)) for seed in seeds]

        def look() -> None:
            for client in clients:
                client.check()
            for host in hosts.values():
                host.look()
                assert host.is_starting or host.is_ready, f"a start at {host.address} was refused: {host.refusal}"

        def end(place: Path) -> None:
            host = hosts[place]
            host.wait()
            if generator.random() < 0.3:
                host.kill()
                counts["kills"] += 1
            else:
                host.begin_to_stop()
                host.result()
            host.close()

        while time.monotonic() < finish:
            look()
            for place in folders:
                if time.monotonic() > ends[place]:
                    end(place)
                    time.sleep(generator.uniform(0, ABSENCE_S_MAX))
                    hosts[place] = start(place)
                    ends[place] = time.monotonic() + generator.uniform(0, LIFE_S_MAX)
            time.sleep(0.005)
        done.set()
        for client in clients:
            counts["questions"] += client.result()
        for place in folders:
            end(place)
            # What a killed one has left goes with the next one.
            hosts[place] = start(place)
            hosts[place].wait()
            hosts[place].begin_to_stop()
            hosts[place].result()
    left = {place: found for place in folders if (found := contents(place))}
    assert not left, f"left behind: {left}"
