"""The names of tools: as parts of keys, and as the server has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringtable._errors import KeyTooLong
from ringtable._ringtable import KEY_SIZE_MAX

if TYPE_CHECKING:
    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key


# What the tools are called in messages.
_NOUNS = {"limit": "a limit", "event": "an event", "once": "something done once", "memoize": "a memoized function"}

_KEEPING_KEYS = ("limit:", "event:", "once:", "once-place:", "memoize:")


def is_of_tool(key: Key) -> bool:
    """Whether a key is one of those that tools make, as far as its name tells."""
    return (key.decode(errors="replace") if isinstance(key, bytes) else key).startswith(_KEEPING_KEYS)


def name_in(table: TableCore[Any], tool: str, name: Key) -> bytes:
    """The name that a tool of a table has: of a namespace, its prefix comes first.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
        KeyTooLong: The name is too long.
    """
    return _prefix_of(table) + _as_bytes(table, tool, name)


def key_in(table: TableCore[Any], tool: str, name: Key, part: str = "") -> bytes:
    """The key that a tool of that kind and name has in the table, or in the namespace; or one for a part of it.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
        KeyTooLong: The name is too long.
    """
    return _prefix_of(table) + f"{tool}{part}:".encode() + _as_bytes(table, tool, name, part)


def beginning_in(table: TableCore[Any], tool: str, name: Key) -> bytes:
    """What all keys begin with that the tool of that kind and name has, as does no key of one of another name.

    The name's length stands before it: else it would run together with what follows.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
        KeyTooLong: The name is too long.
    """
    written = _as_bytes(table, tool, name)
    return _prefix_of(table) + b"%b:%d:%b:" % (tool.encode(), len(written), written)


def _prefix_of(table: TableCore[Any]) -> bytes:
    """What all keys begin with, if the table is a namespace."""
    prefix: bytes = getattr(table, "_prefix", b"")
    return prefix


def _as_bytes(table: TableCore[Any], tool: str, name: Key, part: str = "") -> bytes:
    noun = _NOUNS.get(tool, f"a {tool}")
    if isinstance(name, str):
        name = name.encode()
    elif not isinstance(name, bytes):
        raise TypeError(f"the name of {noun} is str or bytes, not {type(name).__name__}")
    # The server has all of them as keys, which begin with the tool.
    allowed = max(0, KEY_SIZE_MAX - len(_prefix_of(table)) - len(tool) - len(part) - 1)
    if len(name) > allowed:
        raise KeyTooLong(f"the name of {noun} has {len(name)} bytes, at most {allowed} are allowed")
    return name
