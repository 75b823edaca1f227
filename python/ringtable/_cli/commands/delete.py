"""`ringtable del`: keys are gone."""

import os
from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("keys", metavar="KEY", nargs="+", help="A key; more keys.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    with Connection(options).open() as table:
        print(table.delete(*map(os.fsencode, options.keys)))
