"""The keeper: it forks servers, one after the other, and holds what they want held."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from ringtable._keeper.holdings import Holdings, Kept
from ringtable._keeper.manager import Manager
from ringtable._keeper.messages import (
    ABLE,
    ALIVE,
    GO,
    HOLD,
    LANE,
    MAPPED,
    NOT_UPGRADED,
    READY,
    RESIGN,
    RESIGNED,
    SHOW_LIFE,
    UPGRADE,
    Ended,
    Message,
    receive,
    send,
)
from ringtable._keeper.successor import become

# Within so many seconds so many deaths are too many: whatever kills the servers kills the next one, too.
_DEATHS_WITHIN_S = 10.0
# So many questions in a row without an answer are one too many. The keeper may have stood, too: it asks again then.
_QUESTIONS_MAX = 3
# Seconds in which a new program has to be able to take over, and a server to let it.
_ABLE_WITHIN_S = 30.0
_RESIGNED_WITHIN_S = 10.0

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Process:
    """A process that is the server, or is to be; and the way to it."""

    def __init__(self, pid: int, way: socket.socket) -> None:
        self.pid = pid
        self.way = way
        self.ended = os.pidfd_open(pid)
        self.is_ready = False
        self._is_open = True

    def awaited(self) -> list[int]:
        """What to wait for. What it has sent before its end counts, so that its end is seen behind all of that."""
        return [self.way.fileno()] if self._is_open else [self.ended]

    def messages(self) -> Iterator[Message]:
        """What it says. Descriptors that nobody takes are closed."""
        while self._is_open:
            try:
                message = receive(self.way)
            except Ended:
                self._is_open = False
                return
            if message is None:
                return
            yield message
            message.close()

    def has_ended(self) -> bool:
        """Whether it has ended, and all that it has said was heard."""
        return not self._is_open and bool(select.select([self.ended], [], [], 0)[0])

    def collect(self) -> int:
        """Wait for its end, and let go of it. Return its status; below 0, the signal that has killed it."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.close()
        return status

    def kill(self) -> int:
        """End it. Return its status."""
        os.kill(self.pid, signal.SIGKILL)
        return self.collect()

    def close(self) -> None:
        """Close the way to it."""
        self._is_open = False
        self.way.close()
        os.close(self.ended)


class _Upgrade:
    """An upgrade that is on its way."""

    def __init__(self, successor: _Process) -> None:
        self.successor = successor
        # Whether the successor can take over, and the server was told to resign.
        self.is_able = False
        # Until when the next of these steps is to be done; `None` if the server was killed for not doing it.
        self.due: float | None = time.monotonic() + _ABLE_WITHIN_S
        # Lanes that the server wants mapped: the successor would not have them.
        self.put_off: list[Message] = []


class _Became(Exception):
    """This process is the server now, with the way to the keeper."""

    def __init__(self, way: socket.socket) -> None:
        super().__init__()
        self.way = way


