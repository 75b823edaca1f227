"""`ringtable dump`: the entries of a table into a file."""

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from ringtable._cli import stream
from ringtable._cli.connection import Connection
from ringtable._cli.output import remark, silence
from ringtable._cli.progress import shown_progress
from ringtable._cli.signals import interrupt_on_termination
from ringtable._cli.stream import Entry, counted
from ringtable._errors import Error

if TYPE_CHECKING:
    from ringtable._table import Table

# Entries that are asked for at once, and bytes of a value above which it is asked for alone: so what is in memory at
# one time is 7 MB, or the largest value, and the keys of a step of a walk.
_ASKED_AT_ONCE = 100
_SMALL_VALUE_SIZE = 64 << 10
_TOLD_EVERY = 1_000


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "Others may change the table meanwhile: each entry is as it was at one moment, all of them are not. Whether an"
        " entry may be evicted is not in the file. A file that is there is replaced once the new one is whole; it is"
        " this user's alone. How many entries there are is said on standard error."
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="The file; `-` for standard output, as if it is left out.",
    )
    parser.add_argument("--prefix", default="", help="What the keys begin with; all keys, if it is left out.")
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    file: str = options.file
    interrupt_on_termination()
    count = size = 0
    with Connection(options).open() as table, _written(file) as target, shown_progress("dumped") as progress:
        try:
            for entry in _entries(table, os.fsencode(options.prefix)):
                stream.write(target, entry)
                count, size = count + 1, size + len(entry.key) + len(entry.value)
                if progress is not None and count % _TOLD_EVERY == 0:
                    progress(count, len(table), size)
        except KeyboardInterrupt:
            if file == "-":
                # What is not written yet stays so: who reads may have stopped.
                silence(sys.stdout)
            remark(f"interrupted after {counted(count)}")
            raise
    remark(f"{counted(count)} dumped")


def _entries(table: "Table", prefix: bytes) -> Iterator[Entry]:
    """The entries of a table whose keys begin with a prefix."""
    for keys in table._batches(prefix):
        for first in range(0, len(keys), _ASKED_AT_ONCE):
            asked = keys[first : first + _ASKED_AT_ONCE]
            for key, found in zip(asked, _ask(table, asked), strict=True):
                entry = found
                if entry is not None and isinstance(entry[0], int):
                    entry = cast("list[bytes | int] | None", table.call("RING.ENTRY", key))
                # What was deleted since its key was read is not there any more.
                if entry is not None:
                    value, at_ms, _ = cast("tuple[bytes, int, int]", entry)
                    yield Entry(key, value, None if at_ms < 0 else at_ms)


def _ask(table: "Table", keys: list[bytes]) -> list[list[bytes | int] | None]:
    """What the table has of some keys: value and time; the size in place of a large value; nothing."""
    replies = table.call_many([("RING.ENTRY", key, _SMALL_VALUE_SIZE) for key in keys])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return cast("list[list[bytes | int] | None]", replies)


@contextmanager
def _written(file: str) -> Iterator[BinaryIO]:
    """What a file is written through, which takes the place of one that is there once all of it is written."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(file)
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            # A device, or a pipe: nothing takes its place.
            with open(target, "wb") as through:
                yield through
            return
        descriptor, beside = tempfile.mkstemp(prefix=".ringtable-", dir=os.path.dirname(target))
        try:
            with open(descriptor, "wb") as through:
                yield through
                through.flush()
                os.fsync(descriptor)
            os.replace(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
    except Error:
        raise
    except OSError as error:
        raise Error(f"writing {file}: {error.strerror}") from None
