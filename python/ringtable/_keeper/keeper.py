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

from ringtable._cli.output import has_room
from ringtable._cli.signals import TERMINATION
from ringtable._keeper.holdings import Estate, Holdings, Kept
from ringtable._keeper.manager import Manager
from ringtable._keeper.messages import (
    ABLE,
    ALIVE,
    ENDED,
    ENTRIES,
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
    unpack_layouts,
)
from ringtable._keeper.successor import become
from ringtable._ringtable import KEPT_LAYOUTS

# Within so many seconds so many deaths are too many: whatever kills the servers kills the next one, too.
_DEATHS_WITHIN_S = 10.0
# So many questions in a row without an answer are one too many. The keeper may have stood, too: it asks again then.
_QUESTIONS_MAX = 3
# A server that starts takes a table over, which takes longer the larger that is: so many times as long as it may be
# silent later, and so many seconds at least.
_STARTS_TIMES, _STARTED_WITHIN_S = 10, 60.0
# A first server that loads what is on the disk takes as long as it takes. The service manager is asked again and again
# for so many seconds more.
_ASKED_FOR_TIME_EVERY_S, _TIME_ASKED_FOR_S = 10.0, 30
# Seconds in which a new program has to be able to take over, and a server to let it; and for which clients that come
# meanwhile may find no lane.
_ABLE_WITHIN_S = 30.0
_RESIGNED_WITHIN_S = 10.0
_PUT_OFF_S = 1.5
# Seconds in which a server hands all entries over to one of another layout, and that one has them in a table.
_MOVED_WITHIN_S = 600.0
# What clients of the old one hear.
_MOVED = "REJOIN the table has moved to a server of another version"
# A server is told of so many failures at most, which its way to the keeper holds.
_FAILURES_TOLD = 50
# The pause after a start that the system has refused.
_PAUSE_S = 0.1


