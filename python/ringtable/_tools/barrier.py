"""Barriers that all processes of the machine share."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ringtable._errors import LockLost, Timeout
from ringtable._ringtable import Table as TableCore
from ringtable._ringtable import await_change
from ringtable._tools.lock import Lock
from ringtable._tools.names import key_in
from ringtable._tools.semaphore import Semaphore

if TYPE_CHECKING:
    from ringtable._types import Key, Seconds


class Barrier:
    """A place where so many parties wait for each other, again and again. `Table.barrier` makes one.

    A party that waits has a seat, a permit of a semaphore. The one that takes the last seat begins the next generation,
    a number in the table that the others wait for. All changes happen under a lock of the barrier's own, so that a
    party passes or gives up, and never both. One that dies while it waits counts no more.
    """

    def __init__(self, table: TableCore[Any], name: Key, parties: int) -> None:
        self._table, self._key = table, key_in(table, "barrier", name)
        self.parties: int = parties
        self._changes = Lock(table, self._key)
        # Checks the number, and the name.
        self._seats(0)

    def _seats(self, generation: int) -> Semaphore:
        return Semaphore(self._table, self._key + b":%d" % generation, self.parties)

    def _generation(self) -> tuple[int, int]:
        """Its number, and the version of the key that holds it."""
        found = TableCore.get_with_version(self._table, self._key)
        return (0, 0) if found is None else (int(found[0]), found[1])

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._seats(self._generation()[0]).holders()

    def wait(self, timeout: Seconds | None = None) -> int:
        """Wait until all parties are here, for `timeout` at most, in seconds or a `timedelta`.

        Returns how many were still to come: 0 to the one that came last.

        Raises:
            Timeout: Not all came in time; this one counts no more, and the others wait on.
            CommandError: Another process has made this barrier with another number of parties.
        """
        with self._changes:
            generation, version = self._generation()
            seats = self._seats(generation)
            seats.acquire()
            try:
                missing = self.parties - seats.holders()
                if not missing:
                    TableCore.incr(self._table, self._key, evictable=False)
            except BaseException:
                seats.release()
                raise
            if not missing:
                seats.release()
                return 0
        try:
            await_change(self._table, self._key, version, timeout)
        finally:
            with suppress(LockLost), self._changes:
                passed = self._generation()[0] != generation
                seats.release()
        if not passed:
            raise Timeout(f"not all {self.parties} parties came to the barrier within {timeout} s")
        return missing

    def __repr__(self) -> str:
        return f"<ringtable.Barrier {self._key.decode(errors='replace')!r} of {self.parties}>"
