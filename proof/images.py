"""Lets machines die at each step of what a server writes, and disks that break, and looks what is there afterwards.

    scripts/failpoints.sh --run python -m proof.images --help

It needs a build with failpoints: that one writes down each step that changes the disk, and lets steps fail. A server
keeps its table in a folder (a log under one of its policies, or snapshots alone), while clients write, and have flushed
or saved what they wrote; each notes how much was written down when it began something, and when it knew that this is on
the disk. In some lives a sync, a write or a new name fails meanwhile, once or a few times. Then for many steps, all
syncs and all changes of names among them, there is a disk that a machine which dies there may find
(`proof/recording.py`), and a server that begins with it.

What must not be:

- A server that does not start from such a disk.
- A key without what was known to be on the disk at that step, or with what nobody has begun until then, or torn.
"""

import errno
import os
import random
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cyclopts
import ringtable
from ringtable import Server, Table, _ringtable
from ringtable._cli.signals import interrupt_on_termination
from support import Child, Flag, ServerProcess, is_there, wait_until

from proof import program
from proof.disks import key_of, number_after, number_of, value_of
from proof.kills import own_folder
from proof.marks import Wrong
from proof.recording import Disk, Step, steps

POLICIES: dict[str, dict[str, Any]] = {
    "always": {"log": True, "fsync": "always"},
    "everysec": {"log": True, "fsync": "everysec"},
    "no": {"log": True, "fsync": "no"},
    "snapshots": {},
}
FAILURES = [
    ("sync", errno.EIO),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("create", errno.ENOSPC),
    ("rename", errno.EIO),
]
REFUSALS = (ringtable.FileError, ringtable.CommandError, ringtable.ServerGone)
"""What a call raises while the disk fails."""

WRITERS, KEYS = 2, 12
SIZES = (0, 10, 300, 5_000, 60_000)
CHANGES = 150
"""Of each writer in a life."""

FLUSHED_EVERY = 12
REFUSED_S = 0.01
"""Between a write that was refused and the next one."""

IMAGES = 60
"""Of each life."""


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    lives: int = 0
    steps: int = 0
    steps_failed: int = 0
    """At most: those that were told to."""

    writes_refused: int = 0
    images: int = 0
    seconds: float = 0.0
    forbidden: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failing:
    """So many steps of a kind fail with the error of a number, behind some that do not."""

    kind: str
    number: int
    before: int
    count: int


@dataclass
class Notes:
    """What a writer has done to a key: numbers, and how long the recording was then, in bytes."""

    begun: list[tuple[int, int]] = field(default_factory=list)
    durable: list[tuple[int, int]] = field(default_factory=list)

    def known(self, length: int) -> int:
        """What is on the disk for certain when so much was written down."""
        return max((number for at, number in self.durable if at <= length), default=0)

    def possible(self, length: int) -> set[int]:
        """All numbers that it may have then."""
        known = self.known(length)
        begun = self.begun[: bisect_right(self.begun, length, key=lambda note: note[0])]
        return {known, *(number for _, number in begun if number >= known)}


@dataclass
class Life:
    """What a server has written down, and its clients have noted."""

    policy: str
    failing: Failing | None
    steps: list[Step]
    notes: list[list[Notes]]
    refused: int
    """Writes whose end nobody knows."""


def serve(folder: Path, policy: str, recording: Path, failing: Failing | None, finish: Flag) -> None:
    """Serve, with all steps written down, until told to finish."""
    core = vars(_ringtable)
    core["record_disk"](recording)
    with Server(data=folder, max_memory="64MiB", workers=2, **POLICIES[policy]):
        if failing is not None:
            core["fail_disk"](failing.kind, failing.number, before=failing.before, count=failing.count)
        finish.wait()


def write(writer: int, policy: str, recording: Path, seed: int) -> tuple[list[Notes], int]:
    """Change keys; return what was noted of each, and how many writes were refused since the disk fails."""
    choose, refused = random.Random(seed), 0
    notes = [Notes() for _ in range(KEYS)]

    def length() -> int:
        return os.stat(recording).st_size

    with Table("default", timeout=60) as table:
        acknowledged = [0] * KEYS
        for _ in range(CHANGES):
            key = choose.randrange(KEYS)
            note, name = notes[key], key_of(writer, key)
            number = number_after(note.begun[-1][1] if note.begun else 0, choose)
            note.begun.append((length(), number))
            try:
                if number % 2 == 1:
                    table.delete(name)
                else:
                    table.set(name, value_of(number, choose.choice(SIZES)), ttl=choose.choice([None, 1_000]))
                acknowledged[key] = number
                if policy == "always":
                    note.durable.append((length(), number))
                elif choose.randrange(FLUSHED_EVERY) == 0:
                    now = list(acknowledged)
                    if policy == "snapshots":
                        table.call("SAVE")
                    else:
                        table.flush(durable=True)
                    at = length()
                    for other, known in zip(notes, now, strict=True):
                        other.durable.append((at, known))
            except REFUSALS:
                # Nobody knows what has become of it. The next rewrite mends the log.
                refused += 1
                time.sleep(REFUSED_S)
    return notes, refused


