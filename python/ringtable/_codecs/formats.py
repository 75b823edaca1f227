"""How the bytes of a value begin: codecs tell their own from others' by it. Numbers, which all have in common.

    first bytes       what follows
    ----------------  -----------------------------------------------------------------------------------------------
    0x80 0x05         a pickle of protocol 5 (the two bytes are its own), and its checksum
    0xc1 "RTB" 0x01   a pickle whose buffers follow it
    0xc1 "RTS" 0x01   a signature, and one of the two above
    0xc1 "RTA" 0x01   an array
    "-", "0" to "9"   an integer of 64 bits in decimal digits, and nothing else; or what `incr` by a float makes of one

Text and JSON are bare. 0xc1 begins nothing else: UTF-8 has no such byte, and MessagePack never uses it. The byte behind
the letters is the version of the format, and three zeroes fill the eight bytes of these beginnings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringtable._types import Value

PICKLE = b"\x80\x05"
BUFFERS = b"\xc1RTB\x01\0\0\0"
SIGNED = b"\xc1RTS\x01\0\0\0"
ARRAY = b"\xc1RTA\x01\0\0\0"

RESIDUE = 0x2144DF1C
"""The CRC-32 of anything that has its own CRC-32 behind it, in little-endian order."""

_NAMES = {PICKLE: "pickle", BUFFERS: "pickle", SIGNED: "pickle, signed", ARRAY: "array"}

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_INTEGER_SIZE_MAX = 20
_INTEGER_LIMIT = 1 << 63
# As the server writes what has a fraction, or is larger.
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_NUMBER_SIZE_MAX = 352

MAGIC_SIZE = 8
"""The longest beginning, in bytes."""


def name_by_beginning(data: Value) -> str | None:
    """The name of the codec that has written this, if the first bytes tell it."""
    beginning = bytes(memoryview(data)[:MAGIC_SIZE])  # type: ignore[arg-type]
    return next((name for magic, name in _NAMES.items() if beginning.startswith(magic)), None)


def written_integer(value: object) -> bytes | None:
    """An integer as `incr` reads it; `None` for what is no plain `int`, or has more than 64 bits."""
    if type(value) is int and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        return b"%d" % value
    return None


def read_number(data: bytes) -> int | float | None:
    """The number that these decimal digits are, an `int` if it has no fraction and 64 bits; `None` if they are none."""
    if len(data) > _NUMBER_SIZE_MAX or not _NUMBER.fullmatch(data):
        return None
    return int(data) if len(data) <= _INTEGER_SIZE_MAX and _INTEGER.fullmatch(data) else float(data)
