"""Changing a value by a function, while other processes may change it, too."""

from __future__ import annotations

import os
import time

from ringtable._errors import Conflict
from ringtable._range import check_range
from ringtable._ringtable import check_ttl, to_bytes
from ringtable._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringtable._ringtable import Table as TableCore
    from ringtable._types import Key, Seconds, Value

_RETRIES_MAX = 1_000_000
# Tries that follow at once: somebody else has succeeded, and may be done.
_EAGER_TRIES = 3
# Random numbers below this, of the system's. The generators of `random` are the caller's, who may have seeded them, and
# take longer to import than this package.
_RANDOM_LIMIT = 1 << 32
_PAUSE_S_FIRST = 50e-6
_PAUSE_S_MAX = 5e-3
# Slow functions need longer pauses: in units of what the last try took.
_PAUSE_TRIES_MAX = 8


def change(
    table: TableCore,
    key: Key,
    fn: Callable[[bytes | None], Value | None],
    *,
    retries: int = 100,
    ttl: Seconds | None = None,
) -> bytes | None:
    """Write what a function makes of a value, if nobody has changed it meanwhile, else try again.

    Raises:
        Conflict: Others changed the key in all of the tries.
    """
    check_range("retries", retries, 0, _RETRIES_MAX, "tries")
    if ttl is not None:
        check_ttl(ttl)
    if not callable(fn):
        raise TypeError(f"update(key, fn) needs a function that makes the new value, not {type(fn).__name__}")
    started = 0.0
    for tries in range(retries + 1):
        if tries >= _EAGER_TRIES:
            # Those who lose again and again wait for a random while, each time longer, so that each has its turn.
            longest = max(_PAUSE_S_MAX, _PAUSE_TRIES_MAX * (time.monotonic() - started))
            share = int.from_bytes(os.urandom(4)) / _RANDOM_LIMIT
            time.sleep(share * min(_PAUSE_S_FIRST * 2 ** min(tries, 20), longest))
        started = time.monotonic()
        found = table.get_with_version(key)
        value, version = found or (None, 0)
        made = fn(value)
        if made is None:
            if found is None or table.delete_if_version(key, version):
                return None
        else:
            # What is mutable must be the same in the table and in the caller's hands.
            made = to_bytes(made)
            if table.set(key, made, ttl=ttl, if_version=version):
                return made
    raise Conflict(f"others have changed {key!r} in each of {retries + 1} tries; allow more with retries=")
