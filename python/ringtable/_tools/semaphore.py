"""Semaphores that all processes of the machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ringtable._errors import InvalidOption
from ringtable._ringtable import LOCKS_MAX
from ringtable._ringtable import Lock as LockCore
from ringtable._tools.names import name_in

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key, Seconds


def check_count(word: str, count: int) -> None:
    """See that there can be so many permits; `word` is the tool's for them.

    Raises:
        TypeError: It is no whole number.
        InvalidOption: It is below 1, or above what a server has.
    """
    if not isinstance(count, int):
        raise TypeError(f"{word} is a whole number, not {type(count).__name__}")
    if not 1 <= count <= LOCKS_MAX:
        raise InvalidOption(f"{word} is {count}; allowed are whole numbers from 1 to {LOCKS_MAX}")


class Semaphore(LockCore):
    """A semaphore that so many have at a time. `Table.semaphore` makes one.

        with table.semaphore("gpu", 2):
            ...  # one other may be here

    As a lock with several permits: each belongs to a connection, and is given back at once when its process ends. A
    thread may have several, and any thread of the process may release them; who releases more than was acquired gets
    `NotOwned`.
    """

    def __new__(
        cls, table: TableCore[Any], name: Key, count: int, *, timeout: Seconds | None = None, ttl: Seconds | None = None
    ) -> Self:
        """See `Table.semaphore`."""
        check_count("count", count)
        return super().__new__(
            cls, table, name_in(table, "semaphore", name), count, timeout=timeout, ttl=ttl, semaphore=True
        )

    def __repr__(self) -> str:
        return f"<ringtable.Semaphore {self.name!r} of {self.permits}>"
