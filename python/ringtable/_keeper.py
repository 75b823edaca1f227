"""The keeper: a process that holds what has to outlive a server, and starts another one when that dies.

The keeper is what was started; it forks the server, and forks another one if that ends by anything but an order. A fork
takes milliseconds, and has all that the keeper holds: the table's memory, what was granted, how far each lane has come,
the listening sockets, and of each client its lane, its doorbells and its socket. The engine takes all of it over
(`crates/ringtable/src/server/`: `keeper.rs` has the other end of what is said here, `inheritance.rs` what is given).

The keeper reads nothing from clients, and knows nothing of tables. It holds, waits, and forks. It is Python, as nothing
here is hot: a client that comes costs it one message.

What is not promised: if the keeper itself is killed, the server goes on, and nobody holds anything for it any more.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from ringtable._ringtable import KeptMemory

# What a server gets: the socket to its keeper, what is held by its number, lanes, how many servers there were before.
Kept = tuple[int, dict[int, int], list[tuple[int, KeptMemory, int, int, int, int | None]], int]

_MESSAGE = struct.Struct("=QQQ")
# The kinds of messages, each with a number, and some with another one; the last one is what the keeper says.
_HOLD, _LANE, _SERVE, _LET_GO, _READY, _MAPPED = range(1, 7)
# The most descriptors that come with a message.
_DESCRIPTORS_MAX = 4

# Within so many seconds so many deaths are too many: whatever kills the servers kills the next one, too.
_DEATHS_WITHIN_S = 10.0


class _Lane:
    """A lane: its memory, the descriptors of that and of both doorbells, and the client's socket, if it has one."""

    def __init__(self, memory: KeptMemory, descriptors: tuple[int, int, int]) -> None:
        self.memory = memory
        self.descriptors = descriptors
        self.socket: int | None = None

    def close(self) -> None:
        for descriptor in (*self.descriptors, *([] if self.socket is None else [self.socket])):
            os.close(descriptor)


class _Keeper:
    """What is held, and the server that it is held for."""

    def __init__(self, deaths_max: int) -> None:
        self._deaths_max = deaths_max
        self._held: dict[int, int] = {}
        self._lanes: dict[int, _Lane] = {}
        self._is_ready = False
        self._is_ending = False
        self._pid = 0

    def keep(self) -> Kept:
        """Fork servers, one after the other. Return in each; in the keeper, exit with the status of the last."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                signal.signal(number, self._pass_on)
        restarts, deaths = 0, deque[float](maxlen=self._deaths_max)
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._is_ready = False
            # A signal between the two would find no server to pass it on to.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            self._pid = os.fork()
            if self._pid == 0:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    if signal.getsignal(number) == self._pass_on:
                        signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                ours.close()
                return self._given(theirs, restarts)
            if self._is_ending:
                # The order came between two servers.
                os.kill(self._pid, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            with ours:
                status = self._watch(ours)
            if self._is_ending or status == 0 or (restarts == 0 and not self._is_ready):
                self._end(status)
            deaths.append(time.monotonic())
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            if len(deaths) == self._deaths_max and deaths[-1] - deaths[0] < _DEATHS_WITHIN_S:
                _say(
                    f"the server has died {self._deaths_max} times within {_DEATHS_WITHIN_S:g} s, last by {how}:"
                    " giving up"
                )
                self._end(1)
            restarts += 1
            _say(f"the server has died ({how}): another one takes over what it had")

    def _given(self, theirs: socket.socket, restarts: int) -> Kept:
        """All that is held, for the server that this process is now."""
        lanes = [(number, lane.memory, *lane.descriptors, lane.socket) for number, lane in sorted(self._lanes.items())]
        kept = (theirs.detach(), self._held, lanes, restarts)
        # They are the server's, who closes them when they are of no use any more.
        self._held, self._lanes = {}, {}
        return kept

    def _watch(self, ours: socket.socket) -> int:
        """Hold what the server wants held, until it ends. Return its status; below 0, the signal that has killed it."""
        ended = os.pidfd_open(self._pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(ours, select.POLLIN)
            while True:
                ready = [descriptor for descriptor, _ in poll.poll()]
                # Until the end: what it has sent before it died counts.
                if ours.fileno() in ready:
                    if self._hear(ours) is False:
                        poll.unregister(ours)
                elif ended in ready:
                    while self._hear(ours):
                        pass
                    return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        finally:
            os.close(ended)
            self._pid = 0

    def _hear(self, ours: socket.socket) -> bool | None:
        """Take a message. Return whether there was one; `None` if one may come yet."""
        try:
            message, descriptors, _, _ = socket.recv_fds(
                ours, _MESSAGE.size, _DESCRIPTORS_MAX, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return False
        if len(message) != _MESSAGE.size:
            return False
        kind, number, size = _MESSAGE.unpack(message)
        if kind == _HOLD and len(descriptors) == 1:
            if number in self._held:
                os.close(self._held[number])
            self._held[number] = descriptors.pop()
        elif kind == _LANE:
            # Without room for descriptors, there come fewer.
            why = errno.EMFILE
            if len(descriptors) == 3:
                segment, request_bell, response_bell = descriptors
                try:
                    memory = KeptMemory(segment, size)
                except OSError as error:
                    why = error.errno or errno.ENOMEM
                else:
                    self._let_go(number)
                    self._lanes[number] = _Lane(memory, (segment, request_bell, response_bell))
                    descriptors, why = [], 0
            self._answer(ours, _MESSAGE.pack(_MAPPED, number, why))
        elif kind == _SERVE and len(descriptors) == 1 and number in self._lanes:
            self._lanes[number].socket = descriptors.pop()
        elif kind in (_SERVE, _LET_GO):
            # A lane whose client's socket found no room here ends with this server: nobody else may get it.
            self._let_go(number)
        elif kind == _READY:
            self._is_ready = True
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _answer(self, ours: socket.socket, message: bytes) -> None:
        # Unless it has died since.
        with suppress(OSError):
            ours.sendall(message)

    def _let_go(self, number: int) -> None:
        if lane := self._lanes.pop(number, None):
            lane.close()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Have the server end in order, once."""
        if not self._is_ending:
            self._is_ending = True
            if self._pid:
                os.kill(self._pid, signal.SIGTERM)

    def _end(self, status: int) -> NoReturn:
        # Whoever kills a server that is kept has killed the keeper, as far as others see.
        sys.stdout.flush()
        os._exit(128 - status if status < 0 else status)


def keep(deaths_max: int) -> Kept:
    """Make this process the keeper of a server. Return in the process of each server what it is to take over.

    There must be no other thread in this process, and nothing of ringtable's yet.

    Args:
        deaths_max: So many deaths of servers within ten seconds are too many: then it ends.
    """
    return _Keeper(deaths_max).keep()


def _say(words: str) -> None:
    print(f"ringtable: {words}", file=sys.stderr, flush=True)
