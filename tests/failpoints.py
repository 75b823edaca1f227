"""Processes that die or stand still at a failpoint, and those that must not notice.

Failpoints are steps of the protocols (`crates/ringtable/src/failpoint.rs`), which a normal build does not have:
`scripts/failpoints.sh` makes one that does.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import ringtable
from ringtable import Table, _ringtable
from support import DEADLINE_S, Child, Closing, Flag, figures_of, freeze, mappings, memfds, state_of, wait_until

# Short, so that a client that keeps the others waiting does not do so for long.
SLOW_CONSUMER_S = 0.3
# A key whose values are each of one byte, many times: which of them it is, changes all the time.
SHARED = b"shared"
SHARED_SIZE = 5_000

# All points of this build: what each is called, and where a process stands that stops at it.
POINTS: dict[str, str] = dict(vars(_ringtable).get("failpoints", list)())


def arm(point: str, action: str | None, nth: int = 1) -> None:
    """Let this process do that when it passes a point for the `nth` time from now on."""
    vars(_ringtable)["arm_failpoint"](point, action, nth)


needs_failpoints = pytest.mark.skipif(
    not POINTS, reason="this build has no failpoints: `scripts/failpoints.sh` makes one, and runs these tests"
)


_WITHOUT_WAITING = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT


class Victim(Child):
    """A child that is to die, or to stand still, at a failpoint of its own."""

    _killed = False

    def is_done(self) -> bool:
        """Whether it was killed or stopped, or came to its end; without waiting."""
        return self._killed or os.waitid(os.P_PID, self.pid, _WITHOUT_WAITING) is not None

    def what_became_of_it(self, timeout: float = DEADLINE_S) -> str:
        """Wait until it was killed or stopped, or came to its end; return "kill", "stop" or "end"."""
        if self._killed:
            return "kill"
        wait_until(self.is_done, f"forbidden: process {self.pid} goes on for ever", timeout)
        found = os.waitid(os.P_PID, self.pid, _WITHOUT_WAITING)
        assert found is not None
        if found.si_code == os.CLD_EXITED:
            return "end"
        assert found.si_status in (signal.SIGKILL, signal.SIGSTOP), found
        if found.si_code != os.CLD_KILLED:
            return "stop"
        self._killed = True
        self._reap()
        return "kill"

    def fate(self) -> str:
        """Wait until it was killed or stopped at its point, and return which of the two.

        Raises:
            AssertionError: It came to its end instead: the point was not reached.
        """
        found = self.what_became_of_it()
        if found == "end":
            raise AssertionError(f"it came to its end, with {self.result()!r}: the failpoint was not reached")
        return found

    def go_on(self) -> None:
        """Let it go on that was stopped."""
        os.kill(self.pid, signal.SIGCONT)

    def was_reaped(self) -> bool:
        """Whether its end was waited for."""
        return self._reaped


class FailingServer:
    """A server "default" in a process of its own, whose points can be armed while it runs."""

    def __init__(self, *, armed: tuple[str, str] | None = None, **options: Any) -> None:
        self._orders, theirs = socket.socketpair()
        self._orders.settimeout(DEADLINE_S)
        self.process = Victim(_serve, options, armed, theirs)
        theirs.close()
        if armed is None:
            assert self._orders.recv(64) == b"ready"

    @property
    def pid(self) -> int:
        return self.process.pid

    def arm(self, point: str, action: str, nth: int = 1) -> None:
        """Let the server do that when it passes a point for the `nth` time from now on.

        It may have happened when this returns, or be about to.
        """
        self._orders.send(f"{point} {action} {nth}".encode())
        assert self._orders.recv(64) == b"arming"

    def begin_to_stop(self) -> None:
        """Tell the server to stop in good order."""
        self._orders.send(b"stop")

    def possessions(self) -> dict[str, int]:
        """What the kernel sees of what the server has for its clients."""
        return {
            "descriptors": len(list(Path(f"/proc/{self.pid}/fd").iterdir())),
            "lanes": len(mappings(self.pid, "ringtable-lane")) + len(memfds(self.pid, "ringtable-lane")),
            "watches": len(mappings(self.pid, "ringtable-watch")) + len(memfds(self.pid, "ringtable-watch")),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and not self.process.was_reaped():
            self.begin_to_stop()
            self.process.result()
        self.process.close()
        self._orders.close()
        if kind is not None:
            # A killed server cannot remove its socket, and the test has failed for another reason.
            for path in Path(os.environ["RINGTABLE_DIR"]).glob("*.sock"):
                path.unlink()


def _serve(options: dict[str, Any], armed: tuple[str, str] | None, orders: socket.socket) -> None:
    if armed is not None:
        arm(*armed)
    with ringtable.Server(**options) as server:
        orders.send(b"ready")
        while (order := orders.recv(256).decode()) not in ("stop", ""):
            point, action, nth = order.split()
            orders.send(b"arming")
            arm(point, action, int(nth))
        server.stop()


class Hold(Closing):
    """A server that stands still from before a client asks it something until the client sleeps over that.

    So it falls asleep for certain: nothing can come before.
    """

    def __init__(self, server: FailingServer) -> None:
        self._server, self._has_begun = server, Flag()

    def begin(self) -> None:
        """Stop the server; to be called by the client, which asks next."""
        freeze(self._server.pid)
        self._has_begun.set()

    def end(self, client: Victim) -> None:
        """Let the server go on as soon as the client sleeps, or has come to its point before that."""
        wait_until(lambda: self._has_begun.is_set() or client.has_ended(), "the client is about to ask")
        wait_until(lambda: state_of(client.pid) in "STZ", "the client sleeps")
        self._server.process.go_on()

    def close(self) -> None:
        self._has_begun.close()


RINGS = ("shared", "sharded")
OPTIONS: dict[str, Any] = {
    "workers": 2,
    "max_memory": "64MiB",
    # A client that does not spin sleeps at once, and so comes by the points on the way there.
    "spin_us": 0,
    "ring_slots": 64,
    "slow_consumer_timeout": SLOW_CONSUMER_S,
}


def server_of(topology: str, **options: Any) -> FailingServer:
    return FailingServer(**OPTIONS | {"topology": topology} | options)


# What has to be as it was once a client is gone.
FREED = [
    "hazard_records", "clients", "holds", "lanes", "leases", "entries_retired", "memory_drafts", "memory_retired",
    "memory_unfinished_requests", "memory_waiting_requests", "ring_members", "ring_slots_claimed",
    "ring_slots_published", "ring_slots_quarantined", "watchers",
]  # fmt: skip


def figures(server: FailingServer, table: Table) -> dict[str, int]:
    """What the server has for its clients, by its own account and by the kernel's."""
    stats = figures_of(table)
    return {name: stats[name] for name in FREED} | server.possessions()


