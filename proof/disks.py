"""Kills servers that log their changes, and machines, and looks what is there afterwards.

    python -m proof.disks --help

Each writer has keys of its own, and does one thing after the other to them: it sets, increments, deletes, gives a time
to live, writes large values. It notes in memory that outlives it how far it has come with each key: what it has begun,
what was acknowledged, and what it knows to be on the disk: all that was acknowledged under `always`, else what it has
had flushed. Meanwhile the log is rewritten. Then one of these happens:

- **The server dies**, killed at a random instant, or ordered to end; the next one begins with its folder. Half of the
  servers have a keeper. Then servers and keepers are killed under the writers, too, who go on with the next one; and in
  the end the keeper and its server.
- **The machine dies.** The server stands still, and its folder is copied, as a disk may have it then: of each file that
  is being written, what was there when something in it was last confirmed stays; what came behind is cut off, or is
  zeroes or rubbish in places, or never had a page of it written. Another server begins with that.

What must not be:

- A key with a state before the one that was known to be on the disk; or, where the order to end came, before the one
  that was acknowledged; or with one that nobody has begun, or a torn one.
- A server that does not start from a folder that was left so.
- A call that hangs.
"""

import mmap
import random
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cyclopts
from ringtable import ServerGone, Table
from ringtable._cli.signals import interrupt_on_termination
from support import Child, Flag, KeptServer, ServerProcess, freeze

from proof import program
from proof.kills import own_folder
from proof.marks import Wrong

POLICIES = ("always", "everysec", "no")
WRITERS, KEYS = 3, 40
LIFE_S_MAX = 0.6
"""How long a server lives at most, before something happens."""

SIZES = (0, 10, 300, 4_000, 5_000, 60_000)
PAGE = 4_096
FLUSHED_EVERY = 50
"""Changes between two flushes of a writer, on average."""


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    servers_killed: int = 0
    servers_replaced: int = 0
    """That were killed, and followed by one that their keeper started."""

    keepers_killed: int = 0
    servers_ended: int = 0
    machines_killed: int = 0
    rewrites: int = 0
    changes: int = 0
    flushes: int = 0
    bytes_lost: int = 0
    """That were in files of machines that have died, and were cut off, or damaged."""

    changes_lost: int = 0
    """That nobody was told are on the disk."""

    seconds: float = 0.0
    forbidden: list[str] = field(default_factory=list)

    def deaths(self) -> int:
        return self.servers_killed + self.servers_replaced + self.keepers_killed + self.machines_killed


class Notes:
    """How far each writer has come with each key, in memory that all share, and that outlives them."""

    BEGUN, ACKNOWLEDGED, DURABLE, WORDS = 0, 1, 2, 3

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (WRITERS * KEYS * self.WORDS + 8))

    def get(self, writer: int, key: int, word: int) -> int:
        return int(struct.unpack_from("<Q", self._memory, 8 * ((writer * KEYS + key) * self.WORDS + word))[0])

    def set(self, writer: int, key: int, word: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * ((writer * KEYS + key) * self.WORDS + word), value)

    def copy(self) -> "Notes":
        other = Notes()
        other._memory[:] = self._memory[:]
        return other


def key_of(writer: int, key: int) -> bytes:
    return b"%d of %d" % (key, writer)