class Keeper:
    """A keeper, its server, and whoever is to be the next one."""

    def __init__(
        self,
        options: dict[str, Any],
        deaths_max: int,
        hang_timeout_s: float,
        *,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep a server.

        Args:
            options: Those of the server.
            deaths_max: So many deaths of servers within ten seconds are too many: then the keeper ends.
            hang_timeout_s: A server that has shown no life for so many seconds is killed; 0: nobody looks.
            on_ready: Is called in the keeper, once, when the first server serves.
        """
        self._options = options
        self._deaths = deque[float](maxlen=deaths_max)
        self._hang_timeout_s = hang_timeout_s
        self._on_ready = on_ready
        self._was_ready = False
        self._manager = Manager()
        self._holdings = Holdings(self._manager.stored())
        self._restarts = 0
        self._server: _Process | None = None
        self._upgrade: _Upgrade | None = None
        # Whether servers are of the program on the disk, and not of this one.
        self._is_upgraded = False
        self._is_ending = False
        self._wants_upgrade = False
        self._woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The last question, when the next one is due, and how many in a row have no answer.
        self._question = 0
        self._question_due = 0.0
        self._unanswered = 0

    def keep(self) -> Kept:
        """Fork servers, one after the other. Return in each; in the keeper, exit with the status of the last.

        There must be no other thread in this process, and nothing of ringtable's yet.
        """
        for number in _ENDING:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                signal.signal(number, self._pass_on)
        signal.signal(UPGRADE, self._note_upgrade)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            while True:
                self._server = self._fork()
                while self._server is not None:
                    self._step()
        except _Became as become_server:
            return self._holdings.give(become_server.way.detach(), self._restarts)

    def _fork(self, *, is_successor: bool = False) -> _Process:
        """Fork a process that is to be the server.

        Raises:
            _Became: In that process, if it is to go on with this program.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # A signal between the two would find no server to pass it on to.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDING, UPGRADE))
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (*_ENDING, UPGRADE):
                if signal.getsignal(number) in (self._pass_on, self._note_upgrade):
                    signal.signal(number, signal.SIG_DFL if number != UPGRADE else signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ours.close()
            os.close(self._woken)
            os.close(self._wakes)
            if self._server is not None:
                self._server.close()
            if is_successor or self._is_upgraded:
                left = self._holdings.leave(theirs.detach(), self._restarts + is_successor)
                become(left, self._options, waits=is_successor)
            raise _Became(theirs)
        theirs.close()
        process = _Process(pid, ours)
        if self._is_ending:
            # The order came between two servers.
            os.kill(pid, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def _step(self) -> None:
        """Wait for something to happen, and do what is to be done then."""
        processes = [] if self._server is None else [self._server]
        if self._upgrade is not None:
            processes.append(self._upgrade.successor)
        poll = select.poll()
        for descriptor in (self._woken, *(awaited for process in processes for awaited in process.awaited())):
            poll.register(descriptor, select.POLLIN)
        due = self._next_due()
        poll.poll(None if due is None else max(0.0, due - time.monotonic()) * 1_000)
        with suppress(BlockingIOError):
            os.read(self._woken, 1 << 10)
        for process in processes:
            for message in process.messages():
                if process is self._server:
                    self._hear(process, message)
                elif self._upgrade is not None and message.kind == ABLE:
                    self._order_resignation(self._upgrade)
        if self._upgrade is not None:
            self._watch(self._upgrade)
        if self._server is not None and self._server.has_ended():
            self._server_has_ended(self._server)
        if self._wants_upgrade:
            self._wants_upgrade = False
            self._begin_upgrade()
        self._ask()

    def _next_due(self) -> float | None:
        """When to look again though nothing happens."""
        dues = [
            self._question_due if self._looks_for_life() else None,
            self._upgrade.due if self._upgrade is not None else None,
        ]
        return min((due for due in dues if due is not None), default=None)

    def _hear(self, server: _Process, message: Message) -> None:
        """Do what the server says."""
        kind, number, *_ = message
        if kind == LANE:
            if self._upgrade is None:
                self._map(server, message)
            else:
                self._upgrade.put_off.append(message._replace(descriptors=message.descriptors.copy()))
                message.descriptors.clear()
        elif kind == READY:
            server.is_ready = True
            if not self._was_ready:
                self._was_ready = True
                self._on_ready()
                self._manager.say("READY=1")
            self._unanswered, self._question_due = 0, time.monotonic() + self._pause_s()
        elif kind == ALIVE:
            if number == self._question:
                self._unanswered = 0
                self._manager.say("WATCHDOG=1")
        elif kind == RESIGNED and self._is_ending:
            server.kill()
            self._end(0)
        elif kind == RESIGNED:
            self._begin_next()
            # It touches nothing any more. Its end is not waited for: it may take its time.
            server.kill()
        else:
            if self._upgrade is not None and not send(
                self._upgrade.successor.way, kind, number, 0, message.descriptors
            ):
                self._abandon(self._upgrade, "the new program does not listen")
            self._holdings.hear(message)
            if kind == HOLD and number in self._holdings.held:
                self._manager.store(number, self._holdings.held[number])

    def _map(self, server: _Process, message: Message) -> None:
        # Unless it has died since.
        send(server.way, MAPPED, message.number, self._holdings.map(message))

    def _server_has_ended(self, server: _Process) -> None:
        """Another one follows, or none."""
        status = server.collect()
        if self._is_ending or status == 0 or not self._was_ready:
            self._end(status)
        self._deaths.append(time.monotonic())
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        if len(self._deaths) == self._deaths.maxlen and self._deaths[-1] - self._deaths[0] < _DEATHS_WITHIN_S:
            _say(
                f"the server has died {self._deaths.maxlen} times within {_DEATHS_WITHIN_S:g} s, last by {how}:"
                " giving up"
            )
            self._end(1)
        _say(f"the server has died ({how}): another one takes over what it had")
        if not server.is_ready:
            # If it is what lies on the disk that does not even start, this program does.
            self._is_upgraded = False
        self._begin_next()

    def _begin_next(self) -> None:
        """Have another server in the place of the one that there was: the successor, if there is one that can."""
        upgrade, self._server = self._upgrade, None
        self._restarts += 1
        if upgrade is None:
            return
        if not upgrade.is_able:
            self._abandon(upgrade, "the server has died meanwhile")
            return
        self._upgrade, self._server = None, upgrade.successor
        send(self._server.way, GO)
        self._is_upgraded = True
        for message in upgrade.put_off:
            message.close()
        if self._is_ending:
            os.kill(self._server.pid, signal.SIGTERM)

    def _begin_upgrade(self) -> None:
        """Have the program on the disk take over."""
        server = self._server
        if server is None or not server.is_ready or self._upgrade is not None or self._is_ending:
            _say("no upgrade: another one is on its way, or the server is just starting or ending")
            if server is not None:
                send(server.way, NOT_UPGRADED)
            return
        self._upgrade = _Upgrade(self._fork(is_successor=True))

    def _order_resignation(self, upgrade: _Upgrade) -> None:
        """Have the server resign: its successor is able."""
        upgrade.is_able, upgrade.due = True, time.monotonic() + _RESIGNED_WITHIN_S
        if self._server is not None:
            send(self._server.way, RESIGN)

    def _watch(self, upgrade: _Upgrade) -> None:
        """See that it gets on."""
        if upgrade.successor.has_ended():
            self._abandon(upgrade, "the new program has ended")
        elif upgrade.due is not None and time.monotonic() >= upgrade.due:
            if not upgrade.is_able:
                self._abandon(upgrade, f"the new program was not able to take over within {_ABLE_WITHIN_S:g} s")
            elif self._server is not None:
                _say(f"the server has not resigned within {_RESIGNED_WITHIN_S:g} s: killing it")
                os.kill(self._server.pid, signal.SIGKILL)
                upgrade.due = None

    def _abandon(self, upgrade: _Upgrade, why: str) -> None:
        """Give an upgrade up: the server goes on as if nothing had happened."""
        self._upgrade = None
        upgrade.successor.kill()
        _say(f"no upgrade: {why}")
        for message in upgrade.put_off:
            if self._server is not None:
                self._map(self._server, message)
            message.close()
        if self._server is not None:
            send(self._server.way, NOT_UPGRADED)

    def _looks_for_life(self) -> bool:
        return self._pause_s() > 0 and self._server is not None and self._server.is_ready

    def _pause_s(self) -> float:
        """Seconds between two questions; 0 if nobody asks."""
        limits_s = [limit_s for limit_s in (self._hang_timeout_s, self._manager.watchdog_s) if limit_s > 0]
        return min(limits_s, default=0.0) / _QUESTIONS_MAX

    def _ask(self) -> None:
        """Ask the server for a sign of life if it is time for that, and kill it if it has given none for too long."""
        server = self._server
        if server is None or not self._looks_for_life() or time.monotonic() < self._question_due:
            return
        self._question_due = time.monotonic() + self._pause_s()
        if self._hang_timeout_s > 0 and self._unanswered * self._pause_s() >= self._hang_timeout_s:
            _say(f"the server has shown no life for {self._hang_timeout_s:g} s: killing it")
            os.kill(server.pid, signal.SIGKILL)
        self._question += 1
        self._unanswered += 1
        send(server.way, SHOW_LIFE, self._question)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Have the server end in order, once."""
        if not self._is_ending:
            self._is_ending = True
            self._manager.say("STOPPING=1")
            if self._server is None:
                return
            # What is stored is for the next keeper: then this server leaves all as it is.
            if not (self._manager.stores and self._server.is_ready and send(self._server.way, RESIGN)):
                os.kill(self._server.pid, signal.SIGTERM)

    def _note_upgrade(self, number: int, frame: FrameType | None) -> None:
        self._wants_upgrade = True

    def _end(self, status: int) -> NoReturn:
        if self._upgrade is not None:
            self._upgrade.successor.kill()
        # Whoever kills a server that is kept has killed the keeper, as far as others see.
        sys.stdout.flush()
        os._exit(128 - status if status < 0 else status)


def _say(words: str) -> None:
    # Nobody may be there to read it.
    with suppress(OSError):
        print(f"ringtable: {words}", file=sys.stderr, flush=True)