def wait_until_all_is_free(server: FailingServer, table: Table, before: dict[str, int]) -> None:
    """Wait until the server has as much for its clients as it had before."""

    def kept() -> dict[str, tuple[int, int]]:
        now = figures(server, table)
        return {name: (count, now[name]) for name, count in before.items() if now[name] != count}

    deadline = time.monotonic() + DEADLINE_S / 2
    while kept():
        assert time.monotonic() < deadline, f"forbidden: not freed (what there was, what there is): {kept()}"
        time.sleep(0.005)


class Checker:
    """An independent client at work: no call of it may fail, be answered wrongly, or take longer than it may.

    If it does not outlive the server, nobody asks.
    """

    def __init__(self, table: Table, longest_s: float, *, outlives: bool = True) -> None:
        self._table, self._longest_s, self._outlives = table, longest_s, outlives
        table[SHARED] = bytes(SHARED_SIZE)
        self._finish = Flag()
        self._child = Child(_check, self._finish)
        wait_until(lambda: self._rounds() > 0, "the checker is at work")

    def _rounds(self) -> int:
        return int(self._table.get(b"checker rounds", b"0"))

    def keeps_on(self, rounds: int = 20) -> None:
        """Wait until it has done that much more."""
        goal = self._rounds() + rounds
        wait_until(lambda: self._rounds() >= goal, "the checker keeps on")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish.set()
        with self._child, self._finish:
            if not self._outlives:
                return
            longest_s = self._child.result()
        assert longest_s < self._longest_s, f"forbidden: a call of the checker took {longest_s:.3f} s"


def _check(finish: Flag) -> float:
    """Work until told to finish, and return the longest time that a call has taken, in seconds."""
    longest_s, rounds = 0.0, 0
    with Table() as table, Table(transport="socket") as plain, Table(reads="server") as asking:
        while not finish.is_set():
            rounds += 1
            # The second one gets the memory that a value of the first one leaves behind, and the other way round.
            shared, other = bytes([rounds % 256]) * SHARED_SIZE, os.urandom(SHARED_SIZE)
            for name, client in (b"table", table), (b"plain", plain), (b"asking", asking):
                key, value = b"checker " + name, b"%d " % rounds * 20
                calls: list[tuple[Callable[..., object], tuple[Any, ...], object]] = [
                    (client.set, (key, value), True),
                    (client.get, (key,), value),
                    (client.incr, (key + b" count",), rounds),
                    (client.get_many, ([key, b"missing"],), [value, None]),
                    (client.delete, (key,), 1),
                    (client.set, (SHARED, shared), True),
                    (client.get, (SHARED,), shared),
                    (client.set, (key + b" other", other), True),
                    (client.get, (key + b" other",), other),
                ]
                for call, arguments, expected in calls:
                    start = time.monotonic()
                    found = call(*arguments)
                    longest_s = max(longest_s, time.monotonic() - start)
                    assert found == expected, f"forbidden: {call} returned {found!r:.100}, not {expected!r:.100}"
            table.incr("checker rounds")
    return longest_s


def check_whole(value: bytes) -> None:
    """Make sure that this is one of the values that `SHARED` ever had."""
    assert value == value[:1] * SHARED_SIZE, f"forbidden: a torn value: {value[:50]!r} to {value[-50:]!r}"
