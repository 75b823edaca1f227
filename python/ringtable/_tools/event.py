"""Events that all processes of the machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringtable._ringtable import Table as TableCore
from ringtable._ringtable import await_change
from ringtable._tools.names import key_in

if TYPE_CHECKING:
    from ringtable._types import Key, Seconds


class SharedEvent:
    """Something that has happened or not, and that processes wait for. `Table.event` makes one.

        table.event("ready").set()  # in one process
        table.event("ready").wait()  # in others

    It is a key of the table, never evicted, and stays set when the process that has set it ends. `Table.clear` and the
    end of the server clear it.
    """

    def __init__(self, table: TableCore[Any], name: Key) -> None:
        self._table, self._key = table, key_in(table, "event", name)

    def is_set(self) -> bool:
        """Whether it has happened; read in place."""
        return TableCore.__contains__(self._table, self._key)

    def set(self) -> None:
        """Let it have happened: all who wait go on."""
        TableCore.set(self._table, self._key, b"1", writes="acknowledged", evictable=False)

    def clear(self) -> None:
        """Let it not have happened."""
        TableCore.delete(self._table, self._key, writes="acknowledged")

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until it is set, for `timeout` at most, in seconds or a `timedelta`; return whether it was."""
        return await_change(self._table, self._key, 0, timeout)

    def __repr__(self) -> str:
        return f"<ringtable.SharedEvent {self._key.decode(errors='replace')!r}>"
