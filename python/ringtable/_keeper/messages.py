"""What a keeper and its servers say to each other: three words each, and descriptors with some of them."""

from __future__ import annotations

import os
import signal
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

_WORDS = struct.Struct("=QQQ")
# The most descriptors that come with a message.
_DESCRIPTORS_MAX = 4
_PASSED_SIZE = socket.CMSG_SPACE(_DESCRIPTORS_MAX * array("i").itemsize)

# What a server says: `keeper.rs` has what it means. A successor that can take over says that it is `ABLE`, with its
# layouts, packed, and whether it needs the entries moved to a table of its own; and a server that has ended in order
# that it has `ENDED`.
HOLD, LANE, SERVE, LET_GO, READY, ALIVE, RESIGNED = range(1, 8)
ABLE, ENDED = 12, 14
# What the keeper says. `GO` is for a successor, which may begin.
MAPPED, SHOW_LIFE, RESIGN, NOT_UPGRADED = range(8, 12)
GO = 13

# What is held of a server to which nothing else of it means anything: the sockets, their lock, the table that is to be
# closed, and its entries. `held.rs` has all numbers.
TABLE, ENTRIES = 0, 9
DOORS = (3, 4, 5, 6, 7)

UPGRADE = signal.SIGUSR2
"""The signal that has a keeper start the program that lies on the disk now."""


class Ended(Exception):
    """The other side has closed its end, or talks nonsense."""


class Message(NamedTuple):
    """A message, whose descriptors are the receiver's."""

    kind: int
    number: int
    other: int
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        while self.descriptors:
            os.close(self.descriptors.pop())


# Each number of a layout is below this.
_LAYOUTS_MAX = 1 << 10


def pack_layouts(layouts: Sequence[int]) -> int:
    """Numbers of layouts in one word."""
    return sum(number % _LAYOUTS_MAX * _LAYOUTS_MAX**place for place, number in enumerate(layouts))


def unpack_layouts(word: int, count: int) -> tuple[int, ...]:
    """So many numbers of layouts, out of one word."""
    return tuple(word // _LAYOUTS_MAX**place % _LAYOUTS_MAX for place in range(count))


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, array[int]]]:
    """What goes with a message that passes descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []


def send(way: socket.socket, kind: int, number: int = 0, other: int = 0, descriptors: Sequence[int] = ()) -> bool:
    """Send a message without waiting for room. Return whether it has gone."""
    try:
        way.sendmsg([_WORDS.pack(kind, number, other)], rights(descriptors), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(way: socket.socket) -> Message | None:
    """Take a message, or return `None` if there is none now.

    Raises:
        Ended: There will be none.
    """
    try:
        # `socket.recv_fds` and `send_fds` take flags, and leave them out.
        words, passed, _, _ = way.recvmsg(_WORDS.size, _PASSED_SIZE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except ConnectionResetError as error:
        raise Ended from error
    descriptors = array("i")
    for level, kind, data in passed:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if len(words) != _WORDS.size:
        raise Ended
    kind, number, other = _WORDS.unpack(words)
    return Message(kind, number, other, descriptors.tolist())
