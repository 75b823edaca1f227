"""The names of tools: as parts of keys, and as the server has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringtable._errors import InvalidOption

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key


_INNER = b"\0"

_KEEPING_KEYS = ("limit:", "event:", "once:", "once-place:", "barrier:", "memoize:")


def is_of_tool(key: Key) -> bool:
    """Whether a key is one of those that tools make, as far as its name tells."""
    return (key.decode(errors="replace") if isinstance(key, bytes) else key).startswith(_KEEPING_KEYS)


def name_in(table: TableCore[Any], tool: str, name: Key) -> bytes:
    """The name that a tool of a table has: of a namespace, its prefix comes first.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
        InvalidOption: It begins with the byte that inner names begin with.
    """
    full = _prefix_of(table) + _as_bytes(tool, name)
    if full.startswith(_INNER):
        raise InvalidOption(f"the name of a {tool} begins with a byte of 0, as the tools' own names do: {full!r}")
    return full


def inner_name(key: bytes, part: bytes) -> bytes:
    """The name of a lock that a tool has for itself, which none of a user's has."""
    return _INNER + key + _INNER + part


def key_in(table: TableCore[Any], tool: str, name: Key) -> bytes:
    """The key that a tool of that kind and name has in the table, or in the namespace.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
    """
    return _prefix_of(table) + tool.encode() + b":" + _as_bytes(tool, name)


def _prefix_of(table: TableCore[Any]) -> bytes:
    """What all keys begin with, if the table is a namespace."""
    prefix: bytes = getattr(table, "_prefix", b"")
    return prefix


def _as_bytes(tool: str, name: Key) -> bytes:
    if isinstance(name, str):
        return name.encode()
    if not isinstance(name, bytes):
        raise TypeError(f"the name of a {tool} is str or bytes, not {type(name).__name__}")
    return name
