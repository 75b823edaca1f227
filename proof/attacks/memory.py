"""What a client does to memory and descriptors that it was passed: seals, pages, advice, crowds that wait on one."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from random import Random

from support import RawLane, resp

from proof.attacks.target import (
    PING,
    Attacks,
    Target,
    admitted,
    is_answered,
    publish,
    record,
    table_of,
)

REFUSALS = (errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL)
LIBC = ctypes.CDLL(None, use_errno=True)
ADVICE_POPULATE_READ = 22
# Will be needed, will not, cold, can be swapped out, make huge pages of it.
ADVICES = (3, 4, 20, 21, 25)
ADVISED_SIZES = (4 << 10, 2 << 20, 32 << 20)


def sealing(target: Target, random: Random) -> Attacks:
    """Attempts to write to the table, or to change the size of anything."""
    while True:
        with target.lane() as lane, table_of(lane) as table:
            for attempt in attempts_to_write(lane, random.randrange(len(table))):
                assert number_of_error(attempt) in REFUSALS, "the kernel lets a client write to the table, or resize it"
                yield
            assert not punch(lane), "the kernel lets a client punch holes into its lane, where a worker waits for it"
            lane.ring()
            yield


def punch(lane: RawLane) -> bool:
    """Try to punch a hole of the size of a lane into it; return whether that is possible."""
    result = LIBC.fallocate(lane.segment, 3, ctypes.c_long(0), ctypes.c_long(len(lane.memory)))
    assert result == 0 or ctypes.get_errno() == errno.EPERM
    return bool(result == 0)


def unsealed(target: Target, random: Random) -> Attacks:
    """Lanes that could have holes punched into them, all the time, while they ask to be served: none is."""
    while True:
        with target.lane(sealed=False) as lane:
            end = threading.Event()

            def punching(lane: RawLane = lane, end: threading.Event = end) -> None:
                while punch(lane) and not end.is_set():
                    pass

            thread = threading.Thread(target=punching)
            thread.start()
            try:
                for _ in range(random.randrange(20)):
                    lane.store(random.choice([RawLane.REQUEST_TAIL, 640]), random.choice([1, 8, 64]))
                    yield
                if random.random() < 0.5:
                    publish(lane, record(PING), 0)
                    words = lane.last_words()
                    assert b"not sealed" in words, words
                yield
            finally:
                end.set()
                thread.join()


def pages(target: Target, random: Random) -> Attacks:
    """All that can be done to the table's memory with a descriptor for reading: it fills, and is given back."""
    while True:
        with target.lane() as lane, ExitStack() as stack:
            size = os.fstat(lane.table).st_size
            maps = [stack.enter_context(table_of(lane)) for _ in range(8)]
            # A process that opened the file again would wait for 45 s, until we give the lease up.
            with suppress(OSError):
                fcntl.fcntl(lane.table, fcntl.F_SETLEASE, random.choice([fcntl.F_RDLCK, fcntl.F_WRLCK]))
            for _ in range(200):
                start = random.randrange(0, size, mmap.PAGESIZE)
                match random.randrange(5):
                    case 0:
                        for _ in range(50):
                            with suppress(OSError):
                                os.lseek(lane.table, start, random.choice([os.SEEK_HOLE, os.SEEK_DATA]))
                    case 1:
                        os.posix_fadvise(lane.table, start, size - start, random.choice([3, 4]))
                    case 2:
                        os.pread(lane.table, 1 << 20, start)
                    case _:
                        advice = random.choice([ADVICE_POPULATE_READ, *ADVICES])
                        with suppress(OSError, ValueError):
                            random.choice(maps).madvise(advice, start, min(size - start, random.choice(ADVISED_SIZES)))
                yield


def waiters(target: Target, random: Random) -> Attacks:
    """Thousands of waiters on one's end of the socket, and on what one was given to sleep on, woken with each reply."""
    ping = resp(b"PING")
    while True:
        with target.lane() as lane, closing(target.socket()) as connection:
            descriptor = random.choice([connection.fileno(), lane.listener])
            with many_waiters(descriptor, 1 << 16) as are_there:
                while are_there():
                    if descriptor == lane.listener:
                        lane.store(640, 1)
                        if not is_answered(lane, record(PING)):
                            break
                    else:
                        connection.sendall(ping)
                        if not admitted(connection.recv(100)):
                            break
                    yield


@contextmanager
def many_waiters(descriptor: int, count: int, wait_ms: int = 500) -> Iterator[Callable[[], bool]]:
    """Have so many waiters on a descriptor for a while; gives a function that tells whether any are there."""
    at_once = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    entries = (Waiter * at_once)()
    for entry in entries:
        entry.fd, entry.events = descriptor, select.POLLPRI
    # What ends them all.
    end = os.eventfd(0)
    entries[0].fd, entries[0].events = end, select.POLLIN
    threads = [
        threading.Thread(target=LIBC.poll, args=(entries, at_once, wait_ms)) for _ in range(-(-count // at_once))
    ]
    for thread in threads:
        thread.start()
    try:
        yield lambda: any(thread.is_alive() for thread in threads)
    finally:
        os.eventfd_write(end, 1)
        for thread in threads:
            thread.join()
        os.close(end)


class Waiter(ctypes.Structure):
    """`struct pollfd`."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def attempts_to_write(lane: RawLane, place: int) -> list[Callable[[], object]]:
    return [
        lambda: mmap.mmap(lane.table, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_WRITE),
        lambda: mmap.mmap(lane.table, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: os.pwrite(lane.table, b"x", place),
        lambda: os.ftruncate(lane.table, place),
        lambda: os.ftruncate(lane.segment, place),
        lambda: fcntl.fcntl(lane.table, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: fcntl.fcntl(lane.segment, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: os.posix_fallocate(lane.table, 0, place + 1),
        lambda: os.sendfile(lane.table, lane.segment, 0, 8),
    ]


def number_of_error(attempt: Callable[[], object]) -> int | None:
    """The number of the error that an attempt raises; `None` if it succeeds."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None
