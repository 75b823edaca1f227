"""`ringtable get`: one value. Keys and values are the bytes that were typed, whether those are text or not."""

import os
import sys
from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection
from ringtable._cli.output import printable
from ringtable._errors import Error


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="The key.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    key = os.fsencode(options.key)
    with Connection(options).open() as table:
        value = table.get(key)
    if value is None:
        raise Error(f"there is no key {printable(key)}")
    sys.stdout.buffer.write(value + b"\n")
