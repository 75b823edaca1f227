"""Values that are computed in the middle of computing others, by threads and by tasks of one thread."""

import importlib
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ringtable
from ringtable import Reentrant, Table
from support import Way

from proof.callers import CALL_S_MAX, THREADS, Figures, own_key, rounds_until
from proof.marks import Mark, Wrong, make, read

# It has no stubs.
greenlet: Any = importlib.import_module("greenlet")

TASKS = 3
"""Greenlets of a thread."""

LEASED = 8


class Computing:
    """A thread that wants values, and computes those that are absent, in tasks between which it goes to and fro.

    Whoever holds a lease asks only for keys behind all that its thread holds, so that threads never wait for each other
    in a ring; or for one that the thread holds itself, which is refused at once.
    """

    def __init__(self, table: Table, others: Table, generator: random.Random, prefix: bytes, lock: threading.Lock):
        self.table, self.others, self.random = table, others, generator
        self.keys = [prefix + b" %d" % index for index in range(LEASED)]
        self.held: list[int] = []
        self.lock = lock
        self.figures: Figures = {"computed": 0, "refused": 0}

    def ask(self, pause: Callable[[], object], computing: set[bytes]) -> None:
        """Want a value, in the middle of whatever this thread computes."""
        if self.held and self.random.random() < 0.4:
            self.ask_for_own(self.random.choice(self.held))
            return
        first = max(self.held, default=-1) + 1
        if first == LEASED:
            return
        index = self.random.randrange(first, LEASED)
        key = self.keys[index]

        def compute() -> bytes:
            self.begin(index, computing)
            try:
                pause()
                for _ in range(self.random.randrange(3)):
                    self.ask(pause, computing)
                    pause()
                if self.random.random() < 0.2:
                    raise LookupError("of the caller's")
                return make(key, Mark(1, 0, 200))
            finally:
                self.end(index, computing)

        with suppress(LookupError):
            read(key, self.table.get_or_set(key, compute, ttl=self.random.choice([0.002, 0.02])))

    def ask_for_own(self, index: int) -> None:
        table = self.random.choice([self.table, self.others])

        def never() -> bytes:
            raise Wrong(f"{self.keys[index]!r} is computed twice at a time by one thread")

        try:
            found = table.get_or_set(self.keys[index], never, timeout=CALL_S_MAX / 2)
        except Reentrant:
            self.figures["refused"] += 1
        except ringtable.Timeout as error:
            raise Wrong(f"a thread has waited for a value that it computes itself: {error}") from None
        else:
            # Nobody else has the lease; but anybody may write.
            raise Wrong(f"{self.keys[index]!r} is there while it is computed: {found!r:.40}")

    def begin(self, index: int, computing: set[bytes]) -> None:
        self.held.append(index)
        self.figures["computed"] += 1
        with self.lock:
            if self.keys[index] in computing:
                raise Wrong(f"{self.keys[index]!r} is computed by two threads at a time")
            computing.add(self.keys[index])

    def end(self, index: int, computing: set[bytes]) -> None:
        self.held.remove(index)
        with self.lock:
            computing.discard(self.keys[index])


def compute(way: Way, seed: int, seconds: float) -> Figures:
    """Values computed in the middle of computing others, by threads and by greenlets of one thread."""
    deadline = time.monotonic() + seconds
    lock, computing = threading.Lock(), set[bytes]()
    wrong: list[BaseException] = []
    figures: Figures = {"computed": 0, "refused": 0}

    def in_thread(number: int, table: Table, others: Table) -> None:
        try:
            one = Computing(table, others, random.Random(f"{seed} {number}"), own_key(seed, 0), lock)
            (in_tasks if number % 2 else alone)(one)
            with lock:
                for name, count in one.figures.items():
                    figures[name] += count
        except BaseException as error:
            wrong.append(error)

    def alone(one: Computing) -> None:
        for _ in rounds_until(deadline):
            if wrong:
                return
            one.ask(lambda: time.sleep(one.random.choice([0, 0, 0.0005])), computing)

    def in_tasks(one: Computing) -> None:
        hub = greenlet.getcurrent()

        def task() -> None:
            while time.monotonic() < deadline and not wrong:
                one.ask(hub.switch, computing)
                hub.switch()

        tasks = [greenlet.greenlet(task) for _ in range(TASKS)]
        while tasks:
            one.random.choice(tasks).switch()
            tasks = [each for each in tasks if not each.dead]

    with way.connect(timeout=CALL_S_MAX) as table, way.connect(timeout=CALL_S_MAX) as others:
        threads = [threading.Thread(target=in_thread, args=(number, table, others)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in wrong:
            raise error
        if left := int(table.stats()["leases"]):
            raise Wrong(f"{left} leases are left")
    return figures
