"""Locks that all processes of the machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ringtable._ringtable import Lock as LockCore
from ringtable._tools.names import name_in

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key, Seconds


class Lock(LockCore):
    """A lock that one thread of one process of the machine has at a time. `Table.lock` makes one.

        with table.lock("report"):
            ...  # nobody else is here

    It belongs to the connection of its table, and is free at once when its process ends, however. It is lost by a
    living process only when its `ttl` is over or the server ends: then `release`, `extend` and the end of a `with`
    block raise `LockLost`. Those who wait for it get it in the order of asking.

    Several objects of one name are one lock, in whichever process: a thread that has acquired it by one of a table's
    objects has it by all of them. Threads acquire and release each for itself. A forked child has none of its parent's
    locks. An object that is dropped while it is held leaves the lock as it is.
    """

    def __new__(
        cls,
        table: TableCore[Any],
        name: Key,
        *,
        timeout: Seconds | None = None,
        ttl: Seconds | None = None,
        reentrant: bool = False,
    ) -> Self:
        """See `Table.lock`."""
        return super().__new__(
            cls, table, name_in(table, "lock", name), 1, timeout=timeout, ttl=ttl, reentrant=reentrant
        )

    def __repr__(self) -> str:
        return f"<ringtable.Lock {self.name!r}{'' if self.token is None else f', token {self.token}'}>"
