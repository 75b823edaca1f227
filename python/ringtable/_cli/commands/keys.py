"""`ringtable keys`: which keys there are."""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from ringtable._cli.connection import Connection
from ringtable._cli.output import printable

if TYPE_CHECKING:
    from ringtable._table import Table

# Buckets or so that one question goes over.
_COUNT = 500


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Others may change the table meanwhile: keys that come or go are printed or not. In a terminal keys are in"
        " quotes; elsewhere they are the bytes that they are."
    )
    parser.add_argument(
        "which",
        metavar="WHICH",
        nargs="?",
        default="",
        help="What the keys begin with; or, with one of `*`, `?` and `[` in it, a pattern for all of a key, as Redis"
        " has them: `[ab]`, `[^a-z]`, and `\\*` for a star (in quotes, so that the shell leaves it alone). All keys, if"
        " it is left out.",
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    wanted = os.fsencode(options.which)
    in_terminal = sys.stdout.isatty()
    with Connection(options).open() as table:
        for key in _matching(table, wanted) if re.search(rb"[*?[]", wanted) else table.keys(prefix=wanted):
            sys.stdout.buffer.write((printable(key).encode() if in_terminal else key) + b"\n")


def _matching(table: "Table", pattern: bytes) -> Iterator[bytes]:
    """The server says what fits, as it does for other clients."""
    cursor = b"0"
    while True:
        cursor, keys = cast("tuple[bytes, list[bytes]]", table.call("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT))
        yield from keys
        if cursor == b"0":
            return
