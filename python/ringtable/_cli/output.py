"""Standard output and standard error, which may be closed, full, or read by somebody who has had enough."""

import io
import os
import re
import select
import sys
from typing import TextIO


def complete_streams() -> None:
    """Make streams of those that this process was started without (`>&-`): standard output refuses what is written.

    Names of files and keys come out as the bytes that they are, also where those are no text.
    """
    if sys.stdout is None:
        # Open for reading alone, so that writing is an error, as it is to a closed stream.
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def silence(stream: TextIO) -> None:
    """Let nothing more come of a stream that refuses: Python would complain again when it flushes at the exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def announce(line: str, *, waits: bool = True) -> None:
    """Print a line that nobody may be there to read, which is no error then.

    Unless it `waits` for whoever reads to make room, it is left out where there is none.
    """
    try:
        try:
            if waits or has_room(sys.stdout):
                print(line, flush=True)
        except OSError:
            silence(sys.stdout)
    except BaseException:
        # An order to end came in the middle of it: what is left of the line would be an error at the exit.
        silence(sys.stdout)
        raise


def has_room(stream: TextIO) -> bool:
    """Whether a line can be written to a stream without waiting for whoever reads it."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(ready & select.POLLOUT for _, ready in poll.poll(0))


def complain(words: str) -> None:
    """Say on standard error why the command fails."""
    remark(f"ringtable: {words}")


def remark(words: str) -> None:
    """Say something on standard error, in one line, which nobody may be there to read.

    What is quoted in it (names, paths, options) may be anything: what would do something in a terminal is escaped.
    """
    try:
        print(escaped(words), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def escaped(words: str) -> str:
    """Words without line ends and other characters that are not to be seen: those as Python writes them."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in words
    )


def as_typed(words: str) -> str:
    """An error's words with the options in it as they are typed: `max_memory is 1` becomes `--max-memory is 1`."""
    # What is left out is said by leaving it out.
    words = words.removesuffix(", or None")
    begin = re.match(r"[a-z_]+(?: and [a-z_]+)*(?= (?:is|exclude|excludes) )", words)
    size = begin.end() if begin else 0
    options = re.sub(r"[a-z_]+", lambda word: word[0] if word[0] == "and" else _typed(word[0]), words[:size])
    return options + re.sub(r"(?<![\w/'.-])[a-z]+(?:_[a-z]+)+(?![\w/'.-])", lambda word: _typed(word[0]), words[size:])


def _typed(option: str) -> str:
    return "--" + option.replace("_", "-")


def printable(data: bytes) -> str:
    """Bytes as they may be shown in a line of a terminal: text in quotes, or Python's bytes."""
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)