def number_after(before: int, choose: random.Random) -> int:
    """What comes behind a number: an even one is a value, and an odd one above it says that this was deleted."""
    is_deleted = before % 2 == 1 or before == 0
    return before + 1 if not is_deleted and choose.randrange(4) == 0 else (before // 2 + 1) * 2


def value_of(number: int, size: int) -> bytes:
    """A value that tells its number, however long it is."""
    word = b"%d;" % number
    return word + word * (size // len(word))


def number_of(value: bytes) -> int:
    """The number of a value.

    Raises:
        Wrong: It is none.
    """
    word = value.partition(b";")[0] + b";"
    if not word[:-1].isdigit() or value != word * (len(value) // len(word)):
        raise Wrong(f"there is a value that nobody has written: {value[:50]!r}")
    return int(word[:-1])


def write(writer: int, notes: Notes, always: bool, seed: int, finish: Flag) -> int:
    """Change keys until told to finish, or until the server has gone; return how many flushes there were."""
    choose, flushes = random.Random(seed), 0
    with Table("default", timeout=60, reconnect=False) as table, suppress(ServerGone):
        while not finish.is_set():
            key = choose.randrange(KEYS)
            name = key_of(writer, key)
            number = number_after(notes.get(writer, key, Notes.BEGUN), choose)
            notes.set(writer, key, Notes.BEGUN, number)
            if number % 2 == 1 and choose.randrange(2):
                table.delete(name)
            elif number % 2 == 1:
                table.get_and_delete(name)
            else:
                size, ttl = choose.choice(SIZES), choose.choice([None, None, 1_000])
                table.set(name, value_of(number, size), ttl=ttl, evictable=choose.choice([None, False]))
                if choose.randrange(4) == 0:
                    # Changes that leave the value as it is.
                    table.expire(name, 500)
                    table.persist(name)
            notes.set(writer, key, Notes.ACKNOWLEDGED, number)
            if always:
                notes.set(writer, key, Notes.DURABLE, number)
            elif choose.randrange(FLUSHED_EVERY) == 0:
                acknowledged = [notes.get(writer, one, Notes.ACKNOWLEDGED) for one in range(KEYS)]
                table.flush(durable=True)
                flushes += 1
                for one, known in enumerate(acknowledged):
                    notes.set(writer, one, Notes.DURABLE, known)
    return flushes


def changes_of(folder: Path) -> list[Path]:
    files = (folder / "appendonlydir").glob("*.incr.aof")
    return sorted(files, key=lambda file: int(file.name.split(".")[2]))


def image(folder: Path, sizes: dict[str, int], to: Path, choose: random.Random) -> int:
    """Copy a folder as the disk of a machine may have it that died; return how many bytes are not as they were.

    Args:
        folder: The folder of a server that stands still.
        sizes: What files of changes had when something was last confirmed; what is not there is on the disk as a whole.
        to: Where the copy goes.
        choose: Random choices.
    """
    shutil.copytree(folder, to)
    files, lost = changes_of(to), 0
    if not files:
        return 0
    # Whatever another file follows was synced before that was named.
    file = files[-1]
    data = bytearray(file.read_bytes())
    # What a batch says was on the disk before it cannot be lost by the machine's death.
    synced = [int(match[1]) for match in re.finditer(rb"^#ringtable-sum [0-9a-f]{16} \d+ (\d+)$", data, re.MULTILINE)]
    safe = min(max(sizes.get(file.name, len(data)), *synced, 0), len(data))
    cut = choose.randint(safe, len(data))
    for begin in range(safe // PAGE * PAGE, len(data), PAGE):
        first, end = max(begin, safe), min(begin + PAGE, len(data))
        match choose.randrange(6):
            case 0:
                data[first:end] = bytes(end - first)
            case 1:
                data[first:end] = choose.randbytes(end - first)
            case _:
                continue
        lost += end - first
    if choose.randrange(2):
        lost += len(data) - cut
        del data[cut:]
    file.write_bytes(data)
    return lost


def serving(folder: Path, policy: str, *, keeps: bool = False) -> AbstractContextManager[ServerProcess]:
    options = ("--data", str(folder), "--log", "--fsync", policy)
    return KeptServer(*options, max_memory="64MiB") if keeps else ServerProcess(*options, "--max-memory", "64MiB")


def check(folder: Path, notes: Notes, least: int, found: Found) -> None:
    """Look what a server finds in a folder.

    Raises:
        Wrong: It is not what has to be there.
    """
    with serving(folder, "no") as server, Table("default", timeout=60) as table:
        for writer in range(WRITERS):
            for key in range(KEYS):
                value = table.get(key_of(writer, key))
                begun, known = notes.get(writer, key, Notes.BEGUN), notes.get(writer, key, least)
                words = f"key {key} of writer {writer}: known {known}, begun {begun}"
                if value is None:
                    # It was deleted, or never written: by the last thing that is known, or by one that was begun.
                    if known and known % 2 == 0 and begun == known:
                        raise Wrong(f"{words}, and it is gone")
                    continue
                number = number_of(value)
                if not known <= number <= begun:
                    raise Wrong(f"{words}, and there is {number}")
                found.changes_lost += begun - number
        server.kill()


def live_and_die(folder: Path, notes: Notes, policies: Sequence[str], choose: random.Random, found: Found) -> None:
    """One server, from its start to its death, and what comes behind."""
    policy = choose.choice(policies)
    keeps = choose.randrange(2) == 0
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder, policy, keeps=keeps))
        finish = stack.enter_context(Flag())
        children = [
            stack.enter_context(Child(write, writer, notes, policy == "always", choose.getrandbits(32), finish))
            for writer in range(WRITERS)
        ]
        table = stack.enter_context(Table("default", timeout=60, reconnect=False))
        deadline, sizes = time.monotonic() + choose.uniform(0.02, LIFE_S_MAX), {}
        while time.monotonic() < deadline:
            for child in children:
                # Under a keeper one may have been told that nobody has the answer to what it had asked.
                if not (keeps and child.has_ended()):
                    child.check()
            if choose.randrange(10) == 0:
                table.call("BGREWRITEAOF")
                found.rewrites += 1
            if isinstance(server, KeptServer) and choose.randrange(10) == 0:
                if choose.randrange(3) == 0:
                    server.kill_keeper()
                    found.keepers_killed += 1
                else:
                    server.kill_server()
                    found.servers_replaced += 1
            time.sleep(choose.uniform(0, 0.05))
        fate = choose.choice(["killed", "killed", "ended", "machine", "machine"])
        least = Notes.DURABLE
        if fate == "machine":
            # What is known now is on the disk, in files of at least these sizes.
            before = notes.copy()
            for file in changes_of(folder):
                # A rewrite may remove one meanwhile.
                with suppress(FileNotFoundError):
                    sizes[file.name] = file.stat().st_size
            time.sleep(choose.uniform(0, 0.05))
            serves = server.server_pid if isinstance(server, KeptServer) else server.pid
            freeze(serves)
            with tempfile.TemporaryDirectory() as copies:
                copy = Path(copies, "image")
                found.bytes_lost += image(folder, sizes, copy, choose)
                begun = notes.copy()
                for writer in range(WRITERS):
                    for key in range(KEYS):
                        begun.set(writer, key, Notes.DURABLE, before.get(writer, key, Notes.DURABLE))
                server.kill()
                end_all(children, found)
                check(copy, begun, Notes.DURABLE, found)
            found.machines_killed += 1
        elif fate == "ended":
            finish.set()
            end_all(children, found)
            if server.stop() != 0:
                raise Wrong("a server that was told to end did not end in order")
            least = Notes.ACKNOWLEDGED
            found.servers_ended += 1
        else:
            server.kill()
            end_all(children, found)
            found.servers_killed += 1
    check(folder, notes, least, found)
    # What is there is what the next writers begin with.
    settle(folder, notes, found)


def end_all(children: list[Child], found: Found) -> None:
    found.flushes += sum(child.result() for child in children)


def settle(folder: Path, notes: Notes, found: Found) -> None:
    """Take note of what is there now, which a last flush brings to the disk."""
    with serving(folder, "no") as server, Table("default", timeout=60) as table:
        for writer in range(WRITERS):
            for key in range(KEYS):
                begun = notes.get(writer, key, Notes.BEGUN)
                found.changes += begun
                value = table.get(key_of(writer, key))
                number = number_of(value) if value is not None else 0
                for word in (Notes.BEGUN, Notes.ACKNOWLEDGED, Notes.DURABLE):
                    notes.set(writer, key, word, number)
        server.stop()


def run(policies: Sequence[str], kills: int, seconds: float, found: Found) -> None:
    choose, notes = random.Random(found.seed), Notes()
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="ringtable-proof-") as parent:
        folder = Path(parent, "data")
        while found.deaths() < kills and time.monotonic() < deadline:
            live_and_die(folder, notes, policies, choose, found)


app = cyclopts.App(name="python -m proof.disks", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    policy: Sequence[str] = POLICIES,
    kills: int = 1_000,
    seconds: float = 60.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Kill servers that log their changes, and machines, and look what is there afterwards.

    Args:
        policy: When changes are synced: always, everysec, no; may be given more than once.
        kills: How many deaths.
        seconds: Stop after so long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    found = Found(program.begin(seed))

    def work() -> None:
        with own_folder():
            run(policy, kills, seconds, found)

    return program.run(work, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
