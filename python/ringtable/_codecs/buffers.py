"""Large pieces of memory behind a small head: where a value's buffers lie, and whether the head is whole.

    0    magic, 8 bytes
    8    CRC-32 of what follows, up to the end of the stream, u32
    12   how many buffers there are, u32
    16   bytes of the stream, u64
    24   for each buffer: where it begins, u64, and its bytes, u64
    …    the stream, which says what the buffers are
    …    the buffers, each at a multiple of 64 bytes; of 16, if they are small

All numbers are little-endian. The table puts values of 4 KiB and more at multiples of 64 bytes, so that a buffer lies
at one in memory, too. The checksum is that of the head alone: a buffer is read when it is used, and not before.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

from ringtable._codecs.codec import Undecodable

_HEAD = struct.Struct("<8sIIQ")
_PLACE = struct.Struct("<QQ")
_CHECKED_FROM = 12

_ALIGNMENT = 64
_ALIGNMENT_SMALL = 16
# Below this a value's own place is aligned to less than 64 bytes, and gaps would be much of it.
_SMALL = 4_096


def put_together(magic: bytes, stream: bytes, buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The pieces of a value with these buffers, which are bytes each."""
    alignment = _ALIGNMENT if sum(buffer.nbytes for buffer in buffers) >= _SMALL else _ALIGNMENT_SMALL
    end = _HEAD.size + len(buffers) * _PLACE.size + len(stream)
    places: list[bytes] = []
    pieces: list[bytes | memoryview] = []
    for buffer in buffers:
        gap = -end % alignment
        places.append(_PLACE.pack(end + gap, buffer.nbytes))
        pieces += [bytes(gap), buffer]
        end += gap + buffer.nbytes
    checked = b"".join([_HEAD.pack(b"", 0, len(buffers), len(stream))[_CHECKED_FROM:], *places, stream])
    return [magic, crc32(checked).to_bytes(4, "little"), checked, *pieces]


def take_apart(value: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The stream of a value and its buffers, none of which is copied.

    Raises:
        Undecodable: The head is damaged, or a buffer is not all there.
    """
    value_size = value.nbytes
    if value_size < _HEAD.size:
        raise Undecodable(value_size, f"it ends within its head of {_HEAD.size} bytes")
    _, checksum, count, stream_size = _HEAD.unpack_from(value)
    places_end = _HEAD.size + count * _PLACE.size
    end = places_end + stream_size
    if end > value_size:
        raise Undecodable(_CHECKED_FROM, f"its head is to have {end} bytes, and it has {value_size} in all")
    if crc32(value[_CHECKED_FROM:end]) != checksum:
        raise Undecodable(8, "its checksum is wrong")
    # One loop that slices as it checks: it is much of what loading a dict of arrays takes.
    buffers: list[memoryview] = []
    for begin, size in _PLACE.iter_unpack(value[_HEAD.size : places_end]):
        if begin + size > value_size:
            raise Undecodable(value_size, f"a buffer is to end at byte {begin + size}")
        buffers.append(value[begin : begin + size])
    return value[places_end:end], buffers
