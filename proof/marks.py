"""Values that say which key, writer and server they are of, and in which every byte is determined by that.

A value of 8 bytes holds its number, the era and a checksum. A larger one holds a header, and then a digest of header
and key again and again: a value that is put together of two, or that is another key's, is not what its header demands.
"""

import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b

SIZES = (8, 48, 200, 1_000, 4_096, 20_000, 70_000, 300_000)
"""Of every kind that is treated in a way of its own: with and without alignment, in pieces, straight into its entry."""

TINY = 8
NUMBERS = 1 << 24
ERAS = 1 << 12
_HEADER = struct.Struct("<QIII")
_DIGEST = 20


class Wrong(AssertionError):
    """Something that must never be seen was seen."""


@dataclass(frozen=True)
class Mark:
    """What a value says of itself."""

    number: int
    """Counts the writes of its key."""

    era: int
    """The server that it was written for."""

    size: int


def make(key: bytes, mark: Mark) -> bytes:
    """The value that has this mark, and is this key's."""
    if mark.size == TINY:
        front = mark.number | mark.era << 24
        return struct.pack("<Q", front | (zlib.crc32(key + front.to_bytes(5, "little")) >> 4) << 36)
    header = _HEADER.pack(mark.number, mark.era, mark.size, zlib.crc32(key))
    digest = blake2b(header + key, digest_size=_DIGEST).digest()
    return header + (digest * (mark.size // _DIGEST + 1))[: mark.size - _HEADER.size]


def read(key: bytes, value: bytes) -> Mark:
    """The mark of a value.

    Raises:
        Wrong: It is not one of the key's values, or not all of one.
    """
    if len(value) == TINY:
        (word,) = struct.unpack("<Q", value)
        mark = Mark(word % NUMBERS, (word >> 24) % ERAS, TINY)
    elif len(value) >= _HEADER.size:
        number, era, size, _ = _HEADER.unpack_from(value)
        mark = Mark(number, era, size)
    else:
        raise Wrong(f"{key!r} has a value of {len(value)} bytes, which nobody writes: {value!r}")
    if mark.size != len(value) or make(key, mark) != value:
        raise Wrong(f"{key!r} has a value of {len(value)} bytes that is not what its mark demands: {mark}")
    return mark
