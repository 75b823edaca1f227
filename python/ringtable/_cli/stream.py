"""Entries as a stream of commands of the Redis protocol: what `ringtable dump` writes, and `ringtable load` reads.

    SET key value               each word with its size before it, so that keys and values are any bytes
    SET key value PXAT time     for an entry that expires, at this millisecond since 1970

The file is one that `redis-cli --pipe` takes. The time is that of the clock, and no span: a file is loaded at any time
later, perhaps twice, and what was to be gone by then must not live anew.

A reader takes no more of a stream than it has asked for: words have their limits, and what is no such command, or is
cut off, ends the reading with the number of the byte at which that is so.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from ringtable._errors import Error
from ringtable._ringtable import KEY_SIZE_MAX, VALUE_SIZE_MAX

# Words that mean nothing to a table: what other programs write at the beginning of such a file.
_HARMLESS = {(b"PING",), (b"SELECT", b"0")}
# Bytes of a word that is neither key nor value, and of a line that says how many there are of something.
_WORD_SIZE_MAX = 20
_LINE_SIZE_MAX = 16


class Entry(NamedTuple):
    """An entry of a table."""

    key: bytes
    value: bytes
    at_ms: int | None
    """When it will be gone, in milliseconds since 1970; `None` for never."""


def counted(count: int) -> str:
    """So many entries, in words."""
    return f"{count} {'entry' if count == 1 else 'entries'}"


def write(stream: BinaryIO, entry: Entry) -> None:
    """Write an entry to the end of a stream."""
    key, value, at_ms = entry
    stream.write(b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (3 if at_ms is None else 5, len(key), key, len(value)))
    stream.write(value)
    time = b"" if at_ms is None else b"\r\n$4\r\nPXAT\r\n$%d\r\n%d" % (len(str(at_ms)), at_ms)
    stream.write(time + b"\r\n")


class Reader:
    """Reads entries from a stream; `name` is what it is called in errors."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Read from where the stream is now, which counts as its beginning."""
        self._stream = stream
        self._name = name
        self._position = 0

    def __iter__(self) -> Iterator[Entry]:
        """The entries, to the end of the stream.

        Raises:
            Error: The stream is damaged, or has other commands in it; all that was before was given.
        """
        while self._stream.peek(1) if hasattr(self._stream, "peek") else True:
            begin = self._position
            count = self._number(b"*", 1, 5, "words")
            first = self._word(_WORD_SIZE_MAX)
            name = first.upper()
            if name == b"SET" and count in (3, 5):
                entry = Entry(self._word(KEY_SIZE_MAX), self._word(VALUE_SIZE_MAX), None)
                yield entry if count == 3 else entry._replace(at_ms=self._time())
                continue
            words = (name, *(self._word(_WORD_SIZE_MAX) for _ in range(count - 1)))
            if words not in _HARMLESS:
                shown = b" ".join(words).decode(errors="backslashreplace")
                self._refuse(begin, f"the command {shown!r}, where a file of this kind has SET key value [PXAT time]")

    def _time(self) -> int:
        begin = self._position
        if self._word(_WORD_SIZE_MAX).upper() != b"PXAT":
            self._refuse(begin, "another option of SET than PXAT")
        begin = self._position
        digits = self._word(_WORD_SIZE_MAX)
        if not re.fullmatch(rb"[1-9][0-9]{0,17}", digits):
            self._refuse(begin, "a time that is no number of milliseconds")
        return int(digits)

    def _word(self, most: int) -> bytes:
        size = self._number(b"$", 0, most, "bytes")
        word = self._stream.read(size)
        self._position += len(word)
        if len(word) < size:
            self._cut_off()
        end = self._stream.read(2)
        if end != b"\r\n":
            if b"\r\n".startswith(end):
                self._position += len(end)
                self._cut_off()
            self._refuse(self._position + end.startswith(b"\r"), "a word that goes on where it should end")
        self._position += 2
        return word

    def _number(self, kind: bytes, least: int, most: int, unit: str) -> int:
        """Read how many there are of something, in a line of its own."""
        line = self._stream.readline(_LINE_SIZE_MAX)
        fitting = re.match(rb"(?:%b(?:(?:0|[1-9][0-9]*)\r?\n?)?)?" % re.escape(kind), line)
        end = fitting.end() if fitting else 0
        if not re.fullmatch(rb"%b(?:0|[1-9][0-9]*)\r\n" % re.escape(kind), line):
            if end == len(line) < _LINE_SIZE_MAX and not line.endswith(b"\n"):
                self._position += end
                self._cut_off()
            bad = line.index(b"\n") if end == len(line) and line.endswith(b"\n") else end
            self._refuse(self._position + bad, f"no number of {unit} behind a {kind.decode()!r}")
        number = int(line[1:-2])
        if not least <= number <= most:
            self._refuse(self._position + 1, f"{number} {unit}, where {least} to {most} may be")
        self._position += len(line)
        return number

    def _cut_off(self) -> NoReturn:
        self._refuse(self._position, "the end in the middle of a command")

    def _refuse(self, position: int, found: str) -> NoReturn:
        raise Error(f"{self._name}: at byte {position} there is {found}")
