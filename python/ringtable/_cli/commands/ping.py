"""`ringtable ping`: whether the server answers."""

import sys
from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection


def arguments(parser: ArgumentParser) -> None:
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    # What has no lane gets into the place that a full server has in reserve.
    with Connection(options).open(transport="socket") as table:
        answer = table.call("PING")
    sys.stdout.buffer.write(answer + b"\n" if isinstance(answer, bytes) else b"\n")
