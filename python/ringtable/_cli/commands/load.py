"""`ringtable load`: the entries of a file into a table."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ringtable._cli import stream
from ringtable._cli.connection import Connection
from ringtable._cli.output import remark
from ringtable._cli.signals import interrupt_on_termination
from ringtable._cli.stream import counted
from ringtable._errors import Error

if TYPE_CHECKING:
    from ringtable._table import Table

# Entries that are written at once, and bytes of them.
_LOADED_AT_ONCE = 1_000
_LOADED_SIZE = 1 << 20


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The file is one of `ringtable dump`: other commands than it has are refused, and so is one that is damaged, at"
        " the byte where it is; what stands before that is loaded. What has expired meanwhile is left out. How many"
        " entries were loaded is said on standard error."
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="The file; `-` for standard input, as if it is left out.",
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    file: str = options.file
    interrupt_on_termination()
    loading = _Loading()
    with _read(file) as source, Connection(options).open() as table:
        try:
            loading.load(table, stream.Reader(source, "standard input" if file == "-" else file))
        except Error as error:
            raise Error(f"{error}; {loading}") from None
        except KeyboardInterrupt:
            # Of what was on its way nobody knows.
            remark(f"interrupted: at least {loading}")
            raise
    remark(str(loading))


class _Loading:
    """What was loaded so far."""

    def __init__(self) -> None:
        self._loaded = 0
        self._expired = 0

    def __str__(self) -> str:
        expired = f", and {self._expired} that have expired were left out" if self._expired else ""
        return f"{counted(self._loaded)} loaded{expired}"

    def load(self, table: "Table", entries: stream.Reader) -> None:
        """Write entries, many at a time, also those before one that cannot be read."""
        gathered: list[tuple[bytes | int, ...]] = []
        size = 0
        try:
            for key, value, at_ms in entries:
                if at_ms is not None and at_ms <= time.time() * 1_000:
                    self._expired += 1
                    continue
                gathered.append((b"SET", key, value) if at_ms is None else (b"SET", key, value, b"PXAT", at_ms))
                size += len(key) + len(value)
                if len(gathered) >= _LOADED_AT_ONCE or size >= _LOADED_SIZE:
                    commands, gathered, size = gathered, [], 0
                    self._write(table, commands)
        finally:
            self._write(table, gathered)

    def _write(self, table: "Table", commands: list[tuple[bytes | int, ...]]) -> None:
        if not commands:
            return
        replies = table.call_many(commands)
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        self._loaded += len(replies) - len(refused)
        if refused:
            raise refused[0]


@contextmanager
def _read(file: str) -> Iterator[BinaryIO]:
    """What a file is read through."""
    if file == "-" and sys.stdin is None:
        raise Error("reading the entries: standard input is closed")
    try:
        if file == "-":
            yield sys.stdin.buffer
        else:
            with open(file, "rb") as source:
                yield source
    except Error:
        raise
    except OSError as error:
        raise Error(f"reading {'standard input' if file == '-' else file}: {error.strerror}") from None
