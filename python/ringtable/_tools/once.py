"""What is done once, by one of many processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ringtable._ringtable import Table as TableCore
from ringtable._tools.names import key_in

if TYPE_CHECKING:
    from ringtable._types import Key


class Once:
    """Runs a function once among all processes. `Table.once` makes one.

        table.once("migrate")(migrate)  # returns when it is done, whoever has done it

    If the function raises, or its process ends, the next one runs it: so it may have begun more than once. That it is
    done is a key of the table, never evicted; `Table.clear`, `reset` and the end of the server forget it.
    """

    def __init__(self, table: TableCore[Any], name: Key) -> None:
        self._table = table
        # The longer one first, which says how long a name may be.
        self._reserved = key_in(table, "once", name, "-place")
        self._key = key_in(table, "once", name)

    def __call__(self, function: Callable[[], object], /) -> bool:
        """Run the function, unless that is done; return whether this call has run it.

        While another process runs it, this waits, for the table's `timeout` at most.

        Raises:
            Timeout: Another process runs it still.
            OutOfMemory: The table has no place to note that it is done. It has not run then; but if others have filled
                the table while it ran, it has, and the next one runs it again.
        """
        ran = False

        def run() -> bytes:
            nonlocal ran
            # A table that has no place refuses this, before anything has run.
            TableCore.set(self._table, self._reserved, b"1", writes="acknowledged", evictable=False)
            try:
                function()
            finally:
                TableCore.delete(self._table, self._reserved, writes="acknowledged")
            # Not left to `get_or_set`, which returns what it has no place for.
            TableCore.set(self._table, self._key, b"1", writes="acknowledged", evictable=False)
            ran = True
            return b"1"

        TableCore.get_or_set(self._table, self._key, run, evictable=False)
        return ran

    def is_done(self) -> bool:
        """Whether it is done; read in place."""
        return TableCore.__contains__(self._table, self._key)

    def reset(self) -> None:
        """Forget that it is done."""
        TableCore.delete(self._table, self._key, writes="acknowledged")

    def __repr__(self) -> str:
        return f"<ringtable.Once {self._key.decode(errors='replace')!r}>"
