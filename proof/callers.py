"""Clients that are short of something: of turns among threads of one table, of memory, of threads."""

import os
import random
import resource
import threading
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import ringtable
from ringtable import OutOfMemory, Table
from support import Way, own_ringtable_memory, room_for, wait_until

from proof.marks import Mark, Wrong, make

CALL_S_MAX = 20.0
"""No call takes as long, unless it waits for itself."""

Figures = dict[str, int]
"""What was done, by name."""


def own_key(seed: int, index: int) -> bytes:
    return b"caller %d key %d" % (seed, index)


# Threads that share a table


THREADS = 4
WRITTEN_SIZE = 3_000_000
"""Of a value whose writing takes a millisecond or two, so that whoever waits for its turn has waited for long then."""

CALLS_MIN = 40
"""Of fewer calls nothing is said."""

OVERTAKEN_MAX = 0.25
"""How many others a call may be overtaken by on average, beyond the one turn that each of them has before it.

Between the look at the others and the queue a thread may stand still, on a machine that has no time for it.
"""


def rounds_until(deadline: float) -> Iterator[None]:
    """Rounds until that time by the monotonic clock, and one at least, on however busy a machine."""
    yield
    while time.monotonic() < deadline:
        yield


def share(way: Way, seed: int, seconds: float) -> Figures:
    """Threads that call one table without a pause: who has waited for long comes next, so that all have their turns.

    Turns are counted, and not seconds: where the machine has no time for us, it has none for the others.
    """
    deadline = time.monotonic() + seconds
    turns: list[int] = [0] * THREADS
    waited: list[list[int]] = [[] for _ in turns]
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            key = own_key(seed, number)
            values = [make(key, Mark(turn, 0, WRITTEN_SIZE)) for turn in range(3)]
            for _ in rounds_until(deadline):
                if wrong:
                    return
                value = values[turns[number] % len(values)]
                before = sum(turns) - turns[number]
                table.set(key, value)
                waited[number].append(sum(turns) - turns[number] - before)
                turns[number] += 1
                if turns[number] % 20 == 0 and table[key] != value:
                    raise Wrong(f"{key!r} has not the value that was written last")
        except BaseException as error:
            wrong.append(error)

    with way.connect(timeout=CALL_S_MAX) as table:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for error in wrong:
        raise error
    waits = [count for each in waited for count in each]
    overtaken = sum(max(0, count - (THREADS - 1)) for count in waits)
    if overtaken > OVERTAKEN_MAX * max(len(waits), CALLS_MIN):
        raise Wrong(
            f"{len(waits)} calls of {THREADS} threads were overtaken {overtaken} times, beyond the one turn that each "
            f"of the others has before: once the others had {max(waits)} turns"
        )
    return {"calls": len(waits), "overtaken": overtaken, "turns_waited": max(waits)}


# No memory


SMALL_SIZE = 5_000
LARGE_SIZES = (24 << 20, 40 << 20)
"""More than is left in a heap that was filled, see `room_for`."""

ROOMS = tuple(size << 20 for size in (16, 30, 60, 90, 140))


def lack_memory(way: Way, seed: int, seconds: float) -> Figures:
    """Calls without memory for what they read or write: each says so once, and the next ones are answered as ever."""
    generator = random.Random(seed)
    lacked = calls = count = 0
    counter, small = own_key(seed, 0), own_key(seed, 1)
    large = [own_key(seed, 2 + index) for index in range(len(LARGE_SIZES))]

    def value_of(key: bytes, size: int) -> bytes:
        return make(key, Mark(1, 0, size))

    sizes = {small: SMALL_SIZE, **dict(zip(large, LARGE_SIZES, strict=True))}
    values = {key: value_of(key, size) for key, size in sizes.items()}
    with way.connect(timeout=CALL_S_MAX) as table:
        table.set_many(values)
    deadline = time.monotonic() + seconds

    def right(key: bytes, value: Any) -> None:
        if value != values[key]:
            raise Wrong(f"{key!r} has {len(value or b'')} bytes, and not its {sizes[key]}")

    for _ in rounds_until(deadline):
        with way.connect(timeout=CALL_S_MAX, reads=generator.choice(["direct", "server"])) as table:
            with room_for(generator.choice(ROOMS)):
                for _ in range(generator.randrange(1, 8)):
                    calls += 1
                    key = generator.choice([*large, *large, small])
                    increments = 0
                    try:
                        match generator.randrange(8):
                            case 0:
                                right(key, table.get(key))
                            case 1:
                                right(key, table.call("GET", key))
                            case 2:
                                for value in table.get_many([key, small]):
                                    right(key if len(value or b"") != SMALL_SIZE else small, value)
                            case 3:
                                increments = 2
                                replies = table.pipeline().incr(counter).get(key).incr(counter).execute()
                                right(key, replies[1])
                                if [replies[0], replies[2]] != [count + 1, count + 2]:
                                    raise Wrong(f"a count of {count} was incremented to {replies[0]} and {replies[2]}")
                            case 4:
                                table.set(key, memoryview(values[key]))
                            case 5:
                                table.set(key, values[key], writes="posted")
                                table.flush()
                            case 6:
                                table.set_many({small: values[small], key: values[key]})
                            case _:
                                with table.view(key, copy_ok=True) as view, memoryview(view) as seen:
                                    right(key, seen)
                    except MemoryError as error:
                        if isinstance(error, OutOfMemory):
                            raise
                        lacked += 1
                    count += increments
                    count += 1
                    if (found := table.incr(counter)) != count:
                        raise Wrong(f"after a call without memory a count is {found} instead of {count}")
            for key in values:
                right(key, table.get(key))
    return {"calls": calls, "lacked": lacked}


# No thread


def lack_threads(way: Way, seed: int, seconds: float) -> Figures:
    """Servers of a user who may have few threads: each starts or says why not, and leaves nothing behind."""
    generator = random.Random(seed)
    deadline = time.monotonic() + seconds
    figures: Figures = {"started": 0, "refused": 0}
    # A user that nobody is, and that has no thread yet; only root can become one.
    user = 1_000_000 + os.getpid()
    if os.getuid() != 0:
        return figures
    with TemporaryDirectory(prefix="ringtable-") as folder:
        path = f"{folder}/few.sock"
        os.chown(folder, user, user)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        for _ in rounds_until(deadline):
            most = generator.randrange(1, 8)
            resource.setrlimit(resource.RLIMIT_NPROC, (most, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
            try:
                workers = generator.randrange(1, 4)
                with ringtable.Server(path, max_memory="16MiB", workers=workers), Table(path) as table:
                    table["key"] = b"value"
                figures["started"] += 1
            except ringtable.OutOfResources:
                figures["refused"] += 1
            if left := os.listdir(folder):
                raise Wrong(f"a server of a process of {most} threads has left {left}")
            wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "a server has left a thread")
            if left := own_ringtable_memory():
                raise Wrong(f"a server of a process of {most} threads has left {left}")
    return figures
