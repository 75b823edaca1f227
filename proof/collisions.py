"""Keys that all have one hash, computed as anybody can who may read the table.

The table's hash is rapidhash v3 with secrets derived from the seed in the table's header (`docs/memory-layout.md`). It
is no cryptographic hash: who knows the seed chooses the last word of a key so that it cancels what comes before it.
"""

import os
import struct
from collections.abc import Iterator
from random import Random

MASK = (1 << 64) - 1
SEED_AT = 40
"""Where the header has the seed, in bytes."""
PUBLISHED = (0x2D358DCCAA6C78A5, 0x8BB84B93962EACC9, 0x4B33A62ED433D4A3)


def folded(a: int, b: int) -> int:
    product = a * b
    return (product ^ product >> 64) & MASK


def protected(a: int, b: int) -> int:
    """One step of the table's hash."""
    return a ^ b ^ folded(a, b)


def derived(seed: int, number: int) -> int:
    """The next secret after one, or after the seed."""
    seed ^= folded(seed ^ PUBLISHED[2], PUBLISHED[number])
    for mask, bit in ((0xFFFF << 48, 63), (0xFFFF << 24, 31), (0xFFFF, 0)):
        if not seed & mask:
            seed |= 1 << bit
    return seed


def seed_of(table: int) -> int:
    """The seed of the table behind a descriptor that a client gets."""
    return int(struct.unpack("<Q", os.pread(table, 8, SEED_AT))[0])


def colliding(seed: int, prefix: bytes, random: Random) -> Iterator[bytes]:
    """Keys of 32 bytes that begin with a prefix of at most 8, and have one hash in a table of that seed."""
    first = struct.unpack("<Q", prefix.ljust(8, b"."))[0]
    start = derived(seed, 0)
    secret = start
    for number in range(3):
        secret = derived(secret, number)
    third = random.getrandbits(64)
    while True:
        second = random.getrandbits(64)
        last = protected(first ^ secret, second ^ start)
        yield struct.pack("<4Q", first, second, third, last)