def check(disk: Path, life: Life, step: Step) -> None:
    """Look what a server finds on a disk.

    Raises:
        Wrong: It is not what has to be there.
    """
    place = f"{life.policy}, {life.failing}, behind the {step.kind} that ends at byte {step.end}"
    log = ("--log", "--fsync", "no") if life.policy != "snapshots" else ()
    try:
        server = ServerProcess("--data", str(disk), *log, "--max-memory", "64MiB")
    except AssertionError as error:
        raise Wrong(f"{place}: no server starts from what is there") from error
    with server, Table("default", timeout=60) as table:
        for writer, of_writer in enumerate(life.notes):
            for key, note in enumerate(of_writer):
                value = table.get(key_of(writer, key))
                possible = note.possible(step.end)
                number = number_of(value) if value is not None else None
                is_fine = any(one % 2 == 1 or one == 0 for one in possible) if number is None else number in possible
                if not is_fine:
                    words = "it is gone" if number is None else f"there is {number}"
                    known = f"{note.known(step.end)} is known, {sorted(possible)} are possible"
                    raise Wrong(f"{place}: of key {key} of writer {writer} {known}, and {words}")
        if server.stop() != 0:
            raise Wrong(f"{place}: a server that began with that does not end in order")


def points(all_steps: list[Step], choose: random.Random, count: int) -> set[int]:
    """Where machines die: behind steps of all kinds, and those that are not writes first."""
    turns = [index for index, step in enumerate(all_steps) if step.kind != "write"]
    return set(
        choose.sample(turns, min(count * 3 // 4, len(turns))) + choose.choices(range(len(all_steps)), k=count // 4)
    )


def live(place: Path, policy: str, failing: Failing | None, choose: random.Random) -> Life:
    """Have a server from its start to its end, with its data in the folder "data", which is there and empty."""
    folder, recording = place / "data", place / "recording"
    recording.touch()
    with ExitStack() as stack:
        finish = stack.enter_context(Flag())
        server = stack.enter_context(Child(serve, folder, policy, recording, failing, finish))
        wait_until(is_there, "the server serves")
        writers = [
            stack.enter_context(Child(write, writer, policy, recording, choose.getrandbits(32)))
            for writer in range(WRITERS)
        ]
        with Table("default", timeout=60) as table:
            while not all(writer.has_ended() for writer in writers):
                if policy != "snapshots" and choose.randrange(4) == 0:
                    with suppress(*REFUSALS):
                        table.call("BGREWRITEAOF")
                time.sleep(choose.uniform(0, 0.01))
        results = [writer.result() for writer in writers]
        finish.set()
        server.result()
    notes = [of_writer for of_writer, _ in results]
    return Life(policy, failing, list(steps(recording.read_bytes())), notes, sum(refused for _, refused in results))


def die(place: Path, disk: Disk, life: Life, count: int, choose: random.Random) -> int:
    """Let machines die in a life, and look what they find; return how many did.

    Raises:
        Wrong: It is not what has to be there.
    """
    dying = points(life.steps, choose, count)
    for index, step in enumerate(life.steps):
        disk.take(step)
        if index in dying:
            with tempfile.TemporaryDirectory(dir=place) as copies:
                image = Path(copies, "image")
                disk.image(image, choose)
                check(image, life, step)
    return len(dying)


def live_and_die(policy: str, failing: Failing | None, choose: random.Random, found: Found, images: int) -> None:
    """A life of a server, and what machines find that die in it."""
    with tempfile.TemporaryDirectory(prefix="ringtable-proof-") as place:
        folder = Path(place, "data")
        folder.mkdir(mode=0o700)
        disk = Disk(folder)
        life = live(Path(place), policy, failing, choose)
        found.lives += 1
        found.steps += len(life.steps)
        found.writes_refused += life.refused
        found.steps_failed += 0 if failing is None else failing.count
        found.images += die(Path(place), disk, life, images, choose)


def run(policies: Sequence[str], kinds: Sequence[str], seconds: float, found: Found) -> None:
    choose = random.Random(found.seed)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or found.lives == 0:
        policy, failing = choose.choice(list(policies)), None
        if kinds or choose.randrange(2):
            kind, number = choose.choice([failure for failure in FAILURES if failure[0] in kinds] or FAILURES)
            before = choose.randrange(60 if kind in ("sync", "write") else 6)
            failing = Failing(kind, number, before, choose.choice([1, 1, 2, 20]))
        live_and_die(policy, failing, choose, found, IMAGES)


app = cyclopts.App(name="python -m proof.images", help=__doc__, version_flags=[])


@app.default
def main(
    *,
    policy: Sequence[str] = tuple(POLICIES),
    failing: Sequence[str] = (),
    seconds: float = 60.0,
    seed: int | None = None,
    json_: program.JsonFile = None,
) -> int:
    """Let machines die at each step of what a server writes, and disks break.

    Args:
        policy: How servers keep their tables: always, everysec, no, snapshots; may be given more than once.
        failing: In each life steps of this kind fail: sync, write, create, rename; may be given more than once. In half
            of the lives some of any kind, unless given.
        seconds: Begin no further life after so long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    found = Found(program.begin(seed))

    def work() -> None:
        with own_folder():
            run(policy, failing, seconds, found)

    return program.run(work, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
