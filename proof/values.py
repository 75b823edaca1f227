"""Values that tell who wrote them, and whether they are whole.

A value is a number, a check sum, and bytes out of one block, from a place and of a length that depend on the number.
The check sum covers all of it and the key, so that a value that is torn, cut off, or another key's has a wrong one.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING

from proof.operations import BROKEN

if TYPE_CHECKING:
    from typing_extensions import Buffer

SIZE_MIN = 8
SIZE_MAX = 200_000

_HEAD = struct.Struct("<II")
# Neighbouring bytes differ, so that values from different places differ nearly everywhere.
_BLOCK = random.Random(1).randbytes(2 * SIZE_MAX)


def make(salt: int, number: int, size: int) -> bytes:
    """A value of so many bytes with a number of at most 32 bits, for the key that has this salt."""
    place = number * 40_503 % SIZE_MAX
    body = _BLOCK[place : place + size - SIZE_MIN]
    return _HEAD.pack(number, zlib.crc32(body, salt ^ number ^ size)) + body


def number_of(salt: int, value: Buffer) -> int:
    """The number of a value that was read under the key that has this salt, or `BROKEN`."""
    with memoryview(value) as whole:
        if len(whole) < SIZE_MIN:
            return BROKEN
        number, check = _HEAD.unpack_from(whole)
        return number if check == zlib.crc32(whole[SIZE_MIN:], salt ^ number ^ len(whole)) else BROKEN
