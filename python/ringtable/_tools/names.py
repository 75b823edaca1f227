"""The names of tools as parts of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringtable._types import Key


def key_of(tool: str, name: Key) -> bytes:
    """The key that a tool of that kind and name has in the table.

    Raises:
        TypeError: The name is neither `str` nor `bytes`.
    """
    if isinstance(name, str):
        name = name.encode()
    if not isinstance(name, bytes):
        raise TypeError(f"the name of {tool} is str or bytes, not {type(name).__name__}")
    return tool.encode() + b":" + name
