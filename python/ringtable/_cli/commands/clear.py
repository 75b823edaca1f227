"""`ringtable clear`: an empty table."""

from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection


def arguments(parser: ArgumentParser) -> None:
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    with Connection(options).open() as table:
        table.clear()
