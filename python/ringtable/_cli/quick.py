"""`ringtable get`, `set`, `del`, `clear` and `ping`: a quick look at a table, and a quick change.

Keys and values are the bytes that were typed, whether those are text or not.
"""

import os
import re
import sys
from typing import Annotated

from cyclopts import Parameter

from ringtable._cli.connection import DEFAULT, Connection
from ringtable._cli.output import printable
from ringtable._errors import Error, InvalidOption
from ringtable._ringtable import VALUE_SIZE_MAX, check_ttl


def get(key: str, /, *, at: Connection = DEFAULT) -> None:
    """Print the value of a key, as it is, and a newline; exit status 1 where there is none.

    Args:
        key: The key.
    """
    wanted = os.fsencode(key)
    with at.open() as table:
        value = table.get(wanted)
    if value is None:
        raise Error(f"there is no key {printable(wanted)}")
    sys.stdout.buffer.write(value + b"\n")


def set_(
    key: str,
    value: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    ttl: float | None = None,
    nx: bool = False,
    xx: bool = False,
    at: Connection = DEFAULT,
) -> None:
    """Write a value; exit status 1 where --nx or --xx forbids it.

    Args:
        key: The key.
        value: The value; `-` for what comes from standard input, as it is, the newline at its end included. One that
            begins with a hyphen goes behind a `--`: `set KEY -- -x`.
        ttl: Seconds after which the entry is gone.
        nx: Write only if the key is absent.
        xx: Write only if the key is present.
    """
    written = os.fsencode(key)
    # Before it is known whether there is a server.
    if ttl is not None:
        check_ttl(ttl)
    if nx and xx:
        raise InvalidOption("nx and xx exclude each other: choose one")
    new = _value(value)
    with at.open() as table:
        if not table.set(written, new, ttl=ttl, nx=nx, xx=xx):
            raise Error(f"not written: the key {printable(written)} is {'present' if nx else 'absent'}")


def _value(typed: str) -> bytes:
    """The value that is meant by what was typed, or that comes from standard input."""
    if not typed.startswith("-") or "--" in sys.argv or re.fullmatch(r"-[0-9.]+", typed):
        return os.fsencode(typed)
    if typed != "-":
        raise InvalidOption(
            f"Unknown option: {typed}. A value that begins with a hyphen goes behind a --: set KEY -- -x"
        )
    if sys.stdin is None:
        raise Error("reading the value: standard input is closed")
    try:
        # One byte more than may be is refused in the words that are for all that is too large.
        return sys.stdin.buffer.read(VALUE_SIZE_MAX + 1)
    except OSError as error:
        raise Error(f"reading the value: {error.strerror}") from None


def delete(key: str, /, *keys: str, at: Connection = DEFAULT) -> None:
    """Delete keys, and print how many there were.

    Args:
        key: A key.
        keys: More keys.
    """
    with at.open() as table:
        print(table.delete(*map(os.fsencode, (key, *keys))))


def clear(*, at: Connection = DEFAULT) -> None:
    """Delete all keys."""
    with at.open() as table:
        table.clear()


def ping(*, at: Connection = DEFAULT) -> None:
    """Print PONG if the server answers; exit status 1 if it does not. A full server answers, too."""
    # What has no lane gets into the place that a full server has in reserve.
    with at.open(transport="socket") as table:
        answer = table.call("PING")
    sys.stdout.buffer.write(answer + b"\n" if isinstance(answer, bytes) else b"\n")
