"""What a keeper holds for its server."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from ringtable._keeper.messages import DOORS, ENTRIES, HOLD, LET_GO, SERVE, TABLE, Message
from ringtable._ringtable import KeptMemory

# What a server gets: the socket to its keeper, what is held by its number, lanes, how many servers there were before,
# and how many of these were upgraded; and whether its process is the next keeper if that dies.
Kept = tuple[int, dict[int, int], list[tuple[int, KeptMemory, int | None, int, int, int | None]], int, int, bool]

# Lanes as they are passed on within a process: of a lane's memory, where it begins, and its bytes.
LeftLanes = Sequence[tuple[int, tuple[int, int], int | None, int, int, int | None]]

# The same for another copy of the extension in this process.
Left = tuple[int, dict[int, int], LeftLanes, int, int]

# What a server leaves to its own process: what is held, lanes, how many servers there were before it, how many of
# these were upgraded, and whether it was told to end.
Estate = tuple[dict[int, int], LeftLanes, int, int, bool]


class Lane:
    """A lane: its memory, the descriptors of that and of both doorbells, and the client's socket, if it has one.

    There is none of the memory where it is known to be sealed.
    """

    def __init__(
        self, memory: KeptMemory, size: int, descriptors: tuple[int | None, int, int], socket: int | None = None
    ) -> None:
        self.memory = memory
        self.size = size
        self.descriptors = descriptors
        self.socket = socket

    def close(self) -> None:
        """Let go of all of it."""
        for descriptor in (*self.descriptors, self.socket):
            if descriptor is not None:
                os.close(descriptor)


class Holdings:
    """What is held: for the server as a whole by its number, and lanes by theirs."""

    def __init__(self, held: dict[int, int] | None = None, lanes: dict[int, Lane] | None = None) -> None:
        self.held = held or {}
        self.lanes = lanes or {}

    def hear(self, message: Message) -> None:
        """Do what a server says of what is held. What it says else is left alone."""
        kind, number, _, descriptors = message
        if kind == HOLD and len(descriptors) == 1:
            if number in self.held:
                os.close(self.held[number])
            self.held[number] = descriptors.pop()
        elif kind == SERVE and len(descriptors) == 1 and number in self.lanes:
            self.lanes[number].socket = descriptors.pop()
        elif kind in (SERVE, LET_GO):
            # A lane whose client's socket found no room here ends with this server: nobody else may get it.
            self._let_go(number)

    def map(self, message: Message) -> int:
        """Hold the lane of a message, mapped. Return 0, or why that is not possible, as the system numbers it."""
        _, number, size, descriptors = message
        # Without room for descriptors, there come fewer.
        if len(descriptors) != 3:
            return errno.EMFILE
        segment, request_bell, response_bell = descriptors
        try:
            memory = KeptMemory(segment, size)
        except OSError as error:
            return error.errno or errno.ENOMEM
        self._let_go(number)
        self.lanes[number] = Lane(memory, size, (segment, request_bell, response_bell))
        descriptors.clear()
        return 0

    def doors(self) -> Holdings:
        """Copies of what clients knock at."""
        return Holdings({number: os.dup(self.held[number]) for number in DOORS if number in self.held})

    def leave_to_another_layout(self) -> None:
        """Let go of all that means nothing to a server of another layout."""
        self._close_all_but({*DOORS, TABLE, ENTRIES})

    def forget_entries(self) -> None:
        """Let go of what only a server of another layout has use for."""
        if ENTRIES in self.held:
            os.close(self.held.pop(ENTRIES))

    def send_away(self, words: str) -> None:
        """Tell the clients of all lanes why their connection ends, and let go of everything."""
        for lane in self.lanes.values():
            if lane.socket is not None:
                with socket.socket(fileno=os.dup(lane.socket)) as client, suppress(OSError):
                    client.send(f"-{words}\r\n".encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    client.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._close_all_but(set())

    def _close_all_but(self, left: set[int]) -> None:
        for number in self.held.keys() - left:
            os.close(self.held.pop(number))
        for number in list(self.lanes):
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        if lane := self.lanes.pop(number, None):
            lane.close()

    def give(self, way: int, restarts: int, upgrades: int, *, is_heir: bool) -> Kept:
        """All of it, for the server that this process is now: it is the server's, which closes what is of no use."""
        lanes = [(number, lane.memory, *lane.descriptors, lane.socket) for number, lane in sorted(self.lanes.items())]
        given = (way, self.held, lanes, restarts, upgrades, is_heir)
        self.held, self.lanes = {}, {}
        return given

    def leave(self, way: int, restarts: int, upgrades: int) -> Left:
        """The same for another copy of the extension."""
        lanes = [
            (number, (lane.memory.leave(), lane.size), *lane.descriptors, lane.socket)
            for number, lane in sorted(self.lanes.items())
        ]
        return way, self.held, lanes, restarts, upgrades

    @staticmethod
    def found(held: dict[int, int], left: LeftLanes) -> Holdings:
        """What another copy of the extension has left, or a server of this process."""
        lanes = {
            number: Lane(KeptMemory.found(*memory), memory[1], (segment, request_bell, response_bell), socket)
            for number, memory, segment, request_bell, response_bell, socket in left
        }
        return Holdings(dict(held), lanes)
