"""`ringtable keys`: which keys there are."""

import os
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase

from ringtable._cli.connection import DEFAULT, Connection
from ringtable._cli.output import printable


def keys(which: str = "", /, *, at: Connection = DEFAULT) -> None:
    """Print keys, one on a line and in no order: all, those with a prefix, or those that fit a pattern.

    Others may change the table meanwhile: keys that come or go are printed or not. In a terminal keys are in quotes;
    elsewhere they are the bytes that they are.

    Args:
        which: What the keys begin with; or, with one of `*`, `?` and `[` in it, a pattern for all of a key, as shells
            have them (in quotes, so that the shell leaves it alone).
    """
    fits = _matcher(os.fsencode(which))
    in_terminal = sys.stdout.isatty()
    with at.open() as table:
        for key in table:
            if fits(key):
                sys.stdout.buffer.write((printable(key).encode() if in_terminal else key) + b"\n")


def _matcher(which: bytes) -> Callable[[bytes], bool]:
    if re.search(rb"[*?[]", which):
        return lambda key: fnmatchcase(key, which)
    return lambda key: key.startswith(which)
