"""Barriers that all processes of the machine share.

Design: one key holds all that a barrier is: an epoch, which the first party draws by chance, the number of its
generation, and the seats of the parties that wait. Each change of it is one write, by version. The party whose write
would fill the last seat empties all of them instead, and raises the number: with that write all pass.

A seat is named after a lock that nobody else asks for. Its party acquires it before it writes its seat down, and has it
until it passes or gives up. So a seat whose lock is free is that of a party that is gone, however: the next one that
comes strikes it out. The lock is the connection's, and needs no step of the party to be free.

Invariants:

- Those who pass together are those whose seats were taken at one version of the key, and the one that replaced it.
- A party that gives up has struck out its own seat, by version, before it raises `Timeout`: nobody counts it then.
- No party waits for another one's step, except for those that it waits for at the barrier.

Not promised: a party that is interrupted, or gets another error than `Timeout`, may have been counted in that very
moment, as one that is killed may. So does one whose server does not answer in time once it may be counted: `LockLost`.
Each party that comes wakes those that wait, for a look at the key, and asks about each of their seats: what many
parties cost together grows faster than the square of their number, and a hundred of them take seconds.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ringtable._errors import CommandError, LockLost, Timeout
from ringtable._ringtable import LOCKS_MAX, await_change, check_timeout
from ringtable._ringtable import Lock as LockCore
from ringtable._ringtable import Table as TableCore
from ringtable._tools.names import inner_name, key_in
from ringtable._tools.semaphore import check_count

if TYPE_CHECKING:
    from ringtable._types import Key, Seconds

_DIGITS_MAX = 19
"""Those of a number in the key; there is no time for as many generations."""


@dataclass(frozen=True)
class _State:
    """What the key of a barrier holds, and the version that it has."""

    epoch: bytes
    generation: int
    parties: int
    seats: tuple[bytes, ...]
    version: int

    def to_bytes(self) -> bytes:
        return b" ".join([self.epoch, b"%d %d" % (self.generation, self.parties), *self.seats])

    @classmethod
    def from_bytes(cls, key: bytes, value: bytes, version: int) -> _State:
        words = value.split(b" ")
        numbers = words[1:3]
        if not (
            3 <= len(words) < 3 + LOCKS_MAX
            and all(number.isdigit() and len(number) <= _DIGITS_MAX for number in numbers)
        ):
            raise CommandError(
                f"the key {key!r} holds something else than a barrier: delete it, or choose another name"
            )
        return cls(words[0], int(words[1]), int(words[2]), tuple(words[3:]), version)


class Barrier:
    """A place where so many parties wait for each other, again and again. `Table.barrier` makes one.

    The party that comes last lets all go at once. One that ends while it waits, however, counts no more.
    """

    def __init__(self, table: TableCore[Any], name: Key, parties: int) -> None:
        # Each party that waits has a lock.
        check_count("parties", parties)
        self._table, self._key = table, key_in(table, "barrier", name)
        self.parties: int = parties
        # Checks how long the name is.
        self._lock(self._new_seat())

    def _new_seat(self) -> bytes:
        return secrets.token_hex(8).encode()

    def _lock(self, seat: bytes, timeout: Seconds | None = None) -> LockCore:
        return LockCore(self._table, inner_name(self._key, seat), 1, timeout=timeout)

    def _read(self) -> _State | None:
        found = TableCore.get_with_version(self._table, self._key)
        return None if found is None else _State.from_bytes(self._key, *found)

    def _write(self, state: _State) -> bool:
        """Write it, if the key still has the version that it says.

        Raises:
            LockLost: The server has not answered in time: it may write it later.
        """
        try:
            return TableCore.set(self._table, self._key, state.to_bytes(), if_version=state.version, evictable=False)
        except Timeout as silent:
            raise self._lost(str(silent)) from None

    def _taken(self, state: _State) -> tuple[bytes, ...]:
        """The seats of those that wait, and have not gone."""
        return tuple(seat for seat in state.seats if self._lock(seat).locked())

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        state = self._read()
        return 0 if state is None else len(self._taken(state))

    def wait(self, timeout: Seconds | None = None) -> int:
        """Wait until all parties are here, for `timeout` at most, in seconds or a `timedelta`.

        Returns how many were still to come: 0 to the one that came last.

        Raises:
            Timeout: Not all came in time; this one counts no more, and the others wait on.
            LockLost: The place of this one was lost while it waited: the table was cleared, the connection has ended,
                or the server has not answered within the table's `timeout`. The others may have passed.
            OutOfMemory: The table has no place for the barrier.
            CommandError: Another process has made this barrier with another number of parties.
        """
        check_timeout(timeout)
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        deadline = None if seconds is None else time.monotonic() + seconds
        seat, raised, is_counted = self._new_seat(), None, False
        try:
            # Nobody else asks for it: whoever takes it waits for the server alone.
            with self._lock(seat, timeout):
                is_counted = True
                try:
                    return self._wait(seat, deadline, timeout)
                except BaseException as error:
                    raised = error
                    raise
        except (LockLost, Timeout) as error:
            if not is_counted:
                raise
            # What has ended the waiting tells more than that the lock has ended, too.
            lost = isinstance(error, LockLost)
            raise raised or self._lost("the connection that had it has ended" if lost else str(error)) from None
        finally:
            # No circle of the error and this frame.
            del raised

    def _wait(self, seat: bytes, deadline: float | None, timeout: Seconds | None) -> int:
        """Take the seat, whose lock is held, and wait."""
        entered = self._enter(seat, deadline, timeout)
        missing = self.parties - len(entered.seats)
        if not entered.seats:
            return 0
        while True:
            state = self._read()
            if state is None or state.epoch != entered.epoch:
                raise self._lost("the key of the barrier was deleted, or the table was cleared")
            if state.generation != entered.generation:
                return missing
            if seat not in state.seats:
                raise self._lost("the connection that had it has ended")
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                if await_change(self._table, self._key, state.version, left):
                    continue
            except Timeout as silent:
                raise self._lost(str(silent)) from None
            others = tuple(other for other in state.seats if other != seat)
            if self._write(replace(state, seats=others)):
                raise self._timed_out(timeout)

    def _enter(self, seat: bytes, deadline: float | None, timeout: Seconds | None) -> _State:
        """Take the seat, or let all go, if it is the last one. Returns what was written."""
        while True:
            state = self._read() or _State(self._new_seat(), 0, self.parties, (), 0)
            taken = self._taken(state)
            if taken and state.parties != self.parties:
                raise CommandError(
                    f"the barrier {self._key!r} has {state.parties} parties now, and {self.parties} were asked for: "
                    "all who use a name have to agree"
                )
            state = replace(state, parties=self.parties, seats=(*taken, seat))
            if len(state.seats) >= self.parties:
                state = replace(state, generation=state.generation + 1, seats=())
            if self._write(state):
                return state
            # Another one has come or gone in between.
            if deadline is not None and time.monotonic() > deadline:
                raise self._timed_out(timeout)

    def _timed_out(self, timeout: Seconds | None) -> Timeout:
        return Timeout(f"not all {self.parties} parties came to the barrier within {timeout} s")

    def _lost(self, why: str) -> LockLost:
        return LockLost(f"the place at the barrier {self._key!r} was lost: {why}; the others may have passed")

    def __repr__(self) -> str:
        return f"<ringtable.Barrier {self._key.decode(errors='replace')!r} of {self.parties}>"
