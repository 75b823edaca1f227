"""Tables in files: what `Table.snapshot` and `Table.load` return, and how they do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ringtable import _ringtable

if TYPE_CHECKING:
    import os

    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key

Progress = Callable[[int, int, int], object]
"""Is told how far a call has come: entries done, about how many there are, and bytes of the file."""


class Loaded(NamedTuple):
    """What `Table.load` has loaded."""

    entries: int
    """How many entries were written."""
    expired: int
    """How many had expired, and were left out."""
    skipped: dict[str, int]
    """What a table cannot have, such as lists, and how many of that there were. It was left out."""
    damage: str | None
    """What is wrong with the file, if it was damaged and `salvage` was asked for."""


def snapshot(table: TableCore[Any], path: str | os.PathLike[str], prefix: Key, progress: Progress | None) -> int:
    """Write the entries whose keys begin with a prefix to a file; return how many there are."""
    entries, _ = _ringtable.snapshot(table, path, prefix, progress)
    return entries


def load(
    table: TableCore[Any],
    path: str | os.PathLike[str],
    strict: bool,
    salvage: bool,
    progress: Progress | None,
) -> Loaded:
    """Write the entries of a file to a table."""
    return Loaded(*_ringtable.load(table, path, strict, salvage, progress))
