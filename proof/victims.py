"""What clients do that may be killed in the middle of it, and those whose servers are.

A writer has some keys that nobody else writes. It notes in its page of the diary what it is going to write and what is
done, so that whoever comes after its death knows which values there may be. The writes of a key are numbered, and some
of the numbers are deletions.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import ringtable
from ringtable import Expelled, ServerGone, Table, TableNotFound
from support import Closing, Way, own_ringtable_memory

from proof.diary import Diary, Page
from proof.marks import NUMBERS, SIZES, Mark, Wrong, make, read

KEYS = 6
"""Of a writer, the last of which is a counter."""

COUNTER = KEYS - 1
LEASED = 4
VIEWS_HELD = 6
DELETION_EVERY = 6
POSTED_BURST = 30
ERA_KEY = b"era"
"""What the table says of its server."""


def key_of(page: int, life: int, index: int) -> bytes:
    return b"writer %d.%d key %d" % (page, life, index)


def is_deletion(index: int, number: int) -> bool:
    return index != COUNTER and number % DELETION_EVERY == DELETION_EVERY - 1


def size_of(generator: random.Random) -> int:
    # Small ones are quick, so that more is under way; large ones take long, so that more is cut in half.
    return generator.choices(SIZES, (6, 6, 5, 4, 3, 2, 1, 1))[0]


def check(index: int, key: bytes, value: bytes | None, lowest: int, highest: int, floor: int = 0) -> int:
    """See whether a value may be there, when writes up to `lowest` are done, and up to `highest` may be.

    Of the writes up to `floor` nothing is left: they were before the table, or went to the one before.

    Returns its number; of an absent key the lowest that explains it.

    Raises:
        Wrong: It may not.
    """
    lowest = max(lowest, floor)
    if value is None:
        number = next((n for n in range(lowest, highest + 1) if n == floor or is_deletion(index, n)), None)
        if number is None:
            raise Wrong(f"{key!r} is absent, though its write {lowest} was acknowledged ({highest} intended)")
        return number
    number = floor + int(value) if index == COUNTER else read(key, value).number
    if not lowest <= number <= highest or number <= floor or is_deletion(index, number):
        raise Wrong(
            f"{key!r} has its value number {number}, but {lowest} was acknowledged, at most {highest} intended, and up "
            f"to {floor} all is gone"
        )
    return number


class Writer:
    """Calls of all kinds in a random order, each of them noted, and each answer checked."""

    # Whether it may kill itself in an instant that is of interest.
    may_die = False

    def __init__(self, diary: Diary, number: int, table: Table, generator: random.Random, shares: bool = False) -> None:
        self.diary, self.table, self.generator = diary, table, generator
        self.page: Page = diary.pages[number]
        self.number = number
        self.keys = [key_of(number, self.page.life, index) for index in range(KEYS)]
        # Requests of which nobody knows what has become of them: their keys are left alone from then on.
        self.doubtful: set[int] = set()
        # Writes that went to servers that are gone.
        self.floors = [0] * KEYS
        # The server that our table is connected to, and for each key the one that it was written to.
        self.era = diary.era
        self.eras = [self.era] * KEYS
        # Whether other threads use the table, one of which may learn of the server's death for us.
        self.shares = shares
        self.views: list[tuple[bytes, ringtable.View, bytes]] = []
        self.watches = ExitStack()
        self._calls: list[tuple[Callable[[], object], int]] = [
            (self.set, 12),
            (self.delete, 3),
            (self.post, 4),
            (self.set_many, 3),
            (self.count, 3),
            (self.get_own, 6),
            (self.get_of_others, 6),
            (self.get_many, 2),
            (self.get_into, 1),
            (self.view, 4),
            (self.look_at_views, 1),
            (self.compute, 1),
            (self.watch, 1),
            (self.scan, 1),
        ]

    def work(self) -> None:
        """Make some call."""
        calls, weights = zip(*self._calls, strict=True)
        self.generator.choices(calls, weights)[0]()

    def begin_era(self) -> None:
        """The server is gone: from the next one on, nothing of what was written is there."""
        self.floors = [self.page.intended(index) for index in range(KEYS)]
        self.doubtful.clear()
        self.look_at_views()

    def find_era(self) -> None:
        """Ask which server we are connected to; who starts it says so first of all."""
        with self.page.during("get"):
            while (era := self.table.get(ERA_KEY)) is None:
                if self.diary.is_over:
                    return
                time.sleep(0.001)
        self.era = int(era)

    # Writing

    def set(self) -> None:
        index = self._own()
        if is_deletion(index, self.page.intended(index) + 1):
            self._delete(index)
        else:
            self._write(index, "set", lambda number: self.table.set(*self._item(index, number), writes="acknowledged"))

    def delete(self) -> None:
        index = self._own()
        # On to the next number that is a deletion.
        while not is_deletion(index, self.page.intended(index) + 1):
            self.page.intend(index, self.page.intended(index) + 1)
        self._delete(index)

    def post(self) -> None:
        index = self._own()
        if index in self.doubtful:
            return
        first = self.page.intended(index) + 1
        last = first + self.generator.randrange(POSTED_BURST)
        self.page.intend(index, last)
        self.doubtful.add(index)
        for number in range(first, last + 1):
            with self.page.during("posted set"):
                if is_deletion(index, number):
                    self.table.delete(self.keys[index], writes="posted")
                else:
                    self.table.set(*self._item(index, number), writes="posted")
            if self.table.transport != "socket":
                self.page.publish(index, number)
        if self.may_die and self.generator.random() < 0.2:
            # What it has just published nobody may have looked at yet.
            os.kill(os.getpid(), signal.SIGKILL)
        self.doubtful.discard(index)
        self.eras[index] = self.era
        # Else it is left to whichever call comes next to wait for it, or to the server, if none comes.
        if self.generator.random() < 0.5:
            self.doubtful.add(index)
            with self.page.during("flush"):
                self.table.flush()
            self.page.acknowledge(index, last)
            self.doubtful.discard(index)

    def set_many(self) -> None:
        indices = [index for index in range(COUNTER) if index not in self.doubtful]
        indices = [index for index in indices if not is_deletion(index, self.page.intended(index) + 1)]
        items: dict[bytes, bytes] = {}
        for index in indices:
            number = self.page.intended(index) + 1
            key, value = self._item(index, number)
            items[key] = value
            self.page.intend(index, number)
            self.doubtful.add(index)
        with self.page.during("set_many"):
            self.table.set_many(items)
        for index in indices:
            self._done(index, self.page.intended(index))

    def count(self) -> None:
        def increment(number: int) -> None:
            found = self.table.incr(self.keys[COUNTER])
            if self.shares and found == 1 and self._may_be_another(COUNTER):
                self.floors[COUNTER] = number - 1
            if found != number - self.floors[COUNTER]:
                expected = number - self.floors[COUNTER]
                raise Wrong(f"{self.keys[COUNTER]!r} was incremented to {found} instead of {expected}")

        self._write(COUNTER, "incr", increment)

    def compute(self) -> None:
        key = b"leased %d" % self.generator.randrange(LEASED)

        def compute() -> bytes:
            # It may well be killed in here.
            time.sleep(self.generator.uniform(0, 0.002))
            return make(key, Mark(self.generator.randrange(NUMBERS), self._stamp(), SIZES[1]))

        with self.page.during("get_or_set"):
            value = self.table.get_or_set(key, compute, ttl=0.05)
        self._read(key, value)

    def _own(self) -> int:
        return self.generator.randrange(COUNTER)

    def _item(self, index: int, number: int) -> tuple[bytes, bytes]:
        key = self.keys[index]
        return key, make(key, Mark(number, self._stamp(), size_of(self.generator)))

    def _stamp(self) -> int:
        # A client that shares a table may write to the next server without having heard of it.
        return 0 if self.shares else self.diary.era

    def _delete(self, index: int) -> None:
        self._write(index, "delete", lambda _: self.table.delete(self.keys[index], writes="acknowledged"))

    def _write(self, index: int, call: str, write: Callable[[int], object]) -> None:
        """Write a key by a call, and note that."""
        if index in self.doubtful:
            return
        number = self.page.intended(index) + 1
        self.page.intend(index, number)
        self.doubtful.add(index)
        with self.page.during(call):
            write(number)
        self._done(index, number)

    def _done(self, index: int, number: int) -> None:
        self.page.acknowledge(index, number)
        self.eras[index] = self.era
        self.doubtful.discard(index)

    # Reading

    def get_own(self) -> None:
        index = self.generator.randrange(KEYS)
        with self.page.during("get"):
            value = self.table.get(self.keys[index])
        self._check_own(index, value)

    def get_of_others(self) -> None:
        page, life, index, key = self._other()
        lowest = page.acknowledged(index)
        with self.page.during("get"):
            value = self.table.get(key)
        self._check_other(page, life, index, key, value, lowest)

    def get_many(self) -> None:
        others = [self._other() for _ in range(8)]
        lowest = [page.acknowledged(index) for page, _, index, _ in others]
        with self.page.during("get_many"):
            values = self.table.get_many([*self.keys, *(key for *_, key in others)])
        for index, value in enumerate(values[:KEYS]):
            self._check_own(index, value)
        for (page, life, index, key), value, low in zip(others, values[KEYS:], lowest, strict=True):
            self._check_other(page, life, index, key, value, low)

    def get_into(self) -> None:
        *_, index, key = self._other()
        buffer = bytearray(SIZES[-1])
        with self.page.during("get_into"), suppress(KeyError):
            size = self.table.get_into(key, buffer)
            if index != COUNTER:
                self._read(key, bytes(buffer[:size]))

    def view(self) -> None:
        *_, index, key = self._other()
        if index == COUNTER:
            return
        with self.page.during("view"):
            try:
                view = self.table.view(key)
            except KeyError:
                return
        value = bytes(view)
        self.views.append((key, view, value))
        self._read(key, value)
        if len(self.views) > VIEWS_HELD:
            key, view, value = self.views.pop(self.generator.randrange(VIEWS_HELD))
            self._compare(key, view, value)
            view.close()

    def look_at_views(self) -> None:
        for key, view, value in self.views:
            self._compare(key, view, value)

    def scan(self) -> None:
        with self.page.during("scan"):
            self.table.scan()

    def watch(self) -> None:
        if self.table.transport == "socket":
            return
        # It has a connection of its own, whose end says nothing about the table's.
        with self.page.during("watch"), suppress(ServerGone, TableNotFound):
            self.watches.close()
            self.watches.enter_context(self.table.watch(b"writer %d." % self.number))

    def close(self) -> None:
        with self.page.during("closing"):
            self.look_at_views()
            for _, view, _ in self.views:
                view.close()
            self.watches.close()

    def _other(self) -> tuple[Page, int, int, bytes]:
        """A key of somebody, who may be us."""
        number = self.generator.randrange(len(self.diary.pages))
        page, index = self.diary.pages[number], self.generator.randrange(KEYS)
        return page, page.life, index, key_of(number, page.life, index)

    def _may_be_another(self, index: int) -> bool:
        """Whether another thread may have connected to another server since a key was written."""
        return self.diary.era != self.eras[index]

    def _check_own(self, index: int, value: bytes | None) -> None:
        # What we have issued is there for us, also what was posted; of what has failed, nobody knows.
        highest = self.page.intended(index)
        lowest = self.page.acknowledged(index) if index in self.doubtful else highest
        if self.shares and value is None and self._may_be_another(index):
            self.floors[index] = highest
        check(index, self.keys[index], value, lowest, highest, self.floors[index])
        if value is not None and index != COUNTER:
            self._read(self.keys[index], value)

    def _check_other(self, page: Page, life: int, index: int, key: bytes, value: bytes | None, lowest: int) -> None:
        if value is not None and index != COUNTER:
            self._read(key, value)
        # Where servers die, only a key's writer knows what is gone; and of the keys of the dead, who comes after them.
        if not self.era and page.life == life:
            check(index, key, value, lowest, page.intended(index))

    def _read(self, key: bytes, value: bytes) -> None:
        mark = read(key, value)
        if self.era and mark.era and not self.shares and not self.era <= mark.era <= self.era + 1:
            raise Wrong(f"{key!r} was written for server {mark.era}, and is found in server {self.era}")

    def _compare(self, key: bytes, view: ringtable.View, value: bytes) -> None:
        if bytes(view) != value:
            raise Wrong(f"a view of {key!r} has changed: it was {read(key, value)}")


def live(diary: Diary, number: int, seed: str, way: Way, may_die: bool) -> None:
    """A writer that is going to be killed. It ends before that only if it was sent away; then it waits for its end."""
    page = diary.pages[number]
    try:
        with page.during("connecting"):
            table = way.connect()
        writer = Writer(diary, number, table, random.Random(seed))
        writer.may_die = may_die
        while True:
            try:
                writer.work()
            except Expelled:
                # It was stopped for longer than the others wait.
                if not table.reconnect:
                    break
    except Expelled:
        pass
    except ServerGone as error:
        page.report(f"the server lives, and a client is told that it is gone: {error}")
    except BaseException as error:
        page.report(f"{type(error).__name__}: {error}")
    page.end()
    while True:
        time.sleep(60)


def outlive(diary: Diary, number: int, seed: str, way: Way, threads: int) -> None:
    """A writer, or some that share a table as threads, whose servers die: they go on until they are told to end.

    Their tables do not go on by themselves, so that they know of each death: see `followers.py` for such as do.
    """
    with Relay(way) as relay:
        workers = [
            threading.Thread(target=_go_on, args=(diary, number + thread, f"{seed} {thread}", relay, threads > 1))
            for thread in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if left := own_ringtable_memory():
        diary.pages[number].report(f"a client that has closed its table still has {left}")


class Relay(Closing):
    """The table that the threads of a writer share, which one of them opens anew when its server has gone."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._lock = threading.Lock()
        self._tables: list[Table] = [self._open()]

    def _open(self) -> Table:
        while True:
            # There may be no server for a while; there is one in the end.
            with suppress(TableNotFound, ServerGone):
                return Table(self._way.address, **{**self._way.options, "reconnect": False})

    def table(self, dead: Table | None = None) -> Table:
        """The table of the moment, in the place of one whose server has gone."""
        with self._lock:
            if self._tables[-1] is dead:
                self._tables.append(self._open())
            return self._tables[-1]

    def close(self) -> None:
        for table in self._tables:
            table.close()


def _go_on(diary: Diary, number: int, seed: str, relay: Relay, shares: bool) -> None:
    page = diary.pages[number]
    writer = Writer(diary, number, relay.table(), random.Random(seed), shares)
    is_known = False
    try:
        while not diary.is_over:
            try:
                if not is_known:
                    writer.find_era()
                    is_known = True
                writer.work()
            except ServerGone:
                page.lose()
                writer.begin_era()
                is_known = False
                writer.table = relay.table(writer.table)
        writer.close()
    except BaseException as error:
        page.report(f"{type(error).__name__}: {error}")
    page.end()