class _Process:
    """A process that is the server, or is to be; and the way to it."""

    def __init__(self, pid: int, way: socket.socket, ended: int) -> None:
        self.pid = pid
        self.way = way
        self.ended = ended
        self.is_ready = False
        # Whether it has said that its end is one in order.
        self.has_ended_in_order = False
        # Until when it has to be ready; and whether it was killed since it was not, or has shown no life.
        self.due: float | None = None
        self.is_given_up = False
        self._is_open = True

    def awaited(self) -> list[int]:
        """What to wait for: its words, and its end."""
        return [self.ended, self.way.fileno()] if self._is_open else [self.ended]

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
        """Whether it has ended. What it has said before may have to be heard yet."""
        poll = select.poll()
        poll.register(self.ended, select.POLLIN)
        return bool(poll.poll(0))

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
        # The successor's layouts, if it has to have the entries moved to a table of its own.
        self.moves_to: tuple[int, ...] | None = None
        # Until when the next of these steps is to be done; `None` if the server was killed for not doing it.
        self.due: float | None = time.monotonic() + _ABLE_WITHIN_S
        # Lanes that the server wants mapped: the successor would not have them.
        self.put_off: list[Message] = []

    @property
    def moves(self) -> bool:
        """Whether the entries are to be moved to a table of the successor's own."""
        return self.moves_to is not None

    @property
    def resigned_within_s(self) -> float:
        """Seconds in which the server has to resign."""
        return _MOVED_WITHIN_S if self.moves else _RESIGNED_WITHIN_S

    def put_off_lane(self, message: Message) -> None:
        """Map it later. Clients may wait for it, so that the successor has less time from now on."""
        if not self.put_off and not self.is_able and self.due is not None:
            self.due = min(self.due, time.monotonic() + _PUT_OFF_S)
        self.put_off.append(message._replace(descriptors=message.descriptors.copy()))
        message.descriptors.clear()


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
        self._limits = deaths_max, hang_timeout_s
        self._deaths = deque[float](maxlen=deaths_max)
        self._hang_timeout_s = hang_timeout_s
        self._on_ready = on_ready
        self._was_ready = False
        self._manager = Manager()
        # A service manager starts another keeper.
        self._leaves_heirs = not self._manager.is_there
        self._holdings = Holdings(self._manager.stored())
        # Layouts of what is held; and of a move that is on its way, what was held before, and the new layouts.
        self._layouts = tuple(KEPT_LAYOUTS)
        self._before: tuple[Holdings, tuple[int, ...]] | None = None
        self._restarts = 0
        self._upgrades = 0
        # Upgrades that have failed. Each server is told of all of them, so that whoever asks finds the same at each.
        self._failures = 0
        self._server: _Process | None = None
        self._upgrade: _Upgrade | None = None
        # Whether servers are of the program on the disk, and not of this one.
        self._is_upgraded = False
        self._wants_upgrade = False
        # Whether it was told to end; and whether the server has died of something else since, and the next one ends.
        self._is_ending = False
        self._is_last = False
        self._woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The last question, when the next one is due, and how many in a row have no answer.
        self._question = 0
        self._question_due = 0.0
        # When more time is asked for to load.
        self._time_due: float | None = None
        self._unanswered = 0

    def take_over(self, estate: Estate) -> None:
        """Keep what a server of this process has left, whose own keeper has died."""
        held, lanes, restarts, upgrades, is_told_to_end = estate
        self._holdings = Holdings.found(held, lanes)
        self._restarts, self._upgrades = restarts + 1, upgrades
        self._was_ready = True
        # The next server removes what this one has left.
        self._is_ending = self._is_last = is_told_to_end

    def keep(self) -> Kept:
        """Fork servers, one after the other. Return in each; in the keeper, exit with the status of the last.

        There must be no other thread in this process, and nothing of ringtable's yet. In a server the signals that end
        it are held back: it lets them in (`admit_termination`) when it can end in order.
        """
        for number in TERMINATION:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
                signal.signal(number, self._pass_on)
        signal.signal(UPGRADE, self._note_upgrade)
        # A server holds it back.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [UPGRADE])
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            while True:
                self._start()
                while self._server is not None:
                    self._step()
        except _Became as become_server:
            way = become_server.way.detach()
            return self._holdings.give(way, self._restarts, self._upgrades, is_heir=self._leaves_heirs)

    def _start(self) -> None:
        """Start a server."""
        # It is of the same layout as the one before, whatever was meant to follow that.
        self._holdings.forget_entries()
        # A signal between fork and assignment would find no server to pass it on to.
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)
        try:
            self._server = self._fork()
        except OSError as error:
            self._note_death(f"it could not be started: {error.strerror}")
            time.sleep(_PAUSE_S)
        else:
            self._expect(self._server)
        finally:
            # Not in the server, which lets them in itself.
            if self._server is not None or self._wakes >= 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)

    def _expect(self, server: _Process) -> None:
        """Have a server come to serve in time; or end, if the order came between two servers.

        The first one may load what is on the disk, as long as that takes.
        """
        if self._options.get("data") is not None and not self._was_ready:
            self._time_due = time.monotonic()
        elif self._before is not None:
            server.due = time.monotonic() + _MOVED_WITHIN_S
        elif self._hang_timeout_s > 0:
            server.due = time.monotonic() + max(_STARTED_WITHIN_S, _STARTS_TIMES * self._hang_timeout_s)
        if self._is_ending:
            os.kill(server.pid, signal.SIGTERM)

    def _fork(self, *, is_successor: bool = False) -> _Process:
        """Fork a process that is to be the server. The signals that end it are held back there.

        Raises:
            _Became: In that process, if it is to go on with this program.
            OSError: The system refuses it.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                before = signal.pthread_sigmask(signal.SIG_BLOCK, (*TERMINATION, UPGRADE))
                try:
                    pid = os.fork()
                    if pid == 0:
                        self._be_server(ours, theirs, is_successor)
                finally:
                    if self._wakes >= 0:
                        signal.pthread_sigmask(signal.SIG_SETMASK, before)
                try:
                    return _Process(pid, ours, os.pidfd_open(pid))
                except OSError:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise
            except OSError:
                ours.close()
                raise

    def _be_server(self, ours: socket.socket, theirs: socket.socket, is_successor: bool) -> NoReturn:
        """Be the server, in a process that was just forked."""
        signal.set_wakeup_fd(-1)
        for number in (*TERMINATION, UPGRADE):
            if signal.getsignal(number) in (self._pass_on, self._note_upgrade):
                signal.signal(number, signal.SIG_DFL if number != UPGRADE else signal.SIG_IGN)
        ours.close()
        os.close(self._woken)
        os.close(self._wakes)
        # From here on this is no keeper.
        self._woken = self._wakes = -1
        if self._server is not None:
            self._server.close()
        way = theirs.dup()
        if is_successor or self._is_upgraded:
            counts = self._restarts + is_successor, self._upgrades + is_successor
            limits = self._limits if self._leaves_heirs else None
            left = self._holdings.leave(way.detach(), *counts)
            become(left, self._layouts, self._options, waits=is_successor, limits=limits)
        raise _Became(way)

    def _step(self) -> None:
        """Wait for something to happen, and do what is to be done then."""
        if self._time_due is not None and time.monotonic() >= self._time_due:
            self._time_due = time.monotonic() + _ASKED_FOR_TIME_EVERY_S
            self._manager.say(f"EXTEND_TIMEOUT_USEC={_TIME_ASKED_FOR_S}000000")
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
        # In this order: what they have said before their end counts.
        ended = [process for process in processes if process.has_ended()]
        for process in processes:
            for message in process.messages():
                if process is self._server:
                    self._hear(process, message)
                elif self._upgrade is not None and message.kind == ABLE:
                    if message.other:
                        self._upgrade.moves_to = unpack_layouts(message.number, len(self._layouts))
                    self._order_resignation(self._upgrade)
        if self._upgrade is not None:
            self._watch(self._upgrade, has_ended=self._upgrade.successor in ended)
        if self._server is not None and self._server in ended:
            self._server_has_ended(self._server)
        if self._wants_upgrade and self._server is not None and self._server.is_ready:
            self._wants_upgrade = False
            self._begin_upgrade()
        if self._server is not None:
            self._see_life(self._server)

    def _next_due(self) -> float | None:
        """When to look again though nothing happens."""
        dues = [
            self._server.due if self._server is not None else None,
            self._question_due if self._looks_for_life() else None,
            self._time_due,
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
                self._upgrade.put_off_lane(message)
        elif kind == READY:
            server.is_ready, server.due = True, None
            if self._before is not None:
                (before, self._layouts), self._before = self._before, None
                before.send_away(_MOVED)
            for _ in range(self._failures):
                send(server.way, NOT_UPGRADED)
            self._unanswered, self._question_due = 0, time.monotonic() + self._pause_s()
            if not self._was_ready:
                self._was_ready, self._time_due = True, None
                self._on_ready()
                self._manager.say("READY=1")
        elif kind == ALIVE:
            if number == self._question:
                self._unanswered = 0
                self._manager.say("WATCHDOG=1")
        elif kind == ENDED:
            server.has_ended_in_order = True
        elif kind == RESIGNED:
            if self._is_ending and self._manager.stores:
                server.kill()
                self._end(0)
            # If all is to end, the next one does so in order, which this one cannot any more.
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
        if (status == 0 and server.has_ended_in_order) or not self._was_ready or self._is_last:
            self._end(status)
        if self._is_ending:
            # It has died of something else than the order. The next one removes what it has left.
            self._is_last = True
        else:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            self._note_death(f"the server has died ({how})")
        if self._is_upgraded and not server.is_ready and (self._before is not None or self._is_fit()):
            # What lies on the disk does not even start: this program does.
            self._is_upgraded = False
            self._upgrades -= 1
            if self._before is not None:
                self._holdings.close()
                (self._holdings, _), self._before = self._before, None
            self._failures = min(self._failures + 1, _FAILURES_TOLD)
        self._begin_next()

    def _is_fit(self) -> bool:
        """Whether this program can go on with what is held."""
        return self._layouts == tuple(KEPT_LAYOUTS)

    def _note_death(self, words: str) -> None:
        """Say it, and give up if it was one too many."""
        self._deaths.append(time.monotonic())
        if len(self._deaths) < (self._deaths.maxlen or 0) or self._deaths[-1] - self._deaths[0] >= _DEATHS_WITHIN_S:
            _say(f"{words}: another one takes over what it had")
        elif self._is_upgraded and self._is_fit():
            _say(f"{words}, again and again since the upgrade: the program from before takes over what it had")
            self._is_upgraded = False
            self._deaths.clear()
        else:
            times = f"{self._deaths.maxlen} times within {_DEATHS_WITHIN_S:g} s"
            _say(f"the server has died {times}; {words}: giving up")
            self._end(1)

    def _begin_next(self) -> None:
        """Have another server in the place of the one that there was: the successor, if there is one that can."""
        upgrade, self._server = self._upgrade, None
        self._restarts += 1
        if upgrade is None:
            return
        if upgrade.moves and ENTRIES not in self._holdings.held:
            self._abandon(upgrade, "the server could not hand over its entries, which the new program needs")
            return
        if not upgrade.is_able or not send(upgrade.successor.way, GO):
            self._abandon(upgrade, "the server, or the new program, has died meanwhile")
            return
        if upgrade.moves_to is not None:
            self._holdings.forget_entries()
            self._before, self._holdings = (self._holdings, upgrade.moves_to), self._holdings.doors()
        self._upgrade, self._server = None, upgrade.successor
        self._upgrades += 1
        self._is_upgraded = True
        for message in upgrade.put_off:
            message.close()
        self._expect(self._server)

    def _begin_upgrade(self) -> None:
        """Have the program on the disk take over, unless it is about to, or all is to end."""
        if self._upgrade is not None or self._is_ending:
            return
        try:
            self._upgrade = _Upgrade(self._fork(is_successor=True))
        except OSError as error:
            _say(f"no upgrade: {error.strerror}")
            self._note_failure()

    def _order_resignation(self, upgrade: _Upgrade) -> None:
        """Have the server resign: its successor is able."""
        if upgrade.moves and self._manager.stores:
            self._abandon(upgrade, "the new program has other layouts, and what the service manager holds has not")
            return
        if upgrade.moves and not self._is_fit():
            self._abandon(upgrade, "the table has moved to another layout before, and this keeper could not go back")
            return
        upgrade.is_able = True
        upgrade.due = time.monotonic() + upgrade.resigned_within_s
        if self._server is not None:
            send(self._server.way, RESIGN, int(upgrade.moves))

    def _watch(self, upgrade: _Upgrade, *, has_ended: bool) -> None:
        """See that it gets on."""
        if has_ended:
            self._abandon(upgrade, "the new program has ended")
        elif upgrade.due is not None and time.monotonic() >= upgrade.due:
            if not upgrade.is_able:
                self._abandon(upgrade, "the new program takes too long to begin")
            elif self._server is not None:
                _say(f"the server has not resigned within {upgrade.resigned_within_s:g} s: killing it")
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
        self._note_failure()

    def _note_failure(self) -> None:
        self._failures = min(self._failures + 1, _FAILURES_TOLD)
        if self._server is not None and self._server.is_ready:
            send(self._server.way, NOT_UPGRADED)

    def _looks_for_life(self) -> bool:
        is_moving = self._upgrade is not None and self._upgrade.is_able and self._upgrade.moves
        return self._pause_s() > 0 and self._server is not None and self._server.is_ready and not is_moving

    def _pause_s(self) -> float:
        """Seconds between two questions; 0 if nobody asks."""
        limits_s = [limit_s for limit_s in (self._hang_timeout_s, self._manager.watchdog_s) if limit_s > 0]
        return min(limits_s, default=0.0) / _QUESTIONS_MAX

    def _see_life(self, server: _Process) -> None:
        """Ask the server for a sign of life if it is time for that, and kill it if there was none for too long."""
        if server.is_given_up:
            return
        if server.due is not None and time.monotonic() >= server.due:
            self._give_up(server, "the server does not come to serve")
        elif self._looks_for_life() and time.monotonic() >= self._question_due:
            self._question_due = time.monotonic() + self._pause_s()
            if self._hang_timeout_s > 0 and self._unanswered * self._pause_s() >= self._hang_timeout_s:
                self._give_up(server, f"the server has shown no life for {self._hang_timeout_s:g} s")
                return
            self._question += 1
            self._unanswered += 1
            send(server.way, SHOW_LIFE, self._question)

    @staticmethod
    def _give_up(server: _Process, why: str) -> None:
        server.is_given_up, server.due = True, None
        _say(f"{why}: killing it")
        os.kill(server.pid, signal.SIGKILL)

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


def serve_kept(kept: Kept, new_keeper: Callable[[], Keeper] | None, serve: Callable[[Kept], Estate | None]) -> None:
    """Serve, and be the next keeper whenever the one there is dies.

    Args:
        kept: What the first server of this process gets.
        new_keeper: Makes the keeper that this process is then; `None` if it is none.
        serve: Be a server until it ends, and return what it leaves to this process, if it has ended for that.
    """
    estate = serve(kept)
    while estate is not None and new_keeper is not None:
        keeper = new_keeper()
        keeper.take_over(estate)
        # It returns in the servers that it forks, and not in this process.
        estate = serve(keeper.keep())


def _say(words: str) -> None:
    """Say something on standard error, unless that would wait for somebody to read."""
    with suppress(OSError, ValueError):
        if has_room(sys.stderr):
            print(f"ringtable: {words}", file=sys.stderr, flush=True)
