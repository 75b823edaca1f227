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
BLOCK = 112
"""Bytes that the hash of a long key takes at a time, in seven lanes."""


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


def colliding_long(seed: int, prefix: bytes, random: Random, size: int = 65_535) -> Iterator[bytes]:
    """Keys of so many bytes, at least three blocks, that have one hash and are the same but for their last bytes.

    The last two whole blocks differ, and there only the first lane's two words: the second block cancels the first.
    """
    start = derived(seed, 0)
    secret = derived(start, 0)
    blocks = (size - 1) // BLOCK
    same = prefix.ljust((blocks - 2) * BLOCK, b".")
    lane = start
    for at in range(0, len(same), BLOCK):
        first, second = struct.unpack_from("<2Q", same, at)
        lane = protected(first ^ secret, second ^ lane)
    filler, aim = bytes(BLOCK - 16), random.getrandbits(64)
    while True:
        first, second = random.getrandbits(64), random.getrandbits(64)
        cancelling = struct.pack("<2Q", 0, aim ^ protected(first ^ secret, second ^ lane))
        last = struct.pack("<2Q", first, second) + filler + cancelling + filler
        yield (same + last).ljust(size, b".")
