"""What processes are doing, in memory that they share and that outlives them: for who comes to see after a SIGKILL.

A page belongs to one writer. It tells the call that it is in and since when, and for each of its keys the number of
the last write that was *intended*, noted before the call, and of the last that was *acknowledged* or *published*, noted
after it. Each is a word of 8 bytes that is stored in one instruction; so a page is true at any instant at which its
writer may die.
"""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager

CALLS = (
    "starting",
    "connecting",
    "set",
    "delete",
    "posted set",
    "flush",
    "set_many",
    "incr",
    "get",
    "get_many",
    "view",
    "get_into",
    "get_or_set",
    "watch",
    "scan",
    "large set_many",
    "iteration",
    "event",
    "pipeline",
    "update",
    "GET",
    "closing",
    "between calls",
    "ended",
)
BETWEEN, ENDED = CALLS.index("between calls"), CALLS.index("ended")
_NUMBERS = {name: number for number, name in enumerate(CALLS)}

_CALL, _SINCE, _COUNT, _LONGEST, _LIFE, _FAULT, _GONE, _HEARD = range(8)
_KEYS = 8
_WORDS = 3
_FAULT_SIZE = 2_048


class Page:
    """What one writer does, and has done."""

    def __init__(self, memory: memoryview, keys: int) -> None:
        self._words = memory[: 8 * (_KEYS + _WORDS * keys)].cast("Q")
        self._fault = memory[8 * (_KEYS + _WORDS * keys) :]
        self.keys = keys

    def clear(self, life: int) -> None:
        """Begin the page of another writer."""
        for place in range(len(self._words)):
            self._words[place] = 0
        self._words[_SINCE] = time.monotonic_ns()
        self._words[_LIFE] = life

    @property
    def life(self) -> int:
        """Which writer's page it is."""
        return self._words[_LIFE]

    @contextmanager
    def during(self, call: str) -> Iterator[None]:
        """A call that the writer makes."""
        start = time.monotonic_ns()
        self._words[_SINCE] = start
        try:
            self._words[_CALL] = _NUMBERS[call]
            yield
        finally:
            # First, since a signal handler may look whether we are in a call.
            self._words[_CALL] = BETWEEN
            end = time.monotonic_ns()
            self._words[_SINCE] = end
            self._words[_COUNT] += 1
            self._words[_LONGEST] = max(self._words[_LONGEST], end - start)

    def end(self) -> None:
        """The writer makes no more calls."""
        self._words[_CALL] = ENDED

    @property
    def call(self) -> str:
        """The call that the writer is in."""
        return CALLS[self._words[_CALL]]

    @property
    def is_in_a_call(self) -> bool:
        """Whether the writer is in a call at all."""
        return self._words[_CALL] not in (BETWEEN, ENDED)

    @property
    def since_s(self) -> float:
        """For how long it has been at that, in seconds."""
        return (time.monotonic_ns() - self._words[_SINCE]) / 1e9 if self._words[_CALL] != ENDED else 0.0

    @property
    def calls(self) -> int:
        """How many calls have come to their end."""
        return self._words[_COUNT]

    @property
    def longest_s(self) -> float:
        """How long the longest of these has taken."""
        return self._words[_LONGEST] / 1e9

    def intended(self, key: int) -> int:
        return self._words[_KEYS + _WORDS * key]

    def intend(self, key: int, number: int) -> None:
        """Note that writes up to this number are going to be asked for."""
        self._words[_KEYS + _WORDS * key] = number

    def acknowledged(self, key: int) -> int:
        return self._words[_KEYS + _WORDS * key + 1]

    def acknowledge(self, key: int, number: int) -> None:
        """Note that the write with this number is done, for all to see."""
        self._words[_KEYS + _WORDS * key + 1] = number

    def published(self, key: int) -> int:
        return self._words[_KEYS + _WORDS * key + 2]

    def publish(self, key: int, number: int) -> None:
        """Note that the write with this number will be done, whatever becomes of its writer."""
        self._words[_KEYS + _WORDS * key + 2] = number

    @property
    def losses(self) -> int:
        """How often the writer was told that its server is gone."""
        return self._words[_GONE]

    def lose(self) -> None:
        self._words[_GONE] += 1

    @property
    def heard(self) -> int:
        """How many signals have ended a call, or have come between two."""
        return self._words[_HEARD]

    def hear(self) -> None:
        self._words[_HEARD] += 1

    def report(self, fault: str) -> None:
        """Tell what must not be; only the first such report is kept."""
        if not self._words[_FAULT]:
            text = fault.encode()[:_FAULT_SIZE]
            self._fault[: len(text)] = text
            self._words[_FAULT] = len(text)

    @property
    def fault(self) -> str:
        """What must not be, and was; empty if there is nothing."""
        return bytes(self._fault[: self._words[_FAULT]]).decode(errors="replace")


class Diary:
    """A page for each of some writers, and a word for all of them."""

    def __init__(self, pages: int, keys: int) -> None:
        size = 8 * (_KEYS + _WORDS * keys) + _FAULT_SIZE
        # Shared with all children, and with nobody else.
        self._memory = memoryview(mmap.mmap(-1, 16 + pages * size))
        self._words = self._memory[:16].cast("Q")
        self.pages = [Page(self._memory[16 + page * size : 16 + (page + 1) * size], keys) for page in range(pages)]

    @property
    def era(self) -> int:
        """Counts the servers."""
        return self._words[0]

    @era.setter
    def era(self, era: int) -> None:
        self._words[0] = era

    @property
    def is_over(self) -> bool:
        """Whether all writers are to end."""
        return bool(self._words[1])

    def finish(self) -> None:
        self._words[1] = 1
