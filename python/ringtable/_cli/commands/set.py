"""`ringtable set`: one value. Keys and values are the bytes that were typed, whether those are text or not."""

import os
import sys
from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection
from ringtable._cli.output import printable
from ringtable._cli.parser import number, unmarked
from ringtable._errors import Error, InvalidOption
from ringtable._ringtable import VALUE_SIZE_MAX, check_ttl


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="The key.")
    parser.add_argument(
        "value",
        metavar="VALUE",
        type=_typed,
        help="The value; `-` for what comes from standard input, as it is, the newline at its end included. One that"
        " begins with a hyphen goes behind a `--`: `set KEY -- -x`.",
    )
    parser.add_argument("--ttl", type=number, metavar="SECONDS", help="Seconds after which the entry is gone.")
    parser.add_argument("--nx", action="store_true", help="Write only if the key is absent.")
    parser.add_argument("--xx", action="store_true", help="Write only if the key is present.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    key = os.fsencode(options.key)
    # Before it is known whether there is a server.
    if options.ttl is not None:
        check_ttl(options.ttl)
    if options.nx and options.xx:
        raise InvalidOption("nx and xx exclude each other: choose one")
    value = _standard_input() if options.value is None else options.value
    with Connection(options).open() as table:
        if not table.set(key, value, ttl=options.ttl, nx=options.nx, xx=options.xx):
            raise Error(f"not written: the key {printable(key)} is {'present' if options.nx else 'absent'}")


def _typed(word: str) -> bytes | None:
    """The value that was typed, or `None` for the one from standard input. Behind `--` a hyphen is a value itself."""
    return None if word == "-" else os.fsencode(unmarked(word))


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise Error("reading the value: standard input is closed")
    try:
        # One byte more than may be is refused in the words that are for all that is too large.
        return sys.stdin.buffer.read(VALUE_SIZE_MAX + 1)
    except OSError as error:
        raise Error(f"reading the value: {error.strerror}") from None
