"""What clients do that get SIGINT in the middle of it, and whose connections go on."""

import random
import signal
import threading
from functools import partial

from ringtable import Table
from support import Way, own_ringtable_memory

from proof.diary import Diary, Page
from proof.marks import SIZES, Mark, Wrong, make, read
from proof.victims import COUNTER, KEYS, Writer, check, is_deletion

LARGE = 24
"""Values of a call that takes long."""

FELLOWS = 2
"""Threads beside one that is interrupted, which share its table."""


class Interruptible(Writer):
    """A writer whose calls may be interrupted: its connection goes on, and it finds out what has become of them."""

    def __init__(self, diary: Diary, number: int, way: Way, table: Table, generator: random.Random) -> None:
        super().__init__(diary, number, table, generator)
        self.way = way
        self.large = [b"writer %d.%d large %d" % (number, self.page.life, index) for index in range(LARGE)]
        # The number of the last large values that were asked for, and of the last that are there for sure.
        self.large_intended = self.large_done = 0
        self._calls += [
            (self.settle, 10),
            (self.set_many_large, 2),
            (self.get_large, 2),
            (self.iterate, 1),
            (self.wait_for_an_event, 1),
            (self.run_pipeline, 3),
            (self.update, 3),
            (self.connect, 1),
        ]

    def settle(self) -> None:
        """See what has become of the writes that were interrupted, and write their keys anew.

        The server does what one connection asks for in its order: all that was asked for before is done or not by now.
        """
        for index in sorted(self.doubtful):
            lowest = max(self.page.acknowledged(index), self.page.published(index))
            with self.page.during("GET"):
                value = self.table.call("GET", self.keys[index])
            if value is not None and not isinstance(value, bytes):
                raise Wrong(f"GET of {self.keys[index]!r} is answered by {value!r}")
            check(index, self.keys[index], value, lowest, self.page.intended(index))
            self.doubtful.discard(index)
            if is_deletion(index, self.page.intended(index) + 1):
                self._delete(index)
            else:
                self._write(index, "set", partial(self._set, index))

    def _set(self, index: int, number: int) -> None:
        key, value = (self.keys[index], b"%d" % number) if index == COUNTER else self._item(index, number)
        if self.table.set(key, value, writes="acknowledged") is not True:
            raise Wrong(f"a set of {key!r} is refused")

    def set_many_large(self) -> None:
        number = self.large_intended = self.large_intended + 1
        items = {key: make(key, Mark(number, self._stamp(), SIZES[-1])) for key in self.large}
        with self.page.during("large set_many"):
            self.table.set_many(items)
        self.large_done = number

    def get_large(self) -> None:
        with self.page.during("get_many"):
            values = self.table.get_many(self.large)
        for key, value in zip(self.large, values, strict=True):
            if value is None:
                if self.large_done:
                    raise Wrong(f"{key!r} is absent, though its write {self.large_done} was acknowledged")
                continue
            number = read(key, value).number
            if not self.large_done <= number <= self.large_intended:
                raise Wrong(f"{key!r} has its value number {number} of {self.large_done} to {self.large_intended}")

    def iterate(self) -> None:
        """A walk over all keys meets each that is there all the while, once."""
        there = {self.keys[index] for index in range(KEYS) if self._is_there(index)}
        with self.page.during("iteration"):
            found = list(self.table)
        if len(found) != len(set(found)) or not there <= set(found):
            missed = there - set(found)
            raise Wrong(f"a walk has met {len(found)} keys, {len(set(found))} of them different, and missed {missed}")

    def _is_there(self, index: int) -> bool:
        number = self.page.acknowledged(index)
        return number == self.page.intended(index) > 0 and not is_deletion(index, number)

    def wait_for_an_event(self) -> None:
        """An event of whoever writes next; who is alone waits until it is interrupted."""
        if self.table.transport == "socket":
            return
        with self.page.during("event"), self.table.watch(b"writer") as watch:
            next(watch)

    def run_pipeline(self) -> None:
        """Each reply is that to its own command."""
        index = self._own()
        with self.page.during("pipeline"):
            replies = self.table.pipeline().get(self.keys[index]).exists(self.keys[index]).get("absent").execute()
        if index not in self.doubtful:
            self._check_own(index, replies[0])
        if index not in self.doubtful and (replies[1:] != [replies[0] is not None, None]):
            raise Wrong(f"a pipeline of GET, EXISTS and another GET is answered by {replies[1:]}")

    def update(self) -> None:
        """What the function makes is written, unless the call is interrupted."""
        index = self._own()
        number = self.page.intended(index) + 1
        if is_deletion(index, number):
            return
        _, value = self._item(index, number)
        self._write(index, "update", lambda _: self.table.update(self.keys[index], lambda _: value))

    def connect(self) -> None:
        with self.page.during("connecting"), self.way.connect() as other:
            other.call("PING")


def be_interrupted(diary: Diary, number: int, seed: str, way: Way, shares: bool) -> None:
    """A writer that gets SIGINT at any moment, and goes on until it is told to end; if it `shares`, beside threads.

    A signal in the middle of a call ends it by `KeyboardInterrupt`, and nothing else does.
    """
    page = diary.pages[number]
    during = ""

    def interrupt(*_: object) -> None:
        nonlocal during
        if page.is_in_a_call:
            during = page.call
            raise KeyboardInterrupt
        page.hear()

    try:
        with way.connect() as table:
            writer = Interruptible(diary, number, way, table, random.Random(seed))
            fellows = [
                threading.Thread(target=_share, args=(diary, page, table, b"fellow %d.%d" % (number, fellow)))
                for fellow in range(FELLOWS if shares else 0)
            ]
            for fellow in fellows:
                fellow.start()
            signal.signal(signal.SIGINT, interrupt)
            while not diary.is_over:
                try:
                    writer.work()
                    if during:
                        raise Wrong(f"Ctrl-C in the middle of a call of kind '{during}' has not ended it")
                except KeyboardInterrupt:
                    during = ""
                    page.hear()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            writer.settle()
            writer.close()
            for fellow in fellows:
                fellow.join()
        if left := own_ringtable_memory():
            page.report(f"a client that has closed its table still has {left}")
    except BaseException as error:
        page.report(f"{type(error).__name__}: {error}")
    page.end()


def _share(diary: Diary, page: Page, table: Table, key: bytes) -> None:
    """A thread that uses the same table without a pause, and that no signal concerns."""
    try:
        count = 0
        while not diary.is_over:
            count += 1
            if (found := table.incr(key)) != count or table[key] != b"%d" % count:
                raise Wrong(f"{key!r} was incremented to {found} instead of {count}, or is not that for its writer")
    except BaseException as error:
        page.report(f"in a thread beside: {type(error).__name__}: {error}")
