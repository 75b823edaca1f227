"""Barriers that all processes of the machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ringtable._ringtable import Barrier as BarrierCore
from ringtable._tools.names import name_in

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key


class Barrier(BarrierCore):
    """A place where so many parties wait for each other, again and again. `Table.barrier` makes one.

        barrier = table.barrier("start", 4)
        barrier.wait()  # in each of four processes, or threads: all go on together

    The party that comes last lets all go at once. One that ends while it waits, however, counts no more, nor does one
    whose `timeout` is over: a party has passed with the others, or gets `Timeout` and they wait on. Only a server that
    does not answer leaves that open, and raises `LockLost`.
    """

    def __new__(cls, table: TableCore[Any], name: Key, parties: int) -> Self:
        """See `Table.barrier`."""
        return super().__new__(cls, table, name_in(table, "barrier", name), parties)

    def __repr__(self) -> str:
        return f"<ringtable.Barrier {self.name!r} of {self.parties}>"
