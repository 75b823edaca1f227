"""The part of a table whose keys begin alike, as a mapping: what `keys(prefix=)` and its kin are views of."""

from __future__ import annotations

from collections.abc import Mapping

from ringtable._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ringtable._table import Table
    from ringtable._types import Key


class Beginning(Mapping["Any", "Any"]):
    """The entries of a table whose keys begin with a prefix. Keys are whole: the prefix is in them.

    What iterates looks at all keys of the table: in shared memory where reads are in place, else the server does.
    """

    def __init__(self, table: Table[Any], prefix: Key) -> None:
        """Make a mapping that asks the table for all that it is asked for."""
        if not isinstance(prefix, (str, bytes)):
            raise TypeError(f"a prefix is str or bytes, not {type(prefix).__name__}")
        self._table = table
        self._prefix = _as_bytes(prefix)

    def __getitem__(self, key: Key) -> Any:
        if not self._begins(key):
            raise KeyError(key)
        return self._table[key]

    def __contains__(self, key: object) -> bool:
        return self._begins(key) and key in self._table

    def __iter__(self) -> Iterator[Any]:
        for keys in self._table._batches(self._prefix):
            yield from keys

    def __len__(self) -> int:
        return sum(map(len, self._table._batches(self._prefix)))

    def _item_batches(self) -> Iterator[Iterator[tuple[Any, Any]]]:
        return self._table._item_batches(self._prefix)

    def _begins(self, key: object) -> bool:
        """Whether a key begins with the prefix; what is no key does not."""
        return isinstance(key, (str, bytes)) and _as_bytes(key).startswith(self._prefix)


def _as_bytes(key: Key) -> bytes:
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
