"""Namespaces: the keys of a table that have a prefix, as a table of its own.

# Design

A namespace shares the connection of its table. It puts the prefix before each key that it is given, and takes it off
each key that it gives out; what an `ObjectTable` does with values it does likewise, or nothing if values are bytes.
There is no index of prefixes: whatever goes over keys goes over all keys of the table, and passes over those of others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ringtable._object_table import ObjectTable
from ringtable._ringtable import Table as TableCore
from ringtable._table import Table

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from ringtable._types import Key, Seconds
    from ringtable._watch import Watch

    _T = TypeVar("_T", default=bytes)

_CORE: Any = TableCore


class Namespace(ObjectTable["_T"]):
    """The keys of a table that begin with a prefix, without it: `Table.namespace` makes one.

    It lives as long as its table's connection, and closing it closes nothing. `call`, `call_many` and `stats` are those
    of the whole table.
    """

    _prefix: bytes
    _table: Table[Any]

    def __new__(cls, table: Table[_T], prefix: Key) -> Namespace[_T]:
        """Make a namespace of a table, or of a namespace: then prefixes add up."""
        if not isinstance(prefix, (str, bytes)):
            raise TypeError(f"a prefix is str or bytes, not {type(prefix).__name__}")
        self = cast("Namespace[_T]", _CORE.__new__(cls, table))
        if isinstance(table, ObjectTable):
            # The codec, and all that was found out about it.
            vars(self).update(vars(table))
        else:
            self.codec, self._name, self._keys, self._errors = "bytes", "bytes", "bytes", "strict"
            self._fetch, self._read_checked, self._absent = _CORE.get, None, b""
            self._encode = self._decode = self._shown = _same
        self._table = table
        self._prefix = b""
        self._prefix = (table._prefix if isinstance(table, Namespace) else b"") + self._raw(prefix)
        return self

    def _raw(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._prefix + key.encode("utf-8", self._errors)
        # The core says what is wrong with anything else.
        return self._prefix + key if isinstance(key, bytes) else key

    def _raw_key(self, key: Key) -> Key:
        return cast("Key", self._raw(key))

    def _key(self, raw: bytes) -> Any:
        return self._shown(raw[len(self._prefix) :])

    def get(self, key: Key, /, default: Any = None) -> Any:
        data = self._fetch(self, self._raw(key))
        return default if data is None else self._load(key, data)

    def __len__(self) -> int:
        """Count the keys, which goes over the whole table."""
        return sum(map(len, self._batches()))

    def __bool__(self) -> bool:
        """Whether there is a key: goes on until it has found one."""
        return any(True for _ in self._batches())

    def clear(self) -> None:
        """Delete the keys of the namespace, which goes over the whole table.

        Not one atomic step, but nothing that was there before survives.
        """
        _CORE.delete_prefix(self, self._prefix)

    def watch(self, prefix: Key = b"", *, timeout: Seconds | None = None) -> Watch[Any]:
        return self._watch(self._raw(prefix), timeout, partial(_without, len(self._prefix), self._shown))

    def close(self) -> None:
        """Do nothing: the connection is that of the table, which closes it."""

    def _load_pairs(self, key: Any, pairs: list[tuple[bytes, Any]]) -> list[tuple[Any, Any]]:
        return super()._load_pairs(key, [pair for pair in pairs if pair[0].startswith(self._prefix)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the table and the prefix: with its table, it shares its connection again."""
        parent = self._table._prefix if isinstance(self._table, Namespace) else b""
        return type(self), (self._table, self._prefix[len(parent) :])

    def __repr__(self) -> str:
        return f"<ringtable.Namespace {self._shown(self._prefix)!r} of {self._table!r}>"


def _same(value: Any) -> Any:
    return value


def _without(size: int, shown: Callable[[bytes], Any], raw: bytes) -> Any:
    """A key without the prefix, which has so many bytes; nothing where there is no key."""
    return shown(raw[size:])
