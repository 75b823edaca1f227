"""The server that is attacked, and what strategies share: words at the edge, records, a lane to write into."""

import mmap
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support import Closing, RawLane, RawMember, RawRings

PREFIX = b"hostile"
DEADLINE_S = 10.0
"""For how long the server may take to answer an attack that it has to answer."""

WORD_MAX = (1 << 64) - 1
VALUE_SIZE_MAX = 512 << 20
LARGE_VALUE_SIZE = 64 << 10
# The page that is made of the server's table of commands: numbers that stood here, too, were wrong for a long time, and
# nobody knew that attacks missed.
COMMANDS = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
NUMBERED = re.findall(r"^### (\S+)\n(?:(?!^#).*\n)*?- .*Number (\d+)\.(.*)", COMMANDS, re.MULTILINE)
NUMBERS = {name: int(number) for name, number, _ in NUMBERED}
WRITES = frozenset(int(number) for _, number, said in NUMBERED if " Writes." in said)
GET, SET, DEL, INCR, EXPIRE, PEXPIRE, FLUSHALL, PING, BUCKET, STATS, GETV, DELV, RING_INCR, PINS = (
    NUMBERS[name]
    for name in (
        *("GET", "SET", "DEL", "INCR", "EXPIRE", "PEXPIRE", "FLUSHALL", "PING", "RING.BUCKET", "RING.STATS"),
        *("RING.GETV", "RING.DELV", "RING.INCR", "RING.PINS"),
    )
)
BLOWS = 1 << 16


@dataclass(frozen=True)
class Target:
    """A server to be attacked."""

    path: str
    """Of its unix socket."""

    tcp: tuple[str, int] | None = None
    unfinished_max: int = 1 << 30
    """How many bytes of unfinished requests it is to be given at most, before they are taken back."""

    def lane(self, *, sealed: bool = True) -> RawLane:
        lane = RawLane(self.path, sealed=sealed)
        lane.socket.settimeout(DEADLINE_S)
        return lane

    def rings(self) -> RawRings:
        rings = RawRings(self.path)
        rings.socket.settimeout(DEADLINE_S)
        return rings

    def socket(self, random: Random | None = None) -> socket.socket:
        """A connection over the unix socket; over either if a choice is to be made."""
        tcp = self.tcp if random is not None and random.random() < 0.5 else None
        connection = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        connection.settimeout(DEADLINE_S)
        try:
            connection.connect(tcp or self.path)
        except OSError:
            connection.close()
            raise
        return connection


Attacks = Generator[None, None, None]
Strategy = Callable[[Target, Random], Attacks]


def boundaries(near: int, size: int) -> list[int]:
    """The words at the edges of all that could be checked, where `near` is right and `size` is the most."""
    around = [near + step for step in (-size, -8, -1, 0, 1, 8, size - 8, size, size + 1, size + 8)]
    powers = [1 << 31, (1 << 32) - 8, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 63) - 1, WORD_MAX - 7, WORD_MAX]
    return [word & WORD_MAX for word in (0, 1, 7, 8, 12, size - 1, size, size + 1, *around, *powers)]


def harmless(word: int) -> int:
    """The word, or one beside it that is not the head of a request that writes."""
    return word ^ 0x4000 << 32 if (word >> 32 & 0xFFFF) in WRITES else word


def random_words(random: Random, count: int) -> bytes:
    """So many words of noise."""
    words = np.frombuffer(random.randbytes(8 * count), dtype="<u8").copy()
    numbers = (words >> np.uint64(32)) & np.uint64(0xFFFF)
    words[np.isin(numbers, list(WRITES))] ^= np.uint64(0x4000 << 32)
    noise: bytes = words.tobytes()
    return noise


def record(number: int, *arguments: bytes) -> bytes:
    """A request as it flows through a lane: see `command/record/`."""
    lengths = b"".join(struct.pack("<I", len(argument)) for argument in arguments)
    parts = [padded(lengths), *map(padded, arguments)]
    size = 8 + sum(map(len, parts))
    return struct.pack("<IHH", size, number, len(arguments)) + b"".join(parts)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def own_key(random: Random) -> bytes:
    return PREFIX + b" %d" % random.randrange(8)


class Hammer(Closing):
    """Writes a few words to one place in turns, as fast as the processor can, from a thread of its own.

    The loop is numpy's, which lets go of the interpreter lock: an assignment to an array whose elements all lie at the
    same place.
    """

    def __init__(self, memory: mmap.mmap, place: int, words: list[int], stride: int = 0, count: int = BLOWS) -> None:
        self._all: Any = np.frombuffer(memory, dtype="<u8")
        first = self._all[place // 8 :]
        self._target: Any = np.lib.stride_tricks.as_strided(first, shape=(count,), strides=(stride,))
        self._words: Any = np.resize(np.array(words, dtype="<u8"), count)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._strike)
        self._thread.start()

    def _strike(self) -> None:
        while not self._ended.is_set():
            self._target[:] = self._words

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        # The mapping cannot be closed while arrays look at it.
        del self._target, self._all


def publish(lane: RawLane, data: bytes, at: int | None = None) -> None:
    """Put whole words behind what was published, and tell the server."""
    tail = lane.load(RawLane.REQUEST_TAIL) if at is None else at
    start = RawLane.REQUEST_DATA + tail % RawLane.RING_SIZE
    first = min(len(data), RawLane.REQUEST_DATA + RawLane.RING_SIZE - start)
    lane.memory[start : start + first] = data[:first]
    lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + len(data) - first] = data[first:]
    lane.store(RawLane.REQUEST_TAIL, tail + len(data))
    lane.ring()


def is_ended(member: RawMember, wait_s: float = 0.0) -> bool:
    """Whether the server has ended the connection; waits for that."""
    return bool(select.select([member.socket], [], [], wait_s)[0])


def admitted(reply: bytes) -> bytes:
    """A reply, unless it says that the server has no room for another client: those that have gone may still count.

    Raises:
        ConnectionRefusedError: It says so.
    """
    if reply.startswith(b"-MAXCLIENTS"):
        raise ConnectionRefusedError(reply.decode())
    return reply


def settle(lane: RawLane, wait_s: float = 0.05) -> bool:
    """Wait until the server has taken all that was published or has ended the connection; return whether it did so."""
    deadline = time.monotonic() + wait_s
    while lane.load(RawLane.REQUEST_HEAD) != lane.load(RawLane.REQUEST_TAIL):
        if is_ended(lane, 0.0002):
            return True
        if time.monotonic() > deadline:
            break
    return is_ended(lane)


def ask(lane: RawLane, request: bytes) -> None:
    """Have a well-formed request answered, and pass over the reply."""
    assert is_answered(lane, request), f"the server ended a connection: {lane.last_words()!r}"


def is_answered(lane: RawLane, request: bytes) -> bool:
    """The same, unless the server ends the connection instead; return whether it has answered."""
    publish(lane, request)
    deadline = time.monotonic() + DEADLINE_S
    while lane.load(RawLane.RESPONSE_TAIL) == lane.load(RawLane.RESPONSE_HEAD):
        if is_ended(lane, 0.0001):
            return False
        assert time.monotonic() < deadline, f"the server did not answer within {DEADLINE_S} s"
    lane.store(RawLane.RESPONSE_HEAD, lane.load(RawLane.RESPONSE_TAIL))
    return True


@contextmanager
def table_of(member: RawMember) -> Iterator[mmap.mmap]:
    """The table, as any client may map it."""
    size = os.fstat(member.table).st_size
    with closing(mmap.mmap(member.table, size, mmap.MAP_SHARED, mmap.PROT_READ)) as table:
        yield table
