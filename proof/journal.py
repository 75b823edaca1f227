"""What processes have called and what they were answered, in shared memory that outlives their SIGKILL.

Each process has a part of its own, made before it was forked, with one record of 64 bytes for each call. The call is
written before it is made, and its answer after it has come, each with its time last: a record without a time of its
answer is that of a call that was under way when its process was killed, and one without a time of its call is none.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from time import monotonic_ns

from support import Closing

from proof.linearizability import FOREVER
from proof.operations import Kind, Operation

_RECORD_SIZE = 64
_RECORD = struct.Struct("<HHIqqQqqQQ")
_CALL = struct.Struct("<HHIqqQ")
_ANSWER = struct.Struct("<qqQ")
_ANSWER_PLACE = _CALL.size


class Journal(Closing):
    """The parts of some processes, in memory that they all share once they are forked."""

    def __init__(self, processes: int, calls: int) -> None:
        """Make room for so many processes, and so many calls of each."""
        self._part_size = calls * _RECORD_SIZE
        self._memory = mmap.mmap(-1, processes * self._part_size)

    def part(self, process: int) -> Part:
        """The part of a process, for that process alone to write."""
        return Part(self._memory, process * self._part_size, (process + 1) * self._part_size)

    def calls(self, process: int) -> int:
        """How many calls a process has written down, those under way included."""
        low, high = 0, self._part_size // _RECORD_SIZE
        while low < high:
            middle = (low + high) // 2
            if self.has(process, middle):
                low = middle + 1
            else:
                high = middle
        return low

    def has(self, process: int, call: int) -> bool:
        """Whether a process has written down its call of this number, counted from 0."""
        place = process * self._part_size + call * _RECORD_SIZE + _ANSWER_PLACE
        return any(self._memory[place - 8 : place])

    def operations(self, process: int) -> Iterator[tuple[int, Operation]]:
        """What a process has done, as pairs of the key's number and the operation."""
        start = process * self._part_size
        with memoryview(self._memory) as memory:
            part = memory[start : start + self.calls(process) * _RECORD_SIZE]
            for kind, key, ttl_ms, value, version, called, result, told, returned, _ in _RECORD.iter_unpack(part):
                yield (
                    key,
                    Operation(process, Kind(kind), called, returned or FOREVER, value, told or version, result, ttl_ms),
                )
            part.release()

    def close(self) -> None:
        self._memory.close()


class Part:
    """Where one process writes its calls and answers."""

    def __init__(self, memory: mmap.mmap, start: int, end: int) -> None:
        self._memory = memory
        self._place = start
        self._end = end
        self.calls = 0
        """How many calls were written down."""

    def call(self, kind: Kind, key: int, value: int = 0, version: int = 0, ttl_ms: int = 0) -> int:
        """Write down a call, right before it is made, and return its place, for the answer."""
        place = self._place
        assert place < self._end, "the journal has no room for another call"
        self._place = place + _RECORD_SIZE
        self.calls += 1
        # The time is written last: a process that is killed in here has called nothing.
        _CALL.pack_into(self._memory, place, kind, key, ttl_ms, value, version, monotonic_ns())
        return place

    def answer(self, place: int, result: int, version: int = 0) -> None:
        """Write down the answer to a call, right after it has come."""
        now = monotonic_ns()
        _ANSWER.pack_into(self._memory, place + _ANSWER_PLACE, result, version, now)
