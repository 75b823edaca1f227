"""Uses the tools for processes in processes that are killed and stopped: `python -m proof.locks --help`.

Processes come in batches. Each takes a lock and a permit of a semaphore again and again, writes into memory that
outlives it that it is inside, asks limiters, waits at a barrier for another one, asks for a memoized result, and for
what is done once. They are stopped and continued, and killed, at random instants, mostly while they are inside. What
must not be:

- A lock that two have: whoever enters finds somebody inside who lives, or a token that is not below its own.
- A lock that a living process has lost: its release says so.
- A permit too many: there are more inside of a semaphore than it has permits.
- A lock that a dead process has: the next one does not get it, or the server's figures count it when all are gone.
- A limiter that lets more through than its rate, or, but for those that died in the middle of a call, less.
- A party that passes a barrier of two alone, but for one whose partner died before it had noted that.
- A result that two compute at a time, or that is another one's.
- What is to be done once and is done by two at a time, or again, unless the first one died before that was noted.
"""

import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import cyclopts
from ringtable import Server, Table, Timeout
from ringtable._cli.signals import interrupt_on_termination
from support import Child, is_dead, wait_until

from proof import program
from proof.kills import own_folder
from proof.marks import Wrong

SEATS = 6
PERMITS = 3
RATE = 500
ALGORITHMS: tuple[Literal["fixed", "sliding"], ...] = ("fixed", "sliding")
LIFE_S_MAX = 0.15
STOP_S_MAX = 0.03
RESULT_S = 0.005
"""How long a memoized result is good for: it is computed again and again."""
DEAD_S = 20.0
"""How long the kernel may take to be done with a process whose sockets it has closed."""

app = cyclopts.App(name="python -m proof.locks", help=__doc__, version_flags=[])


@dataclass
class Found:
    """What a run has done and seen."""

    seed: int
    batches: int = 0
    kills: int = 0
    stops: int = 0
    killed_inside: int = 0
    """Of those killed, those that had the lock at that moment."""

    turns: int = 0
    """How often somebody had the lock."""

    permits: int = 0
    calls_let_through: int = 0
    parties_passed: int = 0
    results_computed: int = 0
    done_once: int = 0
    seconds: float = 0.0
    forbidden: list[str] = field(default_factory=list)


class Board:
    """Memory that all processes share, and that outlives them: words of 64 bits."""

    TOKEN, INSIDE, COMPUTING, DOING, DONE, SEATS_FROM = 0, 1, 2, 3, 4, 5
    PID, IN_SEMAPHORE, TURNS, PERMITS, THROUGH, AT_BARRIER, PASSED, COMPUTED = 0, 1, 2, 3, 4, 6, 7, 9
    """The words of a seat; `THROUGH` has one for each algorithm, and `PASSED` for each place in the order of coming."""

    SEAT_WORDS = 10

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def __getitem__(self, word: int) -> int:
        return int(struct.unpack_from("<Q", self._memory, 8 * word)[0])

    def __setitem__(self, word: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * word, value)

    def seat(self, seat: int, word: int) -> int:
        """The place of a word of a seat."""
        return self.SEATS_FROM + seat * self.SEAT_WORDS + word

    def inside(self) -> list[int]:
        """The processes that are inside of the semaphore, dead ones too."""
        seats = range(SEATS)
        return [self[self.seat(seat, self.PID)] for seat in seats if self[self.seat(seat, self.IN_SEMAPHORE)]]


@contextmanager
def inside(board: Board, token: int | None) -> Iterator[None]:
    """Be the one that has the lock; see that nobody else is."""
    assert token is not None
    with alone(board, board.INSIDE, "has the lock"):
        if (before := board[board.TOKEN]) >= token:
            raise Wrong(f"the lock's token is {token}, and that of an owner before was {before}")
        board[board.TOKEN] = token
        yield
        if board[board.TOKEN] != token:
            raise Wrong(f"the lock's token is {board[board.TOKEN]} while its owner has {token}")


def see_dead(pid: int, what: str) -> None:
    """See that a process, if it is one, dies that may only have done that if it was about to."""
    if pid:
        # Its sockets are closed before it counts as dead.
        wait_until(lambda: is_dead(pid), f"process {pid}, which {what}, has died", DEAD_S)


@contextmanager
def alone(board: Board, word: int, what: str) -> Iterator[None]:
    """Be the one that does this."""
    see_dead(board[word], f"{what}, too")
    board[word] = os.getpid()
    yield
    if board[word] != os.getpid():
        raise Wrong(f"process {board[word]} {what} while process {os.getpid()} did")
    board[word] = 0


@contextmanager
def within(board: Board, seat: int) -> Iterator[None]:
    """Be one of those that have a permit; see that there are not too many."""
    board[board.seat(seat, board.IN_SEMAPHORE)] = 1
    wait_until(
        lambda: len([pid for pid in board.inside() if not is_dead(pid)]) <= PERMITS,
        f"no more than {PERMITS} are inside of the semaphore",
        DEAD_S,
    )
    yield
    board[board.seat(seat, board.IN_SEMAPHORE)] = 0


