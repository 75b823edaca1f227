"""`ringtable dump` and `ringtable load`: the entries of a table into a file, and back into a table."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from ringtable._cli import stream
from ringtable._cli.connection import DEFAULT, Connection
from ringtable._cli.output import escaped, silence
from ringtable._cli.signals import interrupt_on_termination
from ringtable._cli.stream import Entry
from ringtable._errors import Error
from ringtable._table import Table

# Entries that are asked for at once, and bytes of a value above which it is asked for alone: so what is in memory at
# one time is 7 MB, or the largest value, and the keys of a step of a walk.
_ASKED_AT_ONCE = 100
_SMALL_VALUE_SIZE = 64 << 10
# Entries that are written at once, and bytes of them.
_LOADED_AT_ONCE = 1_000
_LOADED_SIZE = 1 << 20


def dump(file: str = "-", /, *, prefix: str = "", at: Connection = DEFAULT) -> None:
    """Write keys, values and times to live to a file that `ringtable load` and `redis-cli --pipe` read.

    Others may change the table meanwhile: each entry is as it was at one moment, all of them are not. Whether an entry
    may be evicted is not in the file. A file that is there is replaced once the new one is whole; it is this user's
    alone. How many entries there are is said on standard error.

    Args:
        file: The file; `-` for standard output.
        prefix: What the keys begin with; all keys, if it is left out.
    """
    interrupt_on_termination()
    count = 0
    with at.open() as table, _written(file) as target:
        try:
            for entry in _entries(table, os.fsencode(prefix)):
                stream.write(target, entry)
                count += 1
        except KeyboardInterrupt:
            if file == "-":
                # What is not written yet stays so: who reads may have stopped.
                silence(sys.stdout)
            _say(f"interrupted after {_entries_in_words(count)}")
            raise
    _say(f"{_entries_in_words(count)} dumped")


def load(file: str = "-", /, *, at: Connection = DEFAULT) -> None:
    """Write the entries of a file into the table, over those that it has, and leave its other keys alone.

    The file is one of `ringtable dump`: other commands than it has are refused, and so is one that is damaged, at the
    byte where it is; what stands before that is loaded. What has expired meanwhile is left out. How many entries were
    loaded is said on standard error.

    Args:
        file: The file; `-` for standard input.
    """
    interrupt_on_termination()
    loading = _Loading()
    with _read(file) as source, at.open() as table:
        try:
            loading.load(table, stream.Reader(source, "standard input" if file == "-" else file))
        except Error as error:
            raise Error(f"{error}; {loading}") from None
        except KeyboardInterrupt:
            # Of what was on its way nobody knows.
            _say(f"interrupted: at least {loading}")
            raise
    _say(str(loading))


def _entries(table: Table, prefix: bytes) -> Iterator[Entry]:
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
                    value, at_ms = cast("tuple[bytes, int]", entry)
                    yield Entry(key, value, None if at_ms < 0 else at_ms)


def _ask(table: Table, keys: list[bytes]) -> list[list[bytes | int] | None]:
    """What the table has of some keys: value and time; the size in place of a large value; nothing."""
    replies = table.call_many([("RING.ENTRY", key, _SMALL_VALUE_SIZE) for key in keys])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return cast("list[list[bytes | int] | None]", replies)


class _Loading:
    """What was loaded so far."""

    def __init__(self) -> None:
        self._loaded = 0
        self._expired = 0

    def __str__(self) -> str:
        expired = f", and {self._expired} that have expired were left out" if self._expired else ""
        return f"{_entries_in_words(self._loaded)} loaded{expired}"

    def load(self, table: Table, entries: stream.Reader) -> None:
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

    def _write(self, table: Table, commands: list[tuple[bytes | int, ...]]) -> None:
        if not commands:
            return
        replies = table.call_many(commands)
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        self._loaded += len(replies) - len(refused)
        if refused:
            raise refused[0]


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


def _entries_in_words(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _say(words: str) -> None:
    """Say something on standard error, which nobody may be there to read."""
    try:
        print(escaped(words), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)
