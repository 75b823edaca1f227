"""`ringtable load`: the entries of a file into a table."""

import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from typing import TYPE_CHECKING, cast

from ringtable._cli import stream
from ringtable._cli.connection import Connection
from ringtable._cli.output import remark
from ringtable._cli.progress import shown_progress
from ringtable._cli.signals import interrupt_on_termination
from ringtable._cli.stream import counted
from ringtable._errors import Error

if TYPE_CHECKING:
    from ringtable._table import Table

# With what files of Redis and Valkey begin.
_MAGIC = (b"REDIS", b"VALKEY")
# Entries that are written at once, and bytes of them.
_LOADED_AT_ONCE = 1_000
_LOADED_SIZE = 1 << 20


def arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "The file is one of `ringtable snapshot`, `ringtable dump`, Redis or Valkey (RDB). What has expired meanwhile"
        " is left out, and so is what a table cannot have, such as lists. A damaged file is refused at the byte where"
        " it is: one of `dump` has been loaded up to there then, of any other nothing is loaded. How many entries were"
        " loaded, and what was left out, is said on standard error."
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="The file; `-` for standard input, as if it is left out.",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="Refuse a file that has what a table cannot have: values that are no strings, or other databases.",
    )
    parser.add_argument(
        "--salvage",
        action="store_true",
        help="Load of a damaged file what stands before the damage, which `ringtable snapshot` guards by checksums.",
    )
    Connection.arguments(parser)


def run(options: Namespace) -> None:
    file: str = options.file
    interrupt_on_termination()
    with _read(file) as source, Connection(options).open() as table:
        if source.peek(len(_MAGIC[0])).startswith(_MAGIC):
            with _as_file(file, source) as path:
                _load_snapshot(table, path, options)
        else:
            _load_commands(table, stream.Reader(source, "standard input" if file == "-" else file))


def _load_snapshot(table: "Table", path: str, options: Namespace) -> None:
    """Load a file in the format of Redis."""
    try:
        with shown_progress("loaded") as progress:
            loaded = table.load(path, strict=options.strict, salvage=options.salvage, progress=progress)
    except KeyboardInterrupt:
        remark("interrupted: a part of the entries may be loaded")
        raise
    if loaded.damage is not None:
        remark(loaded.damage)
    remark(_in_words(loaded.entries, loaded.expired, loaded.skipped))


def _load_commands(table: "Table", entries: stream.Reader) -> None:
    """Load a file of `ringtable dump`."""
    loading = _Loading()
    try:
        loading.load(table, entries)
    except Error as error:
        raise Error(f"{error}; {loading}") from None
    except KeyboardInterrupt:
        # Of what was on its way nobody knows.
        remark(f"interrupted: at least {loading}")
        raise
    remark(str(loading))


def _in_words(loaded: int, expired: int, skipped: Mapping[str, int]) -> str:
    left_out = [f"{expired} that have expired"] * bool(expired)
    left_out += [f"{count} {what}" for what, count in skipped.items()]
    return f"{counted(loaded)} loaded" + (f", and {', '.join(left_out)} were left out" if left_out else "")


class _Loading:
    """What was loaded so far."""

    def __init__(self) -> None:
        self._loaded = 0
        self._expired = 0

    def __str__(self) -> str:
        return _in_words(self._loaded, self._expired, {})

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
def _as_file(file: str, source: BufferedReader) -> Iterator[str]:
    """The path of a file that is read through a stream; of a pipe, which is read once only, a copy in a file."""
    if file != "-" and source.seekable():
        yield file
        return
    with tempfile.NamedTemporaryFile(prefix="ringtable-") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield copy.name


@contextmanager
def _read(file: str) -> Iterator[BufferedReader]:
    """What a file is read through."""
    if file == "-" and sys.stdin is None:
        raise Error("reading the entries: standard input is closed")
    try:
        if file == "-":
            yield cast("BufferedReader", sys.stdin.buffer)
        else:
            with open(file, "rb") as source:
                yield source
    except Error:
        raise
    except OSError as error:
        raise Error(f"reading {'standard input' if file == '-' else file}: {error.strerror}") from None