def live(board: Board, seat: int, batch: int, seed: str) -> None:
    """Take all of it, again and again, until killed."""
    generator = random.Random(seed)
    board[board.seat(seat, board.PID)] = os.getpid()
    with Table() as table:
        lock, semaphore = table.lock("lock"), table.semaphore("semaphore", PERMITS)
        barrier = table.barrier("barrier", 2)
        limits = [table.rate_limiter(f"{RATE}/day", algorithm=algorithm) for algorithm in ALGORITHMS]
        once = table.once(f"once {batch}")

        @table.memoize(ttl=RESULT_S, key=lambda number: f"double {number}")
        def double(number: int) -> int:
            with alone(board, board.COMPUTING, "computes the result"):
                board[board.seat(seat, board.COMPUTED)] += 1
                time.sleep(generator.random() / 1_000)
            return 2 * number

        def do() -> None:
            with alone(board, board.DOING, "does what is done once"):
                see_dead(board[board.DONE], "has done what is done once")
                time.sleep(generator.random() / 100)
                board[board.DONE] = os.getpid()

        while True:
            with lock, inside(board, lock.token):
                board[board.seat(seat, board.TURNS)] += 1
                if generator.random() < 0.3:
                    time.sleep(generator.random() / 200)
            with semaphore, within(board, seat):
                board[board.seat(seat, board.PERMITS)] += 1
            # As one that gives up while others have it.
            if lock.acquire(timeout=generator.random() / 2_000):
                with inside(board, lock.token):
                    pass
                lock.release()
            for index, limit in enumerate(limits):
                if limit(f"batch {batch}"):
                    board[board.seat(seat, board.THROUGH) + index] += 1
            board[board.seat(seat, board.AT_BARRIER)] = 1
            with suppress(Timeout):
                board[board.seat(seat, board.PASSED) + barrier.wait(generator.random() / 200)] += 1
            board[board.seat(seat, board.AT_BARRIER)] = 0
            if (result := double(batch)) != 2 * batch:
                raise Wrong(f"the double of {batch} is {result}")
            once(do)
            if not board[board.DONE]:
                raise Wrong("what is done once is not done, and was said to be")


def run_batch(table: Table, batch: int, generator: random.Random, found: Found) -> None:
    """Let some live, stop and kill them, and see that nothing is left of them."""
    board = Board()
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(live, board, seat, batch, f"{generator.random()}")) for seat in range(SEATS)
        ]
        begin = time.monotonic()
        for child in children:
            time.sleep(generator.random() * LIFE_S_MAX / SEATS)
            if generator.random() < 0.5:
                os.kill(child.pid, signal.SIGSTOP)
                time.sleep(generator.random() * STOP_S_MAX)
                os.kill(child.pid, signal.SIGCONT)
                found.stops += 1
        time.sleep(max(0.0, begin + LIFE_S_MAX - time.monotonic()))
        while children:
            # Mostly the one that has the lock.
            owners = [child for child in children if board[board.INSIDE] == child.pid]
            child = generator.choice(owners if owners and generator.random() < 0.8 else children)
            children.remove(child)
            # What it has raised is what is to be told.
            child.check()
            if owners or generator.random() < 0.3:
                # It dies where it is; until then the others wait for one that stands.
                os.kill(child.pid, signal.SIGSTOP)
                time.sleep(generator.random() * STOP_S_MAX)
            child.kill()
            found.killed_inside += board[board.INSIDE] == child.pid
            found.kills += 1
            # Whoever has been killed has nothing, and the next one gets it, by the server's word alone.
            lock = table.lock("lock")
            if not lock.acquire(timeout=DEAD_S):
                raise Wrong(f"nobody gets the lock, of which the board says that process {board[board.INSIDE]} has it")
            with inside(board, lock.token):
                pass
            lock.release()
    wait_until(lambda: table.stats()["locks"] == 0, "nothing is held when all are gone", DEAD_S)
    wait_until(lambda: table.stats()["lease_waiters"] == 0, "nobody waits when all are gone", DEAD_S)
    found.batches += 1
    found.done_once += board[board.DONE] != 0
    for seat in range(SEATS):
        found.turns += board[board.seat(seat, board.TURNS)]
        found.permits += board[board.seat(seat, board.PERMITS)]
        found.results_computed += board[board.seat(seat, board.COMPUTED)]
    last, first = (sum(board[board.seat(seat, board.PASSED) + place] for seat in range(SEATS)) for place in range(2))
    unnoted = sum(board[board.seat(seat, board.AT_BARRIER)] for seat in range(SEATS))
    found.parties_passed += last + first
    if abs(last - first) > unnoted:
        raise Wrong(f"{first} passed the barrier that came first, {last} that came last, and {unnoted} died there")
    for index, algorithm in enumerate(ALGORITHMS):
        through = sum(board[board.seat(seat, board.THROUGH) + index] for seat in range(SEATS))
        found.calls_let_through += through
        limit, rest = table.rate_limiter(f"{RATE}/day", algorithm=algorithm), 0
        while limit(f"batch {batch}"):
            rest += 1
        # A day lets the sliding one have another call in three minutes: a batch is shorter.
        if not RATE - SEATS <= through + rest <= RATE:
            raise Wrong(f"of {RATE} calls a day a {algorithm} limiter let {through} and then {rest} through")


@app.default
def main(*, seconds: float = 20.0, seed: int | None = None, json_: program.JsonFile = None) -> int:
    """Kill and stop processes that have locks, permits and limiters, wait at barriers, and compute for all.

    Args:
        seconds: Stop after so long.
        seed: Repeat the random choices of another run; the instants depend on the machine, too.
        json_: A file for the figures.
    """
    interrupt_on_termination()
    found = Found(program.begin(seed))
    generator = random.Random(found.seed)
    deadline = time.monotonic() + seconds

    def work() -> None:
        with own_folder(), Server(workers=2, max_memory="64MiB"), Table() as table:
            while time.monotonic() < deadline:
                run_batch(table, found.batches, generator, found)

    return program.run(work, found, json_)


if __name__ == "__main__":
    raise SystemExit(app(result_action="return_value"))
