"""`ringtable snapshot`: all entries of a table into a file, in the format of Redis."""

from argparse import ArgumentParser, Namespace

from ringtable._cli.connection import Connection
from ringtable._cli.output import remark
from ringtable._cli.progress import shown_progress
from ringtable._cli.signals import interrupt_on_termination
from ringtable._cli.stream import counted


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "This process reads the table in place, and the server has no work with it. Others may change the table"
        " meanwhile: each entry is as it was at one moment, all of them are not. A file that is there is replaced once"
        " the new one is whole and on the disk; it is this user's alone. How many entries there are is said on standard"
        " error."
    )
    parser.add_argument("file", metavar="FILE", help="The file.")
    parser.add_argument("--prefix", default="", help="What the keys begin with; all keys, if it is left out.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    interrupt_on_termination()
    with Connection(options).open() as table:
        try:
            with shown_progress("written") as progress:
                count = table.snapshot(options.file, prefix=options.prefix, progress=progress)
        except KeyboardInterrupt:
            remark(f"interrupted: {options.file} is as it was")
            raise
    remark(f"{counted(count)} written to {options.file}")
